"""How much better the training loss is than the validation loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .loss import LossWindow
from .sensor import Parameters, Readings, Sensor


class GeneralizationGap(Sensor):
    """`generalization_gap`: `validation/loss` minus the mean of the last `window` training losses.

    Measured whenever a validation loss is reported after a training loss. The training losses are those of
    training mode (dropout, augmentation), so the gap may be negative.

    Args:
        window: losses, at least 1.
    """

    listens = ("loss", "validation/loss")
    signals = ("generalization_gap",)

    def __init__(self, window: int = 50) -> None:
        self._window = LossWindow(window)

    def prepare(self, parameters: Parameters) -> None:
        """See `Sensor.prepare`."""
        self._device = parameters.device

    def reported(self, name: str, value: Tensor, due: bool) -> Readings | None:
        """See `Sensor.reported`."""
        if name == "loss":
            self._window.append(value)
            return None
        if not len(self._window):
            return None
        return Readings(self.signals, (value - self._window.tensor().mean()).reshape(1))

    def state_dict(self) -> dict[str, Any]:
        """The window."""
        return self._window.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Sensor.load_state_dict`."""
        self._window.load_state_dict(state, self._device)
