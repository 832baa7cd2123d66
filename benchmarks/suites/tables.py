"""The tables of a report, as plain text; Markdown and the page draw the same ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .costs import searches
from .formats import factor, number, p_value, share
from .pairs import BASELINE, Gap, Pair
from .results import Config, Results
from .scores import Row, Scores


@dataclass(frozen=True, slots=True)
class Table:
    """Text in columns; the first one is words, the others figures unless `words` says otherwise."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    """How many columns, from the left, are words."""


def scores(rows: Sequence[Row]) -> Table:
    """Final states: of one workload and budget."""
    rates = _rates(rows)
    columns = ("arm", "median", "95 % interval", "worst", "p", *map(factor, rates), "destroyed")
    return Table(
        columns,
        tuple(
            (row.arm, *_scores(row.final), *(_at(row, rate) for rate in rates), share(row.destroyed))
            for row in ordered(rows)
        ),
    )


def details(rows: Sequence[Row]) -> Table:
    """Best states, harm, sensitivity, time and cost: of one workload and budget."""
    return Table(
        (
            "arm",
            "best state",
            "95 % interval",
            "worst",
            "p",
            "harmed",
            "sensitivity",
            "time",
            "reached",
            "cost",
            "runs",
            "errors",
            "missing",
        ),
        tuple(
            (
                row.arm,
                *_scores(row.best),
                share(row.harmed),
                number(row.sensitivity),
                number(row.time),
                share(row.reached),
                number(row.spent),
                str(row.cells),
                str(row.errors),
                str(row.missing),
            )
            for row in ordered(rows)
        ),
    )


def workload(rows: Sequence[Row]) -> Table:
    """One workload at all budgets, in short."""
    rates = _rates(rows)
    return Table(
        (
            "arm",
            "budget",
            "median",
            "95 % interval",
            "worst",
            *map(factor, rates),
            "best state",
            "destroyed",
            "time",
        ),
        tuple(
            (
                row.arm,
                f"{row.budget:g}",
                *_scores(row.final)[:3],
                *(_at(row, rate) for rate in rates),
                number(row.best.median),
                share(row.destroyed),
                number(row.time),
            )
            for budget in sorted({row.budget for row in rows})
            for row in ordered([row for row in rows if row.budget == budget])
        ),
    )


def baselines(results: Results) -> Table:
    """What every arm is compared with, and what finding it cost."""
    found = searches(results)
    rows = []
    for name, config in results.tuned.items():
        here = [search for search in found if search.workload == name]
        by = ", ".join(search.method for search in here if search.best == config)
        trials, runs = sum(search.trials for search in here), sum(search.runs for search in here)
        rows.append((name, by or "–", *_config(config), str(results.steps[name]), str(trials), number(runs)))
    columns = ("workload", "found by", "schedule", "rate", "weight decay", "steps", "trials", "cost")
    return Table(columns, tuple(rows), words=3)


def methods(results: Results) -> Table:
    """Each search: how near it came to the best of all, and at what cost."""
    return Table(
        ("workload", "method", "best loss", "trials", "pruned", "cost", "cost to 1 %"),
        tuple(
            (
                search.workload,
                search.method,
                f"{search.loss:.3f}",
                str(search.trials),
                str(search.pruned),
                number(search.runs),
                number(search.runs_to_near),
            )
            for search in searches(results)
        ),
        words=2,
    )


def errors(results: Results) -> Table:
    """Runs that ended in an error, by what it was."""
    found = Counter(
        (item.cell.workload, item.cell.arm, item.error or "no outcome")
        for item in results.cells
        if item.outcome is None
    )
    return Table(
        ("workload", "arm", "error", "runs"), tuple((*key, str(n)) for key, n in found.items()), words=3
    )


def missing(gaps: Sequence[Gap]) -> Table:
    """Runs that are not in the scores, and why."""
    found = Counter((gap.cell.workload, gap.cell.arm, gap.reason) for gap in gaps)
    return Table(
        ("workload", "arm", "why", "runs"), tuple((*key, str(n)) for key, n in found.items()), words=3
    )


def overspent(pairs: Sequence[Pair]) -> Table:
    """Arms whose last evaluation went beyond the budget, and by how much at most."""
    most: dict[tuple[str, str], float] = {}
    for pair in pairs:
        if pair.overspent > 0:
            key = pair.cell.workload, pair.cell.arm
            most[key] = max(most.get(key, 0.0), pair.overspent)
    return Table(
        ("workload", "arm", "steps beyond"), tuple((*key, number(v)) for key, v in most.items()), words=2
    )


def ordered(rows: Sequence[Row]) -> list[Row]:
    """The baseline, then from the least median on."""
    return sorted(rows, key=lambda row: (row.arm != BASELINE, row.final.median, row.final.worst))


def _scores(scores: Scores) -> tuple[str, str, str, str]:
    interval = f"{number(scores.low)}–{number(scores.high)}"
    return number(scores.median), interval, number(scores.worst), p_value(scores)


def _rates(rows: Sequence[Row]) -> list[float]:
    """The lowest, the tuned and the highest."""
    rates = sorted({rate for row in rows for rate in row.rates})
    return [rate for rate in rates if rate in (rates[0], 1.0, rates[-1])]


def _at(row: Row, rate: float) -> str:
    return number(row.rates.get(rate, math.nan) if row.rates else row.final.median)


def _config(config: Config) -> tuple[str, str, str]:
    decay = "usual" if config.weight_decay is None else f"{config.weight_decay:g}"
    pieces = f" ({len(config.pieces)})" if config.pieces else ""
    return config.schedule + pieces, f"{config.rate:.3g}", decay
