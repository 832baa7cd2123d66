"""What policies did and what came of it: selection loss, rate and decisions over a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .formats import factor
from .pairs import BASELINE
from .results import Event, Finished, Look, Results
from .svg import Axis, chart, linear, logarithmic, polylines, stairs

WIDTH, LEFT, RIGHT = 360, 54, 20
UPPER, LOWER, HEIGHT = (8, 98), (112, 186), 222
"""Top and bottom of the loss and of the rate, and of the whole picture, in pixels."""
LEAST, MOST = 10.0, 1e6
"""Ratios of rates that the axis spans at least and at most."""
MARKS = 24
"""Of decisions, in one picture."""
LETTERS = 120
"""Of a decision's text that a pointer shows."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A picked run: its arm, its rate, the picture, what else is to be said, and the number of decisions."""

    arm: str
    rate: str
    picture: str
    note: str
    decisions: int


def timelines(results: Results, workload: str) -> list[Timeline]:
    """Of every arm that took a decision: from the lowest, the tuned and the highest rate, of one seed."""
    here = [f for f in results.cells if f.cell.workload == workload and f.cell.budget == 1.0]
    seed = min((item.cell.seed for item in here), default=0)
    deciding = {item.cell.arm for item in here if item.outcome and item.outcome.events}
    factors = sorted({item.cell.factor for item in here if item.cell.factor is not None})
    picked = {None, 1.0, *factors[:1], *factors[-1:]}
    beside = next((f for f in here if f.cell.arm == BASELINE and f.cell.seed == seed), None)
    looks = beside.outcome.looks if beside and beside.outcome else []
    return [
        _timeline(item, looks)
        for arm in dict.fromkeys(item.cell.arm for item in here)
        if arm in deciding
        for item in here
        if item.cell.arm == arm and item.cell.seed == seed and item.cell.factor in picked and item.outcome
    ]


def _timeline(item: Finished, baseline: Sequence[Look]) -> Timeline:
    outcome, cell = item.outcome, item.cell
    assert outcome is not None
    spent = linear("steps spent", 0, outcome.allowed)
    looks = outcome.looks
    losses = [look.selection for look in (*looks, *baseline) if _positive(look.selection)] or [1.0]
    ceiling = 10 * max(min(losses), outcome.initial_selection)  # an explosion may not flatten all else
    loss = logarithmic("loss", min(losses), min(max(losses), ceiling))
    rates = [look.rate for look in looks if _positive(look.rate)] or [1.0]
    least = max(min(rates), max(rates) / MOST)  # the end of a decay to nothing may not flatten all else
    wide = max(1.0, LEAST * least / max(rates)) ** 0.5  # a small change looks small
    rate = logarithmic("rate", least / wide, max(rates) * wide)
    every = max(1, math.ceil(len(outcome.events) / MARKS))
    body = (
        _grid(spent, loss, UPPER)
        + _grid(spent, rate, LOWER, below=True)
        + _curve([(look.spent, look.selection) for look in baseline], spent, loss, UPPER, "beside")
        + _curve([(look.spent, look.selection) for look in looks], spent, loss, UPPER, "loss")
        + _curve(_rates(looks), spent, rate, LOWER, "rate")
        + "".join(_mark(event, looks, spent, rate) for event in outcome.events[::every])
    )
    decisions = f"{len(outcome.events)} decision{'' if len(outcome.events) == 1 else 's'}"
    note = decisions + (f", one in {every} marked" if every > 1 else "")
    note += "" if outcome.final < outcome.initial else "; destroyed"
    label = (
        f"{cell.arm} from {factor(cell.factor)}: selection loss {outcome.initial_selection:.3g} to "
        f"{outcome.selection:.3g}, rate {rates[0]:.3g} to {rates[-1]:.3g}, {decisions}."
    )
    picture = chart(body, label, WIDTH, HEIGHT)
    return Timeline(cell.arm, factor(cell.factor), picture, note, len(outcome.events))


def _rates(looks: Sequence[Look]) -> list[tuple[float, float]]:
    """Stairs, backwards: a look has the rate of the step before it, so that it was so since the last one."""
    return stairs([(look.spent, look.rate) for look in reversed(looks)])


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _x(axis: Axis, value: float) -> float:
    return round(LEFT + axis.part(value) * (WIDTH - RIGHT - LEFT), 1)


def _y(axis: Axis, value: float, ends: tuple[int, int]) -> float:
    return round(ends[1] - axis.part(value) * (ends[1] - ends[0]), 1)


def _curve(points: Sequence[tuple[float, float]], x: Axis, y: Axis, ends: tuple[int, int], name: str) -> str:
    placed = [
        (_x(x, at), _y(y, value, ends) if value > 0 else math.nan)  # infinity runs along the upper edge
        for at, value in points
    ]
    return polylines(placed, f'class="run {name}"')


def _mark(event: Event, looks: Sequence[Look], x: Axis, y: Axis) -> str:
    """At the rate of the first look after it."""
    rate = next((look.rate for look in looks if look.spent >= event.spent and _positive(look.rate)), y.low)
    at, height = _x(x, event.spent), _y(y, rate, LOWER)
    text = event.text if len(event.text) <= LETTERS else event.text[: LETTERS - 1] + "…"
    done = "done" if event.status in ("applied", "clamped") else "undone"
    return (
        f'<g class="mark {done}"><path d="M{at} {UPPER[0]}V{LOWER[1]}"/>'
        f'<circle cx="{at}" cy="{height}" r="3.5">'
        f"<title>{escape(f'{event.spent} · {event.source} · {event.status}: {text}')}</title></circle></g>"
    )


def _grid(x: Axis, y: Axis, ends: tuple[int, int], below: bool = False) -> str:
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(y, v, ends)}" y2="{_y(y, v, ends)}"/>'
        f'<text x="{LEFT - 5}" y="{_y(y, v, ends)}" dy=".32em" text-anchor="end">{escape(text)}</text>'
        for v, text in y.ticks[:: max(1, math.ceil(len(y.ticks) / 4))]
    ]
    parts.append(
        f'<text class="label" transform="translate(10 {sum(ends) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.label)}</text>"
    )
    if below:
        parts += [
            f'<text x="{_x(x, v)}" y="{ends[1] + 14}" text-anchor="middle">{escape(text)}</text>'
            for v, text in x.ticks
        ]
        parts.append(
            f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">'
            f"{escape(x.label)}</text>"
        )
    return "".join(parts)
