"""The workload of the demo: scikit-learn's digits, an MLP, and a burst of corrupted batches in the middle.

`python -m autotune.benchmarks.digits` runs the demo's comparison on ten seeds and checks its claim: from a
rate 100 times too high and with the burst, the tuned run's test accuracy is at least that of the best
static rate without the burst, less half a percentage point, in at least nine of ten seeds.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from autotune import AutoTuner
from autotune.actuators import learning_rate, weight_decay
from autotune.policies import recommended

from .figures import Figure, show

STEPS = 2000
BATCH = 64
BURST = range(1000, 1030)
"""Batches of the stream that are corrupted: inputs times 100, labels drawn at random."""
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TOO_HIGH = 100.0
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Digits:
    """Train, validation and test parts of the 1,797 digits: inputs (n, 64) in [0, 1], labels (n,)."""

    train: TensorDataset
    validation: Batch
    test: Batch


@dataclass(frozen=True, slots=True)
class Result:
    """Accuracies in percent after the same number of optimizer steps."""

    validation: float
    test: float


def load(seed: int) -> Digits:
    """Split the digits at random, stratified: 1,000 to train, 300 to choose by, 497 to judge by."""
    inputs, labels = load_digits(return_X_y=True)
    inputs = (inputs / 16).astype(np.float32)
    rest, test, rest_labels, test_labels = train_test_split(
        inputs, labels, test_size=497, stratify=labels, random_state=seed
    )
    train, validation, train_labels, validation_labels = train_test_split(
        rest, rest_labels, test_size=300, stratify=rest_labels, random_state=seed
    )

    def tensors(x: np.ndarray, y: np.ndarray) -> Batch:
        return torch.from_numpy(x), torch.from_numpy(y)

    return Digits(
        TensorDataset(*tensors(train, train_labels)),
        tensors(validation, validation_labels),
        tensors(test, test_labels),
    )


class Stream:
    """Shuffled batches, epoch after epoch; the `burst`-th ones of all are corrupted, as a bad shard is."""

    def __init__(self, data: TensorDataset, seed: int, burst: range) -> None:
        order = torch.Generator().manual_seed(seed)
        self._loader = DataLoader(data, BATCH, shuffle=True, drop_last=True, generator=order)
        self._burst = burst
        self._noise = torch.Generator().manual_seed(seed + 1)
        self._drawn = 0

    def __iter__(self) -> Iterator[Batch]:
        for inputs, labels in self._loader:
            if self._drawn in self._burst:
                inputs, labels = 100 * inputs, torch.randint(10, labels.shape, generator=self._noise)
            self._drawn += 1
            yield inputs, labels


def build(seed: int, rate: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A fresh MLP with two hidden layers of 128, and AdamW."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10)
    )
    return model, torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)


@torch.no_grad()
def accuracy(model: nn.Module, part: Batch) -> float:
    """Percent of right answers in eval mode."""
    model.eval()
    hits: Tensor = model(part[0]).argmax(1) == part[1]
    model.train()
    return 100 * hits.float().mean().item()


def bare(seed: int, rate: float, burst: range = range(0), steps: int = STEPS) -> Result:
    """The loop without a tuner, at one rate."""
    data = load(seed)
    model, optimizer = build(seed, rate)
    stream = Stream(data.train, seed, burst)
    step = 0
    while step < steps:
        for inputs, labels in stream:
            loss = cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == steps:
                break
    return Result(accuracy(model, data.validation), accuracy(model, data.test))


def tuned(
    seed: int,
    rate: float,
    folder: Path,
    *,
    burst: range = BURST,
    steps: int = STEPS,
    mlflow: bool = False,
    watch: Callable[[AutoTuner], None] = lambda tuner: None,
) -> Result:
    """The same loop with a tuner; `watch` is called after each step."""
    data = load(seed)
    model, optimizer = build(seed, rate)

    @torch.no_grad()
    def validate() -> dict[str, Tensor | float]:
        inputs, labels = data.validation
        losses = cross_entropy(
            model.eval()(inputs), labels, reduction="none"
        )  # single ones: with their error
        return {"loss": losses, "accuracy": accuracy(model, data.validation)}

    with AutoTuner(
        model,
        optimizer,
        hyperparameters=[learning_rate(optimizer), weight_decay(optimizer)],
        policies=recommended(),
        total_steps=steps,
        evaluate=validate,
        folder=folder,
        mlflow=mlflow,
    ) as tuner:
        for inputs, labels in tuner.batches(Stream(data.train, seed, burst)):
            loss = cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tuner.report(loss=loss)
            watch(tuner)
    return Result(accuracy(model, data.validation), accuracy(model, data.test))


def best_static(seed: int) -> tuple[float, Result]:
    """The best rate of the grid by validation accuracy (the lower one on a tie), and its result."""
    results = {rate: bare(seed, rate) for rate in RATES}
    best = max(RATES, key=lambda rate: (results[rate].validation, -rate))
    return best, results[best]


def figures(seeds: int = 10) -> list[Figure]:
    """Run the comparison."""
    found: list[Figure] = []
    held = 0
    for seed in range(seeds):
        rate, static = best_static(seed)
        start = TOO_HIGH * rate
        untuned = bare(seed, start, BURST)
        with tempfile.TemporaryDirectory() as folder:
            result = tuned(seed, start, Path(folder) / "run")
        held += result.test >= static.test - 0.5
        found += [
            Figure(f"seed {seed}: test accuracy, best static rate {rate:g}", static.test, "%"),
            Figure(f"seed {seed}: test accuracy, bare loop from {start:g}", untuned.test, "%"),
            Figure(f"seed {seed}: test accuracy, tuned from {start:g}", result.test, "%"),
        ]
    needed = -(-9 * seeds // 10)
    name = "seeds in which tuned is at least static less 0.5 points"
    return [*found, Figure(name, held, f"of {seeds}", f"≥ {needed}", held >= needed)]


if __name__ == "__main__":
    sys.exit(show(figures()))
