"""How far one step moves the weights, relative to their size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .sensor import Gradients, Parameters, Readings, Sensor, sum_by


class UpdateRatio(Sensor):
    """‖Δw‖ / ‖w‖ of one step, `update_ratio`, and of each layer group, `update_ratio/<group>`.

    w are the weights before the step of the parameters that have a gradient. Both norms are taken over the
    same fixed subset of coordinates (`Subset`), exact for tensors of up to 2,048 and with a standard error of
    2 % to a few per cent for a single larger one; so no copy of the weights is kept. Weights that are all
    zero and do not move have ratio 0, those that leave zero infinity.
    """

    def prepare(self, parameters: Parameters) -> None:
        """See `Sensor.prepare`."""
        self._parameters = parameters
        self._before: tuple[tuple[int, ...], Tensor] | None = None

    @property
    def signals(self) -> tuple[str, ...]:
        """See `Sensor.signals`."""
        return "update_ratio", *(f"update_ratio/{group}" for group in self._parameters.groups)

    def before_step(self, gradients: Gradients) -> None:
        """See `Sensor.before_step`."""
        self._before = gradients.which, gradients.weights

    def after_step(self, step: int, examples: int) -> Readings | None:
        """See `Sensor.after_step`."""
        if self._before is None:
            return None
        which, weights = self._before
        self._before = None
        subset = self._parameters.subset
        moved = subset.take(self._parameters.tensors) - weights
        names, index = self._parameters.totals("update_ratio", which)
        weight = sum_by(index, subset.squares(weights, which))
        update = sum_by(index, subset.squares(moved, which))
        return Readings(names, torch.where(update == 0, 0.0, (update / weight).sqrt()))

    def state_dict(self) -> dict[str, Any]:
        """Empty: it has no memory beyond one step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Forget a step that was begun."""
        self._before = None
