"""The way of measured values from the device to the host, without waiting for either."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .sensor import Readings


class Sample(NamedTuple):
    """One measured value with the clocks of the step that it belongs to."""

    step: int
    spent: int
    name: str
    value: float


class Transfer:
    """Sends everything collected so far in one copy, and hands it out, in order, once it has arrived.

    On CUDA the copy goes to pinned memory (PyTorch's caching allocator keeps a pool of it) and an event
    tells when it is done; elsewhere it is done at once. Nothing else differs.
    """

    def __init__(self) -> None:
        self._waiting: list[Sample | _OnDevice] = []
        self._sent: deque[_Parcel] = deque()

    def add(self, step: int, spent: int, readings: Readings) -> None:
        """Take readings on; a tensor must not be written afterwards."""
        names, values = readings
        if isinstance(values, Tensor):
            self._waiting.append(_OnDevice(step, spent, names, values))
        else:
            for name, value in zip(names, values, strict=True):
                self._waiting.append(Sample(step, spent, name, value))

    def put(self, sample: Sample) -> None:
        """Take on a value that is on the host already; it keeps its place in the order."""
        self._waiting.append(sample)

    def receive(self, wait: bool) -> list[Sample]:
        """Send what is waiting, then return what has arrived; with `wait`, everything."""
        self._send()
        samples: list[Sample] = []
        while self._sent:
            entries, host, event = self._sent[0]
            if event is not None:
                if wait:
                    event.synchronize()  # sync: the caller asked to drain
                elif not event.query():
                    break
            self._sent.popleft()
            numbers = iter(host.tolist())
            for entry in entries:
                if isinstance(entry, Sample):
                    samples.append(entry)
                    continue
                for name, number in zip(entry.names, numbers, strict=False):
                    samples.append(Sample(entry.step, entry.spent, name, float(number)))
        return samples

    def discard(self) -> None:
        """Forget everything that was not received."""
        self._waiting.clear()
        self._sent.clear()

    def _send(self) -> None:
        if not self._waiting:
            return
        tensors = [entry.values for entry in self._waiting if isinstance(entry, _OnDevice)]
        packed = torch.cat(tensors) if tensors else torch.empty(0)
        event = None
        host = packed
        if packed.is_cuda:
            host = torch.empty_like(packed, device="cpu", pin_memory=True)
            host.copy_(packed, non_blocking=True)
            event = torch.cuda.current_stream(packed.device).record_event()
        self._sent.append(_Parcel(self._waiting, host, event))
        self._waiting = []


class _OnDevice(NamedTuple):
    step: int
    spent: int
    names: Sequence[str]
    values: Tensor


class _Parcel(NamedTuple):
    entries: list[Sample | _OnDevice]
    host: Tensor
    event: torch.cuda.Event | None
