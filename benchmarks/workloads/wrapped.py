"""Trainings round other trainings: numbered batches that may be faulty, half precision, another beta2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from autotune.actuators import beta2, gradient_clip
from autotune.hyperparameters import Hyperparameter

from ..suites.workload import Part, Training
from .corruption import Fault, Weighted

UNCLIPPED = 1e4
"""The norm that gradients are clipped at until a policy sets another: far above all healthy ones."""
FIRST_SCALE = 2.0**10


class Wrapped(Training):
    """Another training, as it is.

    Args:
        inner: the other.
    """

    def __init__(self, inner: Training) -> None:
        self.inner = inner
        self.model, self.batches, self.probe_cost = inner.model, inner.batches, inner.probe_cost

    def optimizer(self, rate: float, weight_decay: float | None = None) -> Optimizer:
        """See `Training.optimizer`."""
        return self.inner.optimizer(rate, weight_decay)

    def loss(self, batch: Any) -> Tensor:
        """See `Training.loss`."""
        return self.inner.loss(batch)

    def update(self, loss: Tensor, optimizer: Optimizer) -> None:
        """See `Training.update`."""
        self.inner.update(loss, optimizer)

    def evaluate(self, part: Part) -> float:
        """See `Training.evaluate`."""
        return self.inner.evaluate(part)

    def losses(self, part: Part) -> list[float]:
        """See `Training.losses`."""
        return self.inner.losses(part)

    def hyperparameters(self, optimizer: Optimizer, *, scheduled: bool = False) -> list[Hyperparameter[Any]]:
        """See `Training.hyperparameters`."""
        return self.inner.hyperparameters(optimizer, scheduled=scheduled)

    def stateful(self) -> Mapping[str, object]:
        """See `Training.stateful`."""
        return self.inner.stateful()


class Stream:
    """Batches without end, numbered, the faulty ones among them.

    A fault belongs to the number of a batch: a rewind that replays meets it again, one that skips leaves it
    behind. The stream is one long pass, so that what is drawn anew after a rewind is counted from the first.

    Args:
        batches: sound ones, pass after pass.
        fault: what becomes of them.
        seed: of what is random in that.
        hindsight: what is known of the faults, for arms that may know it.
    """

    def __init__(self, batches: Any, fault: Fault, seed: int, hindsight: object = None) -> None:
        self.generator: torch.Generator = batches.generator
        self.hindsight = hindsight
        self._batches, self._fault, self._seed = batches, fault, seed

    def __iter__(self) -> Iterator[Weighted]:
        """From the first on."""
        number = 0
        while True:
            for batch in self._batches:
                random = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
                yield self._fault(batch, number, random)
                number += 1


class Numbered(Wrapped):
    """A training on a `Stream`; its evaluations are clean, and gradients may be clipped.

    Args:
        inner: the training on sound batches.
        fault: what becomes of them.
        seed: of what is random in that.
        hindsight: see `Stream`.
    """

    def __init__(self, inner: Training, fault: Fault, seed: int, hindsight: object = None) -> None:
        super().__init__(inner)
        self.batches = Stream(inner.batches, fault, seed, hindsight)
        self._weight = 1.0

    def loss(self, batch: Weighted) -> Tensor:
        """See `Training.loss`."""
        self._weight = batch.weight
        return self.inner.loss(batch.batch)

    def update(self, loss: Tensor, optimizer: Optimizer) -> None:
        """See `Training.update`."""
        self.inner.update(loss * self._weight, optimizer)

    def hyperparameters(self, optimizer: Optimizer, *, scheduled: bool = False) -> list[Hyperparameter[Any]]:
        """See `Training.hyperparameters`."""
        found = self.inner.hyperparameters(optimizer, scheduled=scheduled)
        if any(parameter.name == "gradient_clip" for parameter in found):
            return found
        return [*found, gradient_clip(optimizer, UNCLIPPED)]


class Beta2(Wrapped):
    """Another decay rate of Adam's second moment, which policies may move.

    Args:
        inner: trained by AdamW.
        value: of beta2.
    """

    def __init__(self, inner: Training, value: float) -> None:
        super().__init__(inner)
        self._value = value

    def optimizer(self, rate: float, weight_decay: float | None = None) -> Optimizer:
        """See `Training.optimizer`."""
        optimizer = self.inner.optimizer(rate, weight_decay)
        for group in optimizer.param_groups:
            group["betas"] = (group["betas"][0], self._value)
        return optimizer

    def hyperparameters(self, optimizer: Optimizer, *, scheduled: bool = False) -> list[Hyperparameter[Any]]:
        """See `Training.hyperparameters`."""
        return [*self.inner.hyperparameters(optimizer, scheduled=scheduled), beta2(optimizer)]


class HalfPrecision(Wrapped):
    """Gradients in float16, their loss scaled by a GradScaler that begins at 1,024.

    Args:
        inner: the training in float32.
        device: it is on.
    """

    def __init__(self, inner: Training, device: torch.device) -> None:
        super().__init__(inner)
        self.scaler = torch.amp.GradScaler(device.type, init_scale=FIRST_SCALE)

    def update(self, loss: Tensor, optimizer: Optimizer) -> None:
        """See `Training.update`."""
        optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.copy_(parameter.grad.half())
        self.scaler.step(optimizer)
        self.scaler.update()

    def stateful(self) -> Mapping[str, object]:
        """See `Training.stateful`."""
        return {**self.inner.stateful(), "scaler": self.scaler}
