"""Snapshots in memory: preallocated slots, filled and restored in place by tensor identity."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .generators import State
from .inplace import copied, copy_tensors
from .plant import Plant
from .records import TuneError
from .slots import Place, Room, Slot, find_room, free_memory, layout

_FORGET = 4.0  # the ratio of two ages beyond which nothing between them is dropped


@dataclass(frozen=True, eq=False, slots=True)
class Snapshot:
    """A state of the run in memory. `extra` is what `SnapshotRing.capture` was given: read only."""

    step: int
    nbytes: int
    seconds: float
    """What capturing took on the host; on CUDA the copies themselves run on behind it."""
    extra: dict[str, Any] = field(repr=False)
    state: dict[str, Any] = field(repr=False)
    generators: State = field(repr=False)
    slot: Slot = field(repr=False)


class SnapshotRing:
    """The last snapshots of a run: dense for recent steps, sparse for old ones.

    Args:
        plant: what is captured.
        capacity: the most snapshots that are kept, at least 1. Memory is taken as they come, and reused.
        device: where they lie; None: on each tensor's own device, "cpu": in host memory (pinned for CUDA).

    Raises:
        TuneError: for a capacity below 1.
    """

    def __init__(self, plant: Plant, capacity: int, device: torch.device | str | None = None) -> None:
        if capacity < 1:
            raise TuneError(f"a ring keeps at least 1 snapshot, got capacity={capacity}")
        self.capacity = capacity
        self.snapshots: list[Snapshot] = []
        """Oldest first."""
        self.held: list[Snapshot] = []
        """Those that stay until they are released."""
        self._plant = plant
        self._place: Place = None if device is None else torch.device(device)
        self._spare: list[Slot] = []

    def capture(self, step: int, extra: dict[str, Any]) -> Snapshot:
        """Keep the present state as that of `step`.

        Snapshots of this step or later ones belong to an abandoned branch, and go. When the ring is full,
        one goes so that the ages of the others stay about log-spaced; the newest always stays.

        Args:
            step: the plant's clock.
            extra: kept beside it, as a copy.

        Raises:
            NoRoom: when there is no memory for it.
        """
        self.keep(lambda snapshot: snapshot.step < step)
        while len(self.snapshots) >= self.capacity:
            self._spare.append(self.snapshots.pop(least_missed([s.step for s in self.snapshots], step)).slot)
        self.snapshots.append(self._captured(step, extra, self._place, fit=True))
        return self.snapshots[-1]

    def hold(self, step: int, extra: dict[str, Any], room: Room | None = None) -> Snapshot:
        """Keep the present state beside the ring's own snapshots, until `release`.

        Args:
            step: the plant's clock.
            extra: kept beside it, as a copy.
            room: says where, from `room`; None: where the ring lies.

        Raises:
            NoRoom: when there is no memory for it.
        """
        place = self._place if room is None else room.place
        self.held.append(self._captured(step, extra, place, fit=False))
        return self.held[-1]

    def release(self, snapshot: Snapshot) -> None:
        """Let a state go that was held."""
        self.held.remove(snapshot)
        self._spare.append(snapshot.slot)

    def room(self, least: int, most: int, known: Room | None = None) -> Room:
        """How many states could be held, and where, with those that are: see `find_room`."""
        slots = [snapshot.slot for snapshot in self.held]
        layouts = [layout(_tensors(self._plant.state())), *(slot.layout for slot in slots)]
        return find_room(layouts, self._place, [*slots, *self._spare], least, most, known)

    def trim(self) -> None:
        """Free the slots that no state lies in, but pinned ones, whose memory torch would keep."""
        kept = [slot for slot in self._spare if slot.pinned]
        if len(kept) < len(self._spare):
            self._spare = kept
            torch.cuda.empty_cache()  # sync: it is rare; without CUDA it does nothing

    def _captured(self, step: int, extra: dict[str, Any], place: Place, *, fit: bool) -> Snapshot:
        start = time.perf_counter()
        state = self._plant.state()
        dense = _tensors(state)
        slot = self._slot(dense, place, step if fit else None)
        copy_tensors(slot.tensors, dense)
        places = dict(zip(map(id, dense), slot.tensors, strict=True))
        return Snapshot(
            step=step,
            extra=copied(extra, torch.clone),
            state=copied(state, lambda tensor: places[id(tensor)] if _dense(tensor) else tensor.clone()),
            generators=self._plant.generators.capture(),
            slot=slot,
            nbytes=slot.nbytes,
            seconds=time.perf_counter() - start,
        )

    def restore(self, snapshot: Snapshot) -> float:
        """Put the plant back in place, all but the random generators; may be repeated.

        Returns:
            What it took, in seconds.

        Raises:
            TuneError: for a snapshot that is no longer kept. Nothing is touched then.
        """
        start = time.perf_counter()
        there = [*self.snapshots, *self.held]
        if all(kept is not snapshot for kept in there):
            kept_steps = ", ".join(str(kept.step) for kept in there) or "none"
            raise TuneError(
                f"a snapshot can be restored while it is kept, got that of step {snapshot.step}; "
                f"kept are those of {kept_steps}"
            )
        self._plant.load(snapshot.state)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # sync: a rewind is rare, and what it cost is reported
        return time.perf_counter() - start

    def restore_generators(self, snapshot: Snapshot) -> frozenset[str]:
        """The last act of a rewind; see `Generators.restore`."""
        return self._plant.generators.restore(snapshot.generators)

    def keep(self, wanted: Callable[[Snapshot], bool]) -> None:
        """Drop the snapshots that are not `wanted`: their branch has been left."""
        self._spare += [snapshot.slot for snapshot in self.snapshots if not wanted(snapshot)]
        self.snapshots = [snapshot for snapshot in self.snapshots if wanted(snapshot)]

    def _slot(self, tensors: list[Tensor], place: Place, step: int | None) -> Slot:
        """A slot that fits `tensors`, spare or new; the ring's own, that of `step`, has to fit into it."""
        wanted = layout(tensors)
        for slot in self._spare:
            if slot.fits(wanted, place):
                self._spare.remove(slot)
                return slot
        self._spare = [slot for slot in self._spare if slot.place != place]  # of states that have grown since
        if step is not None:
            self._fit(tensors, step)
        return Slot(tensors, place)

    def _fit(self, tensors: list[Tensor], step: int) -> None:
        """Shrink the capacity to what half of the free memory holds."""
        device = self._place or max(tensors, key=lambda t: t.nbytes).device
        nbytes = sum(tensor.nbytes for tensor in tensors)
        taken = sum(snapshot.nbytes for snapshot in self.snapshots)
        fitting = max(1, (free_memory(device) + taken) // 2 // nbytes)
        if fitting < self.capacity:
            warnings.warn(
                f"{self.capacity} snapshots of {nbytes / 1e6:.0f} MB would take more than half of the free "
                f"memory of {device}: keeping {fitting}",
                stacklevel=4,
            )
            self.capacity = fitting
            while len(self.snapshots) >= fitting:
                self.snapshots.pop(least_missed([s.step for s in self.snapshots], step))


def least_missed(steps: list[int], now: int) -> int:
    """Which of the snapshots at `steps` (ascending, all before `now`) to drop so that ages stay log-spaced.

    The one whose neighbours' ages have the smallest ratio; the oldest when no two neighbours are closer than
    a factor of four. Ages then come to about 1, 2, 4, 8, ... intervals, and the oldest are slowly forgotten.
    """
    ages = [now - step for step in steps]
    ratios = [ages[i - 1] / ages[i + 1] for i in range(1, len(ages) - 1)]
    if not ratios or min(ratios) >= _FORGET:
        return 0
    return ratios.index(min(ratios)) + 1


def _tensors(state: dict[str, Any]) -> list[Tensor]:
    """Those of a plant's state that lie in a slot, each once."""
    live: dict[int, Tensor] = {}
    copied(state, lambda tensor: live.setdefault(id(tensor), tensor))
    return [tensor for tensor in live.values() if _dense(tensor)]


def _dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized
