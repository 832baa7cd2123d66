"""The training run in miniature has what its docstring says: each property is what a policy is proved on."""

import dataclasses

import numpy as np
import pytest

from autotune.records import TuneError
from autotune.testing import Simulation, Task, TrainingPlant

QUIET = Task(noise=0.0, loss_noise=0.0)


def trained(task, steps=1000, **values):
    """A plant after so many steps with these hyperparameters."""
    plant = TrainingPlant(task)
    for name, value in values.items():
        next(p for p in plant.hyperparameters if p.name == name).write(value)
    for batch in range(steps):
        plant.step(batch)
    return plant


def losses(plant):
    measured = plant.evaluate()
    return measured["train/loss"], measured["validation/loss"]


@pytest.mark.parametrize("seed", range(1000, 1010))
def test_the_loss_is_1_at_the_start_and_the_gap_what_was_asked_for(seed):
    task = Task.random(seed, overfit=0.3, poison=0.0, rate=1e-3)
    plant = TrainingPlant(task)
    assert losses(plant)[0] == pytest.approx(1 + task.floor)
    plant._state.weights = plant._optimum.copy()
    assert plant.evaluate()["generalization_gap"] == pytest.approx(0.3)
    assert losses(plant)[0] == pytest.approx(task.floor)


@pytest.mark.parametrize("fields", [{}, {"pretrained": 0.3}, {"long": 256}], ids=str)
def test_the_same_state_and_batches_give_the_same_numbers(fields):
    plant = trained(Task(optimizer="adam", rate=0.02, **fields), 50)
    state, cost = plant.capture(), plant.cost
    first = [plant.step(batch) for batch in range(50, 90)]
    after = plant.evaluate()
    for _ in range(2):  # a second time: what was captured is not what is trained on
        plant.restore(state)
        assert [plant.step(batch) for batch in range(50, 90)] == first
        assert plant.evaluate() == after == plant.evaluate()
    assert plant.cost > cost  # steps that were rewound are paid for
    plant.restore(state)
    others = [plant.step(batch) for batch in range(90, 130)]
    assert all(a["loss"] != b["loss"] for a, b in zip(first, others, strict=True))


def test_it_learns_at_a_usual_rate_and_breaks_at_a_far_higher_one():
    for optimizer in ("sgd", "adam"):
        for scale in (0.1, 1.0, 10.0):
            task = Task(optimizer=optimizer, scale=scale)
            good, low, high = (
                losses(trained(dataclasses.replace(task, rate=factor * task.usual_rate)))[0]
                for factor in (1, 1e-3, 1e3)
            )
            assert good < 0.1 < 0.5 < low
            assert not high < 2  # NaN is broken too


def test_what_is_bounded_saturates_when_it_breaks():
    task = Task(rate=1e3, loss_noise=0.0)
    bounded, unbounded = TrainingPlant(task, bounded=True), TrainingPlant(task)
    highest = max(bounded.step(batch)["loss"] for batch in range(300))
    assert highest == pytest.approx(3 + task.floor, rel=0.01)
    assert max(unbounded.step(batch)["loss"] for batch in range(300)) > 1e6


def test_regularisation_and_early_stopping_help_where_it_overfits():
    task = Task(overfit=0.5, condition=100.0, rate=0.3)
    bare = losses(trained(task, 3000))[1]
    assert losses(trained(task, 3000, dropout=0.3))[1] < 0.97 * bare
    assert losses(trained(task, 3000, weight_decay=0.03))[1] < 0.97 * bare
    values = [v for _, _, v in Simulation(TrainingPlant(task), budget=3000).run().values["validation/loss"]]
    assert min(values) < 0.97 * values[-1]
    healthy = dataclasses.replace(task, overfit=0.0)
    assert losses(trained(healthy, 3000, dropout=0.3))[1] > losses(trained(healthy, 3000))[1]


def test_a_larger_batch_has_less_noise_and_costs_more():
    small, large = (TrainingPlant(Task(noise=1.0, seed=3)) for _ in range(2))
    large.batch_size = 128
    one, four = small.step(0), large.step(0)
    assert four["gradient_snr"] == pytest.approx(4 * one["gradient_snr"])
    assert four["gradient_noise_scale/examples"] == pytest.approx(one["gradient_noise_scale/examples"])
    assert one["gradient_noise_scale"] == pytest.approx(one["gradient_noise_scale/examples"] / 32)
    assert (small.cost, large.cost) == (1, 4)
    spread = {
        size: np.std([np.log(trained(Task(), 0, batch_size=size).step(b)["loss"]) for b in range(200)])
        for size in (32, 128)
    }
    assert spread[128] == pytest.approx(spread[32] / 2, rel=0.01)


def test_the_gradient_has_the_noise_that_is_measured():
    squares, told = [], []
    for seed in range(400):
        plant = TrainingPlant(Task(noise=1.0, seed=1))
        measured = plant.step(seed)
        squares.append(measured["gradient_norm"] ** 2)
        told.append(measured["gradient_snr"])
    signal = np.sum((plant._h * (plant._optimum - TrainingPlant(plant.task)._state.weights)) ** 2)
    assert np.mean(squares) == pytest.approx(signal * (1 + 1 / told[0]), rel=0.1)


def test_alignment_tells_too_low_a_rate_from_too_high_a_one():
    def alignment(rate):
        plant = trained(dataclasses.replace(QUIET, rate=rate), 20, momentum=0.0)
        return np.mean([plant.step(batch)["update_alignment"] for batch in range(20, 40)])

    assert alignment(1e-3) < -0.9  # the way still leads downhill
    assert alignment(1.95) > 0.5  # it jumps over the valley


def test_bad_batches_are_where_they_were_said_to_be():
    plant = TrainingPlant(Task(rate=1e-6, burst=(20, 30)))
    norms = np.array([plant.step(batch)["gradient_norm"] for batch in range(50)])
    assert np.flatnonzero(norms > 20 * np.median(norms)).tolist() == list(range(20, 30))
    plant = TrainingPlant(Task(rate=1e-6, poison=0.05))
    norms = np.array([plant.step(batch)["gradient_norm"] for batch in range(2000)])
    assert np.mean(norms > 20 * np.median(norms)) == pytest.approx(0.05, abs=0.015)


def test_clipping_bounds_the_step_and_not_what_is_measured():
    plant = TrainingPlant(Task(rate=0.3, burst=(0, 1)))
    plant.gradient_clip, plant.momentum, before = 0.1, 0.0, plant._state.weights.copy()
    assert plant.step(0)["gradient_norm"] > 1
    assert np.linalg.norm(plant._state.weights - before) == pytest.approx(0.3 * 0.1)


def test_frozen_layers_stand_still_and_cost_less():
    plant = TrainingPlant(Task(pretrained=0.3, rate=0.3))
    plant.frozen_layers, before = 2, plant._state.weights.copy()
    measured = plant.step(0)
    assert np.flatnonzero(plant._state.weights != before).tolist() == list(range(16, 24))
    assert {"gradient_norm/head", "update_ratio/head"} <= measured.keys()
    assert not {"gradient_norm/stem", "gradient_norm/body"} & measured.keys()
    assert plant.cost == pytest.approx(5 / 9)  # two of three groups at a third
    assert "frozen_layers" not in [p.name for p in TrainingPlant().hyperparameters]


def test_short_sequences_are_cheap_and_see_no_long_range():
    task = Task(long=256, rate=0.3)
    short, full = trained(task), trained(task, sequence_length=256)
    assert short.cost == pytest.approx(full.cost / 32)
    assert losses(short)[0] > 1.5 * losses(full)[0]
    assert "sequence_length" not in [p.name for p in TrainingPlant().hyperparameters]


def test_random_tasks_are_the_same_for_a_seed_and_broad_over_seeds():
    tasks = [Task.random(seed) for seed in range(1000, 1200)]
    assert tasks[:5] == [Task.random(seed) for seed in range(1000, 1005)]
    off = np.log10([task.rate / task.usual_rate for task in tasks])
    assert -3 <= off.min() < -2.5
    assert 0.5 < off.max() <= 1
    assert {task.optimizer for task in tasks} == {"sgd", "adam"}
    fixed = Task.random(1000, scale=2.0, optimizer="adam")
    assert (fixed.scale, fixed.optimizer, fixed.floor) == (2.0, "adam", tasks[0].floor)
    assert Task.random(1000, rate=0.5).rate == 0.5


@pytest.mark.parametrize(
    "wrong", [{"condition": 0.5}, {"scale": 0.0}, {"rate": -1.0}, {"poison": 2.0}], ids=str
)
def test_a_task_that_cannot_be_is_refused(wrong):
    with pytest.raises(TuneError, match="a task has condition >= 1"):
        TrainingPlant(**wrong)


def test_every_signal_that_is_named_is_measured():
    plant = TrainingPlant()
    assert {*plant.step(0), *plant.evaluate()} == set(plant.signals)
