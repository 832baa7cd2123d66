"""Schedules, and early stopping: peers that a user sets, and a policy on runs that over-fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from autotune.policies import schedules
from autotune.policies.early_stopping import EarlyStopping
from autotune.policies.schedule import Schedule
from autotune.records import Policy
from autotune.testing import Plant, Task, TrainingPlant

from .digits import train_digits
from .proof import RATES, Plants, Proof, Real, Settings, rates

RATE = 0.1  # of SGD on digits
SCHEDULED = (
    "Set by the user, not by what it sees: it gains where the gradient's noise keeps a constant rate from "
    "settling, and loses where the loss is still falling when it lowers the rate."
)


def near(task: Task, seed: int) -> Task:
    """The task at a rate within half an order of magnitude of one that is about right."""
    off = np.random.default_rng((seed, 4)).uniform(-0.5, 0.5)
    return replace(task, rate=float(task.usual_rate * 10**off))


def _rates(plant: Plant) -> Sequence[Settings]:
    assert isinstance(plant, TrainingPlant)
    return rates(plant)


def _plant(seed: int) -> TrainingPlant:
    return TrainingPlant(near(Task.random(seed, poison=0.0, overfit=0.0), seed))


def _digits(seed: int, policies: Sequence[Policy], settings: Settings) -> float:
    return train_digits(seed, policies, settings, optimizer="sgd", rate=RATE)


def _scheduled(name: str, make: Callable[[], Sequence[Schedule]]) -> Proof:
    return Proof(
        name=name,
        make=make,
        plants=Plants(_plant),
        fixed=_rates,
        real=Real("digits MLP, SGD", _digits, [{"lr": RATE * rate} for rate in RATES]),
        peer=True,
        note=SCHEDULED,
    )


class Overfitting(TrainingPlant):
    """What is learned first generalises, what is learned last does not, as in real training.

    The weights start away from the truth in the directions of high curvature, where data say most, and the
    error of estimation lies in those of low curvature, so that the validation loss falls and then rises.

    Args:
        task: its `overfit` is how far it rises.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        away = self._state.weights - self._optimum
        away = away * self._h
        self._state.weights = self._truth + away / np.sqrt(0.5 * self._h @ away**2)


def overfitting(seed: int) -> Overfitting:
    """The plant of a seed: a validation loss that rises by 0.03 to 3 times its start."""
    overfit = float(10 ** np.random.default_rng((seed, 5)).uniform(-1.5, 0.5))
    return Overfitting(near(Task.random(seed, poison=0.0, overfit=overfit), seed))


def _few_examples(seed: int, policies: Sequence[Policy], settings: Settings) -> float:
    return train_digits(seed, policies, settings, steps=400, examples=200, wrong_labels=0.3)


PROOFS: Sequence[Proof] = (
    _scheduled("schedules.linear", lambda: (schedules.linear(),)),
    _scheduled("schedules.cosine", lambda: (schedules.cosine(),)),
    _scheduled("schedules.step", lambda: (schedules.step(),)),
    _scheduled("schedules.inverse_sqrt", lambda: (schedules.inverse_sqrt(100, start=0.1),)),
    _scheduled("schedules.wsd", lambda: (schedules.wsd(),)),
    _scheduled("schedules.one_cycle", schedules.one_cycle),
    _scheduled("schedules.cyclical", lambda: (schedules.cyclical(),)),
    Proof(
        name="EarlyStopping",
        make=lambda: (EarlyStopping(),),
        plants=Plants(overfitting),
        fixed=_rates,
        real=Real(
            "digits MLP, 200 examples, 30 % wrong labels",
            _few_examples,
            [{"lr": 1e-3 * rate} for rate in RATES],
        ),
        note="It spends less than the budget; the score is the loss of the state that it ends in.",
    ),
)
