"""Byte-level language models: a transformer, and an LSTM whose state is carried over (truncated BPTT)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from ..suites.workload import Part, Training
from .data import text
from .supervised import Kind, make_optimizer

BYTES = 256


class Windows:
    """Random windows of a text: int64 (batch, length + 1).

    Args:
        part: uint8 (n,).
        batch: windows at once.
        length: positions.
        seed: of where they begin.
    """

    def __init__(self, part: Tensor, batch: int, length: int, seed: int) -> None:
        self._part, self._batch, self._length = part, batch, length
        self._within = torch.arange(length + 1, device=part.device)
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Tensor]:
        """As many as cover the text once."""
        for _ in range(len(self._part) // (self._batch * self._length)):
            starts = torch.randint(len(self._part) - self._length, (self._batch, 1), generator=self.generator)
            yield self._part[starts.to(self._part.device) + self._within].long()


class Decoder(nn.Module):
    """A pre-norm transformer decoder over bytes.

    Args:
        width: of the residual stream.
        layers: how many.
        heads: a layer.
        length: longest context.
        dropout: of the residual branches.
    """

    def __init__(self, width: int, layers: int, heads: int, length: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(BYTES, width)
        self.position = nn.Embedding(length, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, BYTES, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, length, 256) of tokens (batch, length)."""
        length = tokens.shape[1]
        x = self.embed(tokens) + self.position.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        out: Tensor = self.head(self.norm(x))
        return out


class Recurrent(nn.Module):
    """An LSTM over bytes."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(BYTES, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, BYTES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, length, 256) of tokens (batch, length)."""
        out: Tensor = self.head(self.lstm(self.embed(tokens))[0])
        return out


@dataclass(slots=True)
class LanguageModelling(Training):
    """Predict the next byte; the loss is in nats a byte."""

    model: nn.Module
    batches: Windows
    parts: Mapping[Part, Tensor]
    kind: Kind

    def optimizer(self, rate: float, weight_decay: float | None = None) -> Optimizer:
        """See `Training.optimizer`."""
        usual = 0.1 if self.kind == "adamw" else 0.0
        return make_optimizer(self.kind, self.model, rate, usual if weight_decay is None else weight_decay)

    def loss(self, batch: Tensor) -> Tensor:
        """See `Training.loss`."""
        return cross_entropy(self.model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    @torch.no_grad()
    def evaluate(self, part: Part) -> float:
        """See `Training.evaluate`; the same windows each time."""
        training = self.model.training
        self.model.eval()
        loss = self.loss(self.parts[part]).item()  # sync: evaluated
        self.model.train(training)
        return loss


@dataclass(frozen=True, slots=True)
class Language:
    """A language model.

    Args:
        source: see `data.text`.
        model: what kind.
        kind: of the optimizer.
        rate: see `Workload`.
        steps: see `Workload`.
        width: of the model.
        layers: how many.
        length: of a window, in bytes.
        batch: windows.
        windows: that a part is evaluated on.
    """

    source: Literal["tinyshakespeare", "wikitext2", "stdlib"] = "stdlib"
    model: Literal["transformer", "lstm"] = "transformer"
    kind: Kind = "adamw"
    rate: float = 2e-3
    steps: int = 300
    width: int = 48
    layers: int = 2
    length: int = 64
    batch: int = 16
    windows: int = 64

    @property
    def name(self) -> str:
        """`stdlib-transformer`."""
        return f"{self.source}-{self.model}"

    def begin(self, seed: int, device: torch.device) -> LanguageModelling:
        """See `Workload.begin`."""
        data = text(self.source).to(device)
        tail = len(data) // 20
        train, held_out = data[: -3 * tail], data[-3 * tail :].split(tail)
        names: tuple[Part, ...] = ("probe", "selection", "test")
        parts: dict[Part, Any] = {}
        for name, part in zip(names, held_out, strict=True):
            starts = torch.linspace(0, len(part) - self.length - 2, self.windows).long()[:, None]
            parts[name] = part[(starts + torch.arange(self.length + 1)).to(device)].long()
        torch.manual_seed(seed)
        model: nn.Module = (
            Decoder(self.width, self.layers, max(1, self.width // 16), self.length)
            if self.model == "transformer"
            else Recurrent(self.width, self.layers)
        )
        batches = Windows(train, self.batch, self.length, seed)
        return LanguageModelling(model.to(device), batches, parts, self.kind)
