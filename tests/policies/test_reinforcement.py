import dataclasses
import json
import math

import numpy as np
import pytest

from autotune.policies.reinforcement import EntropyTarget, KLAdaptiveRate, KLPenalty
from autotune.records import HyperparameterState, Observation, Policy, Set, Signal, TuneError
from autotune.testing import Simulation
from autotune.testing.policy_gradient import Bandit, PolicyGradientPlant

MAKE = {
    "lr": KLAdaptiveRate,
    "kl_coef": KLPenalty,
    "entropy_coef": lambda: EntropyTarget(-2.0),
}


def run(name, seed=1000, budget=600, **fixed):
    return Simulation(PolicyGradientPlant(Bandit.random(seed, **fixed)), [MAKE[name]()], budget=budget)


def decide(policy, mean, value, *, spent=30, low=0.0, high=10.0, owner="policy", decisions=(), values=None):
    """One decision on values that are all `mean`, at `spent`."""
    at = np.arange(1, spent + 1)
    signal = Signal(at, at, np.full(spent, mean) if values is None else np.array(values, dtype=float))
    state = HyperparameterState(policy.controls[0], "float", value, owner, low, high)
    actions = policy.decide(
        Observation(
            spent, spent, None, {state.name: state}, {policy.requires[0]: signal}, decisions=decisions
        )
    )
    return actions[0].value if actions else None


@pytest.mark.parametrize("name", MAKE)
def test_they_are_policies(name):
    policy = MAKE[name]()
    assert isinstance(policy, Policy)
    assert policy.controls == (name,)
    assert policy.requires == ("entropy",) if name == "entropy_coef" else ("kl",)


def test_bad_targets_are_refused():
    for target in (0.0, -0.01, math.inf, math.nan):
        with pytest.raises(TuneError, match="target"):
            KLAdaptiveRate(target)
        with pytest.raises(TuneError, match="target"):
            KLPenalty(target)
    with pytest.raises(TuneError, match="target"):
        EntropyTarget(math.nan)
    with pytest.raises(TuneError, match="within"):
        EntropyTarget(0.5, within=-0.1)


@pytest.mark.parametrize(
    ("kl", "rate"), [(0.021, 0.1 / 1.5), (0.019, None), (0.0051, None), (0.0049, 0.15), (1e9, 0.1 / 1.5)]
)
def test_the_rate_follows_the_rule_of_its_source(kl, rate):
    value = decide(KLAdaptiveRate(0.01), kl, 0.1)
    assert value == (None if rate is None else pytest.approx(rate))


@pytest.mark.parametrize(("kl", "beta"), [(0.016, 2.0), (0.014, None), (0.007, None), (0.006, 0.5)])
def test_the_penalty_follows_the_rule_of_its_source(kl, beta):
    assert decide(KLPenalty(0.01), kl, 1.0) == beta


@pytest.mark.parametrize(
    ("entropy", "factor"),
    [(-3.0, 1.5), (-9.0, 1.5), (-2.75, 1.5**0.75), (-2.4, None), (-1.0, 1 / 1.5), (9.0, 1 / 1.5)],
)
def test_the_bonus_follows_its_law(entropy, factor):
    value = decide(EntropyTarget(-2.0), entropy, 0.1)
    assert value == (None if factor is None else pytest.approx(0.1 * factor))


def test_an_entropy_on_its_way_is_left_alone():
    policy = EntropyTarget(0.0)
    assert decide(policy, 3.0, 0.1, spent=30) is not None
    assert decide(policy, 2.5, 0.1, spent=60) is None
    assert decide(policy, 2.45, 0.1, spent=90) is not None  # too slowly
    assert decide(policy, 2.6, 0.1, spent=120) is not None  # the other way


def test_values_are_kept_within_the_bounds():
    assert decide(KLAdaptiveRate(), 1.0, 0.1, low=0.09) == 0.09
    assert decide(KLAdaptiveRate(), 1.0, 0.1, low=0.1) is None
    assert decide(KLAdaptiveRate(), 0.0, 9.0) == 10.0
    assert decide(KLAdaptiveRate(), 0.0, 10.0) is None


def test_a_coefficient_of_zero_can_return():
    assert decide(KLPenalty(), 1.0, 0.0) == 0.01
    assert decide(KLPenalty(), 0.0, 0.0) is None
    assert decide(KLPenalty(), 0.0, 0.01) is None
    assert decide(EntropyTarget(-2.0), -9.0, 0.0) == 0.001


def test_no_value_is_judged_twice_and_single_ones_are_not_judged():
    policy = KLAdaptiveRate()
    assert decide(policy, 1.0, 0.1, spent=2) is None
    assert decide(policy, 1.0, 0.1, spent=3) is not None
    assert decide(policy, 1.0, 0.1, spent=3) is None
    assert decide(policy, 1.0, 0.1, spent=5) is None
    assert decide(policy, 1.0, 0.1, spent=6) is not None


def test_the_mean_counts_and_what_is_not_finite_does_not():
    assert decide(KLAdaptiveRate(), 0, 0.1, spent=5, values=[0.01, 0.05, 0.0, 0.0, 0.0]) is None
    assert decide(KLAdaptiveRate(), 0, 0.1, spent=4, values=[np.inf, 0.01, 0.01, np.nan]) is None
    assert decide(KLAdaptiveRate(), 0, 0.1, spent=4, values=[np.inf, 0.1, 0.1, 0.1]) is not None


def test_what_a_person_holds_is_left_alone():
    assert decide(KLAdaptiveRate(), 1.0, 0.1, owner="human:ada") is None


def test_values_from_before_another_hand_are_forgotten():
    simulation = run("lr", rate=0.3)
    simulation.run(10)
    simulation.submit(Set("lr", 0.2, reason="mine"), "human:ada")
    simulation.controls["lr"].owner = "policy"
    simulation.run(20)
    assert [d.source for d in simulation.decisions] == ["human:ada"]
    simulation.run(10)
    assert [d.source for d in simulation.decisions] == ["human:ada", "kl_adaptive_rate"]


@pytest.mark.parametrize("name", MAKE)
def test_what_is_refused_is_asked_for_ever_less_often(name):
    plant = PolicyGradientPlant(rate=0.3, kl_coef=100.0, entropy_coef=1.0)
    simulation = Simulation(plant, [MAKE[name]()], budget=1000, suggest=True).run()
    gaps = np.diff([d.spent for d in simulation.decisions])
    assert len(gaps) >= 3
    assert (gaps[1:] > gaps[:-1]).all()


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("at", [50, 310])
def test_a_round_trip_of_the_memory_changes_no_decision(name, at):
    fixed = {"rate": 0.05, "kl_coef": 0.1, "entropy_coef": 0.5}
    whole, half, other = run(name, **fixed).run(), run(name, **fixed).run(at), run(name, **fixed)
    state = half.state_dict()
    state["panel"] = json.loads(json.dumps(state["panel"], allow_nan=False))
    other.load_state_dict(state)
    other.run()
    assert whole.decisions
    assert [dataclasses.astuple(d) for d in other.decisions] == [
        dataclasses.astuple(d) for d in whole.decisions
    ]


def ratios(name, fixed, seeds=range(1000, 1005)):
    out = []
    for seed in seeds:
        tuned = run(name, seed, **fixed).run()
        assert not tuned.benched
        plant = PolicyGradientPlant(Bandit.random(seed, **fixed))
        Simulation(plant, (), budget=600).run()
        out.append(tuned.plant.evaluate()["validation/loss"] / plant.evaluate()["validation/loss"])
    return out


@pytest.mark.parametrize("rate", [0.0005, 0.2])
def test_a_rate_that_is_far_off_is_mended(rate):
    assert np.median(ratios("lr", {"rate": rate, "decoy": 0.0})) < 0.5


def test_without_clipping_the_penalty_saves_the_run():
    fixed = {"rate": 0.03, "kl_coef": 0.01, "clipped": False, "decoy": 0.0}
    assert np.median(ratios("kl_coef", fixed)) < 0.7


def test_a_bonus_that_is_too_large_comes_down():
    fixed = {"rate": 0.01, "entropy_coef": 1.0}
    assert np.median(ratios("entropy_coef", fixed)) < 0.3
