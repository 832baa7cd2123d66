"""How long a step takes, and how many examples pass in a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .sensor import Parameters, Readings, Sensor


class StepTime(Sensor):
    """`step_time` in seconds and `samples_per_second`, means over the steps since the last sample.

    The host's clock between optimizer steps: where kernels are asynchronous it is the device's pace as soon
    as its queue is full, because the host then waits for it. The first stretch, with its compilation and
    warm-up, is not counted, nor is time given to `exclude`.

    Args:
        clock: seconds, monotonic.
    """

    signals = ("step_time", "samples_per_second")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start: tuple[float, int, int] | None = None  # time, step, examples

    def prepare(self, parameters: Parameters) -> None:
        """See `Sensor.prepare`."""

    def exclude(self, seconds: float) -> None:
        """Leave out time that was spent on something else than steps: validation, a checkpoint."""
        if self._start is not None:
            began, step, examples = self._start
            self._start = began + seconds, step, examples

    def after_step(self, step: int, examples: int) -> Readings | None:
        """See `Sensor.after_step`."""
        now, start = self._clock(), self._start
        self._start = now, step, examples
        if start is None:
            return None
        seconds, steps, seen = now - start[0], step - start[1], examples - start[2]
        if not seen:
            return Readings(self.signals[:1], [seconds / steps])
        return Readings(self.signals, [seconds / steps, seen / seconds])

    def state_dict(self) -> dict[str, Any]:
        """Empty: time does not rewind."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start the stretch anew: the step that it began with may not have happened."""
        self._start = None
