"""Nested state made equal to a saved copy without moving a live tensor."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_PLAIN = (bool, int, float, str, type(None))


class Merge:
    """Makes live values equal to saved ones, keeping every live tensor and container that it can."""

    def __init__(self) -> None:
        self._live: list[Tensor] = []
        self._saved: list[Tensor] = []

    def value(self, live: Any, saved: Any, device: torch.device | None = None) -> Any:
        """What has to stand where `live` stood; tensors made anew go to `device` (None: where `saved` is)."""
        if isinstance(saved, Tensor):
            return self._tensor(live, saved, device)
        if type(saved) is dict:
            target = live if type(live) is dict else {}
            self.update(target, saved, device)
            return target
        if type(saved) in (list, tuple):
            same = type(live) is type(saved) and len(live) == len(saved)
            old = live if same else [None] * len(saved)
            items = [self.value(a, b, device) for a, b in zip(old, saved, strict=True)]
            return items if type(saved) is list else tuple(items)
        return copy.deepcopy(saved)

    def update(
        self,
        target: dict[Any, Any],
        saved: Mapping[Any, Any],
        device: torch.device | None = None,
        skip: str = "",
    ) -> None:
        """`value` for each entry of a dict, which stays the same object; the entry `skip` is left alone."""
        self.forget(target, saved)
        for key, item in saved.items():
            if key != skip:
                target[key] = self.value(target.get(key), item, device)

    @staticmethod
    def forget(target: dict[Any, Any], saved: Mapping[Any, Any]) -> None:
        """Delete what `saved` does not have."""
        for key in target.keys() - saved.keys():
            del target[key]

    def copy(self) -> None:
        """The copies that are due, all at once."""
        copy_tensors(self._live, self._saved)

    def _tensor(self, live: Any, saved: Tensor, device: torch.device | None) -> Tensor:
        if isinstance(live, Tensor):
            place = local(live)
            if place.shape == saved.shape and place.dtype == saved.dtype:
                if _writable(place):
                    self._live.append(place)
                    self._saved.append(saved)
                    return live
                if place.layout is torch.strided and torch.equal(place, saved):  # sync: expanded buffers only
                    return live
        fresh = saved.detach().clone()
        return fresh if device is None else fresh.to(device)


def copied(tree: Any, tensor: Callable[[Tensor], Any]) -> Any:
    """A deep copy of nested containers, with `tensor(t)` in the place of each tensor."""
    if isinstance(tree, Tensor):
        return tensor(tree)
    kind = type(tree)
    if kind in _PLAIN:
        return tree
    if kind is dict:
        return {key: copied(item, tensor) for key, item in tree.items()}
    if kind in (list, tuple):
        return kind([copied(item, tensor) for item in tree])
    return copy.deepcopy(tree)


def copy_tensors(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """`targets[i].copy_(sources[i])`, in as few kernels as can be; pinned memory is not waited for."""
    batches: defaultdict[Any, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for target, source in zip(targets, sources, strict=True):
        batch = batches[target.device, source.device, target.dtype]
        batch[0].append(target)
        batch[1].append(source)
    with torch.no_grad():
        for batch in batches.values():
            torch._foreach_copy_(*batch, non_blocking=True)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a DTensor, which shares its memory; any other tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _writable(tensor: Tensor) -> bool:
    """Whether each element has memory of its own: not in sparse and expanded tensors."""
    if tensor.layout is not torch.strided:
        return False
    return all(stride or size < 2 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
