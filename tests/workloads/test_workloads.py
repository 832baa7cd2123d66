"""What every workload keeps to: seeds, evaluation, parts that are apart, rewinds."""

import math
from dataclasses import replace

import pytest
import torch
from loops import Scripted

from autotune.benchmarks.suites.arms import Static, Tuned
from autotune.benchmarks.suites.results import Config
from autotune.benchmarks.suites.run import Run, execute
from autotune.benchmarks.workloads.digits_mlp import DigitsMLP
from autotune.benchmarks.workloads.sizes import CPU, GPU
from autotune.records import Rewind, Set

DEVICE = torch.device("cpu")
every_workload = pytest.mark.parametrize("workload", CPU, ids=lambda workload: workload.name)


def trained(workload, seed=0):
    outcome = execute(workload, Static("cosine"), Config(workload.rate), seed, 1.0, DEVICE)
    return outcome.initial, outcome.final, [look.selection for look in outcome.looks]


@every_workload
def test_a_seed_gives_the_same_run_whatever_ran_before(workload):
    short = replace(workload, steps=6)
    first = trained(short)
    trained(DigitsMLP(steps=3), seed=7)
    torch.rand(3)
    assert trained(short) == first
    assert trained(short, seed=1) != first


@every_workload
def test_evaluating_disturbs_nothing(workload):
    training = workload.begin(0, DEVICE)
    training.loss(next(iter(training.batches)))  # fills what is carried over
    module = training.model[0] if isinstance(training.model, torch.nn.Sequential) else training.model

    def state():
        values = [*training.model.parameters(), *training.model.buffers(), torch.get_rng_state()]
        return [value.clone() for value in values], [m.training for m in training.model.modules()]

    before = state()
    losses = [training.evaluate(part) for part in ("probe", "selection", "test") * 2]
    after = state()
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1] == after[1]
    assert losses[:3] == losses[3:]
    assert all(0 < loss < math.inf for loss in losses)
    training.model.eval()
    training.evaluate("probe")
    assert not module.training


@every_workload
def test_an_epoch_is_a_pass_in_another_order(workload):
    training = workload.begin(0, DEVICE)
    first, second = list(training.batches), list(training.batches)
    assert len(first) == len(second) == workload.epoch
    assert not torch.equal(first[0][0], second[0][0])
    positions = training.parts["probe"][0].numel() / first[0][0].numel()
    assert training.probe_cost == pytest.approx(positions / 3)


@every_workload
def test_a_rewind_brings_the_same_steps_again(workload):
    """Twice back to step 10: first at half the rate, then as it was."""
    training = workload.begin(0, DEVICE)
    losses, loss = [], training.loss

    def remembered(batch):
        value = loss(batch)
        losses.append(value.item())
        return value

    def back(factor):
        return [Rewind(10, then=(Set("lr", factor * workload.rate, reason=""),), reason="")]

    training.loss = remembered
    run = Run(training, 50)
    Tuned("rewinding", lambda: [Scripted({20: back(0.5), 30: back(1.0)})]).train(run, Config(workload.rate))
    assert [event.status for event in run.events] == ["applied", "applied"]
    first, half, again = losses[10:20], losses[20:30], losses[30:40]
    assert again == first
    assert half[0] == first[0]
    assert half[1:] != first[1:]


@every_workload
def test_the_tuner_takes_it_under_a_schedule_too(workload):
    short = replace(workload, steps=24)
    arm = Tuned("still", lambda: [Scripted({})], on_schedule=True)
    outcome = execute(short, arm, Config(workload.rate, "cosine"), 0, 1.0, DEVICE)
    assert outcome.steps >= 6
    assert math.isfinite(outcome.final)


def test_names_are_unique_and_settings_sensible():
    for workloads in (CPU, GPU):
        assert len({workload.name for workload in workloads}) == len(workloads)
        assert all(workload.steps > 0 and workload.rate > 0 and workload.target > 0 for workload in workloads)
    assert len(CPU) >= 8
