"""GreedyLR: raises the rate while the loss improves and lowers it while it does not, to compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from autotune.records import Action, HyperparameterState, Observation, Set, TuneError

from .memory import RETRY, Remembering, disturbed, free
from .reduce_on_plateau import Improvement

SPAN = 1000.0  # factor either way that the rate may move by default
WRITTEN = math.log(1.1)  # log distance between the law's rate and the real one at which that is set


class GreedyLR(Remembering):
    """Divides a rate by `factor` after a row of improvements, and multiplies it after a row of failures.

    The same law as transformers' `GreedyLR`, value by value. The bounds are relative to the rate at the
    start: its own defaults, 1e-3 to 1, put Adam's usual rate below the lowest one. The law's rate moves by
    5 % at a time; the real one is set when it is 10 % off, so that not every tick brings a decision.

    It is greedy: it follows what the loss does now, and a loss can be made to fall faster now by a rate that
    is too low later (Wu et al. 2018). From a rate that is 1,000 times off it takes some 1,500 steps, and
    under noise records become rare, so that it only ever lowers. A peer, for comparison.

    What is no number, or infinite, is no improvement. When anyone else moves the rate or rewinds the run, it
    begins anew from there; while a person or a ramp holds the rate, it does not count.

    Source: "GreedyLR: A Novel Adaptive Learning Rate Scheduler", arXiv:2512.14527; transformers 5.23,
    optimization.py, against which it is tested.

    Args:
        hyperparameter: the rate.
        signal: what is watched.
        mode: whether the signal should be small (`min`) or large (`max`).
        factor: of a change, in (0, 1).
        patience: values in a row that are put up with, at least 0.
        threshold: smallest improvement, at least 0.
        threshold_mode: whether the threshold is relative to the best value (`rel`) or in its unit (`abs`).
        cooldown: values after a reduction that do not count, at least 0.
        warmup: values after a raise that do not count, at least 0.
        min_rate: lower bound; None: a thousandth of the rate at the start.
        max_rate: upper bound; None: a thousand times the rate at the start.
        window: values whose mean is compared, at least 1; 1: no smoothing.
        reset_start: reductions at the lower bound after which it begins anew from the rate at the start.
        name: unique within a run.

    Raises:
        TuneError: for an argument outside these ranges.
    """

    MEMORY = (
        "_start", "_rate", "_best", "_good", "_bad", "_resting", "_at_bound", "_recent", "_seen", "_wait",
    )  # fmt: skip

    def __init__(
        self,
        hyperparameter: str = "lr",
        signal: str = "loss",
        *,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-6,
        threshold_mode: Literal["rel", "abs"] = "abs",
        cooldown: int = 0,
        warmup: int = 0,
        min_rate: float | None = None,
        max_rate: float | None = None,
        window: int = 50,
        reset_start: int = 500,
        name: str = "greedy_lr",
    ) -> None:
        bounds = (min_rate, max_rate)
        ordered = min_rate is None or max_rate is None or min_rate < max_rate
        for rule, holds, value in (
            ("mode is 'min' or 'max'", mode in ("min", "max"), mode),
            ("factor lies in (0, 1)", 0 < factor < 1, factor),
            ("patience is 0 or more values", patience >= 0, patience),
            ("threshold is 0 or more", threshold >= 0, threshold),
            ("threshold_mode is 'rel' or 'abs'", threshold_mode in ("rel", "abs"), threshold_mode),
            ("cooldown is 0 or more values", cooldown >= 0, cooldown),
            ("warmup is 0 or more values", warmup >= 0, warmup),
            ("0 < min_rate < max_rate", ordered and all(b is None or b > 0 for b in bounds), bounds),
            ("window is at least 1 value", window >= 1, window),
            ("reset_start is at least 1", reset_start >= 1, reset_start),
        ):
            if not holds:
                raise TuneError(f"{rule}, got {value!r}; the default is a good start")
        self.name = name
        self.requires: Sequence[str] = (signal,)
        self.controls: Sequence[str] = (hyperparameter,)
        self._factor, self._patience, self._bounds = factor, patience, bounds
        self._rests, self._window, self._patience_at_bound = (cooldown, warmup), window, reset_start
        self._improvement = Improvement(mode, threshold, threshold_mode)
        self._start: float | None = None  # the rate at the start
        self._rate = 0.0  # the law's, from the first time on that it is asked
        self._best: float | None = None
        self._good = self._bad = 0  # improvements, and failures, in a row
        self._resting = 0  # values that do not count
        self._at_bound = 0  # reductions at the lower bound
        self._recent: list[float] = []  # the newest values
        self._seen = 0  # spent of the newest value that was counted
        self._wait = 0  # spent before which nothing is asked for

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        rate = observation.hyperparameters[self.controls[0]]
        now = float(rate.value)
        if now <= 0:
            return ()  # it moves by factors
        if self._start is None:
            self._start = now
            self._begin(now)
        if any(d.source == self.name and not d.applied for d in observation.decisions):
            self._wait = observation.spent + RETRY
        if disturbed(observation, self.name, rate.name) or not free(rate):
            self._begin(now)
            self._seen = observation.spent
        signal = observation.signals.get(self.requires[0])
        if signal is None or not len(signal):
            return ()
        for value in signal.value[signal.spent.searchsorted(self._seen, "right") :].tolist():
            self._count(value, rate, self._start)
        self._seen = max(self._seen, int(signal.spent[-1]))
        off = math.log(self._rate / now)
        if abs(off) < WRITTEN or observation.spent < self._wait:
            return ()
        reason = f"{self.requires[0]} {'keeps improving' if off > 0 else 'does not improve'}"
        return (Set(rate.name, self._rate, reason=reason, evidence={"best": self._best, "law": self._rate}),)

    def _count(self, value: float, rate: HyperparameterState, start: float) -> None:
        """One value of the signal, as transformers' `step`."""
        current = value
        if math.isfinite(value):
            self._recent = [*self._recent, value][-self._window :]
            current = sum(self._recent) / len(self._recent)
        if self._resting:
            self._resting, self._good, self._bad = self._resting - 1, 0, 0
            return
        if self._improvement(current, self._best):
            self._best, self._good, self._bad = current, self._good + 1, 0
        else:
            self._good, self._bad = 0, self._bad + 1
        lowest = max(rate.low or 0.0, self._bounds[0] or start / SPAN)
        highest = min(rate.high or math.inf, self._bounds[1] or start * SPAN)
        if self._good > self._patience:
            self._rate = max(self._rate, min(self._rate / self._factor, highest))
            self._resting, self._good, self._at_bound = self._rests[1], 0, 0
        elif self._bad > self._patience:
            self._rate = min(self._rate, max(self._rate * self._factor, lowest))
            self._bad = 0
            self._at_bound += self._rate <= lowest
            if self._at_bound >= self._patience_at_bound:
                self._begin(start)
            self._resting = self._rests[0]

    def _begin(self, rate: float) -> None:
        """Forget all but the clocks and the rate at the start."""
        self._rate, self._best, self._recent = rate, None, []
        self._good = self._bad = self._resting = self._at_bound = 0
