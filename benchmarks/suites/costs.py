"""What the searches for the baselines cost, and what they found for it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .results import Config, Method, Results, Trial

NEAR = 1.01
"""A search has found the best there is when it is within 1 % of it."""


@dataclass(frozen=True, slots=True)
class Search:
    """One search for the baseline of a workload.

    Args:
        workload: its name.
        method: how.
        trials: how many, pruned ones included.
        pruned: how many were stopped early.
        best: what it found.
        loss: its selection loss over the least that any method found.
        runs: steps of all trials, evaluations included, over those of a run of the baseline.
        runs_to_near: the same up to the first trial within 1 % of the least loss that any method found;
            infinite when there is none.
    """

    workload: str
    method: Method
    trials: int
    pruned: int
    best: Config
    loss: float
    runs: float
    runs_to_near: float


def searches(results: Results) -> list[Search]:
    """All of them, by workload and method."""
    found = []
    for workload, methods in results.searches.items():
        bests = {method: _best(trials) for method, trials in methods.items() if trials}
        least = min((t.loss for t in bests.values() if math.isfinite(t.loss)), default=math.nan)
        for method, best in bests.items():
            trials = methods[method]
            near = next((i for i, t in enumerate(trials, 1) if not t.pruned and t.loss <= NEAR * least), None)
            found.append(
                Search(
                    workload=workload,
                    method=method,
                    trials=len(trials),
                    pruned=sum(trial.pruned for trial in trials),
                    best=best.config,
                    loss=best.loss / max(least, sys.float_info.min),
                    runs=_spent(trials) / results.steps[workload],
                    runs_to_near=_spent(trials[:near]) / results.steps[workload] if near else math.inf,
                )
            )
    return found


def _best(trials: Sequence[Trial]) -> Trial:
    whole = [trial for trial in trials if not trial.pruned]
    return min(whole or trials, key=lambda trial: (math.isnan(trial.loss), trial.loss, trial.config.rate))


def _spent(trials: Sequence[Trial]) -> float:
    return sum(trial.spent for trial in trials)
