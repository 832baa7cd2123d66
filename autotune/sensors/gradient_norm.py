"""The norm of the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .sensor import Gradients, Parameters, Readings, Sensor, sum_by


class GradientNorm(Sensor):
    """Euclidean norm of the gradient, `gradient_norm`, and of each layer group's, `gradient_norm/<group>`.

    As the optimizer gets it: unscaled under automatic mixed precision, and after clipping where the loop
    itself clips.
    """

    def prepare(self, parameters: Parameters) -> None:
        """See `Sensor.prepare`."""
        self._parameters = parameters

    @property
    def signals(self) -> tuple[str, ...]:
        """See `Sensor.signals`."""
        return "gradient_norm", *(f"gradient_norm/{group}" for group in self._parameters.groups)

    def before_step(self, gradients: Gradients) -> Readings:
        """See `Sensor.before_step`."""
        names, index = self._parameters.totals("gradient_norm", gradients.which)
        return Readings(names, sum_by(index, gradients.norms.square()).sqrt())

    def state_dict(self) -> dict[str, Any]:
        """Empty: it has no memory."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take back."""
