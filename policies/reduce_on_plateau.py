"""ReduceOnPlateau: torch's ReduceLROnPlateau as a policy, to compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from autotune.records import Action, Observation, Set, TuneError

from .memory import RETRY, Remembering, disturbed, free

EPS = 1e-8  # smallest reduction, as in torch


class ReduceOnPlateau(Remembering):
    """Multiplies a rate by `factor` after more than `patience` values in a row that were no improvement.

    The same law as `torch.optim.lr_scheduler.ReduceLROnPlateau`, value by value. It counts values, and knows
    nothing of their noise: on a noisy signal the record low of some lucky value makes every later one look
    bad, and on a slow one it decays what only paused. `Plateau` tests instead. A peer, for comparison.

    What is no number, or infinite, is no improvement. When anyone else moves the rate or rewinds the run, it
    begins anew; while a person or a ramp holds the rate, it does not count.

    Source: torch 2.13, torch/optim/lr_scheduler.py, `ReduceLROnPlateau`, against which it is tested.

    Args:
        hyperparameter: the rate.
        signal: what is watched; better one value an evaluation than one a step.
        mode: whether the signal should be small (`min`) or large (`max`).
        factor: of a reduction, in (0, 1).
        patience: values without improvement that are put up with, at least 0.
        threshold: smallest improvement, at least 0.
        threshold_mode: whether the threshold is relative to the best value (`rel`) or in its unit (`abs`).
        cooldown: values after a reduction that do not count, at least 0.
        min_rate: the rate is not reduced below it, at least 0.
        name: unique within a run.

    Raises:
        TuneError: for an argument outside these ranges.
    """

    MEMORY = ("_best", "_bad", "_cooling", "_seen", "_wait")

    def __init__(
        self,
        hyperparameter: str = "lr",
        signal: str = "validation/loss",
        *,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_rate: float = 0.0,
        name: str = "reduce_on_plateau",
    ) -> None:
        for rule, holds, value in (
            ("mode is 'min' or 'max'", mode in ("min", "max"), mode),
            ("factor lies in (0, 1)", 0 < factor < 1, factor),
            ("patience is 0 or more values", patience >= 0, patience),
            ("threshold is 0 or more", threshold >= 0, threshold),
            ("threshold_mode is 'rel' or 'abs'", threshold_mode in ("rel", "abs"), threshold_mode),
            ("cooldown is 0 or more values", cooldown >= 0, cooldown),
            ("min_rate is 0 or more", min_rate >= 0, min_rate),
        ):
            if not holds:
                raise TuneError(f"{rule}, got {value!r}; the default is a good start")
        self.name = name
        self.requires: Sequence[str] = (signal,)
        self.controls: Sequence[str] = (hyperparameter,)
        self._factor, self._patience, self._rest, self._min_rate = factor, patience, cooldown, min_rate
        self._improvement = Improvement(mode, threshold, threshold_mode)
        self._best: float | None = None
        self._bad = 0  # values in a row that were no improvement
        self._cooling = 0  # values that do not count
        self._seen = 0  # spent of the newest value that was counted
        self._wait = 0  # spent before which nothing is asked for

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        rate = observation.hyperparameters[self.controls[0]]
        if any(d.source == self.name and not d.applied for d in observation.decisions):
            self._wait = observation.spent + RETRY
        if disturbed(observation, self.name, rate.name) or not free(rate):
            self._best, self._bad, self._cooling, self._seen = None, 0, 0, observation.spent
        signal = observation.signals.get(self.requires[0])
        if signal is None or observation.spent < self._wait:
            return ()
        new = signal.spent.searchsorted(self._seen, "right")
        now = value = float(rate.value)
        low = max(rate.low or 0.0, self._min_rate)
        evidence: dict[str, float | int | None] = {"best": self._best}
        for current in signal.value[new:].tolist():
            if self._count(current):
                evidence = {"best": self._best, "last": current if math.isfinite(current) else None}
                reduced = max(value * self._factor, low)
                value = reduced if value - reduced > EPS else value
        if len(signal):
            self._seen = max(self._seen, int(signal.spent[-1]))
        if value == now:
            return ()
        reason = f"{self.requires[0]} has not improved for {self._patience + 1} values"
        return (Set(rate.name, value, reason=reason, evidence=evidence),)

    def _count(self, current: float) -> bool:
        """Whether this value is one too many without improvement."""
        if self._improvement(current, self._best):
            self._best, self._bad = current, 0
        else:
            self._bad += 1
        if self._cooling:
            self._cooling, self._bad = self._cooling - 1, 0
        if self._bad <= self._patience:
            return False
        self._cooling, self._bad = self._rest, 0
        return True


class Improvement:
    """Whether a value is better than the best one by more than a threshold; see `ReduceOnPlateau`."""

    def __init__(
        self, mode: Literal["min", "max"], threshold: float, threshold_mode: Literal["rel", "abs"]
    ) -> None:
        self._sign = 1 if mode == "max" else -1
        self._threshold, self._relative = threshold, threshold_mode == "rel"

    def __call__(self, current: float, best: float | None) -> bool:
        """The first finite value is better than None."""
        if not math.isfinite(current):
            return False
        if best is None:
            return True
        if self._relative:
            return self._sign * current > self._sign * (best * (1 + self._sign * self._threshold))
        return self._sign * current > self._sign * (best + self._sign * self._threshold)
