"""What the workloads share: tensors in parts, seeded batches, a loss on outputs and targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer, RMSprop

from ..suites.workload import Part, Training

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Inputs and targets, a row an example."""
OptimizerName = Literal["sgd", "adamw", "rmsprop"]
EVALUATED = 512
"""Examples that one forward pass evaluates."""
SHARES = 32
"""Of the probe data, at most, for a standard error."""


class Source(Protocol):
    """Batches of one size."""

    size: int

    def __iter__(self) -> Iterator[Batch]:
        """One pass."""
        ...


class Batches:
    """Shuffled batches of tensors, in another order at each pass; an incomplete one is left out.

    Args:
        batch: inputs (n, ...) and targets (n, ...).
        size: examples a batch, at most n.
        seed: of the order.
        change: makes what is trained on out of a batch, with random numbers from the generator that it gets.
    """

    def __init__(
        self,
        batch: Batch,
        size: int,
        seed: int,
        change: Callable[[Batch, torch.Generator], Batch] | None = None,
    ) -> None:
        self._inputs, self._targets = batch
        self.size = size
        self.generator = torch.Generator().manual_seed(seed)
        self._change = change

    def __len__(self) -> int:
        return len(self._inputs) // self.size

    def __iter__(self) -> Iterator[Batch]:
        """One pass."""
        order = torch.randperm(len(self._inputs), generator=self.generator)
        order = order.to(self._inputs.device, non_blocking=True)
        for chosen in order.split(self.size)[: len(self)]:
            batch = self._inputs[chosen], self._targets[chosen]
            yield batch if self._change is None else self._change(batch, self.generator)


def make_optimizer(name: OptimizerName, model: nn.Module, rate: float, weight_decay: float) -> Optimizer:
    """The optimizer of that name on all parameters, frozen ones included, with its usual momenta."""
    if name == "sgd":
        return SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=weight_decay)
    if name == "rmsprop":
        return RMSprop(model.parameters(), lr=rate, weight_decay=weight_decay)
    return AdamW(model.parameters(), lr=rate, weight_decay=weight_decay)


@dataclass
class Supervised(Training):
    """A model on tensors.

    Args:
        model: takes inputs, returns outputs.
        batches: of the training part.
        parts: probe, selection and test data.
        optimizer_name: which optimizer.
        weight_decay: the usual one.
        criterion: of outputs and targets, a mean over examples.
        fast: bfloat16 by autocast, and training steps compiled.
    """

    model: nn.Module
    batches: Source
    parts: Mapping[Part, Batch]
    optimizer_name: OptimizerName
    weight_decay: float = 0.0
    criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    fast: bool = False

    def __post_init__(self) -> None:
        self.probe_cost = len(self.parts["probe"][0]) / (3 * self.batches.size)
        self._trained = torch.compile(self.model) if self.fast else self.model

    def optimizer(self, rate: float, weight_decay: float | None = None) -> Optimizer:
        """See `Training.optimizer`."""
        decay = self.weight_decay if weight_decay is None else weight_decay
        return make_optimizer(self.optimizer_name, self.model, rate, decay)

    def measure(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """The mean loss of a batch: a scalar."""
        return self.criterion(model(batch[0]), batch[1])

    def loss(self, batch: Batch) -> Tensor:
        """See `Training.loss`."""
        with self._precision(batch):
            return self.measure(self._trained, batch)

    def evaluate(self, part: Part) -> float:
        """See `Training.evaluate`."""
        sizes, losses = self._measured(part, EVALUATED)
        return math.fsum(n * loss for n, loss in zip(sizes, losses, strict=True)) / sum(sizes)

    def losses(self, part: Part) -> list[float]:
        """See `Training.losses`: as many shares as divide the data, up to 32."""
        count = len(self.parts[part][0])
        shares = max(n for n in range(1, SHARES + 1) if count % n == 0)
        return self._measured(part, count // shares)[1]

    @torch.no_grad()
    def _measured(self, part: Part, size: int) -> tuple[list[int], list[float]]:
        training = self.model.training
        self.model.eval()
        inputs, targets = self.parts[part]
        sizes, losses = [], []
        with self._precision((inputs, targets)):
            for batch in zip(inputs.split(size), targets.split(size), strict=True):
                sizes.append(len(batch[0]))
                losses.append(self.measure(self.model, batch))
        self.model.train(training)
        return sizes, torch.stack(losses).tolist()  # sync: evaluated

    def _precision(self, batch: Batch) -> torch.autocast:
        return torch.autocast(batch[0].device.type, torch.bfloat16, enabled=self.fast)


def split(inputs: Tensor, targets: Tensor, probe: int, held_out: int) -> tuple[Batch, dict[Part, Batch]]:
    """Training data, `probe` examples to probe, `held_out` each for selection and test.

    At random, but the same for each seed of a run: what is reported was never trained or tuned on.
    """
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    sizes = [probe, held_out, held_out, len(inputs) - probe - 2 * held_out]
    pieces = [(inputs[i], targets[i]) for i in order.to(inputs.device).split_with_sizes(sizes)]
    return pieces[3], {"probe": pieces[0], "selection": pieces[1], "test": pieces[2]}
