import math
from itertools import pairwise

import numpy as np
import pytest

from autotune.policies import time_varying_bandit
from autotune.policies.time_varying_bandit import FACTORS, TimeVaryingBandit, _posterior
from autotune.records import Ramp, Rewind, Set, TuneError
from autotune.testing import Simulation, Task, TrainingPlant

LOW = Task(rate=0.01, noise=0.1, loss_noise=0.02, seed=3)


def simulate(task=LOW, budget=1000, steps=None, plant=None):
    return Simulation(plant or TrainingPlant(task), [TimeVaryingBandit()], budget=budget).run(steps)


def untouched(task, budget=1000):
    plant = TrainingPlant(task)
    for batch in range(budget):
        plant.step(batch)
    return plant.evaluate()["validation/loss"]


def sets(simulation):
    return [d for d in simulation.decisions if isinstance(d.action, Set) and d.applied]


def test_a_rate_that_is_too_low_is_raised_by_bounded_factors_and_comes_back_at_the_end():
    simulation = simulate()
    factors = [d.after["lr"] / d.before["lr"] for d in sets(simulation)]
    assert len(factors) >= 4
    assert all(min(abs(math.log(factor / f)) for f in FACTORS) < 1e-9 for factor in factors)
    last = simulation.decisions[-1]
    assert isinstance(last.action, Ramp)
    assert last.spent == 600
    assert simulation["lr"] == pytest.approx(0.3 * LOW.rate, rel=0.01)
    assert simulation.plant.evaluate()["validation/loss"] < 0.5 * untouched(LOW)
    assert not simulation.benched


def test_a_rate_is_never_raised_beyond_its_bound_nor_lowered_below_its_start_before_the_end(monkeypatch):
    monkeypatch.setattr(time_varying_bandit, "FURTHEST", 8.0)
    simulation = simulate(Task(rate=1e-4, noise=0.01, loss_noise=1e-4, floor=0.2), budget=4000)
    rates = [value for _, spent, value in simulation.values["hp/lr"] if spent <= 2400]
    assert max(rates) == pytest.approx(8e-4)
    assert min(rates) == 1e-4


def test_nothing_is_raised_while_the_loss_does_not_fall():
    simulation = simulate(Task(rate=1e-6, loss_noise=0.3))
    assert not simulation.decisions
    assert simulation.plant.evaluate()["validation/loss"] == untouched(Task(rate=1e-6, loss_noise=0.3))


class Cliff(TrainingPlant):
    """The loss grows by `growth` a step while the rate is above 0.015, and stays so high if not rewound."""

    def __init__(self, growth):
        super().__init__(LOW)
        self.growth, self.above = growth, 0.0

    def step(self, batch):
        measured = super().step(batch)
        self.above += self.growth * (self.lr > 0.015)
        return {**measured, "loss": measured["loss"] * math.exp(self.above)}

    def capture(self):
        return super().capture(), self.above

    def restore(self, state):
        super().restore(state[0])
        self.above = state[1]


@pytest.mark.parametrize("growth", [0.2, 20.0])
def test_a_disaster_is_noticed_at_the_next_tick_and_rewound(growth):
    simulation = simulate(plant=Cliff(growth))
    raised, undone = simulation.decisions[:2]
    assert raised.after["lr"] > 0.015
    assert isinstance(undone.action, Rewind)
    assert undone.applied
    assert undone.spent - raised.spent <= 20
    assert undone.after["lr"] == raised.before["lr"]
    assert simulation.plant.above == 0.0
    assert not simulation.benched


def test_a_slight_rise_is_taken_back_without_a_rewind_and_nothing_is_raised_any_more():
    decisions = simulate(plant=Cliff(0.02)).decisions
    (undone,) = (d for d in decisions if "level_before" in d.action.evidence)
    raised = decisions[decisions.index(undone) - 1]
    assert isinstance(undone.action, Set)
    assert 40 <= undone.spent - raised.spent <= 60
    assert undone.after["lr"] == raised.before["lr"]
    assert undone.action.evidence["level"] > undone.action.evidence["level_before"]
    assert all(d.after["lr"] <= d.before["lr"] for d in decisions[decisions.index(undone) + 1 :])


def test_it_begins_anew_where_a_person_or_another_has_left_the_rate():
    simulation = simulate(steps=300)
    assert simulation["lr"] > 0.01
    simulation.submit(Set("lr", 0.005, reason="mine"), "human:ada")
    simulation.run(100)
    assert simulation["lr"] == 0.005
    policy = simulation.panel.policies[0]
    assert policy.state_dict()["start"] == [0.005]


def test_several_rates_are_moved_one_at_a_time():
    plant = TrainingPlant(LOW)
    simulation = Simulation(plant, [TimeVaryingBandit(["lr", "gradient_clip"])], budget=1000).run()
    assert not simulation.benched
    moves = sets(simulation)
    assert "lr" in {d.action.name for d in moves}
    assert all(b.spent - a.spent >= 50 for a, b in pairwise(moves))


def test_losses_that_have_no_logarithm_are_left_alone():
    class Negative(TrainingPlant):
        def step(self, batch):
            measured = super().step(batch)
            return {**measured, "loss": measured["loss"] - 0.5}

    assert not simulate(plant=Negative(LOW)).decisions


def test_the_process_is_pb2s():
    """The posterior by hand, from the kernel of the paper: squared-exponential × (1 − ω)^(|t − t'| / 2)."""
    points = ((0.0, 1.0), (0.0, 2.0), (1.0, 3.0), (0.5, 4.0))
    rewards = ((1.0, 0.1), (1.5, 0.2), (3.0, 0.1), (2.0, 0.3))
    arms = ((0.5, 5.0), (1.5, 5.0))

    def kernel(a, b):
        octaves, time = np.array(a)[:, None] - np.array(b)[None], 0
        octaves, time = octaves[..., 0], np.abs(octaves[..., 1])
        return np.exp(-(octaves**2) / 2) * 0.9 ** (time / 2)

    y, errors = np.array(rewards).T
    z, s = (y - y.mean()) / y.std(), errors / y.std()
    inverse = np.linalg.inv(kernel(points, points) + np.diag(s**2))
    across = kernel(arms, points)
    mean = y.mean() + y.std() * across @ inverse @ z
    deviation = y.std() * np.sqrt(1 - np.einsum("ij,jk,ik->i", across, inverse, across))
    found = _posterior(points, rewards, arms)
    assert found[0] == pytest.approx(mean.tolist(), rel=1e-5)
    assert found[1] == pytest.approx(deviation.tolist(), rel=1e-5)


def test_a_reward_that_was_undone_is_worse_than_all():
    points = ((0.0, 1.0), (0.0, 2.0), (1.0, 3.0))
    mean, _ = _posterior(points, ((1.0, 0.1), (1.1, 0.1), (None, 0.1)), ((0.0, 4.0), (1.0, 4.0)))
    assert mean[1] < mean[0]


@pytest.mark.parametrize("names", [[], ["lr", "lr"]])
def test_bad_arguments(names):
    with pytest.raises(TuneError, match="one hyperparameter or several different ones, got"):
        TimeVaryingBandit(names)
