"""Proximal policy optimisation on CartPole, Acrobot and Atari's Breakout."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autotune.records import TuneError

from .ppo import PPO
from .rollouts import UPDATES, ActorCritic

LONGEST = 250
"""Steps of an episode that an evaluation of a control task plays; in training there are up to 500."""


@dataclass(frozen=True, slots=True)
class Control:
    """A classic control task with two hidden layers of 64.

    Evaluations end after 250 steps. The loss is 250 over the mean return on CartPole, 10 at random and 1 at
    best, and the mean length of an episode over 100 on Acrobot, 2.5 if it never arrives and 0.8 at best.
    """

    game: Literal["CartPole-v1", "Acrobot-v1"] = "CartPole-v1"
    rate: float = 3e-3
    steps: int = 320

    @property
    def name(self) -> str:
        """`ppo-cartpole`."""
        return f"ppo-{self.game.partition('-')[0].lower()}"

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`; a rollout."""
        return UPDATES

    @property
    def target(self) -> float:
        """See `Workload.target`."""
        return 1.1 if self.game == "CartPole-v1" else 1.0

    def begin(self, seed: int, device: torch.device) -> PPO:
        """See `Workload.begin`."""
        cartpole = self.game == "CartPole-v1"
        inputs, actions = (4, 2) if cartpole else (6, 3)
        torch.manual_seed(seed)
        model = ActorCritic(nn.Identity(), _mlp(inputs, actions), _mlp(inputs, 1))
        return PPO(
            make=_cartpoles if cartpole else _acrobots,
            model=model,
            games=16,
            length=128,
            unit=50.0,
            episodes=32,
            longest=LONGEST,
            badness=(lambda mean: LONGEST / mean) if cartpole else (lambda mean: -mean / 100),
            seed=seed,
            device=device,
        )


@dataclass(frozen=True, slots=True)
class Breakout:
    """Atari's Breakout from pixels: four grey frames of 84 × 84, sticky actions left out, bf16 on a GPU.

    Training ends an episode with each life and clips rewards; an evaluation plays all lives, at most 500
    actions, for the score itself. The loss is 100 over 1 + the mean score: at random about 50.

    Args:
        rate: see `Workload`.
        steps: see `Workload`.
        games: environments that training plays in.
        length: steps of each in a rollout.
        episodes: that an evaluation plays.
        longest: actions in one of them.

    Source: the network of Mnih et al. 2015; preprocessing of ale-py's vector environment.
    """

    rate: float = 5e-4
    steps: int = 4000
    games: int = 32
    length: int = 128
    episodes: int = 16
    longest: int = 500

    @property
    def name(self) -> str:
        """`ppo-breakout`."""
        return "ppo-breakout"

    @property
    def epoch(self) -> int:
        """See `Workload.epoch`; a rollout."""
        return UPDATES

    @property
    def target(self) -> float:
        """See `Workload.target`."""
        return 10.0

    def begin(self, seed: int, device: torch.device) -> PPO:
        """See `Workload.begin`."""
        torch.manual_seed(seed)
        model = ActorCritic(Pixels(), _head(512, 4), _head(512, 1))
        return PPO(
            make=_breakouts,
            model=model,
            games=self.games,
            length=self.length,
            unit=1.0,
            episodes=self.episodes,
            longest=self.longest,
            badness=lambda mean: 100 / (1 + mean),
            seed=seed,
            device=device,
        )


class Pixels(nn.Module):
    """Features (n, 512) of frames, uint8 (n, 4, 84, 84)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(4, 32, 8, 4), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, 2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(3136, 512), nn.ReLU()),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """See the class; in float32, whatever the layers compute in."""
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=frames.is_cuda):
            features: Tensor = self.layers(frames.float() / 255)
        return features.float()


def _head(inputs: int, outputs: int) -> nn.Linear:
    head = nn.Linear(inputs, outputs)
    with torch.no_grad():
        head.weight.mul_(0.1)
    return head


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), _head(64, outputs))


def _cartpoles(number: int, training: bool) -> Any:
    return _optional("gymnasium", "bench").make_vec("CartPole-v1", number, "vector_entry_point")


def _acrobots(number: int, training: bool) -> Any:
    _optional("gymnasium", "bench")
    from .acrobot import Acrobots

    return Acrobots(number)


def _breakouts(number: int, training: bool) -> Any:
    environment = _optional("ale_py.vector_env", "atari").AtariVectorEnv
    return environment("breakout", number, episodic_life=training, reward_clipping=training)


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TuneError(
            f"this workload needs {module.partition('.')[0]}, got {error}; "
            f"pip install 'autotune-torch[{extra}]'"
        ) from error
