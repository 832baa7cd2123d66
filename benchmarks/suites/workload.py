"""What is trained: a workload, and one training of it."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autotune.actuators import TunableDropout, dropout, learning_rate, weight_decay
from autotune.hyperparameters import Hyperparameter

Part = Literal["probe", "selection", "test"]
"""Data apart: arms see `probe`, baselines and best states are chosen by `selection`, reports give `test`."""


class Training(abc.ABC):
    """One run that is about to begin: everything random about it comes from its seed.

    The optimizer belongs to the workload, so that every arm has the same; its rate and weight decay are
    the arm's.
    """

    model: nn.Module
    batches: Iterable[Any]
    """One pass over the training data; begins anew, in another order, each time it is iterated over."""
    probe_cost: float
    """What an evaluation of `probe` costs, in optimizer steps: its examples over those of a batch, by 3."""
    reports: Mapping[str, Tensor | float] = {}
    """What the last `loss` measured on the way, for policies that ask for it: the same names each time."""

    @abc.abstractmethod
    def optimizer(self, rate: float, weight_decay: float | None = None) -> Optimizer:
        """The workload's optimizer; None: its usual weight decay."""

    @abc.abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The training loss of a batch, in training mode: a scalar."""

    @abc.abstractmethod
    def evaluate(self, part: Part) -> float:
        """The loss on a part of the data: positive, the same at each call for the same weights.

        In eval mode, without gradients, and without drawing from the global random generators.
        """

    def losses(self, part: Part) -> list[float]:
        """The same, of equal shares of that data, for a standard error; one number where there are none."""
        return [self.evaluate(part)]

    def update(self, loss: Tensor, optimizer: Optimizer) -> None:
        """One optimizer step."""
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def hyperparameters(self, optimizer: Optimizer, *, scheduled: bool = False) -> list[Hyperparameter[Any]]:
        """What policies may move.

        Args:
            optimizer: as made by `optimizer`.
            scheduled: a torch scheduler drives the rate; the hyperparameter is a factor on it.
        """
        found: list[Hyperparameter[Any]] = (
            [learning_rate(optimizer, schedule="multiply")]
            if scheduled
            else [learning_rate(optimizer, low=1e-10, high=1e6)]
        )
        if "weight_decay" in optimizer.defaults:
            found.append(weight_decay(optimizer))
        if any(isinstance(module, nn.Dropout | TunableDropout) for module in self.model.modules()):
            found.append(dropout(self.model))
        return found

    def stateful(self) -> Mapping[str, object]:
        """Parts of the run that a rewind must restore beside model, optimizer and batches, by name."""
        return {}


class Workload(Protocol):
    """A training task with its budget.

    `rate` is where a practitioner would start; baselines are tuned around it over four decades, and what
    every arm's initial rate is a multiple of is the tuned one, not this.
    """

    @property
    def name(self) -> str:
        """Unique within a suite."""
        ...

    @property
    def steps(self) -> int:
        """Optimizer steps of a run of the baseline."""
        ...

    @property
    def epoch(self) -> int:
        """Optimizer steps of a pass over the data, or of what comes nearest to one."""
        ...

    @property
    def rate(self) -> float:
        """The centre of the search for the baseline's rate."""
        ...

    @property
    def target(self) -> float:
        """The selection loss that a good run reaches before its end; time to target is measured with it."""
        ...

    def begin(self, seed: int, device: torch.device) -> Training:
        """A fresh training; the same seed gives the same data order, weights and noise."""
        ...


def healthy(workload: Workload) -> Workload:
    """What the baseline is tuned and run on: a workload's attribute `healthy`, where it has one, else itself.

    A workload in which something goes wrong is compared with its twin in which nothing does.
    """
    twin: Workload = getattr(workload, "healthy", workload)
    return twin
