"""Bayesian search: from a rate far off, over several hyperparameters, and where it must not act."""

import json
import math

import numpy as np
import pytest
from loops import Loop

from autotune import Limits
from autotune.hyperparameters import CategoricalHyperparameter
from autotune.policies.background import Background
from autotune.policies.bayesian_plan import (
    Lengths,
    Plan,
    Tried,
    choose,
    expected_minimum,
    fit,
    paired_errors,
    propose,
)
from autotune.policies.bayesian_search import BayesianSearch
from autotune.policies.gaussian_process import Axis, Encoder
from autotune.policies.tail import HoldAndTail
from autotune.records import Adopt, Probe, Ramp, Release, Set, Suggest, Trial, TuneError
from autotune.testing import Simulation, Task, TrainingPlant
from autotune.testing.training import Field

TASK = Task(optimizer="adam", rate=0.02, seed=1000)


def searched(rate, budget=1000, **arguments):
    return Simulation(TrainingPlant(TASK, rate=rate), [BayesianSearch(**arguments)], budget=budget).run()


def kinds(simulation, kind):
    return [d for d in simulation.decisions if isinstance(d.action, kind)]


@pytest.mark.parametrize("off", [1e-3, 1.0, 1e3])
def test_it_finds_the_rate_from_anywhere_and_leaves_it_to_the_next(off):
    policies = [BayesianSearch(), HoldAndTail()]
    simulation = Simulation(TrainingPlant(TASK, rate=TASK.usual_rate * off), policies, budget=1000).run()
    plain = TrainingPlant(TASK)
    for batch in range(1000):
        plain.step(batch)
    assert not simulation.benched
    assert simulation.plant.evaluate()["validation/loss"] < 1.1 * plain.evaluate()["validation/loss"]
    assert [d.status for d in kinds(simulation, Adopt)] == ["applied"]
    assert [d.status for d in kinds(simulation, Release)] == ["applied"]
    (tail,) = kinds(simulation, Ramp)
    assert (tail.source, tail.status) == ("hold_and_tail", "applied")


@pytest.mark.parametrize("share", [0.2, 0.25, 0.4])
def test_trials_take_no_more_than_their_share_and_the_process_decides(share):
    simulation = searched(0.02, share=share)
    probes = kinds(simulation, Probe)[1:]  # less the anchor's
    assert sum(d.action.most for d in probes) < share * 1000
    assert sum(d.action.after is not None for d in probes) >= 2, "two at least go on to the full length"
    proposed = [d for d in probes if "gain" in d.action.evidence]
    assert len(probes) - len(proposed) == 2
    assert proposed[-1].action.evidence["surrogate"] == "fitted"
    (adopted,) = kinds(simulation, Adopt)
    assert adopted.action.trial in {d.id for d in probes if d.action.after is not None}


def test_it_searches_over_several_at_once():
    names = ("lr", "weight_decay", "dropout", "batch_size")
    simulation = searched(20.0, names=names, ranges={"weight_decay": (1e-4, 1.0)}, share=0.4)
    assert not simulation.benched
    tried = [{s.name: s.value for s in d.action.then} for d in kinds(simulation, Probe)[1:]]
    for name in names:
        assert len({values[name] for values in tried}) > 2, name
    assert all(isinstance(values["batch_size"], int) for values in tried)


def test_it_searches_without_a_rate_and_over_choices():
    plant = TrainingPlant(TASK)
    plant.kind = "b"
    kind = CategoricalHyperparameter("kind", choices=("a", "b", "c"), actuator=Field(plant, "kind"))
    plant.hyperparameters = [*plant.hyperparameters, kind]
    simulation = Simulation(plant, [BayesianSearch(("dropout", "kind"))], budget=1000).run()
    assert not simulation.benched
    probes = kinds(simulation, Probe)
    assert len({s.value for d in probes for s in d.action.then if s.name == "kind"}) > 1
    assert simulation["dropout"] < 0.1, "a penalty that this plant has no use for"


def test_fits_are_made_in_a_thread(monkeypatch):
    begun, asked = [], []
    begin, answer = Background.begin, Background.answer
    monkeypatch.setattr(Background, "begin", lambda self, *work: (begun.append(work), begin(self, *work)))
    monkeypatch.setattr(
        Background, "answer", lambda self, *work: (asked.append(work), answer(self, *work))[1]
    )
    searched(0.02)
    assert len(asked) > 3
    assert asked == begun[: len(asked)], "what is needed has been started before"


def test_a_policy_resumed_at_each_tick_decides_alike():
    class Interrupted(BayesianSearch):
        def decide(self, observation):
            state = json.loads(json.dumps(self.state_dict(), allow_nan=False, sort_keys=True))
            self.__init__()
            self.load_state_dict(state)
            return super().decide(observation)

    plants = [TrainingPlant(TASK) for _ in range(2)]
    policies = (BayesianSearch(), Interrupted())
    runs = [Simulation(p, [policy], budget=1000).run() for p, policy in zip(plants, policies, strict=True)]
    one, two = ([d.action for d in run.decisions] for run in runs)
    assert len(one) > 6
    assert one == two


def trained(tuner, loop, until):
    with tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if tuner.spent >= until and tuner.step % 10 == 0:
                tuner.stop()
        tuner.checkpoint()
    return tuner


def test_a_trial_that_is_lost_with_its_process_is_made_again(tmp_path):
    loop, again, policy = Loop(), Loop(), BayesianSearch()
    first = trained(
        loop.tuner(tmp_path, policies=[policy], total_steps=600, evaluate=loop.validate), loop, 90
    )
    assert first.step == 0, "stopped in a trial"
    known = policy.state_dict()["done"]
    policy = BayesianSearch()
    tuner = again.resume(tmp_path, policies=[policy], total_steps=600, evaluate=again.validate)
    trained(tuner, again, 601)
    done = policy.state_dict()["done"]
    assert [t["score"] for t in done[: len(known)]] == [t["score"] for t in known]
    assert len(done) > len(known)
    mine = [d for d in tuner.decisions if d.source == policy.name]
    assert any("again" in d.action.evidence for d in mine)
    assert [d.status for d in mine if isinstance(d.action, Adopt)] == ["applied"]
    assert tuner.spent == 600


def test_without_a_budget_it_only_says_so():
    simulation = Simulation(TrainingPlant(TASK), [BayesianSearch()], budget=None).run(100)
    assert [type(d.action) for d in simulation.decisions] == [Suggest]


def test_a_run_that_is_too_short_is_left_alone():
    simulation = searched(0.02, budget=100)
    assert [type(d.action) for d in simulation.decisions] == [Suggest]
    assert simulation["lr"] == 0.02


def test_what_a_person_holds_is_left_out():
    policy = BayesianSearch(("lr", "dropout"), ranges={"lr": (1e-4, 1.0)})
    simulation = Simulation(TrainingPlant(TASK), [policy], budget=1000)
    simulation.submit(Set("lr", 0.03, reason="mine"), "human:ada")
    simulation.run()
    named = {change.name for d in kinds(simulation, Probe) for change in d.action.then}
    assert named == {"dropout"}
    assert simulation["lr"] == 0.03


@pytest.mark.parametrize("trials", [2, 100])
def test_where_no_trial_is_better_than_the_start_the_values_stay(trials):
    plant = TrainingPlant(TASK)
    start = plant.evaluate()["validation/loss"]
    plant.evaluate = lambda: {"validation/loss": start + (plant.cost > 0)}
    limits = Limits(max_trials=trials)
    simulation = Simulation(plant, [BayesianSearch()], budget=1000, limits=limits).run()
    assert not simulation.benched
    assert simulation["lr"] == TASK.usual_rate
    assert "no values" in kinds(simulation, Suggest)[-1].action.reason


def test_errors_are_of_differences_where_examples_are_paired():
    rng = np.random.default_rng(0)
    examples, own = rng.normal(5, 3, 200), rng.normal(0, 0.1, (3, 200))

    def trial(id, losses):
        return Trial(id, 0, 10, 10, float(losses.mean()), 0.2, tuple(losses))

    errors = paired_errors([trial(i, examples + row + 0.1 * i) for i, row in enumerate(own)])
    assert errors == pytest.approx([0.1 / math.sqrt(200)] * 3, rel=0.3)
    assert paired_errors([trial(0, examples)]) == [0.2]


@pytest.mark.parametrize("wrong", [{"names": ()}, {"names": "lr"}, {"share": 0.1}, {"share": 1.0}])
def test_bad_arguments_are_refused(wrong):
    with pytest.raises(TuneError):
        BayesianSearch(**wrong)


def plan(*trials, first=1.0):
    encoder = Encoder((Axis("lr", 1e-4, 1.0, log=True),))
    done = [
        Tried(values={"lr": rate}, long=long, id=i, score=score, error=None, kept=True)
        for i, (rate, long, score) in enumerate(trials)
    ]
    return Plan(encoder, "lr", tuple(done), first, Lengths(30, 60, 21), 1000)


VALLEY = [(10.0**x, False, 0.2 + 0.2 * (x + 2) ** 2) for x in (-4, -3, -1, 0)]


def test_the_next_trial_lies_where_the_scores_are_expected_to_be_low():
    known = plan(*VALLEY)
    proposal = propose(known, fit(known), 500)
    assert not proposal.long
    assert 2e-3 < proposal.values["lr"] < 5e-2


def test_a_trial_that_does_not_fit_is_not_proposed_and_none_that_gains_nothing():
    known = plan(*VALLEY)
    proposal = propose(known, fit(known), 2 * 39 + 29)
    assert proposal.long, "steps are left for two long trials"
    assert proposal.values["lr"] in {1e-3, 1e-1}
    assert propose(known, fit(known), 38) is None
    flat = plan(*((10.0**x, long, 0.5 + 1e-3 * x) for x in range(-4, 1) for long in (False, True)))
    assert propose(flat, fit(flat), 500) is None


def test_no_rate_at_or_above_one_that_was_lost():
    known = plan((1e-1, False, None), (1e-2, False, 0.5), (1e-3, False, 0.9))
    for left in (500, 120):
        assert propose(known, fit(known), left).values["lr"] < 1e-1


def test_the_choice_is_among_the_longest_and_a_tie_goes_to_the_lower_rate():
    short = [(10.0**x, False, 0.1) for x in (-4, -3, -2, -1)]
    clear = plan(*short, (1e-2, True, 0.05), (1e-1, True, 0.9))
    assert choose(clear, fit(clear))["id"] == 4
    tied = plan(*short, (1e-2, True, 0.0501), (1e-1, True, 0.05))
    assert choose(tied, fit(tied))["id"] == 4


def test_the_expected_minimum_is_that_of_many_draws():
    rng = np.random.default_rng(0)
    mean, moves = rng.normal(size=(1, 4)), rng.normal(size=(1, 4))
    drawn = (mean + moves * rng.standard_normal((200_000, 1))).min(1).mean()
    assert expected_minimum(mean, moves) == pytest.approx([drawn], abs=0.02)
    assert expected_minimum(mean, 0 * moves) == pytest.approx([mean.min()])
