"""The user's loss on copies of batches, and what it has cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..inplace import copied
from ..plant import Plant
from ..records import TuneError
from .parts import PLAIN, attributes
from .undo import Undo


class Bench:
    """What every check works with; `undo.back()` is the caller's.

    Args:
        model: the model.
        optimizer: its optimizer.
        plant: the run's.
        loss: the forward pass and the loss, as the loop computes them.
        undo: for the draws of the random generators.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        plant: Plant,
        loss: Callable[[Any], Tensor],
        undo: Undo,
    ) -> None:
        self.model: nn.Module = getattr(model, "_orig_mod", model)  # what torch.compile wraps
        self.optimizer = optimizer
        self.undo = undo
        self.losses = self.gradients = 0
        self._loss = loss
        state = plant.state()
        self.parameters: dict[str, Tensor] = {
            name.removeprefix("model."): p for name, p in state["parameters"].items()
        }
        self.held = {
            name.removeprefix("model.")
            for held in state["optimizers"].values()
            for group in held["groups"]
            for name in group["params"]
        }
        """Parameters that some optimizer of the run holds."""
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.others = {name for name in self.held if id(self.parameters.get(name)) not in own}
        """Those that only another optimizer holds, as of an adversary."""

    @property
    def trained(self) -> list[Tensor]:
        """What the optimizer holds and moves."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

    def loss(self, batch: Any) -> Tensor:
        """The loss of a copy of `batch`: a loop may change its batch in place.

        Raises:
            TuneError: when it is no single real number.
        """
        self.losses += 1
        value = self._loss(copied(batch, torch.clone))
        if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TuneError(
                f"loss(batch) returns one real number as a tensor, got {got}; "
                "return what the loop calls backward() on"
            )
        return value.reshape(())

    def gradient(self, batch: Any) -> Tensor:
        """The loss, with its gradient in each parameter's `grad` (None where there is none)."""
        for p in self.parameters.values():
            p.grad = None
        value = self.loss(batch)
        if value.requires_grad:
            self.gradients += 1
            self.undo.set_aside(_grown(value))  # not backward(inputs=...), which checkpointing refuses
            value.backward()
        return value.detach()


def late(deadline: float) -> bool:
    """Whether `time.perf_counter()` is past it."""
    return time.perf_counter() > deadline


def leaves(batch: Any, path: str = "") -> dict[str, Tensor]:
    """The tensors and numeric arrays of a batch by their place in it, in the batch's own order."""
    return _leaves(batch, path, frozenset())


def _leaves(batch: Any, path: str, above: frozenset[int]) -> dict[str, Tensor]:
    if id(batch) in above:  # a tree whose nodes know their parents
        return {}
    above |= {id(batch)}
    match batch:
        case Tensor():
            return {path or "batch": batch.detach()}
        case np.ndarray() if batch.dtype.kind in "biufc" and batch.dtype.char not in "gG":
            return {path or "batch": torch.as_tensor(np.require(batch, requirements=["C", "W"]))}
        case _ if isinstance(batch, (*PLAIN, Enum)):
            return {}
        case Mapping():
            parts = [(f"[{key!r}]", part) for key, part in batch.items()]
        case list() | tuple():
            parts = [(f"[{i}]", part) for i, part in enumerate(batch)]
        case _:
            parts = [(f".{key}", part) for key, part in attributes(batch).items()]
    return {name: leaf for key, part in parts for name, leaf in _leaves(part, path + key, above).items()}


def _grown(value: Tensor) -> list[Tensor]:
    """The leaves of the graph that get a gradient from a backward pass."""
    waiting, seen, found = [value.grad_fn], set(), []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            found.append(leaf)
        waiting += [following for following, _ in node.next_functions]
    return found


def examples(batch: Any) -> int:
    """The length of the first axis of a batch's first tensor; 1 where there is none."""
    return next((len(leaf) for leaf in leaves(batch).values() if leaf.ndim), 1)


def head(batch: Any, count: int) -> Any:
    """The first `count` samples of a batch; the batch itself where its tensors do not share a first axis."""
    found = [leaf for leaf in leaves(batch).values() if leaf.ndim]
    sizes = {len(leaf) for leaf in found}
    if len(sizes) != 1 or min(sizes) <= count or any(leaf.layout is not torch.strided for leaf in found):
        return batch
    return _cut(batch, count)


def _cut(batch: Any, count: int) -> Any:
    if isinstance(batch, Tensor | np.ndarray):
        return batch[:count] if batch.ndim else batch
    if isinstance(batch, dict):
        return {key: _cut(part, count) for key, part in batch.items()}
    if type(batch) in (list, tuple):
        return type(batch)(_cut(part, count) for part in batch)
    return batch
