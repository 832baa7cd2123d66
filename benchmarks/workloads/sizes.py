"""The workloads in their sizes: seconds on a core, minutes on a GPU.

Each target of `CPU` is 1.05 times the selection loss, the median of two seeds, of the best of three schedules
(constant, cosine, warm-up–stable–decay) at the best of rates half a decade apart. Those of `GPU` are only
estimates: no search was made for them yet.
"""

from __future__ import annotations

from dataclasses import replace

from ..suites.workload import Workload
from .autoencoder import DigitsVAE
from .digits_mlp import DigitsMLP
from .digits_vit import DigitsViT
from .fine_tuning import FineTuneDigits
from .language import LanguageTransformer
from .modular import ModularAddition
from .recurrent import LanguageLSTM
from .teacher_student import TeacherStudent
from .vision import Cifar

CPU: tuple[Workload, ...] = (
    DigitsMLP(optimizer="sgd", rate=0.1, target=0.12),
    DigitsMLP(optimizer="adamw"),
    DigitsMLP(optimizer="adamw", wrong_labels=0.4, target=0.71),
    TeacherStudent(),
    Cifar(model="cnn"),
    LanguageTransformer(source="tinyshakespeare", target=2.57),
    LanguageLSTM(source="stdlib"),
    ModularAddition(),
    FineTuneDigits(),
    DigitsVAE(),
)  # fmt: skip
"""At most three seconds a run, on one core, and of many kinds."""

WIDE: tuple[Workload, ...] = (
    DigitsViT(),
    Cifar(model="resnet", width=16, stages=2, reduction=4, target=1.57),
    LanguageTransformer(source="stdlib"),
    LanguageTransformer(source="wikitext2", target=2.42),
)
"""The rest of that size."""

GPU: tuple[Workload, ...] = (
    Cifar(
        model="resnet", optimizer="sgd", rate=0.1, width=64, depth=2, stages=4, reduction=1, batch=512,
        images=50_000, probe=1024, held_out=4096, augmented=True, fast=True, steps=1500, target=0.35,
    ),
    Cifar(
        model="vit", optimizer="adamw", rate=1e-3, width=384, depth=6, reduction=4, batch=512,
        images=50_000, probe=1024, held_out=4096, augmented=True, fast=True, steps=2000, target=0.9,
    ),
    LanguageTransformer(
        source="tinyshakespeare", width=384, layers=6, length=256, batch=64, probe=128, held_out=192,
        dropout=0.2, fast=True, rate=1e-3, steps=2000, target=1.55,
    ),
    LanguageTransformer(
        source="wikitext2", width=512, layers=8, length=256, batch=64, probe=128, held_out=256,
        dropout=0.1, fast=True, rate=1e-3, steps=2000, target=1.4,
    ),
    LanguageLSTM(
        source="stdlib", width=1024, layers=2, length=128, batch=64, probe=32, held_out=64,
        fast=True, rate=1e-3, steps=2000, target=1.6,
    ),
)  # fmt: skip
"""Networks of 10 to 25 million parameters, in bfloat16, all but the LSTM compiled."""


def tiny(workload: Workload) -> Workload:
    """One of `GPU` in a size that a core trains in a moment, in the same precision and compiled as well."""
    match workload:
        case Cifar():
            small = 8 if workload.model == "vit" else 4
            return replace(
                workload, width=16, depth=1, stages=2, reduction=small, batch=8, images=64, probe=16,
                held_out=32, steps=6,
            )  # fmt: skip
        case LanguageTransformer() | LanguageLSTM():
            return replace(workload, width=16, layers=1, length=16, batch=4, probe=4, held_out=8, steps=6)
    return workload
