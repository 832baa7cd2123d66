"""Where a loss is heading: an exponential through its noise, read off at a later step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from .evaluations import noise
from .robust import Array

FEWEST = 8  # finite values that an exponential is fitted to
MOST = 100  # values that it is fitted to: means of neighbours, where there are more
WINDOW = 5  # neighbours whose median a value is compared with
FAR = 3.0  # standard deviations from it at which a value of the earlier half is an outlier
SLOWEST, FASTEST = 0.1, 5.0  # rates of decay that are tried, over the series
ACCURACY = 1e-3  # of the log of the rate
LEVEL = 0.1  # part of the values whose median is the last level


@dataclass(frozen=True, slots=True)
class Forecast:
    """L(x) = a e^(b x) + c with b ≤ 0."""

    a: float
    b: float
    c: float
    fitted: bool
    """Whether an exponential was fitted; else a and b are 0 and c is the last level, NaN for no values."""

    def at(self, x: float) -> float:
        """The loss at a step, counted as those that were fitted."""
        return self.a * math.exp(self.b * x) + self.c


def exponential(x: Array, losses: Array) -> Forecast:
    """The exponential that a series of losses follows, by least squares.

    *Outliers.* Values of the earlier half that are 3 standard deviations off the median of five neighbours
    are left out. The later half keeps all of its values: what happens there is what is going to be.
    *Fit.* For a rate b, a and c are linear; b is searched on a log scale between those that fall to e^-5 and
    to e^-0.1 over the series, so that the forecast is neither a spike nor a straight line. Where no loss is
    negative, c is not either.
    *Not fitted* is a series with fewer than 8 finite values, or a constant one: it is forecast to stay at the
    median of its last tenth.

    Source: Jin et al. 2021 (AutoLRS), where iterated splines stand for the medians; the bounds
    are ours.

    Args:
        x: (n,) steps, increasing.
        losses: (n,) of these steps; what is not finite is left out.
    """
    sound = np.isfinite(losses)
    x, losses = np.asarray(x, dtype=float)[sound], np.asarray(losses, dtype=float)[sound]
    if not len(x):
        return Forecast(0.0, 0.0, math.nan, False)
    flat = Forecast(0.0, 0.0, float(np.median(losses[-max(1, round(LEVEL * len(x))) :])), False)
    if len(x) < FEWEST or np.ptp(losses) <= 1e-12 * float(np.abs(losses).max()):
        return flat
    if len(x) > MOST:
        x, losses = (np.array([part.mean() for part in np.array_split(s, MOST)]) for s in (x, losses))
    kept = ~_outliers(losses)
    x, y = x[kept], losses[kept]
    begin, span, positive = x[0], x[-1] - x[0], bool(y.min() >= 0)
    t = (x - begin) / span

    def misfit(log_rate: float) -> float:
        return _linear(t, y, math.exp(log_rate), positive)[2]

    bounds = (math.log(SLOWEST), math.log(FASTEST))
    rate = math.exp(minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": ACCURACY}).x)
    a, c, _ = _linear(t, y, rate, positive)
    return Forecast(a * math.exp(rate * begin / span), -rate / span, c, True)


def _outliers(losses: Array) -> NDArray[np.bool_]:
    """Which values of the earlier half are far from their neighbours."""
    near = np.median(sliding_window_view(np.pad(losses, WINDOW // 2, mode="edge"), WINDOW), axis=1)
    far: NDArray[np.bool_] = np.abs(losses - near) > FAR * noise(losses)
    far[len(losses) // 2 :] = False
    return far


def _linear(t: Array, y: Array, rate: float, positive: bool) -> tuple[float, float, float]:
    """a and c of a e^(-rate t) + c by least squares, and the squares that are left; c ≥ 0 if `positive`."""
    e = np.exp(-rate * t)
    centred = e - e.mean()
    a = float(centred @ y / (centred @ centred))
    c = float(y.mean() - a * e.mean())
    if positive and c < 0:
        a, c = float(e @ y / (e @ e)), 0.0
    return a, c, float(((y - a * e - c) ** 2).sum())
