"""Replay follows an exported schedule step for step."""

import json

import pytest

from autotune.hyperparameters import CategoricalHyperparameter, FloatHyperparameter, IntHyperparameter
from autotune.policies.replay import Replay
from autotune.records import Ramp, Release, Rewind, Set, TuneError
from autotune.supervisor import Limits
from autotune.testing import Simulation, TrainingPlant, conformance

ANN = "human:ann"
RATE = [
    {"step": 0, "value": 0.02},
    {"step": 40, "from": 0.02, "to": 0.2, "steps": 60, "shape": "exponential"},
    {"step": 80, "value": 0.05},
    {"step": 200, "from": 0.1, "to": 0.0, "steps": 300, "shape": "linear"},
]


def schedule(steps=500, **hyperparameters):
    return {"version": 1, "steps": steps, "hyperparameters": hyperparameters or {"lr": RATE}}


class Noting:
    """A plant that does nothing but note what it is given at each step."""

    signals = ("loss",)
    cost = 0.0

    def __init__(self, rate=0.5):
        self.hyperparameters = [
            FloatHyperparameter("lr", rate, low=0.0, high=1.0),
            IntHyperparameter("size", 32, low=1, high=512),
            CategoricalHyperparameter("mode", "a", choices=("a", "b", "c")),
        ]
        self.given = []

    def step(self, batch):
        self.given.append({p.name: p() for p in self.hyperparameters})
        return {"loss": 1.0}

    def evaluate(self):
        return {}

    def capture(self):
        return None

    def restore(self, state):
        pass


def given(policy, steps=500, every=1, **arguments):
    plant = Noting()
    arguments = {"budget": steps, "limits": Limits(max_fraction=1.0), **arguments}
    simulation = Simulation(plant, [policy], every=every, evaluate_every=10**6, **arguments).run()
    assert not simulation.benched
    return [now["lr"] for now in plant.given]


def rate(k):
    """What RATE says for step k + 1."""
    if k < 40:
        return 0.02
    if k < 80:
        return 0.02 * 10 ** ((k - 40) / 60)
    if k < 200:
        return 0.05
    return 0.1 * max(0.0, 1 - (k - 200) / 300)


def test_every_step_has_the_value_that_it_had():
    assert given(Replay(schedule())) == pytest.approx([rate(k) for k in range(500)], rel=1e-12)


def test_with_ticks_on_its_changes_it_needs_no_more():
    assert given(Replay(schedule()), every=20) == given(Replay(schedule()))


def test_what_falls_between_two_ticks_is_late_and_ramps_still_end_on_time():
    late = given(Replay(schedule()), every=30)
    exact = [rate(k) for k in range(500)]
    assert late[:40] == exact[:40]
    assert set(late[40:60]) == {0.02}, "the ramp of step 40 begins at 60"
    assert late[60:80] == pytest.approx(exact[60:80]), "where it would be by then"
    assert late[90:200] == exact[90:200]
    assert late[210:] == pytest.approx(exact[210:])


def test_several_hyperparameters_of_all_kinds():
    sizes = [{"step": 0, "value": 16}, {"step": 100, "from": 16, "to": 64, "steps": 48, "shape": "linear"}]
    modes = [{"step": 0, "value": "a"}, {"step": 30, "value": "c"}, {"step": 60, "value": "b"}]
    plant = Noting()
    policy = Replay(schedule(lr=RATE, size=sizes, mode=modes))
    Simulation(plant, [policy], budget=200, limits=Limits(max_fraction=1.0)).run()
    assert [now["size"] for now in plant.given] == [16] * 100 + list(range(16, 64)) + [64] * 52
    assert [now["mode"] for now in plant.given] == ["a"] * 30 + ["c"] * 30 + ["b"] * 140


def test_stretched_it_ends_where_the_run_ends():
    twice = given(Replay(schedule(), stretch=True), steps=1000)
    assert twice == pytest.approx([rate(k / 2) for k in range(1000)], rel=1e-9)
    assert given(Replay(schedule()), steps=1000)[500:] == [0.0] * 500, "else the last value stays"


def test_stretched_it_is_drawn_together_by_a_rewind():
    plant = Noting()
    policy = Replay(schedule(), stretch=True)
    simulation = Simulation(plant, [policy], budget=1000, limits=Limits(max_fraction=1.0)).run(701)
    simulation.submit(Rewind(450, "skip", reason=""), ANN)
    simulation.run()
    end = simulation.clock.step
    assert end < 800
    assert plant.given[-1]["lr"] == pytest.approx(0.1 / 300 * 500 / end, rel=0.01), "one step before 0"


def test_without_a_budget_there_is_nothing_to_stretch_it_to():
    plant = Noting()
    simulation = Simulation(plant, [Replay(schedule(), stretch=True)], budget=None).run(100)
    (decision,) = simulation.decisions
    assert "total_steps" in decision.action.reason
    assert plant.given[-1]["lr"] == 0.5


def test_after_a_rewind_it_is_where_it_was():
    plant = Noting()
    simulation = Simulation(plant, [Replay(schedule())], budget=700, limits=Limits(max_fraction=1.0)).run(150)
    simulation.submit(Rewind(70, "skip", reason=""), ANN)
    step = simulation.clock.step
    assert step < 80
    simulation.run()
    lived = [now["lr"] for now in plant.given[150:]]
    assert lived[: 500 - step] == pytest.approx([rate(k) for k in range(step, 500)], rel=1e-12)


class Other:
    """Changes the rate once."""

    name = "other"
    requires = ()
    controls = ("lr",)

    def __init__(self, step, action):
        self.left = {step: action}

    def decide(self, observation):
        action = self.left.pop(observation.spent, None)
        return [action] if action else []

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize(
    "action",
    [
        Set("lr", 0.01, reason=""),
        Ramp("lr", 0.01, 20, reason=""),
        Rewind(110, "skip", (Set("lr", 0.01, reason=""),), reason=""),
    ],
)
def test_what_another_policy_changes_stands_until_its_next_change(action):
    plant = Noting()
    policies = [Replay(schedule()), Other(130, action)]
    simulation = Simulation(plant, policies, budget=600, limits=Limits(max_fraction=1.0, cooldown=0)).run(170)
    assert simulation["lr"] == 0.01
    simulation.run()
    assert simulation["lr"] == 0.0
    assert simulation.values["hp/lr"][-3][2] != 0.01


def test_what_a_person_has_set_stands_after_its_release_until_the_next_change():
    plant = Noting()
    simulation = Simulation(plant, [Replay(schedule())], budget=500, limits=Limits(max_fraction=1.0)).run(60)
    simulation.submit(Set("lr", 0.3, reason=""), ANN)
    simulation.run(100)
    assert simulation["lr"] == 0.3
    assert simulation.decisions[-1].source == ANN, "it asks for nothing"
    simulation.submit(Release("lr", reason=""), ANN)
    simulation.run(30)
    assert simulation["lr"] == 0.3
    simulation.run()
    assert simulation["lr"] == 0.0


def test_a_jump_beyond_the_limits_takes_several_ticks():
    policy = Replay(schedule(lr=[{"step": 0, "value": 0.9}]))
    rates = given(policy, steps=60, every=10, limits=Limits(max_fraction=0.15))
    assert rates[::10] == pytest.approx([0.65, 0.8, 0.9, 0.9, 0.9, 0.9])


def test_values_are_kept_within_the_bounds_that_they_have_here():
    policy = Replay(schedule(lr=[{"step": 0, "value": 0.1}, {"step": 20, "value": 7.0}]))
    assert given(policy, steps=60)[-1] == 1.0


def test_a_hyperparameter_that_the_run_lacks_is_an_error_before_it_starts():
    with pytest.raises(TuneError, match="needs the hyperparameter 'depth', which is not there"):
        Simulation(Noting(), [Replay(schedule(lr=RATE, depth=RATE))])


def test_it_reads_a_file(tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(schedule()))
    assert given(Replay(path)) == given(Replay(str(path))) == given(Replay(schedule()))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({}, "version None"),
        ([], "got list"),
        ({**schedule(), "version": 2}, "version 1, got dict of version 2"),
        ({**schedule(), "steps": 0}, "got steps=0"),
        ({**schedule(), "hyperparameters": {}}, "leave one"),
        (schedule(lr=[]), "lr in a schedule is a list"),
        (schedule(lr=RATE[1:]), "the first at 0"),
        (schedule(lr=[RATE[0], RATE[0]]), "by step"),
        (schedule(lr=[{"step": 0, "value": float("nan")}]), "a change of lr"),
        (schedule(lr=[{"step": 0, "value": None}]), "a change of lr"),
        (schedule(lr=[{"step": 0}]), "a change of lr"),
        (schedule(lr=[{"step": 0.5, "value": 1.0}]), "a change of lr"),
        (schedule(lr=[{**RATE[1], "step": 0, "shape": "cubic"}]), "a change of lr"),
        (schedule(lr=[{**RATE[1], "step": 0, "to": 0.0}]), "a change of lr"),
        (schedule(lr=[{**RATE[1], "step": 0, "steps": 0}]), "a change of lr"),
        (schedule(lr=[{**RATE[1], "step": 0, "began": 5}]), "a change of lr"),
    ],
)
def test_what_is_no_schedule_is_refused(broken, words):
    with pytest.raises(TuneError, match=words):
        Replay(broken)


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "s.json").write_text("{")
    for path in (tmp_path / "s.json", tmp_path / "none.json"):
        with pytest.raises(TuneError, match=path.name):
            Replay(path)


BUSY = schedule(
    lr=[
        {"step": 0, "value": 0.05},
        {"step": 105, "from": 0.05, "to": 0.2, "steps": 60, "shape": "cosine"},
        {"step": 300, "value": 0.1},
        {"step": 400, "from": 0.1, "to": 0.01, "steps": 200, "shape": "exponential"},
    ],
    momentum=[{"step": 0, "value": 0.5}, {"step": 200, "value": 0.9}],
)


@pytest.mark.parametrize("stretch", [False, True])
def test_it_conforms(stretch):
    conformance.check(lambda: Replay(BUSY, stretch=stretch), TrainingPlant)
