"""Range test: finds the order of magnitude of a rate by a ramp over many decades, and goes back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autotune.records import (
    Action,
    Checkpoint,
    Data,
    Evidence,
    Observation,
    Ramp,
    Release,
    Rewind,
    Set,
    Suggest,
    TuneError,
)

from .memory import RETRY, Remembering, disturbed, free, refused
from .robust import Array, noise, running_median, y_of

SPAN = 1e4  # of the ramp, below and above the rate at the time
PART, FEWEST, LONGEST = 0.08, 60, 400  # length: part of the budget; at least; at most
USUAL = 100  # length without a budget
MOST = 0.25  # part of the steps that are left, beyond which a test is not begun
WIDTH = 0.5  # decades that the loss is smoothed over
EXPLODED = math.log(4)  # y above the best, for three losses in a row
FELL = 3.0  # standard errors, by which the loss has to have fallen
BELOW = 0.1  # the rate that is chosen, over the one at the lowest loss
SLOW, FAST = 10.0, math.sqrt(10)  # factors by which a rate of the right order may be below it, and above


class RangeTest(Remembering):
    """Ramps the rate over eight decades, watches the loss, goes back, and sets a tenth of the best one.

    *Test.* From a checkpoint that it makes, before the first step or when it is requested, the rate grows
    exponentially from 1e-4 to 1e4 times its value (within its bounds) in 8 % of the budget, 60 to 400 steps,
    on the batches that come again afterwards. y is the log of the loss, smoothed over half a decade. The
    ramp ends early when three losses in a row are 4 times the lowest (as medians of 3), or not finite; a
    bounded loss never explodes, and the ramp then runs to its end.

    *Choice.* A tenth of the rate at the lowest y. The rate stays where it was if it is at most √10 times that
    and at least a tenth of it, for so short a test, without a cool-down, says an order of magnitude and no
    more; or if y has not fallen by 3 standard errors at any rate. Then the run goes back, and the rate is
    released, so that later policies may move it either way. Who moves the rate or rewinds during the test
    ends it: the run goes back, to the rate that it had.

    The steps count as spent, so the gain is in runs whose rate is off by more than an order of magnitude.
    Stand it first in the list of policies: a divergence guard further up takes its ramp for a divergence.

    Source: Smith 2017 (Cyclical learning rates for training neural networks, section 3.3); a tenth of the
    rate at the minimum as in fastai's `lr_find`. Divisor and smoothing were checked on synthetic runs.

    Args:
        hyperparameter: the rate, on a log scale.
        signal: what is watched, measured at every step.
        low: rate at which the ramp begins; None: 1e-4 times the present one.
        high: rate at which it ends; None: 1e4 times the present one.
        steps: length of the ramp; None: 8 % of the budget, 60 to 400, or 100 without a budget.
        at_start: test before anything else; otherwise only when `request` is called.
        name: unique within a run.

    Raises:
        TuneError: for rates that are not positive or in the wrong order, or fewer than 20 steps.
    """

    MEMORY = ("_asked", "_test", "_to", "_returning", "_wait")

    def __init__(
        self,
        hyperparameter: str = "lr",
        signal: str = "loss",
        *,
        low: float | None = None,
        high: float | None = None,
        steps: int | None = None,
        at_start: bool = True,
        name: str = "range_test",
    ) -> None:
        if (low is not None and low <= 0) or (high is not None and high <= (low or 0.0)):
            raise TuneError(
                f"a range test goes from 0 < low up to high, got {low=}, {high=}; swap or drop them"
            )
        if steps is not None and steps < 20:
            raise TuneError(f"a range test takes at least 20 steps, got {steps}; it is asked every 10")
        self.name = name
        self.requires: Sequence[str] = (signal,)
        self.controls: Sequence[str] = (hyperparameter,)
        self._low, self._high, self._steps = low, high, steps
        self._asked = at_start
        self._test: dict[str, float] | None = None  # the one that is running
        self._to: int | str = 0  # the state it goes back to
        self._returning = False  # the way back was asked for
        self._wait = 0  # spent before which nothing is asked for

    def request(self) -> None:
        """Ask for a test from the present state on; call it from the training loop."""
        self._asked = True

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        if self._returning:
            return self._returned(observation)
        if self._test is None:
            return self._begin(observation) if self._asked and observation.spent >= self._wait else ()
        if undone(observation, self.name):
            self._asked, self._wait = refused(observation, self.name), observation.spent + RETRY
            self._test = None
            return ()
        held = observation.hyperparameters[self.controls[0]].owner != "policy"
        if held or disturbed(observation, self.name, self.controls[0]):
            if observation.step < self._test["start"]:  # someone went back further
                self._test = None
                return ()
            rate = None if held else self._test["rate"]
            return self._back(rate, "the range test was interrupted", {}, "skip")
        return self._watch(observation, self._test)

    def _begin(self, observation: Observation) -> Sequence[Action]:
        rate = observation.hyperparameters[self.controls[0]]
        if not free(rate):
            return ()
        steps = self._steps or self._length(observation)
        reason = self._impossible(observation, steps)
        if reason:
            self._asked = False
            return (Suggest(reason=f"no range test: {reason}"),)
        value = float(rate.value)
        low = max(self._low or value / SPAN, rate.low or 0.0)
        high = min(self._high or value * SPAN, math.inf if rate.high is None else rate.high)
        if not 0 < low < high:
            self._asked = False
            return (Suggest(reason=f"no range test: it would go from {low:g} to {high:g}"),)
        keep, self._to, start = kept(observation, self.name)
        self._asked = False
        self._test = {"rate": value, "low": low, "high": high, "start": start, "steps": steps}
        reason = "a range test"
        ramp = Ramp(rate.name, high, steps, "exponential", reason=reason)
        then = (Set(rate.name, low, reason=reason), ramp)
        return (*keep, Rewind(self._to, "replay", then, reason=reason))

    def _length(self, observation: Observation) -> int:
        return (
            USUAL
            if observation.budget is None
            else min(max(FEWEST, round(PART * observation.budget)), LONGEST)
        )

    def _impossible(self, observation: Observation, steps: int) -> str:
        if observation.rewinds_left < 2:
            return f"it takes 2 rewinds, and {observation.rewinds_left} are left"
        if observation.remaining is not None and steps > MOST * observation.remaining:
            needed = math.ceil(steps / MOST)
            return f"it takes {steps} steps, so {needed} have to be left, and {observation.remaining} are"
        return ""

    def _watch(self, observation: Observation, test: Mapping[str, float]) -> Sequence[Action]:
        signal = observation.signals.get(self.requires[0])
        if signal is None:
            return ()
        signal = signal.since(int(test["start"]) + 1)
        if len(signal) < 5:
            return ()
        rates = test["low"] * (test["high"] / test["low"]) ** (
            np.minimum(signal.step - 1 - test["start"], test["steps"]) / test["steps"]
        )
        y = y_of(signal.value, signal.value)
        end = _exploded(y)
        if end is None and observation.step < test["start"] + test["steps"]:
            return ()
        diverged = None if end is None else float(rates[end])
        width = round(WIDTH * test["steps"] / math.log10(test["high"] / test["low"]))
        chosen, reason, evidence = _choice(rates[:end], y[:end], width, test["rate"], diverged)
        low = observation.hyperparameters[self.controls[0]].low or 0.0
        return self._back(max(chosen, low), reason, evidence, "replay")

    def _back(self, rate: float | None, reason: str, evidence: Evidence, data: Data) -> Sequence[Action]:
        """Back to where the test began; `rate` is None where a person holds it."""
        assert self._test is not None
        name = self.controls[0]
        self._returning = True
        then = () if rate is None else (Set(name, rate, reason=reason),)
        back = Rewind(self._to, data, then, reason=reason, evidence=evidence)
        return (back, *(Release(name, reason="the range test is over") for _ in then))

    def _returned(self, observation: Observation) -> Sequence[Action]:
        """Where the way back was refused, at least the rate goes back."""
        assert self._test is not None
        test, self._test, self._returning = self._test, None, False
        rate = observation.hyperparameters[self.controls[0]]
        if rate.owner != "policy" or not undone(observation, self.name):
            return ()
        reason = "the range test could not go back"
        return (Set(rate.name, test["rate"], reason=reason), Release(rate.name, reason=reason))


def kept(observation: Observation, name: str) -> tuple[Sequence[Action], int | str, int]:
    """A state that is still there when it is gone back to again: what to do first, its name, and its step.

    A checkpoint, for states in memory make room for newer ones and are lost with the process.
    """
    label = f"{name}-{observation.spent}"
    return (Checkpoint(label, reason="to go back to"),), label, observation.step


def undone(observation: Observation, source: str) -> bool:
    """Whether a rewind that `source` asked for last time did not take place, or was only suggested."""
    asked = (d for d in observation.decisions if d.source == source and isinstance(d.action, Rewind))
    return any(not d.applied for d in asked)


def _exploded(y: Array) -> int | None:
    """Index from which on y stays far above the lowest one yet; None where it does not."""
    level = running_median(y, 3)
    with np.errstate(invalid="ignore"):  # infinite from the start
        above = level > np.minimum.accumulate(level) + EXPLODED
    found = np.flatnonzero(above[:-2] & above[1:-1] & above[2:]) + 1
    return int(found[0]) if len(found) else None


def _choice(
    rates: Array, y: Array, width: int, rate: float, diverged: float | None
) -> tuple[float, str, Evidence]:
    """The rate to go on with, why, and the evidence."""
    finite = y[np.isfinite(y)]
    y = np.where(np.isfinite(y), y, finite.max(initial=0.0))
    width = max(1, min(max(width, 3), len(y)))
    window = np.ones(width)
    smooth = np.convolve(y, window, "same") / np.convolve(np.ones(len(y)), window, "same")
    lowest = int(np.argmin(smooth))
    steepest = int(np.argmin(np.diff(smooth[: lowest + 1], prepend=smooth[0])))
    fall, error = float(y[:width].mean() - smooth[lowest]), noise(finite) * math.sqrt(2 / width)
    evidence = {
        "rate_before": rate,
        "rate_lowest": float(rates[lowest]),
        "rate_steepest": float(rates[steepest]),
        "rate_diverged": diverged,
        "fall": fall,
        "standard_error": error,
        "steps": len(y),
    }
    chosen = BELOW * float(rates[lowest])
    reached = f"between {rates[0]:.2g} and {rates[-1]:.2g}"
    if fall <= FELL * error:
        if diverged is not None and rate > BELOW * diverged:
            return BELOW * diverged, "the loss falls at no rate and explodes: a tenth of where", evidence
        return rate, f"the loss falls at no rate {reached}: the rate stays", evidence
    if chosen / SLOW <= rate <= chosen * FAST:
        return rate, "the rate is of the right order: it stays", evidence
    still = " (it still fell there, at the end: test again with high=...)" if lowest == len(y) - 1 else ""
    return chosen, f"the loss is lowest at {rates[lowest]:.2g}{still}: a tenth of that", evidence
