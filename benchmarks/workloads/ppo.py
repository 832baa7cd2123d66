"""Proximal policy optimisation: the training, whatever the environments."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import AdamW, Optimizer

from autotune.hyperparameters import FloatHyperparameter, Hyperparameter

from ..suites.workload import Part, Training
from .rollouts import UPDATES, ActorCritic, Batch, Rollouts, sampled

CLIP, VALUE_COEF, LARGEST_NORM = 0.2, 0.5, 0.5
PARTS: tuple[Part, ...] = ("probe", "selection", "test")


class PPO(Training):
    """Policy gradients with a clipped ratio; gradients are clipped at a norm of 0.5.

    `kl`, KL(old ‖ new) on a minibatch, and `entropy` are reported; `kl_coef`, the weight of a penalty on the
    one, and `entropy_coef`, that of a bonus for the other, are hyperparameters.

    An evaluation plays episodes in environments of its own, with actions drawn from the policy; beginnings
    and noise depend on seed and part alone. `probe_cost` is the most environment steps that a probe plays
    over those of an optimizer step.

    Args:
        make: vector environments, by their number; with `True`, for training.
        model: acts, and tells values.
        games: environments that training plays in.
        length: steps of each in a rollout.
        unit: see `Rollouts`.
        episodes: that an evaluation plays; to probe, which is paid for, an eighth of them.
        longest: steps of an episode that it plays.
        badness: from the mean return to a loss.
        seed: of all that is random.
        device: to train on.

    Source: Schulman et al. 2017 (PPO), equations 7 and 9.
    """

    def __init__(
        self,
        make: Callable[[int, bool], Any],
        model: ActorCritic,
        games: int,
        length: int,
        unit: float,
        episodes: int,
        longest: int,
        badness: Callable[[float], float],
        seed: int,
        device: torch.device,
    ) -> None:
        self.model: ActorCritic = model.to(device)
        self._rollouts = Rollouts(make(games, True), model, length, unit, _seed(seed, 0), device)
        self.batches = self._rollouts
        played = {part: max(1, episodes // 8) if part == "probe" else episodes for part in PARTS}
        self.probe_cost = played["probe"] * longest * UPDATES / (games * length)
        self.reports = {"kl": 0.0, "entropy": 0.0}
        self._make = functools.cache(lambda part: make(played[part], False))
        self._longest, self._badness, self._device = longest, badness, device
        self._seeds = {part: _seed(seed, i) for i, part in enumerate(PARTS, 1)}
        self._penalty = FloatHyperparameter("kl_coef", 0.0, low=0.0, high=1e3)
        self._bonus = FloatHyperparameter("entropy_coef", 0.01, low=0.0, high=1.0)

    def optimizer(self, rate: float, weight_decay: float | None = None) -> Optimizer:
        """See `Training.optimizer`."""
        return AdamW(self.model.parameters(), lr=rate, eps=1e-5, weight_decay=weight_decay or 0.0)

    def loss(self, batch: Batch) -> Tensor:
        """See `Training.loss`."""
        states, actions, log_old, advantages, returns = batch
        logits, values = self.model(states)
        log_new = logits.log_softmax(1)
        ratio = (log_new - log_old).gather(1, actions).squeeze(1).exp()
        gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()
        kl = (log_old.exp() * (log_old - log_new)).sum(1).mean()
        entropy = -(log_new.exp() * log_new).sum(1).mean()
        self.reports = {"kl": kl.detach(), "entropy": entropy.detach()}
        surrogate: Tensor = gain - self._penalty() * kl + self._bonus() * entropy
        return VALUE_COEF * mse_loss(values, returns) - surrogate

    def update(self, loss: Tensor, optimizer: Optimizer) -> None:
        """See `Training.update`."""
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_NORM)
        optimizer.step()

    @torch.no_grad()
    def evaluate(self, part: Part) -> float:
        """See `Training.evaluate`; NaN when the policy has become that."""
        games, generator = self._make(part), torch.Generator().manual_seed(self._seeds[part])
        state, _ = games.reset(seed=self._seeds[part])
        returns, playing = np.zeros(games.num_envs), np.ones(games.num_envs, dtype=bool)
        for _ in range(self._longest):
            logits = self.model.act(torch.as_tensor(state, device=self._device))
            actions = sampled(logits, generator).cpu().numpy()  # sync: acted
            state, rewards, terminated, truncated, _ = games.step(actions)
            returns += rewards * playing
            playing &= ~(terminated | truncated)
            if not playing.any():
                break
        finite = bool(logits.isfinite().all())  # sync: evaluated
        return self._badness(float(returns.mean())) if finite else math.nan

    def hyperparameters(self, optimizer: Optimizer, *, scheduled: bool = False) -> list[Hyperparameter[Any]]:
        """See `Training.hyperparameters`."""
        return [*super().hyperparameters(optimizer, scheduled=scheduled), self._penalty, self._bonus]

    def stateful(self) -> Mapping[str, object]:
        """See `Training.stateful`."""
        return {"rollouts": self._rollouts.rewinds}


def _seed(seed: int, part: int) -> int:
    return int(np.random.SeedSequence((seed, part)).generate_state(1)[0]) % 2**30
