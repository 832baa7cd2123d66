"""Curves of a run made ready for drawing: what was rewound, thinned to the pixels there are, smoothed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .journal import Series
from .records import Decision, Rewind

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


WIDE = 10.0
"""From this ratio of highest to lowest on, positive values are shown on a log scale."""
HUGE = 1e100
"""Off every scale; beyond it the drawing itself would overflow."""


class Stretch(NamedTuple):
    """Steps that a rewind threw away: those with `low < spent <= high`."""

    low: int
    high: int


def discarded(curves: Iterable[Series], decisions: Sequence[Decision]) -> list[Stretch]:
    """The stretches that rewinds threw away, in order of `spent`.

    Within a branch `step` and `spent` advance together, so their difference tells at which step the branch
    began, however sparse the metrics are; what earlier branches did after that step is lost.

    Args:
        curves: every metric of the run.
        decisions: oldest first; an applied rewind says at which `spent` its branch ended.
    """
    rewinds = [d for d in decisions if d.applied and isinstance(d.action, Rewind)]
    parts = [np.stack([c.branch, c.spent, c.step]) for c in curves]
    parts.append(np.array([[d.branch, d.spent, d.step] for d in rewinds], dtype=np.int64).reshape(-1, 3).T)
    branch, spent, step = np.concatenate(parts, axis=1)
    branches, first = np.unique(branch, return_index=True)
    offset = dict(zip(branches.tolist(), (spent - step)[first].tolist(), strict=True))
    end = {b: int(spent[branch == b].max()) for b in offset}
    for d in rewinds:  # nothing measured since: take the rewind's word for where it went
        if d.branch + 1 not in offset and isinstance(d.action, Rewind) and isinstance(d.action.to, int):
            offset[d.branch + 1] = d.spent - d.action.to

    stretches: list[Stretch] = []
    order = sorted(offset)
    kept = np.inf  # the last step of the branch at hand that is still part of the run
    for i in range(len(order) - 1, 0, -1):
        lost, successor = order[i - 1], order[i]
        if lost not in end:  # killed before anything of it was on record
            continue
        kept = min(kept, end[lost] - offset[successor])
        began = end.get(order[i - 2], 0) if i >= 2 else 0
        low = max(int(kept) + offset[lost], began)
        if low < end[lost]:
            stretches.append(Stretch(low, end[lost]))
    return stretches[::-1]


def inside(spent: Ints, stretches: Sequence[Stretch]) -> NDArray[np.bool_]:
    """Which of the points lie in one of the stretches."""
    if not stretches:
        return np.zeros(len(spent), dtype=bool)
    lows, highs = np.array(stretches).T
    i = np.searchsorted(lows, spent, side="left") - 1  # the last stretch with low < spent
    found: NDArray[np.bool_] = (i >= 0) & (spent <= highs[i])
    return found


def thin(x: Floats, y: Floats, start: float, end: float, columns: int) -> tuple[Floats, Floats]:
    """The lowest and the highest value of each column of pixels: what a full drawing would cover.

    Args:
        x: ascending positions from `start` to `end`.
        y: values; NaN where the line is to be broken.
        start: position of the left edge.
        end: position of the right edge, above `start`.
        columns: how many columns lie between them.

    Returns:
        The same points when there are no more than two a column, else two a column.
    """
    if len(x) <= 2 * columns:
        return x, y
    column = np.minimum((x - start) * (columns / (end - start)), columns - 1).astype(np.int64)
    firsts = np.flatnonzero(np.diff(column, prepend=column[0] - 1))
    low, high = np.fmin.reduceat(y, firsts), np.fmax.reduceat(y, firsts)
    return np.repeat(x[firsts], 2), np.stack([low, high], axis=1).ravel()


def smooth(y: Floats, width: int) -> Floats:
    """Centred moving average over `width` points, narrower towards both ends, where it stays centred.

    Args:
        y: finite values.
        width: at least 1; an even one counts as the next odd one.
    """
    total = np.concatenate([[0.0], np.cumsum(y)])
    i = np.arange(len(y))
    half = np.minimum(width // 2, np.minimum(i, i[::-1]))
    mean: Floats = (total[i + half + 1] - total[i - half]) / (2 * half + 1)
    return mean


def stairs(spent: Ints, value: Floats, lost: Sequence[Stretch], end: int) -> tuple[Ints, Floats]:
    """A value that holds until it is next recorded, as treads: pairs of points of one height.

    No tread crosses the border of a discarded stretch. A rewind restores the value without a record of it,
    so the tread that follows one has the height of the next record.

    Args:
        spent: when the value was recorded; ascending, at least one.
        value: what it was.
        lost: the discarded stretches.
        end: where the last tread ends.
    """
    borders = [border for stretch in lost for border in stretch]
    x = np.unique(np.concatenate([spent, [b for b in (*borders, end) if b > spent[0]]]).astype(np.int64))
    record = np.searchsorted(spent, x, side="right") - 1
    record += np.isin(x, [stretch.high for stretch in lost])
    y = value[np.minimum(record, len(value) - 1)]
    return np.repeat(x, 2)[1:-1], np.repeat(y[:-1], 2)


def limits(live: Floats, every: Floats) -> tuple[float, float, bool]:
    """Where to end a vertical axis so that a few extreme values do not flatten the rest of the curve.

    The bulk of the live part fills at least a third of the axis; what lies further out is off the scale.

    Args:
        live: values of the part of the run that was kept.
        every: all values.

    Returns:
        Lowest and highest value to show, and whether on a log scale.
    """
    every = every[np.abs(every) < HUGE]  # False for NaN
    live = live[np.abs(live) < HUGE]
    if not len(live):
        live = every
    if not len(live):
        return 0.0, 1.0, False
    bulk = np.quantile(live, [0.005, 0.995])
    log = bool(live.min() > 0 and bulk[1] > WIDE * bulk[0])
    if log:
        every, bulk = np.log(every[every > 0]), np.log(bulk)
    reach = bulk[1] - bulk[0]
    shown = every[(every >= bulk[0] - reach) & (every <= bulk[1] + reach)]
    low, high = shown.min(), shown.max()
    return (float(np.exp(low)), float(np.exp(high)), True) if log else (float(low), float(high), False)
