"""Every run beside the tuned baseline's of the same workload and seed; what cannot be compared, by name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from .arms import Baseline
from .results import Cell, Finished, Outcome, Results
from .statistics import capped, time_to_target

BASELINE = Baseline().name
"""The arm that the others are compared with, at budget 1."""
LEAST = 1e-9
"""Losses below this part of the initial one count as this: a ratio of zeros says nothing."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What a run reached, over what the tuned baseline reached with the same seed and budget 1.

    Args:
        cell: the run.
        final: test loss of the final state, at most the initial one, over the baseline's final one.
        best: the same of the two states whose selection losses were least.
        initial: the initial test loss over the baseline's final one: what a failure counts as.
        destroyed: the run ended with NaN, no better than it began, or in an error.
        failed: in an error.
        time: to target, over the baseline's; infinite when the run never got there, NaN when the baseline
            did not.
        spent: over the steps of a run of the baseline; NaN after an error.
        overspent: steps spent beyond what was allowed.
    """

    cell: Cell
    final: float
    best: float
    initial: float
    destroyed: bool
    failed: bool
    time: float
    spent: float
    overspent: float


@dataclass(frozen=True, slots=True)
class Gap:
    """A run that is not in the scores, and why."""

    cell: Cell
    reason: str


def paired(results: Results) -> tuple[list[Pair], list[Gap]]:
    """All runs that can be compared, in their order, and those that cannot."""
    baselines = {
        (item.cell.workload, item.cell.seed): item
        for item in results.cells
        if item.cell.arm == BASELINE and item.cell.budget == 1.0
    }
    pairs: list[Pair] = []
    gaps: list[Gap] = []
    for item in results.cells:
        found = _pair(item, baselines.get((item.cell.workload, item.cell.seed)), results)
        if isinstance(found, Gap):
            gaps.append(found)
        else:
            pairs.append(found)
    return pairs, gaps + [Gap(cell, "not run") for cell in _not_run(results)]


def numbers(results: Results) -> dict[str, int]:
    """Of the arms, by which every report colours them: 0 is the baseline, then as they come."""
    names = dict.fromkeys((BASELINE, *(item.cell.arm for item in results.cells)))
    return {arm: i for i, arm in enumerate(names)}


def kept(loss: float, initial: float) -> float:
    """A loss that ratios are made of: at most the initial one, and not 0."""
    found = capped(loss, initial)
    return max(found, LEAST * initial) if found >= 0 else found


def _pair(item: Finished, baseline: Finished | None, results: Results) -> Pair | Gap:
    cell, outcome = item.cell, item.outcome
    if baseline is None:
        return Gap(cell, "the baseline of its seed was not run")
    if baseline.outcome is None:
        return Gap(cell, "the baseline of its seed ended in an error")
    reference = baseline.outcome
    initial = reference.initial if outcome is None else outcome.initial  # a seed begins at the same weights
    final, best = (math.nan, math.nan) if outcome is None else (outcome.final, outcome.best)
    losses = [kept(final, initial), kept(best, initial)]
    base = [kept(reference.final, reference.initial), kept(reference.best, reference.initial)]
    if not (all(0 < start < math.inf for start in (initial, reference.initial)) and min(losses + base) > 0):
        return Gap(cell, "a loss is negative, or the initial one is not finite and positive")
    ratios = losses[0] / base[0], losses[1] / base[1], initial / base[0]
    if not all(0 < ratio < math.inf for ratio in ratios):
        return Gap(cell, "a loss is beyond what a ratio of them can hold")
    return Pair(
        cell=cell,
        final=ratios[0],
        best=ratios[1],
        initial=ratios[2],
        destroyed=not final < initial,
        failed=outcome is None,
        time=_time(outcome, reference, results.targets[cell.workload]),
        spent=math.nan if outcome is None else outcome.spent / results.steps[cell.workload],
        overspent=0.0 if outcome is None else max(0.0, round(outcome.spent - outcome.allowed, 6)),
    )


def _time(outcome: Outcome | None, reference: Outcome, target: float) -> float:
    theirs = _reached(reference, target)
    if theirs == math.inf:
        return math.nan
    return (math.inf if outcome is None else _reached(outcome, target)) / max(1.0, theirs)


def _reached(outcome: Outcome, target: float) -> float:
    looks = outcome.looks
    return time_to_target([look.spent for look in looks], [look.selection for look in looks], target)


def _not_run(results: Results) -> Iterator[Cell]:
    """The cells that are missing from the grid of all that was run of an arm at a budget."""
    there = {item.cell for item in results.cells}
    rates: dict[tuple[str, float], dict[float | None, None]] = {}
    for cell in there:
        rates.setdefault((cell.arm, cell.budget), {})[cell.factor] = None
    seeds = sorted({cell.seed for cell in there})
    for (arm, budget), factors in sorted(rates.items()):
        for workload, factor, seed in itertools.product(results.steps, factors, seeds):
            if (cell := Cell(workload, arm, factor, budget, seed)) not in there:
                yield cell
