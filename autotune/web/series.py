"""Curves for the page: a metric's rows in memory, which of them count, and as few as a picture needs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

ROW = np.dtype(
    [("id", np.int64), ("step", np.int64), ("spent", np.int64), ("branch", np.int64), ("value", np.float64)]
)
Rows: TypeAlias = NDArray[Any]
"""A structured array of `ROW`, in the order of writing."""
Stretches: TypeAlias = Sequence[tuple[int, int]]
"""(step, spent) at which each stretch of the live branch began, oldest first: see `clock.Clock`."""
Axis: TypeAlias = Literal["step", "spent"]


class Column:
    """The rows of one metric, which grow at the end."""

    def __init__(self) -> None:
        self._rows: Rows = np.empty(0, ROW)
        self._length = 0

    @property
    def rows(self) -> Rows:
        """What there is so far; what is added later does not change it."""
        return self._rows[: self._length]

    @property
    def last(self) -> int:
        """The id of the newest row; 0 before the first one."""
        return int(self._rows["id"][self._length - 1]) if self._length else 0

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return self._rows.nbytes

    def extend(self, rows: Rows) -> None:
        """Add rows that were written after all of these."""
        needed = self._length + len(rows)
        if needed > len(self._rows):
            grown = np.empty(max(needed, len(self._rows) * 5 // 4), ROW)
            grown[: self._length] = self.rows
            self._rows = grown
        self._rows[self._length : needed] = rows
        self._length = needed


def completed(stretches: Stretches, rows: Rows) -> list[tuple[int, int]]:
    """The stretches as they are on record, and those that the rows show to have begun since.

    Within a stretch `step` and `spent` advance together, so their difference tells one from the next. A
    trial begins stretches that no decision has recorded yet; an old run has recorded none at all.

    Args:
        stretches: those on record, at least the first.
        rows: of a metric that was recorded often, such as the loss.
    """
    found = list(stretches)
    first, begun = found[-1]
    later = rows[rows["spent"] > begun]
    offset = np.concatenate([[begun - first], later["spent"] - later["step"]])
    spent = np.concatenate([[begun], later["spent"]])
    for i in np.flatnonzero(np.diff(offset)):
        at = int(spent[i] - offset[i + 1])
        found = [stretch for stretch in found if stretch[0] < at] + [(at, int(spent[i]))]
    return found


def live(rows: Rows, stretches: Stretches) -> NDArray[np.bool_]:
    """Which rows lie on the live branch."""
    firsts, begun = np.array(stretches, dtype=np.int64).T
    offset = rows["spent"] - rows["step"]
    found = np.zeros(len(rows), dtype=bool)
    # Where one stretch ends and the next begins, a step belongs to both.
    for side in ("left", "right"):
        i = np.searchsorted(firsts, rows["step"], side=side) - 1
        found |= (i >= 0) & (offset == (begun - firsts)[i])
    return found


def parts(
    rows: Rows,
    stretches: Stretches,
    axis: Axis = "step",
    start: float | None = None,
    end: float | None = None,
    pixels: int = 600,
) -> list[dict[str, Any]]:
    """A metric as pieces of line, plain JSON values: abandoned ones first, so that they are drawn below.

    Args:
        rows: all there is of it.
        stretches: of the live branch.
        axis: what lies along the horizontal axis.
        start: where the picture begins on it; None: where the metric does.
        end: where it ends. The nearest points outside are in as well, so that lines run to the edges.
        pixels: the picture's width; there are at most some 1.5 points a pixel and piece.

    Returns:
        Of each piece `branch`, `live`, `x` and `y`, with None where a value is not finite.
    """
    if not len(rows):
        return []
    x = rows[axis]
    low = float(x.min() if start is None else start)
    high = float(x.max() if end is None else end)
    counts, offset = live(rows, stretches), rows["spent"] - rows["step"]
    changes = (np.diff(rows["branch"]) != 0) | np.diff(counts) | (np.diff(offset) != 0)
    borders = [0, *(np.flatnonzero(changes) + 1).tolist(), len(rows)]
    found = []
    for first, last in itertools.pairwise(borders):
        piece = rows[first:last]
        seen = _visible(piece[axis], low, high)
        along, value = piece[axis][seen], piece["value"][seen]
        if not len(along):
            continue
        value = np.where(np.isfinite(value), value, np.nan)
        kept = thin(along, value, low, high, max(1, pixels * 3 // 4))
        y = value[kept].astype(object)
        y[np.isnan(value[kept])] = None
        found.append(
            {
                "branch": int(piece["branch"][0]),
                "live": bool(counts[first]),
                "x": along[kept].tolist(),
                "y": y.tolist(),
            }
        )
    return sorted(found, key=lambda part: part["live"])


def _visible(x: NDArray[np.int64], low: float, high: float) -> slice:
    """The points from `low` to `high`, and the next one on either side."""
    first, last = np.searchsorted(x, low, side="left"), np.searchsorted(x, high, side="right")
    if first == len(x) or last == 0:
        return slice(0, 0)
    return slice(max(0, int(first) - 1), int(last) + 1)


def thin(
    x: NDArray[np.int64], y: NDArray[np.float64], low: float, high: float, columns: int
) -> NDArray[np.intp]:
    """Which points to draw: of each column the lowest, the highest and the first gap, and both ends.

    Args:
        x: ascending.
        y: values; NaN is a gap.
        low: the left edge.
        high: the right edge.
        columns: how many columns lie between them.
    """
    if len(x) <= 2 * columns:
        return np.arange(len(x))
    column = np.floor((x - low) * (columns / max(high - low, 1e-9))).astype(np.int64)
    starts = np.flatnonzero(np.diff(column, prepend=column[0] - 1))
    size = np.diff(starts, append=len(x))

    def first(hit: NDArray[np.bool_]) -> NDArray[np.intp]:
        at = np.flatnonzero(hit)
        begins: NDArray[np.bool_] = np.diff(column[at], prepend=column[0] - 1) != 0
        return at[begins]

    bottom, top = np.fmin.reduceat(y, starts), np.fmax.reduceat(y, starts)
    kept = np.zeros(len(x), dtype=bool)
    kept[[0, -1]] = True
    for hit in (y == np.repeat(bottom, size), y == np.repeat(top, size), np.isnan(y)):
        kept[first(hit)] = True
    return np.flatnonzero(kept)
