import numpy as np
import pytest

from autotune.records import TuneError
from autotune.testing.fine_tuning import FineTuning, FineTuningPlant


def train(plant, steps, first=0):
    return [dict(plant.step(batch)) for batch in range(first, first + steps)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_restored_state_goes_on_exactly_as_before_any_number_of_times(optimizer):
    plant = FineTuningPlant(optimizer=optimizer, rate=0.01, frozen=1)
    train(plant, 20)
    state = plant.capture()
    first = train(plant, 20, 20)
    for _ in range(2):
        plant.restore(state)
        assert train(plant, 20, 20) == first


def test_a_seed_is_a_run():
    assert train(FineTuningPlant(seed=1), 20) == train(FineTuningPlant(seed=1), 20)
    assert train(FineTuningPlant(seed=1), 20) != train(FineTuningPlant(seed=2), 20)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_does_not_move(frozen):
    plant = FineTuningPlant(frozen=frozen)
    before = [w.copy() for w in plant._state.layers]
    train(plant, 5)
    moved = [not np.array_equal(a, b) for a, b in zip(before, plant._state.layers, strict=True)]
    assert moved == [layer >= frozen for layer in range(3)]


def test_a_random_head_does_damage_that_stays_where_examples_are_few():
    ends = {}
    for frozen in (0, 2):
        plants = [
            FineTuningPlant(seed=seed, examples=16, error=0.1, optimizer="adam", rate=0.003, frozen=frozen)
            for seed in range(5)
        ]
        for plant in plants:
            train(plant, 1000)
        ends[frozen] = np.median([plant.evaluate()["validation/loss"] for plant in plants])
    assert ends[0] > 4 * ends[2]


def test_with_many_examples_frozen_features_hold_it_back():
    plants = [FineTuningPlant(examples=256, error=0.3, frozen=frozen) for frozen in (0, 2)]
    for plant in plants:
        train(plant, 1000)
    free, held = (plant.evaluate()["validation/loss"] for plant in plants)
    assert held > 2 * free


def test_fixed_fields_are_not_drawn():
    assert FineTuning.random(3, examples=99).examples == 99
    assert FineTuning.random(3).examples != 99
    assert FineTuning.random(3, examples=99).rate == FineTuning.random(3).rate


def test_a_task_that_cannot_be_is_refused():
    for changes in ({"examples": 0}, {"rate": 0.0}, {"frozen": 3}, {"condition": 0.5}):
        with pytest.raises(TuneError, match="fine-tuning"):
            FineTuningPlant(**changes)
