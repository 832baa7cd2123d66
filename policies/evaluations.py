"""What few evaluations say: training and validation loss side by side, their trend and their noise."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from autotune.records import FACTOR, Observation

from .robust import Array

NEWEST = 100  # values that are looked at
OF_MEDIAN_DIFFERENCE = 1.4826 / math.sqrt(6)  # standard deviation over the median absolute second difference


UNKNOWN = 0.01  # a weight decay to begin with where there is no rate to go by


def binding_decay(observation: Observation, rate: str | None, decay: str | None) -> float:
    """The value of `decay` that shrinks weights by a factor of e over the run, at the present rate.

    Source: Wang & Aitchison 2024, the time scale 1 / (rate × decay); the gain is that of SGD's momentum.
    """
    state, decayed = (observation.hyperparameters.get(name or "") for name in (rate, decay))
    if state is None or decayed is None or not state.value or state.unit == FACTOR:
        return UNKNOWN
    steps = observation.budget or max(observation.spent, 1)
    return 1.0 / (float(state.value) * decayed.gain * steps)


class Evaluations(NamedTuple):
    """Two signals where both were measured and are finite, oldest first."""

    spent: NDArray[np.int64]
    validation: Array
    train: Array

    @classmethod
    def of(cls, observation: Observation, validation: str, train: str, since: int) -> Self:
        """Those measured at a `spent` above `since`, the newest 100 at most."""
        a, b = observation.signals.get(validation), observation.signals.get(train)
        if a is None or b is None:
            return cls(np.empty(0, np.int64), np.empty(0), np.empty(0))
        spent, i, j = np.intersect1d(a.spent[-NEWEST:], b.spent[-NEWEST:], return_indices=True)
        x, y = a.value[-NEWEST:][i], b.value[-NEWEST:][j]
        counts = (spent > since) & np.isfinite(x) & np.isfinite(y)
        return cls(spent[counts], x[counts], y[counts])

    @classmethod
    def by_gap(cls, observation: Observation, validation: str, gap: str, since: int) -> Self:
        """The same, where the gap between the two is what was measured."""
        found = cls.of(observation, validation, gap, since)
        return found._replace(train=found.validation - found.train)

    @property
    def every(self) -> float:
        """The usual distance of two; 0 for fewer."""
        return float(np.median(np.diff(self.spent))) if len(self.spent) > 1 else 0.0


class Trend(NamedTuple):
    """A straight line through values, one an evaluation."""

    mean: float
    slope: float
    error: float
    """Of the slope."""

    @classmethod
    def of(cls, values: Array, deviation: float) -> Self:
        """Through at least 2 values, whose standard deviation about the line is known."""
        x = np.arange(len(values)) - (len(values) - 1) / 2
        squares = float(x @ x)
        return cls(float(values.mean()), float(x @ values) / squares, deviation / math.sqrt(squares))

    def falls(self, least: float) -> bool:
        """Whether it falls by more than a standard error, and than `least` of its mean an evaluation."""
        return self.slope < -max(least * abs(self.mean), self.error)


def noise(values: Array) -> float:
    """Standard deviation of single values, at least 3, from second differences: no trend counts."""
    return OF_MEDIAN_DIFFERENCE * float(np.median(np.abs(np.diff(values, 2))))
