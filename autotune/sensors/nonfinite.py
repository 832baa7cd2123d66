"""How many gradients are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .sensor import Gradients, Parameters, Readings, Sensor


class NonFinite(Sensor):
    """`nonfinite`: parameter tensors whose gradient holds a NaN or an infinity.

    Counted from the norm of each tensor, which costs nothing more; a norm that overflows float32 (above
    1.8e19) counts too.
    """

    signals = ("nonfinite",)

    def prepare(self, parameters: Parameters) -> None:
        """See `Sensor.prepare`."""

    def before_step(self, gradients: Gradients) -> Readings:
        """See `Sensor.before_step`."""
        return Readings(self.signals, gradients.norms.isfinite().logical_not().sum().float().reshape(1))

    def state_dict(self) -> dict[str, Any]:
        """Empty: it has no memory."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take back."""
