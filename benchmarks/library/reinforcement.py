"""Proofs of the policies for reinforcement learning: a simulated policy gradient, and PPO on CartPole."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from autotune import AutoTuner
from autotune.actuators import learning_rate
from autotune.hyperparameters import FloatHyperparameter
from autotune.policies.reinforcement import EntropyTarget, KLAdaptiveRate, KLPenalty
from autotune.records import Policy
from autotune.testing import Plant
from autotune.testing.policy_gradient import Bandit, PolicyGradientPlant

from .proof import Plants, Proof, Real, Settings

ENVIRONMENTS, ROLLOUT = 8, 128  # steps of the environments between two updates: 1,024
EPOCHS, BATCHES = 4, 4  # optimizer steps on one rollout: 16
ITERATIONS = 25
DISCOUNT, TRACE = 0.99, 0.95
CLIP = 0.2


def ppo_cartpole(
    seed: int,
    policies: Sequence[Policy],
    settings: Settings,
    *,
    rate: float = 1e-3,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
    clipped: bool = True,
) -> float:
    """PPO on CartPole-v1, 25,600 steps of 8 environments; returns how far its returns fall short of 500.

    Every one of the 400 optimizer steps is a step of the tuner, to which the KL divergence of its batch from
    the policy that acted and the entropy are reported. The score is 500, the highest return, less the mean
    over all updates of the mean return of the last 20 episodes: slowness counts as well as the end does.

    Args:
        seed: of environments, weights, actions and order.
        policies: what steers it.
        settings: hyperparameters set before the first step: `lr`, `kl_coef`, `entropy_coef`.
        rate: Adam's, at the start.
        kl_coef: weight of KL(old ‖ new), at the start.
        entropy_coef: weight of the entropy bonus, at the start.
        clipped: the clipped surrogate; False: the ratio as it is.
    """
    torch.manual_seed(seed)
    actor, critic = (_mlp(outputs) for outputs in (2, 1))
    model = nn.ModuleList([actor, critic])
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, eps=1e-5)
    penalty = FloatHyperparameter("kl_coef", kl_coef, low=0.0, high=1e3)
    bonus = FloatHyperparameter("entropy_coef", entropy_coef, low=0.0, high=1.0)
    hyperparameters = [learning_rate(optimizer, low=1e-5, high=1.0), penalty, bonus]
    for parameter in hyperparameters:
        if parameter.name in settings:
            parameter.write(float(settings[parameter.name]))
    environments = _Environments(seed)

    with (
        tempfile.TemporaryDirectory() as folder,
        AutoTuner(
            model,
            optimizer,
            hyperparameters=hyperparameters,
            policies=policies,
            total_steps=ITERATIONS * EPOCHS * BATCHES,
            reports=("kl", "entropy"),
            folder=Path(folder) / "run",
            mlflow=False,
        ) as tuner,
    ):
        batches = (batch for _ in range(ITERATIONS) for batch in environments.rollout(actor, critic))
        for states, actions, log_old, advantages, returns in tuner.batches(batches):
            log_new = actor(states).log_softmax(1)
            ratio = (log_new - log_old).gather(1, actions).squeeze(1).exp()
            gain = ratio * advantages
            if clipped:
                gain = torch.minimum(gain, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
            kl = (log_old.exp() * (log_old - log_new)).sum(1).mean()
            entropy = -(log_new.exp() * log_new).sum(1).mean()
            loss = -gain.mean() + 0.5 * mse_loss(critic(states).squeeze(1), returns)
            loss = loss + penalty() * kl - bonus() * entropy
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            tuner.report(loss=loss, kl=kl.detach(), entropy=entropy.detach())
    return 500.0 - float(np.mean(environments.scores))


class _Environments:
    """CartPoles, and what the policy that acts in them meets."""

    def __init__(self, seed: int) -> None:
        self.scores: list[float] = []
        """Mean return of the last 20 episodes, at the end of each rollout."""
        self._games = gymnasium.make_vec("CartPole-v1", ENVIRONMENTS, "vector_entry_point")
        self._state = self._games.reset(seed=seed)[0]
        self._over = np.zeros(ENVIRONMENTS, dtype=bool)
        self._length = np.zeros(ENVIRONMENTS)
        self._lengths: deque[float] = deque(maxlen=20)

    def rollout(self, actor: nn.Module, critic: nn.Module) -> Iterator[tuple[Tensor, ...]]:
        """Act for 128 steps; then batches of states, actions, log probabilities, advantages and returns.

        Advantages are those of Schulman et al. 2016 (equation 16). An environment that has ended spends its
        next step on starting anew; that step is left out.
        """
        states = torch.empty(ROLLOUT + 1, ENVIRONMENTS, 4)
        logs = torch.empty(ROLLOUT, ENVIRONMENTS, 2)
        actions = torch.empty(ROLLOUT, ENVIRONMENTS, dtype=torch.int64)
        fell, ended, acted = torch.empty(3, ROLLOUT, ENVIRONMENTS, dtype=torch.bool)
        with torch.no_grad():
            for t in range(ROLLOUT):
                states[t] = torch.from_numpy(self._state)
                logs[t] = actor(states[t]).log_softmax(1)
                actions[t] = torch.rand(ENVIRONMENTS) < logs[t, :, 1].exp()
                acted[t] = torch.from_numpy(~self._over)
                self._length += ~self._over
                self._state, _, terminated, truncated, _ = self._games.step(actions[t].numpy())
                self._over = terminated | truncated
                self._lengths.extend(self._length[self._over].tolist())
                self._length[self._over] = 0
                fell[t], ended[t] = torch.from_numpy(terminated), torch.from_numpy(self._over)
            states[-1] = torch.from_numpy(self._state)
            values = critic(states).squeeze(2)
            errors = 1.0 + DISCOUNT * values[1:] * ~fell - values[:-1]
            advantages = torch.zeros_like(errors)
            carried = torch.zeros(ENVIRONMENTS)
            for t in reversed(range(ROLLOUT)):
                carried = errors[t] + DISCOUNT * TRACE * carried * ~ended[t]
                advantages[t] = carried
        self.scores.append(float(np.mean(self._lengths)) if self._lengths else 0.0)
        columns = (states[:-1], actions[..., None], logs, advantages, advantages + values[:-1])
        samples = [column[acted] for column in columns]
        samples[3] = (samples[3] - samples[3].mean()) / samples[3].std()
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(samples[0])).chunk(BATCHES):
                yield tuple(column[chosen] for column in samples)


def _mlp(outputs: int) -> nn.Sequential:
    head = nn.Linear(64, outputs)
    with torch.no_grad():
        head.weight.mul_(0.1)
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), head)


def _wrong_rate(seed: int) -> Plant:
    return PolicyGradientPlant(Bandit.random(seed, decoy=0.0))


def _wrong_penalty(seed: int) -> Plant:
    rng = np.random.default_rng((seed, 4))
    rate, kl_coef = float(3e-3 * 10 ** rng.random()), float(10 ** rng.uniform(-2.0, 1.5))
    return PolicyGradientPlant(Bandit.random(seed, decoy=0.0, clipped=False, rate=rate, kl_coef=kl_coef))


def _wrong_bonus(seed: int) -> Plant:
    rng = np.random.default_rng((seed, 4))
    rate, entropy_coef = float(3e-3 * 10 ** rng.random()), float(10 ** rng.uniform(-1.5, 0.0))
    return PolicyGradientPlant(Bandit.random(seed, rate=rate, entropy_coef=entropy_coef))


def _tuned(make: Callable[[int], Plant], grid: Sequence[Settings], seed: int) -> Plant:
    """The plant of a seed at the best fixed value of the grid."""
    plants, plant = Plants(make), make(seed)
    best = min(grid, key=lambda settings: plants.run(make(seed), (), settings))
    for parameter in plant.hyperparameters:
        if parameter.name in best:
            parameter.write(best[parameter.name])
    return plant


def _coefficients(name: str) -> Sequence[Settings]:
    return [{name: value} for value in (0.0, 0.01, 0.1, 1.0, 10.0)]


BONUSES: Sequence[Settings] = [{"entropy_coef": value} for value in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)]
PLANT_RATES: Sequence[Settings] = [{"lr": rate} for rate in (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)]
RL_RATES: Sequence[Settings] = [{"lr": rate} for rate in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)]
SCORED = (
    "Scored by 1 less the exact expected return at the end; "
    "on CartPole by 500 less the mean return over training."
)

PROOFS: Sequence[Proof] = (
    Proof(
        name="KLAdaptiveRate",
        make=lambda: [KLAdaptiveRate()],
        plants=Plants(make=_wrong_rate, healthy=partial(_tuned, _wrong_rate, PLANT_RATES)),
        fixed=lambda plant: PLANT_RATES,
        real=Real(
            "PPO on CartPole-v1 from rate 0.0003",
            lambda seed, policies, settings: ppo_cartpole(seed, policies, settings, rate=3e-4),
            RL_RATES,
        ),
        note=f"From rates 1/30 to 30 times one about right. {SCORED}",
    ),
    Proof(
        name="KLPenalty",
        make=lambda: [KLPenalty()],
        plants=Plants(
            make=_wrong_penalty,
            healthy=partial(_tuned, _wrong_penalty, _coefficients("kl_coef")),
        ),
        fixed=lambda plant: _coefficients("kl_coef"),
        real=Real(
            "PPO without clipping on CartPole-v1, rate 0.01",
            lambda seed, policies, settings: ppo_cartpole(seed, policies, settings, rate=1e-2, clipped=False),
            _coefficients("kl_coef"),
        ),
        note=f"Without clipping, from coefficients 0.01 to 30 (plants) and 0 (CartPole). {SCORED}",
    ),
    Proof(
        name="EntropyTarget",
        make=lambda: [EntropyTarget(-2.0)],
        plants=Plants(make=_wrong_bonus, healthy=partial(_tuned, _wrong_bonus, BONUSES)),
        fixed=lambda plant: BONUSES,
        real=Real(
            "PPO on CartPole-v1, entropy coefficient 0.3",
            # Two discrete actions have at most 0.69 nats: another target than the plants'.
            lambda seed, policies, settings: ppo_cartpole(
                seed,
                [EntropyTarget(0.5, within=0.05)] if policies else (),
                settings,
                rate=3e-3,
                entropy_coef=0.3,
            ),
            BONUSES,
        ),
        note=f"From coefficients 0.03 to 1; target -2 nats (plants), 0.5 (CartPole). {SCORED}",
    ),
)
