"""Robust statistics of a noisy series: y, a dimensionless loss, and the band in which its level lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 10  # values whose median is the level
RECENT = 25  # values whose median is the healthy level
FLOOR = 0.05  # smallest standard deviation of a level that is believed in
OF_MEDIAN = 1.2533  # standard error of a median over that of a mean


def y_of(losses: Array, usual: Array) -> Array:
    """The log of `losses`; where the `usual` ones are not all positive, `losses` by their usual size.

    Infinity for what is not finite.
    """
    finite = usual[np.isfinite(usual)]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if len(finite) and finite.min() > 0:
            y = np.log(np.maximum(losses, 0.0))
        else:
            unit = float(np.median(np.abs(finite))) if len(finite) else 1.0
            y = losses / (unit or 1.0)
    return np.where(np.isfinite(losses), y, np.inf)


def running_median(y: Array, length: int, every: int = 1) -> Array:
    """Medians of `length` values in a row, one from every `every`-th value on; of all, if fewer."""
    windows = np.lib.stride_tricks.sliding_window_view(y, min(length, len(y)))
    medians: Array = np.median(windows[::every], axis=1)
    return medians


def spread(y: Array) -> float:
    """Standard deviation about the resistant line through the medians of both halves (Brown & Mood 1951).

    The larger one of 1.4826 MAD and (90 % quantile − median) / 1.2816: a minority of harder batches counts.
    """
    half = len(y) // 2
    slope = (np.median(y[-half:]) - np.median(y[:half])) / (len(y) - half)
    rest = np.sort(y - slope * np.arange(len(y)))
    middle = np.median(rest)
    upper = rest[int(0.9 * (len(rest) - 1))] - middle
    return float(max(1.4826 * np.median(np.abs(rest - middle)), upper / 1.2816))


def noise(y: Array) -> float:
    """Standard deviation of single values from successive differences, in which no trend counts.

    The larger one of the estimates by the median and by the 90 % quantile, for the sake of heavy tails.
    """
    with np.errstate(invalid="ignore"):
        steps = np.sort(np.abs(np.diff(y)))
    steps = steps[np.isfinite(steps)]
    if not len(steps):
        return 0.0
    middle, high = steps[len(steps) // 2], steps[int(0.9 * (len(steps) - 1))]
    return float(max(1.4826 * middle, high / 1.6449) / math.sqrt(2))


@dataclass(frozen=True, slots=True)
class Band:
    """Where the level, the median of 10 values, lies in a healthy run."""

    level: float
    deviation: float

    @classmethod
    def of(cls, y: Array) -> Band:
        """From at least 20 healthy values, oldest first; neither a trend nor outliers widen it much.

        The deviation is that of the running level itself, so that it has the values' correlation in it; at
        least what independent values give, and 0.05.
        """
        levels = running_median(y, LEVEL, every=LEVEL // 2)
        deviation = max(spread(levels), OF_MEDIAN / math.sqrt(LEVEL) * spread(y), FLOOR)
        return cls(float(np.median(y[-RECENT:])), deviation)

    def above(self, deviations: float) -> float:
        """The level plus so many deviations."""
        return self.level + deviations * self.deviation
