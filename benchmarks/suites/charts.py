"""How the arms compare, in pictures: profile, robustness to the rate, time to target."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .formats import factor, number, share
from .pairs import Pair
from .scores import Row
from .statistics import performance_profile
from .svg import Axis, Line, line_chart, linear, logarithmic

Numbers = Mapping[str, int]
"""Of arms: their place in the legend."""
CUT = 8.0
"""Of a performance profile: how far from the best arm its axis reaches at most."""
TIMES = np.geomspace(0.25, 8, 61)
CEILING = 100.0
"""Scores are drawn up to it; beyond it a line runs along the upper edge."""


def profile(pairs: Sequence[Pair], budget: float, numbers: Numbers) -> tuple[str, str] | None:
    """Performance profile, and what is left out of it; None when no problem was run by every arm.

    A problem is a workload, a seed and an initial rate; an arm that ignores the rate has one score for all.
    A run that was destroyed solves nothing, however near the best arm is to the initial loss.
    """
    inside = [pair for pair in pairs if pair.cell.budget == budget]
    arms = [arm for arm in numbers if any(pair.cell.arm == arm for pair in inside)]
    rates = sorted({p.cell.factor for p in inside if p.cell.factor is not None})
    factors: list[float | None] = [*rates] or [None]
    found: dict[tuple[str, int, float | None], dict[str, float]] = {}
    for pair in inside:
        for rate in factors if pair.cell.factor is None else [pair.cell.factor]:
            problem = pair.cell.workload, pair.cell.seed, rate
            found.setdefault(problem, {})[pair.cell.arm] = math.inf if pair.destroyed else pair.final
    whole = [scores for scores in found.values() if len(scores) == len(arms)]
    if not whole:
        return None
    table = {arm: [scores[arm] for scores in whole] for arm in arms}
    ratios = [score / min(scores.values()) for scores in whole for score in scores.values()]
    largest = max((ratio for ratio in ratios if math.isfinite(ratio)), default=1.0)
    taus = np.geomspace(1, min(max(largest, 1.1), CUT), 73)
    shares = performance_profile(table, taus)
    lines = [
        Line(
            numbers[arm],
            list(zip(taus, row, strict=True)),
            [f"{share(y)} within {x:.2f} of the best" for x, y in zip(taus, row, strict=True)],
            stairs=True,
        )
        for arm, row in shares.items()
    ]
    label = (
        f"Performance profile at budget {budget:g}. Share of problems within 1.1 of the best arm: "
        + _list((arm, share(row[0])) for arm, row in performance_profile(table, [1.1]).items())
    )
    x = logarithmic("loss over the best arm's, τ", 1, taus[-1])
    picture = line_chart(label, x, linear("share of problems", 0, 1, percent=True), lines)
    note = f"{len(whole):,} problem{'' if len(whole) == 1 else 's'}"
    if left_out := len(found) - len(whole):
        note += f"; {left_out:,} more not run by every arm"
    if largest > CUT:
        note += f"; cut at τ = {CUT:g}, the largest is {number(largest)}"
    return picture, note


def robustness(rows: Sequence[Row], numbers: Numbers) -> str | None:
    """Median score by initial rate, of rows of one workload and budget; None from fewer than two rates."""
    factors = sorted({rate for row in rows for rate in row.rates})
    if len(factors) < 2:
        return None
    lines, values = [], [1.0]
    for row in rows:
        scores = [row.rates.get(f, math.nan) if row.rates else row.final.median for f in factors]
        values += [score for score in scores if not math.isnan(score)]
        said = [f"{number(score)} from {factor(f)}" for f, score in zip(factors, scores, strict=True)]
        lines.append(Line(numbers[row.arm], list(zip(factors, scores, strict=True)), said))
    lines.sort(key=lambda line: line.arm)
    ends = factors[0] / 1.3, factors[-1] * 1.3
    every = math.ceil(len(factors) / 4) if len(factors) % 2 else 1
    ticks = tuple((f, factor(f)) for f in factors[::every])
    x = Axis("initial rate over the tuned one", *ends, ticks, log=True)
    y = logarithmic("median score", min(values), min(max(*values, 1.1), CEILING))
    extremes = _list(
        (row.arm, f"{number(min(row.rates.values()))} to {number(max(row.rates.values()))}")
        for row in rows
        if row.rates
    )
    label = f"Median score by initial rate on {rows[0].workload}, budget {rows[0].budget:g}: {extremes}"
    return line_chart(label, x, y, lines, level=1.0)


def times(pairs: Sequence[Pair], budget: float, numbers: Numbers) -> str | None:
    """Share of runs at their target by time; None when no baseline got there."""
    lines = []
    for arm, at in numbers.items():
        here = np.array([p.time for p in pairs if (p.cell.arm, p.cell.budget) == (arm, budget)])
        here = here[~np.isnan(here)]
        if len(here):
            shares = (here[None, :] <= TIMES[:, None]).mean(axis=1)
            said = [
                f"{share(y)} at {x:.2f} of the baseline's time" for x, y in zip(TIMES, shares, strict=True)
            ]
            lines.append((arm, Line(at, list(zip(TIMES, shares, strict=True)), said, stairs=True)))
    if not lines:
        return None
    label = f"Share of runs that reach the target, budget {budget:g}: " + _list(
        (arm, share(line.points[-1][1])) for arm, line in lines
    )
    x = logarithmic("time to target over the baseline's", TIMES[0], TIMES[-1])
    y = linear("share of runs at the target", 0, 1, percent=True)
    return line_chart(label, x, y, [line for _, line in lines])


def _list(items: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in items) + "."
