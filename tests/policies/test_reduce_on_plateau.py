import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.policies.reduce_on_plateau import ReduceOnPlateau
from autotune.records import Rewind, Set, TuneError
from autotune.testing import Simulation, Task, TrainingPlant, conformance


class Metric:
    """A plant whose loss is given, value by value, at any rate."""

    signals = ("loss",)
    cost = 0.0

    def __init__(self, values, rate=0.1):
        self._plant = TrainingPlant(Task(rate=rate))
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


def test_of_a_signal_of_its_own_it_holds_to_the_rules_of_policies():
    conformance.check(lambda: ReduceOnPlateau(signal="loss", patience=20))


def metrics(seed, length=120):
    rng = np.random.default_rng(seed)
    values = np.exp(-np.arange(length) * rng.choice([0.0, 0.01, 0.1])) + rng.choice([0.01, 0.3]) * rng.normal(
        size=length
    )
    values[rng.random(length) < 0.03] = math.nan
    return values.tolist()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    mode=st.sampled_from(["min", "max"]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    threshold=st.sampled_from([0.0, 1e-4, 0.05]),
    patience=st.integers(0, 8),
    cooldown=st.integers(0, 5),
    factor=st.sampled_from([0.1, 0.5, 0.9]),
    min_rate=st.sampled_from([0.0, 1e-6, 0.02]),
)
def test_it_is_torchs_law_value_by_value(seed, min_rate, **arguments):
    values = metrics(seed)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=min_rate, **arguments)
    simulation = Simulation(
        Metric(values), [ReduceOnPlateau(signal="loss", min_rate=min_rate, **arguments)], budget=None, every=1
    )
    for value in values:
        torchs.step(value)
        simulation.run(1)
        # the plant's own bounds are 1e-6 to 1e6 times the rate at the start
        assert simulation["lr"] == pytest.approx(max(optimizer.param_groups[0]["lr"], 1e-7), rel=1e-9)


def test_values_that_come_in_one_tick_count_one_by_one():
    values = [1.0] * 80
    rates = [
        Simulation(
            Metric(values), [ReduceOnPlateau(signal="loss", factor=0.5, patience=4)], budget=80, every=n
        ).run()["lr"]
        for n in (1, 20)
    ]
    assert rates == pytest.approx([0.1 / 2**15, 0.1 / 2**15])


def test_it_begins_anew_after_a_rewind_and_does_nothing_for_a_person():
    policy = ReduceOnPlateau(signal="loss", patience=50)
    simulation = Simulation(Metric([1.0] * 500), [policy], budget=500)
    simulation.run(40)
    simulation.submit(Rewind(10, reason="a test"), "human:ada")
    simulation.run(40)
    assert not any(isinstance(d.action, Set) for d in simulation.decisions)
    simulation.run(40)
    assert [d.source for d in simulation.decisions if isinstance(d.action, Set)] == ["reduce_on_plateau"]
    simulation.submit(Set("lr", 0.3, reason="mine"), "human:ada")
    simulation.run(300)
    assert simulation["lr"] == 0.3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "down"}, "mode is 'min' or 'max', got 'down'"),
        ({"factor": 1.0}, r"factor lies in \(0, 1\), got 1.0"),
        ({"patience": -1}, "patience is 0 or more values, got -1"),
        ({"threshold_mode": "log"}, "threshold_mode is 'rel' or 'abs', got 'log'"),
        ({"threshold": -1}, "threshold is 0 or more"),
        ({"cooldown": -1}, "cooldown is 0 or more"),
        ({"min_rate": -1}, "min_rate is 0 or more"),
    ],
)
def test_bad_arguments(arguments, said):
    with pytest.raises(TuneError, match=said):
        ReduceOnPlateau(**arguments)
