"""Replay: the schedule that another run ended up with, as a fixed one."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from autotune.records import (
    POSITIVE_SHAPES,
    SHAPES,
    Action,
    Adopt,
    Escalate,
    HyperparameterState,
    Observation,
    Ramp,
    Rewind,
    Set,
    Shape,
    TuneError,
    Value,
    between,
)

from .memory import RETRY, Remembering

VERSION = 1  # of the schedules that it reads
LONGEST_WAIT = 5  # doublings of RETRY, at most, while what is asked for is refused
KEPT = 100  # ends of its own ramps that it knows again after a rewind


class Change(NamedTuple):
    """From `step` on a hyperparameter holds `last`; with a shape it goes there from `began` to `end`."""

    step: int
    began: int
    end: int
    first: Value
    last: Value
    shape: Shape | None

    def at(self, step: int) -> Value:
        """The value at `step`; the tuner's ramps follow the same curves."""
        if self.shape is None or step >= self.end:
            return self.last
        part = max(0, step - self.began) / (self.end - self.began)
        return between(float(self.first), float(self.last), part, self.shape) if part else self.first

    def stretched(self, factor: float) -> Change:
        """The same, `factor` times as late and as long."""
        step, began, end = (round(factor * n) for n in (self.step, self.began, self.end))
        return self._replace(step=step, began=began, end=max(end, began + 1) if self.shape else step)


class Replay(Remembering):
    """Moves hyperparameters as another run moved them, step for step, by the schedule exported from it.

    *Law.* At each step of the plant every hyperparameter is what it was at that step of the other run: set
    where it was set, ramped where it was ramped. With the same seeds and batches that is the same run, to
    the bit. What falls between two ticks is done at the next one, and ramps still end on time; a tuner with
    `sample_every=1`, or any number that divides all steps of the schedule, misses none. Values are kept
    within the bounds that they have here, and a jump beyond the tuner's `Limits` takes several ticks.
    *Stretch.* All steps are multiplied by one factor, so that the schedule ends where the run will, as far as
    is known: at the step it stands at and all that is left of the budget. A rewind or a trial makes the rest
    tighter. Without it the last values stay when the schedule is over.
    *Hand-over.* What a person or another policy changes stands until the schedule's next change. After a
    rewind it is where it was at that step.

    It harms where the other run was another one: a rate found for one model, batch size or optimizer is no
    better than a guess for the next, and a change that answered an accident comes without the accident.

    Args:
        schedule: the path of a file that `autotune export` wrote, or its content.
        stretch: fit it to the budget of this run, which has to be known.
        name: unique within a run.

    Raises:
        TuneError: for what is no schedule, or none of this version.

    Source: the idea is that of `PopulationBasedTrainingReplay` in Ray Tune.
    """

    MEMORY = ("_done", "_yielded", "_wait", "_refusals", "_ends", "_factor", "_told")

    def __init__(
        self, schedule: str | Path | Mapping[str, Any], *, stretch: bool = False, name: str = "replay"
    ) -> None:
        if isinstance(schedule, str | Path):
            schedule = _load(Path(schedule))
        self._steps, self._changes = _parsed(schedule)
        self.name = name
        self.requires: Sequence[str] = ()
        self.controls: Sequence[str] = tuple(self._changes)
        self._stretch = stretch
        self._done = dict.fromkeys(self.controls, -1)  # number of the change that is made
        self._yielded = dict.fromkeys(self.controls, -1)  # number of the change that someone else overruled
        self._wait = dict.fromkeys(self.controls, 0)  # spent before which nothing is asked for
        self._refusals = dict.fromkeys(self.controls, 0)  # in a row
        self._ends: dict[str, list[int]] = {name: [] for name in self.controls}  # of its own ramps
        self._factor = 1.0
        self._told = False  # a person, why it cannot begin

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        anew = False
        if self._stretch:
            if observation.remaining is None:
                told, self._told = self._told, True
                why = "a schedule is stretched to a budget, and there is none: give the tuner total_steps=..."
                return () if told else (Escalate(reason=why),)
            factor = (observation.step + observation.remaining) / self._steps
            anew, self._factor = factor != self._factor, factor
        anew = self._learn(observation) or anew
        return [
            action
            for state in (observation.hyperparameters[name] for name in self.controls)
            for action in self._follow(state, observation.step, observation.spent, anew)
        ]

    def _follow(self, state: HyperparameterState, step: int, spent: int, anew: bool) -> list[Action]:
        """What there is to do for one hyperparameter; `anew`: what should be in force may not be."""
        name = state.name
        due = self._due(name, step)
        if state.owner != "policy":
            self._done[name] = self._yielded[name] = due
        elif anew:
            self._done[name] = due if due == self._yielded[name] else due - 1
        own = state.ramp_until in self._ends[name]
        if due <= self._done[name] or spent < self._wait[name] or (state.ramp_until is not None and not own):
            return []
        self._done[name] = due
        planned, change = self._changes[name][due], self._changes[name][due].stretched(self._factor)
        if anew and own and state.ramp_until == change.end:
            return []  # a rewind has brought the ramp back
        evidence = {"change": due + 1, "of": len(self._changes[name]), "step_then": planned.step}
        reason = f"as at step {planned.step} of the run that is replayed"
        actions: list[Action] = []
        value = _within(state, change.at(step))
        if value != state.value or (own and change.shape is None):
            actions.append(Set(name, value, reason=reason, evidence=evidence))
        last = _within(state, change.last)
        if step >= change.end or isinstance(last, str) or isinstance(value, str):
            return actions
        shape = change.shape or "linear"
        if shape in POSITIVE_SHAPES and min(value, last) <= 0:
            shape = "linear"
        self._ends[name] = [*self._ends[name][1 - KEPT :], change.end]
        return [*actions, Ramp(name, last, change.end - step, shape, reason=reason, evidence=evidence)]

    def _learn(self, observation: Observation) -> bool:
        """From the decisions since it was last asked; returns whether the run was rewound."""
        rewound = False
        # A jump cut short to what one may go is asked for again, unless a ramp goes on from there.
        ramped = {
            d.action.name
            for d in observation.decisions
            if d.source == self.name and isinstance(d.action, Ramp)
        }
        for decision in observation.decisions:
            action = decision.action
            if decision.source == self.name and isinstance(action, Set | Ramp):
                name = action.name
                if not decision.applied:
                    self._done[name] = -1
                    self._wait[name] = observation.spent + RETRY * 2 ** min(
                        self._refusals[name], LONGEST_WAIT
                    )
                    self._refusals[name] += 1
                    continue
                self._refusals[name] = 0
                if decision.status == "clamped" and name not in ramped:
                    self._done[name] = -1
                    self._wait[name] = decision.spent + 1
            elif decision.applied:
                rewound |= isinstance(action, Rewind | Adopt)
                # Where the line stood then: nothing has been rewound since, or a later decision says so.
                step = observation.step - (observation.spent - decision.spent)
                for name in decision.after if isinstance(action, Set | Ramp | Rewind | Adopt) else ():
                    if name in self._done:
                        self._done[name] = self._yielded[name] = self._due(name, step)
        return rewound

    def _due(self, name: str, step: int) -> int:
        """The number of the change that should be in force at `step`."""
        changes = self._changes[name]
        return max(0, bisect_right(changes, step, key=lambda c: c.stretched(self._factor).step) - 1)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TuneError(
            f"a schedule is a file that `autotune export RUN --to FILE` wrote, got {str(path)!r}: {error}"
        ) from error


def _parsed(schedule: Any) -> tuple[int, dict[str, list[Change]]]:
    """The number of steps, and the changes of each hyperparameter."""
    if not isinstance(schedule, Mapping) or schedule.get("version") != VERSION:
        version = schedule.get("version") if isinstance(schedule, Mapping) else None
        raise TuneError(
            f"a schedule to replay is what `autotune export` writes, version {VERSION}, got "
            f"{type(schedule).__name__} of version {version!r}; export the run with this version of autotune"
        )
    steps: Any = schedule.get("steps")
    named = schedule.get("hyperparameters")
    if not _whole(steps) or steps < 1:
        raise TuneError(f"a schedule has 1 step or more, got steps={steps!r}; export a run that has trained")
    if not isinstance(named, Mapping) or not named:
        raise TuneError(
            f"a schedule has changes by hyperparameter, got hyperparameters={named!r}; leave one there"
        )
    changes = {}
    for name, entries in named.items():
        if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
            raise TuneError(
                f"{name} in a schedule is a list of changes, got {entries!r}; export the run again"
            )
        changes[name] = [_change(name, entry) for entry in entries]
        order = [change.step for change in changes[name]]
        if order[0] != 0 or any(a >= b for a, b in pairwise(order)):
            raise TuneError(
                f"the changes of {name} are by step, the first at 0, got steps {order}; sort them"
            )
    return steps, changes


def _change(name: str, entry: Any) -> Change:
    fields: dict[str, Any] = dict(entry) if isinstance(entry, Mapping) else {}
    step: Any = fields.get("step")
    value: Any = fields.get("value")
    if (
        fields.keys() == {"step", "value"}
        and _whole(step)
        and (isinstance(value, str | bool) or _number(value))
    ):
        return Change(step, step, step, value, value, None)
    if fields.keys() - {"began"} == {"step", "from", "to", "steps", "shape"}:
        began, steps, shape = fields.get("began", step), fields["steps"], fields["shape"]
        first, last = fields["from"], fields["to"]
        if all(map(_whole, (step, began, steps))) and began <= step and steps >= 1 and shape in SHAPES:
            positive = shape in POSITIVE_SHAPES
            if _number(first) and _number(last) and not (positive and min(first, last) <= 0):
                return Change(step, began, began + steps, first, last, shape)
    raise TuneError(
        f"a change of {name} is a step and a value, or a step, from, to, steps and a shape that those allow "
        f"({', '.join(SHAPES)}), got {entry!r}; mend it, or export the run again"
    )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _within(state: HyperparameterState, value: Value) -> Value:
    """The nearest value that the hyperparameter can hold."""
    if isinstance(value, str | bool) or state.low is None or state.high is None:
        return value
    value = min(max(value, state.low), state.high)
    return round(value) if state.kind == "int" else value
