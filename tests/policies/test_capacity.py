import numpy as np
import pytest

from autotune.policies.capacity import CapacityAdvisor
from autotune.records import HyperparameterState, Observation, Policy, Set, Signal, Suggest, TuneError
from autotune.testing import Simulation, Task, TrainingPlant

EVERY, BUDGET = 40, 1000


def observe(train, validation, *, rate=0.1, decay=0.0, dropout=0.0, owner="policy", budget=BUDGET):
    spent = EVERY * np.arange(len(train))
    signals = {
        "train/loss": Signal(spent, spent, np.array(train, float)),
        "validation/loss": Signal(spent, spent, np.array(validation, float)),
    }
    hyperparameters = {
        "lr": HyperparameterState("lr", "log", rate, owner, 1e-8, 10.0),
        "weight_decay": HyperparameterState("weight_decay", "float", decay, owner, 0.0, 1.0),
        "dropout": HyperparameterState("dropout", "float", dropout, owner, 0.0, 0.9),
    }
    now = int(spent[-1])
    return Observation(now, now, budget, hyperparameters, signals)


def advice(train, validation, target=0.2, **situation):
    (suggestion,) = CapacityAdvisor(target).decide(observe(train, validation, **situation))
    assert isinstance(suggestion, Suggest)
    assert suggestion.reason
    return suggestion


FLAT = [1.0] * 6


def test_it_is_a_policy():
    assert isinstance(CapacityAdvisor(0.1), Policy)
    assert CapacityAdvisor(0.1, weight_decay=None, dropout=None).controls == ("lr",)
    with pytest.raises(TuneError, match="got nan"):
        CapacityAdvisor(float("nan"))


@pytest.mark.parametrize(
    ("train", "situation", "change"),
    [
        (np.linspace(1, 2, 6), {}, ("lr", 0.1 / 3)),  # unstable
        (np.linspace(1, 0.95, 6), {}, ("lr", 0.3)),  # slow
        (FLAT, {"dropout": 0.5}, ("dropout", 0.4)),  # stalled
        (FLAT, {"decay": 0.5}, ("weight_decay", 0.05)),
        (FLAT, {}, ("lr", 0.1 / 3)),
    ],
)
def test_training_that_misses_the_target(train, situation, change):
    found = advice(train, train, **situation).action
    assert found is not None
    assert (found.name, found.value) == (change[0], pytest.approx(change[1]))


def test_only_validation_misses_the_target():
    suggestion = advice([0.1] * 6, FLAT)
    assert suggestion.action == Set("weight_decay", 1 / (0.1 * BUDGET), reason=suggestion.reason)
    assert suggestion.evidence["situation"] == "gap"


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ([0.1] * 6, [0.15] * 6),  # both meet it
        (np.linspace(1, 0.5, 6), FLAT),  # falls to it in time
        ([0.1] * 6, np.linspace(1, 0.8, 6)),  # validation falls
        ([1.0, 0.1, 0.1, 1.0, 0.1, 0.1], [0.1] * 6),  # the noise is larger than what is missing
        (FLAT[:4], FLAT[:4]),  # too few
    ],
)
def test_nothing_is_said_without_need(train, validation):
    assert CapacityAdvisor(0.2).decide(observe(train, validation)) == ()


def test_accuracies_are_better_when_larger():
    advisor = CapacityAdvisor(0.9, larger_is_better=True)
    (suggestion,) = advisor.decide(observe([0.99] * 6, [0.7] * 6))
    assert suggestion.evidence["situation"] == "gap"
    assert suggestion.evidence["train"] == pytest.approx(0.99)
    assert advisor.decide(observe([0.99] * 20, [0.95] * 20)) == ()


def test_one_thing_after_another_and_nothing_twice():
    advisor, said = CapacityAdvisor(0.2), []
    for n in range(6, 60):
        said += advisor.decide(observe([1.0] * n, [1.0] * n, decay=0.5, dropout=0.1, budget=None))
    assert [s.action.name if s.action else None for s in said] == ["dropout", "weight_decay", "lr", None]


def test_what_a_person_holds_is_advised_on_in_words():
    suggestion = advice(FLAT, FLAT, owner="human:ada")
    assert suggestion.action is None
    assert "from 0.1 to 0.03333" in suggestion.reason


def test_it_never_acts():
    plant = TrainingPlant(Task(rate=1e-4))
    simulation = Simulation(plant, [CapacityAdvisor(0.1)], budget=BUDGET).run()
    assert {d.status for d in simulation.decisions} == {"suggested"}
    assert simulation["lr"] == 1e-4
