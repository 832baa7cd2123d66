"""What stands in for names that a plant lacks, and what a watched policy is found to have done."""

from types import SimpleNamespace

import numpy as np
import pytest

from autotune.records import Set
from autotune.testing import Simulation, TrainingPlant
from autotune.testing.scenarios import STEPS, Broken, Fitted, Watched, fed, plants, run


class Scripted:
    """Returns, or raises, what it is told by a function of the observation."""

    def __init__(self, act, requires=(), controls=()):
        self.name, self.act, self.requires, self.controls = "scripted", act, requires, controls

    def decide(self, observation):
        return self.act(observation)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_missing_hyperparameter_is_like_its_namesake_and_changes_nothing():
    policy = Scripted(lambda observation: [], controls=("lr/head", "batch_size/late", "kl_coef"))
    plant = Fitted(TrainingPlant(), policy)
    states = {p.name: p.state() for p in plant.hyperparameters}
    lr, own = states["lr/head"], states["lr"]
    assert (lr.kind, lr.value, lr.low, lr.high) == (own.kind, own.value, own.low, own.high)
    assert states["batch_size/late"].kind == "int"
    assert (states["kl_coef"].value, states["kl_coef"].low, states["kl_coef"].high) == (0.5, 0.01, 1.0)
    next(p for p in plant.hyperparameters if p.name == "lr/head").write(own.high)
    assert plant.step(0)["loss"] == TrainingPlant().step(0)["loss"]


def test_a_missing_signal_falls_from_2_to_1_and_is_the_batchs_own():
    plant = Fitted(TrainingPlant(), Scripted(lambda observation: [], requires=("kl", "loss")))
    values = np.array([plant.step(batch)["kl"] for batch in range(1000)])
    assert values[:20].mean() == pytest.approx(2, rel=0.1)
    assert values[-300:].mean() == pytest.approx(1, rel=0.05)
    assert plant.step(7)["kl"] == values[7]
    assert "kl" in plant.signals


def test_alone_it_shows_what_is_named_and_nothing_else():
    policy = SimpleNamespace(requires=("kl", "train/loss"), controls=("dropout",))
    plant = Fitted(TrainingPlant(), policy, alone=True)
    assert [p.name for p in plant.hyperparameters] == ["dropout"]
    assert (set(plant.step(0)), set(plant.evaluate())) == ({"kl"}, {"train/loss"})


def test_the_plants_have_what_a_policy_names():
    policy = Scripted(lambda observation: [], controls=("frozen_layers", "sequence_length"))
    for make_plant in plants(policy).values():
        simulation = Simulation(make_plant(), [policy], budget=20).run()
        assert (simulation["frozen_layers"], simulation["sequence_length"]) == (0, 8)
        assert (simulation.controls["sequence_length"].low, simulation.controls["frozen_layers"].high) == (
            8,
            2,
        )


def test_what_is_lost_is_lost_for_every_signal():
    simulation = Simulation(Broken(TrainingPlant(), Scripted(lambda o: [])), budget=STEPS).run()
    for name in ("loss", "gradient_norm"):
        lost = {step for step, _, value in simulation.values[name] if not np.isfinite(value)}
        assert {10, 110, 210, 460, 600} <= lost
        assert not {50, 180, 280, 400} & lost
    assert not np.isfinite(simulation.values["validation/loss"][-1][2])


def test_what_it_raises_ends_its_part():
    def act(observation):
        if observation.step == 50:
            raise RuntimeError("broken")
        return [Set("lr", 0.05, reason="a try")] if observation.step == 20 else []

    policy = Scripted(act, controls=("lr",))
    watched = run(policy, TrainingPlant())
    assert str(watched.error) == "broken"
    assert [tick.observation.step for tick in watched.ticks][-1] == 50
    assert watched.acted
    assert [d.status for d in watched.decisions] == ["applied"]
    assert fed(policy, watched.ticks).log == watched.log


def test_what_is_taken_for_granted_is_told_from_what_is_asked_for():
    def act(observation):
        observation.signals.get("gradient_snr")
        if "update_ratio" in observation.signals:
            observation.signals["update_ratio"]
        for name, signal in observation.signals.items():
            assert observation.signals[name] is signal
        return []

    def grab(observation):
        return [] if observation.step < 10 or observation.signals["update_ratio"].last > 1 else ()

    assert run(Scripted(act), TrainingPlant()).unasked == set()
    assert run(Scripted(grab, requires=("loss",)), TrainingPlant()).unasked == {"update_ratio"}


def test_it_may_be_asked_by_the_real_panel():
    watched = Watched(Scripted(lambda observation: ["no action"]))
    Simulation(TrainingPlant(), [watched], budget=20).run()
    assert "a sequence of actions, got ('no action',)" in str(watched.error)
