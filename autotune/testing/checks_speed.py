"""How long a policy takes: a check in processor time, against a reference beside it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..records import Observation, Signal, SnapshotInfo
from .scenarios import EVERY, STEPS, MakePlant, MakePolicy
from .simulation import Plant, Simulation
from .subject import Violation, subject

POINTS = 20_000  # in a history
SLOW_MS = 2.0  # on a machine that runs `_reference` in a millisecond


def fast(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """`decide` takes some 2 ms at the most, with histories of 20,000 points.

    Measured in processor time of this thread, each call against a reference beside it, so that neither a slow
    machine nor a busy one counts.
    """
    for what, make_plant in list(subject(make, plant).lively.items())[:1]:
        policy, values = make(), _values(make_plant())
        states = {parameter.name: parameter.state() for parameter in make_plant().hyperparameters}
        ratios = []
        for at in range(POINTS, POINTS + 15 * EVERY, EVERY):
            snapshots = [SnapshotInfo(at - 100 * k, at - 100 * k) for k in range(6, 0, -1)]
            observation = Observation(at, at, 2 * POINTS, states, _long(values, at), snapshots, (), 20)
            reference = min(_seconds(_reference) for _ in range(3))
            with contextlib.suppress(Exception):  # `runs` says what is wrong
                ratios.append(_seconds(partial(policy.decide, observation)) / reference)
        if ratios and float(np.median(ratios)) > SLOW_MS:
            raise Violation(
                f"decide takes at most some {SLOW_MS:g} ms",
                f"{np.median(ratios):.1f} times what a loop of about a millisecond takes, with histories of "
                f"{POINTS} points, in {what}",
                "Look at a window of the newest values, and only when there are new ones.",
            )


def _values(plant: Plant) -> Mapping[str, NDArray[np.float64]]:
    """What the signals of a run are, one after the other."""
    simulation = Simulation(plant, budget=STEPS).run()
    return {name: np.array([value for _, _, value in rows]) for name, rows in simulation.values.items()}


def _long(values: Mapping[str, NDArray[np.float64]], at: int) -> Mapping[str, Signal]:
    """Histories as they would be at step `at` if the run had gone round and round, every step measured."""
    steps = np.arange(at - POINTS + 1, at + 1)
    return {name: Signal(steps, steps, some[steps % len(some)]) for name, some in values.items()}


def _reference() -> None:
    """What takes about a millisecond."""
    total = 0
    for i in range(40_000):
        total += i


def _seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start
