"""Whether the gradient still points against the last step: too short a step, or too long a one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .sensor import Gradients, Parameters, Readings, Sensor


class UpdateAlignment(Sensor):
    """`update_alignment`: the cosine between the gradient and the update of the step before, in [-1, 1].

    With g_t the gradient before step t and u_{t−1} = w_t − w_{t−1} what the optimizer did in the step before,
    g_t · u_{t−1} is the derivative of the loss with respect to the logarithm of that step's learning rate.
    Negative: the way that was taken still leads downhill, a longer step would have been better; positive: it
    led too far. It holds for every optimizer, since it is the update itself that is measured.

    Both are read at the fixed coordinates of `Subset`: where k of them are taken of large tensors, the
    standard error is about 1/√k. Without a movement the cosine is 0; where the gradient or the movement is
    not finite, NaN. Sparse gradients count as 0. In a step with a closure the gradient is still that of the
    step before, and the sign says nothing.

    Source: Baydin, Cornish, Martínez Rubio, Schmidt, Wood, "Online learning rate adaptation with
        hypergradient descent", ICLR 2018, arXiv:1703.04782, section 3; divided by both norms, which is what a
        rule that multiplies the rate needs.
    """

    signals = ("update_alignment",)
    looks_back = True

    def prepare(self, parameters: Parameters) -> None:
        """See `Sensor.prepare`."""
        self._parameters = parameters
        self._before: Tensor | None = None

    def step_before(self, gradients: Gradients) -> None:
        """See `Sensor.step_before`."""
        self._before = gradients.weights

    def before_step(self, gradients: Gradients) -> Readings | None:
        """See `Sensor.before_step`."""
        if self._before is None:
            return None
        gradient, update = gradients.coordinates, (gradients.weights - self._before).float()
        self._before = None
        shares = self._parameters.subset.each(gradients.which)
        weighted = shares * gradient
        inner = torch.dot(weighted, update)
        length = torch.dot(weighted, gradient).sqrt() * torch.dot(shares * update, update).sqrt()
        cosine = torch.where(length == 0, 0.0, (inner / length).clamp(-1, 1))
        return Readings(self.signals, torch.where(length.isfinite(), cosine, torch.nan).reshape(1))

    def state_dict(self) -> dict[str, Any]:
        """The weights before the step that is behind, where the next one is sampled."""
        return {"before": None if self._before is None else self._before.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Sensor.load_state_dict`."""
        before = state["before"]
        # sync: on resume only, a rewind stays on the device
        self._before = None if before is None else before.to(self._parameters.device, copy=True)
