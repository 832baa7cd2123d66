import math
import random
import sys
from dataclasses import replace
from itertools import islice

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from autotune import AutoTuner
from autotune.benchmarks.suites.arms import Static, Tuned
from autotune.benchmarks.suites.results import Config
from autotune.benchmarks.suites.run import execute
from autotune.benchmarks.workloads.acrobot import Acrobots
from autotune.benchmarks.workloads.reinforcement import Breakout, Control
from autotune.benchmarks.workloads.rollouts import DISCOUNT, TRACE, UPDATES
from autotune.policies import EntropyTarget, KLAdaptiveRate
from autotune.records import Rewind, TuneError

CPU = torch.device("cpu")
SMALL = Breakout(steps=UPDATES, games=1, length=16, episodes=1, longest=3)
WORKLOADS = [Control("CartPole-v1"), Control("Acrobot-v1"), SMALL]


def named(workload):
    return workload.name


@pytest.mark.parametrize("workload", WORKLOADS, ids=named)
def test_evaluations_repeat_and_their_parts_differ(workload):
    training = workload.begin(0, CPU)
    if workload.name == "ppo-acrobot":  # untrained it never arrives, in any part
        with torch.no_grad():
            training.model.actor[-1].weight.mul_(100)
    parts = ("probe", "selection", "test")
    first = [training.evaluate(part) for part in parts]
    assert [training.evaluate(part) for part in parts] == first
    assert all(0 < loss < math.inf for loss in first)
    if workload is not SMALL:
        assert len(set(first)) == 3


@pytest.mark.parametrize("workload", WORKLOADS, ids=named)
def test_a_seed_is_a_run_and_the_global_generators_are_left_alone(workload):
    def trained(seed):
        training = workload.begin(seed, CPU)
        optimizer = training.optimizer(1e-3)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        for batch in training.batches:
            training.update(training.loss(batch), optimizer)
        training.evaluate("test")
        assert (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        ) == before
        return torch.cat([p.detach().flatten() for p in training.model.parameters()])

    one, again, other = trained(3), trained(3), trained(4)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_acrobots_move_as_gymnasiums_own_does():
    many, one = Acrobots(3), gymnasium.make("Acrobot-v1")
    choices = np.random.default_rng(0)
    for i in range(3):
        many.reset(seed=0)
        one.reset()
        one.unwrapped.state = many._state[:, i].copy()
        for _ in range(60):
            actions = choices.integers(3, size=3)
            states, rewards, terminated, truncated, _ = many.step(actions)
            state, reward, ended, _, _ = one.step(actions[i])
            assert np.allclose(states[i], state, atol=1e-5)
            assert (rewards[i], terminated[i], truncated[i]) == (reward, ended, False)


def test_acrobots_arrive_and_begin_anew_and_end_after_500_steps():
    games = Acrobots(2)
    games.reset(seed=0)
    games._state[:, 0] = (np.pi, 0.0, 0.0, 0.0)  # upright
    _, rewards, terminated, _, _ = games.step(np.array([1, 1]))
    assert terminated.tolist() == [True, False]
    assert rewards.tolist() == [0.0, -1.0]
    states, rewards, terminated, _, _ = games.step(np.array([1, 1]))
    assert np.abs(states[0, [1, 3, 4, 5]]).max() < 0.1
    assert rewards.tolist() == [0.0, -1.0]
    assert not terminated.any()
    ends = [games.step(np.array([1, 1]))[3].tolist() for _ in range(499)]
    assert ends.index([False, True]) == 497  # the second one's 500th step


def test_returns_are_sums_of_discounted_rewards_and_the_steps_between_episodes_are_left_out():
    training = Control("CartPole-v1").begin(0, CPU)
    with torch.no_grad():
        for parameter in training.model.critic.parameters():
            parameter.zero_()
    batches = list(training.batches)
    assert len(batches) == UPDATES
    returns = 50 * torch.cat([batch[4] for batch in batches[:4]]).double()
    decay = DISCOUNT * TRACE
    left = torch.log1p(-returns * (1 - decay)) / math.log(decay)  # rewards of 1 until the end
    assert torch.allclose(left, left.round(), atol=2e-3)
    assert left.round().min() == 1
    assert 16 * 128 * 0.9 < len(returns) < 16 * 128  # about one in 22 begins anew


def test_a_probe_costs_the_steps_that_it_plays_over_those_of_an_update(monkeypatch):
    played = 0

    def counted(step):
        def counting(self, actions):
            nonlocal played
            played += self.num_envs
            return step(self, actions)

        return counting

    for games in (Acrobots, CartPoleVectorEnv):
        monkeypatch.setattr(games, "step", counted(games.step))
    for game, at_most in (("Acrobot-v1", False), ("CartPole-v1", True)):
        training = Control(game).begin(0, CPU)
        played = 0
        training.evaluate("probe")
        probe, played = played, 0
        updates = len(list(training.batches))
        cost = probe / (played / updates)
        assert cost < training.probe_cost if at_most else cost == training.probe_cost


def test_it_learns():
    outcome = execute(Control("CartPole-v1", steps=160), Static("constant"), Config(1e-2), 0, 1.0, CPU)
    assert outcome.final < outcome.initial / 3


@pytest.mark.parametrize("data", ["replay", "skip"])
def test_after_a_rewind_the_policy_that_was_put_back_gathers_its_own_data(data, tmp_path):
    training = Control("CartPole-v1").begin(0, CPU)
    optimizer = training.optimizer(1e-2)
    met, kls, tail = [], [], 3
    with AutoTuner(
        training.model,
        optimizer,
        hyperparameters=training.hyperparameters(optimizer),
        total_steps=100,
        stateful=training.stateful(),
        reports=tuple(training.reports),
        folder=tmp_path / "run",
        mlflow=False,
    ) as tuner:
        for batch in tuner.batches(training.batches):
            loss = training.loss(batch)
            training.update(loss, optimizer)
            tuner.report(loss=loss, **training.reports)
            met.append(batch[0])
            kls.append(float(training.reports["kl"]))
            if len(met) == 2 * UPDATES + tail:
                weights = [p.clone() for p in training.model.parameters()]
                tuner.rewind(20, data)
                assert not all(map(torch.equal, weights, training.model.parameters()))
    assert len(met) == 100
    again = 2 * UPDATES + tail - 20 if data == "replay" else 0
    assert all(map(torch.equal, met[20 : 2 * UPDATES + tail], met[2 * UPDATES + tail :][:again]))
    fresh = 2 * UPDATES + tail + again
    assert kls[fresh] < 1e-6  # the first batch after them comes from the very policy that trains on it
    assert kls[fresh + 1] > 1e-6
    assert kls[fresh + UPDATES] < 1e-6  # its pass is whole


class Back:
    """Goes back once, when 40 steps have been spent."""

    name = "back"
    requires = ()
    controls = ()

    def __init__(self):
        self.done = False

    def decide(self, observation):
        if self.done or observation.spent < 40:
            return ()
        self.done = True
        return (Rewind(20, "skip", reason="to see what comes of it"),)

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = state["done"]


def test_arms_rewind_and_steer_by_what_is_reported():
    def policies():
        return [Back(), KLAdaptiveRate(), EntropyTarget(0.1, within=0.01)]

    outcome = execute(replace(WORKLOADS[0], steps=120), Tuned("steered", policies), Config(1e-5), 0, 1.0, CPU)
    applied = {event.source for event in outcome.events if event.status == "applied"}
    assert applied == {"back", "kl_adaptive_rate", "entropy_target"}
    assert outcome.steps + 3 * WORKLOADS[0].begin(0, CPU).probe_cost <= outcome.spent <= 120
    assert outcome.looks[-1].rate > 1e-5
    assert math.isfinite(outcome.final)


def test_breakout_trains():
    outcome = execute(SMALL, Static("constant"), Config(1e-3), 0, 1.0, CPU)
    assert outcome.steps == UPDATES
    assert 0 < outcome.final <= 100


def test_a_policy_that_is_no_number_evaluates_as_such():
    training = Control("CartPole-v1").begin(0, CPU)
    with torch.no_grad():
        next(training.model.parameters()).fill_(math.nan)
    assert math.isnan(training.evaluate("test"))


@pytest.mark.parametrize(
    ("workload", "module", "extra"),
    [
        (WORKLOADS[0], "gymnasium", "bench"),
        (WORKLOADS[1], "gymnasium", "bench"),
        (SMALL, "ale_py.vector_env", "atari"),
    ],
    ids=["cartpole", "acrobot", "breakout"],
)
def test_a_missing_package_is_named_with_its_extra(workload, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TuneError, match=rf"autotune-torch\[{extra}\]"):
        workload.begin(0, CPU)


def test_no_two_minibatches_of_a_pass_are_in_the_same_order():
    batches = list(islice(Control("CartPole-v1").begin(0, CPU).batches, UPDATES))
    size = sum(len(batch[0]) for batch in batches[:4])
    assert sum(len(batch[0]) for batch in batches) == 4 * size
    assert not torch.equal(batches[0][0], batches[4][0])
