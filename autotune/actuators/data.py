"""Hyperparameters of the data: batch size and sequence length."""

from __future__ import annotations

import abc
import copy
from collections.abc import Hashable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import BatchSampler

from ..hyperparameters import Held, IntHyperparameter
from ..records import TuneError
from .generic import Attribute


class BatchTransform(abc.ABC):
    """An actuator that acts on each batch: the tuner passes those that it yields through `apply`."""

    @abc.abstractmethod
    def apply(self, batch: Any) -> Any:
        """The batch to yield; `batch` itself is left as it is, for it may be replayed."""


class VariableBatchSampler(BatchSampler):
    """torch's `BatchSampler`, whose `batch_size` may change at any time, in mid-epoch too.

    Each batch takes the size that holds when it is drawn. `len()` counts the batches of a whole epoch at the
    present size.

    Args:
        sampler: yields indices, such as `torch.utils.data.RandomSampler(dataset)`.
        batch_size: samples a batch, at the start.
        drop_last: whether an incomplete batch at the end of an epoch is left out.
    """

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of indices."""
        indices = iter(self.sampler)
        while True:
            size = self.batch_size
            batch = list(islice(indices, size))
            if not batch or (self.drop_last and len(batch) < size):
                return
            yield batch


def batch_size(
    loader: Any, *, low: int = 1, high: int | None = None, name: str = "batch_size"
) -> IntHyperparameter:
    """The batch size of a DataLoader that was built with a `VariableBatchSampler`.

    It holds from the next batch that is drawn. Without workers that is the next batch; with workers, up to
    `num_workers × prefetch_factor` batches are in flight with the old size and come first.

    For other sources of data (iterable datasets, tokens a batch) use `call`.

    Args:
        loader: a DataLoader; torch forbids replacing the sampler of one, so it is built with
            `batch_sampler=VariableBatchSampler(...)`.
        low: smallest size.
        high: largest size; 8 times the present one unless given, for memory grows with it.
        name: unique within a run.

    Raises:
        TuneError: for a loader without a `VariableBatchSampler`, or invalid bounds.
    """
    sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(sampler, VariableBatchSampler):
        raise TuneError(
            "batch_size needs a DataLoader that was built with a VariableBatchSampler, got "
            f"{type(loader).__name__} with {type(sampler).__name__}; build it as DataLoader(dataset, "
            "batch_sampler=VariableBatchSampler(RandomSampler(dataset), 32, drop_last=False)), "
            "or use call() for another source of data"
        )
    return IntHyperparameter(
        name,
        low=low,
        high=8 * sampler.batch_size if high is None else high,
        unit="samples",
        actuator=Attribute(sampler, "batch_size"),
    )


def sequence_length(
    value: int, *, low: int = 1, high: int | None = None, dim: int = 1, name: str = "sequence_length"
) -> IntHyperparameter:
    """Crop the sequences of each batch that the tuner yields to their first positions.

    Every tensor of the batch whose dimension `dim` is longer is cropped, wherever it is nested in tuples,
    lists and mappings: in batches laid out (batch, sequence, ...) inputs, masks and targets alike. So no
    other tensor of the batch may be longer than that in this dimension.

    Args:
        value: positions, at the start; the full length changes nothing.
        low: smallest length.
        high: largest length; `value` unless given, for a batch cannot be lengthened.
        dim: the dimension that counts positions, 0 or more.
        name: unique within a run.

    Raises:
        TuneError: for a negative dimension, invalid bounds, or a start outside them.
    """
    if dim < 0:
        raise TuneError(f"dim counts from the front, 0 or more, got {dim}; for (batch, sequence) it is 1")
    return IntHyperparameter(
        name,
        low=low,
        high=value if high is None else high,
        unit="positions",
        actuator=SequenceLength(value, dim),
    )


class SequenceLength(Held[int], BatchTransform):
    """Holds the length that batches are cropped to."""

    def __init__(self, value: int, dim: int) -> None:
        super().__init__(value)
        self.dim = dim

    @property
    def targets(self) -> frozenset[Hashable]:
        """The dimension of the batch."""
        return frozenset({("batch dimension", self.dim)})

    def apply(self, batch: Any) -> Any:
        """The batch with its tensors cropped; those that are short enough are passed on as they are."""
        if isinstance(batch, Tensor):
            long = batch.dim() > self.dim and batch.shape[self.dim] > self.read()
            # Contiguous, as it came from the loader: `targets.view(-1)` works on it.
            return batch.narrow(self.dim, 0, self.read()).contiguous() if long else batch
        if isinstance(batch, Mapping):
            cropped: Any = copy.copy(batch)  # keeps the type, such as transformers' BatchEncoding
            for key, item in batch.items():
                cropped[key] = self.apply(item)
            return cropped
        if isinstance(batch, tuple | list):
            items = [self.apply(item) for item in batch]
            return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
        return batch
