"""The batches that are kept: those since the oldest snapshot, and of them those that come again."""

from __future__ import annotations

import os
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import torch

from .generators import State

Key: TypeAlias = tuple[int, int]
"""(epoch, batches that the loader had handed out in it before): grows along the stream."""
Leaf: TypeAlias = torch.Tensor | np.ndarray[Any, Any]

_STATE_BYTES = 40_000  # of the generators after one fetch, about
_SHARED_TENSORS = 256  # each tensor from a worker holds a file descriptor; many systems allow 1,024
_NESTING = 8  # levels of a batch that are searched for tensors


@dataclass(slots=True)
class Epoch:
    """One pass over the loader."""

    index: int
    start: State | None = None
    """The random generators before it began; None when it has not."""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Names the pass: after a loop was left by `break`, another may have the same index."""


@dataclass(slots=True)
class Entry:
    """A batch as it came, by reference."""

    epoch: Epoch
    key: Key
    item: Any
    state: State
    """The random generators after the fetch."""
    versions: list[tuple[torch.Tensor, int]]
    nbytes: int
    shared: list[int]
    """Bytes of each tensor that lies in memory shared with a worker."""

    @property
    def modified(self) -> bool:
        """Whether a tensor was written in place since; writes through `.data` or NumPy are not seen."""
        return any(_version(tensor) != version for tensor, version in self.versions)


class Tape:
    """Kept batches on both sides of where the stream stands.

    Args:
        max_bytes: of kept batches; beyond it the oldest go.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.keeping = False
        self.ahead: deque[Entry] = deque()
        """To be replayed; empty when the stream is live."""
        self.nbytes = 0
        self._behind: deque[Entry] = deque()
        self._shared_tensors = self._shared_bytes = 0

    def record(self, epoch: Epoch, key: Key, item: Any, state: State) -> None:
        """Keep what the loader has just handed out, before anyone else has seen it."""
        leaves: list[Leaf] = []
        _collect(item, leaves, _NESTING)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        shared = [tensor.nbytes for tensor in tensors if _is_shared(tensor)]
        if shared and not self._room(shared):
            for tensor in filter(_is_shared, tensors):
                tensor.data = tensor.data.clone()
            shared = []
        versions = [(tensor, _version(tensor)) for tensor in tensors]
        nbytes = _STATE_BYTES + sum(map(_nbytes, leaves))
        self._behind.append(Entry(epoch, key, item, state, versions, nbytes, shared))
        self._count(self._behind[-1], 1)
        while self._behind and self.nbytes > self.max_bytes:
            self._count(self._behind.popleft(), -1)

    def replay(self) -> Entry:
        """The next kept batch."""
        entry = self.ahead.popleft()
        if self.keeping:
            self._behind.append(entry)
        else:
            self._count(entry, -1)
        return entry

    def holds(self, key: Key, tokens: frozenset[str]) -> bool:
        """Whether the batch at `key` of one of these passes is kept."""
        entries = chain(self.ahead, reversed(self._behind))
        return any(entry.key == key and entry.epoch.token in tokens for entry in entries)

    def seek(self, key: Key) -> None:
        """Stand before `key`."""
        while self._behind and self._behind[-1].key >= key:
            self.ahead.appendleft(self._behind.pop())
        while self.ahead and self.ahead[0].key < key:
            self.replay()

    def drop_before(self, key: Key | None) -> None:
        """Forget what came before `key`; None: all that has come."""
        while self._behind and (key is None or self._behind[0].key < key):
            self._count(self._behind.popleft(), -1)

    def drop_since(self, key: Key) -> set[str]:
        """Forget what has come since `key`; returns the tokens of its passes."""
        tokens = set()
        while self._behind and self._behind[-1].key >= key:
            tokens.add(self._behind[-1].epoch.token)
            self._count(self._behind.pop(), -1)
        return tokens

    def drop_ahead(self) -> None:
        """Forget what was still to be replayed."""
        while self.ahead:
            self._count(self.ahead.pop(), -1)

    def _count(self, entry: Entry, sign: int) -> None:
        self.nbytes += sign * entry.nbytes
        self._shared_tensors += sign * len(entry.shared)
        self._shared_bytes += sign * sum(entry.shared)

    def _room(self, shared: list[int]) -> bool:
        """Whether these may stay in shared memory, which the workers need to hand batches over."""
        if self._shared_tensors + len(shared) > _SHARED_TENSORS:
            return False
        if not os.path.isdir("/dev/shm"):
            return True
        disk = os.statvfs("/dev/shm")
        return self._shared_bytes + sum(shared) <= disk.f_bavail * disk.f_frsize


def _collect(item: Any, leaves: list[Leaf], depth: int) -> None:
    if isinstance(item, torch.Tensor | np.ndarray):
        leaves.append(item)
    elif depth == 0 or isinstance(item, str | bytes | int | float):
        return
    elif isinstance(item, list | tuple):
        for part in item:
            _collect(part, leaves, depth - 1)
    elif isinstance(item, Mapping):
        for part in item.values():
            _collect(part, leaves, depth - 1)
    elif hasattr(item, "__dict__"):
        for part in vars(item).values():
            _collect(part, leaves, depth - 1)


def _is_shared(tensor: torch.Tensor) -> bool:
    return tensor.is_cpu and tensor.layout == torch.strided and tensor.untyped_storage().is_shared()


def _nbytes(leaf: Leaf) -> int:
    if isinstance(leaf, torch.Tensor) and leaf.layout != torch.strided:
        return leaf._nnz() * (leaf.element_size() + 8 * leaf.dim())
    return leaf.nbytes


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
