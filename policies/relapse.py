"""A rate that was good for a short trial, and destroys the run later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from autotune.records import Action, HyperparameterState, Observation, Ramp, Release, Rewind, Set, Signal

from .memory import RETRY, Remembering, disturbed

VALIDATION, TRAIN = "validation/loss", "loss"
LOOKS, STUCK = 2, 3  # evaluations in a row
LOSSES = 10  # training losses
RELAPSED = 0.9  # of what the trial had gained, gone again
PATIENCE = 0.12  # of the budget, after which a run is as good as its trial, or getting there
LOWERINGS = 3
SPACING = math.sqrt(10)  # by which the rate is lowered


class Relapse(Remembering):
    """Notices it, and goes back to a state from before with a lower rate.

    *Lost* is a run whose last two evaluations and mean of ten training losses have both lost nine tenths of
    what its trial had gained; where the training loss judged the trials, by that alone. *Stuck* is one that
    12 % of the budget later is worse than its trial, by the last three evaluations, which do not fall, and by
    the training loss: where that one falls on, the run over-fits, and the rate is not to blame.

    *What.* To the best evaluation since, or to where the trial was adopted if none was better than the start;
    the rate is √10 lower, and rises to that as in a trial; three times at most. What was good and is lost may
    have met bad data, which are skipped then. A rate that someone's ramp moves goes back with it.

    Args:
        source: the policy that asks.
        hyperparameter: the rate.
    """

    MEMORY = (
        "_starts",
        "_goals",
        "_validated",
        "_adopted",
        "_peak",
        "_warm",
        "_since",
        "_lowered",
        "_back",
        "_holds",
    )

    def __init__(self, source: str, hyperparameter: str) -> None:
        self._source, self._name = source, hyperparameter
        self._starts = [0.0, 0.0]  # validation and training loss at the start of the search
        self._goals = [0.0, 0.0]  # those of the trial that was adopted
        self._validated = False  # whether validation judged it
        self._adopted = [0, 0]  # the step that it had come to, and what was spent when it was adopted
        self._peak = 0.0  # the rate then
        self._warm = 1  # steps in which a lowered rate rises
        self._since = 0  # spent after which losses count
        self._lowered = 0  # times
        self._back = False  # whether the run has come back to its trial's score
        self._holds = False  # whether the rate was lowered, and not yet released

    def begin(
        self,
        starts: Sequence[float],
        goals: Sequence[float],
        validated: bool,
        adopted: tuple[int, int],
        peak: float,
        warm: int,
    ) -> None:
        """A trial is adopted; see the attributes."""
        self._starts, self._goals, self._validated = list(starts), list(goals), validated
        self._adopted, self._peak, self._warm, self._since = list(adopted), peak, warm, adopted[1]

    def actions(self, observation: Observation) -> Sequence[Action]:
        """What is to be done now."""
        self._learn(observation)
        rate = observation.hyperparameters[self._name]
        if self._holds and rate.ramp_until is None:
            self._holds = False
            return (Release(self._name, reason="the lowered rate is reached"),)
        over = not observation.remaining or self._lowered >= LOWERINGS
        if over or rate.owner != "policy" or observation.spent < self._since:
            return ()
        validation = observation.signals.get(VALIDATION) if self._validated else None
        if self._validated and validation is None:
            return ()
        if self._lost(observation, validation):
            return self._go_back(observation, rate, validation, "no better than at the start")
        held = rate.ramp_until is None  # a rate that decays already is being taken down
        if validation is not None and held and self._stuck(observation, validation):
            return self._go_back(observation, rate, validation, "worse than its trial, and not falling")
        return ()

    def _learn(self, observation: Observation) -> None:
        if disturbed(observation, self._source, self._name):
            self._since = observation.spent
        for decision in observation.decisions:
            if decision.source == self._source and isinstance(decision.action, Rewind):
                self._lowered += decision.applied
                self._holds = self._holds or (decision.applied and bool(decision.action.then))
                self._since = observation.spent + (0 if decision.applied else RETRY)
        validation = observation.signals.get(VALIDATION)
        if validation is not None:
            values = validation.value[validation.spent > self._adopted[1]]
            self._back = self._back or bool((values <= self._goals[0]).any())

    def _lost(self, observation: Observation, validation: Signal | None) -> bool:
        train = observation.signals.get(TRAIN)
        judged = [(train, LOSSES, 1)] + ([(validation, LOOKS, 0)] if validation is not None else [])
        for signal, count, which in judged:
            if signal is None or not math.isfinite(self._starts[which]):
                return False
            values = signal.value[signal.spent > self._since][-count:]
            gone = self._starts[which] - (1 - RELAPSED) * (self._starts[which] - self._goals[which])
            newest = values if signal is validation else [np.mean(values)] if len(values) else []
            if len(values) < count or any(value < gone for value in newest):
                return False
        return True

    def _stuck(self, observation: Observation, validation: Signal) -> bool:
        values = validation.value[validation.spent > self._since][-STUCK:]
        train = observation.signals.get(TRAIN)
        losses = train.value[-LOSSES:] if train is not None else ()
        late = observation.spent - self._since > PATIENCE * (observation.budget or 0)
        if not late or len(values) < STUCK or not len(losses):
            return False
        worse = not (values <= self._goals[0]).any() and not np.mean(losses) <= self._goals[1]
        return worse and not values[-1] < values[0]

    def _go_back(
        self, observation: Observation, rate: HyperparameterState, validation: Signal | None, reason: str
    ) -> Sequence[Action]:
        to, lowest = self._adopted[0], math.inf
        if validation is not None:
            after = validation.spent > self._adopted[1]
            values = np.where(np.isfinite(validation.value[after]), validation.value[after], math.inf)
            if len(values) and values.min() < self._starts[0]:
                to, lowest = int(validation.step[after][values.argmin()]), float(values.min())
        states = [state.step for state in observation.snapshots if self._adopted[0] <= state.step <= to]
        if not states and not self._lost(observation, validation):
            return ()  # only a state from before the trial is left: worse than to go on
        low = rate.low or 0.0
        lower = max(low, self._peak / SPACING ** (self._lowered + 1))
        then = (
            Set(self._name, max(low, lower / self._warm), reason=reason),
            Ramp(self._name, lower, self._warm, reason=reason),
        )
        data: Literal["skip", "replay"] = "skip" if self._back else "replay"
        facts = {"best since": lowest, "of the trial": self._goals[0], "at the start": self._starts[0]}
        evidence = {name: value for name, value in facts.items() if math.isfinite(value)}
        moving = rate.ramp_until is not None
        return (Rewind(to, data, () if moving else then, reason=reason, evidence=evidence),)
