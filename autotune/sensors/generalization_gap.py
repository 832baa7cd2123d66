"""How much better the training loss is than the validation loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .loss import LossWindow
from .sensor import Parameters, Readings, Sensor


class GeneralizationGap(Sensor):
    """`generalization_gap`: how much higher the loss is on validation data than on training data.

    Measured whenever a validation loss is reported. Where `train/loss` was reported with it or just before,
    as by an `evaluate` that returns both, the gap is between these two, in eval mode on both sides. Elsewhere
    it is `validation/loss` minus the mean of the last `window` training losses; those are of training mode
    (dropout, augmentation), so that this gap may be negative.

    Args:
        window: losses, at least 1.
    """

    listens = ("loss", "train/loss", "validation/loss")
    signals = ("generalization_gap",)

    def __init__(self, window: int = 50) -> None:
        self._window = LossWindow(window)
        self._evaluated = LossWindow(1)

    def prepare(self, parameters: Parameters) -> None:
        """See `Sensor.prepare`."""
        self._device = parameters.device

    def reported(self, name: str, value: Tensor, due: bool) -> Readings | None:
        """See `Sensor.reported`."""
        if name != "validation/loss":
            (self._window if name == "loss" else self._evaluated).append(value)
            return None
        training = self._evaluated if len(self._evaluated) else self._window
        if not len(training):
            return None
        gap = value - training.tensor().mean()
        self._evaluated.clear()  # it belongs to this validation only
        return Readings(self.signals, gap.reshape(1))

    def state_dict(self) -> dict[str, Any]:
        """The window, and a training loss whose validation is still to come."""
        return {**self._window.state_dict(), "evaluated": self._evaluated.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Sensor.load_state_dict`."""
        self._window.load_state_dict(state, self._device)
        self._evaluated.load_state_dict(state["evaluated"], self._device)
