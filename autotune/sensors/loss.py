"""Mean and variance of the training loss."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .sensor import Parameters, Readings, Sensor


class LossWindow:
    """The last `size` losses, on the device."""

    def __init__(self, size: int) -> None:
        self._losses: deque[Tensor] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._losses)

    def append(self, loss: Tensor) -> None:
        """Add one loss, 0-dim."""
        self._losses.append(loss)

    def clear(self) -> None:
        """Forget them."""
        self._losses.clear()

    def tensor(self) -> Tensor:
        """A new tensor (len(self),), oldest first, float32 or wider."""
        losses = torch.stack(tuple(self._losses))
        return losses.to(torch.promote_types(losses.dtype, torch.float32))

    def state_dict(self) -> dict[str, Any]:
        """The losses."""
        return {"losses": self.tensor() if self._losses else torch.empty(0)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take the losses back."""
        self._losses.clear()
        losses = state["losses"].to(device, copy=True)  # sync: on resume only, a rewind stays on the device
        self._losses.extend(losses.unbind())


class LossStatistics(Sensor):
    """`loss_mean` and `loss_variance` (unbiased) of the last `window` losses; the variance from two on.

    Args:
        window: losses, at least 2.
    """

    listens = ("loss",)
    signals = ("loss_mean", "loss_variance")

    def __init__(self, window: int = 50) -> None:
        self._window = LossWindow(window)

    def prepare(self, parameters: Parameters) -> None:
        """See `Sensor.prepare`."""
        self._device = parameters.device

    def reported(self, name: str, value: Tensor, due: bool) -> Readings | None:
        """See `Sensor.reported`."""
        self._window.append(value)
        if not due:
            return None
        losses = self._window.tensor()
        if len(losses) == 1:
            return Readings(self.signals[:1], losses)
        return Readings(self.signals, torch.stack([losses.mean(), losses.var()]))

    def state_dict(self) -> dict[str, Any]:
        """The window."""
        return self._window.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Sensor.load_state_dict`."""
        self._window.load_state_dict(state, self._device)
