"""Puts the run back to the bit, however often it is tried out."""

from __future__ import annotations

import copy
import functools
import types
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..clock import Clock
from ..generators import AnyGenerator, Generators
from ..plant import Plant
from ..records import TuneError
from ..sensors import Instruments
from ..snapshots import SnapshotRing

DEPTH = 12
"""How deep the parts of a loader are searched for what reading moves."""
MANY = 1000
"""Containers with more entries than this hold data: they are put back, and not searched."""
_FOREIGN = {"torch", "numpy", "threading", "queue", "multiprocessing", "asyncio", "logging", "autotune"}
"""Packages whose objects are left alone, the journal of a tuner among them ..."""
_READING = ("torch.utils.data", "autotune.actuators.data")
"""... but for these, whose objects have a state that reading moves."""
_CONTAINERS = (dict, list, deque, set)
_LEAVES = (str, bytes, int, float, type(None), type, types.ModuleType, Tensor, np.ndarray)


class Undo:
    """Keeps all that trying out may move: plant, gradients, attributes, loaders, generators, clock, sensors.

    Beyond what a snapshot holds these are the values of gradients, the attributes of modules and optimizers
    (a counter, a cache), and the attributes and generators of whatever a loader is made of. Loaders read
    without workers meanwhile, so that neither a pool of workers is started nor one that is running is
    disturbed. What lies outside of Python objects, such as the position in an open file, is not put back.

    Args:
        plant: the run's.
        model: the model.
        optimizer: its optimizer.
        clock: the run's.
        instruments: the run's; their values must have been collected.
        loaders: what will be read.

    Raises:
        TuneError: for a loader that cannot be iterated over, or only once.
    """

    def __init__(
        self,
        plant: Plant,
        model: nn.Module,
        optimizer: Optimizer,
        clock: Clock,
        instruments: Instruments,
        loaders: Sequence[Any],
    ) -> None:
        for loader in loaders:
            _check(loader)
        self._plant, self._clock, self._instruments = plant, clock, instruments
        self._times, self._sensors = (clock.step, clock.spent), instruments.state_dict()
        held: list[Any] = [vars(part) for part in (optimizer, *model.modules())]
        held += [value for own in held for value in own.values() if isinstance(value, _CONTAINERS)]
        self._attributes = [(container, copy.copy(container)) for container in held]
        known = {id(part) for part in (plant, model, optimizer)}
        self._reading: list[tuple[Any, Any]] = []  # containers that belong to loaders, and their contents
        self._workers: list[dict[str, Any]] = []
        private: dict[str, AnyGenerator] = {}
        for item in _parts(loaders, known):
            if isinstance(item, AnyGenerator):
                private[str(len(private))] = item
            elif isinstance(item, _CONTAINERS):
                self._reading.append((item, copy.copy(item)))
            elif hasattr(item, "__dict__"):
                self._reading.append((vars(item), dict(vars(item))))
                if isinstance(item, DataLoader):
                    self._workers.append(vars(item))
        self._private = Generators(private)
        self._drawn = self._private.capture()
        self._gradients = [(p, p.grad) for p in plant.state()["parameters"].values()]
        self._ring = SnapshotRing(plant, 1)

    def __enter__(self) -> Self:
        try:
            for p, _ in self._gradients:
                p.grad = None
            self._snapshot = self._ring.capture(0, {})
        except BaseException:
            self._give_back()
            raise
        for attributes in self._workers:
            attributes.update(num_workers=0, timeout=0, prefetch_factor=None, _iterator=None)
        return self

    def __exit__(self, *_: object) -> None:
        self.back()
        for container, contents in self._reading:
            _refill(container, contents)
        self._private.restore(self._drawn)
        self._give_back()

    def redraw(self) -> None:
        """Put the random generators back, so that the same draws come again."""
        self._plant.generators.restore(self._snapshot.generators)

    def back(self) -> None:
        """Put back all but the loaders, which can still be read, and the gradients, which become None."""
        for container, contents in self._attributes:
            _refill(container, contents)
        self._ring.restore(self._snapshot)
        self._clock.step, self._clock.spent = self._times
        self._instruments.load_state_dict(self._sensors)
        self.redraw()

    def _give_back(self) -> None:
        for p, gradient in self._gradients:
            p.grad = gradient


def _check(loader: Any) -> None:
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise TuneError(f"a loader is iterable, got {type(loader).__name__}; pass a DataLoader or a list")
    if isinstance(loader, Iterator):
        raise TuneError(
            f"a preflight reads a loader that begins anew, got a one-shot {type(loader).__name__}, whose "
            "batches the run would lack; pass a list of some batches"
        )


def _parts(roots: Sequence[Any], known: set[int]) -> Iterator[Any]:
    """What the roots are made of, each object once."""
    waiting = deque((root, 0) for root in roots)
    kept = []  # an id is of one object only while that lives
    while waiting:
        item, depth = waiting.popleft()
        foreign = type(item).__module__.partition(".")[0] in _FOREIGN
        if isinstance(item, _LEAVES) or id(item) in known or depth > DEPTH:
            continue
        known.add(id(item))
        kept.append(item)
        if isinstance(item, AnyGenerator):
            yield item
            continue
        if foreign and not type(item).__module__.startswith(_READING) and not isinstance(item, nn.Module):
            continue
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
    return [part for name, part in getattr(item, "__dict__", {}).items() if name != "_iterator"]


def _refill(container: Any, contents: Any) -> None:
    container.clear()
    (container.extend if isinstance(container, list | deque) else container.update)(contents)
