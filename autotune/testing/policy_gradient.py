"""Policy-gradient training in miniature: PPO with a Gaussian policy, in numpy, at some 0.1 ms a step."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..hyperparameters import FloatHyperparameter, Hyperparameter
from ..records import TuneError
from .training import Field

Array = NDArray[np.float64]

CONTEXTS, FEATURES, ACTIONS = 32, 6, 2
EPOCHS = 3  # gradient steps on one batch of samples
BLOCK = 64  # batches whose noise is drawn at once
DECAYS = 0.9, 0.99  # of Adam's moments
CLIP = 0.2  # range of the importance ratio
TURN = 0.3  # how far the hills' places in one context differ from those in another, by feature
LOG_RATIO = 20.0  # where the log of the importance ratio is cut
LOG_SIGMA = -5.0, 2.0  # where the policy's log standard deviation is held


@dataclass(frozen=True, slots=True)
class Bandit:
    """A contextual bandit with continuous actions, and how it is learned.

    In every context a hill of reward 1 stands about the best action, and a lower, wider one nearer to where
    the policy begins. Between them and beyond them there is nothing.

    Args:
        rate: Adam's learning rate at the start.
        kl_coef: weight of the KL penalty at the start.
        entropy_coef: weight of the entropy bonus at the start.
        clipped: PPO's clipped surrogate; False: the ratio as it is, for PPO with a penalty instead.
        samples: actions drawn in each context for one step.
        noise: standard deviation of a single reward.
        distance: from the start to the best action, in widths of its hill.
        decoy: height of the lower hill; 0: there is none.
        seed: of everything that is random.
    """

    rate: float = 0.01
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    clipped: bool = True
    samples: int = 4
    noise: float = 0.3
    distance: float = 2.0
    decoy: float = 0.5
    seed: int = 0

    @classmethod
    def random(cls, seed: int, **fixed: Any) -> Self:
        """A bandit drawn from broad ranges; `fixed` fields are not drawn.

        The rate is 1/30 to 30 times one that is about right.
        """
        rng = np.random.default_rng((seed, 1))
        drawn = {
            "rate": float(0.01 * 30 ** rng.uniform(-1, 1)),
            "samples": int(rng.integers(2, 9)),
            "noise": float(10 ** rng.uniform(-1.5, 0.0)),
            "distance": float(rng.uniform(1.0, 2.5)),
            "decoy": float(rng.choice([0.0, 0.3, 0.6])),
            "seed": seed,
        }
        return cls(**{**drawn, **fixed})


@dataclass(slots=True)
class _State:
    """Mean actions are weights[:, :-1] @ features; weights[:, -1] is the log of their standard deviations."""

    weights: Array
    first: Array
    second: Array
    steps: int = 0


class PolicyGradientPlant:
    """PPO with a Gaussian policy whose mean is linear in 6 features of 32 contexts; 2 actions.

    One step draws actions from the present policy, then takes 3 Adam steps on these samples: the clipped
    surrogate (Schulman et al. 2017, equation 7), plus `kl_coef` KL(old ‖ new), less `entropy_coef` times the
    entropy. Too high a rate throws the policy to where there is no reward, and nothing leads back. Where the
    entropy is gone too soon, it stays on the lower hill.

    Hyperparameters: `lr`, `kl_coef`, `entropy_coef`.

    Signals: `loss` (the surrogate's, before the last Adam step), `kl` (KL(old ‖ new) after the step, nats),
    `entropy` (of the new policy, in nats), `return` (mean reward of the samples); evaluated:
    `validation/loss`, 1 less the exact expected return. Nothing is over-fitted, so `train/loss` is the same.

    Args:
        task: what is learned, and how.
        **changes: fields of the task to replace.

    Raises:
        TuneError: for a task that cannot be.
    """

    signals: Sequence[str] = (
        "loss",
        "kl",
        "entropy",
        "return",
        "validation/loss",
        "train/loss",
        "generalization_gap",
    )

    def __init__(self, task: Bandit | None = None, **changes: Any) -> None:
        self.task = task = replace(task or Bandit(), **changes)
        if task.rate <= 0 or task.samples < 1 or task.noise < 0 or task.distance < 0:
            raise TuneError(f"a bandit has rate > 0, samples >= 1, noise and distance >= 0, got {task}")
        rng = np.random.default_rng((task.seed, 2))
        self._x = rng.standard_normal((FEATURES, CONTEXTS))
        self._x[0] = 1.0
        way = rng.standard_normal((ACTIONS, 1))
        way *= task.distance / np.linalg.norm(way)
        turns = TURN * rng.standard_normal((2, ACTIONS, FEATURES - 1)) @ self._x[1:]
        self._hills = ((1.0, way + turns[0]), (task.decoy, turns[1] - way / 2))
        self._best = float(self._reward(self._summit(), np.zeros(ACTIONS)).mean())
        weights = np.zeros((ACTIONS, FEATURES + 1))
        self._state = _State(weights, weights, weights)
        self._drawn: dict[int, Array] = {}
        self.cost = 0.0
        self.lr, self.kl_coef, self.entropy_coef = task.rate, task.kl_coef, task.entropy_coef

        def real(name: str, low: float, high: float, log: bool = False) -> FloatHyperparameter:
            return FloatHyperparameter(name, low=low, high=high, log=log, actuator=Field(self, name))

        self.hyperparameters: Sequence[Hyperparameter[Any]] = [
            real("lr", 1e-6, 1e2, log=True),
            real("kl_coef", 0.0, 1e3),
            real("entropy_coef", 0.0, 1.0),
        ]

    def step(self, batch: int) -> Mapping[str, float]:
        """See `Plant.step`."""
        normal = self._noise(batch)
        mean, log_sigma = self._policy()
        sigma = np.exp(log_sigma)
        drawn = normal[:ACTIONS]
        actions = mean[:, None] + sigma[:, None, None] * drawn
        rewards = self._reward(actions, np.zeros(ACTIONS)) + self.task.noise * normal[ACTIONS]
        advantage = rewards - rewards.mean()
        advantage /= math.sqrt(float((advantage * advantage).mean())) + 1e-8
        log_old = -0.5 * (drawn * drawn).sum(0) - log_sigma.sum()
        reach = CLIP if self.task.clipped else np.inf
        sign = np.sign(advantage)

        new, log_new, loss = mean, log_sigma, 0.0
        for _ in range(EPOCHS):
            wide = np.exp(log_new)
            z = (actions - new[:, None]) / wide[:, None, None]
            squares = z * z
            exponent = -0.5 * (squares[0] + squares[1]) - log_new.sum() - log_old
            ratio = np.exp(np.minimum(exponent, LOG_RATIO))
            beyond = sign * (ratio - 1)
            loss = -float(((1 + sign * np.minimum(beyond, reach)) * advantage).mean())
            slope = ratio * advantage * (beyond <= reach) / advantage.size
            apart = new - mean
            to_mean = -(slope * z).sum(1) / wide[:, None]
            to_sigma = slope.sum() - squares.reshape(ACTIONS, -1) @ slope.ravel() - self.entropy_coef
            if self.kl_coef:
                to_mean += self.kl_coef / CONTEXTS * apart / (wide * wide)[:, None]
                to_sigma += self.kl_coef * (1 - (sigma**2 + (apart * apart).mean(1)) / wide**2)
            self._update(np.column_stack([to_mean @ self._x.T, to_sigma]))
            new, log_new = self._policy()
        self.cost += 1.0
        moved = (sigma**2 + ((new - mean) ** 2).mean(1)) / np.exp(2 * log_new)
        return {
            "loss": loss,
            "kl": float((log_new - log_sigma + 0.5 * (moved - 1)).sum()),
            "entropy": float(log_new.sum()) + 0.5 * ACTIONS * math.log(2 * math.pi * math.e),
            "return": float(rewards.mean()),
        }

    def _policy(self) -> tuple[Array, Array]:
        """Mean actions (actions, contexts), and the log of their standard deviations (actions)."""
        weights = self._state.weights
        return weights[:, :-1] @ self._x, weights[:, -1]

    def _reward(self, actions: Array, variance: Array) -> Array:
        """Of actions (actions, ..., contexts); expected, for normal ones of this variance about them."""
        square = 1 + variance
        total = np.zeros(actions.shape[1:])
        for height, centre in self._hills:
            away = actions - (centre[:, None] if actions.ndim == 3 else centre)
            weighed = away * away
            exponent = weighed[0] / square[0] + weighed[1] / square[1]
            total += height / math.sqrt(square[0] * square[1]) * np.exp(-0.5 * exponent)
        return total

    def _summit(self) -> Array:
        """The best actions (actions, contexts), by mean shift from the top of the higher hill."""
        actions = self._hills[0][1]
        for _ in range(100):
            pulls = [
                height * np.exp(-0.5 * ((actions - centre) ** 2).sum(0)) for height, centre in self._hills
            ]
            moved = sum(pull * centre for pull, (_, centre) in zip(pulls, self._hills, strict=True))
            actions = np.asarray(moved) / sum(pulls)
        return np.asarray(actions)

    def _update(self, gradient: Array) -> None:
        state, (one, two) = self._state, DECAYS
        state.steps += 1
        state.first = one * state.first + (1 - one) * gradient
        state.second = two * state.second + (1 - two) * gradient * gradient
        first = state.first / (1 - one**state.steps)
        second = state.second / (1 - two**state.steps)
        weights = state.weights - self.lr * first / (np.sqrt(second) + 1e-8)
        weights[:, -1] = np.minimum(np.maximum(weights[:, -1], LOG_SIGMA[0]), LOG_SIGMA[1])
        state.weights = weights

    def _noise(self, batch: int) -> Array:
        """Standard normal (actions and reward, samples, contexts)."""
        block, row = divmod(batch, BLOCK)
        if block not in self._drawn:
            rng = np.random.default_rng((self.task.seed, 3, block))
            self._drawn[block] = rng.standard_normal((BLOCK, ACTIONS + 1, self.task.samples, CONTEXTS))
        drawn: Array = self._drawn[block][row]
        return drawn

    def evaluate(self) -> Mapping[str, float]:
        """See `Plant.evaluate`."""
        mean, log_sigma = self._policy()
        regret = self._best - float(self._reward(mean, np.exp(2 * log_sigma)).mean())
        return {"validation/loss": regret, "train/loss": regret, "generalization_gap": 0.0}

    def capture(self) -> object:
        """See `Plant.capture`."""
        return copy.deepcopy(self._state)

    def restore(self, state: Any) -> None:
        """See `Plant.restore`."""
        self._state = copy.deepcopy(state)
