"""What a run can go back to: snapshots in memory, checkpoints on disk, and the data that led from there."""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from .checkpoints import CheckpointInfo, CheckpointStore, LoadedCheckpoint
from .clock import Clock
from .data import Grade, Position, ReplayingLoader
from .generators import Generators
from .plant import Plant
from .records import Data, SnapshotInfo, TuneError
from .slots import NoRoom, Room
from .snapshots import Snapshot, SnapshotRing


@dataclass(frozen=True, slots=True)
class Rewinding:
    """What is kept to go back to.

    Args:
        every: steps between snapshots in memory; None: a fortieth of the run, between 10 and 100.
        capacity: snapshots in memory; 0: none. Each takes the bytes of model and optimizer state. Trials of
            policies hold up to as many again while they last, at least 3 and at most 6; see `trials`.
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

    info: SnapshotInfo
    data: Data
    position: Position
    kept: Mapping[str, Any] = field(repr=False)
    """What the tuner keeps beside plant and data."""
    state: Snapshot | LoadedCheckpoint = field(repr=False)
    check: Callable[[], None] = field(default=lambda: None, repr=False)
    """Raises a `TuneError` when its data are no longer reachable, as those of a held state may come to be."""


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
        return f"at step {self.step}, {self.grade}: {self.why}; {size}"


class Memory:
    """The states of a run, in memory and on disk. `kept`, of the tuner, is stored and handed back unread.

    By step only states of the live branch are found; those of others only by their names.
    """

    def __init__(
        self,
        plant: Plant,
        clock: Clock,
        generators: Generators,
        loader: ReplayingLoader,
        settings: Rewinding,
        folder: Path,
    ) -> None:
        self._plant = plant
        self._clock = clock
        self._generators = generators
        self._loader = loader
        self._capacity = settings.capacity
        self._ring = SnapshotRing(plant, settings.capacity, settings.device) if settings.capacity else None
        self._store = CheckpointStore(folder)
        self.movable = True
        """Whether the data can be moved; those of a framework's own loop cannot."""
        self._saved = self._store.infos()  # asked for at every tick, and only `checkpoint` changes it

    @property
    def snapshots(self) -> list[SnapshotInfo]:
        """The states in memory, oldest first."""
        return [_info(snapshot) for snapshot in self._kept]

    def snapshot(self, kept: dict[str, Any]) -> None:
        """Keep the present state in memory; nothing, where there is none for it, or the capacity is 0."""
        if self._ring is not None:
            extra = {"spent": self._clock.spent, "position": self._loader.position, "kept": kept}
            try:
                self._ring.capture(self._clock.step, extra)
            except NoRoom as error:
                warnings.warn(f"no snapshot of step {self._clock.step}: {error}", stacklevel=2)
            self._forget_batches()

    def room(self, least: int, most: int, known: Room | None) -> Room:
        """How many states could be held, of as many as the user has granted: see `slots.find_room`."""
        assert self._ring is not None
        return self._ring.room(least, min(most, max(least, self._capacity)), known)

    def trim(self) -> None:
        """Give back what held states have taken; those that are still held stay."""
        assert self._ring is not None
        self._ring.trim()

    def hold(self, kept: dict[str, Any], room: Room | None) -> Target:
        """Keep the present state in memory until `release`, whatever else comes and goes.

        Args:
            kept: of the tuner, handed back unread.
            room: says where; None: where snapshots lie.

        Raises:
            NoRoom: when there is no memory for it; nothing is changed then.
        """
        assert self._ring is not None
        extra = {"spent": self._clock.spent, "position": self._loader.position, "kept": kept}
        snapshot = self._ring.hold(self._clock.step, extra, room)
        position = snapshot.extra["position"]
        check = partial(self._loader.check, position, "replay")
        return Target(_info(snapshot), "replay", position, snapshot.extra["kept"], snapshot, check)

    def release(self, target: Target) -> None:
        """Let a state go that was held, and the batches that only it needed."""
        assert self._ring is not None
        assert isinstance(target.state, Snapshot)
        self._ring.release(target.state)
        self._forget_batches()

    def checkpoint(
        self, name: str, kept: dict[str, Any], *, pinned: bool, score: float | None
    ) -> CheckpointInfo:
        """Save the present state to disk; see `CheckpointStore.save` for what it raises."""
        state = {
            "plant": self._plant.state(),
            "generators": self._generators.capture(),
            "position": dataclasses.asdict(self._loader.position),
            "kept": kept,
        }
        clock = self._clock
        info = self._store.save(name, clock.step, state, spent=clock.spent, pinned=pinned, score=score)
        self._saved = self._store.infos()
        return info

    def has(self, name: str) -> bool:
        """Whether there is a checkpoint of this name."""
        return any(saved.name == name for saved in self._saved)

    def infos(self) -> list[SnapshotInfo]:
        """The states of the live branch, by step."""
        saved = [SnapshotInfo(c.step, c.spent, c.name) for c in self._saved]
        live = [info for info in self.snapshots + saved if self._clock.live(info.step, info.spent)]
        return sorted(live, key=lambda info: (info.step, info.spent, info.name is None))

    def find(self, to: int | str) -> SnapshotInfo:
        """A state, without reading it.

        Args:
            to: a checkpoint's name, or a step: the newest state of the live branch at or before it is taken,
                memory first.

        Raises:
            TuneError: when there is no such state.
        """
        if isinstance(to, str):
            for saved in self._saved:
                if saved.name == to:
                    return SnapshotInfo(saved.step, saved.spent, to)
            there = ", ".join(saved.name for saved in self._saved) or "none"
            raise TuneError(f"a rewind goes to a checkpoint by its name, got {to!r}; there are: {there}")
        before = [info for info in self.infos() if info.step <= to]
        if not before:
            there = ", ".join(str(info.step) for info in self.infos()) or "none"
            raise TuneError(
                f"a rewind goes to a state at or before the step asked for, got {to}; there are: {there}"
            )
        return before[-1]

    def prepare(self, info: SnapshotInfo, data: Data) -> Target:
        """Read and verify a state; nothing of the run is touched.

        Args:
            info: from `find`.
            data: whether the batches since then shall come again.

        Raises:
            TuneError: when the state is damaged, or its data cannot be had as asked.
        """
        if info.name is None:
            snapshot = next(s for s in self._kept if _info(s) == info)
            target = Target(info, data, snapshot.extra["position"], snapshot.extra["kept"], snapshot)
        else:
            target = self._read(info.name, data)
        if data == "replay" and not self.movable:
            raise TuneError("the data of a framework's loop cannot be replayed; rewind with data='skip'")
        self._loader.check(target.position, data)
        return target

    def newest(self, stretches: Sequence[tuple[int, int]] = ()) -> Target:
        """The newest whole checkpoint on disk, for a resume; errors as for `prepare`.

        Args:
            stretches: of the live branch; what was left by a rewind comes last. None known: all are live.
        """
        live = Clock(None, step=sys.maxsize, stretches=list(stretches)).live
        on_it = [saved for saved in reversed(self._saved) if stretches and live(saved.step, saved.spent)]
        for saved in on_it:
            try:
                loaded = self._store.load(saved.name)
            except TuneError as error:
                warnings.warn(f"taking an older checkpoint: {error}", stacklevel=2)
            else:
                return self._target(loaded, "replay")
        return self._read(None, "replay")

    def restore(self, target: Target, rest: Callable[[Mapping[str, Any]], None]) -> Restored:
        """Restore plant and data, then what `rest` does with `kept`, and the random generators last."""
        start = time.perf_counter()
        nbytes, source = self._load(target)
        grade, why = self._loader.rewind(target.position, target.data)
        self._finish(target, rest)
        return Restored(target.info.step, grade, why, time.perf_counter() - start, nbytes, source)

    def forget_abandoned(self) -> None:
        """Drop the snapshots in memory that are not of the live branch any more."""
        if self._ring is not None:
            self._ring.keep(lambda s: self._clock.live(s.step, s.extra["spent"]))

    def resume(self, target: Target, rest: Callable[[Mapping[str, Any]], None]) -> Restored:
        """As `restore`, in a new process: the data are moved when the loop names its loader."""
        start = time.perf_counter()
        nbytes, source = self._load(target)
        self._loader.resume(target.position)
        self._finish(target, rest)
        why = "the data follow when the loop starts"
        return Restored(target.info.step, "state-exact", why, time.perf_counter() - start, nbytes, source)

    @property
    def resumed(self) -> tuple[Grade, str] | None:
        """How true the data of a resumed run are, once the loop has started; None before."""
        return self._loader.resumed

    def _forget_batches(self) -> None:
        """Keep the batches since the oldest state in memory."""
        if self._ring is not None:
            states = [*self._ring.snapshots, *self._ring.held]
            positions = [state.extra["position"] for state in states]
            self._loader.keep_from(min(positions, key=lambda position: position.key, default=None))

    @property
    def _kept(self) -> list[Snapshot]:
        return self._ring.snapshots if self._ring is not None else []

    def _read(self, name: str | None, data: Data) -> Target:
        return self._target(self._store.load(name), data)

    def _target(self, loaded: LoadedCheckpoint, data: Data) -> Target:
        self._plant.check(loaded.state["plant"])
        info = SnapshotInfo(loaded.info.step, loaded.info.spent, loaded.info.name)
        return Target(info, data, Position(**loaded.state["position"]), loaded.state["kept"], loaded)

    def _load(self, target: Target) -> tuple[int, Literal["memory", "disk"]]:
        if isinstance(target.state, Snapshot):
            assert self._ring is not None
            self._ring.restore(target.state)
            return target.state.nbytes, "memory"
        self._plant.load(target.state.state["plant"])
        return target.state.info.nbytes, "disk"

    def _finish(self, target: Target, rest: Callable[[Mapping[str, Any]], None]) -> None:
        rest(target.kept)
        state = target.state
        self._generators.restore(
            state.generators if isinstance(state, Snapshot) else state.state["generators"]
        )


def _info(snapshot: Snapshot) -> SnapshotInfo:
    return SnapshotInfo(snapshot.step, snapshot.extra["spent"])
