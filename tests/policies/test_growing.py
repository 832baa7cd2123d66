import dataclasses
import json

import numpy as np
import pytest

from autotune.policies.growing import GrowSequence
from autotune.policies.stages import falling, slowing
from autotune.records import Policy, TuneError
from autotune.testing import Simulation, TrainingPlant

LADDER = [12, 18, 27, 40, 60, 90, 135, 202, 256]


def plant(**changes):
    return TrainingPlant(**{"long": 256, "rate": 0.1, "seed": 1000, **changes})


def run(budget=2000, **changes):
    return Simulation(plant(**changes), [GrowSequence()], budget=budget)


def decay(steps, tau, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return np.exp(-np.arange(steps) / tau) + noise * rng.standard_normal(steps)


def test_it_is_a_policy():
    policy = GrowSequence("image_size", "validation/loss", name="size")
    assert isinstance(policy, Policy)
    assert (policy.name, policy.requires, policy.controls) == ("size", ("validation/loss",), ("image_size",))


def test_a_part_of_the_budget_lies_between_0_and_1():
    with pytest.raises(TuneError, match="finished"):
        GrowSequence(finished=0)


@pytest.mark.parametrize("seed", range(1000, 1008))
def test_the_length_grows_to_its_bound_by_half_the_budget_and_never_shrinks(seed):
    simulation = run(seed=seed).run()
    assert [d.after["sequence_length"] for d in simulation.decisions] == LADDER
    assert {d.status for d in simulation.decisions} == {"applied"}
    assert simulation.decisions[-1].spent <= 1000
    assert not simulation.benched


def test_without_a_budget_it_grows_by_the_test_alone():
    simulation = run(budget=None).run(4000)
    assert simulation.decisions
    assert all("p_falling" in d.action.evidence for d in simulation.decisions)
    assert min(np.diff([0, *(d.spent for d in simulation.decisions)])) >= 100


def test_a_loss_that_keeps_falling_is_not_slow():
    found = sum(
        slowing(1 - np.arange(200) / 400 + decay(200, 1e9, 0.05, seed) - 1) is not None for seed in range(50)
    )
    assert found <= 1


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
def test_a_loss_that_has_arrived_is_slow(noise):
    found = [slowing(decay(600, 50, noise, seed)) is not None for seed in range(50)]
    assert np.mean(found) >= (1.0 if noise < 0.1 else 0.4)


def test_an_exponential_is_slow_once_its_fall_has_become_a_third():
    # From the first two quarters to the last two it is exp(-n / 2 tau).
    slow = [n for n in range(20, 400) if slowing(decay(n, 50)) is not None]
    assert min(slow) == pytest.approx(100 * np.log(3), rel=0.05)


def test_nothing_is_tested_on_few_values_or_none_that_are_finite():
    assert slowing(np.ones(15)) is None
    assert slowing(np.full(100, np.nan)) is None
    assert slowing(np.where(np.arange(400) % 7, decay(400, 20), np.inf)) is not None


def test_the_trend_test_agrees_with_scipy():
    from scipy.stats import kendalltau

    rng = np.random.default_rng(0)
    for slope in (-0.2, -0.05, 0.0, 0.05):
        values = slope * np.arange(20) + rng.standard_normal(20)
        exact = kendalltau(np.arange(20), values, alternative="less").pvalue
        assert falling(values) == pytest.approx(exact, abs=0.01)


def test_losses_of_two_lengths_are_not_compared():
    simulation = run(budget=None).run(4000)
    spent = [d.spent for d in simulation.decisions]
    for before, decision in zip([0, *spent], simulation.decisions, strict=False):
        assert decision.action.evidence["values"] <= decision.spent - before


@pytest.mark.parametrize("at", [170, 480, 900])
def test_a_round_trip_of_the_memory_changes_no_decision(at):
    whole, half, other = run().run(), run().run(at), run()
    state = half.state_dict()
    state["panel"] = json.loads(json.dumps(state["panel"], allow_nan=False))
    other.load_state_dict(state)
    other.run()
    assert [dataclasses.astuple(d) for d in other.decisions] == [
        dataclasses.astuple(d) for d in whole.decisions
    ]


def test_it_beats_a_length_that_stays_short_at_equal_cost():
    ratios = []
    for seed in range(1000, 1006):
        ends = []
        for policies in ((), [GrowSequence()]):
            simulation = Simulation(plant(seed=seed), policies, budget=None).run(cost=60)
            ends.append(simulation.plant.evaluate()["validation/loss"])
        ratios.append(ends[1] / ends[0])
    assert np.median(ratios) < 0.7
