"""The live line of a run: what each hyperparameter was at each step that the run's end goes back to."""

from __future__ import annotations

import copy
import dataclasses
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .clock import Clock
from .ramps import Running, RunningRamp, RunningSchedule
from .records import HUMAN, POSITIVE_SHAPES, Ramp, Schedule, Set, Value

TOLERANCE = 1e-6
"""Relative. A plant that keeps a value in float32 tells it back with an error of up to 1e-7."""


@dataclass(frozen=True, slots=True)
class Change:
    """From `step` on a hyperparameter holds `value`, or what `ramp` says."""

    step: int
    spent: int
    value: Value
    ramp: Running | None = None

    def at(self, step: int) -> Value:
        """The value at `step` or later."""
        return self.value if self.ramp is None else self.ramp.at(step)

    def running(self, step: int) -> bool:
        """Whether a ramp still moves the value."""
        return self.ramp is not None and step < self.ramp.end


class LiveLine:
    """The live line up to now: the clock, who owns what, and every change that is left of it."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self.kinds = kinds
        self.clock = Clock(None)
        self.owners = dict.fromkeys(kinds, "policy")
        self.benched: frozenset[str] = frozenset()
        """Policies whose ramps have ended with them."""
        self.changes: dict[str, list[Change]] = {name: [] for name in kinds}
        self.seen = dict.fromkeys(kinds, (0, 0))  # (step, spent) at which a value was last known for certain

    @property
    def offset(self) -> int:
        """Steps that were spent and are not on the line."""
        return self.clock.spent - self.clock.step

    def copy(self) -> LiveLine:
        """One that goes on by itself."""
        other = copy.copy(self)
        other.clock = dataclasses.replace(self.clock, stretches=list(self.clock.stretches))
        other.owners, other.seen = dict(self.owners), dict(self.seen)
        other.changes = {name: list(changes) for name, changes in self.changes.items()}
        return other

    def cut(self, step: int) -> LiveLine:
        """The line as it was when it first came to `step`."""
        other, stretches = self.copy(), self.clock.stretches
        ends = [*(first for first, _ in stretches[1:]), self.clock.step]
        spent = next(
            (n + step - s for (s, n), end in zip(stretches, ends, strict=True) if s <= step <= end),
            self.clock.spent,
        )
        other.clock.step, other.clock.spent = step, spent
        for changes in other.changes.values():
            del changes[bisect_right(changes, spent, key=lambda c: c.spent) :]
        return other

    def value(self, name: str, before: int = 0) -> Value:
        """What a hyperparameter is now, or `before` steps ago if it has not changed its course since."""
        value = self.changes[name][-1].at(self.clock.step - before)
        return round(value) if self.kinds[name] == "int" and isinstance(value, float) else value

    def put(self, name: str, value: Value, ramp: Running | None = None) -> None:
        """From now on it holds this value, or what the ramp says."""
        self.changes[name].append(Change(self.clock.step, self.clock.spent, value, ramp))
        self.seen[name] = (self.clock.step, self.clock.spent)

    def change(self, action: Set | Ramp | Schedule, source: str, now: Value) -> None:
        """What a set, a ramp or a schedule does; `now` is what the plant held after it."""
        if isinstance(action, Set):
            self.put(action.name, now)
        elif isinstance(action, Schedule):
            running = RunningSchedule.of(action, source, self.clock.step, float(now))
            self.put(action.name, now, running)
        elif action.shape not in POSITIVE_SHAPES or float(now) > 0:  # else it has failed after a rewind
            first, last, start = float(now), float(action.value), self.clock.step
            self.put(action.name, now, RunningRamp(source, start, action.steps, first, last, action.shape))
        if source.startswith(HUMAN):
            self.owners[action.name] = source

    def see(self, name: str, value: Value, also: Iterable[Value] = ()) -> None:
        """A value on record: what it cannot explain has changed since it was last known for certain.

        Args:
            name: the hyperparameter.
            value: what it was at this step and `spent`.
            also: what else it was then.
        """
        if not self.changes[name]:
            self.changes[name].append(Change(0, 0, value))
        elif not same(self.value(name), value) and value not in also and not self._late(name, value):
            self.changes[name].append(Change(*self.seen[name], value))
        self.seen[name] = (self.clock.step, self.clock.spent)

    def _late(self, name: str, value: Value) -> bool:
        """Whether a ramp is to be moved on: a person who acts in the loop's body is ahead of the boundary."""
        change = self.changes[name][-1]
        step = self.clock.step
        return change.step < step and change.running(step - 1) and same(self.value(name, before=1), value)

    def stop(self, name: str, value: Value) -> None:
        """A ramp ends at this value."""
        if self.changes[name] and self.changes[name][-1].running(self.clock.step - 1):
            self.put(name, value)

    def bench(self, policies: frozenset[str]) -> None:
        """These policies are not asked any more, and the others are."""
        self.benched = policies
        for name, changes in self.changes.items():
            ramp = changes[-1].ramp if changes else None
            if ramp and ramp.source in policies:
                self.stop(name, self.value(name))

    def arrive(self, step: int, spent: int) -> None:
        """The run has come to this step; if more was spent than that, it had been away for trials."""
        clock, back = self.clock, spent - step - self.offset
        if back:
            before, clock.spent = clock.spent, clock.spent + back
            clock.rewind(clock.step, before, clock.stretches)
        clock.step, clock.spent = step, spent

    def restore(self, target: LiveLine, resumed: bool = False) -> None:
        """Go to `target`. What people hold stays as it is, unless the run was `resumed` by a new process."""
        if resumed:
            self.owners, self.benched = dict(target.owners), target.benched
        held = {n: self.changes[n] for n, o in self.owners.items() if o != "policy" and not resumed}
        values = {name: self.value(name) for name, changes in held.items() if changes}
        tails = {name: held[name][-1] for name in values}
        here, back = self.clock.step, self.clock.step - target.clock.step
        self.clock.rewind(target.clock.step, target.clock.spent, target.clock.stretches)
        self.changes = {name: list(changes) for name, changes in target.changes.items()}
        self.seen = dict.fromkeys(self.kinds, (self.clock.step, self.clock.spent))
        for name, changes in self.changes.items():
            ramp = changes[-1].ramp if changes else None
            if name in values:
                going, moved = tails[name].running(here), tails[name].ramp
                shifted = moved.moved(-back) if going and moved else None
                self.put(name, values[name], shifted)
            elif ramp and ramp.source.startswith(HUMAN) and self.owners[name] != ramp.source:
                self.stop(name, self.value(name))
        self.bench(self.benched)

    def document(self, name: str) -> list[dict[str, Any]]:
        """The changes as plain JSON values, without those that change nothing."""
        last_at = {change.step: change for change in self.changes[name]}
        whole = self.kinds[name] == "int"
        kept: dict[int, Change] = {}
        before: Change | None = None
        for step, change in last_at.items():
            if before is not None and before.ramp is not None and before.ramp == change.ramp:
                continue
            still = before is not None and not before.running(step) and not change.running(step)
            if still and before is not None and before.at(step) == change.at(step):
                continue
            before = kept[step] = change
        out: list[dict[str, Any]] = []
        for step, change in kept.items():
            if change.ramp is None:
                out.append({"step": step, "value": change.value})
                continue
            until = min((later for later in kept if later > step), default=math.inf)
            for part in change.ramp.parts:
                begin = max(step, part.start)
                if (part.end > step or part is change.ramp.parts[-1]) and begin < until:
                    ends = (part.first, part.last)
                    first, last = map(round, ends) if whole else ends
                    ramp = {"from": first, "to": last, "steps": part.steps, "shape": part.shape}
                    out.append(
                        {"step": begin, **ramp, **({} if part.start == begin else {"began": part.start})}
                    )
        return out


def same(a: Value, b: Value) -> bool:
    """Whether two values are one, but for the rounding of a plant that keeps float32."""
    if isinstance(a, str | bool) or isinstance(b, str | bool):
        return a == b
    return math.isclose(a, b, rel_tol=TOLERANCE)
