"""What a run counts, what it shows from outside, and when it ends."""

import itertools
import math

import pytest
import torch
from torch.optim import SGD

from autotune.benchmarks.suites.results import Config
from autotune.benchmarks.suites.run import LOOKS, BudgetSpent, Run, execute
from autotune.benchmarks.suites.workload import Training
from autotune.records import TuneError


class Curves(Training):
    """Its losses are functions of the number of updates."""

    def __init__(self, probe_cost=0.5, **curves):
        self.model = torch.nn.Linear(2, 1)
        self.batches = torch.ones(5, 3, 2).unbind()
        self.probe_cost, self.curves, self.updates = probe_cost, curves, 0

    def optimizer(self, rate, weight_decay=None):
        return SGD(self.model.parameters(), lr=rate, weight_decay=weight_decay or 0.0)

    def loss(self, batch):
        return self.model(batch).square().mean()

    def update(self, loss, optimizer):
        super().update(loss, optimizer)
        self.updates += 1

    def evaluate(self, part):
        return self.curves.get(part, lambda step: 1.0)(self.updates)


def begun(allowed=50, **settings):
    run = Run(Curves(**settings), allowed)
    run.start(0.01)
    return run


def train(run, steps):
    for batch in itertools.islice(run.endless(), steps):
        run.train(batch)
        run.look()


def test_steps_and_probes_cost_what_they_cost_until_the_budget_is_spent():
    run = begun(allowed=10, probe_cost=2.5, probe=lambda step: 7.0)
    train(run, 3)
    assert run.probe() == 7.0
    assert (run.steps, run.spent) == (3, 5.5)
    assert run.steps_beside(1) == 2
    train(run, 2)
    run.probe()
    with pytest.raises(BudgetSpent):
        train(run, 1)
    with pytest.raises(BudgetSpent):
        run.probe()
    outcome = run.outcome()
    assert (outcome.steps, outcome.spent, outcome.allowed) == (5, 10.0, 10)


def test_what_goes_beyond_the_budget_is_not_done():
    run = begun(allowed=3)
    train(run, 3)
    weight = run.model.weight.detach().clone()
    with pytest.raises(BudgetSpent):
        train(run, 1)
    assert torch.equal(run.model.weight, weight)
    assert run.steps == run.spent == 3


@pytest.mark.parametrize(("budget", "steps", "whole"), [(1.15, 100, 115), (1.15, 300, 345), (1.1, 30, 33)])
def test_rounding_takes_no_step_away(budget, steps, whole):
    run = begun(allowed=budget * steps)
    assert run.steps_beside(0) == whole
    train(run, whole)
    with pytest.raises(BudgetSpent):
        train(run, 1)


def test_a_budget_of_thirds_pays_for_as_many_probes_as_were_set_aside():
    run = begun(allowed=100, probe_cost=1 / 3)
    steps = run.steps_beside(run.probes)
    assert run.probes == 12
    assert steps == 96
    train(run, steps)
    for _ in range(run.probes):
        run.probe()


@pytest.mark.parametrize(("cost", "probes"), [(0.01, 25), (1.0, 4), (1000.0, 2)])
def test_probes_take_at_most_a_25th_of_the_budget_but_there_are_two(cost, probes):
    assert begun(allowed=100, probe_cost=cost).probes == probes


def test_a_run_has_a_step():
    for allowed in (0, 0.5, math.nan):
        with pytest.raises(TuneError, match="at least 1 step"):
            Run(Curves(), allowed)


def test_an_optimizer_comes_first():
    with pytest.raises(AssertionError, match="comes first"):
        train(Run(Curves(), 10), 1)


def test_looks_are_a_25th_of_the_budget_apart():
    seen = []
    run = Run(Curves(selection=lambda step: 2.0 - step / 100), 100, lambda *look: seen.append(look))
    run.start(0.25)
    train(run, 100)
    assert [spent for spent, _ in seen] == list(range(0, 101, 4))
    assert [loss for _, loss in seen] == [2.0 - spent / 100 for spent, _ in seen]
    looks = run.outcome().looks
    assert [look.spent for look in looks] == [spent for spent, _ in seen]
    assert [look.rate for look in looks[1:]] == [0.25] * LOOKS
    assert math.isnan(looks[0].rate)


def test_looks_cost_the_arm_nothing():
    run = begun(allowed=100)
    train(run, 100)
    assert run.outcome().spent == 100


def test_on_look_may_end_the_run():
    class Pruned(Exception):
        pass

    def prune(spent, loss):
        if spent >= 40:
            raise Pruned

    run = Run(Curves(), 100, prune)
    run.start(0.01)
    with pytest.raises(Pruned):
        train(run, 100)
    assert run.steps == 40


def test_the_best_state_is_chosen_by_selection_and_reported_by_test():
    run = begun(
        allowed=LOOKS,
        selection=lambda step: (step - 10) ** 2 + 1.0,
        test=lambda step: (step - 20) ** 2 + 0.5,
        probe=lambda step: (step - 5) ** 2 + 0.1,
    )
    train(run, LOOKS)
    outcome = run.outcome()
    assert (outcome.best, outcome.best_selection) == (100.5, 1.0)
    assert (outcome.final, outcome.selection) == (25.5, 226.0)
    assert (outcome.initial, outcome.initial_selection) == (400.5, 101.0)


def test_a_loss_that_is_no_number_is_no_best_state_and_ends_in_the_outcome():
    def failing(step):
        return 1.0 - step / 10 if step < 5 else math.nan

    run = begun(allowed=LOOKS, selection=failing, test=failing)
    train(run, 4)
    assert not run.destroyed
    train(run, 4)
    assert run.destroyed
    outcome = run.outcome()
    assert math.isnan(outcome.final)
    assert outcome.best == outcome.best_selection == 0.6


def test_the_last_state_is_looked_at_when_an_arm_ends_early():
    run = begun(allowed=50, selection=lambda step: 1.0 / (1 + step))
    train(run, 7)
    outcome = run.outcome()
    assert outcome.looks[-1].spent == 7
    assert outcome.selection == outcome.best_selection == 1 / 8


def test_a_step_outside_of_train_is_an_error_also_when_train_has_failed():
    run = begun()
    with pytest.raises(RuntimeError, match="shapes"):
        run.train(torch.ones(3, 7))
    with pytest.raises(TuneError, match=r"goes through Run\.train"):
        run.optimizer.step()
    other = run.use(SGD(run.model.parameters(), lr=0.1))
    with pytest.raises(TuneError, match=r"goes through Run\.train"):
        other.step()


class Averaging(SGD):
    """Is somewhere else in eval mode, and does not come back quite exactly."""

    moved = 1e-7
    training = True

    def eval(self):
        self.shift(1.0)

    def train(self):
        self.shift(-1.0 + self.moved)

    @torch.no_grad()
    def shift(self, by):
        self.training = by < 0
        for parameter in self.param_groups[0]["params"]:
            parameter += by


def test_a_look_at_averaged_weights_changes_nothing():
    run = begun(probe=lambda step: float(run.optimizer.training))
    run.use(Averaging(run.model.parameters(), lr=0.01))
    before = run.model.weight.detach().clone()
    assert run.probe() == 0.0, "evaluated in training mode"
    assert run.optimizer.training
    assert torch.equal(run.model.weight, before)


def test_what_must_be_measured_again_is_measured_in_eval_mode():
    run, seen = begun(), []
    run.use(Averaging(run.model.parameters(), lr=0.01), lambda: seen.append(run.optimizer.training))
    run.probe()
    assert seen == [False]


class Stubborn:
    """Trains for ever."""

    name, uses_rate, decides = "stubborn", False, False

    def train(self, run, start):
        run.start(start.rate)
        for batch in run.endless():
            run.train(batch)


class Task:
    name, steps, epoch, rate, target = "task", 20, 5, 0.1, 0.1

    def begin(self, seed, device):
        torch.manual_seed(seed)
        return Curves()


def test_execute_ends_an_arm_that_does_not_end_itself():
    outcome = execute(Task(), Stubborn(), Config(0.1), 0, 1.5, torch.device("cpu"))
    assert outcome.steps == outcome.allowed == 30
