"""The digits MLP with every hyperparameter that the library moves: the real workload of many proofs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from autotune import AutoTuner
from autotune.actuators import (
    VariableBatchSampler,
    batch_size,
    beta1,
    dropout,
    gradient_clip,
    learning_rate,
    momentum,
    weight_decay,
)
from autotune.hyperparameters import Hyperparameter
from autotune.records import Policy

from ..digits import load
from .proof import Settings


def train_digits(
    seed: int,
    policies: Sequence[Policy],
    settings: Settings,
    *,
    steps: int = 600,
    rate: float = 1e-3,
    optimizer: Literal["sgd", "adamw"] = "adamw",
    examples: int = 1000,
    width: int = 128,
    batch: int = 64,
    wrong_labels: float = 0.0,
    poisoned: Sequence[int] = (),
    tuner_arguments: Mapping[str, Any] | None = None,
) -> float:
    """Train an MLP with two hidden layers; returns the test loss (cross-entropy) of the final state.

    Args:
        seed: of split, weights, order and noise.
        policies: what steers it; `evaluate` gives `validation/loss`, `validation/accuracy`, `train/loss`.
        settings: hyperparameters that are set before the first step: `lr`, `weight_decay`, `dropout`,
            `momentum` (`beta1` with AdamW), `gradient_clip`, `batch_size`.
        steps: optimizer steps, all of them.
        rate: at the start.
        optimizer: SGD with momentum 0.9, or AdamW with weight decay 0.01.
        examples: to train on, at most 1,000.
        width: of the hidden layers.
        batch: examples a batch, at the start.
        wrong_labels: part of the training labels that are drawn at random.
        poisoned: batches whose inputs are multiplied by 100, counted from 0.
        tuner_arguments: for `AutoTuner`.
    """
    data = load(seed)
    noise = torch.Generator().manual_seed(seed)
    inputs, labels = (part[:examples] for part in data.train.tensors)
    wrong = torch.rand(len(labels), generator=noise) < wrong_labels
    labels = torch.where(wrong, torch.randint(10, labels.shape, generator=noise), labels)
    dataset = TensorDataset(inputs, labels)
    order = RandomSampler(dataset, generator=torch.Generator().manual_seed(seed))
    loader = DataLoader(dataset, batch_sampler=VariableBatchSampler(order, batch, drop_last=True))

    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.0)),
        *(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.0)),
        nn.Linear(width, 10),
    )
    sgd = optimizer == "sgd"
    stepper: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        if sgd
        else torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    )
    hyperparameters: list[Hyperparameter[Any]] = [
        learning_rate(stepper),
        weight_decay(stepper, high=10.0),
        dropout(model),
        momentum(stepper) if sgd else beta1(stepper),
        gradient_clip(stepper, 1e4),
        batch_size(loader, high=512),
    ]
    for parameter in hyperparameters:
        if parameter.name in settings:
            parameter.write(settings[parameter.name])

    @torch.no_grad()
    def validate() -> dict[str, float]:
        model.eval()
        answers = model(data.validation[0])
        return {
            "loss": cross_entropy(answers, data.validation[1]).item(),
            "accuracy": (answers.argmax(1) == data.validation[1]).float().mean().item(),
            "train/loss": cross_entropy(model(inputs), labels).item(),
        }

    with (
        tempfile.TemporaryDirectory() as folder,
        AutoTuner(
            model,
            stepper,
            hyperparameters=hyperparameters,
            policies=policies,
            total_steps=steps,
            evaluate=validate,
            folder=Path(folder) / "run",
            mlflow=False,
            **(tuner_arguments or {}),
        ) as tuner,
    ):
        for drawn, (x, y) in enumerate(tuner.batches(loader)):
            x = 100 * x if drawn in poisoned else x
            loss = cross_entropy(model(x), y)
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            tuner.report(loss=loss)
    model.eval()
    with torch.no_grad():
        return cross_entropy(model(data.test[0]), data.test[1]).item()
