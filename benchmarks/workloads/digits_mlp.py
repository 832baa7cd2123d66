"""Handwritten digits (scikit-learn's 1,797 of 8 × 8) by a multilayer perceptron."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .data import digits
from .supervised import Batches, OptimizerName, Supervised, split

BATCH, PROBE, HELD_OUT = 64, 128, 400


@dataclass(frozen=True, slots=True)
class DigitsMLP:
    """Two hidden layers of 128.

    Args:
        optimizer: which.
        rate: see `Workload`.
        wrong_labels: part of the training labels that are drawn at random; the other parts are clean.
        activation: between the layers.
        steps: see `Workload`.
        target: see `Workload`.
    """

    optimizer: OptimizerName = "adamw"
    rate: float = 1e-3
    wrong_labels: float = 0.0
    activation: type[nn.Module] = nn.ReLU
    steps: int = 400
    target: float = 0.1

    @property
    def name(self) -> str:
        """`digits-mlp-adamw`."""
        noise = f"-noise{self.wrong_labels:g}" if self.wrong_labels else ""
        tanh = "" if self.activation is nn.ReLU else f"-{self.activation.__name__.lower()}"
        return f"digits-mlp-{self.optimizer}{tanh}{noise}"

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`."""
        return (len(digits()[0]) - PROBE - 2 * HELD_OUT) // BATCH

    def begin(self, seed: int, device: torch.device) -> Supervised:
        """See `Workload.begin`."""
        images, labels = (part.to(device) for part in digits())
        train, parts = split(images, labels, PROBE, HELD_OUT)
        random = torch.Generator().manual_seed(seed)
        wrong = torch.rand(len(train[1]), generator=random) < self.wrong_labels
        other = torch.randint(10, (len(train[1]),), generator=random)
        targets = torch.where(wrong.to(device), other.to(device), train[1])
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(64, 128), self.activation(), nn.Linear(128, 128), self.activation(), nn.Linear(128, 10)
        ).to(device)
        decay = 0.01 if self.optimizer == "adamw" else 0.0
        return Supervised(model, Batches((train[0], targets), BATCH, seed), parts, self.optimizer, decay)
