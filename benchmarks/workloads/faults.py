"""Rescue cases: workloads in which something goes wrong, each with its healthy twin.

What happened to others in runs of months is rebuilt in runs of seconds: the mechanism is theirs, the size is
not. Evaluations are clean; a fault is met only by training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..suites.workload import Training, Workload
from .corruption import Corrupted, Creeping, Fault, Quiet, Weighted
from .digits_mlp import DigitsMLP
from .language import LanguageTransformer
from .wrapped import Beta2, HalfPrecision, Numbered


@dataclass(frozen=True, slots=True)
class Recipe:
    """What people did, with hindsight: back to an earlier state, on with later batches.

    Args:
        restart: batches that the state which they went back to had met.
        noticed: batches that had been met when they did so; it goes on with the next one.
        rate: factor for the rate from there on.
        beta2: from there on; None: as it was.
    """

    restart: int
    noticed: int
    rate: float = 1.0
    beta2: float | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """What a case takes over from the workload that it is made of.

    Args:
        base: that workload.
    """

    base: Workload

    @property
    def steps(self) -> int:
        """See `Workload.steps`."""
        return self.base.steps

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`."""
        return self.base.epoch

    @property
    def rate(self) -> float:
        """See `Workload.rate`."""
        return self.base.rate

    @property
    def target(self) -> float:
        """See `Workload.target`."""
        return self.base.target


@dataclass(frozen=True, slots=True)
class Uneven(Case):
    """Gradients that are a hundred times smaller in nine batches of ten.

    Args:
        base: trained by AdamW.
        beta2: of it.
    """

    beta2: float

    @property
    def name(self) -> str:
        """`digits-mlp-adamw-uneven-beta2-0.95`."""
        return f"{self.base.name}-uneven-beta2-{self.beta2:g}"

    @property
    def target(self) -> float:
        """See `Workload.target`: twice that of even gradients."""
        return 2 * self.base.target

    def begin(self, seed: int, device: torch.device) -> Training:
        """See `Workload.begin`."""
        return Numbered(Beta2(self.base.begin(seed, device), self.beta2), Quiet(50, 5, 0.01), seed)


@dataclass(frozen=True, slots=True)
class Half(Case):
    """Gradients in float16, with a GradScaler."""

    @property
    def name(self) -> str:
        """`digits-mlp-adamw-half`."""
        return f"{self.base.name}-half"

    def begin(self, seed: int, device: torch.device) -> Training:
        """See `Workload.begin`."""
        return HalfPrecision(self.base.begin(seed, device), device)


@dataclass(frozen=True, slots=True)
class Faulty(Case):
    """A workload in which something goes wrong.

    Args:
        base: what is trained.
        name: see `Workload`.
        healthy: where all is well; its tuned baseline is what this one is compared with.
        fault: what becomes of the batches; None: nothing, the fault is in `base`.
        recipes: what people did, in order.
    """

    name: str
    healthy: Workload
    fault: Fault | None
    recipes: tuple[Recipe, ...]

    def begin(self, seed: int, device: torch.device) -> Numbered:
        """See `Workload.begin`."""
        fault = self.fault or (lambda batch, number, random: Weighted(batch))
        return Numbered(self.base.begin(seed, device), fault, seed, self.recipes)


def _faulty(name: str, healthy: Workload, fault: Fault, *recipes: Recipe) -> Faulty:
    return Faulty(healthy, name, healthy, fault, recipes)


_SGD = DigitsMLP("sgd", rate=0.03, steps=1000, target=0.18)
_ADAMW = DigitsMLP("adamw", rate=1e-3, steps=1000, target=0.15)
_TRANSFORMER = LanguageTransformer(rate=3e-3, steps=250, target=2.6)

SPIKE = _faulty("spike-single", _SGD, Corrupted((500,), 1, scale=100.0), Recipe(490, 520))
"""One batch with wrong labels and inputs 100 times too large."""

BURST = _faulty("spike-burst", _ADAMW, Corrupted((500,), 20, scale=30.0), Recipe(490, 530))
"""Twenty batches in a row with wrong labels and inputs 30 times too large."""

OPT = _faulty("opt-175b", _SGD, Creeping(300, 1000, 30.0), Recipe(500, 620, 1 / 3), Recipe(680, 750, 1 / 3))
"""Slow divergence: gradients grow until the rate is too high; people lowered it and went back.

Source: Zhang et al. 2022 (OPT), section 2.5 and the logbook of OPT-175B: when the loss diverged, the rate was
lowered and training restarted from an earlier checkpoint.
"""

PALM = _faulty(
    "palm",
    _TRANSFORMER,
    Corrupted((90, 130, 190), 2, weight=30.0),
    *(Recipe(start - 10, start + 10) for start in (90, 130, 190)),
)
"""Spikes at irregular intervals; the second moments of Adam remember them.

Source: Chowdhery et al. 2022 (PaLM), section 5.1: back to a checkpoint 100 steps before the spike, 200 to 500
batches skipped.
"""

BLOOM = _faulty("bloom", _TRANSFORMER, Corrupted((100,), 2, weight=100.0), Recipe(90, 120))
"""One spike; the loss comes down again, but not to where it was, and stays there.

Source: BigScience's chronicles of the 104B model before BLOOM (`train/tr8-104B-wide/chronicles.md`,
experiment 1): back to the last good checkpoint, and on with other data. There the next spike came soon.
"""

IDEFICS = _faulty(
    "idefics",
    _ADAMW,
    Corrupted((300, 500, 700, 900), 10, scale=30.0),
    *(Recipe(start - 10, start + 20, 0.7) for start in (300, 500, 700, 900)),
)
"""Spike after spike; each time back by some hundred steps, on with other data at a lower rate.

Source: Laurençon et al. 2023 (IDEFICS) and the second memo of its logs (`huggingface/m4-logs`).
"""

BETA2 = Faulty(Uneven(_ADAMW, 0.999), "beta2", Uneven(_ADAMW, 0.95), None, (Recipe(0, 100, beta2=0.95),))
"""After quiet batches Adam's second moment is too small for a loud one: the updates overshoot.

Source: Wortsman et al. 2023 (arXiv:2304.13013), section 3; BigScience's chronicles of the 104B model,
experiment 4: back by some thousand steps, and beta2 from 0.999 to 0.95, which was not enough there.
"""

LOSS_SCALE = _faulty("loss-scale", Half(_ADAMW), Corrupted((60,), 40, weight=math.inf), Recipe(50, 110))
"""Infinite gradients halve the loss scale until float16 holds none of the finite ones any more.

Source: the logbook of OPT-175B, where the loss scale crashed to zero before restarts.
"""

FAULTS: tuple[Faulty, ...] = (SPIKE, BURST, OPT, PALM, BLOOM, IDEFICS, BETA2, LOSS_SCALE)
