"""A schedule as pieces: relative values as a function of how far one has come."""

from __future__ import annotations

import math
import numbers
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias

from autotune.records import POSITIVE_SHAPES, SHAPES, Shape, TuneError, between

Form: TypeAlias = Shape | Literal["step"]
FORMS: tuple[Form, ...] = ("step", *SHAPES)


@dataclass(frozen=True, slots=True)
class Piece:
    """One stretch of a schedule.

    Args:
        length: steps (a whole number), a part of the schedule's total (a float in (0, 1]), or None: what the
            other pieces leave of the total.
        value: at its end, relative to the value that the schedule began with (or to its `peak`).
        shape: how it gets there from the piece before: `linear`, `cosine`, `exponential` or `inverse_sqrt`;
            `step`: at once, and it stays there.

    Raises:
        TuneError: for a length or a value that is no such number, or an unknown shape.
    """

    length: int | float | None
    value: float
    shape: Form = "linear"

    def __post_init__(self) -> None:
        if self.shape not in FORMS:
            raise TuneError(f"a piece's shape is one of {', '.join(FORMS)}, got {self.shape!r}")
        if not _number(self.value) or not 0 <= self.value < math.inf:
            raise TuneError(
                f"a piece's value is 0 or more times the value at the beginning, got {self.value!r}"
            )
        if self.length is None:
            return
        shortest = 0 if self.shape == "step" else 1
        whole = isinstance(self.length, int)
        if not _number(self.length) or not (self.length >= shortest if whole else 0 < self.length <= 1):
            raise TuneError(
                f"a piece's length is a whole number of steps, at least {shortest}, a part of the total in "
                f"(0.0, 1.0], or None for the rest, got {self.length!r}"
            )


class Segment(NamedTuple):
    """A piece laid out: from `first` at position `start` to `last` at `end`."""

    start: int
    end: float
    first: float
    last: float
    shape: Form

    def at(self, position: float) -> float:
        """The relative value at a position within; the tuner's ramps follow the same curves."""
        if self.shape == "step" or position >= self.end:
            return self.last
        part = (position - self.start) / (self.end - self.start)
        return between(self.first, self.last, part, self.shape)


class Plan:
    """Pieces end to end; after the last one its value stays.

    Args:
        pieces: at least one.
        total: steps; None where every length is in steps.

    Raises:
        TuneError: when the pieces do not fit the total, or the ends of a shape are not both positive.
    """

    def __init__(self, pieces: Sequence[Piece], total: int | None) -> None:
        taken = sum((_steps(p.length, total) for p in pieces if p.length is not None), 0.0)
        rest = 0.0 if total is None else total - taken
        open_ended = any(piece.length is None for piece in pieces)
        if rest < (1 if open_ended else -1e-9 * (total or 1)):
            raise TuneError(
                f"pieces fit in the total of {total} steps, got {taken:g} steps"
                f"{' and a piece for the rest' if open_ended else ''}; shorten them"
            )
        lengths = (rest if piece.length is None else _steps(piece.length, total) for piece in pieces)
        ends = [round(end) for end in accumulate(lengths)]
        self.segments: list[Segment] = []
        start, value = 0, 1.0
        for piece, end in zip(pieces, ends, strict=True):
            first = piece.value if piece.shape == "step" else value
            if piece.shape in POSITIVE_SHAPES and min(first, piece.value) <= 0:
                raise TuneError(
                    f"a piece of shape {piece.shape} goes from one positive value to another, "
                    f"got {first:g} to {piece.value:g}; use linear or cosine"
                )
            if end > start:
                self.segments.append(Segment(start, end, first, piece.value, piece.shape))
            start, value = end, piece.value
        self.total = start
        self.segments.append(Segment(start, math.inf, value, value, "step"))
        self._starts = [segment.start for segment in self.segments]
        before = [1.0, *(segment.last for segment in self.segments)]
        self._jumps = [s.start for s, last in zip(self.segments, before, strict=False) if s.first != last]

    def index(self, position: float) -> int:
        """The number of the segment at a position; at a boundary, of the one that begins there."""
        return max(0, bisect_right(self._starts, position) - 1)

    def at(self, position: float) -> float:
        """The relative value at a position."""
        return self.segments[self.index(position)].at(position)

    def highest(self, position: float) -> float:
        """The highest relative value from a position on."""
        index = self.index(position)
        return max(
            self.at(position),
            *(max(s.first, s.last) for s in self.segments[index + 1 :]),
            self.segments[index].last,
        )

    def jump(self, after: float, to: float) -> int | None:
        """The first position in (after, to] at which the value jumps; None when it does not."""
        return next((jump for jump in self._jumps if after < jump <= to), None)

    def before(self, jump: int) -> float:
        """The relative value just before a jump."""
        index = self.index(jump)
        return self.segments[index - 1].last if index else 1.0


def check(pieces: Sequence[Piece], steps: int | None) -> bool:
    """Check what can be checked before the run; returns whether the total is the run's budget.

    Raises:
        TuneError: for no pieces, more than one that takes the rest, or what `Plan` raises.
    """
    if not pieces or not all(isinstance(piece, Piece) for piece in pieces):
        raise TuneError(f"a schedule is a list of one Piece or more, got {pieces!r}")
    if sum(piece.length is None for piece in pieces) > 1:
        raise TuneError("at most one piece takes the rest (length=None), got more; give the others a length")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise TuneError(f"a schedule takes a whole number of steps, at least 1, got steps={steps!r}")
    relative = any(not isinstance(piece.length, int) for piece in pieces)
    parts = sum(piece.length for piece in pieces if isinstance(piece.length, float))
    if parts > 1 + 1e-9:
        raise TuneError(f"parts of the total add up to 1 at most, got {parts:g}; shorten them")
    if relative and steps is None:  # a total that is long enough for every length in steps
        Plan(pieces, 10**9 + 10 * sum(p.length for p in pieces if isinstance(p.length, int)))
    else:
        Plan(pieces, steps)
    return relative and steps is None


def _steps(length: int | float, total: int | None) -> float:
    if isinstance(length, float):
        assert total is not None  # `check` sees to it
        return length * total
    return length


def _number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
