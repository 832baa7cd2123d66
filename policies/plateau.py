"""Plateau: lowers the rate when a test finds no more progress, and cools it down before the budget ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, mannwhitneyu

from autotune.records import Action, HyperparameterState, Observation, Ramp, Rewind, Set

BLOCKS = 20  # averages that are tested
FEWEST = 8  # values without which nothing is tested
WINDOW, WINDOW_STEPS = 0.1, 200  # length of the first window, as a part of the budget; without one, in steps
FALLS, FLAT = 0.05, 0.5  # p below which the signal still falls, and above which it does not
DECAY = 1 / 3  # factor for the rate
FRUITLESS = 2  # decays in a row without gain after which there is no point in another
TAIL = 0.5  # part of the budget for the final cool-down
RETRY = 20  # steps after which a refused change is asked for again


class Plateau:
    """Decays a rate on a plateau of the loss, and ramps it to its low bound over the last half of the budget.

    *Test.* Mann–Kendall for a falling trend, one-sided, on 20 averages over a window, so that noise and
    short-range correlation do not count. p ≤ 0.05: it falls, and a fresh window begins. p ≥ 0.5: no sign of
    a fall, a plateau. Between the two the window is doubled, so that slow progress under much noise gets
    the power that it needs. No value is in two decisions, and there are at most ten tests in a budget; a loss
    that falls by two standard errors of the trend in a window is decayed by mistake in 2 % of the windows.
    *Decay.* To a third; then a fresh window decides again. A decay has gained when the averages after it are
    significantly lower than those before (Mann–Whitney, 0.05). After two in a row without gain the
    cool-down begins at once; without a budget the windows double instead.
    *Cool-down.* Linear to the low bound, over all the steps that the budget leaves when half of it is spent.
    Where a rewind or another ramp has ended it, it begins anew, from the rate at the time. The rate is
    never raised.

    Source: Mann 1945, Kendall 1975; testing instead of waiting as in SASA+ (Zhang et al. 2020); the constant
    rate with a linear cool-down as in Zhai et al. 2022 and Hägele et al. 2024.

    Args:
        hyperparameter: the rate.
        signal: what falls as long as training helps: `loss`, or `validation/loss`.
        name: unique within a run.
    """

    def __init__(self, hyperparameter: str = "lr", signal: str = "loss", name: str = "plateau") -> None:
        self.name = name
        self.requires: Sequence[str] = (signal,)
        self.controls: Sequence[str] = (hyperparameter,)
        self._since = 0  # step at which the window begins
        self._doubled = 0  # how often the window was doubled
        self._before: list[float] | None = None  # averages before the last decay
        self._fruitless = 0  # decays in a row without gain
        self._cooling = False
        self._wait = 0  # spent before which nothing is asked for

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        rate = observation.hyperparameters[self.controls[0]]
        for decision in observation.decisions:
            if decision.source == self.name and not decision.applied:
                self._wait = observation.spent + RETRY
            if decision.source != self.name and decision.applied and self._concerns(decision.action):
                self._restart(observation.step)
        self._since = min(self._since, observation.step)
        remaining, low = observation.remaining, rate.low or 0.0
        if rate.owner != "policy" or observation.spent < self._wait or float(rate.value) <= low:
            return ()
        if remaining is not None and observation.budget is not None:
            self._cooling = self._cooling or remaining <= TAIL * observation.budget
            if self._cooling:
                return self._cool(rate, observation.step, remaining, {})
        if rate.ramp_until is not None:
            self._restart(rate.ramp_until)
            return ()
        return self._test(rate, observation)

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
        p = float(kendalltau(np.arange(len(averages)), averages, alternative="less").pvalue)
        if p <= FALLS:
            self._restart(observation.step)
            return ()
        if p < FLAT:
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
        self._restart(observation.step)
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
        reason = "decays help no more: the final cool-down" if evidence else "the final cool-down"
        return (Ramp(rate.name, rate.low or 0.0, remaining, reason=reason, evidence=evidence),)

    def _restart(self, step: int) -> None:
        self._since, self._doubled = step, 0

    def _concerns(self, action: Action) -> bool:
        changes = action.then if isinstance(action, Rewind) else (action,)
        return any(isinstance(a, Set | Ramp) and a.name == self.controls[0] for a in changes)

    # --- memory --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See `Policy.state_dict`."""
        return {name[1:]: getattr(self, name) for name in _MEMORY}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Policy.load_state_dict`."""
        for name in _MEMORY:
            setattr(self, name, state[name[1:]])


_MEMORY = ("_since", "_doubled", "_before", "_fruitless", "_cooling", "_wait")
