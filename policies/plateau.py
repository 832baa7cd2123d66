"""Plateau: lowers the rate when tests find no more progress, and cools it down before the budget ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, mannwhitneyu

from autotune.records import Action, HyperparameterState, Observation, Ramp, Set

from .memory import RETRY, Remembering, disturbed
from .robust import OF_MEDIAN, noise, y_of

BLOCKS = 20  # averages that are tested
FEWEST = 8  # values without which nothing is tested
WINDOW, WINDOW_STEPS = 0.1, 200  # length of the first window, as a part of the budget; without one, in steps
FALLS, FLAT = 0.05, 0.5  # p below which the signal still falls, and above which it does not
DECAY = 1 / 3  # factor for the rate
FRUITLESS = 2  # decays in a row without gain after which there is no point in another
SHORTEST, LONGEST = 0.2, 0.5  # part of the budget that is left when the cool-down begins
RECENT = 0.2  # part of the budget whose values say whether it does
SURE = 2.5  # standard errors; there are some 30 looks
GIVEN_UP = 0.05  # part of the signal that a cool-down may cost in progress


class Plateau(Remembering):
    """Decays a rate on a plateau of the loss, and ramps it to its low bound before the budget ends.

    A smaller rate removes noise and costs progress. So it is lowered only where noise has the upper hand:
    where the mean of `update_alignment`, the cosine of the gradient with the last update, is not negative.
    While it is negative each step still leads downhill, and a loss that pauses is no plateau. Where it is
    not measured, the loss alone decides.

    *Test.* Mann-Kendall for a falling trend, one-sided, on 20 averages over a window, so that noise and
    short-range correlation do not count. p ≤ 0.05: it falls, and a fresh window begins. p ≥ 0.5: no sign of
    a fall, a plateau. Between the two the window is doubled, so that slow progress under much noise gets
    the power that it needs. No value is in two decisions, and there are at most ten tests in a budget.
    *Decay.* To a third; then a fresh window decides again. A decay has gained when the averages after it are
    significantly lower than those before (Mann-Whitney, 0.05). After two in a row without gain the
    cool-down begins at once; without a budget the windows double instead.
    *Cool-down.* Linear to the low bound over all R steps that the budget leaves, from half of it on, as soon
    as the alignment over the last fifth is positive by 2.5 standard errors; or when it is not negative and
    the progress given up, R/2 steps of the present trend of the log loss with 2.5 standard errors added, is
    at most 5 %. With less than a fifth left nothing new begins: it could not gain any more. Where a rewind
    or another ramp has ended it, it begins anew, from the rate at the time. The rate is never raised.

    It harms where the loss would still have fallen much at the old rate, and neither sign shows it.

    Source: Mann 1945, Kendall 1975; testing instead of waiting as in SASA+ (Zhang et al. 2020); the sign of
    the inner product of gradients as in Pflug 1990 and Chee & Toulis 2018; the constant rate with a linear
    cool-down as in Zhai et al. 2022 and Hägele et al. 2024.

    Args:
        hyperparameter: the rate.
        signal: what falls as long as training helps: `loss`, or `validation/loss`.
        name: unique within a run.
    """

    MEMORY = ("_since", "_changed", "_doubled", "_before", "_fruitless", "_cooling", "_wait", "_refusals")

    def __init__(self, hyperparameter: str = "lr", signal: str = "loss", name: str = "plateau") -> None:
        self.name = name
        self.requires: Sequence[str] = (signal,)
        self.controls: Sequence[str] = (hyperparameter,)
        self._since = 0  # step at which the window begins
        self._changed = 0  # step of the last change of the rate
        self._doubled = 0  # how often the window was doubled
        self._before: list[float] | None = None  # averages before the last decay
        self._fruitless = 0  # decays in a row without gain
        self._cooling = False
        self._wait = 0  # spent before which nothing is asked for
        self._refusals = 0  # in a row

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        rate = observation.hyperparameters[self.controls[0]]
        for decision in observation.decisions:
            if decision.source == self.name:
                self._refusals = 0 if decision.applied else self._refusals + 1
                self._wait = observation.spent + RETRY * 2**self._refusals if self._refusals else 0
        if disturbed(observation, self.name, rate.name):
            self._restart(observation.step, changed=True)
        self._since = min(self._since, observation.step)
        remaining, budget = observation.remaining, observation.budget
        if rate.owner != "policy" or observation.spent < self._wait or float(rate.value) <= (rate.low or 0.0):
            return ()
        if self._cooling and remaining is not None:
            return self._cool(rate, observation.step, remaining, {})
        if remaining is not None and budget is not None and remaining < SHORTEST * budget:
            return ()
        if rate.ramp_until is not None:
            self._restart(rate.ramp_until, changed=True)
            return ()
        if remaining is None or budget is None or remaining > LONGEST * budget:
            return self._test(rate, observation)
        evidence = self._pays(observation, budget, remaining)
        if evidence is None:
            return ()
        self._cooling = True
        return self._cool(rate, observation.step, remaining, evidence)

    def _pays(self, observation: Observation, budget: int, remaining: int) -> dict[str, float] | None:
        """Why the cool-down should begin now; None when it should not."""
        begin = max(self._changed, observation.step - math.ceil(RECENT * budget))
        if observation.step - begin < WINDOW * budget:
            return None
        alignment, error = _alignment(observation, begin)
        evidence = {} if math.isinf(error) else {"alignment": alignment, "alignment_error": error}
        if alignment > SURE * error:
            return evidence
        signal = observation.signals.get(self.requires[0])
        if alignment < 0 or signal is None:
            return None
        recent = signal.since(begin + 1)
        finite = np.isfinite(recent.value)
        step, value = recent.step[finite], recent.value[finite]
        if len(value) < FEWEST:
            return None
        y, part = y_of(value, value), len(value) // 3
        steps = float(step[-part:].mean() - step[:part].mean())
        fall = float(np.median(y[:part]) - np.median(y[-part:]))
        fall += SURE * OF_MEDIAN * noise(y) * math.sqrt(2 / part)
        given_up = fall / steps * remaining / 2
        return {**evidence, "given_up": given_up} if given_up <= GIVEN_UP else None

    def _test(self, rate: HyperparameterState, observation: Observation) -> Sequence[Action]:
        window = WINDOW_STEPS if observation.budget is None else WINDOW * observation.budget
        signal = observation.signals.get(self.requires[0])
        if signal is None:
            return ()
        values = signal.since(self._since + 1).value
        values = values[np.isfinite(values)]
        if observation.step - self._since < window * 2**self._doubled or len(values) < FEWEST:
            return ()
        averages = np.array([part.mean() for part in np.array_split(values, min(BLOCKS, len(values)))])
        p = kendalltau(np.arange(len(averages)), averages, alternative="less").pvalue
        p = float(p) if math.isfinite(p) else 1.0  # a constant does not fall
        if p <= FALLS:
            self._restart(observation.step)
            return ()
        if p < FLAT or _alignment(observation, self._since)[0] < 0:
            self._doubled += 1
            return ()
        return self._decay(rate, observation, averages, p)

    def _decay(
        self, rate: HyperparameterState, observation: Observation, averages: NDArray[np.float64], p: float
    ) -> Sequence[Action]:
        evidence = {"p_falling": p, "averages": len(averages), "steps": observation.step - self._since}
        if self._before is not None:
            gain = float(mannwhitneyu(averages, self._before, alternative="less").pvalue)
            self._fruitless = self._fruitless + 1 if gain > FALLS else 0
            evidence["p_gain"] = gain
        self._before = averages.tolist()
        self._restart(observation.step, changed=True)
        if self._fruitless >= FRUITLESS:
            if observation.remaining is not None:
                self._cooling = True
                return self._cool(rate, observation.step, observation.remaining, evidence)
            self._doubled = self._fruitless
        value = max(rate.low or 0.0, DECAY * float(rate.value))
        return (Set(rate.name, value, reason=f"{self.requires[0]} falls no more", evidence=evidence),)

    def _cool(
        self, rate: HyperparameterState, step: int, remaining: int, evidence: dict[str, float]
    ) -> Sequence[Action]:
        """The ramp to the end, unless one is running that ends in time: ours, or a short one of another."""
        if remaining < 1 or (rate.ramp_until is not None and rate.ramp_until <= step + remaining):
            return ()
        reason = "decays help no more: the final cool-down" if "p_gain" in evidence else "the final cool-down"
        return (Ramp(rate.name, rate.low or 0.0, remaining, reason=reason, evidence=evidence),)

    def _restart(self, step: int, changed: bool = False) -> None:
        self._since, self._doubled = step, 0
        if changed:
            self._changed = step


def _alignment(observation: Observation, begin: int) -> tuple[float, float]:
    """Mean of `update_alignment` after step `begin`, and its standard error; 0 and ∞ when not known."""
    signal = observation.signals.get("update_alignment")
    values = np.empty(0) if signal is None else signal.since(begin + 1).value
    values = values[np.isfinite(values)]
    if len(values) < FEWEST:
        return 0.0, math.inf
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
