"""Fine-tuning: a network pretrained on the digits 0 to 4 learns 5 to 9, its features frozen at first."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer

from autotune.actuators import frozen_layers
from autotune.hyperparameters import Hyperparameter

from .data import digits
from .supervised import Batches, OptimizerName, Supervised, split

BATCH, PROBE, HELD_OUT = 32, 128, 320
PRETRAINING = 300  # steps


class FineTuning(Supervised):
    """How many of the hidden layers are frozen is a hyperparameter; all are, until a policy changes it."""

    def hyperparameters(self, optimizer: Optimizer, *, scheduled: bool = False) -> list[Hyperparameter[Any]]:
        """See `Training.hyperparameters`."""
        *hidden, _ = self.model.children()
        frozen = frozen_layers(hidden, optimizer)
        return [*super().hyperparameters(optimizer, scheduled=scheduled), frozen]


@dataclass(frozen=True, slots=True)
class FineTuneDigits:
    """Two hidden layers of 128 from pretraining, a new head, and few examples.

    Args:
        optimizer: which.
        rate: see `Workload`.
        steps: see `Workload`.
        target: see `Workload`.
    """

    optimizer: OptimizerName = "adamw"
    rate: float = 1e-2
    steps: int = 600
    target: float = 0.38

    @property
    def name(self) -> str:
        """`fine-tune-digits-adamw`."""
        return f"fine-tune-digits-{self.optimizer}"

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`."""
        return (int((digits()[1] >= 5).sum()) - PROBE - 2 * HELD_OUT) // BATCH

    def begin(self, seed: int, device: torch.device) -> FineTuning:
        """See `Workload.begin`; the pretrained features are the same for each seed."""
        images, labels = digits()
        new = labels >= 5
        train, parts = split(images[new].to(device), labels[new].to(device) - 5, PROBE, HELD_OUT)
        body = copy.deepcopy(pretrained()).requires_grad_(False)
        torch.manual_seed(seed)
        model = nn.Sequential(*body, nn.Linear(128, 5)).to(device)
        decay = 0.01 if self.optimizer == "adamw" else 0.0
        return FineTuning(model, Batches(train, BATCH, seed), parts, self.optimizer, decay)


@functools.cache
def pretrained() -> nn.Sequential:
    """Two hidden layers that tell the digits 0 to 4 apart."""
    images, labels = digits()
    old = labels < 5
    torch.manual_seed(0)
    body = nn.Sequential(*(nn.Sequential(nn.Linear(n, 128), nn.ReLU()) for n in (64, 128)))
    model = nn.Sequential(body, nn.Linear(128, 5))
    optimizer = AdamW(model.parameters(), lr=1e-3)
    batches = Batches((images[old], labels[old]), 64, seed=0)
    for _ in range(PRETRAINING // len(batches)):
        for inputs, targets in batches:
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return body
