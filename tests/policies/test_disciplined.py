import pytest

from autotune.policies.disciplined import DisciplinedAdvice
from autotune.records import HUMAN, Policy, Rewind, Set, Suggest, TuneError
from autotune.testing import Simulation, Task, TrainingPlant

BUDGET = 1000
OVER = Task(rate=0.1, overfit=1.0, condition=100.0, noise=0.1)
UNIT = 1 / (OVER.rate * BUDGET)


def simulate(policy, task=OVER, budget=BUDGET, **arguments):
    return Simulation(TrainingPlant(task), [policy], budget=budget, **arguments)


def applied(simulation):
    return [d.action for d in simulation.decisions if d.applied and isinstance(d.action, Rewind)]


def said(simulation):
    return [d.action for d in simulation.decisions if isinstance(d.action, Suggest)]


def test_it_is_a_policy():
    policy = DisciplinedAdvice("wd", "size", name="smith")
    assert isinstance(policy, Policy)
    assert (policy.name, policy.controls) == ("smith", ("wd", "size"))
    with pytest.raises(TuneError, match="two names"):
        DisciplinedAdvice("wd", "wd")


def test_it_suggests_a_decay_where_the_run_over_fits():
    simulation = simulate(DisciplinedAdvice()).run()
    *runs, back = applied(simulation)
    assert [run.then[0].value for run in runs] == pytest.approx([0.0, 0.3 * UNIT, UNIT, 3 * UNIT])
    assert {run.to for run in (*runs, back)} == {"disciplined_advice-300"}
    assert (back.data, back.then[0].value) == ("skip", 0.0)
    (advice,) = said(simulation)
    assert advice.action.name == "weight_decay"
    assert advice.action.value == pytest.approx(3 * UNIT)
    assert advice.evidence["standard_error"] > 0
    assert len(advice.evidence) == 5  # a score a run
    assert simulation["weight_decay"] == 0.0


def test_acting_it_sets_the_best_one():
    simulation = simulate(DisciplinedAdvice(act=True)).run()
    assert simulation["weight_decay"] == pytest.approx(3 * UNIT)
    assert said(simulation) == []


def test_a_tie_goes_to_the_present_value():
    simulation = simulate(DisciplinedAdvice(act=True), Task(rate=0.3, noise=1.0)).run()
    assert len(applied(simulation)) == 5
    assert simulation["weight_decay"] == 0.0
    assert "no difference" in applied(simulation)[-1].reason


def test_batch_sizes_see_as_many_examples():
    policy = DisciplinedAdvice(batch_size="batch_size")
    simulation = simulate(policy, evaluate_every=20).run()
    sizes = [(run, {a.name: a.value for a in run.then}["batch_size"]) for run in applied(simulation)[:-1]]
    spent = [d.spent for d in simulation.decisions if d.applied and isinstance(d.action, Rewind)]
    lengths = {
        size: after - before for (_, size), before, after in zip(sizes, spent[:-1], spent[1:], strict=True)
    }
    assert set(lengths) == {16, 32, 64}
    assert lengths == {16: 6 * 20, 32: 3 * 20, 64: 2 * 20}


def test_without_a_budget_it_waits_to_be_asked():
    policy = DisciplinedAdvice()
    simulation = simulate(policy, budget=None).run(600)
    assert simulation.decisions == ()
    policy.request()
    assert len(applied(simulation.run(3000))) == 5


def test_what_it_cannot_afford_it_says():
    (advice,) = said(simulate(DisciplinedAdvice(batch_size="batch_size")).run())
    assert advice.action is None
    assert "evaluate more often" in advice.reason


def test_a_person_ends_the_runs_and_keeps_the_value():
    simulation = simulate(DisciplinedAdvice()).run(400)
    begun = len(applied(simulation))
    simulation.submit(Set("weight_decay", 0.5, reason="mine"), f"{HUMAN}ada")
    simulation.run()
    assert len(applied(simulation)) == begun + 1
    assert simulation["weight_decay"] == 0.5


def test_it_takes_its_memory_along():
    straight = simulate(DisciplinedAdvice(act=True)).run()
    first = simulate(DisciplinedAdvice(act=True)).run(450)
    second = simulate(DisciplinedAdvice(act=True))
    second.load_state_dict(first.state_dict())
    assert second.run().plant.evaluate() == straight.plant.evaluate()
