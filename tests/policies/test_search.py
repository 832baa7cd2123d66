import json
import math

import people
import pytest
import torch
from loops import INPUTS, LABELS, Loop
from torch import nn
from torch.nn.functional import mse_loss, one_hot
from torch.utils.data import DataLoader, TensorDataset

from autotune import Limits
from autotune.actuators import learning_rate
from autotune.commands import command
from autotune.hyperparameters import FloatHyperparameter
from autotune.policies import recommended, rungs, schedules
from autotune.policies.bayesian_search import BayesianSearch
from autotune.policies.search import RateSearch
from autotune.records import FACTOR, Adopt, Policy, Probe, Ramp, Release, Rewind, Set, Suggest
from autotune.testing import Simulation, Task, TrainingPlant
from autotune.testing.training import Field


class Descent:
    """A run whose loss goes down the faster the higher its rate, and is at chance above 8 times the best.

    `validation` is a function of the plant; from step `dies` on, a rate above `fatal` leaves it at chance.
    """

    signals = ("loss", "update_ratio", "validation/loss")
    cost = 0.0
    chance = 2.0

    def __init__(self, rate=0.1, best=0.1, validation=None, moves=0.01, low=1e-12, high=1e12):
        self.hyperparameters = [FloatHyperparameter("lr", rate, low=low, high=high, log=True)]
        self.best, self.moves, self.validation = best, moves, validation
        self.at, self.loss, self.dead = 0, self.chance, False
        self.dies, self.fatal = math.inf, math.inf

    def step(self, batch):
        rate, before = self.hyperparameters[0](), self.loss
        unit = rate / self.best
        self.at += 1
        self.dead = self.dead or unit > 8 or (self.at >= self.dies and rate > self.fatal)
        if self.dead:
            self.loss = 1.01 * self.chance
        else:
            self.loss += (0.1 * min(1.0, unit) + 0.01 - self.loss) * 0.02 * unit
        return {"loss": before, "update_ratio": self.moves * unit}

    def evaluate(self):
        return {"validation/loss": self.validation(self) if self.validation else self.loss}

    def capture(self):
        return self.at, self.loss, self.dead

    def restore(self, state):
        self.at, self.loss, self.dead = state


def run(plant, policies=None, budget=1000, **settings):
    return Simulation(plant, policies or [RateSearch()], budget=budget, **settings).run()


def of(sim, *kinds, source="rate_search"):
    return [d for d in sim.decisions if isinstance(d.action, kinds) and d.source == source]


def adopted(sim):
    (decision,) = of(sim, Adopt)
    assert decision.status == "applied"
    return decision


def plant_at(rate, **task):
    """A plant whose rate has no bounds that matter."""
    plant = TrainingPlant(Task(rate=rate, **task))
    field = FloatHyperparameter("lr", low=1e-30, high=1e30, log=True, actuator=Field(plant, "lr"))
    plant.hyperparameters = [field]
    return plant


def test_it_is_a_policy():
    policy = RateSearch("rate", name="mine")
    assert isinstance(policy, Policy)
    assert (policy.name, policy.controls, policy.requires) == ("mine", ("rate",), ("loss",))


# --- from anywhere -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])  # right are rates of some 1e-9, 1 and 100 (sgd)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_it_ends_at_the_same_rate_and_loss_from_wherever_it_starts(optimizer, scale):
    task = Task(optimizer=optimizer, scale=scale)
    rates, losses = [], []
    for off in (1e-6, 1e-3, 1.0, 1e3, 1e6):
        plant = plant_at(off * task.usual_rate, optimizer=optimizer, scale=scale, seed=1001)
        sim = run(plant)
        assert not sim.benched
        rates.append(adopted(sim).after["lr"])
        losses.append(plant.evaluate()["validation/loss"])
    assert max(rates) < 1.5 * min(rates)
    assert max(losses) < 1.2 * min(losses)
    assert max(losses) < 0.1, "of 1 at the start"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw-foreach"])
def test_a_real_network_ends_at_the_same_rate_and_loss_from_wherever_it_starts(tmp_path, optimizer):
    rates, losses = [], []
    for i, rate in enumerate((1e-7, 1e-2, 1e4)):
        loop = Loop(optimizer)
        loop.optimizer.param_groups[0]["lr"] = rate
        tuner = loop.tuner(
            tmp_path / f"{i}",
            policies=[RateSearch()],
            hyperparameters=[learning_rate(loop.optimizer, low=1e-9, high=1e9)],
            total_steps=400,
            evaluate=loop.validate,
        )
        with tuner:
            for batch in tuner.batches(loop.loader):
                tuner.report(loss=loop.step(batch))
        (decision,) = (d for d in tuner.decisions if isinstance(d.action, Adopt))
        rates.append(decision.after["lr"])
        losses.append(loop.validate())
    assert max(rates) < 1.5 * min(rates)
    assert max(losses) < min(losses) + 0.15
    assert max(losses) < 0.7, "of some 1.4 at the start"


@pytest.mark.parametrize("rate", [1e-4, 1e4])
def test_a_bounded_loss_at_which_nothing_explodes(tmp_path, rate):
    torch.manual_seed(0)
    targets = one_hot(LABELS, 4).float()
    loop = Loop()
    loop.model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 4), nn.Sigmoid())
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=rate, momentum=0.9)

    def validate():
        return mse_loss(loop.model(INPUTS), targets).item()

    start = validate()
    tuner = loop.tuner(
        tmp_path,
        policies=[RateSearch()],
        hyperparameters=[learning_rate(loop.optimizer, low=1e-9, high=1e9)],
        total_steps=400,
        evaluate=validate,
    )
    with tuner:
        for inputs, wanted in tuner.batches(DataLoader(TensorDataset(INPUTS, targets), 32, shuffle=True)):
            loss = mse_loss(loop.model(inputs), wanted)
            loop.optimizer.zero_grad()
            loss.backward()
            loop.optimizer.step()
            tuner.report(loss=loss)
    assert validate() < 0.1 * start


@pytest.mark.parametrize(("moves", "way"), [(100.0, 1), (1e-3, -1)])
def test_the_bracket_moves_down_and_up(moves, way):
    """The anchor lies where rate × moves is 0.3: some 300 times too low, or too high."""
    sim = run(Descent(moves=moves))
    tried = [d.action.then[-1].value for d in of(sim, Probe)[1:]]
    assert (tried[2] - tried[0]) * way > 0
    assert 0.03 < adopted(sim).after["lr"] < 0.8


def test_scores_may_lie_about_any_value():
    """A constant that is added to the loss, positive or negative, changes nothing."""
    rates = []
    for offset in (0.0, -3.0, 10.0):
        plant = Descent(validation=lambda p, offset=offset: p.loss + offset)
        step = plant.step
        plant.step = lambda batch, step=step, offset=offset: {
            **(measured := step(batch)),
            "loss": measured["loss"] + offset,
        }
        rates.append(adopted(run(plant)).after["lr"])
    assert rates == pytest.approx([rates[0]] * 3)


# --- where there is nothing to find ------------------------------------------------------------------------


def test_where_all_rates_kill_it_says_so_and_leaves_the_run_as_it_was():
    sim = run(Descent(rate=0.1, moves=1e-6))
    assert not of(sim, Adopt, Set, Rewind)
    assert "no rate was found" in of(sim, Suggest)[-1].action.reason
    assert not sim.benched
    assert sim["lr"] == 0.1
    spent = max(d.spent for d in of(sim, Probe))
    assert sim.clock.step >= 1000 - spent - 30


@pytest.mark.parametrize("seed", range(6))
def test_dead_rates_are_not_told_apart_by_noise(seed):
    """All but the lowest rates tried leave the loss at chance, give or take a little."""
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(seed)).tolist()
    plant = Descent(rate=1.0, best=1e-4, moves=0.3e-4)
    step, drawn = plant.step, iter(noise)

    def noisy(batch):
        measured = step(batch)
        return {**measured, "loss": measured["loss"] + 0.01 * next(drawn)}

    plant.step = noisy
    sim = run(plant)
    for decision in of(sim, Adopt):
        assert decision.after["lr"] < 8e-4


def test_without_a_budget_it_says_so_and_does_nothing():
    sim = Simulation(Descent(), [RateSearch()], budget=None).run(300)
    (advice,) = of(sim, Suggest)
    assert "total_steps" in advice.action.reason
    assert len(sim.decisions) == 1
    assert sim.clock.step == sim.clock.spent == 300


def test_a_rate_that_a_person_holds_is_left_alone():
    plant = Descent()
    sim = Simulation(plant, [RateSearch()], budget=500)
    sim.submit(Set("lr", 0.01, reason=""), "human:anna")
    sim.run()
    assert [d.status for d in sim.decisions if d.source == "rate_search"] == ["suggested"]
    assert sim["lr"] == 0.01
    assert sim.clock.step == 500


def test_a_rate_that_a_schedule_moves_is_left_alone():
    sim = run(Descent(), [schedules.linear(steps=500), RateSearch()])
    assert {d.status for d in sim.decisions if d.source == "rate_search"} == {"suggested"}
    assert sim.clock.step == 1000


def test_a_factor_on_a_schedule_is_left_alone():
    plant = Descent(rate=1.0)
    plant.hyperparameters = [FloatHyperparameter("lr", 1.0, low=1e-4, high=1e4, log=True, unit=FACTOR)]
    sim = run(plant)
    (advice,) = sim.decisions
    assert "schedule" in advice.action.reason
    assert sim["lr"] == 1.0


def test_a_first_trial_that_is_refused_ends_the_search():
    sim = run(Descent(), limits=Limits(max_trials=1))
    assert "refused" in of(sim, Suggest)[-1].action.reason
    assert not of(sim, Adopt)
    assert not sim.benched
    assert sim["lr"] == 0.1
    assert sim.clock.spent == 1000


@pytest.mark.parametrize("trials", [4, 5, 6])
def test_a_later_trial_that_is_refused_leaves_the_best_so_far(trials):
    """The last of the first rung, the first of the second, and the second of a pair."""
    sim = run(Descent(rate=1e-3), limits=Limits(max_trials=trials))
    assert not sim.benched
    assert 0.05 < sim["lr"] < 0.8
    assert sim.clock.spent == 1000


def test_suggestions_try_nothing():
    sim = run(Descent(), suggest=True)
    assert sim.clock.step == 1000
    assert {d.status for d in sim.decisions} == {"suggested"}


@pytest.mark.parametrize(("low", "high"), [(1e-8, 0.02), (1e-8, 0.003), (20.0, 1e3), (5.0, 200.0)])
def test_it_keeps_within_the_bounds(low, high):
    """The anchor, at 3, is above what is allowed, or below."""
    plant = Descent(rate=math.sqrt(low * high), low=low, high=high)
    sim = run(plant)
    assert not sim.benched
    assert low <= sim["lr"] <= high
    tried = list(of(sim, Probe))
    assert not any("out of bounds" in d.note for d in tried)
    if high < 0.1:
        assert adopted(sim).after["lr"] > high / 10, "the highest is the best"


def steered(tmp_path, search, rate, sent):
    """A run of 800 steps, to which a person sends actions when so many are spent: at first in a trial."""
    loop = Loop("sgd")
    loop.optimizer.param_groups[0]["lr"] = rate
    with loop.tuner(tmp_path, policies=[search], total_steps=800) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            people.post(tuner, *(command(action, "ada") for action in sent.get(tuner.spent, ())))
    first = next(d for d in tuner.decisions if d.source == "human:ada")
    assert "the trials under way" in first.note
    return tuner


@pytest.mark.parametrize("make", [RateSearch, BayesianSearch])
def test_while_a_person_holds_the_rate_it_waits_and_begins_anew_after_the_release(tmp_path, make):
    search, release = make(), Release("lr", reason="")
    tuner = steered(tmp_path, search, 1e-6, {30: [Set("lr", 1e-5, reason="mine")], 150: [release]})
    mine = [d for d in tuner.decisions if d.source == search.name and d.spent > 30]
    assert mine[0].action.reason.startswith("the search waits: lr is held by human:ada")
    assert {d.step for d in mine if isinstance(d.action, Probe)} == {120}, "none before, all from one state"
    assert any(isinstance(d.action, Adopt) and d.applied for d in mine)
    assert 1e-2 < tuner.hyperparameters["lr"]() < 3


@pytest.mark.parametrize("make", [RateSearch, BayesianSearch])
def test_when_a_person_ends_a_round_only_scores_of_one_state_are_compared(tmp_path, make):
    search = make()
    tuner = steered(tmp_path, search, 1e-3, {60: [Set("lr", 1e-3, reason=""), Release("lr", reason="")]})
    probes = [d for d in tuner.decisions if isinstance(d.action, Probe)]
    began = {d.step for d in probes if d.spent > 60}
    assert len(began) == 1
    assert began != {0}
    (adopted,) = (d for d in tuner.decisions if isinstance(d.action, Adopt))
    later = {d.id for d in probes if d.spent > 60}
    assert adopted.action.trial in later
    if make is RateSearch:
        assert sum(map(len, search._results)) == len(later)
    else:
        assert {tried["id"] for tried in search._done} <= later


# --- what it is judged by ----------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [0.0, -1.0])
def test_where_all_validations_are_equal_the_training_loss_decides(score):
    """Scores of the first rung are then below training losses, so that the best state is not kept."""
    sim = run(Descent(rate=1e-3, validation=lambda p: score))
    assert not sim.benched
    assert 0.05 < sim["lr"] < 0.8


def test_what_is_learnt_by_heart_first_is_judged_by_the_training_loss():
    """Validation rises as the training loss falls, at all rates."""
    plant = Descent(validation=lambda p: p.chance + abs(p.chance - p.loss))
    sim = run(plant)
    decision = adopted(sim)
    assert 0.1 <= decision.after["lr"] <= 0.8
    assert not of(sim, Rewind), "a validation that rises is no death there"
    assert plant.loss < 0.3


def test_overfitting_beyond_the_loss_at_the_start_is_no_death():
    plant = Descent(validation=lambda p: p.loss + max(0, p.at - 200) * 0.01)
    sim = run(plant)
    assert not of(sim, Rewind)
    assert plant.evaluate()["validation/loss"] > plant.chance


def test_without_evaluation_the_training_loss_decides(tmp_path):
    loop = Loop("sgd")
    loop.optimizer.param_groups[0]["lr"] = 1e-6
    with loop.tuner(tmp_path, policies=[RateSearch()], total_steps=400) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    assert any(isinstance(d.action, Adopt) and d.applied for d in tuner.decisions)
    assert 1e-2 < tuner.hyperparameters["lr"]() < 3
    assert sum(loop.losses[-20:]) / 20 < 0.8


def test_a_validation_that_the_loop_reports_is_not_compared_with_training_losses(tmp_path):
    loop = Loop("sgd")
    with loop.tuner(
        tmp_path, policies=[RateSearch()], total_steps=600, reports=("validation/loss",)
    ) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if tuner.step % 20 == 0:
                tuner.report(**{"validation/loss": 10 + loop.losses[-1]})
    assert any(isinstance(d.action, Adopt) and d.applied for d in tuner.decisions)
    assert not any(isinstance(d.action, Rewind) for d in tuner.decisions)


@pytest.mark.parametrize("factor", [32.0, 1 / 32])
def test_training_and_validation_may_be_on_different_scales(factor):
    """A training loss that is a sum over the batch, with a validation loss that is a mean."""
    plant = Descent()
    step = plant.step
    plant.step = lambda batch: {**(measured := step(batch)), "loss": factor * measured["loss"]}
    assert adopted(run(plant)).after["lr"] == pytest.approx(adopted(run(Descent())).after["lr"])


def test_a_single_bad_batch_loses_no_trial():
    """Losses of single examples: exponentially distributed, so that one in twenty is above three means."""
    plant = Descent()
    draws = torch.empty(4096).exponential_(generator=torch.Generator().manual_seed(0)).tolist()
    step = plant.step
    plant.step = lambda batch: {
        **(measured := step(batch)),
        "loss": measured["loss"] * draws[batch % len(draws)],
    }
    assert 0.05 < adopted(run(plant)).after["lr"] < 0.8


def test_a_validation_that_is_not_finite_is_worse_than_any():
    plant = Descent(validation=lambda p: math.nan if p.loss < 1.2 else p.loss)
    sim = run(plant)
    assert not sim.benched
    assert all(math.isfinite(d.after["lr"]) for d in of(sim, Adopt))
    nothing = run(Descent(validation=lambda p: math.nan))
    assert not nothing.benched
    assert not of(nothing, Adopt, Rewind)
    assert nothing["lr"] == 0.1


# --- what it costs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [30, 60, 100, 333, 2000])
@pytest.mark.parametrize("best", [0.1, 1e-3, 1e-7])
def test_however_short_the_run_it_ends_in_its_budget_and_has_trained(budget, best):
    plant = Descent(best=best, moves=0.3 if best < 0.1 else 0.01)
    sim = run(plant, budget=budget)
    assert not sim.benched
    assert sim.clock.spent == budget
    assert sim.clock.step >= 0.5 * budget, "the better part of a run is the run"


@pytest.mark.parametrize("budget", [400, 1000, 3000])
@pytest.mark.parametrize("best", [0.1, 1e-2, 1e-4])
def test_it_spends_no_more_than_it_says(budget, best):
    sim = run(Descent(best=best, moves=0.01 if best == 0.1 else 0.3), budget=budget)
    ended = next((d for d in sim.decisions if isinstance(d.action, Adopt | Suggest)), None)
    assert ended.spent - ended.step <= 0.3 * budget


def test_the_states_of_its_trials_do_not_add_up(tmp_path):
    loop = Loop()
    held = []
    with loop.tuner(tmp_path, policies=[RateSearch()], total_steps=400, evaluate=loop.validate) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            held.append(len(tuner._engine.memory._ring.held))
    assert max(held) <= 6
    assert held[-1] == 0


# --- afterwards --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies", [75, 300, 600])
def test_a_rate_that_kills_later_is_noticed_and_lowered(dies):
    plant = Descent()
    plant.dies, plant.fatal = dies, 0.2
    sim = run(plant)
    assert adopted(sim).after["lr"] > 0.2
    first, *_ = of(sim, Rewind)
    assert "no better than at the start" in first.action.reason
    assert 0.02 < sim["lr"] < 0.2
    assert plant.loss < 0.2, "and the run has gone on with it"
    back = int(first.note.removeprefix("at step ").split(",")[0])
    assert min(first.action.to, 40) <= back < dies, "to a state from after the adoption, and before its end"


def test_it_goes_back_three_times_at_most_and_the_run_goes_on():
    plant = Descent()
    plant.dies, plant.fatal = 75, 1e-9
    sim = run(plant)
    assert len(of(sim, Rewind)) == 3
    assert sim.clock.spent == 1000


def test_the_last_act_of_a_run_is_no_rewind():
    """A budget that is spent leaves no steps to make good what a rewind takes away."""
    plant = Descent(validation=lambda p: p.loss if p.at < 200 else p.loss + (p.at - 200) * 0.01)
    sim = run(plant, recommended())
    assert not [d for d in sim.decisions if d.source == "rate_search" and d.spent == 1000]
    assert plant.at > 150
    assert plant.loss < 0.5


def test_a_rewind_that_is_refused_does_not_count_as_a_lowering():
    plant = Descent()
    plant.dies, plant.fatal = 75, 0.2
    sim = run(plant, limits=Limits(max_rewinds=0))
    assert not sim.benched
    assert not any(d.applied for d in of(sim, Rewind))
    assert sim.clock.spent == 1000


def test_it_lets_go_of_the_rate_for_those_after_it():
    class Up:
        name, requires, controls = "up", (), ("lr",)

        def decide(self, observation):
            late = observation.spent > 900
            return [Set("lr", 1.01 * observation.hyperparameters["lr"].value, reason="")] if late else []

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    plant = Descent()
    plant.dies, plant.fatal = 75, 0.2
    for searched in (Descent(), plant):
        sim = run(searched, [RateSearch(), Up()])
        assert all(d.applied for d in of(sim, Set, source="up"))
        assert of(sim, Release)


# --- memory ------------------------------------------------------------------------------------------------


class Taken:
    """Takes the run back, as a guard does, when results of trials are shown."""

    name, requires, controls = "taken", (), ("lr",)

    def __init__(self, shown, times=1):
        self.shown, self.times = shown, times

    def decide(self, observation):
        self.shown -= bool(observation.trials)
        if self.shown > 0 or not observation.trials or not self.times:
            return []
        self.times -= 1
        rate = 0.5 * observation.hyperparameters["lr"].value
        return [
            Rewind(0, "skip", (Set("lr", rate / 10, reason=""), Ramp("lr", rate, 20, reason="")), reason="")
        ]

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Reborn:
    """The policy, made anew from its JSON at each tick."""

    name, requires, controls = "rate_search", ("loss",), ("lr",)

    def __init__(self):
        self.policy = RateSearch()

    def decide(self, observation):
        state = json.loads(json.dumps(self.policy.state_dict()))
        self.policy = RateSearch()
        self.policy.load_state_dict(state)
        return self.policy.decide(observation)

    def state_dict(self):
        return self.policy.state_dict()

    def load_state_dict(self, state):
        self.policy.load_state_dict(state)


def test_all_memory_is_in_its_state():
    def told(policy):
        plant = Descent()
        plant.dies, plant.fatal = 300, 0.2
        return [(d.step, d.spent, d.status, d.action.describe()) for d in run(plant, [policy]).decisions]

    assert told(Reborn()) == told(RateSearch())


def test_when_its_trials_were_lost_with_the_process_the_run_goes_on():
    searching = RateSearch()
    sim = Simulation(Descent(), [searching], budget=1000).run(5)
    assert searching.state_dict()["phase"] == "search"
    asked = [d for d in sim.decisions if isinstance(d.action, Probe)]
    anew = RateSearch()
    anew.load_state_dict(searching.state_dict())
    other = Simulation(Descent(), [anew], budget=1000)
    other.engine.executor.recalled = asked
    other.engine.executor.last_id = asked[-1].id
    other._journal.decided[:] = asked
    other.run()
    assert not other.benched
    assert other.clock.spent == 1000


@pytest.mark.parametrize("killed", [1, 40, 250])
def test_a_run_that_is_killed_and_resumed_goes_on(tmp_path, killed):
    def settings(loop):
        return {"policies": recommended(), "total_steps": 300, "evaluate": loop.validate}

    loop = Loop("sgd")
    loop.optimizer.param_groups[0]["lr"] = 1e-5
    with loop.tuner(tmp_path / "run", **settings(loop)) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if tuner.spent == killed:
                break
    loop = Loop("sgd", seed=1)
    with loop.resume(tmp_path / "run", **settings(loop)) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    assert not tuner._engine.panel.benched
    assert tuner.spent == tuner._engine.clock.budget
    assert loop.validate() < 0.8, "at the rate of 1e-5 it is still 1.4"


@pytest.mark.parametrize("stopped", [5, 40, 90])  # in the first round, in the second, in the second rung
def test_a_run_that_is_stopped_in_a_trial_searches_on_when_it_is_resumed(tmp_path, stopped):
    for end, start in ((stopped, Loop.tuner), (None, Loop.resume)):
        loop = Loop("sgd")
        loop.optimizer.param_groups[0]["lr"] = 1e-5
        with start(loop, tmp_path, policies=[RateSearch()], total_steps=600, evaluate=loop.validate) as tuner:
            for batch in tuner.batches(loop.loader):
                tuner.report(loss=loop.step(batch))
                if tuner.spent == end:
                    tuner.stop()
            tuner.checkpoint()
    assert any(isinstance(d.action, Adopt) and d.applied for d in tuner.decisions)
    assert tuner.spent == 600
    assert loop.validate() < 0.1, "at the rate of 1e-5 it is still 1.4"


@pytest.mark.parametrize("shown", [1, 2, 5])  # the anchor's result, the first round's, the second rung's
@pytest.mark.parametrize("searching", [RateSearch, BayesianSearch])
def test_a_rewind_in_the_tick_that_shows_results_begins_the_search_anew(searching, shown):
    policies = [Taken(shown), searching()]
    sim = run(Descent(rate=1e-3), policies)
    (rewind,) = of(sim, Rewind, source="taken")
    assert rewind.applied
    assert not sim.benched
    (chosen,) = of(sim, Adopt, source=policies[1].name)
    assert chosen.applied
    assert chosen.step == rewind.step + 20, "when the ramp is over"
    assert 0.05 < chosen.after["lr"] < 0.8


def test_a_search_does_not_begin_anew_for_ever():
    for searching in (RateSearch(), BayesianSearch()):
        sim = run(Descent(rate=1e-3), [Taken(2, times=5), searching])
        assert not sim.benched
        assert len(of(sim, Rewind, source="taken")) == 2
        assert "elsewhere" in of(sim, Suggest, source=searching.name)[-1].action.reason


def test_the_run_that_it_leaves_is_the_one_made_by_hand(tmp_path):
    loop = Loop("sgd")
    with loop.tuner(
        tmp_path / "run", policies=[RateSearch()], total_steps=400, evaluate=loop.validate
    ) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    decisions = {d.id: d for d in tuner.decisions}
    assert not any(isinstance(d.action, Rewind) for d in tuner.decisions)
    chosen = next(d for d in tuner.decisions if isinstance(d.action, Adopt))
    trial = decisions[chosen.action.trial]
    chain = [trial]
    while chain[0].action.after is not None:
        chain.insert(0, decisions[chain[0].action.after])
    plan, at = {}, 0
    for link in chain:
        plan[at] = link.action.then
        at += link.action.steps
    plan[at] = tuple(d.action for d in tuner.decisions if isinstance(d.action, Set) and d.step == at)

    hand = Loop("sgd")
    with hand.tuner(tmp_path / "hand", total_steps=tuner.step, evaluate=hand.validate) as by_hand:

        def do(changes):
            for change in changes:
                if isinstance(change, Set):
                    by_hand.set("lr", change.value)
                else:
                    by_hand.ramp("lr", change.value, change.steps)

        do(plan[0])
        for batch in by_hand.batches(hand.loader):
            by_hand.report(loss=hand.step(batch))
            if by_hand.step in plan:
                do(plan[by_hand.step])
    assert by_hand.step == tuner.step
    assert by_hand.hyperparameters["lr"]() == tuner.hyperparameters["lr"]()
    for mine, theirs in zip(loop.model.parameters(), hand.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_two_searches_do_not_take_each_other_for_crashes():
    plant = Descent()
    plant.hyperparameters = [*plant.hyperparameters, FloatHyperparameter("other", 0.1, low=1e-6, high=10)]
    sim = run(plant, [RateSearch(), RateSearch("other", name="second")])
    assert not sim.benched
    assert not any("process" in d.action.reason for d in sim.decisions)


def test_reasons_and_evidence_are_plain():
    for decision in run(Descent()).decisions:
        assert decision.action.reason
        json.dumps(dict(decision.action.evidence), allow_nan=False)


def test_a_rate_does_not_move_towards_a_neighbour_that_explodes():
    """Not even where the first evaluation is not finite, and nothing is known to compare with."""
    for validation in (None, lambda p: p.loss if p.at else math.nan):
        plant = Descent(validation=validation)
        step = plant.step

        def explodes(batch, plant=plant, step=step):
            measured = step(batch)
            return {**measured, "loss": math.nan} if plant.dead else measured

        plant.step = explodes
        sim = run(plant)
        assert sim["lr"] <= adopted(sim).after["lr"]


def test_an_edge_without_a_neighbour_is_not_left_for_the_other_side():
    assert rungs.minimum({-1: 1.0, 0: 1.05}, 3.0, -1) == 0.0
    assert rungs.minimum({-2: 1.2, -1: 1.0, 0: 1.1}, 3.0, -1) == pytest.approx(1 / 6)
    assert rungs.minimum({-2: 5.0, -1: 1.0, 0: 1.1}, 3.0, -1) > 0.4
