"""Proofs of the policies that act on gradients: clipping, the update ratio, the noise scale."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from autotune import AutoTuner
from autotune.actuators import gradient_accumulation, learning_rate
from autotune.policies.gradient_clipping import GradientClipping
from autotune.policies.noise_scale import NoiseScale
from autotune.policies.update_ratio import UpdateRatio
from autotune.records import Policy
from autotune.testing import Plant, Task, TrainingPlant

from ..digits import load
from .digits import train_digits
from .proof import BUDGET, Plants, Proof, Real, Settings, rates

# --- clipping ----------------------------------------------------------------------------------------------


def poisoned(seed: int) -> TrainingPlant:
    """One batch in 100 has a gradient that is 100 times too large, at any rate."""
    return TrainingPlant(Task.random(seed, poison=0.01))


def clips(plant: Plant) -> list[Settings]:
    """None, and fixed norms to clip at, relative to the first gradient."""
    assert isinstance(plant, TrainingPlant)
    first = TrainingPlant(plant.task, poison=0.0).step(0)["gradient_norm"]
    return [
        {},
        *({"gradient_clip": float(np.clip(f * first, 1e-4, 1e4))} for f in (0.01, 0.03, 0.1, 0.3, 1, 3)),
    ]


def digits_with_bursts(seed: int, policies: Sequence[Policy], settings: Settings) -> float:
    """Three bursts of corrupted batches, SGD."""
    bursts = [*range(150, 155), *range(300, 305), *range(450, 455)]
    return train_digits(seed, policies, settings, optimizer="sgd", rate=0.05, poisoned=bursts)


# --- update ratio ------------------------------------------------------------------------------------------


def off_by_orders(seed: int) -> TrainingPlant:
    """The rate is 100 to 10,000 times too low or too high."""
    rng = np.random.default_rng((seed, 4))
    factor = 10 ** (rng.choice([-1, 1]) * rng.uniform(2, 4))
    task = Task.random(seed, overfit=0.0, poison=0.0)
    return TrainingPlant(task, rate=float(factor) * task.usual_rate)


def usual_rates(plant: Plant) -> list[Settings]:
    """Rates that are not off by orders."""
    assert isinstance(plant, TrainingPlant)
    return rates(plant)


def digits_off_by_orders(seed: int, policies: Sequence[Policy], settings: Settings) -> float:
    """AdamW from a rate 100 times too low (even seeds) or too high (odd ones)."""
    return train_digits(seed, policies, settings, rate=1e-1 if seed % 2 else 1e-5)


# --- noise scale -------------------------------------------------------------------------------------------


def noisy(seed: int) -> TrainingPlant:
    """A rate that would be right without noise, and as much noise as signal in the first batch."""
    task = Task.random(seed, overfit=0.0, poison=0.0, noise=1.0)
    return TrainingPlant(task, rate=task.usual_rate)


MICRO_BATCH, EXAMPLES = 8, 24_000
"""Examples in a micro-batch; examples that a run may cost, however many steps they make."""


def digits_by_examples(seed: int, policies: Sequence[Policy], settings: Settings) -> float:
    """A small MLP, 20 % wrong labels; starts with 2 accumulated micro-batches, its rate is right for 8."""
    data = load(seed)
    torch.manual_seed(seed)
    inputs, labels = data.train.tensors
    wrong = torch.rand(len(labels)) < 0.2
    labels = torch.where(wrong, torch.randint(10, labels.shape), labels)
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(TensorDataset(inputs, labels), MICRO_BATCH, shuffle=True, generator=order)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.15, momentum=0.9)
    accumulation = gradient_accumulation(2, low=2, high=64)
    if "gradient_accumulation" in settings:
        accumulation.write(int(settings["gradient_accumulation"]))
    with (
        tempfile.TemporaryDirectory() as folder,
        AutoTuner(
            model,
            optimizer,
            hyperparameters=[learning_rate(optimizer), accumulation],
            policies=policies,
            folder=Path(folder) / "run",
            mlflow=False,
        ) as tuner,
    ):
        gathered = 0
        batches = (batch for _ in repeat(None) for batch in tuner.batches(loader))
        for x, y in islice(batches, EXAMPLES // MICRO_BATCH):
            loss = cross_entropy(model(x), y)
            loss.backward()
            gathered += 1
            tuner.report(loss=loss)
            if gathered >= accumulation():
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        parameter.grad /= gathered
                optimizer.step()
                optimizer.zero_grad()
                gathered = 0
    with torch.no_grad():
        return cross_entropy(model(data.test[0]), data.test[1]).item()


PROOFS: Sequence[Proof] = (
    Proof(
        name="GradientClipping",
        make=lambda: [GradientClipping()],
        plants=Plants(poisoned),
        fixed=clips,
        real=Real(
            "digits, SGD, three bursts of corrupted batches",
            digits_with_bursts,
            [{"gradient_clip": norm} for norm in (0.3, 1.0, 3.0, 10.0)],
        ),
    ),
    Proof(
        name="UpdateRatio",
        make=lambda: [UpdateRatio()],
        plants=Plants(off_by_orders),
        fixed=usual_rates,
        real=Real(
            "digits, AdamW, rate 100 times too low or too high",
            digits_off_by_orders,
            [{"lr": rate} for rate in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)],
        ),
        note="The band is wide on purpose: it ends a run that would have been for nothing, it does not tune.",
    ),
    Proof(
        name="NoiseScale",
        make=lambda: [NoiseScale("batch_size", "gradient_noise_scale/examples")],
        plants=Plants(noisy, cost=BUDGET),
        fixed=lambda plant: [{"batch_size": size} for size in (32, 64, 128, 256, 512)],
        real=Real(
            "digits with 20 % wrong labels, accumulation, equal examples",
            lambda seed, policies, settings: digits_by_examples(
                seed,
                [NoiseScale("gradient_accumulation", "gradient_noise_scale")] if policies else (),
                settings,
            ),
            [{"gradient_accumulation": n} for n in (2, 4, 8, 16, 32)],
        ),
        note="Every arm sees as many examples, so a larger batch takes fewer steps.",
    ),
)
