import dataclasses
import json

import numpy as np
import pytest

from autotune.policies.unfreezing import ProgressiveUnfreezing
from autotune.records import Policy, Ramp, Rewind, Set, TuneError
from autotune.testing import Simulation
from autotune.testing.fine_tuning import FineTuning, FineTuningPlant


def run(seed=1000, budget=1000, plant=None, **arguments):
    plant = plant or FineTuningPlant(FineTuning.random(seed))
    return Simulation(plant, [ProgressiveUnfreezing(**arguments)], budget=budget)


def test_it_is_a_policy():
    policy = ProgressiveUnfreezing("frozen", "validation/loss", name="ladder")
    assert isinstance(policy, Policy)
    assert (policy.name, policy.requires, policy.controls) == ("ladder", ("validation/loss",), ("frozen",))


@pytest.mark.parametrize("finished", [0.0, -1.0, 1.5, float("nan")])
def test_a_part_of_the_budget_lies_between_0_and_1(finished):
    with pytest.raises(TuneError, match="finished"):
        ProgressiveUnfreezing(finished=finished)


@pytest.mark.parametrize("seed", range(1000, 1010))
def test_groups_are_unfrozen_one_by_one_and_all_of_them_in_time(seed):
    simulation = run(seed).run()
    assert [d.after["frozen_layers"] for d in simulation.decisions] == [1, 0]
    assert all(d.applied for d in simulation.decisions)
    assert simulation.decisions[-1].spent <= 500
    assert not simulation.benched


def test_the_head_is_given_time_while_it_learns_quickly():
    quick = run(plant=FineTuningPlant(rate=0.1, examples=64)).run()
    slow = run(plant=FineTuningPlant(rate=0.001, examples=64)).run()
    assert quick.decisions[0].spent < slow.decisions[0].spent
    assert slow.decisions[0].action.evidence["share"] == 250


def test_without_a_budget_the_test_alone_decides():
    simulation = run(budget=None).run(3000)
    assert simulation["frozen_layers"] == 0
    assert all("p_falling" in d.action.evidence for d in simulation.decisions)


def test_it_freezes_nothing():
    assert run(plant=FineTuningPlant(frozen=0)).run().decisions == ()


def test_what_a_person_holds_is_left_alone():
    simulation = run()
    simulation.submit(Set("frozen_layers", 1, reason="mine"), "human:ada")
    simulation.run(800)
    assert [d.source for d in simulation.decisions] == ["human:ada"]


@pytest.mark.parametrize("disturbance", ["rewind", "person"])
def test_a_stage_begins_anew_after_a_rewind_and_after_another_hand(disturbance):
    simulation = run(plant=FineTuningPlant(rate=0.0003, examples=64)).run(240)
    assert not simulation.decisions
    if disturbance == "rewind":
        action = Rewind(100, data="skip", reason="back")
    else:
        action = Ramp("frozen_layers", 2, 100, reason="mine")
    simulation.submit(action, "human:ada")
    simulation.controls["frozen_layers"].owner = "policy"
    simulation.run(120)
    assert [d.source for d in simulation.decisions] == ["human:ada"]
    simulation.run()
    assert simulation["frozen_layers"] == 0


def test_what_is_refused_is_asked_for_ever_less_often():
    simulation = Simulation(FineTuningPlant(), [ProgressiveUnfreezing()], budget=1000, suggest=True).run()
    gaps = np.diff([d.spent for d in simulation.decisions])
    assert len(gaps) >= 3
    assert (gaps[1:] > gaps[:-1]).all()


@pytest.mark.parametrize("at", [40, 160, 350])
def test_a_round_trip_of_the_memory_changes_no_decision(at):
    whole = run(1001).run()
    half = run(1001).run(at)
    other = run(1001)
    state = half.state_dict()
    state["panel"] = json.loads(json.dumps(state["panel"], allow_nan=False))
    other.load_state_dict(state)
    other.run()
    assert [dataclasses.astuple(d) for d in other.decisions] == [
        dataclasses.astuple(d) for d in whole.decisions
    ]


def test_it_beats_both_fixed_settings_where_examples_are_few():
    against = {0: [], 2: []}
    for seed in range(1000, 1012):
        tuned = run(seed).run().plant.evaluate()["validation/loss"]
        for frozen, ratios in against.items():
            plant = FineTuningPlant(FineTuning.random(seed, frozen=frozen))
            Simulation(plant, (), budget=1000).run()
            ratios.append(tuned / plant.evaluate()["validation/loss"])
    assert np.median(against[0]) < 0.9  # all trained from the start
    assert np.median(against[2]) < 0.8  # frozen to the end
