"""Snapshots in memory: preallocated slots, filled and restored in place by tensor identity."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .generators import State
from .inplace import copied, copy_tensors
from .plant import Plant
from .records import TuneError

_ALIGNMENT = 64  # bytes; of each tensor within its slot
_FORGET = 4.0  # the ratio of two ages beyond which nothing between them is dropped

_Layout: TypeAlias = list[tuple[torch.Size, torch.dtype, torch.device]]


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
    slot: _Slot = field(repr=False)


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
        self._device = None if device is None else torch.device(device)
        self._spare: list[_Slot] = []

    def capture(self, step: int, extra: dict[str, Any]) -> Snapshot:
        """Keep the present state as that of `step`.

        Snapshots of this step or later ones belong to an abandoned branch, and go. When the ring is full,
        one goes so that the ages of the others stay about log-spaced; the newest always stays.

        Args:
            step: the plant's clock.
            extra: kept beside it, as a copy.
        """
        self.keep(lambda snapshot: snapshot.step < step)
        while len(self.snapshots) >= self.capacity:
            self._spare.append(self.snapshots.pop(least_missed([s.step for s in self.snapshots], step)).slot)
        self.snapshots.append(self._captured(step, extra))
        return self.snapshots[-1]

    def hold(self, step: int, extra: dict[str, Any]) -> Snapshot:
        """Keep the present state beside the ring's own snapshots, until `release`."""
        self.held.append(self._captured(step, extra))
        return self.held[-1]

    def release(self, snapshot: Snapshot) -> None:
        """Let a state go that was held."""
        self.held.remove(snapshot)
        self._spare.append(snapshot.slot)

    def _captured(self, step: int, extra: dict[str, Any]) -> Snapshot:
        start = time.perf_counter()
        state = self._plant.state()
        live: dict[int, Tensor] = {}
        copied(state, lambda tensor: live.setdefault(id(tensor), tensor))
        dense = [tensor for tensor in live.values() if _dense(tensor)]
        slot = self._slot(dense, step)
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

    def _slot(self, tensors: list[Tensor], step: int) -> _Slot:
        """A slot that fits `tensors`: a spare one, that of the snapshot least missed, or a new one."""
        layout = [(t.shape, t.dtype, t.device) for t in tensors]
        while self._spare:
            slot = self._spare.pop()
            if slot.layout == layout:
                return slot
        held = sum(snapshot.slot.nbytes for snapshot in [*self.snapshots, *self.held])
        self._fit(tensors, held, step)
        return _Slot(layout, tensors, self._device)

    def _fit(self, tensors: list[Tensor], held: int, step: int) -> None:
        """Shrink the capacity to what half of the free memory holds."""
        device = self._device or max(tensors, key=lambda t: t.nbytes).device
        nbytes = sum(tensor.nbytes for tensor in tensors)
        fitting = max(1, (free_memory(device) + held) // 2 // nbytes)
        if fitting < self.capacity:
            warnings.warn(
                f"{self.capacity} snapshots of {nbytes / 1e6:.0f} MB would take more than half of the free "
                f"memory of {device}: keeping {fitting}",
                stacklevel=4,
            )
            self.capacity = fitting
            while len(self.snapshots) >= fitting:
                self.snapshots.pop(least_missed([s.step for s in self.snapshots], step))


class _Slot:
    """Memory for one snapshot: a flat piece on each device, and the tensors that lie in it."""

    def __init__(self, layout: _Layout, tensors: list[Tensor], device: torch.device | None) -> None:
        self.layout = layout
        self.nbytes = sum(tensor.nbytes for tensor in tensors)
        pinned = device is not None and device.type == "cpu" and any(t.is_cuda for t in tensors)
        ends: dict[torch.device, int] = {}
        starts = []
        for tensor in tensors:
            home = device or tensor.device
            starts.append((home, ends.get(home, 0)))
            ends[home] = ends.get(home, 0) + -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        flat = {
            home: torch.empty(end, dtype=torch.uint8, device=home, pin_memory=pinned)
            for home, end in ends.items()
        }
        self.tensors = [
            flat[home][start : start + tensor.nbytes]
            .view(tensor.dtype)
            .as_strided(tensor.shape, _strides(tensor))
            for tensor, (home, start) in zip(tensors, starts, strict=True)
        ]


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


def free_memory(device: torch.device) -> int:
    """Bytes that could be taken on `device`: of a GPU, of this container, or of this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 2**63
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = 1024 * int(fields["MemAvailable"].split()[0])
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def _dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """The tensor's own memory format, without gaps."""
    return torch.empty_like(tensor, device="meta").stride()
