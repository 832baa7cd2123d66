"""Proofs of the laws that move the learning rate by what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from autotune.policies.divergence_guard import DivergenceGuard
from autotune.policies.greedy import GreedyLR
from autotune.policies.hypergradient import Hypergradient
from autotune.policies.plateau import Plateau
from autotune.policies.reduce_on_plateau import ReduceOnPlateau
from autotune.records import Policy
from autotune.testing import Plant, Task, TrainingPlant

from .digits import train_digits
from .proof import Plants, Proof, Real, Settings, rates


def broken_plant(seed: int) -> TrainingPlant:
    """What breaks: a burst of poisoned batches, single ones now and then, or a rate that is far too high.

    The bursts have 5 to 50 batches and begin after 100 to 700; one batch in 200 is poisoned at random; the
    rate is 10 to 1,000 times one that is about right. One plant in three each.
    """
    rng = np.random.default_rng((seed, 4))
    what = ("burst", "poison", "rate")[rng.integers(3)]
    first, length, factor = int(rng.integers(100, 700)), int(rng.integers(5, 51)), 10 ** rng.uniform(1, 3)
    task = Task.random(seed, poison=0.005 if what == "poison" else 0.0)
    return TrainingPlant(
        task,
        rate=task.usual_rate * (factor if what == "rate" else 1.0),
        burst=(first, first + length) if what == "burst" else (0, 0),
    )


def rate_off(seed: int, low: float, high: float, **fixed: Any) -> TrainingPlant:
    """A random plant whose rate is 10^low to 10^high times one that is about right."""
    task = Task.random(seed, overfit=0.0, poison=0.0, **fixed)
    off = np.random.default_rng((seed, 4)).uniform(low, high)
    return TrainingPlant(task, rate=task.usual_rate * 10**off)


def own_and_rates(plant: Plant) -> list[Settings]:
    """The rate that the plant starts with, and those of `rates`."""
    assert isinstance(plant, TrainingPlant)
    return [{}, *rates(plant)]


def digits(at: Sequence[float], **fixed: Any) -> Real:
    """Digits, against each of the rates `at`."""
    arguments = ", ".join(f"{name}={value}" for name, value in fixed.items())

    def run(seed: int, policies: Sequence[Policy], settings: Settings) -> float:
        return train_digits(seed, policies, settings, **fixed)

    return Real(f"digits ({arguments})", run, [{"lr": rate} for rate in at])


def peer(make: Callable[[], Policy], plants: Plants, real: Real, note: str) -> Proof:
    """A policy for comparison only."""
    return Proof(make().name, lambda: [make()], plants, own_and_rates, real, peer=True, note=note)


LOW_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
HIGH_RATES = (0.01, 0.03, 0.1, 0.3)
NOISY = Plants(partial(rate_off, low=0.0, high=0.5, noise=1.0))
"""Noise decides what is reached, at a rate that is right or up to 3 times too high."""
NOISY_DIGITS = digits(HIGH_RATES, optimizer="sgd", rate=0.1, wrong_labels=0.3, width=16)

PROOFS: Sequence[Proof] = (
    Proof(
        "divergence_guard",
        lambda: [DivergenceGuard()],
        Plants(broken_plant),
        own_and_rates,
        digits(LOW_RATES, rate=0.1, poisoned=range(300, 330)),
    ),
    Proof("plateau", lambda: [Plateau()], NOISY, own_and_rates, NOISY_DIGITS),
    peer(
        lambda: ReduceOnPlateau(patience=3),
        NOISY,
        NOISY_DIGITS,
        "patience 3 of 25 evaluations; torch's default of 10 hardly ever acts in such runs",
    ),
    peer(
        GreedyLR,
        NOISY,
        NOISY_DIGITS,
        "lowers the rate under noise, too early in some healthy runs; from far below it does not help",
    ),
    peer(
        Hypergradient,
        Plants(partial(rate_off, low=-3.0, high=0.0)),
        digits(LOW_RATES, rate=1e-5),
        "helps from below only: the rates start up to 1,000 times too low; it lowers healthy ones too early",
    ),
)
