"""Byte-level language modelling by an LSTM: truncated backpropagation in time, its state carried over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autotune.actuators import sequence_length
from autotune.hyperparameters import Hyperparameter

from .data import text
from .language import BYTES, TextName, divide, evaluated, next_byte, windows
from .supervised import Batch, OptimizerName, Supervised

SHORTEST = 4
"""Positions that gradients flow back at the least."""
SPAN = 4
"""Windows of training that one of evaluation is long: it begins without a state."""


class Lanes:
    """A text cut into lanes that are read side by side: each batch goes on where the last one ended.

    Args:
        part: uint8 (n,).
        size: lanes, the rows of a batch.
        length: positions of a batch.
        seed: of where a pass begins.
    """

    def __init__(self, part: Tensor, size: int, length: int, seed: int) -> None:
        self._part, self.size, self._length = part, size, length
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return (len(self._part) - 1) // self.size // self._length - 1  # the last may have been shifted out

    def __iter__(self) -> Iterator[Batch]:
        """The text once, but for what is left over at the lanes' ends."""
        shift = int(torch.randint(self._length, (1,), generator=self.generator))
        lane = (len(self._part) - 1) // self.size
        starts = shift + lane * torch.arange(self.size, device=self._part.device)
        for i in range(len(self)):
            yield windows(self._part, starts + i * self._length, self._length)


class Recurrent(nn.Module):
    """An LSTM over bytes; in training mode it begins with the state in which the last batch left it.

    The state is in buffers, so that a rewind restores it with the model.

    Args:
        width: of embedding and state.
        layers: how many.
        lanes: rows of a training batch.
    """

    hidden: Tensor
    cell: Tensor

    def __init__(self, width: int, layers: int, lanes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(BYTES, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, BYTES)
        for name in ("hidden", "cell"):
            self.register_buffer(name, torch.zeros(layers, lanes, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, length, 256) of tokens (batch, length)."""
        before = (self.hidden.clone(), self.cell.clone()) if self.training else None
        states, (hidden, cell) = self.lstm(self.embed(tokens), before)
        if self.training:
            with torch.no_grad():
                self.hidden.copy_(hidden)
                self.cell.copy_(cell)
        out: Tensor = self.head(states)
        return out


class Carried(Supervised):
    """How far gradients flow back is a hyperparameter, `sequence_length`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.probe_cost *= SPAN  # its windows are so much longer than those of a step

    def hyperparameters(self, optimizer: Optimizer, *, scheduled: bool = False) -> list[Hyperparameter[Any]]:
        """See `Training.hyperparameters`."""
        longest = self.parts["probe"][0].shape[1] // SPAN
        length = sequence_length(longest, low=SHORTEST)
        return [*super().hyperparameters(optimizer, scheduled=scheduled), length]


@dataclass(frozen=True, slots=True)
class LanguageLSTM:
    """The next byte of a text; the loss is in nats a byte.

    Args:
        source: see `data.text`.
        optimizer: which.
        rate: see `Workload`.
        steps: see `Workload`.
        target: see `Workload`.
        width: of the model.
        layers: of the model.
        length: of a batch, in bytes: as far as gradients flow back.
        batch: lanes.
        probe: windows that the probe has.
        held_out: windows that selection and test have each.
        fast: bfloat16; cuDNN's LSTM is not compiled.
    """

    source: TextName = "stdlib"
    optimizer: OptimizerName = "adamw"
    rate: float = 1e-2
    steps: int = 400
    target: float = 2.16
    width: int = 48
    layers: int = 1
    length: int = 32
    batch: int = 16
    probe: int = 32
    held_out: int = 32
    fast: bool = False

    @property
    def name(self) -> str:
        """`stdlib-lstm-adamw`."""
        return f"{self.source}-lstm-{self.optimizer}"

    @property
    def needs(self) -> str | None:
        """The folder of its data, see `data.folder`; None: it needs none."""
        return None if self.source == "stdlib" else self.source

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`."""
        return len(Lanes(divide(text(self.source))[0], self.batch, self.length, seed=0))

    def begin(self, seed: int, device: torch.device) -> Carried:
        """See `Workload.begin`."""
        train, held_out = divide(text(self.source).to(device))
        parts = evaluated(held_out, self.probe, self.held_out, SPAN * self.length)
        torch.manual_seed(seed)
        model = Recurrent(self.width, self.layers, self.batch).to(device)
        lanes = Lanes(train, self.batch, self.length, seed)
        decay = 0.01 if self.optimizer == "adamw" else 0.0
        return Carried(model, lanes, parts, self.optimizer, decay, next_byte, self.fast)
