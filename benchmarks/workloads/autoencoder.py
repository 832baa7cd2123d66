"""A variational autoencoder of the digits (Kingma & Welling 2014)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from torch.special import entr

from .data import digits
from .supervised import Batch, Batches, OptimizerName, Supervised, split

BATCH, PROBE, HELD_OUT = 64, 128, 400


class VAE(nn.Module):
    """Gaussian latents, Bernoulli pixels.

    Args:
        pixels: of an image.
        width: of the hidden layers.
        latents: dimensions.
    """

    def __init__(self, pixels: int, width: int, latents: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, width), nn.Tanh(), nn.Linear(width, 2 * latents))
        self.decoder = nn.Sequential(nn.Linear(latents, width), nn.Tanh(), nn.Linear(width, pixels))

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """The negative evidence lower bound in nats an image, above the entropy of grey pixels: a scalar.

        That entropy is a constant which no model goes below, and without which losses compare better.

        Args:
            images: (n, pixels), in [0, 1].
            noise: (n, latents), standard normal.
        """
        mean, scale = self.encoder(images).chunk(2, dim=1)
        deviation = softplus(scale) + 1e-4
        logits = self.decoder(mean + deviation * noise)
        bits = binary_cross_entropy_with_logits(logits, images, reduction="none").sum(1)
        bits = bits - (entr(images) + entr(1 - images)).sum(1)
        divergence = 0.5 * (mean**2 + deviation**2 - 1 - 2 * deviation.log()).sum(1)
        out: Tensor = (bits + divergence).mean()
        return out


class Autoencoding(Supervised):
    """Maximise the evidence lower bound; the targets of a batch are the noise of its latents."""

    def measure(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """See `Supervised.measure`."""
        return model(*batch)


@dataclass(frozen=True, slots=True)
class DigitsVAE:
    """Eight latent dimensions.

    Args:
        optimizer: which.
        rate: see `Workload`.
        steps: see `Workload`.
        target: see `Workload`.
        latents: dimensions.
    """

    optimizer: OptimizerName = "rmsprop"
    rate: float = 1e-3
    steps: int = 500
    target: float = 11.7
    latents: int = 8

    @property
    def name(self) -> str:
        """`digits-vae-rmsprop`."""
        return f"digits-vae-{self.optimizer}"

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`."""
        return (len(digits()[0]) - PROBE - 2 * HELD_OUT) // BATCH

    def begin(self, seed: int, device: torch.device) -> Autoencoding:
        """See `Workload.begin`."""
        images = digits()[0]
        noise = torch.randn(len(images), self.latents, generator=torch.Generator().manual_seed(0))
        train, parts = split(images.to(device), noise.to(device), PROBE, HELD_OUT)
        torch.manual_seed(seed)
        model = VAE(64, 128, self.latents).to(device)
        return Autoencoding(model, Batches(train, BATCH, seed, fresh_noise), parts, self.optimizer)


def fresh_noise(batch: Batch, generator: torch.Generator) -> Batch:
    """The batch with other noise; that of the parts which are evaluated stays."""
    images, noise = batch
    fresh = torch.randn(noise.shape, generator=generator)
    return images, fresh.to(noise.device, non_blocking=True)
