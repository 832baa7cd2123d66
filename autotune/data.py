"""A loader's batches as one stream that can be moved back: from memory if they are kept, else drawn anew."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from .generators import Generators, State
from .records import DATA, Data, TuneError
from .tape import Epoch, Key, Tape

Grade: TypeAlias = Literal["bitwise", "state-exact", "approximate"]
"""How true a rewind is: the very same batches; drawn anew from the same state; known to differ."""

_GENERATORS = (
    "generator",
    "sampler.generator",
    "batch_sampler.generator",
    "batch_sampler.sampler.generator",
)
_END, _EXHAUSTED = object(), object()


@dataclass(frozen=True, slots=True, eq=False)
class Position:
    """Where a stream of batches stands: plain values, enough to go on from there in another process."""

    epoch: int
    batch: int
    """Batches that the loader has handed out in this epoch before the next one."""
    began: int
    """The epoch in which the running call of `epochs` began."""
    token: str
    """Names this pass over the loader."""
    generators: State
    """The random generators here, the loader's own ones included."""
    start: State | None
    """The same before the epoch began; None when it has not."""
    loader_state: dict[str, Any] | None
    """The loader's own `state_dict`, where it offers one."""

    @property
    def key(self) -> Key:
        """Grows along the stream."""
        return self.epoch, self.batch


class _Gap(NamedTuple):
    """Batches that were left behind, from `low` to before `high`."""

    low: Key
    high: Key
    tokens: frozenset[str]


class ReplayingLoader:
    """Iterates over any loader so that its batches can come again.

    While a position is kept (`keep_from`), the batches since then are held by reference, each with the
    state of the random generators after its fetch, so that a replayed batch leaves them as the original
    one did. The loader's own iterator is not moved by a replay: it goes on where the kept batches end,
    whatever its workers have prefetched.

    Args:
        generators: the run's. Those that belong to a loader or its samplers are found by themselves; they
            move with the stream, so a `skip` leaves them where they are and no order is drawn twice.
        max_bytes: of kept batches. Beyond it the oldest are dropped, and a rewind to before them has the
            loader draw its batches anew.

    Raises:
        TuneError: for a negative number of bytes.
    """

    def __init__(self, generators: Generators, max_bytes: int = 256 * 2**20) -> None:
        if max_bytes < 0:
            raise TuneError(f"max_bytes is at least 0, got {max_bytes}; 0 keeps no batches")
        self.resumed: tuple[Grade, str] | None = None
        """How true the resume was, and why; None before the loop starts, or when nothing was resumed."""
        self._generators = generators
        self._own: dict[str, torch.Generator] = {}  # the loader's
        self._last: State | None = None  # captured
        self._tape = Tape(max_bytes)
        self._loader: Any = None
        self._loader_since = 0  # the epoch in which it took over
        self._iterator: Iterator[Any] | None = None
        self._epoch, self._fetched = Epoch(0), 0  # where the iterator stands
        self._began, self._turn, self._running = 0, 0, False
        self._gaps: list[_Gap] = []
        self._target: Position | None = None  # to be resumed from

    @property
    def position(self) -> Position:
        """Where the stream stands: before the next batch."""
        if self._target is not None:
            return self._target
        epoch, key = self._here()
        live = self._iterator is not None and not self._tape.ahead
        own = (
            copy.deepcopy(self._loader.state_dict()) if live and key[1] and _stateful(self._loader) else None
        )
        start = epoch.start if key[1] else None
        return Position(*key, self._began, epoch.token, self._capture(), start, own)

    @property
    def nbytes(self) -> int:
        """Bytes of batches that are kept."""
        return self._tape.nbytes

    def keep_from(self, position: Position | None) -> None:
        """Keep the batches since `position`, the oldest that may be rewound to; None keeps nothing."""
        self._tape.keeping = position is not None
        self._tape.drop_before(position.key if position else None)

    def close(self) -> None:
        """Let go of the loader, whose workers end with it, and of all batches; no loop runs any more."""
        self._tape = Tape(self._tape.max_bytes)
        self._loader = self._iterator = self._target = None
        self._own, self._gaps = {}, []

    # --- the user's iteration --------------------------------------------------------------------------

    def epochs(self, loader: Iterable[Any], count: int | None) -> Iterator[Any]:
        """The batches of `count` passes over `loader`; a later call goes on with the next epoch.

        A pass that is left by `break` is over. Epochs are counted on the stream: after a rewind into an
        earlier call this one ends where that one did, so that what an outer loop does between epochs comes
        again too. A one-shot iterator ends the iteration when it is exhausted.

        Args:
            loader: anything that can be iterated over.
            count: at least 1; None for ever. After a resume, passes before it are counted too.

        Raises:
            TuneError: now, for a loader that cannot be iterated over or a bad count; while iterating, when
                the loader has no batches, or when another call has taken the stream over.
        """
        if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
            raise TuneError(f"a loader is iterable, got {type(loader).__name__}; pass a DataLoader or a list")
        if count is not None and count < 1:
            raise TuneError(f"the number of epochs is at least 1, got {count}; use None to go on for ever")
        if not self._running:
            self._own = _generators_of(loader)
        return self._run(loader, count)

    def _run(self, loader: Any, count: int | None) -> Iterator[Any]:
        self._turn += 1
        turn = self._turn
        try:
            self._take(loader)
            while count is None or self._here()[0].index < self._began + count:
                item = self._replay() if self._tape.ahead else self._fetch()
                if item is _EXHAUSTED:
                    break
                if item is _END:
                    continue
                yield item
                if turn != self._turn:
                    raise TuneError(
                        "one loop at a time runs over the batches, got a second one before this had ended; "
                        "end the first, or give each a tuner of its own"
                    )
            self._began, self._running = self._here()[0].index, False
        except BaseException:
            if turn == self._turn:
                self._abandon()
            raise

    def _take(self, loader: Any) -> None:
        changed = loader is not self._loader
        if self._running or (changed and (self._iterator is not None or self._tape.ahead)):
            self._abandon()
        if changed:
            self._loader, self._loader_since = loader, self._epoch.index
        self._own = _generators_of(loader)
        self._running = True
        if self._target is not None:
            target, self._target, self._loader_since = self._target, None, 0
            self.resumed = self._draw_anew(target)

    def _abandon(self) -> None:
        """End the pass where the stream stands, and forget what was still to be replayed."""
        self._epoch, key = self._here()
        self._fetched = key[1]
        self._tape.drop_ahead()
        self._gaps = [gap for gap in self._gaps if gap.high <= key]
        if self._fetched:
            self._end_epoch()
        self._iterator = None
        self._began, self._running = self._epoch.index, False

    def _replay(self) -> Any:
        entry = self._tape.replay()
        self._restore(entry.state)
        return entry.item

    def _fetch(self) -> Any:
        if self._iterator is None:
            self._epoch.start = self._capture()
            self._iterator = iter(self._loader)
        while (item := next(self._iterator, _END)) is not _END:
            key = (self._epoch.index, self._fetched)
            self._fetched += 1
            if self._gaps and any(gap.low <= key < gap.high for gap in self._gaps):
                continue  # drawn anew, but left behind before
            if self._tape.keeping:
                self._tape.record(self._epoch, key, item, self._capture())
            return item
        if self._fetched:
            self._end_epoch()
            return _END
        self._iterator = None
        if isinstance(self._loader, Iterator) and self._epoch.index > self._loader_since:
            return _EXHAUSTED
        raise TuneError(
            f"a loader has at least one batch, got none from {type(self._loader).__name__}; check the length "
            "of the data set against batch size and drop_last, or pass an iterator that is not exhausted"
        )

    def _end_epoch(self) -> None:
        if self._tape.keeping:
            self._tape.record(self._epoch, (self._epoch.index, self._fetched), _END, self._capture())
        self._iterator = None
        self._epoch, self._fetched = Epoch(self._epoch.index + 1), 0

    def _here(self) -> tuple[Epoch, Key]:
        if self._tape.ahead:
            return self._tape.ahead[0].epoch, self._tape.ahead[0].key
        return self._epoch, (self._epoch.index, self._fetched)

    def _capture(self) -> State:
        own = {name: generator.get_state() for name, generator in self._own.items()}
        self._last = self._generators.capture(self._last)
        return self._last | own

    def _restore(self, state: State) -> None:
        for name in self._own.keys() & state.keys():
            self._own[name].set_state(state[name])
        self._generators.restore(state)

    # --- moving the stream -----------------------------------------------------------------------------

    def check(self, position: Position, data: Data) -> None:
        """See that `rewind` can do what it is asked; touches nothing.

        Raises:
            TuneError: when the batches since `position` are no longer kept and the loader cannot draw them
                anew, or for an unknown `data`.
        """
        if data not in DATA:
            raise TuneError(f"data is one of {', '.join(DATA)}, got {data!r}")
        if data == "skip" or self._loader is None or self._held(position):
            return
        if isinstance(self._loader, Iterator):
            reason = f"a one-shot {type(self._loader).__name__} cannot draw them anew"
        elif position.epoch < self._loader_since:
            reason = f"another loader has taken over in epoch {self._loader_since}"
        else:
            return
        raise TuneError(
            f"a rewind replays batches that are kept or that the loader can draw anew, got a position in "
            f"epoch {position.epoch} after {position.batch} batches, no longer kept, and {reason}; keep more "
            f"(max_bytes is {self._tape.max_bytes}), rewind less far, or rewind with data='skip'"
        )

    def rewind(self, position: Position, data: Data) -> tuple[Grade, str]:
        """Move the stream; the caller restores the run's random generators afterwards, last of all.

        Args:
            position: where to; any `position` of this stream, or of the run that it resumed.
            data: `replay`: the batches since then come again, then those that were still to come. `skip`:
                those since then are left behind for good; data go on from where they are.

        Returns:
            How true it is, and why.

        Raises:
            TuneError: as `check`, before anything is touched.
        """
        self.check(position, data)
        if data == "skip":
            return self._leave_behind(position)
        if self._loader is None:
            self.resume(position)
            return "state-exact", "the loader is put there when the loop starts"
        key = self._held(position)
        if key is None:
            return self._draw_anew(position)
        self._tape.seek(key)
        self._began = position.began
        self._restore(position.generators)
        modified = sum(entry.modified for entry in self._tape.ahead)
        if modified:
            return "approximate", (
                f"the training loop has modified {modified} of the batches in place, which come again as it "
                "left them; have it work on copies"
            )
        return "bitwise", "the same batches come again from memory"

    def resume(self, position: Position) -> None:
        """Go on from `position` of another process when `epochs` is next iterated over.

        The random generators are then put back to the position too, and `resumed` is set.
        """
        self._target = position

    def _held(self, position: Position) -> Key | None:
        """Where `position` is in the kept stream, moved past what was left behind; None: nowhere."""
        key, tokens = position.key, frozenset({position.token})
        for gap in self._gaps:
            if gap.low <= key < gap.high and tokens & gap.tokens:
                key, tokens = gap.high, tokens | gap.tokens
        live = key == (self._epoch.index, self._fetched) and self._epoch.token in tokens
        return key if live or self._tape.holds(key, tokens) else None

    def _leave_behind(self, position: Position) -> tuple[Grade, str]:
        epoch, high = self._here()
        tokens = self._tape.drop_since(position.key) | {position.token, epoch.token}
        if position.key < high:
            self._gaps.append(_Gap(position.key, high, frozenset(tokens)))
        self._began = position.began
        return "bitwise", "the batches since then are left behind; data go on from where they are"

    def _draw_anew(self, position: Position) -> tuple[Grade, str]:
        """Put the loader where it stood: by its own state, or from the seeds, past what it had handed out."""
        loader = self._loader
        self._tape.drop_ahead()
        self._tape.drop_before(None)
        self._iterator = None
        self._epoch = Epoch(position.epoch, position.start, position.token)
        self._fetched, self._began = position.batch, position.began
        by_state = position.loader_state is not None and _stateful(loader)
        if not by_state and _persistent(loader) and position.epoch > self._loader_since:
            iter(loader)  # starting the workers draws once more, which belongs to the first epoch
        if by_state:
            loader.load_state_dict(copy.deepcopy(position.loader_state))
            self._iterator = iter(loader)
        elif position.start is not None:
            self._restore(position.start)
            self._iterator = iter(loader)
            passed = sum(next(self._iterator, _END) is not _END for _ in range(position.batch))
            if passed < position.batch:
                raise TuneError(
                    f"a loader has the batches that it had, got {passed} in epoch {position.epoch} where "
                    f"{position.batch} had come; pass the loader that the run was started with"
                )
        self._restore(position.generators)
        unknown = sorted(self._own.keys() - position.generators.keys())
        return _grade(loader, by_state, unknown)


def _grade(loader: Any, by_state: bool, unknown: list[str]) -> tuple[Grade, str]:
    """How true batches are that `loader` draws anew (measured for torch's and torchdata's loaders)."""
    if unknown:
        return "approximate", f"{', '.join(unknown)} was not yet known there, so that the order differs"
    if _persistent(loader):
        return "approximate", (
            "persistent workers keep their own random generators: augmentation differs, and in the first "
            "epoch the order may"
        )
    if by_state and _workers(loader):
        return "approximate", (
            "the loader restored its own state: the same order, but what its workers draw for augmentation "
            "may differ until the epoch ends"
        )
    how = "restored its own state" if by_state else "began the epoch again from the same random generators"
    return "state-exact", f"the loader {how}; batches are the same if they depend on nothing else"


def _workers(loader: Any) -> int:
    workers = getattr(loader, "num_workers", 0)
    return workers if isinstance(workers, int) else 0


def _persistent(loader: Any) -> bool:
    return _workers(loader) > 0 and bool(getattr(loader, "persistent_workers", False))


def _stateful(loader: Any) -> bool:
    loader = getattr(loader, "base_dataloader", loader)  # accelerate's wrapper has the methods in any case
    return all(callable(getattr(loader, name, None)) for name in ("state_dict", "load_state_dict"))


def _generators_of(loader: Any) -> dict[str, torch.Generator]:
    found: dict[str, torch.Generator] = {}
    for path in _GENERATORS:
        generator = reduce(lambda part, name: getattr(part, name, None), path.split("."), loader)
        if isinstance(generator, torch.Generator) and all(generator is not known for known in found.values()):
            found[f"loader.{path}"] = generator
    return found
