import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.optimization import GreedyLR as Theirs

from autotune.policies.greedy import GreedyLR
from autotune.records import Rewind, Set, TuneError
from autotune.testing import Simulation, Task, TrainingPlant


class Metric:
    """A plant whose loss is given, value by value, at any rate."""

    signals = ("loss",)
    cost = 0.0

    def __init__(self, values):
        self._plant = TrainingPlant(Task(rate=0.1))
        self.hyperparameters = [h for h in self._plant.hyperparameters if h.name == "lr"]
        self.values, self.at = values, 0

    def step(self, batch):
        self.at += 1
        return {"loss": self.values[self.at - 1]}

    def evaluate(self):
        return {}

    def capture(self):
        return self.at

    def restore(self, state):
        self.at = state


def metrics(seed, length=200):
    rng = np.random.default_rng(seed)
    fall = np.cumsum(rng.choice([0.0, 0.01, 0.03], size=length // 50).repeat(50))
    return (np.exp(-fall) + rng.choice([0.0, 0.001, 0.1]) * rng.normal(size=length)).tolist()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    mode=st.sampled_from(["min", "max"]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    threshold=st.sampled_from([0.0, 1e-6, 0.01]),
    patience=st.integers(0, 8),
    cooldown=st.integers(0, 5),
    warmup=st.integers(0, 5),
    factor=st.sampled_from([0.5, 0.9, 0.95]),
    reset_start=st.sampled_from([1, 3, 500]),
    window=st.sampled_from([1, 20]),
)
def test_it_is_the_law_of_transformers_value_by_value(seed, window, **arguments):
    bounds = {"min_lr": 0.01, "max_lr": 0.5}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = Theirs(optimizer, smooth=window > 1, window_size=window, **bounds, **arguments)
    policy = GreedyLR(min_rate=0.01, max_rate=0.5, window=window, **arguments)
    values = metrics(seed)
    simulation = Simulation(Metric(values), [policy], budget=None, every=1)
    for value in values:
        theirs.step(value)
        simulation.run(1)
        rate = optimizer.param_groups[0]["lr"]
        assert policy.state_dict()["rate"] == pytest.approx(rate, rel=1e-6)
        # A change of under 10 % waits, and the simulation is asked once a step.
        assert abs(math.log(simulation["lr"] / rate)) <= math.log(1.1)


def test_by_default_the_bounds_are_relative_to_the_rate_at_the_start():
    def end(values, **arguments):
        simulation = Simulation(Metric(values), [GreedyLR(window=1, **arguments)], budget=len(values)).run()
        return simulation["lr"]

    fast = {"factor": 0.5, "patience": 0}
    assert end([1 / (n + 1) for n in range(300)], **fast) == pytest.approx(100, rel=0.1)
    assert end([1.0] * 300, **fast) == pytest.approx(1e-4, rel=0.1)


def test_it_begins_anew_after_a_rewind_and_does_nothing_for_a_person():
    simulation = Simulation(Metric([1.0] * 1000), [GreedyLR(patience=25)], budget=1000)
    simulation.run(70)  # two reductions, of which the second is written, take 52 values after the first
    assert [d.step for d in simulation.decisions] == [60]
    simulation.submit(Rewind(10, reason="a test"), "human:ada")
    simulation.run(40)
    assert not any(isinstance(d.action, Set) for d in simulation.decisions[2:])
    simulation.submit(Set("lr", 0.3, reason="mine"), "human:ada")
    simulation.run(500)
    assert simulation["lr"] == 0.3


def test_a_loss_that_is_lost_for_a_while_is_forgotten():
    values = [1.0] * 20 + [math.nan, math.inf] * 10 + [1 / n for n in range(1, 200)]
    simulation = Simulation(Metric(values), [GreedyLR(window=10)], budget=len(values)).run()
    assert simulation.decisions[-1].action.value > simulation.decisions[-1].before["lr"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "down"}, "mode is 'min' or 'max', got 'down'"),
        ({"factor": 1.0}, r"factor lies in \(0, 1\), got 1.0"),
        ({"patience": -1}, "patience is 0 or more values, got -1"),
        ({"threshold_mode": "log"}, "threshold_mode is 'rel' or 'abs', got 'log'"),
        ({"threshold": -1}, "threshold is 0 or more"),
        ({"cooldown": -1}, "cooldown is 0 or more"),
        ({"warmup": -1}, "warmup is 0 or more"),
        ({"min_rate": 2, "max_rate": 1}, "0 < min_rate < max_rate, got"),
        ({"min_rate": 0}, "0 < min_rate < max_rate, got"),
        ({"window": 0}, "window is at least 1 value, got 0"),
        ({"reset_start": 0}, "reset_start is at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, said):
    with pytest.raises(TuneError, match=said):
        GreedyLR(**arguments)
