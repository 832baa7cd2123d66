"""Regression on an ill-conditioned teacher network: curvatures over four decades, SGD."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import mse_loss

from .supervised import Batches, OptimizerName, Supervised, split

BATCH, PROBE, HELD_OUT, TRAINED = 64, 200, 500, 4000


@dataclass(frozen=True, slots=True)
class TeacherStudent:
    """A tanh teacher of 16 units on 32 inputs whose scales span a factor of 100; a student of 64 units.

    Args:
        optimizer: which.
        rate: see `Workload`.
        steps: see `Workload`.
        target: see `Workload`.
    """

    optimizer: OptimizerName = "sgd"
    rate: float = 0.03
    steps: int = 1000
    target: float = 0.021

    @property
    def name(self) -> str:
        """`teacher-student-sgd`."""
        return f"teacher-student-{self.optimizer}"

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`."""
        return TRAINED // BATCH

    def begin(self, seed: int, device: torch.device) -> Supervised:
        """See `Workload.begin`; teacher and data are the same for each seed."""
        examples = PROBE + 2 * HELD_OUT + TRAINED
        torch.manual_seed(0)
        inputs = torch.randn(examples, 32) * torch.logspace(-1, 1, 32)
        teacher = nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 1))
        with torch.no_grad():
            clean = teacher(inputs)
        targets = (clean - clean.mean()) / clean.std() + 0.1 * torch.randn(examples, 1)
        train, parts = split(inputs.to(device), targets.to(device), PROBE, HELD_OUT)
        torch.manual_seed(seed)
        student = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 1)).to(device)
        return Supervised(student, Batches(train, BATCH, seed), parts, self.optimizer, criterion=mse_loss)
