"""Proofs of the laws that reason about capacity, and of those that find out by short runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.policies.capacity import CapacityAdvisor
from autotune.policies.disciplined import DisciplinedAdvice
from autotune.policies.generalization_gap import GeneralizationGap
from autotune.policies.range_test import RangeTest
from autotune.records import Action, Observation, Policy, Suggest
from autotune.testing import Task, TrainingPlant

from .digits import train_digits
from .proof import BUDGET, Plants, Proof, Real, Settings, rates

TARGET = 0.1


class Followed:
    """A policy whose suggestions are applied as they come: what its advice is worth."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.name, self.requires, self.controls = policy.name, policy.requires, policy.controls

    def decide(self, observation: Observation) -> Sequence[Action]:
        """The changes that are suggested; advice in words is dropped."""
        advice = self._policy.decide(observation)
        return [a.action for a in advice if isinstance(a, Suggest) and a.action is not None]

    def state_dict(self) -> dict[str, Any]:
        """The policy's."""
        return self._policy.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The policy's."""
        self._policy.load_state_dict(state)


def over_fitting_plant(seed: int) -> TrainingPlant:
    """The validation loss ends 0.05 to 1 above the floor; the rate is 0.1 to 1 times a usual one."""
    rng = np.random.default_rng((seed, 5))
    overfit, off = float(10 ** rng.uniform(-1.3, 0)), 10 ** rng.uniform(-1, 0)
    task = Task.random(seed, poison=0.0, overfit=overfit)
    return TrainingPlant(task, rate=off * task.usual_rate)


def over_regularized_plant(seed: int) -> TrainingPlant:
    """The same with far too much decay (rate × decay × steps is 10 to 100), dropout (0.3 to 0.7), or both."""
    plant = over_fitting_plant(seed)
    rng = np.random.default_rng((seed, 6))
    kind = rng.integers(3)
    if kind != 1:
        _set_decay(plant, 10 ** rng.uniform(1, 2))
    if kind != 0:
        plant.dropout = float(rng.uniform(0.3, 0.7))
    return plant


def badly_set_plant(seed: int) -> TrainingPlant:
    """One in four each: rate too low, rate too high, over-fitting, too much decay or dropout."""
    rng = np.random.default_rng((seed, 8))
    kind = seed % 4
    low, high = ((-2.5, -1.0), (0.5, 1.5), (-0.5, 0.0), (-0.5, 0.0))[kind]
    overfit = float(10 ** rng.uniform(-1, 0)) if kind == 2 else 0.0
    task = Task.random(seed, poison=0.0, floor=TARGET / 2, overfit=overfit)
    plant = TrainingPlant(task, rate=task.usual_rate * 10 ** rng.uniform(low, high))
    if kind == 3 and rng.random() < 0.5:
        _set_decay(plant, 10 ** rng.uniform(1, 2))
    elif kind == 3:
        plant.dropout = float(rng.uniform(0.3, 0.7))
    return plant


def wrong_rate_plant(seed: int) -> TrainingPlant:
    """The rate is 1e-3 to 1e3 times one that is about right."""
    task = Task.random(seed, poison=0.0)
    off = 10 ** np.random.default_rng((seed, 77)).uniform(-3, 3)
    return TrainingPlant(task, rate=off * task.usual_rate)


def _set_decay(plant: TrainingPlant, shrinkage: float) -> None:
    plant.weight_decay = _decay(plant, shrinkage)


def _decay(plant: TrainingPlant, shrinkage: float) -> float:
    """The decay whose product with rate and steps is `shrinkage`, within its bounds."""
    (high,) = (p.state().high for p in plant.hyperparameters if p.name == "weight_decay")
    return min(shrinkage / (plant.task.rate * BUDGET), float(high or 0.0))


def regularizations(plant: TrainingPlant) -> list[Settings]:
    """Decays and dropouts to pick the best pair from."""
    decays = [_decay(plant, shrinkage) for shrinkage in (0.0, 1.0, 3.0, 10.0)]
    return [{"weight_decay": d, "dropout": p} for d in decays for p in (0.0, 0.1, 0.3)]


def rates_and_regularizations(plant: TrainingPlant) -> list[Settings]:
    """Either of the two."""
    return [*rates(plant), *regularizations(plant)]


def few_digits(seed: int, policies: Sequence[Policy], settings: Settings) -> float:
    """100 digits to learn from, without regularisation worth the name."""
    return train_digits(seed, policies, settings, examples=100, batch=32)


def closely_watched_digits(seed: int, policies: Sequence[Policy], settings: Settings) -> float:
    """The same, evaluated every 12 steps."""
    often = {"evaluate_every": 12}
    return train_digits(seed, policies, settings, examples=100, batch=32, tuner_arguments=often)


def stifled_digits(seed: int, policies: Sequence[Policy], settings: Settings) -> float:
    """1,000 digits, a dropout of 0.8 and a decay of 10."""
    return train_digits(seed, policies, {"dropout": 0.8, "weight_decay": 10.0, **settings})


def wrong_rate_digits(seed: int, policies: Sequence[Policy], settings: Settings) -> float:
    """1,000 digits at a rate 100 times too low (even seeds) or too high (odd ones)."""
    return train_digits(seed, policies, settings, rate=1e-1 if seed % 2 else 1e-5)


DIGIT_RATES: Sequence[Settings] = [{"lr": r} for r in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)]
FEW = Real(
    "digits MLP, 100 examples",
    few_digits,
    [{}, *({"weight_decay": d, "dropout": p} for d in (0.01, 1.0, 3.0) for p in (0.0, 0.3, 0.5))],
)
CLOSELY = Real("digits MLP, 100 examples, 50 evaluations", closely_watched_digits, FEW.fixed)
STIFLED = Real(
    "digits MLP, dropout 0.8 and decay 10",
    stifled_digits,
    [{"weight_decay": d, "dropout": p} for d in (0.01, 1.0, 10.0) for p in (0.0, 0.3, 0.8)],
)

WRONG_RATE = Real("digits MLP, rate off by 100", wrong_rate_digits, DIGIT_RATES)

PROOFS: Sequence[Proof] = (
    Proof(
        "GeneralizationGap, over-fitting",
        lambda: [GeneralizationGap()],
        Plants(over_fitting_plant),
        regularizations,
        FEW,
        note="The best fixed setting is there from the first step; the policy has to see the gap first.",
    ),
    Proof(
        "GeneralizationGap, too much regularisation",
        lambda: [GeneralizationGap()],
        Plants(over_regularized_plant),
        regularizations,
        STIFLED,
        note="By factors of 2 and steps of 0.1, so a run may end before all of it is gone.",
    ),
    Proof(
        "CapacityAdvisor, followed",
        lambda: [Followed(CapacityAdvisor(TARGET))],
        Plants(badly_set_plant),
        rates_and_regularizations,
        WRONG_RATE,
        peer=True,
        note="It only advises; here each suggestion is applied as it comes, good or bad.",
    ),
    Proof(
        "RangeTest",
        lambda: [RangeTest()],
        Plants(wrong_rate_plant),
        rates,
        WRONG_RATE,
        peer=True,
        note="A test on demand. It costs its steps, 9 % of the budget, where the rate was right, too.",
    ),
    Proof(
        "DisciplinedAdvice, acting",
        lambda: [DisciplinedAdvice(act=True)],
        Plants(over_fitting_plant),
        regularizations,
        CLOSELY,
        peer=True,
        note="It advises on demand. Its short runs cost half of such a budget, which is counted here.",
    ),
)
