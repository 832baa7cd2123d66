"""A variational autoencoder of the digits (Kingma & Welling 2014)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from torch.optim import Optimizer

from ..suites.workload import Part, Training
from .supervised import Batch, Batches, Kind, make_optimizer, split


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
        """The negative evidence lower bound, in nats an image: a scalar."""
        mean, scale = self.encoder(images).chunk(2, dim=1)
        deviation = softplus(scale) + 1e-4
        logits = self.decoder(mean + deviation * noise)
        bits = binary_cross_entropy_with_logits(logits, images, reduction="none").sum(1)
        divergence = 0.5 * (mean**2 + deviation**2 - 1 - 2 * deviation.log()).sum(1)
        out: Tensor = (bits + divergence).mean()
        return out


@dataclass(slots=True)
class Autoencoding(Training):
    """Maximise the evidence lower bound."""

    model: VAE
    batches: Batches
    parts: Mapping[Part, Batch]
    kind: Kind
    latents: int

    def optimizer(self, rate: float, weight_decay: float | None = None) -> Optimizer:
        """See `Training.optimizer`."""
        return make_optimizer(self.kind, self.model, rate, weight_decay or 0.0)

    def loss(self, batch: Batch) -> Tensor:
        """See `Training.loss`."""
        noise = torch.randn(len(batch[0]), self.latents, device=batch[0].device)
        out: Tensor = self.model(batch[0], noise)
        return out

    @torch.no_grad()
    def evaluate(self, part: Part) -> float:
        """See `Training.evaluate`; with the same noise each time."""
        images = self.parts[part][0]
        noise = torch.randn(len(images), self.latents, generator=torch.Generator().manual_seed(0))
        loss: Tensor = self.model(images, noise.to(images.device))
        return loss.item()  # sync: evaluated


@dataclass(frozen=True, slots=True)
class DigitsVAE:
    """Eight latent dimensions, RMSprop."""

    kind: Kind = "rmsprop"
    rate: float = 1e-3
    steps: int = 1000
    latents: int = 8

    @property
    def name(self) -> str:
        """`digits-vae-rmsprop`."""
        return f"digits-vae-{self.kind}"

    def begin(self, seed: int, device: torch.device) -> Autoencoding:
        """See `Workload.begin`."""
        images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
        train, parts = split(images.float().to(device) / 16, labels.to(device), 300, seed)
        torch.manual_seed(seed)
        model = VAE(64, 128, self.latents).to(device)
        return Autoencoding(model, Batches(train, 64, seed), parts, self.kind, self.latents)
