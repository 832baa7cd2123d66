"""Hypergradient: moves the rate by how well the gradient agrees with the last update, to compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autotune.records import Action, Observation, Set, TuneError

from .memory import RETRY, Remembering, disturbed, free

GAIN = 0.1  # κ
WRITTEN = math.log(1.1)  # exponent at which the rate is set


class Hypergradient(Remembering):
    """rate ← rate · exp(−κ Σ cos(g_t, u_{t−1})), with the gradient g_t and the update u_{t−1} before it.

    g_t · u_{t−1} is the derivative of the loss in the log of the last step's rate. Negative: the way still
    led downhill, and a longer step would have been better; positive: it led too far. The cosine is what is
    measured as `update_alignment`, one value in a tick. The exponent is summed up, and the rate is set when
    it has moved by 10 %.

    It helps from below. From above it fails: a rate that breaks the run has broken it before the rate is
    down. And it is greedy: under noise g_t · u_{t−1} is positive at any rate as soon as the loss falls no
    more, so that it anneals then, early or late (Wu et al. 2018). A peer, for comparison.

    When anyone else moves the rate or rewinds the run, the sum begins anew; while a person or a ramp holds
    the rate, nothing is summed up.

    Source: Baydin, Cornish, Martínez Rubio, Schmidt, Wood, "Online learning rate adaptation with
    hypergradient descent", ICLR 2018, section 3, multiplicative, normalised, and in the log of the rate.

    Args:
        hyperparameter: the rate.
        gain: κ, the log factor for a cosine of 1, above 0.
        name: unique within a run.

    Raises:
        TuneError: for a gain that is not above 0.
    """

    MEMORY = ("_exponent", "_seen", "_wait")
    requires: Sequence[str] = ("update_alignment",)

    def __init__(self, hyperparameter: str = "lr", gain: float = GAIN, name: str = "hypergradient") -> None:
        if not 0 < gain < math.inf:
            raise TuneError(f"gain is a number above 0, got {gain!r}; {GAIN} is the default")
        self.name = name
        self.controls: Sequence[str] = (hyperparameter,)
        self._gain = gain
        self._exponent = 0.0  # log factor that has not been set yet
        self._seen = 0  # spent of the newest value that was counted
        self._wait = 0  # spent before which nothing is asked for

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        rate = observation.hyperparameters[self.controls[0]]
        for decision in observation.decisions:
            if decision.source == self.name and not decision.applied:
                self._wait = observation.spent + RETRY
        if disturbed(observation, self.name, rate.name) or not free(rate):
            self._exponent, self._seen = 0.0, observation.spent
        signal = observation.signals.get("update_alignment")
        if signal is None or not len(signal):
            return ()
        new = signal.value[signal.spent.searchsorted(self._seen, "right") :]
        self._seen = max(self._seen, int(signal.spent[-1]))
        self._exponent -= self._gain * float(new[np.isfinite(new)].sum())
        now = float(rate.value)
        value = min(max(now * math.exp(self._exponent), rate.low or 0.0), rate.high or math.inf)
        if observation.spent < self._wait or abs(self._exponent) < WRITTEN:
            return ()
        exponent, self._exponent = self._exponent, 0.0
        if value == now:
            return ()
        reason = "updates fall short" if exponent > 0 else "updates lead too far"
        return (Set(rate.name, value, reason=reason, evidence={"exponent": exponent}),)
