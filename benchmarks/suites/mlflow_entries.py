"""What MLflow is told of a suite's results: a run for the suite, each arm, each workload and each cell."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .mlflow_entry import RATE, SUITE, TAG, Curve, Entry, at, finite
from .pairs import BASELINE, Pair, kept, numbers, paired
from .results import Cell, Finished, Outcome, Results
from .run import LOOKS
from .scores import ALL, Row, silent, summary
from .statistics import capped
from .svg import color


def entries(results: Results, rows: Sequence[Row] | None = None) -> list[Entry]:
    """All runs, parents first.

    Args:
        results: of a suite.
        rows: `scores.summary` of them, which takes its time; None: it is worked out.
    """
    pairs, gaps = paired(results)
    rows = summary(results) if rows is None else rows
    left_out = silent(rows)
    counted = {pair.cell: pair for pair in pairs if pair.cell.workload not in left_out}
    scores = {pair.cell: pair for pair in pairs}
    reasons = {gap.cell: gap.reason for gap in gaps}
    suite = Entry(
        "suite",
        SUITE,
        SUITE,
        tags={"command": results.command, **results.versions},
        metrics=finite(
            {
                "cells": len(results.cells),
                "planned": results.planned,
                "errors": sum(item.outcome is None for item in results.cells),
                "not comparable": len(gaps),
            }
        ),
    )
    workloads = [_workload(results, name, rows) for name in results.steps]
    arms = list(dict.fromkeys(item.cell.arm for item in results.cells))
    colors = {arm: color(number) for arm, number in numbers(results).items()}
    return [
        suite,
        *(_arm(arm, rows, _progress(results, counted, arm), colors[arm]) for arm in arms),
        *workloads,
        *(
            _cell(item, scores.get(item.cell), reasons.get(item.cell, ""), colors[item.cell.arm])
            for item in results.cells
        ),
    ]


def _arm(arm: str, rows: Sequence[Row], progress: Mapping[float, Curve], color: str) -> Entry:
    """An arm over all workloads: its figures, and two curves a budget."""
    factors = sorted({factor for row in rows for factor in row.rates})
    metrics: dict[str, float | Curve] = {}
    for row in rows:
        if (row.workload, row.arm) == (ALL, arm):
            suffix = at(row.budget)
            values = [row.rates.get(factor, row.final.median) for factor in factors]
            metrics |= {name + suffix: value for name, value in _figures(row).items()}
            metrics["score by rate" + suffix] = list(enumerate(values))
            metrics[RATE + suffix] = [(i, math.log10(factor)) for i, factor in enumerate(factors)]
            metrics["progress by percent" + suffix] = progress.get(row.budget, [])
    return Entry("arm", f"arm {arm}", arm, SUITE, {"arm": arm}, finite(metrics), color=color)


def _workload(results: Results, name: str, rows: Sequence[Row]) -> Entry:
    metrics = {
        f"{figure}{at(row.budget)}/{row.arm}": value
        for row in rows
        if row.workload == name
        for figure, value in _figures(row).items()
    }
    tags = {"steps": str(results.steps[name]), "target": f"{results.targets[name]:g}"}
    if tuned := results.tuned.get(name):
        tags |= {
            "tuned rate": f"{tuned.rate:g}",
            "tuned schedule": tuned.schedule,
            "tuned weight decay": "usual" if tuned.weight_decay is None else f"{tuned.weight_decay:g}",
        }
    return Entry("workload", _parent(name), name, metrics=finite(metrics), tags=tags)


def _figures(row: Row) -> dict[str, float]:
    return {
        "median score": row.final.median,
        "median score - low": row.final.low,
        "median score - high": row.final.high,
        "worst score": row.final.worst,
        "median score of best state": row.best.median,
        "share destroyed": row.destroyed,
        "share harmed": row.harmed,
        "time to target": row.time,
        "share that reached target": row.reached,
        "sensitivity": row.sensitivity,
        "spent": row.spent,
    }


def _cell(item: Finished, pair: Pair | None, reason: str, color: str) -> Entry:
    cell, outcome = item.cell, item.outcome
    params = {
        "workload": cell.workload,
        "arm": cell.arm,
        "budget": f"{cell.budget:g}",
        "seed": str(cell.seed),
    }
    tags = {"not comparable": reason} if reason else {}
    if item.error:
        tags["error"] = item.error[:TAG]
    metrics: dict[str, float | Curve] = {}
    rate = "" if cell.factor is None else f" ×{cell.factor:g}"
    if cell.factor is not None:
        params["factor"] = f"{cell.factor:g}"
        metrics[RATE] = math.log10(cell.factor)
    if pair is not None:
        metrics |= {"score": pair.final, "log10 score": math.log10(pair.final), "time to target": pair.time}
        metrics["score of best state"] = pair.best
    if outcome is not None:
        for name in ("initial", "final", "best", "spent", "steps", "seconds"):
            metrics[name] = float(getattr(outcome, name))
        metrics["selection capped"] = [
            (round(look.spent), capped(look.selection, outcome.initial_selection)) for look in outcome.looks
        ]
        metrics["lr"] = [(round(look.spent), look.rate) for look in outcome.looks]
    return Entry(
        "cell",
        cell.key,
        f"{cell.arm}{rate}, {cell.workload}, {cell.budget:g}, {cell.seed}",
        _parent(cell.workload),
        params,
        finite(metrics),
        tags,
        outcome is None,
        color,
        0.0 if outcome is None else outcome.seconds,
    )


def _progress(results: Results, scores: Mapping[Cell, Pair], arm: str) -> dict[float, Curve]:
    """By budget: the median selection loss over the baseline's final one, by percent of the budget spent."""
    baselines = {
        (item.cell.workload, item.cell.seed): item.outcome
        for item in results.cells
        if item.outcome and item.cell.arm == BASELINE and item.cell.budget == 1.0
    }
    ratios: dict[float, list[list[float]]] = {}
    for item in results.cells:
        if item.cell.arm == arm and item.cell in scores:
            baseline = baselines[item.cell.workload, item.cell.seed]
            base = kept(baseline.selection, baseline.initial_selection)
            if not 0 < base < math.inf:
                continue
            losses = [baseline.initial_selection] * (LOOKS + 1)  # of a run that ended in an error
            if item.outcome:
                losses = list(_losses(item.outcome))
            ratios.setdefault(item.cell.budget, []).append([loss / base for loss in losses])
    return {
        budget: [(round(100 * i / LOOKS), float(value)) for i, value in enumerate(np.median(runs, axis=0))]
        for budget, runs in ratios.items()
    }


def _losses(outcome: Outcome) -> Iterator[float]:
    """Selection losses when each 25th of the budget was spent, at most the initial one."""
    spent = [look.spent for look in outcome.looks]
    losses = [look.selection for look in outcome.looks] or [outcome.initial_selection]
    for i in range(LOOKS + 1):
        seen = bisect.bisect_right(spent, i * outcome.allowed / LOOKS + 1) - 1
        yield capped(losses[max(0, seen)], outcome.initial_selection)


def _parent(workload: str) -> str:
    return f"workload {workload}"
