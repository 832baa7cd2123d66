"""How a policy is proved: on simulated plants, on healthy ones, and on one real workload."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.records import Policy, Value
from autotune.testing import Plant, Simulation, Task, TrainingPlant

BUDGET = 1000
Settings = Mapping[str, Value]
"""Hyperparameters that are set before the first step, and stay."""


@dataclass(frozen=True, slots=True)
class Plants:
    """Simulated runs: what they are, and how the end of one is scored.

    Args:
        make: the plant of a seed, where there is something to gain.
        score: the lower, the better; of the plant at its end, without noise.
        budget: steps.
        cost: run every arm until the plant has cost this much instead, for policies that change what a step
            costs; None: `budget` steps.
        healthy: the plant of a seed on which nothing is wrong; None: `healthy_plant`.
    """

    make: Callable[[int], Plant]
    score: Callable[[Any], float] = lambda plant: float(plant.evaluate()["validation/loss"])
    budget: int = BUDGET
    cost: float | None = None
    healthy: Callable[[int], Plant] | None = None

    def run(self, plant: Plant, policies: Sequence[Policy], settings: Settings) -> float:
        """The score at the end of a run; infinity for NaN."""
        for parameter in plant.hyperparameters:
            if parameter.name in settings:
                parameter.write(settings[parameter.name])
        if policies:
            simulation = Simulation(plant, policies, budget=self.budget if self.cost is None else None)
            simulation.run(cost=np.inf if self.cost is None else self.cost)
        else:  # the same, at half the time: what decides nothing needs no tuner
            batch = 0
            while batch < self.budget if self.cost is None else plant.cost < self.cost:
                plant.step(batch)
                batch += 1
        return _capped(self.score(plant))


@dataclass(frozen=True, slots=True)
class Real:
    """A real training run, small enough for a core.

    Args:
        name: what is trained.
        run: (seed, policies, settings) to the score at the end, the lower the better; settings are those
            of a fixed arm, set before the first step. Pairs have one seed: the same data and the same start.
        fixed: what the best fixed setting is picked from.
        seeds: how many.
    """

    name: str
    run: Callable[[int, Sequence[Policy], Settings], float]
    fixed: Sequence[Settings]
    seeds: int = 5


@dataclass(frozen=True, slots=True)
class Proof:
    """A policy and what it is compared with.

    Args:
        name: as in the table.
        make: fresh policies: the policy, alone unless it cannot be.
        plants: simulated runs.
        fixed: what the best fixed setting is picked from, for one plant, beside the plant's own.
        real: the real workload.
        peer: for comparison only: it need not beat doing nothing.
        note: what the reader of the table has to know.
    """

    name: str
    make: Callable[[], Sequence[Policy]]
    plants: Plants
    fixed: Callable[[Any], Sequence[Settings]]
    real: Real
    peer: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Scores:
    """One run of each arm, by seed."""

    nothing: list[float]
    policy: list[float]
    fixed: list[float]

    def against(self, arm: Sequence[float]) -> NDArray[np.float64]:
        """The policy's score over that of an arm, seed by seed; 1 where both are infinite."""
        mine, other = np.array(self.policy), np.array(arm)
        with np.errstate(invalid="ignore"):
            ratio = mine / other
        return np.where(np.isinf(mine) & np.isinf(other), 1.0, ratio)


def on_plants(proof: Proof, seeds: Sequence[int]) -> Scores:
    """The policy, nothing, and the best fixed setting in hindsight, on the plants of these seeds."""
    scores, plants = Scores([], [], []), proof.plants
    for seed in seeds:
        scores.nothing.append(plants.run(plants.make(seed), (), {}))
        scores.policy.append(plants.run(plants.make(seed), proof.make(), {}))
        settings = proof.fixed(plants.make(seed))
        best = min(plants.run(plants.make(seed), (), s) for s in settings)
        scores.fixed.append(min(best, scores.nothing[-1]))
    return scores


def on_healthy(proof: Proof, seeds: Sequence[int]) -> NDArray[np.float64]:
    """The policy's score over that of nothing, on plants on which nothing is wrong."""
    plants, scores = proof.plants, Scores([], [], [])
    make = plants.healthy or healthy_plant
    for seed in seeds:
        scores.nothing.append(plants.run(make(seed), (), {}))
        scores.policy.append(plants.run(make(seed), proof.make(), {}))
    return scores.against(scores.nothing)


def on_real(proof: Proof) -> Scores:
    """As `on_plants`, on the real workload; the best fixed setting is the best by its median over seeds."""
    scores, real = Scores([], [], []), proof.real
    fixed: list[list[float]] = [[] for _ in real.fixed]
    for seed in range(real.seeds):
        scores.nothing.append(_capped(real.run(seed, (), {})))
        scores.policy.append(_capped(real.run(seed, proof.make(), {})))
        for scored, settings in zip(fixed, real.fixed, strict=True):
            scored.append(_capped(real.run(seed, (), settings)))
    scores.fixed.extend(min([scores.nothing, *fixed], key=statistics.median))
    return scores


def _capped(score: float) -> float:
    """NaN is a failure like infinity: it must not drop out of a median."""
    return score if np.isfinite(score) else np.inf


RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Rates that the best one of a plant is picked from, relative to one that is about right."""


def rates(plant: TrainingPlant) -> list[Settings]:
    """Learning rates to pick the best fixed one from."""
    return [{"lr": r * plant.task.usual_rate} for r in RATES]


@functools.cache
def healthy_task(seed: int) -> Task:
    """A random task at its best rate of the grid, by the validation loss after `BUDGET` steps."""
    task = Task.random(seed, poison=0.0, overfit=0.0)
    plants = Plants(lambda _: TrainingPlant(task))
    best = min(rates(TrainingPlant(task)), key=lambda s: plants.run(TrainingPlant(task), (), s))
    return replace(task, rate=float(best["lr"]))


def healthy_plant(seed: int) -> TrainingPlant:
    """The plant of `healthy_task`."""
    return TrainingPlant(healthy_task(seed))
