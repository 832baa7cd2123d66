"""Reads a sample of a loader's batches, and keeps little of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..inplace import copied
from .bench import late, leaves

WATCHED = 4
"""Batches that are kept."""
SAMPLES = 20_000
"""The most samples that are read of one loader."""


@dataclass(slots=True)
class Reading:
    """The beginning of one pass over a loader."""

    batches: list[Any] = field(default_factory=list)
    """The first ones."""
    digests: list[bytes] = field(default_factory=list)
    """Of each whole batch, of those that are tensors."""
    samples: list[bytes] = field(default_factory=list)
    """Of each sample's input, in order; empty where a batch has no samples that could be told apart."""
    columns: dict[str, list[Tensor]] = field(default_factory=dict)
    """Whole-number leaves with one entry a sample, by their place in the batch: labels are among them."""
    broken: dict[str, int] = field(default_factory=dict)
    """Batches in which a leaf was not finite, by its place."""
    width: int = 0
    """Bytes of a sample's input."""
    count: int = 0
    """Batches that were read."""


def read(loader: Any, deadline: float, most: int | None = None) -> Reading:
    """Read until `deadline`, at least `WATCHED` batches (fewer where there are no more).

    Args:
        loader: an iterable of batches.
        deadline: `time.perf_counter()` at which to end.
        most: batches; None: as many as hold `SAMPLES` samples.
    """
    reading = Reading()
    stream: Iterator[Any] = iter(loader)
    for batch in stream:
        named = leaves(batch)
        if len(reading.batches) < WATCHED:
            reading.batches.append(copied(batch, torch.clone))  # a loader may fill one buffer again and again
        reading.count += 1
        if named and all(leaf.layout is torch.strided for leaf in named.values()):
            reading.digests.append(_digest(named.values()))
        _samples(reading, named)
        enough = reading.count >= most if most else len(reading.samples) >= SAMPLES
        if enough or (late(deadline) and reading.count >= WATCHED):
            break
    return reading


def _samples(reading: Reading, named: dict[str, Tensor]) -> None:
    with_axis = {name: leaf for name, leaf in named.items() if leaf.ndim and leaf.layout is torch.strided}
    for name, leaf in with_axis.items():
        if leaf.is_floating_point() and not bool(leaf.isfinite().all()):  # sync: data lie on the host
            reading.broken[name] = reading.broken.get(name, 0) + 1
    if not with_axis:
        return
    count = len(next(iter(with_axis.values())))
    split = {name: leaf.cpu() for name, leaf in with_axis.items() if len(leaf) == count and leaf.numel()}
    if not split:
        return
    for name, leaf in split.items():
        if not leaf.is_floating_point() and leaf.numel() == count:
            reading.columns.setdefault(name, []).append(leaf.reshape(-1).long())
    # The input is not known: all leaves with more than one entry a sample, which no label and no length has.
    inputs = [leaf for leaf in split.values() if leaf.numel() > count]
    inputs = inputs or [leaf for leaf in split.values() if leaf.is_floating_point()]
    if not inputs:
        return
    rows = torch.cat([_bytes(leaf).reshape(count, -1) for leaf in inputs], 1).numpy()
    reading.width = rows.shape[1]
    reading.samples += [hashlib.blake2b(row.tobytes(), digest_size=12).digest() for row in rows]


def _digest(tensors: Iterable[Tensor]) -> bytes:
    digest = hashlib.blake2b(digest_size=12)
    for tensor in tensors:
        digest.update(_bytes(tensor).numpy().tobytes())
    return digest.digest()


def _bytes(tensor: Tensor) -> Tensor:
    flat = tensor.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8)
