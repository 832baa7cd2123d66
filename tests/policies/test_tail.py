import json

import numpy as np
import pytest
from loops import Loop

from autotune.hyperparameters import FloatHyperparameter
from autotune.policies import RateSearch
from autotune.policies.tail import HoldAndTail
from autotune.records import FACTOR, Adopt, Policy, Ramp, Release, Rewind, Set
from autotune.testing import Simulation


class Falling:
    """A loss that falls to 1 until a step, and then stands still, whatever the rate."""

    cost = 0.0

    def __init__(self, until, noise=0.0, validated=True):
        self.hyperparameters = [FloatHyperparameter("lr", 0.1, low=1e-8, high=10.0, log=True)]
        self.signals = ("loss", "validation/loss") if validated else ("loss",)
        self.until, self.noise, self.at = until, noise, 0
        self.rates = []

    def step(self, batch):
        self.at += 1
        self.rates.append(self.hyperparameters[0]())
        return {"loss": self.evaluated() + self.noise * float(np.random.default_rng(batch).standard_normal())}

    def evaluated(self):
        return 1 + 3 * max(0.0, 1 - self.at / self.until)

    def evaluate(self):
        return {"validation/loss": self.evaluated()} if "validation/loss" in self.signals else {}

    def capture(self):
        return self.at

    def restore(self, state):
        self.at = state


class Scripted:
    """Does what it is told at the spent that it is told, standing before the tail."""

    requires = ()
    controls = ("lr",)

    def __init__(self, name="guard", **plan):
        self.name, self.plan = name, {int(at.lstrip("at")): action for at, action in plan.items()}

    def decide(self, observation):
        return [self.plan[observation.spent]] if observation.spent in self.plan else []

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def run(plant, *before, budget=1000, **settings):
    return Simulation(plant, [*before, HoldAndTail()], budget=budget, **settings).run()


def tails(sim):
    return [d for d in sim.decisions if d.source == "hold_and_tail"]


def test_it_is_a_policy():
    policy = HoldAndTail("rate", name="mine")
    assert isinstance(policy, Policy)
    assert (policy.name, policy.controls) == ("mine", ("rate",))


@pytest.mark.parametrize("validated", [True, False])
def test_it_holds_while_the_loss_falls_and_begins_with_a_quarter_left(validated):
    plant = Falling(2000, validated=validated)
    (tail,) = tails(run(plant))
    assert tail.step == 750
    assert "a quarter is left" in tail.action.reason
    assert set(plant.rates[:750]) == {0.1}


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_it_begins_when_the_loss_has_stopped_falling(noise, validated):
    plant = Falling(300, noise, validated)
    tail = tails(run(plant))[0]
    assert "stopped" in tail.action.reason
    assert 300 < tail.step <= 300 + 7 * 40, "five looks, of 40 steps each, say so"
    assert set(plant.rates[: tail.step]) == {0.1}


def test_it_is_a_line_to_a_thousandth_at_the_end_of_the_budget():
    plant = Falling(2000)
    sim = run(plant)
    assert sim["lr"] == pytest.approx(1e-4)
    differences = np.diff(plant.rates[751:])
    assert differences == pytest.approx([-(0.1 - 1e-4) / 250] * len(differences))


@pytest.mark.parametrize("budget", [30, 60, 100, 333])
def test_a_short_run_has_its_tail_too(budget):
    plant = Falling(2 * budget)
    sim = run(plant, budget=budget)
    assert sim["lr"] < 0.02
    assert plant.rates[budget // 2] == 0.1


def test_without_a_budget_nothing_happens():
    sim = Simulation(Falling(100), [HoldAndTail()], budget=None).run(1000)
    assert not sim.decisions


def test_a_factor_on_a_schedule_is_left_alone():
    plant = Falling(300)
    plant.hyperparameters = [FloatHyperparameter("lr", 1.0, low=1e-4, high=1e4, log=True, unit=FACTOR)]
    assert not run(plant).decisions


def test_a_loss_that_has_not_come_yet_is_waited_for():
    """As from a GPU, whose values are ticks late."""
    sim = run(Falling(2000, validated=False), lag=3)
    assert not sim.benched
    assert len(tails(sim)) == 1


def test_it_goes_on_from_where_a_guard_has_lowered_the_rate():
    plant = Falling(2000)
    sim = run(plant, Scripted(at300=Set("lr", 0.01, reason="lower")))
    assert plant.rates[300:750] == [0.01] * 450
    assert sim["lr"] == pytest.approx(1e-5)


def test_a_new_line_goes_on_from_where_a_person_has_set_the_rate():
    plant = Falling(2000)
    sim = Simulation(plant, [HoldAndTail()], budget=1000).run(850)
    sim.submit(Set("lr", 0.01, reason=""), "human:anna")
    sim.run(20)
    assert sim["lr"] == 0.01
    sim.submit(Release("lr", reason=""), "human:anna")
    sim.run()
    assert [d.step for d in tails(sim)] == [750, 880]
    assert "goes on" in tails(sim)[1].action.reason
    assert sim["lr"] == pytest.approx(1e-5)


def test_counting_begins_anew_when_someone_moves_the_rate():
    lowered = Scripted(at380=Set("lr", 0.05, reason="lower"))
    steady, moved = (tails(run(Falling(300), *before))[0].step for before in ((), (lowered,)))
    assert moved >= 380 + 4 * 40 > steady


def test_after_a_rewind_the_tail_ends_with_the_budget():
    plant = Falling(2000)
    back = Rewind(800, "skip", (Set("lr", 0.02, reason=""),), reason="back")
    sim = run(plant, Scripted(at900=back))
    assert not sim.benched
    assert any(d.applied for d in sim.decisions if d.source == "guard")
    assert sim.clock.spent == 1000
    assert sim["lr"] == pytest.approx(2e-5, rel=0.5)


def test_what_a_person_holds_is_left_alone_until_it_is_released():
    sim = Simulation(Falling(300), [HoldAndTail()], budget=1000)
    sim.submit(Set("lr", 0.05, reason=""), "human:anna")
    sim.run(900)
    assert sim["lr"] == 0.05
    assert not tails(sim)
    sim.submit(Release("lr", reason=""), "human:anna")
    sim.run()
    assert sim["lr"] == pytest.approx(5e-5)


def test_nothing_below_the_lowest_rate():
    plant = Falling(300)
    plant.hyperparameters = [FloatHyperparameter("lr", 0.1, low=0.01, high=10.0, log=True)]
    sim = run(plant)
    assert not sim.benched
    assert sim["lr"] == pytest.approx(0.01)
    assert not any("bounds" in d.note for d in tails(sim))


@pytest.mark.parametrize("at", [100, 450, 800])
def test_a_resumed_one_decides_as_if_nothing_had_happened(at):
    def fresh():
        return Simulation(Falling(300), [HoldAndTail()], budget=1000)

    whole, part, resumed = fresh().run(), fresh().run(at), fresh()
    resumed.load_state_dict({**part.state_dict(), "panel": json.loads(json.dumps(part.panel.state_dict()))})
    resumed.run()
    assert resumed["lr"] == whole["lr"]
    assert [(d.step, d.action.value) for d in tails(resumed)] == [
        (d.step, d.action.value) for d in tails(whole)
    ]


def test_a_search_before_it_has_the_rate_to_itself(tmp_path):
    loop = Loop("sgd")
    policies = [RateSearch(), HoldAndTail()]
    with loop.tuner(tmp_path, policies=policies, total_steps=400, evaluate=loop.validate) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    (adopted,) = (d for d in tuner.decisions if isinstance(d.action, Adopt))
    ramps = [d for d in tuner.decisions if isinstance(d.action, Ramp) and d.source == "hold_and_tail"]
    assert ramps
    assert ramps[0].spent > adopted.spent
    assert tuner.hyperparameters["lr"]() < 0.02 * adopted.after["lr"]
