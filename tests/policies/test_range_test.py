import math

import pytest

from autotune.policies.range_test import RangeTest
from autotune.records import HUMAN, Policy, Ramp, Release, Rewind, Set, Suggest, TuneError
from autotune.supervisor import Limits
from autotune.testing import Simulation, Task, TrainingPlant

BUDGET = 1000


def simulate(task, *policies, budget=BUDGET, **arguments):
    return Simulation(TrainingPlant(task), policies or [RangeTest()], budget=budget, **arguments)


def off(factor, **fields):
    task = Task(**fields)
    return Task(**fields, rate=factor * task.usual_rate)


def actions(simulation, kind):
    return [d.action for d in simulation.decisions if isinstance(d.action, kind)]


def test_it_is_a_policy():
    policy = RangeTest("rate", "validation/loss", name="finder")
    assert isinstance(policy, Policy)
    assert (policy.name, policy.requires, policy.controls) == ("finder", ("validation/loss",), ("rate",))


@pytest.mark.parametrize("arguments", [{"low": 0.0}, {"low": 1.0, "high": 0.1}, {"high": -1.0}, {"steps": 5}])
def test_a_range_that_is_none_is_refused(arguments):
    with pytest.raises(TuneError, match="got"):
        RangeTest(**arguments)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("factor", [1e-3, 1e-2, 1e2, 1e3])
def test_the_order_of_magnitude_is_found(optimizer, bounded, factor):
    task = off(factor, optimizer=optimizer, bounded=bounded)
    simulation = simulate(task).run()
    assert 0.03 < simulation["lr"] / task.usual_rate < 3
    assert simulation.plant.evaluate()["validation/loss"] < 0.3


def test_it_begins_low_and_goes_back_to_the_start():
    simulation = simulate(off(1e-2)).run(200)
    begin, back = actions(simulation, Rewind)
    low, ramp = begin.then
    assert begin.to == back.to == "range_test-0"
    assert begin.data == back.data == "replay"
    assert isinstance(ramp, Ramp)
    assert (ramp.shape, ramp.steps) == ("exponential", 80)
    assert ramp.value / low.value == pytest.approx(1e8)
    assert simulation.clock.spent - simulation.clock.step <= 10 + 90  # all that it costs
    evidence = back.evidence
    assert evidence["rate_steepest"] <= evidence["rate_lowest"]
    assert simulation["lr"] == pytest.approx(evidence["rate_lowest"] / 10)


def test_the_ramp_ends_where_the_loss_explodes():
    simulation = simulate(off(1e3)).run(200)
    (_, back) = actions(simulation, Rewind)
    assert back.evidence["steps"] < 60
    assert back.evidence["rate_diverged"] > back.evidence["rate_lowest"]
    bounded = simulate(off(1e-3, bounded=True, optimizer="adam")).run(200)
    assert actions(bounded, Rewind)[1].evidence["rate_diverged"] is None


def test_a_rate_of_the_right_order_stays():
    simulation = simulate(off(0.1)).run(200)
    assert simulation["lr"] == pytest.approx(0.1 * Task().usual_rate)
    assert "right order" in actions(simulation, Rewind)[1].reason


def test_where_the_loss_falls_at_no_rate_the_rate_stays():
    simulation = simulate(Task(rate=0.3), RangeTest(low=3e-7, high=1e-6)).run(200)
    assert simulation["lr"] == 0.3
    assert "at no rate" in actions(simulation, Rewind)[1].reason


def test_later_policies_move_the_rate_afterwards():
    for factor in (0.5, 2.0):
        simulation = simulate(off(1e-2), RangeTest(), Scaler(400, factor)).run()
        assert len(actions(simulation, Release)) == 1
        assert simulation.decisions[-1].source == "scaler"
        assert simulation.decisions[-1].status == "applied"


def test_on_demand_it_goes_back_to_a_checkpoint():
    policy = RangeTest(at_start=False)
    simulation = simulate(off(1e-2), policy).run(300)
    assert simulation.decisions == ()
    policy.request()
    simulation.run(200)
    assert [action.to for action in actions(simulation, Rewind)] == ["range_test-310"] * 2
    assert simulation.clock.spent - simulation.clock.step <= 90


def test_a_person_ends_the_test_and_keeps_the_rate():
    simulation = simulate(off(1e-2)).run(40)
    assert simulation.clock.branch == 1
    simulation.submit(Set("lr", 0.2, reason="mine"), f"{HUMAN}ada")
    simulation.run(20)
    assert simulation["lr"] == 0.2
    assert actions(simulation, Rewind)[-1].data == "skip"
    assert simulation.clock.step <= 20
    assert len(actions(simulation.run(), Rewind)) == 2


def test_someone_else_s_rewind_ends_the_test():
    rate = off(1e-2).rate
    simulation = simulate(off(1e-2)).run(60)
    simulation.submit(Rewind(25, "skip", reason="mine"), f"{HUMAN}ada")
    simulation.run(20)
    assert "interrupted" in actions(simulation, Rewind)[-1].reason
    assert simulation["lr"] == pytest.approx(rate)


@pytest.mark.parametrize("arguments", [{"budget": 200}, {"budget": BUDGET, "capacity": 1}])
def test_what_it_cannot_afford_it_says(arguments):
    simulation = simulate(off(1e-2), RangeTest(steps=100 if arguments["budget"] == 200 else 900), **arguments)
    (said,) = actions(simulation.run(), Suggest)
    assert "no range test: it takes" in said.reason


def test_it_takes_its_memory_along():
    straight = simulate(off(1e2)).run()
    first = simulate(off(1e2)).run(35)
    second = simulate(off(1e2))
    second.load_state_dict(first.state_dict())
    second.run()
    assert second["lr"] == straight["lr"]
    assert math.isfinite(second.plant.evaluate()["validation/loss"])
    assert second.plant.evaluate() == straight.plant.evaluate()


def test_a_range_outside_the_bounds_is_not_tested():
    simulation = simulate(Task(rate=0.3), RangeTest(low=1e-12, high=1e-10)).run(100)
    (said,) = actions(simulation, Suggest)
    assert "it would go from" in said.reason
    assert len(simulation.decisions) == 1


class Once:
    """Acts when so many steps are spent."""

    requires, controls = ("loss",), ("lr",)

    def __init__(self, at):
        self.at = at

    def decide(self, observation):
        return (self.action(observation),) if observation.spent == self.at else ()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """Nothing."""


class Rewinder(Once):
    name = "rewinder"

    def action(self, observation):
        return Rewind(0, "skip", reason="once")


class Scaler(Once):
    name = "scaler"

    def __init__(self, at, factor):
        super().__init__(at)
        self.factor = factor

    def action(self, observation):
        return Set("lr", self.factor * observation.hyperparameters["lr"].value, reason="once")


def test_where_no_rewind_is_left_at_least_the_rate_goes_back():
    task = off(1e-2)
    limits = Limits(max_rewinds=2)
    simulation = simulate(task, RangeTest(), Rewinder(40), limits=limits).run(100)
    assert "could not go back" in simulation.decisions[-1].action.reason
    assert simulation["lr"] == pytest.approx(task.rate)


def test_a_loss_that_explodes_at_once_leaves_no_rate_above():
    task = off(1.0)
    simulation = simulate(task, RangeTest(low=30 * task.usual_rate, high=1e5 * task.usual_rate)).run(200)
    assert simulation.benched == {}
    assert simulation["lr"] <= 30 * task.usual_rate
