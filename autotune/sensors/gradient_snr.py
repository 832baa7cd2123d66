"""The signal-to-noise ratio of the gradient over recent steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .sensor import Gradients, Parameters, Readings, Sensor


class GradientSNR(Sensor):
    """`gradient_snr`: ‖E g‖² / tr Var g, a ratio of powers, over a moving window of sampled steps.

    Mean and variance are exponential averages with bias correction (West 1979's incremental update with
    weights α_t = (1 − β) / (1 − βᵗ)). Both are unbiased: with r the sum of the squared normalised weights,
    the variance is divided by 1 − r and r times it is taken off the square of the mean, so that pure noise
    gives 0 and not r. What the mean gradient drifts within the window counts as noise.

    It sees the fixed subset of coordinates of `Subset`. A parameter without a gradient counts as gradient 0;
    sparse gradients are left out. A step whose gradient is not finite reads NaN and is kept out of the
    averages. From the second sample on.

    Args:
        decay: β, the weight of the past, in (0, 1); 0.95 looks back some 20 samples.

    Source: variance with exponential weights, D. H. D. West, "Updating mean and variance estimates", CACM 22
        (1979); the ratio as in McCandlish et al. 2018, equation 2.9, whose simple noise scale is its inverse.
    """

    signals = ("gradient_snr",)

    def __init__(self, decay: float = 0.95) -> None:
        self._decay = decay

    def prepare(self, parameters: Parameters) -> None:
        """See `Sensor.prepare`."""
        self._shares = parameters.subset.each(tuple(range(len(parameters.tensors))))
        self._mean = torch.zeros_like(self._shares)
        self._variance = torch.zeros_like(self._mean)
        self._count = self._shares.new_zeros(())
        self._calls = 0

    def before_step(self, gradients: Gradients) -> Readings | None:
        """See `Sensor.before_step`."""
        gradient = gradients.coordinates
        finite = torch.dot(gradient, gradient).isfinite()
        self._count += finite
        past = self._decay**self._count
        weight = torch.where(finite, (1 - self._decay) / (1 - past), 0.0)
        difference = torch.where(finite, gradient - self._mean, 0.0)
        self._mean.addcmul_(difference, weight)
        self._variance.addcmul_(difference, difference * weight).mul_(1 - weight)
        self._calls += 1
        if self._calls < 2:
            return None
        squared_weights = (1 - self._decay) / (1 + self._decay) * (1 + past) / (1 - past)  # Σ α², normalised
        noise = torch.dot(self._shares, self._variance) / (1 - squared_weights)
        power = torch.dot(self._shares, self._mean.square()) - squared_weights * noise
        ratio = torch.where(finite, power.clamp(min=0) / noise, torch.nan)
        return Readings(self.signals, ratio.reshape(1))

    def state_dict(self) -> dict[str, Any]:
        """Both averages and the number of samples in them."""
        return {
            "mean": self._mean.clone(),
            "variance": self._variance.clone(),
            "count": self._count.clone(),
            "calls": self._calls,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Sensor.load_state_dict`."""
        self._mean.copy_(state["mean"])
        self._variance.copy_(state["variance"])
        self._count.copy_(state["count"])
        self._calls = state["calls"]
