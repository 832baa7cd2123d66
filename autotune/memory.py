"""What a run can go back to: snapshots in memory, checkpoints on disk, and the data that led from there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from .checkpoints import CheckpointInfo, CheckpointStore
from .data import Grade, Position, ReplayingLoader
from .generators import Generators
from .records import Data, SnapshotInfo, TuneError
from .snapshots import Plant, Snapshot, SnapshotRing


@dataclass(frozen=True, slots=True)
class Rewinding:
    """What is kept to go back to.

    Args:
        every: steps between snapshots in memory; None: a fortieth of the run, between 10 and 100.
        capacity: snapshots in memory; 0: none. Each takes the bytes of model and optimizer state.
        device: where they lie; None: beside the tensors themselves, "cpu": in (pinned) host memory.
        replay_bytes: host memory for batches since the oldest snapshot.
        checkpoint_every: steps between checkpoints on disk; None: only those that are asked for.

    Raises:
        TuneError: for a number below its smallest sensible value.
    """

    every: int | None = None
    capacity: int = 6
    device: str | None = None
    replay_bytes: int = 256 * 2**20
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        for name, low in (("every", 1), ("capacity", 0), ("replay_bytes", 0), ("checkpoint_every", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise TuneError(f"Rewinding.{name} is at least {low}, got {value}; see Rewinding for defaults")


@dataclass(frozen=True, slots=True)
class Target:
    """A state that is ready to be restored: read, verified, and its data known to be reachable."""

    step: int
    name: str | None
    data: Data
    position: Position
    extra: Mapping[str, Any] = field(repr=False)
    """What `Memory.snapshot` or `Memory.checkpoint` was given."""
    state: Snapshot | tuple[dict[str, Tensor], dict[str, Any]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a rewind did."""

    step: int
    grade: Grade
    """`bitwise`, `state-exact` or `approximate`."""
    why: str
    seconds: float
    nbytes: int
    source: Literal["memory", "disk"]

    def __str__(self) -> str:
        size = f"{self.nbytes / 1e6:.1f} MB from {self.source} in {1e3 * self.seconds:.1f} ms"
        return f"{self.grade} ({self.why}); {size}"


class Memory:
    """The states of a run. `extra` is what the tuner keeps beside the plant; it is handed back unread."""

    def __init__(
        self,
        plant: Plant,
        generators: Generators,
        loader: ReplayingLoader,
        settings: Rewinding,
        folder: Path,
    ) -> None:
        self.plant = plant
        self.loader = loader
        self._generators = generators
        self._ring = SnapshotRing(plant, settings.capacity, settings.device) if settings.capacity else None
        self._store = CheckpointStore(folder)

    def snapshot(self, step: int, extra: Mapping[str, Any]) -> None:
        """Keep the present state in memory; nothing when the capacity is 0."""
        if self._ring is not None:
            self._ring.capture(step, {"tuner": extra, "position": self.loader.position})
            self._keep_batches()

    def checkpoint(
        self, name: str, step: int, extra: Mapping[str, Any], *, pinned: bool, score: float | None
    ) -> CheckpointInfo:
        """Save the present state to disk; see `CheckpointStore.save` for what it raises."""
        state = {
            "fingerprint": self.plant.fingerprint(),
            "host": self.plant.host(),
            "generators": self._generators.capture(),
            "position": self.loader.position,
            "tuner": extra,
        }
        return self._store.save(name, step, self.plant.tensors(), state, pinned=pinned, score=score)

    def infos(self) -> list[SnapshotInfo]:
        """Every state that can be rewound to, oldest step first."""
        kept = [SnapshotInfo(s.step) for s in self._snapshots]
        saved = [SnapshotInfo(c.step, c.name) for c in self._store.infos()]
        return sorted(kept + saved, key=lambda info: info.step)

    def prepare(self, to: int | str, data: Data) -> Target:
        """Find, read and verify a state; nothing of the run is touched.

        Args:
            to: a checkpoint's name, or a step: the newest state at or before it is taken, memory first.
            data: whether the batches since then shall come again.

        Raises:
            TuneError: when there is no such state, it is damaged, or its data cannot be had as asked.
        """
        target = self._named(to, data) if isinstance(to, str) else self._at(to, data)
        self.loader.check(target.position, data)
        return target

    def newest(self) -> Target:
        """The newest whole checkpoint on disk, for a resume."""
        return self._named(None, "replay")

    def restore(self, target: Target, rest: Callable[[Mapping[str, Any]], None]) -> Restored:
        """Restore the data, the plant, what `rest` does with the extra, and the random generators, in this order.

        A rewind in memory drops the snapshots of the steps that it undoes.
        """
        start = time.perf_counter()
        grade, why = self.loader.rewind(target.position, target.data)
        if isinstance(target.state, Snapshot):
            assert self._ring is not None
            self._ring.restore(target.state)
            rest(target.extra)
            self._ring.restore_generators(target.state)
            nbytes = target.state.nbytes
        else:
            nbytes = self._load(target.state, rest, target.extra)
        self._forget(target.step)
        return Restored(
            target.step, grade, why, time.perf_counter() - start, nbytes, target.source
        )

    def resume(self, target: Target, rest: Callable[[Mapping[str, Any]], None]) -> Restored:
        """As `restore`, in a new process: the data are moved when the loop names its loader."""
        start = time.perf_counter()
        assert not isinstance(target.state, Snapshot)
        self.loader.resume(target.position)
        nbytes = self._load(target.state, rest, target.extra)
        why = "model, optimizer and generators as saved; the loader reports its part when the loop starts"
        return Restored(target.step, "bitwise", why, time.perf_counter() - start, nbytes, "disk")
