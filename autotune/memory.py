"""What a run can go back to: snapshots in memory, checkpoints on disk, and the data that led from there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .checkpoints import CheckpointInfo, CheckpointStore, LoadedCheckpoint
from .data import Grade, Position, ReplayingLoader
from .generators import Generators
from .plant import Plant
from .records import Data, SnapshotInfo, TuneError
from .snapshots import Snapshot, SnapshotRing


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
                raise TuneError(f"Rewinding.{name} is at least {low}, got {value}; see Rewinding")


@dataclass(frozen=True, slots=True)
class Target:
    """A state that is ready to be restored: read, verified, and its data known to be reachable."""

    step: int
    name: str | None
    """The checkpoint's name; None for a snapshot in memory."""
    data: Data
    position: Position
    kept: Mapping[str, Any] = field(repr=False)
    """What the tuner keeps beside plant and data."""
    state: Snapshot | LoadedCheckpoint = field(repr=False)


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
        return f"{self.grade}: {self.why}; {size}"


class Memory:
    """The states of a run, in memory and on disk. `kept`, of the tuner, is stored and handed back unread."""

    def __init__(
        self,
        plant: Plant,
        generators: Generators,
        loader: ReplayingLoader,
        settings: Rewinding,
        folder: Path,
    ) -> None:
        self._plant = plant
        self._generators = generators
        self._loader = loader
        self._ring = SnapshotRing(plant, settings.capacity, settings.device) if settings.capacity else None
        self._store = CheckpointStore(folder)
        self.movable = True
        """Whether the data can be moved; those of a framework's own loop cannot."""
        self._saved = self._store.infos()  # asked for at every tick, and only `checkpoint` changes it

    def snapshot(self, step: int, kept: dict[str, Any]) -> None:
        """Keep the present state in memory; nothing when the capacity is 0."""
        if self._ring is not None:
            self._ring.capture(step, {"position": self._loader.position, "kept": kept})
            self._loader.keep_from(self._ring.snapshots[0].extra["position"])

    def checkpoint(
        self, name: str, step: int, kept: dict[str, Any], *, pinned: bool, score: float | None
    ) -> CheckpointInfo:
        """Save the present state to disk; see `CheckpointStore.save` for what it raises."""
        state = {
            "plant": self._plant.state(),
            "generators": self._generators.capture(),
            "position": dataclasses.asdict(self._loader.position),
            "kept": kept,
        }
        info = self._store.save(name, step, state, pinned=pinned, score=score)
        self._saved = self._store.infos()
        return info

    def infos(self) -> list[SnapshotInfo]:
        """Every state that can be rewound to, by step."""
        kept = [SnapshotInfo(s.step) for s in self._snapshots]
        saved = [SnapshotInfo(c.step, c.name) for c in self._saved]
        return sorted(kept + saved, key=lambda info: info.step)

    def prepare(self, to: int | str, data: Data) -> Target:
        """Find, read and verify a state; nothing of the run is touched.

        Args:
            to: a checkpoint's name, or a step: the newest state at or before it is taken, memory first.
            data: whether the batches since then shall come again.

        Raises:
            TuneError: when there is no such state, it is damaged, or its data cannot be had as asked.
        """
        target = self._on_disk(to, data) if isinstance(to, str) else self._at(to, data)
        if data == "replay" and not self.movable:
            raise TuneError("the data of a framework's loop cannot be replayed; rewind with data='skip'")
        self._loader.check(target.position, data)
        return target

    def newest(self) -> Target:
        """The newest whole checkpoint on disk, for a resume; errors as for `prepare`."""
        return self._on_disk(None, "replay")

    def restore(self, target: Target, rest: Callable[[Mapping[str, Any]], None]) -> Restored:
        """Restore data, plant, what `rest` does with `kept`, and the random generators, in this order.

        Snapshots of the steps that this undoes are dropped.
        """
        start = time.perf_counter()
        grade, why = self._loader.rewind(target.position, target.data)
        nbytes, source = self._load(target, rest)
        if self._ring is not None:
            self._ring.drop_after(target.step)
        return Restored(target.step, grade, why, time.perf_counter() - start, nbytes, source)

    def resume(self, target: Target, rest: Callable[[Mapping[str, Any]], None]) -> Restored:
        """As `restore`, in a new process: the data are moved when the loop names its loader."""
        start = time.perf_counter()
        self._loader.resume(target.position)
        nbytes, source = self._load(target, rest)
        why = "model, optimizer and generators as saved; the data follow when the loop starts"
        return Restored(target.step, "bitwise", why, time.perf_counter() - start, nbytes, source)

    @property
    def _snapshots(self) -> list[Snapshot]:
        return self._ring.snapshots if self._ring is not None else []

    def _at(self, step: int, data: Data) -> Target:
        before = [info for info in self.infos() if info.step <= step]
        if not before:
            there = ", ".join(str(info.step) for info in self.infos()) or "none"
            raise TuneError(
                f"a rewind goes to a state at or before the step asked for, got {step}; there are: {there}"
            )
        newest = max(before, key=lambda info: (info.step, info.name is None))
        if newest.name is not None:
            return self._on_disk(newest.name, data)
        snapshot = next(s for s in self._snapshots if s.step == newest.step)
        return Target(newest.step, None, data, snapshot.extra["position"], snapshot.extra["kept"], snapshot)

    def _on_disk(self, name: str | None, data: Data) -> Target:
        loaded = self._store.load(name)
        self._plant.check(loaded.state["plant"])
        position = Position(**loaded.state["position"])
        return Target(loaded.info.step, loaded.info.name, data, position, loaded.state["kept"], loaded)

    def _load(
        self, target: Target, rest: Callable[[Mapping[str, Any]], None]
    ) -> tuple[int, Literal["memory", "disk"]]:
        if isinstance(target.state, Snapshot):
            assert self._ring is not None
            self._ring.restore(target.state)
            rest(target.kept)
            self._ring.restore_generators(target.state)
            return target.state.nbytes, "memory"
        self._plant.load(target.state.state["plant"])
        rest(target.kept)
        self._generators.restore(target.state.state["generators"])
        return target.state.info.nbytes, "disk"
