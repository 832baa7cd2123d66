"""Ramps: a hyperparameter on its way from one value to another, as a function of the step."""

from __future__ import annotations

from dataclasses import dataclass

from .records import Shape, between


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

    def at(self, step: int) -> float:
        """The value at `step`; the ends are exact."""
        if step >= self.end:
            return self.last
        if step <= self.start:
            return self.first
        return between(self.first, self.last, (step - self.start) / self.steps, self.shape)
