"""Ramps: a hyperparameter on its way from one value to another, as a function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .records import Shape


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
        part = (step - self.start) / self.steps
        if self.shape == "exponential":
            return math.exp((1 - part) * math.log(self.first) + part * math.log(self.last))
        if self.shape == "inverse_sqrt":  # value⁻² grows linearly: first · √(t₀ / (t₀ + t)) for some t₀
            return math.pow((1 - part) * self.first**-2 + part * self.last**-2, -0.5)
        if self.shape == "cosine":
            part = (1 - math.cos(math.pi * part)) / 2
        return self.first + part * (self.last - self.first)
