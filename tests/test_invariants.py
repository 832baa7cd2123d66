"""The invariants of the design, each by name; those of several processes are not built yet."""

import contextlib
import math
import subprocess
import sys
import threading
import time
from random import Random

import pytest
import sqlalchemy as sa
import torch
from loops import OPTIMIZERS, Loop, Scripted, Stuck, same
from torch.nn.functional import cross_entropy

from autotune import FloatHyperparameter, Limits, Rewinding, TuneError
from autotune.actuators import dropout, learning_rate
from autotune.commands import command, mailbox
from autotune.journal import Journal
from autotune.records import Pin, Ramp, Rewind, Set, Stop


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_1_an_attached_tuner_that_never_acts_changes_nothing(tmp_path, optimizer, workers):
    bare = Loop(optimizer, workers).bare(40)
    loop = Loop(optimizer, workers)
    with loop.tuner(tmp_path / "run", total_steps=40, evaluate=loop.validate, evaluate_every=7) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    assert loop.losses == bare.losses
    assert same(loop.state(), bare.state())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("to", [0, 1, 12])
def test_2_a_rewind_and_the_same_steps_are_bitwise_three_times(tmp_path, to, workers):
    """An epoch has 8 steps: 12 is in the second one, and the steps that come again end in the third."""
    loop = Loop(workers=workers)
    runs = []
    with loop.tuner(tmp_path / "run", rewinding=Rewinding(every=1, capacity=30), total_steps=200) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.step == 20:
                runs.append((loop.losses[-(20 - to) :], loop.state()))
                if len(runs) == 4:
                    break
                restored = tuner.rewind(to)
                assert (restored.grade, restored.step, tuner.step) == ("bitwise", to, to)
    for losses, state in runs[1:]:
        assert losses == runs[0][0]
        assert same(state, runs[0][1])


def test_3_a_restore_moves_no_tensor_and_recompiles_nothing(tmp_path):
    loop = Loop()
    compiled = torch.compile(loop.model, backend="aot_eager")
    torch._dynamo.reset()
    with loop.tuner(tmp_path / "run", rewinding=Rewinding(every=5), total_steps=60) as tuner:

        def pointers():
            slots = [t for s in loop.optimizer.state.values() for t in s.values()]
            return [t.data_ptr() for t in [*loop.model.parameters(), *loop.model.buffers(), *slots]]

        before = frames = None
        for inputs, labels in tuner.batches(loop.loader):
            loss = cross_entropy(compiled(inputs), labels)
            loop.optimizer.zero_grad()
            loss.backward()
            loop.optimizer.step()
            if tuner.spent == 20:
                before, frames = pointers(), torch._dynamo.utils.counters["stats"]["unique_graphs"]
                tuner.rewind(10)
            if tuner.spent == 40:
                tuner.rewind(15)
                assert pointers() == before
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == frames


@pytest.mark.parametrize("schedule", [None, "multiply", "override"])
def test_4_what_a_person_sets_stays_until_it_is_released(tmp_path, schedule):
    loop = Loop()
    if schedule:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(loop.optimizer, 60)
        lr = learning_rate(loop.optimizer, schedule=schedule)
        stateful = {"scheduler": scheduler}
    else:
        scheduler, lr, stateful = None, learning_rate(loop.optimizer), {}
    meddler = Scripted({s: [Set("lr", 1e-3 * s, reason="meddling")] for s in (20, 30, 50)})
    with loop.tuner(
        tmp_path / "run", hyperparameters=[lr], policies=[meddler], stateful=stateful, total_steps=60
    ) as tuner:
        values = {}
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if scheduler:
                scheduler.step()
            if tuner.spent == 15:
                tuner.set("lr", 5e-3, by="ada")
            if tuner.spent == 42:
                tuner.release("lr", by="ada")
            values[tuner.spent] = lr()
    assert {values[s] for s in range(15, 51)} == {5e-3}
    assert values[51] == pytest.approx(1e-3 * 50)
    statuses = [(d.source, d.status) for d in tuner.decisions]
    assert statuses == [
        ("human:ada", "applied"),
        ("scripted", "refused"),
        ("scripted", "refused"),
        ("human:ada", "applied"),
        ("scripted", "applied"),
    ]
    assert "held by human:ada" in tuner.decisions[1].note


def test_4_a_rewind_leaves_a_persons_value_and_takes_the_policies_back(tmp_path):
    loop = Loop()
    noise = FloatHyperparameter("noise", 0.1, low=0, high=1)
    policy = Scripted({20: [Set("noise", 0.3, reason="more")]}, controls=("noise",))
    with loop.tuner(
        tmp_path / "run",
        hyperparameters=[learning_rate(loop.optimizer), noise],
        policies=[policy],
        rewinding=Rewinding(every=5),
        total_steps=40,
    ) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.spent == 25:
                tuner.set("lr", 5e-3)
                tuner.rewind(10)
                assert (tuner.hyperparameters["lr"](), noise()) == (5e-3, 0.1)
                assert loop.optimizer.param_groups[0]["lr"] == 5e-3


def test_5_what_write_returns_is_what_the_next_step_uses(tmp_path):
    loop = Loop("sgd")
    used = []
    loop.optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    policy = Scripted(
        {
            0: [Set("lr", 0.07, reason="")],
            10: [Set("lr", 0.05, reason="")],
            20: [Ramp("lr", 0.01, 4, reason="")],
        }
    )
    with loop.tuner(tmp_path / "run", policies=[policy], total_steps=30) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
    assert [d.after for d in tuner.decisions[:2]] == [{"lr": 0.07}, {"lr": 0.05}]
    assert used[:10] == [0.07] * 10
    assert used[10:20] == [0.05] * 10
    assert used[20:26] == pytest.approx([0.05, 0.04, 0.03, 0.02, 0.01, 0.01])


@pytest.mark.parametrize(
    ("actions", "status", "note"),
    [
        ([Set("lr", math.nan, reason="")], "refused", "must be finite, got nan"),
        ([Set("momentum", 0.9, reason="")], "refused", "no hyperparameter is called 'momentum'"),
        ([Set("valve", 0.9, reason="")], "failed", "valve stuck"),
        ([Rewind(-5, reason="")], "refused", "at or before the step asked for, got -5"),
        ([Rewind("nowhere", reason="")], "refused", "nowhere"),
        (lambda observation: 1 / 0, None, "ZeroDivisionError"),
        (["sleep"], None, "it returns a sequence of actions, got ['sleep']"),
    ],
)
def test_6_what_is_refused_or_fails_leaves_the_plant_untouched(tmp_path, actions, status, note):
    bare = Loop().bare(40)
    loop = Loop()
    valve = FloatHyperparameter("valve", low=0, high=1, actuator=Stuck(0.2))
    policy = Scripted({20: actions}, controls=("lr", "valve"))
    with loop.tuner(
        tmp_path / "run",
        hyperparameters=[learning_rate(loop.optimizer), valve],
        policies=[policy],
        total_steps=40,
    ) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    assert valve() == 0.2
    assert same(loop.state(), bare.state())
    if status:
        assert tuner.decisions[0].status == status
    assert note in " ".join([tuner.decisions[0].note, tuner.decisions[0].action.reason])
    with_the_journal = Journal.open(tmp_path / "run").decisions()
    assert [(d.status, d.note) for d in with_the_journal] == [(d.status, d.note) for d in tuner.decisions]


@pytest.mark.parametrize(
    "script",
    [
        {10: lambda observation: 1 / 0},
        {10: [Set("lr", math.nan, reason="")]},
        {s: [Set("lr", 2.0 + s, reason="")] for s in (10, 20, 30)},
    ],
    ids=["raises", "returns NaN", "leaves its bounds thrice"],
)
def test_6_a_policy_that_breaks_the_rules_is_benched_and_training_goes_on(tmp_path, script):
    loop = Loop()
    policy = Scripted(script)
    lr = learning_rate(loop.optimizer, high=1.0)
    with loop.tuner(tmp_path / "run", hyperparameters=[lr], policies=[policy], total_steps=60) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if not len(loop.losses) % 10:
                loop.optimizer.param_groups[0]["lr"] = 1e-2
    assert tuner.step == 60
    asked = len(policy.seen)
    assert asked == 1 + max(script) // 10  # before the first step too
    assert "scripted is benched" in tuner.decisions[-1].action.reason


TRAINING = """
import sys
sys.path.insert(0, {tests!r})
from loops import Loop, Scripted
from autotune import Rewinding
from autotune.actuators import dropout, learning_rate
from autotune.records import Set
loop = Loop()
class Restless(Scripted):
    def decide(self, observation):
        return [Set("lr", 1e-2 / (1 + observation.spent % 7), reason="now and then")]
arguments = dict(policies=[Restless({{}})], total_steps=1_000_000, rewinding=Rewinding(checkpoint_every=25))
folder = {folder!r}
arguments["hyperparameters"] = [learning_rate(loop.optimizer), dropout(loop.model)]
resuming = {resuming}
tuner = loop.resume(folder, **arguments) if resuming else loop.tuner(folder, **arguments)
print(tuner.step, tuner.spent, flush=True)
for batch in tuner.batches(loop.loader):
    tuner.report(loss=loop.step(batch))
    if tuner.decisions and tuner.decisions[-1].action.kind == "set":
        print("applied", tuner.decisions[-1].id, flush=True)
tuner.close()
"""

WRITERS, SENT, KILLS = 8, 1000, 10


def write(folder, writer, sent, over):
    """One of the people who all want something at once."""
    random = Random(writer)
    for n in range(SENT // WRITERS):
        part = (n + writer / WRITERS) / SENT
        action = random.choice(
            [Set("dropout", part, reason=""), Pin("dropout", 5, reason=""), Set("dropout", 7.0, reason="")]
        )
        wanted = command(action, f"writer-{writer}", expires_in=3600)
        with contextlib.closing(mailbox(folder)) as box:
            box.post(wanted)
        sent.append(wanted)
        over.wait(random.random() / 2)


def test_7_kill_9_loses_no_decision_no_command_and_the_last_whole_checkpoint_loads(tmp_path):
    folder, tests = tmp_path / "run", __file__.rpartition("/")[0]
    saved = folder / "checkpoints"
    spent = told = 0
    sent, over, writers = [], threading.Event(), []
    for round_ in range(KILLS + 1):
        code = TRAINING.format(tests=tests, folder=str(folder), resuming=round_ > 0)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started = process.stdout.readline().split()
        assert started, f"round {round_} did not start"
        assert int(started[1]) >= spent, "spent only grows"
        if not writers:
            writers = [threading.Thread(target=write, args=(folder, n, sent, over)) for n in range(WRITERS)]
            for writer in writers:
                writer.start()
        if round_ == KILLS:
            break
        applied = []
        while not (any(saved.glob("step-*/MANIFEST.json")) and len({*applied}) > 10):  # there is much to lose
            line = process.stdout.readline()
            assert line, f"round {round_} ended by itself"
            applied += [int(line.split()[1])] if line.startswith("applied") else []
        time.sleep(0.02 * round_)  # in the middle of anything
        process.kill()
        applied += [int(line.split()[1]) for line in process.stdout if line.startswith("applied")]
        process.wait()
        journal = Journal.open(folder)
        statuses = {d.id: d.status for d in journal.decisions()}
        told = max([told, *applied])
        assert all(statuses[i] != "pending" for i in applied)
        spent = journal.last_spent()
        journal.close()
    over.set()  # the rest comes all at once
    for writer in writers:
        writer.join()
    with contextlib.closing(mailbox(folder)) as box:
        box.post(command(Stop(reason="all is sent"), "ann"))
        process.communicate(timeout=60)
        acks = {ack.command: ack for ack in box.acks(0)}
        order = [row.id for row in box._rows(sa.true())]
    assert told > 100
    loop = Loop()
    tuner = loop.resume(
        folder,
        policies=[Scripted({})],
        hyperparameters=[learning_rate(loop.optimizer), dropout(loop.model)],
    )
    assert tuner.step > 0
    decisions = Journal.open(folder).decisions()
    assert not [d for d in decisions if d.status == "pending"]
    judged = [o.decision for o in Journal.open(folder).outcomes()]
    assert len(judged) == len(set(judged)) > 50
    tuner.close()

    done = {d.action.evidence["command"]: d for d in decisions if "command" in d.action.evidence}
    assert len([d for d in decisions if "command" in d.action.evidence]) == len(done), "once"
    assert {c.id for c in sent} <= done.keys(), "none lost"
    assert len(sent) == SENT
    for command_ in sent:
        ack, decision = acks[command_.id], done[command_.id]
        assert (ack.status, ack.decision, ack.step) == (decision.status, decision.id, decision.step)
        assert decision.applied or ack.note, "refused with a reason"
    assert [done[id].id for id in order] == sorted(d.id for d in done.values()), "in order"


def test_8_steps_never_exceed_the_budget_and_rewinds_are_bounded(tmp_path):
    loop = Loop()
    again = Scripted(
        {
            s: [Rewind(0, "skip", (Set("lr", 1e-2 / s, reason=""),), reason="again")]
            for s in range(10, 200, 10)
        }
    )
    with loop.tuner(
        tmp_path / "run", policies=[again], total_steps=100, limits=Limits(max_rewinds=3)
    ) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
        assert len(loop.losses) == tuner.spent == 100
        assert tuner.step == 70
        assert [d.status for d in tuner.decisions].count("applied") == 3
        assert "all 3 rewinds are used up" in tuner.decisions[-1].note
        assert list(tuner.batches(loop.loader)) == []


def test_8_a_rewind_that_changes_nothing_is_refused(tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path / "run", rewinding=Rewinding(every=10), total_steps=30) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
        with pytest.raises(TuneError, match="changes nothing"):
            tuner.rewind(30)
        assert tuner.rewind(29).step == 20


RESUMED = """
import sys
sys.path.insert(0, {tests!r})
import torch
from loops import Loop, Scripted
from autotune.records import Ramp
loop = Loop("sgd", workers={workers})
policy = Scripted({{60: [Ramp("lr", 0.02, 80, reason="")], 150: [Ramp("lr", 0.01, 30, reason="")]}})
tuner = loop.resume({folder!r}, policies=[policy], total_steps=200, evaluate=loop.validate)
with tuner:
    for batch in tuner.batches(loop.loader):
        tuner.report(loss=loop.step(batch))
torch.save((loop.losses, loop.state(), tuner.signals["loss"].step.tolist()), {out!r})
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_10_0_to_200_equals_0_to_100_saved_and_in_a_new_process_to_200(tmp_path, workers):
    script = {60: [Ramp("lr", 0.02, 80, reason="")], 150: [Ramp("lr", 0.01, 30, reason="")]}

    def run(folder, stop):
        loop = Loop("sgd", workers=workers)
        with loop.tuner(
            folder, policies=[Scripted(script)], total_steps=200, evaluate=loop.validate
        ) as tuner:
            for batch in tuner.batches(loop.loader):
                tuner.report(loss=loop.step(batch))
                if tuner.step == stop:
                    tuner.checkpoint("half")
                    break
        return loop

    whole = run(tmp_path / "whole", 200)
    run(tmp_path / "parts", 100)
    out = tmp_path / "resumed.pt"
    tests = __file__.rpartition("/")[0]
    code = RESUMED.format(tests=tests, workers=workers, folder=str(tmp_path / "parts"), out=str(out))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    losses, state, steps = torch.load(out)
    assert losses == whole.losses[100:]
    assert same(state, whole.state())
    assert steps == list(range(1, 201))
