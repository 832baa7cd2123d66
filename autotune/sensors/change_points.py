"""When the loss began to behave as it does now: plateaus, turns, jumps and spikes, with their probability."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records import Signal
from .sensor import Parameters, Readings, Sensor

Array = NDArray[np.float64]

HAZARD = 1 / 300  # probability that a value is the first of a new regime
MEMORY = 128  # values after which a regime forgets its oldest
AGREEING, RECENT = 2, 40  # values that a new regime must have to count as a change, and may have
LEVEL, SLOPE = 3.0, 0.3  # of a new regime, in σ: standard deviations of its jump and of its slope a value
BELIEVED = 10  # degrees of freedom of σ: one more with each value of the run, at most so many
NOISE, FLOOR = 0.1, 1e-4  # σ of the log loss: expected before the first value, and the least believed in
LARGEST = 1e12  # |y| that is believed

NEXT, TREND, LOG_VARIANCE, LOG_P = range(4)  # rows of the regimes: of y its forecast and slope, of σ log σ²
GAIN_NEXT, GAIN_TREND, OF_TREND, OF_NEXT = range(4)  # rows of the table: gains, and variances in σ²


class ChangePoints(Sensor):
    """Bayesian online detection of changes in the trend of the loss, from the losses that the host has.

    A value y is the mean log loss over the steps between two samples. Within a regime y is a line with
    Gaussian noise, all three unknown; each value begins a new regime with probability 1/300. The posterior
    over the number of values in the present regime gives

    - `loss_change`: the probability that it has 2 to 40 values; a run's first regime is no change.
    - `loss_slope`: the slope of y a step, averaged over that posterior: −0.001 is a fall by 0.1 % a step.
    - `loss_slope_error`: its standard error, with the chance that the regime has just ended in it.
    - `loss_regime`: steps in the most probable regime, at most 128 values.

    *Regime.* Linear regression with a normal-inverse-gamma prior: it begins where the mixture of the old ones
    expects the next value ± 3 σ, with a slope of 0 ± 0.3 σ a value, and takes over what they know of σ. So
    the predictive distribution is Student's t. What exceeds 10 degrees of freedom of σ, or 128 values, is
    forgotten: tails stay heavy, and a slow curve is no sequence of changes.

    Losses that are not finite are left out, as are those without a log. From where most between two samples
    are without, y is the mean loss over its size at the time, and the first regime begins again.

    Any change of the trend is one, one that a policy has made too; so are the bends of the first steps. Where
    the noise of neighbouring values is correlated, it sees changes that are none.

    Source: R. P. Adams, D. J. C. MacKay, "Bayesian online changepoint detection", arXiv:0710.3742, algorithm
        1; discounted variance as in M. West, J. Harrison, "Bayesian Forecasting and Dynamic Models",
        2nd edition, Springer 1997, section 10.8.
    """

    signals = ("loss_change", "loss_slope", "loss_slope_error", "loss_regime")
    derives = True
    _regimes: Array

    def prepare(self, parameters: Parameters) -> None:
        """See `Sensor.prepare`."""
        self._until = 0  # the step up to which losses are taken in
        self._unit = 0.0  # of the loss; 0: its log is taken
        self._begin()

    def derive(self, signals: Mapping[str, Signal], every: int) -> Iterator[tuple[int, int, Readings]]:
        """See `Sensor.derive`."""
        if "loss" not in signals:
            return
        new, known = signals["loss"].since(self._until + 1), signals.get(self.signals[0])
        if not len(new):
            return
        samples = (new.step - 1) // every
        ends = (np.flatnonzero(np.diff(samples)) + 1).tolist()
        if new.step[-1] % every == 0:
            ends.append(len(new))
        for start, end in zip([0, *ends], ends, strict=False):
            self._until = int(samples[start] + 1) * every
            step, spent = int(new.step[end - 1]), int(new.spent[end - 1])
            # After a rewind it may be behind what it had already told.
            told = known is not None and len(known) > 0 and step <= known.step[-1]
            if self._take(new.value[start:end]) and not told:
                yield step, spent, Readings(self.signals, self._read(every))

    def state_dict(self) -> dict[str, Any]:
        """The regimes (never written to, so not copied), and how far they are."""
        return {"regimes": self._regimes, "count": self._count, "unit": self._unit, "until": self._until}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Sensor.load_state_dict`."""
        self._regimes, self._count = state["regimes"], state["count"]
        self._unit, self._until = state["unit"], state["until"]

    def _begin(self) -> None:
        self._regimes = np.empty((4, 0))  # in the columns those of 1, 2, ... values
        self._count = 0  # values in all

    def _take(self, losses: Array) -> bool:
        """Take in the losses of one sample; returns whether any of them could be used."""
        losses = losses[np.isfinite(losses)]
        if not len(losses):
            return False
        positive = losses[losses > 0]
        if not self._unit and 2 * len(positive) < len(losses):
            usual = math.exp(min(float(self._mixture()[NEXT]), 700.0)) if self._count else 0.0
            self._unit = max(usual, float(np.abs(losses).max())) or 1.0
            self._begin()
        y = float((losses / self._unit).mean() if self._unit else np.log(positive).mean())
        self._update(min(max(y, -LARGEST), LARGEST))
        return True

    def _update(self, y: float) -> None:
        length = self._regimes.shape[1] + 1
        regimes = np.empty((4, length))
        regimes[:, 1:] = self._regimes
        # A regime that begins with y.
        regimes[:LOG_P, 0] = self._mixture() if self._count else (y, 0.0, 2 * math.log(NOISE))
        regimes[TREND, 0] = 0.0
        regimes[LOG_P, 0] = math.log(HAZARD)
        regimes[LOG_P, 1:] += math.log1p(-HAZARD)
        # Algorithm 1, steps 3 to 6: how probable y is in each.
        forecast, trend, log_variance, log_p = regimes
        table, freedom = TABLE[:, :length], min(1 + self._count, BELIEVED)
        error = y - forecast
        surprise = np.log1p(error * error * np.exp(-log_variance) / (freedom * table[OF_NEXT]))
        log_p -= 0.5 * (log_variance + np.log(table[OF_NEXT]) + (freedom + 1) * surprise)
        log_p -= log_p.max()
        log_p -= math.log(np.exp(log_p).sum())
        # Step 8: what each learns from y.
        forecast += trend + table[GAIN_NEXT] * error
        trend += table[GAIN_TREND] * error
        log_variance += surprise + math.log(freedom / (freedom + 1))
        np.maximum(log_variance, 2 * math.log(FLOOR), out=log_variance)
        if length > MEMORY:  # the two longest become one
            total = np.logaddexp(log_p[-2], log_p[-1])
            regimes[:LOG_P, -2] = (regimes[:LOG_P, -2:] * np.exp(log_p[-2:] - total)).sum(axis=1)
            log_p[-2] = total
            regimes = regimes[:, :-1]
        self._regimes = regimes
        self._count += 1

    def _mixture(self) -> Array:
        """What the regimes expect together: the forecast of y, its slope, log σ²."""
        mixture: Array = (self._regimes[:LOG_P] * np.exp(self._regimes[LOG_P])).sum(axis=1)
        return mixture

    def _read(self, every: int) -> list[float]:
        _, trend, log_variance, log_p = self._regimes
        p = np.exp(log_p)
        slope = float((p * trend).sum())
        within = np.exp(log_variance) * TABLE[OF_TREND, : len(p)]
        error = math.sqrt((p * (within + (trend - slope) ** 2)).sum())
        first = min(self._count, MEMORY) - 1  # place of the run's first regime, as long as it is known
        change = float(p[AGREEING - 1 : min(RECENT, first)].sum())
        return [change, slope / every, error / every, float(log_p.argmax() + 1) * every]


def _table() -> Array:
    """What depends on nothing but how many values a regime had before y: a column for each number."""
    columns = []
    level, both, trend = LEVEL**2, 0.0, SLOPE**2  # covariance of the level at y and the slope, in σ²
    for _ in range(MEMORY + 1):
        predictive = 1 + level
        gain_level, gain_trend = level / predictive, both / predictive
        level, both, trend = level - gain_level * level, both - gain_level * both, trend - gain_trend * both
        columns.append((gain_level + gain_trend, gain_trend, trend, predictive))
        level, both = level + 2 * both + trend, both + trend
    return np.array(columns).T


TABLE = _table()
