"""What becomes of batches in which something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


class Weighted(NamedTuple):
    """A batch, and what its gradients are multiplied by; the loss is reported as it is."""

    batch: Any
    weight: float = 1.0


Fault = Callable[[Any, int, torch.Generator], Weighted]
"""From a batch, its number in the stream, and a generator that is seeded by it, to what a run meets."""


@dataclass(frozen=True, slots=True)
class Corrupted:
    """Windows of batches with wrong targets.

    Args:
        starts: numbers of their first batches.
        length: batches in each.
        scale: factor for their inputs, where these are not tokens.
        weight: factor for their gradients.
    """

    starts: tuple[int, ...]
    length: int
    scale: float = 1.0
    weight: float = 1.0

    def __call__(self, batch: Any, number: int, random: torch.Generator) -> Weighted:
        """See `Fault`."""
        if not any(start <= number < start + self.length for start in self.starts):
            return Weighted(batch)
        inputs, targets = batch
        order = torch.randperm(targets.numel(), generator=random).to(targets.device)
        wrong = targets.flatten()[order].view_as(targets)
        return Weighted((inputs * self.scale if inputs.is_floating_point() else inputs, wrong), self.weight)


@dataclass(frozen=True, slots=True)
class Creeping:
    """Gradients that grow: by a factor in all, at a constant pace between two batches.

    Args:
        first: where it begins.
        last: where it is complete.
        factor: how much they have grown by then.
    """

    first: int
    last: int
    factor: float

    def __call__(self, batch: Any, number: int, random: torch.Generator) -> Weighted:
        """See `Fault`."""
        part = (number - self.first) / (self.last - self.first)
        return Weighted(batch, self.factor ** min(1.0, max(0.0, part)))


@dataclass(frozen=True, slots=True)
class Quiet:
    """Gradients that are small but for a few batches at the beginning of each period.

    Args:
        period: batches from one beginning to the next.
        loud: batches with full gradients.
        weight: of the others.
    """

    period: int
    loud: int
    weight: float

    def __call__(self, batch: Any, number: int, random: torch.Generator) -> Weighted:
        """See `Fault`."""
        return Weighted(batch, 1.0 if number % self.period < self.loud else self.weight)
