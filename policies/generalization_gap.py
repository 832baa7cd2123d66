"""Generalisation gap: moves weight decay and dropout by what training and validation loss say of capacity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from autotune.records import Action, HyperparameterState, Observation, Set, TuneError

from .evaluations import Evaluations, Trend, binding_decay, noise
from .memory import RETRY, Remembering, disturbed, free, refused
from .robust import Array

VALIDATION, TRAIN, GAP = "validation/loss", "train/loss", "generalization_gap"
FIRST, AFTER = 5, 3  # evaluations before the first move, and by which a move is judged
NOISE = 9  # evaluations that the noise is measured on
HIGH = 0.2  # gap over validation loss, from which on it is high
STALLED = 0.005  # relative fall an evaluation, below which a loss has stalled
ERRORS, AT_ONCE = 2.0, 4.0  # standard errors by which a change is clear, and so clear that it ends a trial
LEAST, MUCH = 0.005, 0.05  # parts of the validation loss that such changes have to be, too
FACTOR, STEP = 2.0, 0.1  # by which weight decay is multiplied, and what dropout gains
MOST = 4.0  # the highest decay, over the first one above none, for which rate × decay × steps of the run is 1
BLOCKED = 10  # evaluations for which a move that did not help is not tried again

Way = Literal["up", "down"]


class GeneralizationGap(Remembering):
    """Gap high: more weight decay and dropout; gap low and the training loss stalled: less of them.

    *When.* After 5 evaluations without a move of its own or anyone else's (3 after its own). The gap is
    (validation − train) / |validation| over them. From 0.2 on it is high: regularisation goes up unless
    the validation loss still falls. Below, there is capacity to spare: it goes down unless the training loss
    still falls. A loss falls when its slope is below zero by a standard error and by 0.5 % an evaluation.

    *What.* One hyperparameter at a time. Weight decay by factors of 2, dropout by 0.1. What matters of a
    decay is rate × decay × steps of the run, the part by which it shrinks weights (over 1 - momentum in SGD):
    raised from less, it goes to 1, and it is never raised beyond 4; below ¼ it is left alone.

    *Judgement.* By the mean of 3 evaluations after the move against a forecast: the mean before it, or its
    continued rise. Clearly better, by 2 standard errors and 0.5 %: the move is repeated at once. Else the
    turn goes to the other hyperparameter, and this one is not moved that way for 10 evaluations. It goes
    back to where it was when regularisation was raised for nothing, or lowered with clear harm. Harm beyond
    4 standard errors and 5 % does not wait for the third evaluation. Nothing is moved when too few
    evaluations are left to take it back and recover. Noise is that of second differences: no trend counts.

    The product of rate and decay is not held when someone moves the rate. Where `evaluate` returns no
    `train/loss`, the sensor `generalization_gap` stands in, with training losses of training mode.

    Source: Goodfellow, Bengio & Courville 2016, sections 5.3 and 11.4; rate × decay as the time scale that
    matters: Wang & Aitchison 2024. The constants were set once, on synthetic runs and digits.

    Args:
        weight_decay: name of the hyperparameter; None: there is none to move.
        dropout: likewise.
        rate: name of the learning rate that the decay is multiplied by; where none is registered, the first
            decay above none is 0.01.
        name: unique within a run.

    Raises:
        TuneError: when there is nothing to move.
    """

    MEMORY = ("_since", "_seen", "_moved", "_move", "_blocked", "_turn", "_wait")
    requires: Sequence[str] = (VALIDATION,)

    def __init__(
        self,
        weight_decay: str | None = "weight_decay",
        dropout: str | None = "dropout",
        *,
        rate: str = "lr",
        name: str = "generalization_gap",
    ) -> None:
        self.name = name
        self.controls: Sequence[str] = tuple(n for n in (weight_decay, dropout) if n is not None)
        if not self.controls:
            raise TuneError(
                f"one of weight_decay and dropout is a hyperparameter's name, got {weight_decay!r} and "
                f"{dropout!r}; name one, or leave the policy out"
            )
        self._dropout, self._rate = dropout, rate
        self._since = -1  # spent after which evaluations count
        self._seen = -1  # spent at the newest evaluation that was looked at
        self._moved: int | None = None  # spent at its last move since then
        self._move: dict[str, Any] | None = None  # the last move, until it is judged
        self._blocked: dict[str, int] = {}  # spent until which a move is not tried
        self._turn = 0  # index of the hyperparameter that is tried first
        self._wait = 0  # spent before which nothing is asked for

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        if any(disturbed(observation, self.name, name) for name in self.controls):
            self._since, self._moved, self._move = observation.spent, None, None
        found = (
            Evaluations.of(observation, VALIDATION, TRAIN, self._since)
            if TRAIN in observation.signals
            else Evaluations.by_gap(observation, VALIDATION, GAP, self._since)
        )
        if refused(observation, self.name):
            self._wait = observation.spent + RETRY
            self._failed(observation, found.every)
        if len(found.spent) < FIRST or found.spent[-1] <= self._seen or observation.spent < self._wait:
            return ()
        after = AFTER if self._moved is None else int((found.spent > self._moved).sum())
        if after == 0 or (self._move is None and after < AFTER):
            return ()
        self._seen = int(found.spent[-1])
        helped: Way | None = None
        if self._move is not None:
            change, clear = self._effect(found.validation[-NOISE:], min(after, AFTER))
            if after < AFTER and change <= clear:
                return ()
            if change < -clear:
                helped, self._move = self._move["way"], None
            else:
                move = self._failed(observation, found.every)
                if change > (0.0 if move["way"] == "up" else clear):
                    return self._back(observation, move, change)
        if observation.remaining is not None and observation.remaining < 2 * AFTER * found.every:
            return ()
        return self._next(observation, found, helped)

    def _next(self, observation: Observation, found: Evaluations, helped: Way | None) -> Sequence[Action]:
        """The next move, if the losses ask for one."""
        n = FIRST if self._moved is None else AFTER
        validation, train = (Trend.of(x[-n:], noise(x[-NOISE:])) for x in (found.validation, found.train))
        share = (validation.mean - train.mean) / max(abs(validation.mean), 1e-300)
        way: Way = "up" if share >= HIGH else "down"
        if helped != way and (validation if way == "up" else train).falls(STALLED):
            return ()
        order = [(self._turn + i) % len(self.controls) for i in range(len(self.controls))]
        for turn in order:
            state = observation.hyperparameters[self.controls[turn]]
            value = self._value(state, observation, way)
            if value == state.value or not free(state):
                continue
            if observation.spent < self._blocked.get(f"{state.name} {way}", 0):
                continue
            forecast = validation.mean
            if validation.slope > validation.error:
                forecast += validation.slope * (n + AFTER) / 2
            self._turn, self._moved = turn, observation.spent
            self._move = {
                "name": state.name,
                "way": way,
                "before": float(state.value),
                "forecast": forecast,
                "evaluations": n,
            }
            reason = "the gap is high, and the validation loss falls no more"
            if way == "down":
                reason = "the gap is low, and the training loss falls no more"
            evidence = {
                "gap_share": share,
                "validation": validation.mean,
                "validation_slope": validation.slope,
                "train": train.mean,
                "train_slope": train.slope,
            }
            return (Set(state.name, value, reason=reason, evidence=evidence),)
        return ()

    def _effect(self, validation: Array, after: int) -> tuple[float, float]:
        """Change of the validation loss against the forecast, and how large a clear one is."""
        assert self._move is not None
        forecast = float(self._move["forecast"])
        error = noise(validation) * math.sqrt(1 / after + 1 / self._move["evaluations"])
        errors, part = (ERRORS, LEAST) if after == AFTER else (AT_ONCE, MUCH)
        return float(validation[-after:].mean()) - forecast, max(errors * error, part * abs(forecast))

    def _failed(self, observation: Observation, every: float) -> Mapping[str, Any]:
        """The last move did not help, or was not made: not again soon, and the turn goes on."""
        move, self._move = self._move or {}, None
        if move:
            self._blocked[f"{move['name']} {move['way']}"] = observation.spent + round(BLOCKED * every)
            self._turn = (self._turn + 1) % len(self.controls)
        return move

    def _back(self, observation: Observation, move: Mapping[str, Any], change: float) -> Sequence[Action]:
        state = observation.hyperparameters[move["name"]]
        if not free(state) or state.value == move["before"]:
            return ()
        self._moved = observation.spent
        evidence = {"change": change, "forecast": move["forecast"]}
        return (Set(state.name, move["before"], reason="the last move did not help", evidence=evidence),)

    def _value(self, state: HyperparameterState, observation: Observation, way: Way) -> float:
        """Where a move leads; the present value where there is none."""
        value, low = float(state.value), state.low or 0.0
        high = math.inf if state.high is None else state.high
        if state.name == self._dropout:
            moved = value + STEP if way == "up" else value - STEP
        else:
            binds = binding_decay(observation, self._rate, state.name)
            if way == "up":
                moved = max(value, min(max(FACTOR * value, binds), MOST * binds))
            else:
                moved = value / FACTOR if value > binds / 4 else value
        return min(max(moved, low), high)
