import math
import threading

import numpy as np
import pytest

from autotune.policies import auto_lrs
from autotune.policies.auto_lrs import AutoLRS
from autotune.policies.background import Background
from autotune.records import Adopt, Probe, Set, TuneError
from autotune.supervisor import Limits
from autotune.testing import Simulation, Task, TrainingPlant

LOW = Task(optimizer="adam", rate=1e-3, noise=0.1, loss_noise=0.02)


def simulate(task=LOW, budget=1000, steps=None, limits=None, **arguments):
    plant = TrainingPlant(task)
    return Simulation(plant, [AutoLRS(**arguments)], budget=budget, limits=limits).run(steps)


def stages(simulation):
    """Trials of each stage, by the step that they began at."""
    found = {}
    for decision in simulation.decisions:
        if isinstance(decision.action, Probe) and decision.applied:
            found.setdefault(decision.step, []).append(decision.action)
    return found


def test_ten_rates_a_stage_for_a_tenth_of_it_each_and_none_is_adopted():
    simulation = simulate(budget=2000)
    found = stages(simulation)
    assert list(found) == [0, 100, 300, 700], "stages of 100, 200 and 400 steps, and of what is left"
    assert [probes[0].steps for probes in found.values()] == [10, 20, 40, 30]
    for probes in found.values():
        rates = [probe.then[0].value for probe in probes]
        assert len(rates) == len(set(rates)) == 10
        assert {probe.steps for probe in probes} == {probes[0].steps}
        assert max(rates) <= 30.001 * rates[0]
        assert min(rates) >= rates[0] / 30.001
    assert not any(isinstance(decision.action, Adopt) for decision in simulation.decisions)
    assert simulation.clock.spent == 2000
    assert not simulation.benched


def test_a_rate_that_is_too_low_is_raised_to_the_best_forecast():
    simulation = simulate()
    first = next(d for d in simulation.decisions if isinstance(d.action, Set))
    assert first.step == 0
    assert 5e-3 < first.after["lr"] <= 0.03
    untouched = TrainingPlant(LOW)
    for batch in range(1000):
        untouched.step(batch)
    assert simulation.plant.evaluate()["validation/loss"] < 0.8 * untouched.evaluate()["validation/loss"]


@pytest.mark.parametrize("budget", [50, 159, 160, 333, 1000, 5000])
def test_the_budget_is_never_exceeded_and_a_short_one_is_not_searched(budget):
    simulation = simulate(budget=budget)
    assert simulation.clock.spent == budget
    assert not any(decision.status == "refused" for decision in simulation.decisions)
    assert bool(stages(simulation)) == (budget >= 160)


def test_without_a_budget_stages_double_from_1000_to_8000_steps():
    simulation = simulate(budget=None, steps=48_000, limits=Limits(max_trials=50))
    assert list(stages(simulation)) == [0, 1000, 3000, 7000, 15_000]
    assert [len(probes) for probes in stages(simulation).values()] == [10] * 5
    refused = [d for d in simulation.decisions if d.status == "refused"]
    assert len(refused) == 3, "when no more trials are allowed, it stops asking"


def test_the_forecast_of_a_long_stage_is_of_the_validation_loss():
    seen = []

    class Watching(AutoLRS):
        def _forecast(self, trial):
            seen.append((self._stage, trial.score, super()._forecast(trial)))
            return seen[-1][2]

    task = Task(overfit=0.5, floor=0.01, loss_noise=0.01, rate=0.3)  # validation far above training
    Simulation(TrainingPlant(task), [Watching()], budget=12_000).run()
    early, late = ([s for s in seen if low <= s[0] < high] for low, high in ((1, 3), (3, 99)))
    assert np.median([forecast / score for _, score, forecast in early]) < 0.3
    assert np.median([forecast / score for _, score, forecast in late]) > 0.7


class Fragile(TrainingPlant):
    """Loses its loss at a rate above 20."""

    def step(self, batch):
        measured = super().step(batch)
        return {**measured, "loss": math.nan} if self.lr > 20 else measured


def test_a_rate_at_which_the_loss_is_lost_is_not_taken():
    simulation = Simulation(Fragile(Task(rate=3.0)), [AutoLRS(low=1.0, high=1e4)], budget=1000).run()
    lost = [d for d in simulation.decisions if isinstance(d.action, Probe) and "inf" in d.note]
    assert len(lost) > 5
    chosen = [d.after["lr"] for d in simulation.decisions if isinstance(d.action, Set)]
    assert chosen
    assert max(chosen) <= 20
    assert not simulation.benched


def test_results_that_were_lost_with_the_process_are_asked_for_again():
    policy = AutoLRS()
    Simulation(TrainingPlant(LOW), [policy], budget=1000).run(15)
    state = policy.state_dict()
    assert len(state["rates"]) == 2
    again = AutoLRS()
    again.load_state_dict(state)
    resumed = Simulation(TrainingPlant(LOW), [again], budget=1000).run()
    first = resumed.decisions[0].action
    assert first.then[0].value == state["rates"][-1]
    assert len(stages(resumed)[40]) == 9, "some steps after they should have come back"
    assert not resumed.benched


def test_a_choice_is_the_same_begun_ahead_or_not():
    arguments = ((0.1, 0.003, 3.0), (1.0, None), 0.003, 3.0)
    background = Background()
    background.begin(auto_lrs._choose, *arguments)
    assert background.answer(auto_lrs._choose, *arguments) == auto_lrs._choose(*arguments)


def test_background_work_runs_beside_and_only_the_right_answer_is_given():
    background, threads = Background(), []

    def work(value):
        threads.append(threading.current_thread())
        return -value

    background.begin(work, 1)
    assert background.answer(work, 1) == -1
    background.begin(work, 2)
    assert background.answer(work, 3) == -3
    assert background.answer(work, 3) == -3, "an answer is given once"
    here = [thread is threading.current_thread() for thread in threads]
    assert here.count(False) == 2
    background.begin(math.log, 0.0)
    with pytest.raises(ValueError, match=r"math domain|expected a positive"):
        background.answer(math.log, 0.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tau": 79}, "tau is at least 80 steps, got 79"),
        ({"low": 1.0, "high": 0.1}, "0 < low < high, got"),
        ({"low": 0.0}, "0 < low < high, got"),
    ],
)
def test_bad_arguments(arguments, said):
    with pytest.raises(TuneError, match=said):
        AutoLRS(**arguments)
