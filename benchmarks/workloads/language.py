"""Byte-level language modelling by a transformer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..suites.workload import Part
from .attention import Block
from .data import text
from .supervised import Batch, OptimizerName, Supervised

BYTES = 256
TextName = Literal["stdlib", "tinyshakespeare", "wikitext2"]


class Windows:
    """Random windows of a text: inputs and targets, int64 (size, length).

    Args:
        part: uint8 (n,).
        size: windows a batch.
        length: positions.
        seed: of where they begin.
    """

    def __init__(self, part: Tensor, size: int, length: int, seed: int) -> None:
        self._part, self.size, self._length = part, size, length
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Batch]:
        """As many as cover the text once."""
        batches = len(self._part) // (self.size * self._length)
        last = len(self._part) - self._length
        starts = torch.randint(last, (batches, self.size), generator=self.generator)
        for rows in starts.to(self._part.device, non_blocking=True):
            yield windows(self._part, rows, self._length)


class Decoder(nn.Module):
    """A transformer decoder over bytes.

    Args:
        width: of the residual stream.
        layers: how many.
        length: longest context.
        dropout: of the residual branches.
    """

    def __init__(self, width: int, layers: int, length: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(BYTES, width)
        self.position = nn.Embedding(length, width)
        heads = max(2, width // 64)
        self.layers = nn.Sequential(
            *(Block(width, heads, causal=True, dropout=dropout) for _ in range(layers))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, BYTES, bias=False)
        for embedding in (self.embed, self.position):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, length, 256) of tokens (batch, length)."""
        x = self.embed(tokens) + self.position.weight[: tokens.shape[1]]
        out: Tensor = self.head(self.norm(self.layers(x)))
        return out


@dataclass(frozen=True, slots=True)
class LanguageTransformer:
    """The next byte of a text; the loss is in nats a byte.

    Args:
        source: see `data.text`.
        optimizer: which.
        rate: see `Workload`.
        steps: see `Workload`.
        target: see `Workload`.
        width: of the model, even, and a multiple of 64 from 128 on.
        layers: of the model.
        length: of a window, in bytes.
        batch: windows.
        probe: windows that the probe has.
        held_out: windows that selection and test have each.
        dropout: of the residual branches.
        fast: bfloat16 and compiled.
    """

    source: TextName = "stdlib"
    optimizer: OptimizerName = "adamw"
    rate: float = 3e-3
    steps: int = 400
    target: float = 2.46
    width: int = 32
    layers: int = 2
    length: int = 32
    batch: int = 12
    probe: int = 32
    held_out: int = 96
    dropout: float = 0.0
    fast: bool = False

    @property
    def name(self) -> str:
        """`stdlib-transformer-adamw`."""
        return f"{self.source}-transformer-{self.optimizer}"

    @property
    def needs(self) -> str | None:
        """The folder of its data, see `data.folder`; None: it needs none."""
        return None if self.source == "stdlib" else self.source

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`."""
        return len(divide(text(self.source))[0]) // (self.batch * self.length)

    def begin(self, seed: int, device: torch.device) -> Supervised:
        """See `Workload.begin`."""
        train, held_out = divide(text(self.source).to(device))
        parts = evaluated(held_out, self.probe, self.held_out, self.length)
        torch.manual_seed(seed)
        model = Decoder(self.width, self.layers, self.length, self.dropout).to(device)
        batches = Windows(train, self.batch, self.length, seed)
        decay = 0.1 if self.optimizer == "adamw" else 0.0
        return Supervised(model, batches, parts, self.optimizer, decay, next_byte, self.fast)


def divide(whole: Tensor) -> tuple[Tensor, dict[Part, Tensor]]:
    """The first 85 % of a text to train on, and three times 5 %."""
    twentieth = len(whole) // 20
    probe, selection, test = whole[-3 * twentieth :].split(twentieth)
    return whole[: -3 * twentieth], {"probe": probe, "selection": selection, "test": test}


def windows(part: Tensor, starts: Tensor, length: int) -> Batch:
    """Inputs and targets that begin at `starts` (n,) and one position later: int64 (n, length)."""
    rows = part[starts[:, None] + torch.arange(length + 1, device=part.device)].long()
    return rows[:, :-1], rows[:, 1:]


def evaluated(held_out: dict[Part, Tensor], probe: int, others: int, length: int) -> dict[Part, Batch]:
    """Windows at equal distances, the same each time: `probe` of that part, `others` of the other two."""
    parts: dict[Part, Batch] = {}
    for name, part in held_out.items():
        count = probe if name == "probe" else others
        starts = torch.linspace(0, len(part) - length - 1, count).long()
        parts[name] = windows(part, starts.to(part.device), length)
    return parts


def next_byte(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (batch, length, 256) and bytes (batch, length): the mean over positions."""
    return cross_entropy(logits.flatten(0, 1), targets.flatten())
