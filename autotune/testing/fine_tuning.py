"""Fine-tuning in miniature: good features below an untrained head, and few examples, in numpy."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ..hyperparameters import FloatHyperparameter, Hyperparameter, IntHyperparameter
from ..records import TuneError
from .training import Field

Array = NDArray[np.float64]

INPUTS, FEATURES, OUTPUTS = 24, 8, 4
LAYERS = 3
BATCH = 16
BLOCK = 256  # batches whose examples are drawn at once
DECAYS = 0.9, 0.99  # of the first and second moments


@dataclass(frozen=True, slots=True)
class FineTuning:
    """What is learned from how much, and how good the features are.

    Args:
        optimizer: with momentum `sgd` or `adam`.
        rate: the learning rate at the start.
        examples: to train on; fewer than some 32 do not determine the solution.
        error: of the pretrained features, relative to their size.
        noise: standard deviation of the targets' noise, relative to theirs.
        condition: largest over smallest variance of the inputs.
        frozen: layers that are frozen at the start.
        seed: of everything that is random.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    rate: float = 0.1
    examples: int = 24
    error: float = 0.2
    noise: float = 0.1
    condition: float = 10.0
    frozen: int = LAYERS - 1
    seed: int = 0

    @property
    def usual_rate(self) -> float:
        """A rate that is about right."""
        return 0.003 if self.optimizer == "adam" else 0.1

    @classmethod
    def random(cls, seed: int, **fixed: Any) -> Self:
        """A task drawn from what fine-tuning on little data is met in; `fixed` fields are not drawn.

        The rate is a third to the whole of one that is about right.
        """
        rng = np.random.default_rng((seed, 1))
        drawn = {
            "optimizer": "adam" if rng.random() < 0.5 else "sgd",
            "examples": round(16 * 4 ** rng.random()),
            "error": float(0.1 * 4 ** rng.random()),
            "noise": float(0.03 * 10 ** rng.random()),
            "condition": float(10 ** rng.uniform(0.0, 1.5)),
            "seed": seed,
        }
        relative = float(3 ** -rng.random())
        task = cls(**{**drawn, **fixed})
        return task if "rate" in fixed else replace(task, rate=relative * task.usual_rate)


@dataclass(slots=True)
class _State:
    layers: list[Array]
    first: list[Array] = field(default_factory=list)
    second: list[Array] = field(default_factory=list)
    steps: int = 0


class FineTuningPlant:
    """A linear network of three layers, y = C B A x, by minibatches of squared error.

    A and B start near the true features, C at random. With fewer examples than inputs the data leave most
    directions open: what a random head does to the features there, no later gradient mends (Kumar et al.
    2022, section 3). The validation loss is over all inputs, not examples, and 0.5 for an output of zero.

    Hyperparameters: `lr`, `frozen_layers`. Signals: `loss`, and what `evaluate` returns.

    Args:
        task: what is learned.
        **changes: fields of the task to replace.

    Raises:
        TuneError: for a task that cannot be.
    """

    signals: Sequence[str] = ("loss", "validation/loss", "train/loss", "generalization_gap")

    def __init__(self, task: FineTuning | None = None, **changes: Any) -> None:
        self.task = task = replace(task or FineTuning(), **changes)
        if task.examples < 1 or task.rate <= 0 or task.condition < 1 or not 0 <= task.frozen < LAYERS:
            raise TuneError(
                f"fine-tuning has examples >= 1, rate > 0, condition >= 1 and frozen in 0 ... 2, got {task}"
            )
        rng = np.random.default_rng((task.seed, 2))
        variance = np.geomspace(1, 1 / task.condition, INPUTS)
        self._size = np.sqrt(variance / variance.mean())
        a, b, c, head = (
            rng.standard_normal(shape) / np.sqrt(shape[1])
            for shape in ((FEATURES, INPUTS), (FEATURES, FEATURES), (OUTPUTS, FEATURES), (OUTPUTS, FEATURES))
        )
        c = c / np.linalg.norm(c @ b @ a * self._size)
        self._truth = c @ b @ a
        features = [w + task.error * w.std() * rng.standard_normal(w.shape) for w in (a, b)]
        self._inputs = self._size * rng.standard_normal((task.examples, INPUTS))
        noise = task.noise / np.sqrt(OUTPUTS) * rng.standard_normal((task.examples, OUTPUTS))
        self._targets = self._inputs @ self._truth.T + noise
        layers = [*features, head]
        self._state = _State(layers, [0 * w for w in layers], [0 * w for w in layers])
        self._drawn: dict[int, NDArray[np.int64]] = {}
        self.cost = 0.0
        self.lr, self.frozen_layers = task.rate, task.frozen
        rate = FloatHyperparameter(
            "lr", low=1e-6 * task.rate, high=1e6 * task.rate, log=True, actuator=Field(self, "lr")
        )
        frozen = IntHyperparameter(
            "frozen_layers", low=0, high=LAYERS - 1, actuator=Field(self, "frozen_layers")
        )
        self.hyperparameters: Sequence[Hyperparameter[Any]] = [rate, frozen]

    def step(self, batch: int) -> Mapping[str, float]:
        """See `Plant.step`."""
        examples = self._examples(batch)
        x, state = self._inputs[examples], self._state
        with np.errstate(all="ignore"):
            a, b, c = state.layers
            low = x @ a.T
            high = low @ b.T
            error = high @ c.T - self._targets[examples]
            back = error @ c
            state.steps += 1
            self._update(2, error.T @ high / BATCH)
            if self.frozen_layers < 2:
                self._update(1, back.T @ low / BATCH)
            if self.frozen_layers < 1:
                self._update(0, (back @ b).T @ x / BATCH)
            self.cost += 1.0
            return {"loss": float(0.5 * (error**2).sum() / BATCH)}

    def _update(self, layer: int, gradient: Array) -> None:
        state = self._state
        one, two = DECAYS
        state.first[layer] = one * state.first[layer] + (1 - one) * gradient
        if self.task.optimizer == "sgd":
            state.layers[layer] = state.layers[layer] - self.lr * state.first[layer]
            return
        state.second[layer] = two * state.second[layer] + (1 - two) * gradient**2
        first = state.first[layer] / (1 - one**state.steps)
        second = state.second[layer] / (1 - two**state.steps)
        state.layers[layer] = state.layers[layer] - self.lr * first / (np.sqrt(second) + 1e-8)

    def _examples(self, batch: int) -> NDArray[np.int64]:
        block, row = divmod(batch, BLOCK)
        if block not in self._drawn:
            rng = np.random.default_rng((self.task.seed, 3, block))
            self._drawn[block] = rng.integers(self.task.examples, size=(BLOCK, BATCH))
        drawn: NDArray[np.int64] = self._drawn[block][row]
        return drawn

    def evaluate(self) -> Mapping[str, float]:
        """See `Plant.evaluate`."""
        a, b, c = self._state.layers
        with np.errstate(all="ignore"):
            whole = c @ b @ a
            validation = float(0.5 * (((whole - self._truth) * self._size) ** 2).sum())
            train = float(0.5 * ((self._inputs @ whole.T - self._targets) ** 2).sum() / self.task.examples)
        return {"validation/loss": validation, "train/loss": train, "generalization_gap": validation - train}

    def capture(self) -> object:
        """See `Plant.capture`."""
        return copy.deepcopy(self._state)

    def restore(self, state: Any) -> None:
        """See `Plant.restore`."""
        self._state = copy.deepcopy(state)
