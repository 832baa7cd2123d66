"""A loader's batches as a stream that can be rewound: they are kept since the oldest live snapshot."""

from __future__ import annotations

import copy
import os
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain, islice
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from .generators import Generators, State
from .records import DATA, Data, TuneError

Grade: TypeAlias = Literal["bitwise", "state-exact", "approximate"]
"""How true a rewind is: the very same batches; drawn anew by the same loader state; known to differ."""

_PRIVATE = ("generator", "sampler.generator", "batch_sampler.generator", "batch_sampler.sampler.generator")
_STATE_BYTES = 40_000  # of the generators after one fetch, about
_SHARED_TENSORS = 256  # each tensor from a worker holds a file descriptor; many systems allow 1,024
_NESTING = 8  # levels of a batch that are searched for tensors
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
    """Names this pass over the loader, so that no other pass with the same number is taken for it."""
    generators: State
    """The random generators here, the loader's own ones included."""
    start: State | None
    """The random generators before the epoch began; None when it has not."""
    loader_state: dict[str, Any] | None
    """The loader's own `state_dict`, where it offers one."""

    @property
    def key(self) -> tuple[int, int]:
        """(epoch, batch), which grows along the stream."""
        return self.epoch, self.batch


@dataclass(slots=True)
class _Epoch:
    """One pass over the loader."""

    index: int
    start: State | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(slots=True)
class _Entry:
    """A batch, or the end of an epoch, as it came."""

    epoch: _Epoch
    key: tuple[int, int]
    item: Any
    state: State
    """Of the generators after the fetch."""
    versions: list[tuple[torch.Tensor, int]]
    nbytes: int
    shared: list[int]
    """Bytes of each tensor that lies in memory shared with a worker."""

    @property
    def modified(self) -> bool:
        return any(_version(tensor) != version for tensor, version in self.versions)


class _Window(NamedTuple):
    """Batches that were left behind, from `low` to before `high`."""

    low: tuple[int, int]
    high: tuple[int, int]
    tokens: frozenset[str]


class ReplayingLoader:
    """Iterates over any loader so that its batches can come again.

    While a position is kept (`keep_from`), the batches since then are held by reference, each with the
    state of the random generators after its fetch, so that a replayed batch leaves them as the original
    one did. The loader's own iterator is not moved by a replay: it goes on where the kept batches end,
    whatever its workers have prefetched.

    Args:
        generators: the run's. Those that belong to a loader and its samplers are found by themselves;
            they move with the stream, so that `skip` does not draw an old order again.
        max_bytes: of kept batches. Beyond it the oldest are dropped, and a rewind to before them has the
            loader draw its batches anew.
    """

    def __init__(self, generators: Generators, max_bytes: int = 256 * 2**20) -> None:
        if max_bytes < 0:
            raise TuneError(f"max_bytes is at least 0, got {max_bytes}; 0 keeps no batches")
        self._generators = generators
        self._max_bytes = max_bytes
        self._loader: Any = None
        self._loader_since = 0  # the epoch in which the present loader took over
        self._own: dict[str, torch.Generator] = {}  # the loader's and its samplers'
        self._resume: Position | None = None
        self._iterator: Iterator[Any] | None = None
        self._epoch, self._fetched = _Epoch(0), 0  # where the loader's own iterator stands
        self._began, self._turn, self._running = 0, 0, False
        self._keeping = False
        self._past: deque[_Entry] = deque()
        self._future: deque[_Entry] = deque()  # to be replayed; empty when the stream is live
        self._nbytes = self._shared_tensors = self._shared_bytes = 0
        self._skipped: list[_Window] = []

    @property
    def position(self) -> Position:
        """Where the stream stands: before the next batch."""
        if self._resume is not None:
            return self._resume
        epoch, key = self._here()
        loader_state = None
        if not self._future and self._iterator is not None and self._fetched and _stateful(self._loader):
            loader_state = copy.deepcopy(self._loader.state_dict())
        start = epoch.start if key[1] else None
        return Position(*key, self._began, epoch.token, self._capture(), start, loader_state)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return self._nbytes

    def keep_from(self, position: Position | None) -> None:
        """Keep the batches since `position`, the oldest that may be rewound to; None keeps nothing."""
        self._keeping = position is not None
        while self._past and (position is None or self._past[0].key < position.key):
            self._count(self._past.popleft(), -1)

    def close(self) -> None:
        """Let go of the loader's iterator, with its workers, and of all that is kept."""
        self._turn += 1
        self._abandon()
        self.keep_from(None)

    # --- the user's iteration --------------------------------------------------------------------------

    def epochs(self, loader: Iterable[Any], count: int | None) -> Iterator[Any]:
        """The batches of `count` passes over `loader`; a later call goes on with the next epoch.

        A pass that is left by `break` is over. Epochs are counted on the stream: after a rewind into an
        earlier call, this one ends where that one did, so that what an outer loop does between epochs
        comes again too. A one-shot iterator ends the iteration when it is exhausted.

        Args:
            loader: anything that can be iterated over.
            count: at least 1; None for ever.

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
        turn = self._take(loader)
        try:
            while count is None or self._here()[0].index < self._began + count:
                item = self._replay() if self._future else self._fetch()
                if item is _EXHAUSTED:
                    break
                if item is _END:
                    continue
                yield item
                if turn != self._turn:
                    raise TuneError(
                        "one loop at a time runs over the batches, got another one (or the end of the run) "
                        "before this one ended; end the first, or give each loop a tuner of its own"
                    )
            self._began = self._here()[0].index
        except BaseException:
            if turn == self._turn:
                self._abandon()
            raise
        self._running = False

    def _take(self, loader: Any) -> int:
        if self._running or (loader is not self._loader and (self._iterator is not None or self._future)):
            self._abandon()
        if loader is not self._loader:
            self._loader, self._loader_since = loader, self._epoch.index
        self._own = _generators_of(loader)
        if self._resume is not None:
            position, self._resume = self._resume, None
            self._loader_since = position.epoch
            self.resumed = self._draw_anew(position)
        self._running = True
        self._turn += 1
        return self._turn

    def _abandon(self) -> None:
        """End the pass where it stands, and forget what was still to be replayed."""
        epoch, key = self._here()
        while self._future:
            self._count(self._future.pop(), -1)
        self._skipped = [window for window in self._skipped if window.high <= key]
        self._running = False
        self._epoch, self._fetched = epoch, key[1]
        if key[1]:
            self._end_epoch()
        self._iterator = None
        self._began = self._epoch.index

    def _replay(self) -> Any:
        entry = self._future.popleft()
        self._past.append(entry)
        if not self._keeping:
            self._count(self._past.pop(), -1)
        self._restore(entry.state)
        return entry.item

    def _fetch(self) -> Any:
        if self._iterator is None:
            self._epoch.start = self._capture()
            self._iterator = iter(self._loader)
        while True:
            try:
                item = next(self._iterator)
            except StopIteration:
                break
            key = (self._epoch.index, self._fetched)
            self._fetched += 1
            if self._skipped and any(window.low <= key < window.high for window in self._skipped):
                continue  # left behind before the loader was put back
            if self._keeping:
                self._keep(key, item)
            return item
        if self._fetched:
            self._end_epoch()
            return _END
        self._iterator = None
        if isinstance(self._loader, Iterator) and self._epoch.index > self._loader_since:
            return _EXHAUSTED
        raise TuneError(
            f"a loader has at least one batch, got none from {type(self._loader).__name__}; "
            "check the data set's length against the batch size and drop_last, or pass a fresh iterator"
        )

    def _end_epoch(self) -> None:
        if self._keeping:
            self._keep((self._epoch.index, self._fetched), _END)
        self._iterator = None
        self._epoch, self._fetched = _Epoch(self._epoch.index + 1), 0

    # --- what is kept ----------------------------------------------------------------------------------

    def _here(self) -> tuple[_Epoch, tuple[int, int]]:
        if self._future:
            return self._future[0].epoch, self._future[0].key
        return self._epoch, (self._epoch.index, self._fetched)

    def _keep(self, key: tuple[int, int], item: Any) -> None:
        state = self._capture()
        leaves: list[torch.Tensor | np.ndarray[Any, Any]] = []
        _collect(item, leaves, _NESTING)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        shared = [t.nbytes for t in tensors if t.is_cpu and t.layout == torch.strided and t.is_shared()]
        if shared and not self._room(shared):
            for tensor in tensors:
                tensor.data = tensor.data.clone()  # nobody has seen it yet
            shared = []
        nbytes = _STATE_BYTES + sum(map(_nbytes, leaves))
        versions = [(tensor, _version(tensor)) for tensor in tensors]
        self._past.append(_Entry(self._epoch, key, item, state, versions, nbytes, shared))
        self._count(self._past[-1], 1)
        while self._past and self._nbytes > self._max_bytes:
            self._count(self._past.popleft(), -1)

    def _count(self, entry: _Entry, sign: int) -> None:
        self._nbytes += sign * entry.nbytes
        self._shared_tensors += sign * len(entry.shared)
        self._shared_bytes += sign * sum(entry.shared)

    def _room(self, shared: list[int]) -> bool:
        """Whether tensors from a worker may stay in shared memory, which the workers need themselves."""
        if self._shared_tensors + len(shared) > _SHARED_TENSORS:
            return False
        if not os.path.isdir("/dev/shm"):
            return True
        disk = os.statvfs("/dev/shm")
        return self._shared_bytes + sum(shared) <= disk.f_bavail * disk.f_frsize

    def _capture(self) -> State:
        own = {name: generator.get_state() for name, generator in self._own.items()}
        return self._generators.capture() | own

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
        if data == "skip" or self._loader is None or self._held(position) is not None:
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
            f"(max_bytes is {self._max_bytes}), rewind less far, or rewind with data='skip'"
        )

    def rewind(self, position: Position, data: Data) -> tuple[Grade, str]:
        """Move the stream; the caller restores the random generators afterwards, last of all.

        Args:
            position: where to; any `position` of this stream, or of the run that it resumed.
            data: `replay`: the batches since then come again, and then those that were still to come.
                `skip`: those since then are left behind for good; data go on from where they are.

        Returns:
            How true it is, and why.

        Raises:
            TuneError: as `check`, before anything is touched.
        """
        self.check(position, data)
        if data == "skip":
            return self._leave_behind(position)
        key = self._held(position)
        if key is None:
            if self._loader is None or self._resume is not None:
                self.resume(position)
                return "state-exact", "the loader is put there when the loop starts"
            return self._draw_anew(position)
        self._began = position.began
        while self._past and self._past[-1].key >= key:
            self._future.appendleft(self._past.pop())
        while self._future and self._future[0].key < key:
            self._past.append(self._future.popleft())
        self._restore(position.generators)
        modified = sum(entry.modified for entry in self._future)
        if modified:
            return "approximate", (
                f"{modified} of the batches to be replayed were modified in place by the training loop, and "
                "come again as it left them; work on a copy of the batch"
            )
        return "bitwise", "the same batches come again from memory"

    def resume(self, position: Position) -> None:
        """Go on from `position` of another process when the next call of `epochs` starts.

        That call restores the random generators to the position as well, and sets `resumed`.
        """
        self._resume = position

    def _held(self, position: Position) -> tuple[int, int] | None:
        """Where `position` is in the stream as it is kept, past what was left behind; None if nowhere."""
        if self._resume is not None:
            return None
        key, tokens = position.key, frozenset({position.token})
        for window in self._skipped:
            if window.low <= key < window.high and tokens & window.tokens:
                key, tokens = window.high, tokens | window.tokens
        if key == (self._epoch.index, self._fetched) and self._epoch.token in tokens:
            return key
        entries = chain(self._future, reversed(self._past))
        return key if any(e.key == key and e.epoch.token in tokens for e in entries) else None

    def _leave_behind(self, position: Position) -> tuple[Grade, str]:
        if self._resume is not None:
            return "bitwise", "the loop has not started; data go on from where they are"
        epoch, high = self._here()
        tokens = {position.token, epoch.token}
        while self._past and self._past[-1].key >= position.key:
            tokens.add(self._past[-1].epoch.token)
            self._count(self._past.pop(), -1)
        if position.key < high:
            self._skipped.append(_Window(position.key, high, frozenset(tokens)))
        self._began = position.began
        return "bitwise", "the batches since then are left behind; data go on from where they are"

    def _draw_anew(self, position: Position) -> tuple[Grade, str]:
        """Put the loader where it stood: by its own state, or from the seeds and past what it handed out."""
        loader = self._loader
        for entry in (*self._past, *self._future):
            self._count(entry, -1)
        self._past.clear()
        self._future.clear()
        self._iterator = None
        self._epoch = _Epoch(position.epoch, position.start, position.token)
        self._fetched, self._began = position.batch, position.began
        own_state = position.loader_state is not None and _stateful(loader)
        if own_state:
            loader.load_state_dict(copy.deepcopy(position.loader_state))
            self._iterator = iter(loader)
        elif position.start is not None:
            self._restore(position.start)
            self._iterator = iter(loader)
            passed = sum(1 for _ in islice(self._iterator, position.batch))
            if passed < position.batch:
                self._abandon()
                raise TuneError(
                    f"a loader has at least as many batches as before, got {passed} where {position.batch} "
                    f"had come in epoch {position.epoch}; pass the loader that the run was started with"
                )
        self._restore(position.generators)
        return _drawn(loader, own_state)


def _drawn(loader: Any, own_state: bool) -> tuple[Grade, str]:
    how = "its own state_dict" if own_state else "the seeds of the epoch"
    return "state-exact", how


def _stateful(loader: Any) -> bool:
    return callable(getattr(loader, "state_dict", None)) and callable(
        getattr(loader, "load_state_dict", None)
    )


def _generators_of(loader: Any) -> dict[str, torch.Generator]:
    found: dict[str, torch.Generator] = {}
    for path in _PRIVATE:
        generator = reduce(lambda part, name: getattr(part, name, None), path.split("."), loader)
        if isinstance(generator, torch.Generator) and all(generator is not known for known in found.values()):
            found[f"loader.{path}"] = generator
    return found


def _collect(item: Any, leaves: list[torch.Tensor | np.ndarray[Any, Any]], depth: int) -> None:
    if isinstance(item, torch.Tensor | np.ndarray):
        leaves.append(item)
    elif isinstance(item, str | bytes | int | float) or not depth:
        return
    elif isinstance(item, Mapping):
        for value in item.values():
            _collect(value, leaves, depth - 1)
    elif isinstance(item, list | tuple):
        for value in item:
            _collect(value, leaves, depth - 1)
    elif hasattr(item, "__dict__"):
        for value in vars(item).values():
            _collect(value, leaves, depth - 1)


def _nbytes(leaf: torch.Tensor | np.ndarray[Any, Any]) -> int:
    if isinstance(leaf, torch.Tensor) and leaf.layout != torch.strided:
        return leaf._nnz() * (leaf.element_size() + 8 * leaf.dim())
    return leaf.nbytes


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
