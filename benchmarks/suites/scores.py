"""What the runs of a suite say: a row an arm, workload and budget, and one over all workloads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .pairs import BASELINE, Pair, paired
from .results import Results
from .statistics import holm, median_interval, sensitivity, wilcoxon_less

ALL = "all workloads"
HARM = 1.01
"""A score above it is harm to a run that began at the tuned rate."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Losses of an arm over the tuned baseline's, paired by workload and seed: below 1 is better.

    Args:
        median: over all runs.
        low: of its bootstrap interval at 95 %, in which a seed's rates are drawn together.
        high: of the same.
        worst: the largest.
        p_better: of Wilcoxon's one-sided test on the logs, averaged over the rates of a seed, that the arm is
            better than the baseline; corrected by Holm over all arms of the table and both directions. NaN
            for the baseline, which is compared with itself.
        p_worse: the same that it is worse.
    """

    median: float
    low: float
    high: float
    worst: float
    p_better: float
    p_worse: float


@dataclass(frozen=True, slots=True)
class Row:
    """An arm on a workload, or on all of them, at a budget.

    Args:
        workload: its name, or `ALL`.
        arm: its name.
        budget: total steps over the baseline's.
        cells: runs in the scores.
        missing: runs that cannot be compared: not run, or without a baseline.
        errors: runs that ended in an error; they are in the scores, as failures.
        final: of the final states.
        best: of the states whose selection losses were least, the baseline's too.
        rates: median final score by initial rate over the tuned one; empty for an arm that ignores it.
        destroyed: share of runs that ended with NaN, no better than they began, or in an error.
        harmed: share of runs from the tuned rate that ended more than 1 % worse than the baseline; NaN
            where there are none.
        time: median time to target over the baseline's; infinite when most never got there, NaN when the
            baseline did not.
        reached: share of the runs that got to the target, of those whose baseline did; NaN where none did.
        sensitivity: to the initial rate, in baseline losses: the median over workloads and seeds; 0 for an
            arm that ignores it.
        spent: mean steps, evaluations included, over those of a run of the baseline; NaN after errors alone.
        most: the largest.
    """

    workload: str
    arm: str
    budget: float
    cells: int
    missing: int
    errors: int
    final: Scores
    best: Scores
    rates: Mapping[float, float]
    destroyed: float
    harmed: float
    time: float
    reached: float
    sensitivity: float
    spent: float
    most: float


def summary(results: Results) -> list[Row]:
    """All rows: the workloads in their order, `ALL` last; in each, budgets, and arms in their order.

    An arm none of whose runs can be compared has no row; `pairs.paired` names them.
    """
    pairs, gaps = paired(results)
    arms = list(dict.fromkeys(item.cell.arm for item in results.cells))
    budgets = sorted({item.cell.budget for item in results.cells})
    rows: list[Row] = []
    for workload in (*results.steps, ALL):
        for budget in budgets:
            inside = [p for p in pairs if workload in (ALL, p.cell.workload) and p.cell.budget == budget]
            table = {arm: found for arm in arms if (found := [p for p in inside if p.cell.arm == arm])}
            missing = [
                gap.cell.arm
                for gap in gaps
                if workload in (ALL, gap.cell.workload) and gap.cell.budget == budget
            ]
            final, best = _tested(table, budget, "final"), _tested(table, budget, "best")
            rows += [
                _row(workload, arm, budget, found, missing.count(arm), final[arm], best[arm])
                for arm, found in table.items()
            ]
    return rows


def _tested(table: Mapping[str, Sequence[Pair]], budget: float, state: str) -> dict[str, tuple[float, float]]:
    """By arm: Holm's p that it is better than the baseline, and that it is worse."""
    p: dict[str, float] = {}
    for arm, pairs in table.items():
        if (arm, budget) != (BASELINE, 1.0):
            means = [math.exp(np.mean(logs)) for logs in _by_unit(pairs, state).values()]
            ones = np.ones(len(means))
            p[f"< {arm}"], p[f"> {arm}"] = wilcoxon_less(means, ones), wilcoxon_less(ones, means)
    corrected = holm(p)
    return {arm: (corrected.get(f"< {arm}", math.nan), corrected.get(f"> {arm}", math.nan)) for arm in table}


def _by_unit(pairs: Sequence[Pair], state: str) -> dict[tuple[str, int], list[float]]:
    logs: dict[tuple[str, int], list[float]] = {}
    for pair in pairs:
        logs.setdefault(pair.unit, []).append(math.log(getattr(pair, state)))
    return logs


def _row(
    workload: str,
    arm: str,
    budget: float,
    pairs: Sequence[Pair],
    missing: int,
    final: tuple[float, float],
    best: tuple[float, float],
) -> Row:
    factors = sorted({pair.cell.factor for pair in pairs if pair.cell.factor is not None})
    tuned_rate = [pair.final > HARM for pair in pairs if pair.cell.factor in (None, 1.0)]
    times = [pair.time for pair in pairs if not math.isnan(pair.time)]
    spent = [pair.spent for pair in pairs if not pair.failed]
    units = {pair.unit: pair.initial for pair in pairs}
    return Row(
        workload=workload,
        arm=arm,
        budget=budget,
        cells=len(pairs),
        missing=missing,
        errors=sum(pair.failed for pair in pairs),
        final=_scores([pair.final for pair in pairs], pairs, final),
        best=_scores([pair.best for pair in pairs], pairs, best),
        rates={f: float(np.median([p.final for p in pairs if p.cell.factor == f])) for f in factors},
        destroyed=float(np.mean([pair.destroyed for pair in pairs])),
        harmed=float(np.mean(tuned_rate)) if tuned_rate else math.nan,
        time=float(np.median(times)) if times else math.nan,
        reached=float(np.mean(np.isfinite(times))) if times else math.nan,
        sensitivity=float(
            np.median(
                [
                    sensitivity([pair.final for pair in pairs if pair.unit == unit], initial)
                    for unit, initial in units.items()
                ]
            )
        ),
        spent=float(np.mean(spent)) if spent else math.nan,
        most=max(spent, default=math.nan),
    )


def _scores(values: Sequence[float], pairs: Sequence[Pair], p: tuple[float, float]) -> Scores:
    median, low, high = median_interval(values, [pair.unit for pair in pairs])
    return Scores(median, low, high, max(values), *p)
