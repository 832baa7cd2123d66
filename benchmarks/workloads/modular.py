"""Modular addition (Power et al. 2022): the network memorises first and understands late, or never."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .supervised import Batches, OptimizerName, Supervised, split

BATCH, PROBE, HELD_OUT = 256, 300, 600


class Pair(nn.Module):
    """An MLP on the sum of two embeddings.

    Args:
        modulus: how many symbols.
        width: of the embedding; the hidden layer has twice as much.
    """

    def __init__(self, modulus: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(modulus, width)
        self.body = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, modulus))

    def forward(self, pairs: Tensor) -> Tensor:
        """Logits (n, modulus) of pairs (n, 2)."""
        out: Tensor = self.body(self.embed(pairs).sum(1))
        return out


@dataclass(frozen=True, slots=True)
class ModularAddition:
    """(a + b) mod `modulus` from 57 % of all pairs, with strong weight decay.

    The network adds up embeddings, so (a, b) and (b, a) are the same to it: only one of them is there.

    Args:
        modulus: a prime.
        optimizer: which.
        rate: see `Workload`.
        steps: see `Workload`.
        target: see `Workload`.
    """

    modulus: int = 83
    optimizer: OptimizerName = "adamw"
    rate: float = 1e-2
    steps: int = 2000
    target: float = 0.12

    @property
    def name(self) -> str:
        """`modular-addition-adamw`."""
        return f"modular-addition-{self.optimizer}"

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`."""
        return (self.modulus * (self.modulus + 1) // 2 - PROBE - 2 * HELD_OUT) // BATCH

    def begin(self, seed: int, device: torch.device) -> Supervised:
        """See `Workload.begin`."""
        numbers = torch.arange(self.modulus)
        pairs = torch.combinations(numbers, with_replacement=True).to(device)
        train, parts = split(pairs, pairs.sum(1) % self.modulus, PROBE, HELD_OUT)
        torch.manual_seed(seed)
        model = Pair(self.modulus, 64).to(device)
        return Supervised(model, Batches(train, BATCH, seed), parts, self.optimizer, weight_decay=1.0)
