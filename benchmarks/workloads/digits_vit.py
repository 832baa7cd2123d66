"""Handwritten digits by a vision transformer: what a core trains in two seconds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .data import digits
from .supervised import Batches, OptimizerName, Supervised, split
from .vision import ViT

BATCH, PROBE, HELD_OUT = 32, 128, 400


@dataclass(frozen=True, slots=True)
class DigitsViT:
    """Two layers of 32 on the 16 patches of an image.

    Args:
        optimizer: which.
        rate: see `Workload`.
        steps: see `Workload`.
        target: see `Workload`.
    """

    optimizer: OptimizerName = "adamw"
    rate: float = 3e-3
    steps: int = 400
    target: float = 0.29

    @property
    def name(self) -> str:
        """`digits-vit-adamw`."""
        return f"digits-vit-{self.optimizer}"

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`."""
        return (len(digits()[0]) - PROBE - 2 * HELD_OUT) // BATCH

    def begin(self, seed: int, device: torch.device) -> Supervised:
        """See `Workload.begin`."""
        images, labels = (part.to(device) for part in digits())
        train, parts = split(images.view(-1, 1, 8, 8), labels, PROBE, HELD_OUT)
        torch.manual_seed(seed)
        model = ViT(width=32, layers=2, patch=2, channels=1, side=8).to(device)
        decay = 0.05 if self.optimizer == "adamw" else 0.0
        return Supervised(model, Batches(train, BATCH, seed), parts, self.optimizer, decay)
