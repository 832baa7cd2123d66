"""Charts as inline SVG: axes, lines, legends; sizes in pixels of a phone's width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 20, 12, 38
STEPS = (
    (1.0,),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
    tuple(1 + i / 20 for i in range(180)),
)
"""Ticks of a decade, from coarse to fine."""
PALETTE = (
    *("#767676", "#0072b2", "#d55e00", "#00945f", "#b8539a", "#2b8fc9", "#8a6d00", "#c8323f"),
    *("#6f57cf", "#4f8a10", "#008489", "#a65a2e", "#e0508a", "#7480da", "#b07d0b", "#a04cd0"),
    *("#5f7f95", "#c46a4a", "#38963f", "#cf4fc9", "#6f7f30"),
)
"""Of arms, in every report: the baseline's grey first. All are seen on white paper and on black."""
RUN, DASHES = 5, 4
"""After so many arms the dashes change: colours alone do not suffice for a dozen, or for every eye."""
EXTREMES = 1e-120, 1e120
"""What an axis reaches."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a chart: what stands there, its ends and its ticks."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def part(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one, never beyond."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an arm; NaN breaks it.

    Args:
        arm: its number among the arms; 0 is the baseline.
        points: (x, y).
        said: what a pointer shows, one a point.
        stairs: y stays as it is up to the next point.
    """

    arm: int
    points: Sequence[tuple[float, float]]
    said: Sequence[str]
    stairs: bool = False


def linear(label: str, low: float, high: float, percent: bool = False) -> Axis:
    """An axis with about five ticks at round numbers."""
    if not high > low:
        high = low + 1.0
    rough = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(rough * k for k in (1, 2, 2.5, 5, 10) if (high - low) / (rough * k) <= 5)
    values = [i * step for i in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]
    return Axis(label, low, high, tuple((v, f"{100 * v:.0f} %" if percent else f"{v:g}") for v in values))


def logarithmic(label: str, low: float, high: float) -> Axis:
    """An axis with two to seven ticks at round numbers; its ends move out a little."""
    low, high = (min(max(value, EXTREMES[0]), EXTREMES[1]) for value in (low, high))
    margin = max(1.05, (high / low) ** 0.04)
    low, high = low / margin, high * margin
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in STEPS:
        values = [10.0**d * k for d in decades for k in steps if low <= 10.0**d * k <= high]
        if len(values) >= 4:
            break
    every = math.ceil(len(values) / 6)
    return Axis(label, low, high, tuple((v, brief(v)) for v in values[::every]), log=True)


def brief(value: float) -> str:
    """A tick's label: as few letters as it takes."""
    text = f"{value:.3g}"
    if len(text) <= 5 and "e" not in text:
        return text
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def style(arm: int) -> str:
    """The classes of an arm's lines."""
    return f"s base {_class(arm)}" if arm == 0 else f"s {_class(arm)} d{(arm - 1) // RUN % DASHES}"


def color(arm: int) -> str:
    """Of an arm, as `#rrggbb`."""
    return PALETTE[arm] if arm < len(PALETTE) else PALETTE[1 + (arm - 1) % (len(PALETTE) - 1)]


def _class(arm: int) -> str:
    return f"c{PALETTE.index(color(arm))}"


def chart(body: str, label: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    """A picture with its text alternative."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}" '
        f'preserveAspectRatio="xMidYMid meet">{body}</svg>'
    )


def line_chart(label: str, x: Axis, y: Axis, lines: Sequence[Line], level: float | None = None) -> str:
    """Lines of arms.

    Args:
        label: the text alternative.
        x: to the right.
        y: upwards.
        lines: the first ones are drawn on top.
        level: a value of y that a thin line marks.
    """
    drawn = [grid(x, y)]
    if level is not None and y.low <= level <= y.high:
        height = top(y, level)
        drawn.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height}" y2="{height}"/>')
    drawn += [_line(line, x, y) for line in reversed(lines)]
    return chart("".join(drawn), label)


def grid(x: Axis, y: Axis) -> str:
    """Axes, ticks and labels of a chart of usual size."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{top(y, value)}" y2="{top(y, value)}"/>'
        f'<text x="{LEFT - 5}" y="{top(y, value)}" dy=".32em" text-anchor="end">{escape(text)}</text>'
        for value, text in y.ticks
    ]
    parts += [
        f'<line class="grid" x1="{left(x, value)}" x2="{left(x, value)}" y1="{TOP}" y2="{bottom}"/>'
        f'<text x="{left(x, value)}" y="{bottom + 14}" text-anchor="middle">{escape(text)}</text>'
        for value, text in x.ticks
    ]
    middle = (TOP + bottom) / 2
    return (
        "".join(parts)
        + f'<text class="label" x="{(LEFT + right) / 2}" y="{HEIGHT - 5}" text-anchor="middle">'
        + f"{escape(x.label)}</text>"
        + f'<text class="label" transform="translate(10 {middle}) rotate(-90)" text-anchor="middle">'
        + f"{escape(y.label)}</text>"
    )


def left(x: Axis, value: float) -> float:
    """Of a value, in pixels."""
    return round(LEFT + x.part(value) * (WIDTH - RIGHT - LEFT), 1)


def top(y: Axis, value: float) -> float:
    """Of a value, in pixels."""
    return round(HEIGHT - BOTTOM - y.part(value) * (HEIGHT - BOTTOM - TOP), 1)


def polylines(points: Sequence[tuple[float, float]], attributes: str) -> str:
    """A line through points in pixels, broken at NaN; a point alone is a dot."""
    pieces: list[list[str]] = [[]]
    for x, y in points:
        if math.isnan(y):
            pieces.append([])
        else:
            pieces[-1].append(f"{x:g},{y:g}")
    return "".join(
        f'<polyline {attributes} points="{" ".join(piece if len(piece) > 1 else piece * 2)}"/>'
        for piece in pieces
        if piece
    )


def stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same points with a corner before each: y stays as it is up to the next one."""
    corners = [(x, y) for (x, _), (_, y) in zip(points[1:], points, strict=False)]
    return [*points[:1], *(p for pair in zip(corners, points[1:], strict=True) for p in pair)]


def _line(line: Line, x: Axis, y: Axis) -> str:
    points = [(left(x, a), math.nan if math.isnan(b) else top(y, b)) for a, b in line.points]
    if line.stairs:
        points = stairs(points)
    said = "|".join(
        escape(text) for text, (_, b) in zip(line.said, line.points, strict=True) if not math.isnan(b)
    )
    return (
        f'<g class="{style(line.arm)}" data-arm="{line.arm}" data-said="{said}">{polylines(points, "")}</g>'
    )
