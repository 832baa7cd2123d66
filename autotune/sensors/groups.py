"""Layer groups: the parts of a model that are measured one by one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor, nn

LIMIT = 32
REST = "rest"
T = TypeVar("T", bound=Tensor)


def layer_groups(model: nn.Module) -> dict[str, list[Tensor]]:
    """The model's parameters by top-level child, each tensor once, in the model's own order.

    A module that is nothing but a wrapper (one child, no parameters of its own) is looked through.
    Parameters that sit directly on the root form a group with the name of the root's class. Beyond 32
    groups, the last ones are merged into `rest`.
    """
    root = unwrapped(model)
    candidates: list[tuple[str, list[Tensor]]] = []
    candidates.append((type(root).__name__, list(root.parameters(recurse=False))))
    candidates += [(name, list(child.parameters())) for name, child in root.named_children()]
    filled = [(name, tensors) for name, tensors in candidates if tensors]
    merged = LIMIT - 1 if len(filled) > LIMIT else len(filled)
    rest = [tensor for _, tensors in filled[merged:] for tensor in tensors]
    return {name: tensors for name, tensors in distinct([*filled[:merged], (REST, rest)]) if tensors}


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside those that are nothing but wrappers: one child, no parameters of their own."""
    while not any(True for _ in model.parameters(recurse=False)) and len(list(model.children())) == 1:
        model = next(model.children())
    return model


def distinct(groups: Iterable[tuple[str, Iterable[T]]]) -> list[tuple[str, list[T]]]:
    """The same groups with each tensor once: a tied weight belongs to the first group that holds it."""
    seen: set[int] = set()
    result = []
    for name, tensors in groups:
        own = [tensor for tensor in dict.fromkeys(tensors) if id(tensor) not in seen]
        seen.update(map(id, own))
        result.append((name, own))
    return result
