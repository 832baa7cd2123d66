"""Schedules, static runs, policies in the tuner."""

import math

import pytest
import torch
from watched import STEPS, Watched, named, watch

from autotune.benchmarks.suites.arms import SCHEDULES, Baseline, Static, Tuned, schedule
from autotune.benchmarks.suites.results import Config
from autotune.benchmarks.suites.run import BudgetSpent, Run, execute
from autotune.benchmarks.workloads.digits_mlp import DigitsMLP
from autotune.policies import Hypergradient
from autotune.records import TuneError

CPU = torch.device("cpu")
DIGITS = DigitsMLP(steps=STEPS)


def rates(config, steps):
    """The rate, and the weight decay, of each step."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=config.rate, weight_decay=0.3)
    scheduler, seen = schedule(optimizer, config, steps), []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["weight_decay"]))
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 7, 300, 1000])
def test_a_schedule_stays_between_nothing_and_its_peak(name, steps):
    values = [rate / 0.5 for rate, _ in rates(Config(0.5, name), steps)]
    assert all(0 < value <= 1 + 1e-12 for value in values), "no step is wasted"
    assert all(decay == 0.3 for _, decay in rates(Config(0.5, name), steps))
    if steps >= 300:
        assert max(values) > 0.98, "the rate of a configuration is the peak"


def test_schedules_at_their_turning_points():
    parts = (0.0, 0.05, 0.3, 0.5, 0.7, 1.0)
    at = {name: [shape(part) for part in parts] for name, shape in SCHEDULES.items()}
    assert at["constant"] == [1.0] * 6
    assert at["step"] == pytest.approx([1.0, 1.0, 1.0, 0.1, 0.01, 0.001])
    assert at["linear"] == pytest.approx([1.0, 0.95, 0.7, 0.5, 0.3, 0.0])
    assert at["cosine"] == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * x)) for x in (0, 0.05, 0.3, 0.5, 0.7, 1)]
    )
    assert at["inverse_sqrt"] == pytest.approx([0.0, 1.0, *((0.05 / x) ** 0.5 for x in parts[2:])])
    assert at["wsd"] == pytest.approx([0.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    assert at["1cycle"][0] == pytest.approx(0.04)
    assert at["1cycle"][2] == pytest.approx(1.0)
    assert at["1cycle"][5] == pytest.approx(0.0)


def test_pieces_that_a_population_found():
    pieces = ((0.0, 0.1, 0.0), (0.5, 0.4, 0.01), (0.8, 0.02, 0.2))
    seen = rates(Config(0.1, "pieces", pieces=pieces), 10)
    assert seen == [pytest.approx(pair) for pair in [(0.1, 0.0)] * 5 + [(0.4, 0.01)] * 3 + [(0.02, 0.2)] * 2]


@pytest.mark.parametrize("name", ["linear", "wsd"])
def test_a_static_run_is_the_plain_loop(name):
    outcome = execute(DIGITS, Static(name), Config(2e-3, "cosine", 0.5), 4, 1.0, CPU)
    training = DIGITS.begin(4, CPU)
    optimizer = torch.optim.AdamW(training.model.parameters(), lr=2e-3, weight_decay=0.01)  # the usual
    step = 0
    while step < STEPS:
        for inputs, targets in training.batches:
            if step == STEPS:
                break
            optimizer.param_groups[0]["lr"] = 2e-3 * SCHEDULES[name]((step + 0.5) / STEPS)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(training.model(inputs), targets).backward()
            optimizer.step()
            step += 1
    assert outcome.final == pytest.approx(training.evaluate("test"), rel=1e-5)


def test_the_baseline_runs_all_of_its_configuration():
    def ended(arm, config):
        return execute(DIGITS, arm, config, 0, 1.0, CPU).final

    tuned = Config(2e-3, "linear", 0.5)
    assert ended(Baseline(), tuned) != ended(Static("linear"), tuned), "its weight decay"
    assert ended(Baseline(), Config(2e-3, "linear")) == ended(Static("linear"), tuned)
    assert ended(Baseline(), tuned) != ended(Baseline(), Config(2e-3, "cosine", 0.5))


def test_a_run_that_was_destroyed_does_not_go_on():
    outcome = execute(DigitsMLP("sgd", steps=STEPS), Static(), Config(1e30), 0, 1.0, CPU)
    assert math.isnan(outcome.final)
    assert outcome.steps <= 2 * STEPS / 25


def test_a_schedule_has_a_name():
    with pytest.raises(TuneError, match=r"one of constant, step, .*, got 'square'"):
        Static("square")


def test_policies_that_do_nothing_change_nothing():
    """Beside the steps that evaluations cost, which come off the end."""
    _, watched = watch(named("guard"))
    probe, plain = Watched(), watched.updates
    run = Run(probe.begin(0, CPU), STEPS)
    optimizer = run.start(probe.rate)
    batches = run.endless()
    for _ in range(plain):
        run.train(next(batches))
    assert optimizer.param_groups[0]["lr"] == probe.rate
    assert torch.equal(probe.weights(), watched.weights())


def test_decisions_are_in_the_outcome():
    outcome, _ = watch(named("patience"))
    assert outcome.events
    first = outcome.events[0]
    assert (first.source, first.status) == ("reduce_on_plateau", "applied")
    assert first.text.startswith("lr → 0.0003: ")
    assert outcome.looks[-1].rate < 3e-3 == outcome.looks[1].rate


def test_policies_on_the_tuned_schedule_see_its_rates():
    arm = Tuned("still", list, on_schedule=True)
    rates_seen = [look.rate for look in watch(arm)[0].looks[1:]]
    assert rates_seen == sorted(rates_seen, reverse=True)
    assert rates_seen[-1] < 0.05 * rates_seen[0], "linear to nothing"


def test_each_run_has_policies_of_its_own():
    made = []

    def policies():
        made.append(Hypergradient())
        return made[-1:]

    arm = Tuned("fresh", policies)
    finals = {execute(DIGITS, arm, Config(1e-3), 0, 1.0, CPU).final for _ in range(2)}
    assert len(finals) == 1
    assert len(made) == 2


class Greedy:
    """Looks at the probe whenever it is asked."""

    name, requires, controls = "greedy", (), ()

    def __init__(self, run):
        self.run = run

    def decide(self, observation):
        for _ in range(10):
            self.run.probe()
        return []

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_evaluations_that_were_not_set_aside_cost_steps():
    run = Run(Watched().begin(0, CPU), STEPS)
    Tuned("greedy", lambda: [Greedy(run)]).train(run, Config(1e-3))
    outcome = run.outcome()
    assert outcome.spent <= STEPS + 1e-6
    assert outcome.steps < 80
    with pytest.raises(BudgetSpent):
        run.pay(1)
