"""Proofs of growing: a head and then its features, a short sequence and then a long one."""

from __future__ import annotations

import argparse
import inspect
import subprocess
import tempfile
import typing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autotune import AutoTuner
from autotune.actuators import frozen_layers
from autotune.hyperparameters import Hyperparameter, IntHyperparameter
from autotune.policies.growing import GrowSequence
from autotune.policies.unfreezing import ProgressiveUnfreezing
from autotune.records import Policy
from autotune.testing import Task, TrainingPlant
from autotune.testing.fine_tuning import LAYERS, FineTuning, FineTuningPlant

from .proof import Plants, Proof, Real, Settings

SHOTS = 10  # examples of each new digit
SHORT, LONG = 4, 64  # characters
SEQUENCES = 32  # in a batch
TOKENS = 100 * SEQUENCES * LONG
MODULES = (argparse, inspect, subprocess, typing)
COST = 200.0  # of a simulated run, in steps at full length


def fine_tune_digits(seed: int, policies: Sequence[Policy], settings: Settings) -> float:
    """Fine-tune an MLP of digits 0 to 4 on ten examples each of 5 to 9, by 300 steps of AdamW.

    Both hidden layers are frozen at the start. Returns the test loss on the digits 5 to 9.

    Args:
        seed: of weights, examples and order.
        policies: what steers it.
        settings: `frozen_layers`, set before the first step.
    """
    digits, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    inputs = torch.from_numpy(digits[order] / 16).float()
    targets = torch.from_numpy(labels[order])
    old, new = targets < 5, targets >= 5
    torch.manual_seed(seed)
    body = nn.ModuleList([nn.Sequential(nn.Linear(n, 128), nn.ReLU()) for n in (64, 128)])
    model = nn.Sequential(*body, nn.Linear(128, 5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(400):
        _train(model, optimizer, inputs[old], targets[old], 64)

    inputs, targets = inputs[new], targets[new] - 5
    few = torch.cat([(targets == digit).nonzero()[:SHOTS, 0] for digit in range(5)])
    rest = torch.ones(len(targets), dtype=torch.bool).index_fill(0, few, False)
    model[2] = nn.Linear(128, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    frozen = frozen_layers(list(body), optimizer)
    frozen.write(int(settings.get("frozen_layers", 2)))
    with (
        tempfile.TemporaryDirectory() as folder,
        AutoTuner(
            model,
            optimizer,
            hyperparameters=[frozen],
            policies=policies,
            total_steps=300,
            folder=Path(folder) / "run",
            mlflow=False,
        ) as tuner,
    ):
        for _ in tuner.batches(range(300)):
            tuner.report(loss=_train(model, optimizer, inputs[few], targets[few], 16))
    with torch.no_grad():
        return cross_entropy(model(inputs[rest]), targets[rest]).item()


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor, size: int
) -> Tensor:
    """One step on a random batch; returns its loss."""
    batch = torch.randint(len(targets), (size,))
    loss = cross_entropy(model(inputs[batch]), targets[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def read_characters(seed: int, policies: Sequence[Policy], settings: Settings) -> float:
    """Train a character GRU on sources of the standard library with 204,800 characters, whatever the length.

    Returns the loss (nats a character) on a fifth of the text that is held out, at the full length of 64.

    Args:
        seed: of weights and order.
        policies: what steers it.
        settings: `sequence_length`, set before the first step; 4 without.
    """
    text = "".join(inspect.getsource(module) for module in MODULES).encode("ascii", "ignore")
    codes = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    train, held_out = codes[: len(codes) * 4 // 5], codes[len(codes) * 4 // 5 :]
    torch.manual_seed(seed)
    model = _Characters()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    length = IntHyperparameter(
        "sequence_length", int(settings.get("sequence_length", SHORT)), low=SHORT, high=LONG
    )

    def windows() -> Iterator[Tensor]:
        spent = 0
        while spent < TOKENS:
            starts = torch.randint(len(train) - LONG, (SEQUENCES, 1))
            spent += SEQUENCES * length()
            yield train[starts + torch.arange(length() + 1)]

    hyperparameters: list[Hyperparameter[Any]] = [length]
    with (
        tempfile.TemporaryDirectory() as folder,
        AutoTuner(
            model,
            optimizer,
            hyperparameters=hyperparameters,
            policies=policies,
            folder=Path(folder) / "run",
            mlflow=False,
        ) as tuner,
    ):
        for batch in tuner.batches(windows()):
            loss = model.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tuner.report(loss=loss)
    with torch.no_grad():
        return model.loss(held_out[: len(held_out) // (LONG + 1) * (LONG + 1)].view(-1, LONG + 1)).item()


class _Characters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, 32)
        self.memory = nn.GRU(32, 96, batch_first=True)
        self.head = nn.Linear(96, 128)

    def loss(self, batch: Tensor) -> Tensor:
        """Of the last characters of each sequence (n, length + 1), given those before."""
        answers = self.head(self.memory(self.embedding(batch[:, :-1]))[0])
        return cross_entropy(answers.flatten(0, 1), batch[:, 1:].flatten())


def _sequence_task(seed: int, **fixed: Any) -> Task:
    """A task of long sequences, at a tenth to the whole of a rate that is about right."""
    task = Task.random(seed, long=256, poison=0.0, rate=1.0, **fixed)
    return replace(task, rate=task.usual_rate * 10 ** -np.random.default_rng((seed, 4)).random())


def _full_length(seed: int) -> TrainingPlant:
    plant = TrainingPlant(_sequence_task(seed))
    plant.sequence_length = 256
    return plant


PROOFS: Sequence[Proof] = (
    Proof(
        name="ProgressiveUnfreezing",
        make=lambda: [ProgressiveUnfreezing()],
        plants=Plants(
            make=lambda seed: FineTuningPlant(FineTuning.random(seed)),
            healthy=lambda seed: FineTuningPlant(FineTuning.random(seed, frozen=0)),
        ),
        fixed=lambda plant: [{"frozen_layers": frozen} for frozen in range(LAYERS)],
        real=Real(
            "MLP of digits 0-4, fine-tuned on 10 examples each of 5-9",
            fine_tune_digits,
            [{"frozen_layers": frozen} for frozen in range(3)],
        ),
        note="Nothing: the features stay frozen, as they are at the start. The best fixed setting: the best "
        "of all frozen, one group frozen, and all trained from the start. Healthy: nothing is frozen, so "
        "that it has nothing to do.",
    ),
    Proof(
        name="GrowSequence",
        make=lambda: [GrowSequence()],
        plants=Plants(
            make=lambda seed: TrainingPlant(_sequence_task(seed)),
            cost=COST,
            healthy=_full_length,
        ),
        fixed=lambda plant: [{"sequence_length": length} for length in (8, 32, 128, 256)],
        real=Real(
            "character GRU on the standard library",
            read_characters,
            [{"sequence_length": length} for length in (4, 8, 16, 32, 64)],
        ),
        note="All arms at equal cost, in positions. Nothing: the length stays at 8, where it starts. "
        "Healthy: the length is at its bound, so that it has nothing to do.",
    ),
)
