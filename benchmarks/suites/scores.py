"""What the runs of a suite say: a row an arm, workload and budget, and one over all workloads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .pairs import BASELINE, Pair, paired
from .results import Results
from .statistics import holm, median_interval, sensitivity, wilcoxon_below

ALL = "all workloads"
MOST = 0.5
"""A workload on which more of the baseline's own runs than this were destroyed says nothing of the arms."""
HARM = 1.01
"""A score above it is harm to a run that began at the tuned rate."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Losses of an arm over the tuned baseline's, paired by workload and seed: below 1 is better.

    What is independent of each other: the seeds of one workload, and of several only the workloads. All runs
    of such a unit are drawn together for the interval, and give one mean log for the test.

    Args:
        median: over all runs.
        low: of its bootstrap interval at 95 %; NaN for a single unit.
        high: of the same.
        worst: the largest.
        p_better: of Wilcoxon's one-sided test that the arm is better than the baseline; corrected by Holm
            over all arms of the table and both directions. NaN for the baseline, which is compared with
            itself.
        p_worse: the same that it is worse.

    Source: Demšar (2006), section 3.1.3, for a workload as the unit of a comparison over several.
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
        sensitivity: to the initial rate, in baseline losses: the median over those workloads and seeds that
            were run from all rates; 0 for an arm that ignores it, NaN for one that has a single rate.
        spent: mean steps, evaluations included, over those of a run of the baseline; NaN after errors alone.
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


def summary(results: Results) -> list[Row]:
    """All rows: the workloads in their order, `ALL` last; in each, budgets, and arms in their order.

    An arm none of whose runs can be compared has no row; `pairs.paired` names them. `ALL` is without the
    workloads that say nothing: see `silent`.
    """
    pairs, gaps = paired(results)
    arms = list(dict.fromkeys(item.cell.arm for item in results.cells))
    budgets = sorted({item.cell.budget for item in results.cells})
    rows: list[Row] = []
    for workload in (*results.steps, ALL):
        within = {workload} if workload != ALL else results.steps.keys() - set(silent(rows))
        for budget in budgets:
            inside = [p for p in pairs if p.cell.workload in within and p.cell.budget == budget]
            table = {arm: found for arm in arms if (found := [p for p in inside if p.cell.arm == arm])}
            missing = [
                gap.cell.arm for gap in gaps if gap.cell.workload in within and gap.cell.budget == budget
            ]
            unit = _workload if len(within) > 1 else _seed
            p = {state: _tested(table, budget, state, unit) for state in ("final", "best")}
            rows += [
                _row(
                    workload,
                    arm,
                    budget,
                    found,
                    missing.count(arm),
                    _scores(found, "final", unit, p["final"][arm]),
                    _scores(found, "best", unit, p["best"][arm]),
                )
                for arm, found in table.items()
            ]
    return rows


def silent(rows: Sequence[Row]) -> dict[str, float]:
    """Workloads that say nothing, since their baseline failed itself: the share of it that was destroyed."""
    return {
        row.workload: row.destroyed
        for row in rows
        if (row.arm, row.budget) == (BASELINE, 1.0) and row.workload != ALL and row.destroyed > MOST
    }


def _workload(pair: Pair) -> str:
    return pair.cell.workload


def _seed(pair: Pair) -> int:
    return pair.cell.seed


def _tested(
    table: Mapping[str, Sequence[Pair]], budget: float, state: str, unit: Callable[[Pair], object]
) -> dict[str, tuple[float, float]]:
    """By arm: Holm's p that it is better than the baseline, and that it is worse."""
    p: dict[str, float] = {}
    for arm, pairs in table.items():
        if (arm, budget) != (BASELINE, 1.0):
            units: dict[object, list[float]] = {}
            for pair in pairs:
                units.setdefault(unit(pair), []).append(getattr(pair, state))
            means = np.array([math.exp(np.mean(np.log(values))) for values in units.values()])
            means = means.clip(1e-300, 1e300)  # so that their inverses are numbers as well
            p[f"< {arm}"], p[f"> {arm}"] = wilcoxon_below(means), wilcoxon_below(1 / means)
    corrected = holm(p)
    return {arm: (corrected.get(f"< {arm}", math.nan), corrected.get(f"> {arm}", math.nan)) for arm in table}


def _scores(
    pairs: Sequence[Pair], state: str, unit: Callable[[Pair], object], p: tuple[float, float]
) -> Scores:
    values = [getattr(pair, state) for pair in pairs]
    median, low, high = median_interval(values, [unit(pair) for pair in pairs])
    return Scores(median, low, high, max(values), *p)


def _row(
    workload: str,
    arm: str,
    budget: float,
    pairs: Sequence[Pair],
    missing: int,
    final: Scores,
    best: Scores,
) -> Row:
    factors = sorted({pair.cell.factor for pair in pairs if pair.cell.factor is not None})
    tuned_rate = [pair.final > HARM for pair in pairs if pair.cell.factor in (None, 1.0)]
    times = [pair.time for pair in pairs if not math.isnan(pair.time)]
    spent = [pair.spent for pair in pairs if not pair.failed]
    return Row(
        workload=workload,
        arm=arm,
        budget=budget,
        cells=len(pairs),
        missing=missing,
        errors=sum(pair.failed for pair in pairs),
        final=final,
        best=best,
        rates={f: float(np.median([p.final for p in pairs if p.cell.factor == f])) for f in factors},
        destroyed=float(np.mean([pair.destroyed for pair in pairs])),
        harmed=float(np.mean(tuned_rate)) if tuned_rate else math.nan,
        time=float(np.median(times)) if times else math.nan,
        reached=float(np.mean(np.isfinite(times))) if times else math.nan,
        sensitivity=_sensitivity(pairs, len(factors)),
        spent=float(np.mean(spent)) if spent else math.nan,
    )


def _sensitivity(pairs: Sequence[Pair], rates: int) -> float:
    """Of what was run from all `rates`: from fewer it would seem less."""
    if rates == 0:
        return 0.0
    units: dict[tuple[str, int], list[Pair]] = {}
    for pair in pairs:
        units.setdefault((pair.cell.workload, pair.cell.seed), []).append(pair)
    whole = [unit for unit in units.values() if len(unit) == rates > 1]
    found = [sensitivity([pair.final for pair in unit], unit[0].initial) for unit in whole]
    return float(np.median(found)) if found else math.nan
