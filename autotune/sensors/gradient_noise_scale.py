"""The gradient noise scale, from the gradient of one micro-batch against that of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .sensor import Gradients, Parameters, Readings, Sensor


class GradientNoiseScale(Sensor):
    """`gradient_noise_scale`, in micro-batches, and `gradient_noise_scale/examples`, in examples.

    The batch size at which noise and signal in the gradient are equal; far below it a larger batch makes
    each step better, far above it a larger batch is wasted. Measured only where gradients are accumulated
    over n ≥ 2 micro-batches (equal in size), by the two unbiased estimates of McCandlish et al. 2018,
    appendix A.1, with B_small = 1 and B_big = n micro-batches:

        |G|² = (n |G_big|² − |G_small|²) / (n − 1)        S = (|G_small|² − |G_big|²) / (1 − 1/n)

    where G_small is the gradient after the first backward pass and G_big the accumulated one over n. Both are
    averaged exponentially and the noise scale is S / |G|², the ratio of the averages. A factor common to all
    micro-batches cancels, so it does not matter whether the loop divides the loss by n.

    Infinite where no signal stands out of the noise (the average of |G|² is not positive), NaN on a step
    whose gradients are not finite; such a step is kept out of the averages. Clipping in the user's own loop
    comes between the two gradients: while it binds, the value is too low.

    Args:
        decay: weight of the past in the averages, in (0, 1).

    Source: McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch Training", arXiv:1812.06162.
    """

    signals = ("gradient_noise_scale", "gradient_noise_scale/examples")

    def __init__(self, decay: float = 0.95) -> None:
        self._decay = decay

    def prepare(self, parameters: Parameters) -> None:
        """See `Sensor.prepare`."""
        self._averages = torch.zeros(2, device=parameters.device)  # |G|², S; the missing start cancels
        self._gradient: Tensor | None = None
        self._version = 0
        self._micro_batches = 0
        self._small = self._averages[0]

    def micro_batch(self, gradients: Gradients) -> None:
        """See `Sensor.micro_batch`."""
        probe = _probe(gradients)
        if probe is not self._gradient:  # a new tensor: gradients were set to None, accumulation starts
            self._gradient, self._micro_batches, self._small = probe, 1, gradients.square
        elif probe._version != self._version:
            self._micro_batches += 1
        self._version = probe._version

    def before_step(self, gradients: Gradients) -> Readings | None:
        """See `Sensor.before_step`."""
        probe, started = _probe(gradients), self._gradient
        self._gradient = None
        if probe is not started or probe._version == self._version:
            return None
        n, small = self._micro_batches + 1, self._small
        big = gradients.square / n**2
        sample = torch.stack([(n * big - small) / (n - 1), (small - big) / (1 - 1 / n)])
        finite = sample.isfinite().all()
        self._averages.lerp_(torch.where(finite, sample, self._averages), 1 - self._decay)
        signal, noise = self._averages.clamp(min=0)
        scale = torch.where(finite, torch.where(noise == 0, 0.0, noise / signal), torch.nan)
        if gradients.examples is None:
            return Readings(self.signals[:1], scale.reshape(1))
        return Readings(self.signals, torch.stack([scale, scale * gradients.examples]))

    def state_dict(self) -> dict[str, Any]:
        """The two averages."""
        return {"averages": self._averages.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Sensor.load_state_dict`."""
        self._averages.copy_(state["averages"])
        self._gradient = None


def _probe(gradients: Gradients) -> Tensor:
    """The smallest gradient: whether it is still the same tensor tells whether the loop has zeroed it."""
    return min(gradients.tensors, key=Tensor.numel)
