"""Statistics of divergence: a band of healthy values, and what the beginning of a run looks like.

All of it works on y, the log of the loss, or the loss in units of its usual size where losses are not all
positive; thresholds are therefore dimensionless.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 10  # values whose median is the present level
RECENT = 25  # values whose median is the healthy level
FLOOR = 0.05  # smallest standard deviation believed in

DEAD_AFTER = 30  # values
BEGINNING = 100  # values; an early rise lies within it
FALLING = 2.0  # standard errors
ROSE, ROSE_BY = 5.0, math.log(1.1)  # standard deviations, and y itself
EXPLODED, EXPLODED_BY = 8.0, math.log(4.0)
LEARNED, LEARNED_BY = 2.0, math.log(1.1)

Beginning = Literal["open", "learned", "exploded", "dead"]


def y_of(losses: Array, usual: Array) -> Array:
    """y of `losses`, by the rule that fits the values `usual`; infinity for what is not finite."""
    finite = usual[np.isfinite(usual)]
    with np.errstate(divide="ignore", invalid="ignore"):
        if len(finite) and finite.min() > 0:
            y = np.log(np.maximum(losses, 0.0))
        else:
            unit = float(np.median(np.abs(finite))) if len(finite) else 1.0
            y = losses / (unit or 1.0)
    return np.where(np.isfinite(losses), y, np.inf)


@dataclass(frozen=True, slots=True)
class Band:
    """Where the level, the median of 10 values, lies in a healthy run."""

    level: float
    deviation: float

    @classmethod
    def of(cls, y: Array) -> Band:
        """From at least 20 healthy values, oldest first; neither a trend nor outliers widen it much.

        The deviation is that of the running level itself, so that it has the values' correlation in it; at
        least what independent values give (1.2533 / √10 of theirs), and 0.05.
        """
        levels = running_median(y, LEVEL, every=LEVEL // 2)
        deviation = max(_spread(levels), 1.2533 / math.sqrt(LEVEL) * _spread(y), FLOOR)
        return cls(float(np.median(y[-RECENT:])), deviation)


def beginning(y: Array, first: float) -> tuple[Beginning, float]:
    """What the values since the initial weights say, and how far they rose above the `first` one.

    Args:
        y: values, oldest first.
        first: y of the initial weights.
    """
    n = len(y)
    if n < 5:
        return "open", 0.0
    late = y[-max(2 * LEVEL, n // 2) :]
    deviation = noise(late)
    peak = float(running_median(y[:BEGINNING], 5).max()) - first
    if peak > max(EXPLODED_BY, EXPLODED * deviation):
        return "exploded", peak
    if n < DEAD_AFTER:
        return "open", peak
    level, error = float(np.median(late)), 1.2533 * deviation / math.sqrt(len(late))
    if level < first - max(LEARNED_BY, LEARNED * deviation):
        return "learned", peak
    peak = float(running_median(y[:BEGINNING], 3).max()) - first
    half = len(late) // 2
    fell = float(np.median(late[:half]) - np.median(late[half:]))
    falling = n < BEGINNING and fell > FALLING * 2 * error
    if peak <= max(ROSE_BY, ROSE * deviation) or falling or level < first - error:
        return "open", peak
    return "dead", peak


def _spread(y: Array) -> float:
    """Standard deviation about the resistant line through the medians of both halves (Brown & Mood 1951).

    The larger one of 1.4826 MAD and (90 % quantile − median) / 1.2816: a minority of harder batches counts.
    """
    half = len(y) // 2
    slope = (np.median(y[-half:]) - np.median(y[:half])) / (len(y) - half)
    rest = np.sort(y - slope * np.arange(len(y)))
    middle = np.median(rest)
    upper = rest[int(0.9 * (len(rest) - 1))] - middle
    return float(max(1.4826 * np.median(np.abs(rest - middle)), upper / 1.2816))


def running_median(y: Array, length: int, every: int = 1) -> Array:
    """Medians of `length` values in a row, beginning at every `every`-th; at least one, of what there is."""
    windows = np.lib.stride_tricks.sliding_window_view(y, min(length, len(y)))
    medians: Array = np.median(windows[::every], axis=1)
    return medians


def noise(y: Array) -> float:
    """Standard deviation of the noise, from successive differences, so that no trend counts.

    The larger one of the estimates by the median and the 90 % quantile, for the sake of heavy tails.
    """
    with np.errstate(invalid="ignore"):
        steps = np.sort(np.abs(np.diff(y)))
    steps = steps[np.isfinite(steps)]
    if not len(steps):
        return 0.0
    middle, high = steps[len(steps) // 2], steps[int(0.9 * (len(steps) - 1))]
    return float(max(1.4826 * middle, high / 1.6449) / math.sqrt(2))
