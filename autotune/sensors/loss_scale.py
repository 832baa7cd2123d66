"""The factor by which automatic mixed precision scales the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.amp import GradScaler

from .sensor import Gradients, Parameters, Readings, Sensor


def scale_of(scaler: GradScaler | None) -> Tensor | None:
    """The scaler's own tensor, which `get_scale` would synchronise to read; None before it is first used."""
    # A disabled scaler has no such tensor and would raise.
    return scaler._get_scale_async() if scaler is not None and scaler.is_enabled() else None


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
        scale = scale_of(self._scaler)
        if scale is None:
            return None
        return Readings(self.signals, scale.to(self._device, copy=True, non_blocking=True).reshape(1))

    def state_dict(self) -> dict[str, Any]:
        """Empty: it has no memory."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take back."""
