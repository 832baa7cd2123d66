"""Trends of a noisy series: its scale, a resistant line through it, and how sure the line is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BLOCKS = 16  # averages that a line is fitted to
FEWEST = 10  # values without which no line is fitted
CORRELATION = 0.8  # largest correlation of neighbouring averages believed in
TINY = 1e-12  # the smallest loss, as a part of the usual one, whose log is taken


class Scale(NamedTuple):
    """From the loss to y and back: y is the log of the loss, or the loss in its usual unit."""

    log: bool
    unit: float

    @classmethod
    def of(cls, values: Array) -> Scale:
        """The log where all finite values are positive."""
        values = values[np.isfinite(values)]
        log = len(values) > 0 and values.min() > 0
        unit = float(np.sort(np.abs(values))[len(values) // 2]) if len(values) else 1.0
        return cls(bool(log), unit or 1.0)

    def y(self, values: Array) -> Array:
        """y of losses; NaN for what is not finite."""
        ratio = np.where(np.isfinite(values), values / self.unit, np.nan)
        return np.log(np.maximum(ratio, TINY)) if self.log else ratio

    def loss(self, y: float | None) -> float | None:
        """The loss at y; None where it is unknown or not finite."""
        if y is None:
            return None
        return finite(self.unit * float(np.exp(y) if self.log else y))

    def change(self, small: float, at: float) -> float | None:
        """A small change of y as one of the loss where y is `at`."""
        level = self.loss(at) if self.log else self.unit
        return None if level is None else finite(level * small)


@dataclass(frozen=True, slots=True)
class Line:
    """The Theil–Sen line through averages of neighbouring values."""

    slope: float
    intercept: float
    noise: float
    """Long-run variance of single values."""
    variance: float
    """Of one average, with its correlation to the others."""
    blocks: int
    centre: float
    spread: float
    """Sum of squared distances of the averages from the centre."""

    @classmethod
    def fit(cls, x: Array, y: Array, after: float = -math.inf) -> Line | None:
        """The line through what lies `after`; None for fewer than 10 values or a single place."""
        start = int(np.searchsorted(x, after, "right"))
        x, y = x[start:], y[start:]
        if len(y) < FEWEST:
            return None
        blocks = min(BLOCKS, len(y) // 2)
        size = len(y) // blocks
        means_x = x[-blocks * size :].reshape(blocks, size).mean(axis=1)
        means_y = y[-blocks * size :].reshape(blocks, size).mean(axis=1)
        if means_x[0] == means_x[-1]:
            return None
        first, second = np.triu_indices(blocks, 1)
        across, up = means_x[second] - means_x[first], means_y[second] - means_y[first]
        slope = float(np.median(up[across > 0] / across[across > 0]))
        intercept = float(np.median(means_y - slope * means_x))
        rest = means_y - intercept - slope * means_x
        square = float(rest @ rest)
        correlation = float(rest[1:] @ rest[:-1]) / square if square > 0 else 0.0
        correlation = (correlation + 2 / blocks) / (1 - 4 / blocks)  # its bias after a line was removed
        correlation = min(max(correlation, 0.0), CORRELATION)
        variance = square / (blocks - 2) * (1 + correlation) / (1 - correlation)
        centre = float(means_x.mean())
        spread = float(np.sum((means_x - centre) ** 2))
        return cls(slope, intercept, variance * size, variance, blocks, centre, spread)

    def at(self, x: float) -> float:
        """The line at `x`."""
        return self.intercept + self.slope * x

    def error(self, x: float) -> float:
        """Standard error of the line at `x`."""
        return math.sqrt(self.variance * (1 / self.blocks + (x - self.centre) ** 2 / self.spread))


def finite(value: float | None) -> float | None:
    """The value, or None where it is not finite."""
    return value if value is not None and math.isfinite(value) else None
