"""A simulation is the tuner without the training: it must decide, remember and go back as the tuner does."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from loops import Loop, Scripted

from autotune.memory import Rewinding
from autotune.policies import DivergenceGuard, Plateau
from autotune.records import Checkpoint, Escalate, Ramp, Release, Rewind, Set, Stop, TuneError
from autotune.sensors import ChangePoints, StepTime
from autotune.supervisor import Limits
from autotune.testing import Simulation, Task, TrainingPlant

BURST = Task(optimizer="sgd", rate=0.3, burst=(230, 260), loss_noise=0.05)


class Carried:
    """A plant as a stateful part of a real run."""

    def __init__(self, plant):
        self.plant = plant

    def state_dict(self):
        return {
            name: copy.deepcopy(value) for name, value in dataclasses.asdict(self.plant.capture()).items()
        }

    def load_state_dict(self, state):
        self.plant.restore(type(self.plant.capture())(**state))


def real(folder, plant, policies, *, budget=600, person=None, **arguments):
    """The real tuner on a loop that takes its numbers from a plant; the loader hands out batch numbers."""
    loop = Loop("sgd")
    reports = [name for name in plant.signals if name not in ("loss", "validation/loss", "train/loss")]

    def evaluate():
        values = plant.evaluate()
        return {"loss": values["validation/loss"], "train/loss": values["train/loss"]}

    with loop.tuner(
        folder, hyperparameters=plant.hyperparameters, policies=policies, total_steps=budget,
        evaluate=evaluate,
        stateful={"plant": Carried(plant)}, sensors=[], reports=reports, **arguments,
    ) as tuner:  # fmt: skip
        for batch in tuner.batches(torch.arange(10**4)):
            measured = dict(plant.step(int(batch)))
            loop.optimizer.step()
            if tuner.step % 10 and tuner.step != 1:
                measured = {"loss": measured["loss"]}
            measured.pop("generalization_gap", None)
            tuner.report(**measured)
            if person is not None:
                person(tuner)
    return tuner


def compared(decisions):
    """Decisions without what only a real run has: the time, and how long a restore took."""
    return [
        (d.id, d.step, d.spent, d.branch, d.source, d.action, d.status, d.before, d.after) for d in decisions
    ]


def script():
    return {
        50: [Checkpoint("early", reason="safe")],
        60: [Ramp("lr", 0.1, 100, "cosine", reason="down")],
        100: [Set("dropout", 5.0, reason="out of bounds, and further than one jump")],
        330: [Rewind("early", "skip", (Set("momentum", 0.5, reason="calm"),), reason="by name")],
        400: [Rewind(10**6, "replay", reason="changes nothing")],
        500: [Release("lr", reason="done"), Escalate(reason="look")],
    }


CONTROLS = ("lr", "momentum", "dropout")


class AtOrAfter(Scripted):
    """Does each thing at the first tick from its `spent` on."""

    told = 0

    def decide(self, observation):
        due = [spent for spent in self.script if self.told < spent <= observation.spent]
        self.told = observation.spent
        return [action for spent in due for action in self.script[spent]]

    def state_dict(self):
        return {"told": self.told}

    def load_state_dict(self, state):
        self.told = state["told"]


def policies():
    return [DivergenceGuard(), AtOrAfter(script(), controls=CONTROLS), Plateau()]


@pytest.mark.parametrize("data", ["skip", "replay"])
def test_it_decides_as_the_real_tuner_on_the_same_numbers(tmp_path, data):
    def person(tuner):
        if tuner.spent == 505:
            tuner.rewind(200, data=data, by="ada")

    tuner = real(tmp_path / "run", TrainingPlant(BURST), policies(), person=person)
    simulation = Simulation(TrainingPlant(BURST), policies(), budget=600).run(505)
    simulation.submit(Rewind(200, data, reason=""), "human:ada")
    simulation.run()
    assert compared(simulation.decisions) == compared(tuner.decisions)
    assert {d.source for d in tuner.decisions if d.applied} >= {"divergence_guard", "plateau", "scripted"}
    assert simulation.clock == tuner._engine.clock
    for name, signal in tuner.signals.items():
        if name in simulation.signals:  # the gap is measured in its own way
            assert signal.step.tolist() == simulation.signals[name].step.tolist(), name
            np.testing.assert_array_equal(signal.value, simulation.signals[name].value)


def test_suggesting_is_the_tuners_too(tmp_path):
    tuner = real(tmp_path / "run", TrainingPlant(BURST), policies(), suggest=True, budget=300)
    simulation = Simulation(TrainingPlant(BURST), policies(), budget=300, suggest=True).run()
    assert compared(simulation.decisions) == compared(tuner.decisions)
    assert "suggested" in {d.status for d in simulation.decisions}
    assert not any(d.applied for d in simulation.decisions)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("at", [7, 55, 247, 250, 333, 405])
def test_a_resumed_one_goes_on_to_the_bit(at, lag):
    def made():
        return Simulation(TrainingPlant(BURST), policies(), budget=600, lag=lag, sensors=[ChangePoints()])

    whole = made().run()
    half = made().run(at)
    state = half.state_dict()
    half.run()
    for plant_of_another in (made(), made().run(100)):
        plant_of_another.load_state_dict(state)
        plant_of_another.run()
        assert plant_of_another.decisions == whole.decisions == half.decisions
        assert plant_of_another.plant.evaluate() == whole.plant.evaluate()
        for name, signal in whole.signals.items():
            assert signal.value.tobytes() == plant_of_another.signals[name].value.tobytes(), name


def test_what_follows_from_the_losses_is_derived_as_in_a_real_run():
    plateau = Plateau(signal="loss_slope")
    simulation = Simulation(
        TrainingPlant(Task(seed=1)), [plateau], budget=300, sensors=[ChangePoints()]
    ).run()
    alone = ChangePoints()
    alone.prepare(None)
    for step, spent, readings in alone.derive({"loss": simulation.signals["loss"]}, every=10):
        for name, value in zip(*readings, strict=True):
            assert (step, spent, value) in simulation.values[name]
    assert len(simulation.signals["loss_change"]) == 30
    with pytest.raises(TuneError, match="got StepTime; let the plant measure it"):
        Simulation(TrainingPlant(), sensors=[StepTime()])


def test_replayed_batches_come_again_and_skipped_ones_do_not():
    def losses(data):
        simulation = Simulation(TrainingPlant(), budget=400).run(100)
        first = simulation.signals["loss"].value[40:].copy()
        simulation.submit(Rewind(40, data, reason="again"), "human:ada")
        return first, simulation.run(60).signals["loss"].value[40:]

    first, again = losses("replay")
    assert first.tolist() == again.tolist()
    first, others = losses("skip")
    assert not np.isclose(first, others).any()


def test_what_is_late_comes_so_many_ticks_later():
    seen = {}

    class Looks(Scripted):
        def decide(self, observation):
            signal = observation.signals.get("gradient_norm")
            seen.setdefault(self.name, []).append(0 if signal is None else int(signal.step[-1]))
            return ()

    for lag in (0, 1, 3):
        Simulation(TrainingPlant(), [Looks({}, f"{lag}")], budget=None, evaluate_every=10, lag=lag).run(100)
    for lag in (0, 1, 3):  # at the first tick, before the first step, nothing is measured
        assert seen[f"{lag}"] == [0] * (lag + 1) + list(range(10, 101 - 10 * lag, 10))


def test_a_budget_is_kept_through_rewinds_and_a_stop_ends_it():
    policy = AtOrAfter({100: [Rewind(50, "skip", reason="back")], 150: [Rewind(0, "skip", reason="back")]})
    simulation = Simulation(TrainingPlant(), [policy], budget=200).run()
    assert (simulation.clock.spent, simulation.clock.step, simulation.clock.branch) == (200, 50, 2)
    stopped = Simulation(TrainingPlant(), [AtOrAfter({100: [Stop(reason="enough")]})], budget=200).run()
    assert stopped.clock.spent == 100


def test_a_run_ends_where_it_is_told_to():
    simulation = Simulation(TrainingPlant(), budget=None)
    with pytest.raises(TuneError, match="a run without a budget ends after"):
        simulation.run()
    assert simulation.run(30).clock.spent == 30
    simulation.submit(Set("batch_size", 64, reason="twice the cost"), "human:ada")
    assert simulation.run(cost=130).clock.spent == 80


def test_what_does_not_fit_is_refused_as_by_the_tuner():
    for wrong, message in (
        ([object()], "a policy has name, requires"),
        (Plateau(), "policies is a list"),
        ([Plateau(signal="kl")], "needs the signal 'kl'"),
        ([Plateau("temperature")], "needs the hyperparameter 'temperature'"),
        ([Plateau(), Plateau()], "names of their own"),
    ):
        with pytest.raises(TuneError, match=message):
            Simulation(TrainingPlant(), wrong)


def test_who_breaks_the_rules_is_benched():
    undeclared = AtOrAfter({20: [Set("momentum", 0.5, reason="not mine")]}, controls=("lr",))
    unstorable = AtOrAfter({20: [Set("lr", 0.05, reason="x", evidence={"w": object()})]}, "unstorable")
    simulation = Simulation(TrainingPlant(), [undeclared, unstorable], budget=40).run()
    assert simulation.benched.keys() == {"scripted", "unstorable"}
    assert simulation["momentum"] == 0.9
    assert "plain JSON values" in simulation.benched["unstorable"]


def test_snapshots_are_as_many_as_asked_for_and_checkpoints_stay():
    simulation = Simulation(TrainingPlant(), [AtOrAfter(script(), controls=CONTROLS)], budget=400, capacity=3)
    simulation.run(320)
    infos = simulation._memory.infos()
    assert [info.name for info in infos if info.name] == ["early"]
    assert len(infos) == 4
    assert not Simulation(TrainingPlant(), budget=100, capacity=0).run()._memory.infos()


def test_limits_hold():
    policy = AtOrAfter({100: [Rewind(50, "skip", reason="back")]})
    simulation = Simulation(TrainingPlant(), [policy], budget=200, limits=Limits(max_rewinds=0)).run()
    (decision,) = simulation.decisions
    assert (decision.status, simulation.clock.step) == ("refused", 200)


def test_the_same_rewinding_as_by_default():
    every = Simulation(TrainingPlant(), budget=2000).engine.every
    assert (every.snapshot, every.evaluate) == (50, 80)
    assert Rewinding().capacity == 6
