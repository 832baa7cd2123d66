"""What supervised workloads share: tensors in parts, seeded batches, a loss on outputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer, RMSprop

from ..suites.workload import Part, Training

Batch: TypeAlias = tuple[Tensor, Tensor]
Kind = Literal["sgd", "adamw", "rmsprop"]
EVALUATED = 512
"""Examples that one forward pass evaluates."""


class Batches:
    """Shuffled batches of tensors, in another order at each pass; an incomplete one is left out.

    Args:
        batch: inputs (n, ...) and targets (n, ...).
        size: examples a batch.
        seed: of the order.
    """

    def __init__(self, batch: Batch, size: int, seed: int) -> None:
        self._inputs, self._targets = batch
        self.size = size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._inputs) // self.size

    def __iter__(self) -> Iterator[Batch]:
        """One pass."""
        order = torch.randperm(len(self._inputs), generator=self.generator)
        for i in range(len(self)):
            chosen = order[i * self.size : (i + 1) * self.size].to(self._inputs.device)
            yield self._inputs[chosen], self._targets[chosen]


def make_optimizer(kind: Kind, model: nn.Module, rate: float, weight_decay: float) -> Optimizer:
    """The optimizer of a kind, with its usual momenta."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if kind == "sgd":
        return SGD(parameters, lr=rate, momentum=0.9, weight_decay=weight_decay)
    if kind == "rmsprop":
        return RMSprop(parameters, lr=rate, weight_decay=weight_decay)
    return AdamW(parameters, lr=rate, weight_decay=weight_decay)


@dataclass
class Supervised(Training):
    """A model on tensors.

    Args:
        model: takes inputs, returns outputs.
        batches: of the training part.
        parts: probe, selection and test data.
        kind: of the optimizer.
        weight_decay: the usual one.
        criterion: of outputs and targets, a mean.
    """

    model: nn.Module
    batches: Batches
    parts: Mapping[Part, Batch]
    kind: Kind
    weight_decay: float = 0.0
    criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy

    def __post_init__(self) -> None:
        self.probe_cost = len(self.parts["probe"][0]) / (3 * self.batches.size)

    def optimizer(self, rate: float, weight_decay: float | None = None) -> Optimizer:
        """See `Training.optimizer`."""
        decay = self.weight_decay if weight_decay is None else weight_decay
        return make_optimizer(self.kind, self.model, rate, decay)

    def loss(self, batch: Batch) -> Tensor:
        """See `Training.loss`."""
        return self.criterion(self.model(batch[0]), batch[1])

    @torch.no_grad()
    def evaluate(self, part: Part) -> float:
        """See `Training.evaluate`."""
        training = self.model.training
        self.model.eval()
        inputs, targets = self.parts[part]
        total = 0.0
        for x, y in zip(inputs.split(EVALUATED), targets.split(EVALUATED), strict=True):
            total += self.criterion(self.model(x), y).item() * len(x)  # sync: evaluated
        self.model.train(training)
        return total / len(inputs)


def split(inputs: Tensor, targets: Tensor, held_out: int, seed: int) -> tuple[Batch, dict[Part, Batch]]:
    """Training data, and three parts of `held_out` examples each, at random by the seed."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed)).to(inputs.device)
    pieces = [
        (inputs[i], targets[i]) for i in order.split_with_sizes([held_out] * 3 + [len(order) - 3 * held_out])
    ]
    probe, selection, test, train = pieces
    return train, {"probe": probe, "selection": selection, "test": test}
