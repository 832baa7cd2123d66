"""Divergence guard: takes a run that has broken back to before it broke, and goes on more carefully."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.records import (
    Action,
    Escalate,
    HyperparameterState,
    Observation,
    Ramp,
    Release,
    Rewind,
    Set,
    TuneError,
)

from .divergence import FIRST_UPDATE, PATIENCE, Alarm, Divergence, first_update

LOWER, LOWER_AGAIN = 1 / 2, 1 / 4  # factors for the rate
START_LOWER = 1 / 10
WARM_UP, START_WARM_UP = 50, 20  # steps from a tenth of the lowered rate up to it
MARGIN = 2  # steps: a state as young as that before the first anomaly may be damaged already
HEALED = 500  # healthy steps after which earlier attempts are forgotten


class DivergenceGuard:
    """Rewinds to before the first anomaly, skips the data since, lowers the rate and warms it up again.

    *When*: see `Divergence`.

    *What*: one rewind to the newest state before the first anomaly; when it comes again within 100 steps, to
    an older one than before. The rate is halved, from the second time on quartered, and warms up over 50
    steps from a tenth of that. At the start: to the oldest state, with a tenth of the rate, or with the one
    that gives a first step of 0.3 ‖w‖ if that is less.

    When already the first loss after a rewind is anomalous, neither weights nor rate are to blame: the bad
    data are read on for 50 steps (then 100, ...) and left behind at the same rate.

    After `attempts` without 500 healthy steps between it escalates, once. A refused rewind counts, and the
    next one waits for 50 steps times the number of attempts. A rate that a person or a schedule holds is
    left alone: then it rewinds once, in case it was the data, and escalates; at the start at once.

    After 500 healthy steps it releases a rate that it has lowered, once, so that policies after it may raise
    it again.

    Source: PaLM (Chowdhery et al. 2022, section 5.1) went back 100 steps and skipped 200 to 500 batches at a
    spike. 0.3 ‖w‖ was measured on seven workloads; all constants were set once, on synthetic runs and digits.

    Args:
        hyperparameter: the rate that is lowered.
        attempts: rewinds in one episode, at least 1.
        name: unique within a run.

    Raises:
        TuneError: for fewer than one attempt.
    """

    requires: Sequence[str] = ("loss",)

    def __init__(self, hyperparameter: str = "lr", attempts: int = 6, name: str = "divergence_guard") -> None:
        if attempts < 1:
            raise TuneError(f"attempts is at least 1, got {attempts}; leave the guard out to have none")
        self.name = name
        self.controls: Sequence[str] = (hyperparameter,)
        self._attempts = attempts
        self._divergence = Divergence()
        self._tries = 0
        self._acted = 0  # spent at the last try
        self._wait = 0  # spent before which a refused try is not repeated
        self._anew = False  # the last try began the run anew
        self._target: list[float] | None = None  # the rate that warms up, and the steps it takes
        self._escalated = False
        self._holds = False  # the rate was lowered, and not yet released

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        for decision in observation.decisions:
            if decision.source != self.name or not isinstance(decision.action, Rewind):
                continue
            if decision.applied:
                self._holds = self._holds or bool(decision.action.then)
            else:
                self._wait = observation.spent + PATIENCE * self._tries
                self._target, self._anew = None, False
        loss = observation.signals.get("loss")
        if loss is None or not len(loss):
            return ()
        if loss.spent[-1] - loss.step[-1] != observation.spent - observation.step:
            return ()  # nothing has been measured since the last rewind
        alarm = self._divergence.judge(observation, self._anew)
        if alarm is not None:
            return self._act(alarm, self._divergence.back(loss), observation)
        if self._divergence.suspect is None and observation.spent >= self._acted + HEALED:
            self._tries, self._escalated = 0, False
            if self._holds and observation.hyperparameters[self.controls[0]].owner == "policy":
                self._holds = False
                return (Release(self.controls[0], reason=f"{HEALED} healthy steps"),)
        return ()

    def _act(self, alarm: Alarm, back: int, observation: Observation) -> Sequence[Action]:
        poisoned = self._tries > 0 and not alarm.start and alarm.first == back + 1
        bad_data = PATIENCE * 2 ** (self._tries - 1) if poisoned else 0
        if observation.spent < max(self._wait, self._acted + bad_data):
            return ()
        rate = observation.hyperparameters[self.controls[0]]
        evidence = {"first_anomaly": alarm.first, "attempt": self._tries + 1, **alarm.evidence}
        evidence = {name: value for name, value in evidence.items() if math.isfinite(value)}
        hopeless = self._hopeless(alarm, rate, observation)
        if hopeless:
            if self._escalated:
                return ()
            self._escalated = True
            return (Escalate(reason=f"{alarm.what}, and {hopeless}", evidence=evidence),)

        newest = alarm.first - MARGIN
        if poisoned and self._tries < 3:
            newest = back
        elif self._tries and alarm.first - back <= 2 * PATIENCE:
            newest = back - 1
        steps = [snapshot.step for snapshot in observation.snapshots]
        to = max((step for step in steps if step <= newest), default=min(steps))
        if alarm.start:
            update = None if self._tries else first_update(observation, back + 1)
            factor = min(START_LOWER, FIRST_UPDATE / update) if update else START_LOWER
        else:
            factor = 1.0 if poisoned else LOWER_AGAIN if self._tries else LOWER
        then = self._lowered(rate, back, factor, alarm) if rate.owner == "policy" else ()
        self._tries += 1
        self._acted, self._anew = observation.spent, alarm.start
        return (Rewind(to, "skip", then, reason=alarm.what, evidence={**evidence, "factor": factor}),)

    def _hopeless(self, alarm: Alarm, rate: HyperparameterState, observation: Observation) -> str:
        if self._tries >= self._attempts:
            return f"{self._tries} rewinds did not help"
        if observation.rewinds_left < 1:
            return "no rewinds are left"
        if not observation.snapshots:
            return "there is no state to go back to"
        if rate.owner != "policy" and (alarm.start or self._tries):  # one rewind may do, if it was the data
            return f"{rate.name} is held by {rate.owner} and cannot be lowered: release or lower it"
        return ""

    def _lowered(self, rate: HyperparameterState, back: int, factor: float, alarm: Alarm) -> tuple[Set, Ramp]:
        value = float(rate.value)
        if self._target is not None and rate.ramp_until == back + self._target[1]:
            value = self._target[0]  # still warming up towards it
        low, steps = rate.low or 0.0, START_WARM_UP if alarm.start else WARM_UP
        target = max(low, factor * value)
        self._target = [target, steps]
        start = Set(rate.name, max(low, target / 10), reason=alarm.what)
        return start, Ramp(rate.name, target, steps, reason=alarm.what)

    # --- memory --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See `Policy.state_dict`."""
        memory = {name[1:]: getattr(self, name) for name in _MEMORY}
        return {**memory, "divergence": self._divergence.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Policy.load_state_dict`."""
        for name in _MEMORY:
            setattr(self, name, state[name[1:]])
        self._divergence.load_state_dict(state["divergence"])


_MEMORY = ("_tries", "_acted", "_wait", "_anew", "_target", "_escalated", "_holds")
