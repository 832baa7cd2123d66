"""The histories of all signals on the live branch, bounded in memory."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .records import Signal, TuneError


class History:
    """Keeps what was measured and hands it out as read-only arrays.

    An array that was handed out never changes afterwards, so an `Observation` stays what it was.

    Args:
        limit: points kept of one signal, at least 2; at the limit the oldest half is dropped.

    Raises:
        TuneError: for a limit below 2.
    """

    def __init__(self, limit: int = 20_000) -> None:
        if limit < 2:
            raise TuneError(f"a history keeps at least 2 points of a signal, got limit={limit}")
        self._limit = limit
        self._series: dict[str, _Series] = {}

    def append(self, name: str, step: int, spent: int, value: float) -> None:
        """Add one point; takes about a microsecond.

        Raises:
            TuneError: when `step` is below that of the signal's newest point.
        """
        series = self._series.get(name)
        if series is None:
            series = self._series[name] = _Series(self._limit)
        elif series.count and step < series.newest:
            raise TuneError(
                f"the steps of a signal never go down, got {name} at step {step} after step "
                f"{series.newest}; call truncate({step}) first when the run was rewound"
            )
        series.append(step, spent, value)

    def truncate(self, step: int) -> None:
        """Drop every point measured later than `step`: a rewind has abandoned that branch."""
        for series in self._series.values():
            series.truncate(step)

    def signals(self) -> Mapping[str, Signal]:
        """All signals by name, as they stand now."""
        return MappingProxyType({name: series.signal() for name, series in self._series.items()})

    def state_dict(self) -> dict[str, Any]:
        """A float64 tensor (3, points) a signal, with its steps, spents and values in the rows."""
        return {name: series.to_tensor() for name, series in self._series.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace everything by what `state_dict` returned."""
        self._series = {name: _Series.from_tensor(rows, self._limit) for name, rows in state.items()}


class _Series:
    """One signal: arrays that grow by doubling; only places that no view covers are ever written."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.count = 0
        self.newest = 0
        self._signal: Signal | None = None
        self._allocate(min(64, limit))

    def append(self, step: int, spent: int, value: float) -> None:
        count = self.count
        if count == len(self._values):
            self._keep(count // 2 if count == self._limit else 0, count)
            count = self.count
        self._steps[count] = step
        self._spents[count] = spent
        self._values[count] = value
        self.newest = step
        self.count = count + 1
        self._signal = None

    def truncate(self, step: int) -> None:
        kept = int(self._steps[: self.count].searchsorted(step, side="right"))
        if kept < self.count:
            self._keep(0, kept)

    def signal(self) -> Signal:
        if self._signal is None:
            steps, spents, values = self._views
            count = self.count
            self._signal = Signal(steps[:count], spents[:count], values[:count])
        return self._signal

    def to_tensor(self) -> torch.Tensor:
        signal = self.signal()
        return torch.from_numpy(np.stack([signal.step, signal.spent, signal.value]).astype(np.float64))

    @classmethod
    def from_tensor(cls, rows: torch.Tensor, limit: int) -> _Series:
        series = cls(limit)
        for step, spent, value in rows.t().tolist():
            series.append(int(step), int(spent), value)
        return series

    def _keep(self, start: int, stop: int) -> None:
        """Move the points from `start` to `stop` into new arrays: views of the old ones stay as they are."""
        old = self._steps, self._spents, self._values
        kept = stop - start
        self._allocate(min(max(64, 2 * kept), self._limit))
        for array, source in zip((self._steps, self._spents, self._values), old, strict=True):
            array[:kept] = source[start:stop]
        self.count = kept
        self.newest = int(self._steps[kept - 1]) if kept else 0

    def _allocate(self, size: int) -> None:
        self._steps: NDArray[np.int64] = np.empty(size, np.int64)
        self._spents: NDArray[np.int64] = np.empty(size, np.int64)
        self._values: NDArray[np.float64] = np.empty(size, np.float64)
        self._views = tuple(map(_read_only, (self._steps, self._spents, self._values)))
        self._signal = None


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view
