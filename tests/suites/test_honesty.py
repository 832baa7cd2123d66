"""The mistakes that a benchmark could hide, hunted in every arm."""

import math

import pytest
import torch
from watched import ARMS, REWINDS, STEPS, Watched, named, watch

from autotune.benchmarks.suites.arms import Baseline, Static
from autotune.benchmarks.suites.peers import PEERS
from autotune.benchmarks.suites.results import Config, outcome_from, pack
from autotune.benchmarks.suites.run import LOOKS, Run, execute
from autotune.benchmarks.suites.statistics import capped, median_interval
from autotune.benchmarks.workloads.teacher_student import TeacherStudent
from autotune.records import TuneError

CPU = torch.device("cpu")
every_arm = pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)


def ended(arm, **settings):
    """The weights that an arm ends with."""
    return watch(arm, **settings)[1].weights()


@pytest.mark.parametrize(
    ("arm", "factor"),
    [
        (arm, factor)
        for arm in ARMS
        for factor in (1.0, 100.0)
        if factor == 1 or (arm.decides and arm.uses_rate)
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_no_arm_sees_selection_or_test_data(arm, factor):
    hidden = ended(arm, factor=factor, change=("selection", "test"))
    assert torch.equal(ended(arm, factor=factor), hidden), "it ends elsewhere when they are others"


def test_what_the_comparison_before_this_one_notices():
    """The same with the probe, which arms that decide do see."""
    for name in ("patience", "on schedule", "ReduceLROnPlateau", "GreedyLR"):
        assert not torch.equal(ended(named(name)), ended(named(name), change=("probe",)))


def reachable(thing, found):
    """Adds to `found` the storages of all tensors that public attributes lead to."""
    if isinstance(thing, torch.Tensor):
        found.add(thing.untyped_storage().data_ptr())
    elif isinstance(thing, dict | list | tuple):
        for value in thing.values() if isinstance(thing, dict) else thing:
            reachable(value, found)
    elif id(thing) not in found and not isinstance(thing, type | str | int | float):
        found.add(id(thing))
        for name in dir(thing):
            value = None if name.startswith("_") else getattr(thing, name, None)
            if isinstance(value, torch.nn.Module) or not callable(value):
                reachable(value, found)


def test_no_public_attribute_of_a_run_leads_to_data_that_are_not_the_arms():
    training = TeacherStudent(steps=STEPS).begin(0, CPU)
    run, found = Run(training, STEPS), set()
    run.start(0.01)
    reachable([run, run.hyperparameters(), run.stateful()], found)
    parts = {inputs.untyped_storage().data_ptr() for inputs, _ in training.parts.values()}
    assert next(training.model.parameters()).untyped_storage().data_ptr() in found
    assert not parts & found
    reachable(training, found)
    assert parts <= found, "it would not have found them"


@every_arm
@pytest.mark.parametrize("budget", [1.0, 1.15])
def test_the_books_of_a_run_agree_with_what_was_done(arm, budget):
    outcome, watched = watch(arm, budget=budget)
    probe = watched.training.probe_cost
    assert outcome.steps == watched.updates == len(watched.batches)
    assert outcome.spent == pytest.approx(watched.updates + probe * watched.evaluated["probe"])
    assert outcome.allowed == budget * STEPS
    assert outcome.spent <= outcome.allowed + 1e-6
    assert outcome.spent > outcome.allowed - 1 - probe, "something was left"
    assert watched.evaluated["probe"] > 0 or not isinstance(arm, type(named("guard")))


def test_no_arm_takes_more_steps_than_the_baseline():
    assert watch(Baseline())[0].steps == STEPS
    assert watch(Baseline(), budget=1.15)[0].steps == 115
    for arm in ARMS:
        steps = watch(arm)[0].steps
        assert steps == STEPS if not arm.decides else steps <= STEPS, arm.name


def test_steps_that_were_rewound_count():
    outcome, watched = watch(named("rewinding"))
    assert [(event.spent, event.status) for event in outcome.events] == [(at, "applied") for at in REWINDS]
    furthest = max(event.step for event in outcome.events)
    assert len(set(watched.batches)) == furthest == 40, "the same batches came again"
    assert outcome.steps == watched.updates > STEPS - 10


class Sneaky:
    """Takes a step of its own after each that is counted."""

    name, uses_rate, decides = "sneaky", True, False

    def train(self, run, start):
        optimizer = run.start(start.rate)
        for batch in run.endless():
            run.train(batch)
            optimizer.step()


def test_a_step_that_nobody_counts_is_an_error():
    with pytest.raises(TuneError, match=r"through Run\.train"):
        execute(Watched(), Sneaky(), Config(1e-3), 0, 1.0, CPU)


@every_arm
def test_the_same_seed_gives_every_arm_the_same_beginning(arm):
    of_arm, watched = watch(arm)
    of_baseline, expected = watch(Baseline())
    assert torch.equal(watched.beginning[0], expected.beginning[0]), "weights"
    assert torch.equal(watched.beginning[1], expected.beginning[1]), "noise that is to come"
    assert watched.batches[:30] == expected.batches[:30]  # the first rewind comes then
    assert of_arm.initial == of_baseline.initial
    assert of_arm.initial_selection == of_baseline.initial_selection


def test_another_seed_gives_another_beginning():
    (of_first, first), (of_second, second) = watch(Baseline()), watch(Baseline(), seed=1)
    assert of_first.initial != of_second.initial
    assert not torch.equal(first.beginning[0], second.beginning[0])
    assert not torch.equal(first.beginning[1], second.beginning[1])
    assert first.batches[:30] != second.batches[:30]


@every_arm
def test_every_arm_is_looked_at_at_the_same_moments(arm):
    outcome, watched = watch(arm)
    late = 1 + watched.training.probe_cost  # a step, and an evaluation beside it
    assert len(outcome.looks) >= LOOKS
    for i, look in enumerate(outcome.looks[:LOOKS]):
        assert 0 <= look.spent - i * outcome.allowed / LOOKS < late, (i, look)
    assert outcome.looks[-1].spent == outcome.spent


# The baseline's cells have no rate of their own: theirs is the tuned one.
@pytest.mark.parametrize("arm", [a for a in ARMS if a != Baseline()], ids=lambda arm: arm.name)
def test_an_arm_says_truly_whether_it_uses_the_rate(arm):
    elsewhere = not torch.equal(ended(arm), ended(arm, factor=100.0))
    assert elsewhere == arm.uses_rate


@pytest.mark.parametrize(
    "arm", [Static("constant"), *(peer for peer in PEERS if peer.uses_rate)], ids=lambda arm: arm.name
)
def test_a_run_that_was_destroyed_stays_in_the_mean_with_the_loss_that_it_began_with(arm):
    outcome = execute(TeacherStudent(steps=STEPS), arm, Config(1e4), 0, 1.0, CPU)
    assert math.isnan(outcome.final)
    assert math.isfinite(outcome.initial)
    again = outcome_from(pack(outcome))
    assert math.isnan(again.final)
    assert capped(again.final, again.initial) == outcome.initial
    with pytest.raises(TuneError, match="finite"):
        median_interval([0.1, again.final])
