"""A training run in miniature: noisy, ill-conditioned, over-fitting, in numpy, at some 20 µs a step."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ..hyperparameters import Actuator, FloatHyperparameter, Hyperparameter, IntHyperparameter
from ..records import TuneError

Array = NDArray[np.float64]

GROUPS = ("stem", "body", "head")
EACH = 8  # coordinates a group
SIZE = EACH * len(GROUPS)
BLOCK = 256  # batches whose noise is drawn at once
BATCH, LENGTH = 32, 256  # at which a step costs 1
LONGEST_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned, and how hard that is. The loss is a mean over examples, and 1 at the start.

    Args:
        optimizer: with momentum `sgd` or `adam`.
        rate: the learning rate at the start.
        condition: largest over smallest curvature, at least 1.
        scale: how large weights are; the best rate grows with its square (`sgd`) or itself (`adam`).
        noise: standard deviation of the gradient's noise in a batch of 32, relative to the first gradient.
        loss_noise: of the log loss in a batch of 32.
        tails: degrees of freedom of the loss's Student-t noise; 3 is very heavy.
        floor: loss that cannot be learned away.
        overfit: validation loss above the floor once the training loss is at its lowest.
        poison: part of the batches whose gradient is 100 times too large and points anywhere.
        burst: batches (from, to) that are all poisoned.
        bounded: loss and gradient saturate, so that what diverges stays finite.
        pretrained: loss that is left in stem and body, which start near their optimum and are hurt by
            the gradients that an untrained head sends back; None: they start like the head.
        long: longest range, in positions, of what is to be learned; 0: no sequences.
        seed: of everything that is random.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    rate: float = 0.1
    condition: float = 30.0
    scale: float = 1.0
    noise: float = 0.3
    loss_noise: float = 0.1
    tails: float = 5.0
    floor: float = 0.02
    overfit: float = 0.0
    poison: float = 0.0
    burst: tuple[int, int] = (0, 0)
    bounded: bool = False
    pretrained: float | None = None
    long: int = 0
    seed: int = 0

    @property
    def usual_rate(self) -> float:
        """A rate that is about right."""
        return 0.02 * self.scale if self.optimizer == "adam" else 0.3 * self.scale**2

    @classmethod
    def random(cls, seed: int, **fixed: Any) -> Self:
        """A task drawn from the ranges that training runs are met in; `fixed` fields are not drawn.

        The rate at the start is 1e-3 to 1e1 times one that is about right.
        """
        rng = np.random.default_rng((seed, 1))
        adam = bool(rng.random() < 0.5)
        scale = float(10 ** rng.uniform(-1.5, 1.5))
        drawn = {
            "optimizer": "adam" if adam else "sgd",
            "condition": float(10 ** rng.uniform(0.5, 2.5)),
            "scale": scale,
            "noise": float(10 ** rng.uniform(-1.5, 0.0)),
            "loss_noise": float(10 ** rng.uniform(-2, -0.5)),
            "tails": float(rng.choice([3.0, 5.0, 30.0])),
            "floor": float(10 ** rng.uniform(-3, -0.5)),
            "overfit": float(rng.choice([0.0, 0.05, 0.3])),
            "poison": float(rng.choice([0.0, 0.0, 0.002])),
            "bounded": bool(rng.random() < 0.3),
            "seed": seed,
        }
        off = float(10 ** rng.uniform(-3, 1))
        task = cls(**{**drawn, **fixed})
        return task if "rate" in fixed else replace(task, rate=off * task.usual_rate)


@dataclass(slots=True)
class _State:
    weights: Array
    first: Array = field(default_factory=lambda: np.zeros(SIZE))
    second: Array = field(default_factory=lambda: np.zeros(SIZE))
    update: Array = field(default_factory=lambda: np.zeros(SIZE))
    steps: int = 0


class TrainingPlant:
    """Gradient descent on linear regression, in the eigenbasis of its Hessian.

    24 coordinates w in three layer groups, each with curvatures h from 1/condition to 1. The training loss
    is ½ Σ h (w − a)² above the floor, the validation loss the same about the true optimum b; a − b is the
    error of estimation from few examples, largest where h is small, so early stopping and weight decay
    help as they do in reality. Dropout p adds the penalty ½ p/(1−p) Σ h w² that it is for a linear model
    (Wager et al. 2013). A batch of B examples divides the gradient's variance by B/32 and costs B/32 steps.
    In a sequence of T positions, what has a range of s positions is seen with weight min(1, T/s), and a step
    costs T/256 as much. A frozen group does not move, and costs a third as much as before.

    Hyperparameters: `lr`, `momentum` (the first moment's decay), `weight_decay` (decoupled), `dropout`,
    `batch_size`, `gradient_clip`; `frozen_layers` where `pretrained`, `sequence_length` where `long`.

    Signals: as `AutoTuner`'s sensors name them, `loss` in training mode and with the batch's noise.

    Args:
        task: what is learned.
        **changes: fields of the task to replace.
    """

    signals: Sequence[str] = (
        "loss",
        "gradient_norm",
        *(f"gradient_norm/{group}" for group in GROUPS),
        "update_ratio",
        *(f"update_ratio/{group}" for group in GROUPS),
        "update_alignment",
        "gradient_snr",
        "gradient_noise_scale",
        "gradient_noise_scale/examples",
        "nonfinite",
        "validation/loss",
        "train/loss",
        "generalization_gap",
    )

    def __init__(self, task: Task | None = None, **changes: Any) -> None:
        self.task = task = replace(task or Task(), **changes)
        if task.condition < 1 or task.scale <= 0 or task.rate <= 0 or not 0 <= task.poison <= 1:
            raise TuneError(f"a task has condition >= 1, scale, rate > 0 and poison in [0, 1], got {task}")
        rng = np.random.default_rng((task.seed, 2))
        self._h = np.tile(np.geomspace(1 / task.condition, 1, EACH), len(GROUPS)) / task.scale**2
        start, truth, error = rng.standard_normal((3, SIZE))
        truth *= task.scale
        away = start * task.scale
        if task.pretrained is not None:
            body = slice(0, SIZE - EACH)
            away[body] *= np.sqrt(task.pretrained / (0.5 * self._h[body] @ away[body] ** 2))
            away[-EACH:] *= np.sqrt((1 - task.pretrained) / (0.5 * self._h[-EACH:] @ away[-EACH:] ** 2))
        else:
            away /= np.sqrt(0.5 * self._h @ away**2)
        error = error / np.sqrt(self._h) * np.linspace(1, 0.3, EACH).repeat(len(GROUPS))
        error *= np.sqrt(task.overfit / (0.5 * self._h @ error**2))
        self._truth, self._optimum = truth, truth + error
        self._state = _State(self._optimum + away)
        # Per coordinate, in a batch of 32: as large as the first gradient is at noise 1.
        first_gradient = np.linalg.norm(self._h * away)
        self._sigma = task.noise * first_gradient * np.sqrt(self._h / self._h.sum())
        self._range = np.tile(np.geomspace(8, max(task.long, 8), EACH), len(GROUPS))
        self._backward = rng.standard_normal(SIZE - EACH)
        self._noise: dict[int, tuple[Array, Array, Array]] = {}
        self.cost = 0.0
        self.lr, self.momentum, self.weight_decay, self.dropout = task.rate, 0.9, 0.0, 0.0
        self.batch_size, self.gradient_clip = BATCH, 1e4
        self.sequence_length, self.frozen_layers = LENGTH, 0
        if task.long:
            self.sequence_length = 8
        self.hyperparameters = self._hyperparameters()

    def _hyperparameters(self) -> Sequence[Hyperparameter[Any]]:
        def real(name: str, low: float, high: float, log: bool = False) -> FloatHyperparameter:
            return FloatHyperparameter(name, low=low, high=high, log=log, actuator=Field(self, name))

        def whole(name: str, low: int, high: int) -> IntHyperparameter:
            return IntHyperparameter(name, low=low, high=high, actuator=Field(self, name))

        rate = self.task.rate
        out: list[Hyperparameter[Any]] = [
            real("lr", 1e-6 * rate, 1e6 * rate, log=True),
            real("momentum", 0.0, 0.999),
            real("weight_decay", 0.0, max(1.0, 1 / rate)),
            real("dropout", 0.0, 0.9),
            whole("batch_size", 1, LONGEST_BATCH),
            real("gradient_clip", 1e-4, 1e4, log=True),
        ]
        if self.task.pretrained is not None:
            out.append(whole("frozen_layers", 0, len(GROUPS) - 1))
        if self.task.long:
            out.append(whole("sequence_length", 8, LENGTH))
        return out

    def step(self, batch: int) -> Mapping[str, float]:
        """See `Plant.step`."""
        with np.errstate(all="ignore"):
            return self._step(batch)

    def _step(self, batch: int) -> Mapping[str, float]:
        task, state, h = self.task, self._state, self._h
        normal, wild, scalar = self._drawn(batch)
        share = self.batch_size / BATCH * (self.sequence_length / LENGTH if task.long else 1.0)
        seen = np.minimum(1.0, self.sequence_length / self._range) if task.long else 1.0
        ridge = self.dropout / (1 - self.dropout)
        away, w = state.weights - self._optimum, state.weights

        loss = float(0.5 * (seen * h) @ away**2)
        penalty = float(0.5 * ridge * h @ w**2)
        mean = seen * h * away + ridge * h * w
        damp = 1.0
        if task.bounded:
            damp, loss = float(np.exp(-loss / 3)), float(-3 * np.expm1(-loss / 3))
        sigma = self._sigma * np.sqrt((1 + ridge) / share)
        gradient = damp * mean + sigma * normal
        if task.pretrained is not None:  # what an untrained head sends back is noise to the body
            head = np.sqrt(max(0.0, float(0.5 * h[-EACH:] @ away[-EACH:] ** 2)))
            gradient[:-EACH] += 0.5 * head * np.sqrt(h[:-EACH]) * self._backward * normal[-1]
        if self._poisoned(batch, scalar):
            gradient = gradient + 100 * np.linalg.norm(self._h * self._optimum) * wild
            loss *= 30
        noise = float(np.exp(task.loss_noise / np.sqrt(share) * scalar[0]))
        measured = (loss + penalty + task.floor) * noise

        frozen = EACH * self.frozen_layers
        gradient[:frozen] = 0.0
        norm = float(np.sqrt(gradient @ gradient))
        before = state.update
        moved = self._update(gradient * min(1.0, self.gradient_clip / norm) if norm > 0 else gradient, frozen)
        self.cost += share * (1 - frozen / SIZE * 2 / 3)
        return self._signals(measured, gradient, moved, w, before, damp * mean, sigma, frozen)

    def _update(self, gradient: Array, frozen: int) -> Array:
        state, beta = self._state, self.momentum
        state.steps += 1
        if self.task.optimizer == "adam":
            state.first = beta * state.first + (1 - beta) * gradient
            state.second = 0.99 * state.second + 0.01 * gradient**2
            first = state.first / (1 - beta**state.steps) if beta else gradient
            second = state.second / (1 - 0.99**state.steps)
            update = -self.lr * first / (np.sqrt(second) + 1e-12)
        else:
            # Dampened, so that the best rate does not hang on the momentum.
            state.first = beta * state.first + (1 - beta) * gradient
            update = -self.lr * state.first
        update = update - self.lr * self.weight_decay * state.weights
        update[:frozen] = 0.0
        state.weights = state.weights + update
        state.update = update
        return update

    def _signals(
        self, loss: float, gradient: Array, moved: Array, w: Array, before: Array, mean: Array,
        sigma: Array, frozen: int,
    ) -> Mapping[str, float]:  # fmt: skip
        squares, weights, updates = ((x**2).reshape(len(GROUPS), EACH).sum(1) for x in (gradient, w, moved))
        signal, noise = float(mean[frozen:] @ mean[frozen:]), float(sigma[frozen:] @ sigma[frozen:])
        length = np.sqrt(float(before @ before) * squares.sum())
        scale = noise * self.batch_size / max(signal, 1e-300)
        out = {
            "loss": loss,
            "gradient_norm": float(np.sqrt(squares.sum())),
            "update_ratio": float(np.sqrt(updates.sum() / weights.sum())),
            "update_alignment": float(gradient @ before / length) if length > 0 else 0.0,
            "gradient_snr": signal / max(noise, 1e-300),
            "gradient_noise_scale": scale / self.batch_size,
            "gradient_noise_scale/examples": scale,
            "nonfinite": float(np.count_nonzero(~np.isfinite(gradient))),
        }
        for i, group in enumerate(GROUPS):
            if i * EACH >= frozen:
                out[f"gradient_norm/{group}"] = float(np.sqrt(squares[i]))
                out[f"update_ratio/{group}"] = float(np.sqrt(updates[i] / weights[i]))
        return out

    def _drawn(self, batch: int) -> tuple[Array, Array, Array]:
        """The batch's noise: of the gradient, where a poisoned one points, and of the loss; and a lot."""
        block, row = divmod(batch, BLOCK)
        if block not in self._noise:
            rng = np.random.default_rng((self.task.seed, 3, block))
            wild = rng.standard_normal((BLOCK, SIZE))
            scalars = np.stack([rng.standard_t(self.task.tails, BLOCK), rng.random(BLOCK)], 1)
            self._noise[block] = rng.standard_normal((BLOCK, SIZE)), wild, scalars
        return tuple(part[row] for part in self._noise[block])

    def _poisoned(self, batch: int, scalar: Array) -> bool:
        first, end = self.task.burst
        return first <= batch < end or scalar[1] < self.task.poison

    def evaluate(self) -> Mapping[str, float]:
        """See `Plant.evaluate`."""
        with np.errstate(all="ignore"):
            train, validation = (
                float(0.5 * self._h @ (self._state.weights - about) ** 2) + self.task.floor
                for about in (self._optimum, self._truth)
            )
        return {"validation/loss": validation, "train/loss": train, "generalization_gap": validation - train}

    def capture(self) -> object:
        """See `Plant.capture`."""
        return copy.deepcopy(self._state)

    def restore(self, state: Any) -> None:
        """See `Plant.restore`."""
        self._state = copy.deepcopy(state)


class Field(Actuator[Any]):
    """Reads and writes an attribute of a plant."""

    def __init__(self, plant: object, name: str) -> None:
        self._plant, self._name = plant, name

    def read(self) -> Any:
        """The value."""
        return getattr(self._plant, self._name)

    def write(self, value: Any) -> Any:
        """Replace the value."""
        setattr(self._plant, self._name, value)
        return value
