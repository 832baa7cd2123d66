"""Hold and tail: the rate stays while it serves, and decays to nothing by the end of the budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotune.records import FACTOR, Action, Observation, Ramp

from .evaluations import Trend, noise
from .memory import RETRY, Remembering, disturbed, free, refused
from .robust import Array

VALIDATION, TRAIN = "validation/loss", "loss"
LOOKS = 25  # blocks of training losses, one over each such part of the budget, where nothing is validated
ENOUGH = 5  # looks that show whether a loss still falls
LEAST = 0.005  # part of the loss by which it has to fall, a look
LATEST = 0.25  # part of the budget that is left when the tail begins at the latest
END = 1e-3  # of the rate, at the end of the budget


class HoldAndTail(Remembering):
    """Holds the rate while the loss falls, and then decays it in a line over all that is left.

    *Hold.* The loss falls while the slope through its last 5 evaluations is below zero, by a standard error
    and by 0.5 % of it an evaluation. Where nothing is validated, means of the training loss over a 25th of
    the budget stand in. Counting begins anew when anyone else moves the rate, rewinds, or adopts a trial.

    *Tail.* It begins when the loss no longer falls, and at the latest with a quarter of the budget left: a
    straight line to a thousandth of the rate, at the end of the budget. When someone moves the rate while it
    decays (a guard, a person), a new line goes on from there. Without a budget, and where the rate is a
    factor on a schedule, nothing happens.

    *When it harms.* Where a loss stands still for long before it falls, the rate is taken down too early.

    Source: warm-up–stable–decay (Hu et al. 2024, MiniCPM, section 4), with a test for the moment in place of
    a constant; linear decay to zero: Defazio et al. 2023.

    Args:
        hyperparameter: the rate.
        name: unique within a run.
    """

    MEMORY = ("_since", "_tail", "_wait")
    requires: Sequence[str] = (TRAIN,)

    def __init__(self, hyperparameter: str = "lr", *, name: str = "hold_and_tail") -> None:
        self.name = name
        self.controls: Sequence[str] = (hyperparameter,)
        self._since = -1  # spent after which evaluations count
        self._tail = False
        self._wait = 0  # spent before which nothing is asked for

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        name = self.controls[0]
        if disturbed(observation, self.name, name):
            self._since = observation.spent
        if refused(observation, self.name):
            self._wait = observation.spent + RETRY
        rate, left = observation.hyperparameters[name], observation.remaining
        if (
            rate.unit == FACTOR
            or not left
            or not observation.spent
            or observation.spent < self._wait
            or not free(rate)
        ):
            return ()
        late = left <= LATEST * (observation.budget or 0)
        values = self._looks(observation)
        if not (self._tail or late or (len(values) >= ENOUGH and not _falls(values[-ENOUGH:]))):
            return ()
        end = max(rate.low or 0.0, float(rate.value) * END)
        if not end < float(rate.value):
            return ()
        why = "goes on" if self._tail else "a quarter is left" if late else "the loss has stopped falling"
        self._tail = True
        evidence = {"left": float(left), **{f"look {i}": float(v) for i, v in enumerate(values[-ENOUGH:])}}
        return (Ramp(name, end, left, reason=f"the tail: {why}", evidence=evidence),)

    def _looks(self, observation: Observation) -> Array:
        validation = observation.signals.get(VALIDATION)
        if validation is not None:
            values = validation.value[validation.spent > self._since]
        else:
            loss = observation.signals.get(TRAIN)
            if loss is None:
                return np.empty(0)
            recent = loss.spent > max(self._since, 0)
            block = loss.spent[recent] * LOOKS // (observation.budget or 1)
            whole = [k for k in np.unique(block) if k != block[-1]]
            values = np.array([loss.value[recent][block == k].mean() for k in whole])
        return values[np.isfinite(values)]


def _falls(values: Array) -> bool:
    return Trend.of(values, noise(values)).falls(LEAST)
