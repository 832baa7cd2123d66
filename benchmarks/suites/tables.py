"""The tables of a report, as plain text; Markdown and the page draw the same ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .formats import factor, number, p_value, share
from .pairs import BASELINE
from .scores import Row, Scores


@dataclass(frozen=True, slots=True)
class Table:
    """Text in columns; the first one is words, the others figures unless `words` says otherwise."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    """How many columns, from the left, are words."""

    def dense(self) -> Table:
        """Without the figures that no row has."""
        kept = [
            i
            for i in range(len(self.columns))
            if i < self.words or not self.rows or any(row[i] != "–" for row in self.rows)
        ]
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return Table(tuple(self.columns[i] for i in kept), rows, self.words)


def scores(rows: Sequence[Row]) -> Table:
    """Final states: of one workload and budget."""
    rates = _rates(rows)
    return Table(
        ("arm", "median", "95 % interval", "worst", "p", *map(factor, rates), "destroyed", "runs"),
        tuple(
            (
                row.arm,
                *_scores(row.final),
                *(_at(row, rate) for rate in rates),
                share(row.destroyed),
                _runs(row),
            )
            for row in ordered(rows)
        ),
    ).dense()


def details(rows: Sequence[Row]) -> Table:
    """Best states, harm, sensitivity, time and cost: of one workload and budget."""
    sensitive = ("sensitivity",) if _rates(rows) else ()
    state = ("best state", "95 % interval", "worst", "p")
    return Table(
        ("arm", *state, "harmed", *sensitive, "time", "reached", "cost", "errors"),
        tuple(
            (
                row.arm,
                *_scores(row.best),
                share(row.harmed),
                *(number(row.sensitivity) for _ in sensitive),
                number(row.time),
                share(row.reached),
                number(row.spent),
                str(row.errors),
            )
            for row in ordered(rows)
        ),
    ).dense()


def workload(rows: Sequence[Row]) -> Table:
    """One workload at all budgets, in short."""
    rates = _rates(rows)
    measures = ("median", "95 % interval", "worst", *map(factor, rates), "best state", "destroyed", "time")
    return Table(
        ("arm", "budget", *measures, "runs"),
        tuple(
            (
                row.arm,
                f"{row.budget:g}",
                *_scores(row.final)[:3],
                *(_at(row, rate) for rate in rates),
                number(row.best.median),
                share(row.destroyed),
                number(row.time),
                _runs(row),
            )
            for budget in sorted({row.budget for row in rows})
            for row in ordered([row for row in rows if row.budget == budget])
        ),
    ).dense()


def ordered(rows: Sequence[Row]) -> list[Row]:
    """The baseline, then from the least median on."""
    return sorted(rows, key=lambda row: (row.arm != BASELINE, row.final.median, row.final.worst))


def interval(scores: Scores) -> str:
    """Of the median; a dash where there is none."""
    return "–" if math.isnan(scores.low) else f"{number(scores.low)}–{number(scores.high)}"


def _scores(scores: Scores) -> tuple[str, str, str, str]:
    return number(scores.median), interval(scores), number(scores.worst), p_value(scores)


def _runs(row: Row) -> str:
    return f"{row.cells} of {row.cells + row.missing}" if row.missing else str(row.cells)


def _rates(rows: Sequence[Row]) -> list[float]:
    """The lowest, the tuned and the highest; none where there is one rate, whose scores are the medians."""
    rates = sorted({rate for row in rows for rate in row.rates})
    return [rate for rate in rates if rate in (rates[0], 1.0, rates[-1])] if len(rates) > 1 else []


def _at(row: Row, rate: float) -> str:
    return number(row.rates.get(rate, math.nan) if row.rates else row.final.median)
