"""Data for policy gradients: what a policy meets in its environments, gathered while it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

Batch: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""States (n, ...), actions (n, 1), log probabilities (n, actions), advantages (n,) and returns (n,)."""

EPOCHS, BATCHES = 4, 4
UPDATES = EPOCHS * BATCHES
"""Optimizer steps on a rollout."""
DISCOUNT, TRACE = 0.99, 0.95


class ActorCritic(nn.Module):
    """A policy and its value function.

    Args:
        body: what they share.
        actor: from its features to logits of the actions.
        critic: from its features to a value.
    """

    def __init__(self, body: nn.Module, actor: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.body, self.actor, self.critic = body, actor, critic

    def act(self, states: Tensor) -> Tensor:
        """Logits (n, actions)."""
        logits: Tensor = self.actor(self.body(states))
        return logits

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, actions) and values (n,)."""
        features = self.body(states)
        return self.actor(features), self.critic(features).squeeze(1)


def sampled(logits: Tensor, generator: torch.Generator) -> Tensor:
    """An action for each row of logits (Gumbel-max), drawn on the CPU so that a device changes nothing."""
    noise = torch.empty(logits.shape).exponential_(generator=generator).log()
    return (logits - noise.to(logits.device)).argmax(1)


@dataclass(slots=True)
class Rewinds:
    """Is told by a rewind, through `load_state_dict`, that the policy has become another one."""

    count: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Nothing of it is ever put back."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The run was put back."""
        self.count += 1


class Rollouts:
    """Minibatches of what the current policy meets; one pass is one rollout, four times over.

    A rewind cannot put the environments back: they go on from where they are. What a later policy has
    gathered is not for the one that is put back, so the pass ends there and the next rollout is its own.

    Args:
        games: a gymnasium vector environment that begins anew in the step after an end.
        model: acts.
        length: steps of each environment in a rollout.
        unit: of rewards; what is learned is the return in this unit, best of the order of 1.
        seed: of environments, actions and order.
        device: of the batches.
    """

    def __init__(
        self, games: Any, model: ActorCritic, length: int, unit: float, seed: int, device: torch.device
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.rewinds = Rewinds()
        self._games, self._model, self._device = games, model, device
        self._length, self._unit = length, unit
        self._state = games.reset(seed=seed)[0]
        self._over = np.zeros(games.num_envs, dtype=bool)

    def __iter__(self) -> Iterator[Batch]:
        """One rollout."""
        rewinds = self.rewinds.count
        samples = self._play()
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(samples[0]), generator=self.generator).chunk(BATCHES):
                if self.rewinds.count != rewinds:
                    return
                states, actions, logs, advantages, returns = (
                    column[chosen.to(self._device)] for column in samples
                )
                yield states, actions, logs, advantages, returns

    @torch.no_grad()
    def _play(self) -> list[Tensor]:
        """Advantages are those of Schulman et al. 2016 (equation 16)."""
        states: list[Tensor] = []
        actions: list[Tensor] = []
        logs: list[Tensor] = []
        values: list[Tensor] = []
        rewards, fell, ended, begun = np.empty((4, self._length, len(self._over)))
        for t in range(self._length):
            states.append(torch.as_tensor(self._state, device=self._device))
            logits, value = self._model(states[-1])
            chosen = sampled(logits, self.generator)
            begun[t] = ~self._over  # the step after an end only begins anew
            self._state, rewards[t], terminated, truncated, _ = self._games.step(
                chosen.cpu().numpy()  # sync: acted
            )
            self._over = terminated | truncated
            fell[t], ended[t] = terminated, self._over
            actions.append(chosen)
            logs.append(logits)
            values.append(value)
        values.append(self._model(torch.as_tensor(self._state, device=self._device))[1])
        value = torch.stack(values)
        gained, falls, ends = (
            torch.as_tensor(x, dtype=torch.float32, device=self._device)
            for x in (rewards / self._unit, fell, ended)
        )
        errors = gained + DISCOUNT * value[1:] * (1 - falls) - value[:-1]
        advantages = torch.zeros_like(errors)
        carried = torch.zeros_like(errors[0])
        for t in reversed(range(self._length)):
            carried = errors[t] + DISCOUNT * TRACE * carried * (1 - ends[t])
            advantages[t] = carried
        acted = torch.as_tensor(begun > 0, device=self._device)
        columns = (
            torch.stack(states),
            torch.stack(actions)[..., None],
            torch.stack(logs).log_softmax(2),
            advantages,
            advantages + value[:-1],
        )
        samples = [column[acted] for column in columns]
        samples[3] = (samples[3] - samples[3].mean()) / (samples[3].std() + 1e-8)
        return samples
