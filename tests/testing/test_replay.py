"""A policy that is shown the record of its own run sees what it saw, and decides what it decided."""

import pytest
import torch
from loops import Loop, Scripted

from autotune.actuators import learning_rate, weight_decay
from autotune.hyperparameters import CategoricalHyperparameter, IntHyperparameter
from autotune.memory import Rewinding
from autotune.policies import DivergenceGuard, Plateau
from autotune.policies.schedules import cosine
from autotune.records import Checkpoint, Escalate, Ramp, Rewind, Set, TuneError
from autotune.testing import replay

STEPS = 600
OF_THE_RUN = {
    "divergence_guard": DivergenceGuard,
    "plateau": Plateau,
    "decay": lambda: cosine(hyperparameter="weight_decay", name="decay"),
}


class Watching(Scripted):
    """Does as it is told, as soon as it is asked, and keeps what it has seen as comparable values."""

    told = 0

    def decide(self, observation):
        due = [spent for spent in self.script if self.told < spent <= observation.spent]
        actions = [action for spent in due for action in self.script[spent]]
        self.told = observation.spent
        seen = {
            "clocks": (observation.step, observation.spent, observation.budget, observation.rewinds_left),
            "hyperparameters": dict(observation.hyperparameters),
            "signals": {
                name: (signal.step.tolist(), signal.spent.tolist(), repr(signal.value.tolist()))
                for name, signal in observation.signals.items()
            },
            "snapshots": list(observation.snapshots),
            "decisions": [(d.id, d.source, d.status, d.action) for d in observation.decisions],
        }
        self.seen.append(seen)
        return actions

    def state_dict(self):
        return {"told": self.told}

    def load_state_dict(self, state):
        self.told = state["told"]


def hyperparameters(loop):
    return [
        learning_rate(loop.optimizer),
        weight_decay(loop.optimizer),
        IntHyperparameter("window", 4, low=1, high=9),
        CategoricalHyperparameter("mixing", 1, choices=(0, 1, 2)),
    ]


def train(loop, tuner, until=None, poisoned=range(0), person=None):
    for batch in tuner.batches(loop.loader):
        inputs, labels = batch
        if tuner.spent in poisoned:
            noise = torch.Generator().manual_seed(tuner.spent)
            inputs = 1e4 * torch.randn(inputs.shape, generator=noise)
        tuner.report(loss=loop.step((inputs, labels)))
        if tuner.spent == until:
            return
        if person is not None:
            person(tuner)


def decided(tuner, name):
    return [(d.step, d.spent, d.action) for d in tuner.decisions if d.source == name]


@pytest.fixture(scope="module")
def rescued(tmp_path_factory):
    """A run with corrupted batches, a rewind, decays and a cool-down."""
    loop, folder = Loop("sgd"), tmp_path_factory.mktemp("runs") / "run"
    policies = [make() for make in OF_THE_RUN.values()]
    with loop.tuner(
        folder,
        hyperparameters=hyperparameters(loop),
        policies=policies,
        total_steps=STEPS,
        evaluate=loop.validate,
    ) as tuner:
        train(loop, tuner, poisoned=range(200, 230))
    return tuner


@pytest.mark.parametrize("name", OF_THE_RUN)
def test_a_policy_of_the_run_decides_as_it_did(rescued, name):
    assert any(d.applied for d in rescued.decisions if isinstance(d.action, Rewind))
    replayed = replay(rescued.folder, OF_THE_RUN[name]())
    assert replayed.actions == decided(rescued, name) != []
    assert replayed.ticks > STEPS / 10


def test_another_policy_says_what_it_would_have_done(rescued):
    rewind = next(d for d in rescued.decisions if isinstance(d.action, Rewind))
    actions = [[Set("lr", 0.5, reason="a try")], [Set("lr", 0.4, reason="another")]]
    other = Watching({100: actions[0], rewind.spent: actions[1]}, "other")
    replayed = replay(rescued.folder, other)
    (first,) = (m for m in replayed.moments if m.spent == 100)
    assert (first.step, first.proposed, first.recorded) == (100, actions[0], [])
    assert [a for _, _, a in replayed.actions] == [*actions[0], *actions[1]]
    assert replayed.actions[1][1] > rewind.spent  # where the run was rewound, it was not asked
    (moment,) = (m for m in replayed.moments if rewind in m.recorded)
    assert moment.proposed == []
    assert [d.id for m in replayed.moments for d in m.recorded] == [d.id for d in rescued.decisions]
    told = [d for seen in other.seen for d in seen["decisions"] if d[1] == "other"]
    assert told == [(0, "other", "suggested", action) for _, _, action in replayed.actions]
    assert "step    100  spent    100  would: lr → 0.5 (a try)" in str(replayed)
    assert f"divergence_guard: {rewind.action.describe()} (applied)" in str(replayed)


def test_every_part_of_what_was_seen_is_rebuilt(tmp_path):
    first = {
        30: [Ramp("lr", 0.2, 100, reason="up")],
        150: [Rewind(100, "skip", (Ramp("lr", 0.01, 40, reason="on"),), reason="back")],
        210: [Set("mixing", 2, reason="mix"), Set("window", 9, reason="wide")],
        330: [Rewind("here", "skip", (Set("mixing", 0, reason="on"),), reason="another branch")],
        410: [Set("nowhere", 1.0, reason="a fault")],
    }
    script = {
        60: [Checkpoint(reason="safe"), Set("window", 7, reason="wider")],
        110: [Checkpoint("here", reason="named")],
        150: [Set("window", 2, reason="never asked")],
        240: [Rewind(200, "replay", (Set("window", 1, reason="narrow"),), reason="again")],
        250: [Rewind(10**6, "replay", reason="refused")],
        300: [Checkpoint(reason="one more"), Checkpoint(reason="and another")],
        450: [Escalate(reason="help")],
    }
    last = {
        30: [Set("weight_decay", 0.1, reason="more")],
        260: [Ramp("weight_decay", 0.0, 200, reason="less")],
    }

    def person(tuner):
        match tuner.spent:
            case 45:
                tuner.set("window", 5, by="ada")
            case 70:
                tuner.release("window", by="ada")
            case 205:
                tuner.checkpoint("person")
            case 275:
                tuner.ramp("lr", 0.05, 300, by="ada")
            case 345:
                tuner.rewind(90, data="skip", by="ada")

    loop, watching = Loop("sgd"), Watching(dict(script), "watching", ("window",))
    with loop.tuner(
        tmp_path / "run",
        hyperparameters=hyperparameters(loop),
        policies=[
            Watching(first, "first", ("lr", "mixing", "window")),
            watching,
            Watching(last, "last", ("weight_decay",)),
        ],
        total_steps=500,
        evaluate=loop.validate,
    ) as tuner:
        train(loop, tuner, person=person)
    statuses = [d.status for d in tuner.decisions]
    assert statuses.count("applied") >= 18, statuses
    assert statuses.count("refused") >= 3, statuses
    assert max(d.branch for d in tuner.decisions) >= 4
    again = Watching(dict(script), "watching", ("window",))
    replayed = replay(tmp_path / "run", again)
    assert replayed.ticks == len(watching.seen)
    for then, now in zip(watching.seen, again.seen, strict=True):
        assert now == then


def test_after_a_resume_it_goes_on_with_the_memory_of_the_checkpoint(tmp_path):
    folder, seen = tmp_path / "run", []
    arguments = {"rewinding": Rewinding(checkpoint_every=100), "total_steps": 400}
    script = {130: [Set("lr", 0.05, reason="a try")], 230: [Set("lr", 0.02, reason="lost")]}
    for until in (255, None):
        loop, watching = Loop("sgd"), Watching(dict(script), "watching")
        arguments.update(hyperparameters=hyperparameters(loop), policies=[watching], evaluate=loop.validate)
        tuner = loop.resume(folder, **arguments) if seen else loop.tuner(folder, **arguments)
        train(loop, tuner, until)
        tuner.close()
        seen += watching.seen
    assert seen[-1]["clocks"][1:3] == (455, 455)  # 55 steps were lost
    again = Watching(dict(script), "watching")
    replayed = replay(folder, again)
    assert again.seen == seen
    assert [spent for _, spent, _ in replayed.actions] == [130, 230, 263]


def test_the_rewinding_of_the_run_tells_its_snapshots(tmp_path):
    loop, watching = Loop("sgd"), Watching({}, "watching")
    rewinding = Rewinding(every=7, capacity=3)
    with loop.tuner(tmp_path / "run", policies=[watching], total_steps=90, rewinding=rewinding) as tuner:
        train(loop, tuner)
    again = Watching({}, "watching")
    replay(tmp_path / "run", again, rewinding=rewinding)
    assert again.seen == watching.seen
    assert len(again.seen[-1]["snapshots"]) == 3


def test_what_the_run_does_not_have_is_said(rescued, tmp_path):
    with pytest.raises(TuneError, match="needs the signal 'kl', which is not there"):
        replay(rescued.folder, Plateau(signal="kl"))
    with pytest.raises(TuneError, match="needs the hyperparameter 'dropout'"):
        replay(rescued.folder, Plateau("dropout"))
    with pytest.raises(TuneError, match="a run's folder holds a journal"):
        replay(tmp_path, Plateau())
    loop = Loop()
    with loop.tuner(tmp_path / "run", hyperparameters=[], total_steps=20) as tuner:
        train(loop, tuner)
    with pytest.raises(TuneError, match="register a hyperparameter that is a number"):
        replay(tmp_path / "run", Watching({}, "watching", ()))
