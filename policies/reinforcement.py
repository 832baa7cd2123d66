"""Policies for policy-gradient training: the size of an update by its KL divergence, and the entropy."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import numpy as np

from autotune.records import Action, Observation, Set, TuneError

from .memory import RETRY, Remembering, free, moves

FEWEST = 3  # values in a mean that is judged
RATE_BAND, RATE_FACTOR = 2.0, 1.5
PENALTY_BAND, PENALTY_FACTOR = 1.5, 2.0
LEAST_PENALTY, LEAST_ENTROPY = 1e-2, 1e-3  # coefficients below which nothing is felt
PACE = 0.1  # of the way to the target from one mean to the next, at which an entropy is on its way
ENTROPY_FACTOR = 1.5  # for an entropy that is a nat below its target, or more


class Regulated(Remembering, abc.ABC):
    """Moves a positive hyperparameter by factors, so that the mean of a signal meets a target.

    Every value is judged once: the mean is over those since the last judgement, at least three of them, and
    begins anew when anyone has moved the hyperparameter or the run.

    Args:
        target: of the signal.
        hyperparameter: what is moved.
        signal: what the loop reports.
        name: unique within a run.
        least: the smallest value that it is moved to, or from.
    """

    MEMORY = ("_since", "_before", "_wait", "_refusals")

    def __init__(self, target: float, hyperparameter: str, signal: str, name: str, least: float) -> None:
        self.name = name
        self.requires: Sequence[str] = (signal,)
        self.controls: Sequence[str] = (hyperparameter,)
        self.target = target
        self._least = least
        self._since = 0  # spent up to which values have been judged
        self._before: float | None = None  # the mean judged last
        self._wait = 0  # spent before which nothing is asked for
        self._refusals = 0  # in a row

    @abc.abstractmethod
    def factor(self, mean: float, before: float | None) -> float:
        """What the hyperparameter is multiplied by, for this mean after that one; 1: left alone."""

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        self._follow(observation)
        state = observation.hyperparameters[self.controls[0]]
        signal = observation.signals.get(self.requires[0])
        if not free(state) or signal is None or observation.spent < self._wait:
            return ()
        values = signal.value[signal.spent > self._since]
        values = values[np.isfinite(values)]
        if len(values) < FEWEST:
            return ()
        self._since = int(signal.spent[-1])
        mean, now = float(values.mean()), float(state.value)
        factor = self.factor(mean, self._before)
        self._before = mean
        low = max(self._least, state.low or 0.0)
        high = math.inf if state.high is None else state.high
        value = min(max(factor * now, low), high)
        if factor == 1.0 or (value - now) * (factor - 1.0) <= 0:  # at its bound
            return ()
        where = "above" if mean > self.target else "below"
        return (
            Set(
                state.name,
                value,
                reason=f"{self.requires[0]} is {where} its target",
                evidence={"mean": mean, "target": self.target, "values": len(values)},
            ),
        )

    def _follow(self, observation: Observation) -> None:
        """What is refused is asked for ever less often."""
        for decision in observation.decisions:
            if decision.applied and moves(decision, self.controls[0]):
                self._since = max(self._since, decision.spent)
                self._refusals = 0
            elif decision.source == self.name and not decision.applied:
                self._wait = observation.spent + RETRY * 2**self._refusals
                self._refusals += 1


class KLAdaptiveRate(Regulated):
    """Keeps the KL divergence between the policy before and after an update inside a band, by the rate.

    *Law.* Mean KL > 2 target: rate / 1.5; mean KL < target / 2: rate × 1.5.
    *Constants.* Those of the source; `target` 0.01 nats. The bounds of the rate matter: a policy that has
    become deterministic changes no more, its KL vanishes, and the rate goes to its high bound.
    *Harms* where the loop has a schedule of its own, and where the KL is kept small by other means
    (a penalty, early stopping of the epochs), for it raises the rate then.

    Source: Schulman's rule as in rsl_rl (`algorithms/ppo.py`, `schedule="adaptive"`), Rudin et al. 2022.

    Args:
        target: mean KL(old ‖ new), in nats, in the middle of the band.
        hyperparameter: the rate.
        signal: the KL, reported by the loop (`reports=("kl",)`).
        name: unique within a run.

    Raises:
        TuneError: for a target that is not positive and finite.
    """

    def __init__(
        self,
        target: float = 0.01,
        hyperparameter: str = "lr",
        signal: str = "kl",
        name: str = "kl_adaptive_rate",
    ) -> None:
        _check_kl(target)
        super().__init__(target, hyperparameter, signal, name, 0.0)

    def factor(self, mean: float, before: float | None) -> float:
        """See `Regulated.factor`."""
        return _outside(mean, self.target, RATE_BAND, 1 / RATE_FACTOR)


class KLPenalty(Regulated):
    """Adapts the coefficient of a KL penalty, so that an update changes the policy by the target.

    *Law.* Mean KL > 1.5 target: coefficient × 2; mean KL < target / 1.5: coefficient / 2.
    *Constants.* Those of the source; the coefficient stays at or above 0.01, from where it can return.
    *Harms* nothing where it has no effect; together with `KLAdaptiveRate` at the same target the two do the
    same work twice: use one.

    Source: Schulman et al. 2017 (PPO), section 4.

    Args:
        target: mean KL(old ‖ new) after an update, in nats.
        hyperparameter: the coefficient.
        signal: the KL, reported by the loop (`reports=("kl",)`).
        name: unique within a run.

    Raises:
        TuneError: for a target that is not positive and finite.
    """

    def __init__(
        self,
        target: float = 0.01,
        hyperparameter: str = "kl_coef",
        signal: str = "kl",
        name: str = "kl_penalty",
    ) -> None:
        _check_kl(target)
        super().__init__(target, hyperparameter, signal, name, LEAST_PENALTY)

    def factor(self, mean: float, before: float | None) -> float:
        """See `Regulated.factor`."""
        return _outside(mean, self.target, PENALTY_BAND, PENALTY_FACTOR)


class EntropyTarget(Regulated):
    """Adapts the coefficient of the entropy bonus, so that the policy's entropy meets a target.

    *Law.* coefficient × 1.5^e, e = target − mean entropy, in nats, within [−1, 1], where |e| > `within`.
    *Constants.* The coefficient stays at or above 0.001, from where it can return; its bounds are the user's.
    *Harms* where the best policy is deterministic and the target is far from it: it keeps the policy as
    random as it was told to.

    Source: the temperature of soft actor-critic, Haarnoja et al. 2018b (equation 18), in log space.

    Args:
        target: entropy of the policy, in nats; the source's for continuous actions is minus their number.
        within: nats from the target within which the coefficient is left alone, 0 or more; less for few
            discrete actions, whose entropy is at most the log of their number.
        hyperparameter: the coefficient.
        signal: the entropy, reported by the loop (`reports=("entropy",)`).
        name: unique within a run.

    Raises:
        TuneError: for a target that is not finite, or a negative distance from it.
    """

    def __init__(
        self,
        target: float,
        within: float = 0.5,
        hyperparameter: str = "entropy_coef",
        signal: str = "entropy",
        name: str = "entropy_target",
    ) -> None:
        if not math.isfinite(target):
            raise TuneError(
                f"target is a finite entropy in nats, got {target!r}; try minus the actions' number"
            )
        if not 0.0 <= within < math.inf:
            raise TuneError(f"within is a distance in nats, 0 or more, got {within!r}; 0.5 is the default")
        super().__init__(target, hyperparameter, signal, name, LEAST_ENTROPY)
        self.within = within

    def factor(self, mean: float, before: float | None) -> float:
        """See `Regulated.factor`."""
        error = self.target - mean
        if abs(error) <= self.within:
            return 1.0
        if before is not None and (mean - before) / error >= PACE:
            return 1.0  # it is on its way
        return float(ENTROPY_FACTOR ** min(max(error, -1.0), 1.0))


def _check_kl(target: float) -> None:
    if not 0.0 < target < math.inf:
        raise TuneError(f"target is a positive KL divergence in nats, got {target!r}; 0.01 is usual")


def _outside(mean: float, target: float, band: float, factor: float) -> float:
    """`factor` for a mean above the band, 1 / `factor` for one below it."""
    if mean > band * target:
        return factor
    return 1 / factor if mean < target / band else 1.0
