"""Modular addition (Power et al. 2022): the network memorises first and understands late, or never."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .supervised import Batches, Supervised, split


class Pair(nn.Module):
    """An MLP on the sum of two embeddings.

    Args:
        modulus: how many symbols.
        width: of embedding and hidden layer.
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
    """(a + b) mod 59 from about half of all pairs, AdamW with strong weight decay."""

    modulus: int = 59
    rate: float = 3e-3
    steps: int = 2000

    @property
    def name(self) -> str:
        """`modular-addition`."""
        return "modular-addition"

    def begin(self, seed: int, device: torch.device) -> Supervised:
        """See `Workload.begin`."""
        numbers = torch.arange(self.modulus)
        pairs = torch.cartesian_prod(numbers, numbers).to(device)
        train, parts = split(pairs, pairs.sum(1) % self.modulus, len(pairs) // 6, seed)
        torch.manual_seed(seed)
        model = Pair(self.modulus, 64).to(device)
        return Supervised(model, Batches(train, 256, seed), parts, "adamw", weight_decay=1.0)
