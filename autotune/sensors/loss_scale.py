"""The factor by which automatic mixed precision scales the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.amp import GradScaler

from .sensor import Gradients, Parameters, Readings, Sensor


class LossScale(Sensor):
    """`loss_scale`: the gradient scaler's factor in this step; it falls when gradients overflow.

    Args:
        scaler: the loop's own; a disabled one has no signal.
    """

    def __init__(self, scaler: GradScaler) -> None:
        self._scaler = scaler

    @property
    def signals(self) -> tuple[str, ...]:
        """See `Sensor.signals`."""
        return ("loss_scale",) if self._scaler.is_enabled() else ()

    def prepare(self, parameters: Parameters) -> None:
        """See `Sensor.prepare`."""
        self._device = parameters.device

    def before_step(self, gradients: Gradients) -> Readings | None:
        """See `Sensor.before_step`."""
        scale = self._scaler._get_scale_async()  # get_scale() would synchronise
        if scale is None:
            return None
        return Readings(self.signals, scale.to(self._device, copy=True, non_blocking=True).reshape(1))

    def state_dict(self) -> dict[str, Any]:
        """Empty: it has no memory."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take back."""
