"""Ramps: a hyperparameter on its way from one value to another, as a function of the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from .records import Schedule, Shape, between


@dataclass(frozen=True, slots=True)
class RunningRamp:
    """A ramp from `first` at step `start` to `last` at step `start + steps`, which it then holds."""

    source: str
    start: int
    steps: int
    first: float
    last: float
    shape: Shape

    @property
    def end(self) -> int:
        """The step at which `last` is reached."""
        return self.start + self.steps

    @property
    def parts(self) -> tuple[RunningRamp, ...]:
        """Itself."""
        return (self,)

    def at(self, step: int) -> float:
        """The value at `step`; the ends are exact."""
        if step >= self.end:
            return self.last
        if step <= self.start:
            return self.first
        return between(self.first, self.last, (step - self.start) / self.steps, self.shape)

    def moved(self, steps: int) -> Self:
        """The same, so many steps later."""
        return dataclasses.replace(self, start=self.start + steps)


@dataclass(frozen=True, slots=True)
class RunningSchedule:
    """Ramps one after another, each from where the one before it ends."""

    parts: tuple[RunningRamp, ...]

    @classmethod
    def of(cls, schedule: Schedule, source: str, step: int, value: float) -> Self:
        """The schedule, begun at this step and value."""
        parts: list[RunningRamp] = []
        for end, last, shape in schedule.points:
            parts.append(RunningRamp(source, step, end - step, float(value), float(last), shape))
            step, value = end, last
        return cls(tuple(parts))

    @property
    def source(self) -> str:
        """Who wants it."""
        return self.parts[0].source

    @property
    def start(self) -> int:
        """The step at which it began."""
        return self.parts[0].start

    @property
    def end(self) -> int:
        """The step at which its last value is reached."""
        return self.parts[-1].end

    def at(self, step: int) -> float:
        """The value at `step`; the corners are exact."""
        return next((part for part in self.parts if step < part.end), self.parts[-1]).at(step)

    def moved(self, steps: int) -> Self:
        """The same, so many steps later."""
        return dataclasses.replace(self, parts=tuple(part.moved(steps) for part in self.parts))


Running: TypeAlias = RunningRamp | RunningSchedule


def running_from_json(data: Mapping[str, Any]) -> Running:
    """What `dataclasses.asdict` has made of a ramp or a schedule."""
    if "parts" in data:
        return RunningSchedule(tuple(RunningRamp(**part) for part in data["parts"]))
    return RunningRamp(**data)
