"""Puts the run back to the bit, however often it is tried out."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..clock import Clock
from ..plant import Plant
from ..records import TuneError
from ..sensors import Instruments
from ..snapshots import SnapshotRing
from .parts import Kept, refill


class Undo:
    """Keeps all that trying out may move: plant, gradients, model's and loaders' parts, clock, sensors.

    Beyond what a snapshot holds these are the values of gradients, the optimizer's attributes, and whatever
    the model and the loaders are made of (see `Kept`): counters, caches, plain tensors, index arrays,
    generators. Loaders read without workers meanwhile, so that neither a pool of workers is started nor one
    that is running is disturbed. What lies outside of such objects is not put back: the position in an open
    file or in an iterator of itertools, what a function's closure holds, arrays beyond `SMALL` and `ROOM`.

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
        own: list[Any] = [vars(optimizer)]
        own += [value for value in vars(optimizer).values() if isinstance(value, dict | list)]
        self._optimizer = [(container, copy.copy(container)) for container in own]
        parameters = plant.state()["parameters"].values()
        modules = list(model.modules())
        held: list[Any] = [plant, optimizer, *parameters, *model.parameters(), *model.buffers()]
        known = set(map(id, held))
        self._reading = Kept(loaders, known | set(map(id, modules)))
        self._parts = Kept(modules, known | set(map(id, self._reading.parts)))
        self._workers = [vars(part) for part in self._reading.parts if isinstance(part, DataLoader)]
        self._gradients = [(p, p.grad) for p in parameters]
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
        self._reading.back()
        self.back()
        self._give_back()

    def set_aside(self, tensors: Iterable[Tensor]) -> None:
        """What else gets gradients, of nets outside of the run; in the end it has those of now again."""
        known = {id(p) for p, _ in self._gradients}
        for tensor in tensors:
            if id(tensor) not in known:
                self._gradients.append((tensor, tensor.grad))
                tensor.grad = None

    def redraw(self) -> None:
        """Put the random generators back, so that the same draws come again."""
        self._parts.redraw()
        self._plant.generators.restore(self._snapshot.generators)

    def back(self) -> None:
        """Put back all but the loaders, which can still be read, and the gradients, which become None."""
        for container, contents in self._optimizer:
            refill(container, contents)
        self._parts.back()
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
