"""Regression on an ill-conditioned teacher network: curvatures over four decades, plain SGD."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import mse_loss

from .supervised import Batches, Kind, Supervised, split


@dataclass(frozen=True, slots=True)
class TeacherStudent:
    """A tanh teacher of 16 units on 32 inputs whose scales span a factor of 100; a student of 64 units."""

    kind: Kind = "sgd"
    rate: float = 0.03
    steps: int = 1000

    @property
    def name(self) -> str:
        """`teacher-student-sgd`."""
        return f"teacher-student-{self.kind}"

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`."""
        return 62

    @property
    def target(self) -> float:
        """See `Workload.target`."""
        return 0.1

    def begin(self, seed: int, device: torch.device) -> Supervised:
        """See `Workload.begin`."""
        torch.manual_seed(seed)
        inputs = torch.randn(5500, 32) * torch.logspace(-1, 1, 32)
        teacher = nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 1))
        with torch.no_grad():
            clean = teacher(inputs)
            targets = (clean - clean.mean()) / clean.std() + 0.1 * torch.randn(5500, 1)
        train, parts = split(inputs.to(device), targets.to(device), 500, seed)
        torch.manual_seed(seed + 1)
        student = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 1)).to(device)
        return Supervised(student, Batches(train, 64, seed), parts, self.kind, criterion=mse_loss)
