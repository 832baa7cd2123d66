"""What objects are made of: searched, kept, and put back in place."""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..generators import AnyGenerator, Generators

DEPTH = 12
"""How deep parts are searched."""
MANY = 1000
"""Containers with more entries than this hold data: they are put back, and not searched."""
SMALL, ROOM = 16_000_000, 256_000_000
"""Bytes of an array or a tensor up to which it is put back, and of all of them together."""
_FOREIGN = {"torch", "numpy", "threading", "queue", "multiprocessing", "asyncio", "logging", "autotune"}
"""Packages whose objects are left alone, the journal of a tuner among them ..."""
_READING = ("torch.utils.data", "autotune.actuators.data")
"""... but for these, whose objects have a state that reading moves."""
_CONTAINERS = (dict, list, deque, set)
_ARRAYS = (Tensor, np.ndarray)
PLAIN = (str, bytes, int, float, type(None), type, types.ModuleType)
_MISSING = object()


class Kept:
    """Attributes, slots, containers, small arrays and generators of objects and of their parts.

    Args:
        roots: the objects.
        known: ids of what others put back; what is found joins them.
    """

    def __init__(self, roots: Sequence[Any], known: set[int]) -> None:
        self.parts = list(_parts(roots, known))  # kept, since an id is of one object only while that lives
        self._containers: list[tuple[Any, Any]] = []
        self._slots: list[tuple[Any, Any, Any]] = []
        self._arrays: list[tuple[Any, Any]] = []
        private: dict[str, AnyGenerator] = {}
        room = ROOM
        for item in self.parts:
            if isinstance(item, AnyGenerator):
                private[str(len(private))] = item
            elif isinstance(item, _ARRAYS):
                if _owned(item) and item.nbytes <= min(SMALL, room):
                    room -= item.nbytes
                    self._arrays.append((item, _copy(item)))
            else:
                if isinstance(item, _CONTAINERS):
                    self._containers.append((item, _contents(item)))
                if hasattr(item, "__dict__"):
                    self._containers.append((vars(item), dict(vars(item))))
                self._slots += [(item, slot, _read(item, slot)) for slot in _slots(item)]
        self._generators = Generators(private)
        self._drawn = self._generators.capture()

    def redraw(self) -> None:
        """Put the generators back, and with them the global ones."""
        self._generators.restore(self._drawn)

    def back(self) -> None:
        """Put all of it back."""
        for container, contents in self._containers:
            refill(container, contents)
        for item, slot, value in self._slots:
            if _read(item, slot) is not value:
                slot.__delete__(item) if value is _MISSING else slot.__set__(item, value)
        for array, values in self._arrays:
            if isinstance(array, Tensor):
                array.data.copy_(values)  # not detach(), whose version counter a kept graph would notice
            else:
                array[...] = values
        self.redraw()


def refill(container: Any, contents: Any) -> None:
    """Put a container's entries back; one that has not changed is not touched."""
    now = _contents(container)
    if list(map(id, now)) == list(map(id, contents)) and (
        not isinstance(now, dict) or list(map(id, now.values())) == list(map(id, contents.values()))
    ):
        return
    container.clear()
    (container.extend if isinstance(container, list | deque) else container.update)(contents)


def _contents(container: Any) -> Any:
    return dict(container) if isinstance(container, dict) else list(container)


def _parts(roots: Sequence[Any], known: set[int]) -> Iterator[Any]:
    """What the roots are made of, each object once."""
    waiting = deque((root, 0) for root in roots)
    while waiting:
        item, depth = waiting.popleft()
        if isinstance(item, PLAIN) or id(item) in known or depth > DEPTH:
            continue
        if isinstance(item, (*_ARRAYS, AnyGenerator)):
            known.add(id(item))
            yield item
            continue
        foreign = type(item).__module__.partition(".")[0] in _FOREIGN
        if foreign and not type(item).__module__.startswith(_READING) and not isinstance(item, nn.Module):
            continue
        known.add(id(item))
        yield item
        waiting.extend((part, depth + 1) for part in _children(item))


def _children(item: Any) -> Iterable[Any]:
    match item:
        case dict() | list() | tuple() | set() | deque():
            if len(item) > MANY:
                return ()
            return list(item.values()) if isinstance(item, dict) else list(item)
        case types.MethodType():
            return (item.__self__,)
        case functools.partial():
            return (item.func, *item.args, *item.keywords.values())
    # A running iterator has state that nobody may touch; meanwhile the loader makes new ones.
    return [part for name, part in attributes(item).items() if name != "_iterator"]


def attributes(item: Any) -> dict[str, Any]:
    """An object's own attributes, those in slots among them, by name."""
    slots = {slot.__name__: _read(item, slot) for slot in _slots(item)}
    return {name: value for name, value in slots.items() if value is not _MISSING} | getattr(
        item, "__dict__", {}
    )


def _slots(item: Any) -> list[Any]:
    """Descriptors of the slots, which know mangled names and pass over what a class makes of setattr."""
    classes = [own for own in type(item).__mro__ if "__slots__" in vars(own)]
    return [
        slot for own in classes for slot in vars(own).values() if isinstance(slot, types.MemberDescriptorType)
    ]


def _read(item: Any, slot: Any) -> Any:
    try:
        return slot.__get__(item)
    except AttributeError:
        return _MISSING


def _owned(array: Any) -> bool:
    """Whether each element has memory of its own that may be written."""
    if isinstance(array, np.ndarray):
        return bool(array.flags.writeable) and not isinstance(array, np.memmap)
    if array.layout is not torch.strided or array.is_inference():
        return False
    return all(stride or size < 2 for size, stride in zip(array.shape, array.stride(), strict=True))


def _copy(array: Any) -> Any:
    return array.data.clone() if isinstance(array, Tensor) else array.copy()
