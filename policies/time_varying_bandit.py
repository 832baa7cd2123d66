"""A bandit over factors for rates: a Gaussian process that forgets, and an arm that does nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from autotune.records import (
    Action,
    HyperparameterState,
    Observation,
    Ramp,
    Rewind,
    Set,
    Signal,
    TuneError,
)

from .background import Background
from .gaussian_process import Surrogate
from .memory import RETRY, Remembering, disturbed, free, refused
from .robust import OF_MEDIAN, Array, noise

INTERVAL, INTERVAL_STEPS = 1 / 20, 100  # length, as a part of the budget; without one, in steps
SHORTEST, FEWEST = 20, 8  # steps of an interval, and values of it that are measured
SETTLING = 0.25  # part of an interval that does not count: the loss goes to the level of the new rate
FACTORS = (0.5, math.sqrt(0.5), math.sqrt(2), 2.0)  # beside 1, which is to do nothing
FURTHEST = 64.0  # factor above the start
LENGTH = 1.0  # octaves, of the kernel
OMEGA = 0.1  # how fast the kernel forgets, an interval
CLEAR = 3.0  # standard errors that a fall or a rise has to be clear of
WORSE, WORST = 0.05, 0.7  # rises of the log loss that are undone: by the end of an interval, and at any time
RECENT = 10  # values whose median is the newest level
MEMORABLE = 40  # intervals that are remembered
COOLING, END = 0.4, 0.3  # part of the budget over which what was raised comes back, and how far
APART = 1.01  # factor by which values differ

Point: TypeAlias = tuple[float, ...]


class TimeVaryingBandit(Remembering):
    """Raises rates by bounded factors while that makes the loss fall faster, and brings them back at the end.

    *Reward.* The fall of the log loss a step over an interval of a twentieth of the budget: the medians of
    its halves, the first quarter left out. A level that a new rate brings with it is no progress, and that a
    lower rate makes the loss drop at once does not count for it.

    *Model.* A Gaussian process of the reward over the rates, in octaves, and time: squared-exponential times
    (1 − ω)^(|t − t'| / 2), so that what was seen long ago counts less; rewards are standardised and have
    their own standard errors as noise.

    *Choice.* GP-UCB, mean + √β std with β = 0.2 + max(0, log 0.4 n), over 1/2, 1/√2, 1, √2 and 2 times one
    of the rates. A rate is raised only while there is evidence that training works: the loss has fallen
    since the last move by 3 standard errors, to a new lowest level. A raised one may go back, as far as where
    it began, when the loss has not fallen by a standard error in the last interval; then none is raised any
    more. None is raised by more than 64 in all.

    *Undo.* When the log loss is more than 0.05 and 3 standard errors above where it was before a rate was
    raised, the rate goes back; at a rise of 0.7, or a lost loss, the run is rewound too. Such a reward is
    worse than all.

    *End.* Over the last 40 % of the budget the rates go in a line to 0.3 times where they began, if any was
    ever raised. Otherwise nothing is touched.

    The fit takes a millisecond, in a thread between two ticks. When anyone else moves a rate it begins anew
    from there.

    It helps where rates are too low and the loss says so. It does nothing for those that are too high.
    Without a budget nothing brings a raised rate back, which harms.

    Source: Parker-Holder, Nguyen & Roberts 2020 (PB2): kernel, β; there is one run here, and so no
    one to copy from, ω and the length are fixed, and std stands where its published code has the variance.

    Args:
        hyperparameters: one rate, or several; positive.
        name: unique within a run.

    Raises:
        TuneError: for no hyperparameter, or the same one twice.
    """

    MEMORY = (
        "_start",
        "_values",
        "_since",
        "_begun",
        "_intervals",
        "_judging",
        "_raised",
        "_retreated",
        "_touched",
        "_wait",
    )

    def __init__(
        self, hyperparameters: str | Sequence[str] = "lr", *, name: str = "time_varying_bandit"
    ) -> None:
        names = (hyperparameters,) if isinstance(hyperparameters, str) else tuple(hyperparameters)
        if not names or len(set(names)) < len(names):
            raise TuneError(f"a bandit moves one hyperparameter or several different ones, got {names!r}")
        self.name = name
        self.requires: Sequence[str] = ("loss",)
        self.controls: Sequence[str] = names
        self._background = Background()
        self._start: list[float] = []  # values at the start
        self._values: list[float] = []  # that it knows of
        self._since = 0  # spent when they became what they are
        self._begun = 0  # spent when the interval began
        self._intervals: list[dict[str, Any]] = []  # the newest ones that were measured
        self._judging = False  # what follows from the newest one is being worked out
        self._raised = False  # a rate, since the newest one
        self._wait = 0  # spent before which nothing is asked for
        self._retreated = False  # a raised rate has gone back: none is raised any more
        self._touched = False  # a rate has been raised: all are cooled

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        states = [observation.hyperparameters[name] for name in self.controls]
        values, spent = [float(state.value) for state in states], observation.spent
        mine = any(d.source == self.name and d.applied for d in observation.decisions)
        if values != self._values and not mine:
            self._start, self._intervals, self._retreated, self._touched = values, [], False, False
            self._restart(spent)
        self._values = values
        if refused(observation, self.name):
            self._wait = spent + RETRY
            self._restart(spent)
        if not all(map(free, states)) or any(disturbed(observation, self.name, n) for n in self.controls):
            self._restart(spent)
            return ()
        loss, budget = observation.signals.get("loss"), observation.budget
        if spent < self._wait or loss is None or min(values) <= 0:
            return ()
        if budget is not None and spent >= (1 - COOLING) * budget:
            return self._cool(observation, states)
        if self._raised:
            newest = _since(loss, self._begun)[-RECENT:]
            level = float(np.median(newest)) if len(newest) == RECENT else -math.inf
            if not level <= self._intervals[-1]["level"] + WORST:
                return self._undo(observation, level, rewind=True)
        if self._judging:
            return self._judge(states, spent)
        steps = INTERVAL_STEPS if budget is None else max(SHORTEST, round(INTERVAL * budget))
        if spent - self._begun < steps:
            return ()
        return self._measure(observation, states, loss, steps)

    def _measure(
        self, observation: Observation, states: Sequence[HyperparameterState], loss: Signal, steps: int
    ) -> Sequence[Action]:
        """An interval is over: by how much did the loss fall in it, and since the last move?"""
        settled = round(SETTLING * steps)
        y, all_since = (_since(loss, begun + settled) for begun in (self._begun, self._since))
        if len(y) < FEWEST or not np.isfinite(all_since).all():
            self._restart(observation.spent)
            return ()
        level, fall, error = _fall(y)
        if self._raised:
            before = self._intervals[-1]
            # Of a difference of two levels, as a fall is.
            if level - before["level"] > max(
                WORSE, CLEAR * math.hypot(error, before["error"]) / math.sqrt(2)
            ):
                return self._undo(observation, level, rewind=False)
        _, whole, whole_error = _fall(all_since)
        lowest = all(level < interval["level"] for interval in self._intervals)
        apart = len(y) - len(y) // 2  # steps between the middles of the halves
        self._note(
            {
                "values": self._values,
                "time": observation.spent / steps,
                "step": observation.step,
                "level": level,
                "error": error,
                "reward": fall / apart,
                "reward_error": error / apart,
                "falls": lowest and whole > CLEAR * whole_error,
            }
        )
        self._begun, self._judging, self._raised = observation.spent, True, False
        self._background.begin(_posterior, *self._evidence(states))
        return ()

    def _judge(self, states: Sequence[HyperparameterState], spent: int) -> Sequence[Action]:
        """GP-UCB over doing nothing and the factors that are allowed."""
        self._judging = False
        n = len(self._intervals)
        if n < 2:
            return ()
        means, deviations = self._background.answer(_posterior, *self._evidence(states))
        beta = 0.2 + max(0.0, math.log(0.4 * n))
        bounds = [mean + math.sqrt(beta) * std for mean, std in zip(means, deviations, strict=True)]
        best = bounds.index(max(bounds))  # nothing is the first
        if not best:
            return ()
        which, value = self._arms(states)[best]
        self._raised, self._begun, self._since = value > self._values[which], spent, spent
        self._touched, self._retreated = True, self._retreated or not self._raised
        evidence = {
            "expected": means[best],
            "deviation": deviations[best],
            "expected_without": means[0],
            "reward": self._intervals[-1]["reward"],
            "intervals": n,
        }
        reason = f"the loss may fall faster at {value / self._values[which]:.2g} times the value"
        return (Set(self.controls[which], value, reason=reason, evidence=evidence),)

    def _undo(self, observation: Observation, level: float, rewind: bool) -> Sequence[Action]:
        """The last move has made the loss worse."""
        before = self._intervals[-1]
        self._note({**before, "values": self._values, "time": before["time"] + 1, "reward": None})
        self._restart(observation.spent)
        self._retreated = True
        reason = "the loss has risen since the last change"
        evidence = {"level_before": before["level"], **({"level": level} if math.isfinite(level) else {})}
        changed = zip(self.controls, self._values, before["values"], strict=True)
        back = tuple(Set(n, old, reason=reason, evidence=evidence) for n, now, old in changed if now != old)
        there = observation.rewinds_left and any(s.step <= before["step"] for s in observation.snapshots)
        if rewind and there and back:
            return (Rewind(before["step"], "skip", back, reason=reason, evidence=evidence),)
        return back

    def _cool(self, observation: Observation, states: Sequence[HyperparameterState]) -> Sequence[Action]:
        """What was raised comes back, and goes on down, for what it brought is noise as well as progress."""
        left, reason = observation.remaining or 0, "what was raised comes back, and cools down"
        ends = (max(state.low or 0.0, END * begun) for state, begun in zip(states, self._start, strict=True))
        return [
            Ramp(state.name, end, left, reason=reason)
            for state, end in zip(states, ends, strict=True)
            if self._touched and left and float(state.value) > APART * end
        ]

    def _arms(self, states: Sequence[HyperparameterState]) -> list[tuple[int, float]]:
        """(hyperparameter, value): nothing at first, then each factor that is allowed now."""
        arms, newest = [(0, self._values[0])], self._intervals[-1]
        up, down = newest["falls"] and not self._retreated, newest["reward"] < newest["reward_error"]
        for i, (state, now, begun) in enumerate(zip(states, self._values, self._start, strict=True)):
            top = min(state.high or math.inf, FURTHEST * begun) if up else now
            low = begun if down else now
            reach = (factor * now for factor in FACTORS)
            within = (v for v in reach if low / APART <= v <= APART * top)
            arms += [(i, min(max(v, low), top)) for v in within]
        return arms

    def _evidence(self, states: Sequence[HyperparameterState]) -> tuple[Any, ...]:
        """The points of intervals and their rewards and errors; the points of the arms, an interval on."""

        def point(values: Sequence[float], time: float) -> Point:
            octaves = (math.log2(v / begun) for v, begun in zip(values, self._start, strict=True))
            return (*octaves, time)

        points = tuple(point(interval["values"], interval["time"]) for interval in self._intervals)
        rewards = tuple((interval["reward"], interval["reward_error"]) for interval in self._intervals)
        after, now = self._intervals[-1]["time"] + 1, self._values
        arms = tuple(point([*now[:i], v, *now[i + 1 :]], after) for i, v in self._arms(states))
        return points, rewards, arms

    def _note(self, interval: dict[str, Any]) -> None:
        self._intervals = [*self._intervals, interval][-MEMORABLE:]

    def _restart(self, spent: int) -> None:
        """The interval begins anew, and nothing can be undone any more."""
        self._begun = self._since = spent
        self._judging = self._raised = False


def _since(loss: Signal, spent: int) -> Array:
    """The log loss after `spent`; NaN for what has no logarithm."""
    values = loss.value[int(loss.spent.searchsorted(spent, "right")) :]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(values > 0, np.log(values), np.nan)


def _fall(y: Array) -> tuple[float, float, float]:
    """The level of the later half, the fall from that of the earlier, and its standard error."""
    half = len(y) // 2
    level = float(np.median(y[-half:]))
    return level, float(np.median(y[:half])) - level, OF_MEDIAN * noise(y) * math.sqrt(2 / half)


def _posterior(
    points: Sequence[Point], rewards: Sequence[tuple[float | None, float]], arms: Sequence[Point]
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the reward of each arm."""
    from sklearn.gaussian_process.kernels import RBF, Matern  # takes a second

    rates, memory = len(points[0]) - 1, -2 / math.log(1 - OMEGA)  # (1 − ω)^(t/2) = exp(−t / memory)
    kernel = RBF([LENGTH] * rates + [math.inf], "fixed") * Matern(
        [math.inf] * rates + [memory], "fixed", nu=0.5
    )
    scores = [math.inf if reward is None else -reward for reward, _ in rewards]
    surrogate = Surrogate(np.array(points), scores, [error for _, error in rewards], kernel, fit=False)
    mean, deviation = surrogate.predict(np.array(arms))
    return (-mean).tolist(), deviation.tolist()
