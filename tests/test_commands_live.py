"""Whatever people send to a live run, while its policies act: the record, the plant and the answers agree."""

import contextlib
import itertools
import resource
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loops import Loop, Scripted, Told, same
from people import WHY, post
from torch.nn.functional import cross_entropy

from autotune import Rewinding
from autotune.actuators import dropout
from autotune.commands import command, mailbox
from autotune.export import export_schedule
from autotune.hyperparameters import (
    Actuator,
    CategoricalHyperparameter,
    FloatHyperparameter,
    IntHyperparameter,
)
from autotune.journal import Journal, JournalError
from autotune.policies.replay import Replay
from autotune.ramps import running_from_json
from autotune.records import (
    SHAPES,
    Adopt,
    Approve,
    Arrange,
    Checkpoint,
    Comment,
    Pause,
    Pin,
    Point,
    Probe,
    Ramp,
    Reject,
    Release,
    Resume,
    Rewind,
    Schedule,
    Set,
    Stop,
    Suggest,
    Undo,
)
from autotune.supervisor import Limits

FREE = Limits(cooldown=0, max_factor=1e9, max_fraction=1.0, max_rewinds=1000, max_trials=1000)
NAMES = ("lr", "dropout", "size", "flip")
MOVES = (Set, Ramp, Schedule, Pin, Release, Rewind, Undo, Approve, Adopt)


# --- what people and policies may come up with -------------------------------------------------------------

part = st.integers(0, 20).map(lambda n: n / 20)
NUMBERS = {
    "lr": lambda u: 10 ** (-4 + 3 * u),
    "dropout": lambda u: 0.9 * u,
    "size": lambda u: 1 + round(511 * u),
}
numbers = st.sampled_from(list(NUMBERS))
names = st.sampled_from(NAMES)


def to_set(name, u):
    return Set(name, u > 0.5 if name == "flip" else NUMBERS[name](u), **WHY)


def to_ramp(name, u, steps, shape):
    return Ramp(name, NUMBERS[name](u), steps, shape if name == "lr" else "cosine", **WHY)


sets = st.builds(to_set, names, part)
ramps = st.builds(to_ramp, numbers, part, st.integers(1, 40), st.sampled_from(SHAPES))
changes = sets | ramps
then = st.lists(changes, max_size=2)
data = st.sampled_from(["replay", "skip"])
which = st.integers(0, 3)
corner = st.tuples(st.integers(1, 15), part, st.sampled_from(["linear", "cosine"]))
wrong = st.sampled_from(
    [
        Set("lr", 99.0, **WHY),
        Set("momentum", 0.5, **WHY),
        Set("size", "large", **WHY),
        Ramp("flip", 1.0, 5, **WHY),
        Schedule("lr", (Point(1, 0.01),), **WHY),
        Rewind("nowhere", **WHY),
        Rewind(5, then=(Set("lr", 99.0, **WHY),), **WHY),
        Undo(9999, **WHY),
        Approve(9999, **WHY),
        Arrange(("three",), **WHY),
    ]
)
both = (
    changes
    | st.builds(lambda name: Release(name, **WHY), names)
    | st.tuples(st.just("rewind"), st.integers(0, 40), data, then)
    | st.tuples(st.just("back"), which, data, then)
    | st.tuples(st.just("save"), st.booleans())
)
peoples = (
    both
    | both
    | st.builds(lambda name, n: Pin(name, n, **WHY), names, st.none() | st.integers(1, 25))
    | st.tuples(st.just("schedule"), numbers, st.lists(corner, min_size=1, max_size=3))
    | st.tuples(st.just("undo"), which)
    | st.tuples(st.just("undo"), which)
    | st.tuples(st.sampled_from([Approve, Reject, Comment]), which)
    | st.builds(lambda of: Arrange(tuple(of), **WHY), st.lists(st.sampled_from(["one", "two"]), unique=True))
    | st.tuples(st.just("again"), which)
    | wrong
)
peoples |= st.tuples(st.just("late"), peoples) | st.tuples(st.just("paused"), st.lists(peoples, max_size=2))
policies = (
    both
    | st.builds(lambda change: Suggest(change, **WHY), changes)
    | st.tuples(
        st.just("probe"),
        st.integers(1, 12),
        then,
        st.lists(ramps, max_size=1),
    )
    | st.tuples(st.just("adopt"), which)
    | st.just(Set("momentum", 0.5, **WHY))  # for which it is benched
)


def either(asked):
    """Trials, or one of them adopted."""
    kinds = [op[0] for op in asked if isinstance(op, tuple)]
    return not ("probe" in kinds and "adopt" in kinds)


turns = st.tuples(
    st.integers(1, 20),
    st.lists(st.tuples(st.sampled_from(["ann", "bob"]), peoples), max_size=4),
    st.tuples(st.lists(policies, max_size=2).filter(either), st.lists(policies, max_size=2).filter(either)),
    st.sampled_from(["", "", "", "", "", "", "crash", "stop"]),
)


class Rate(Actuator):
    """The optimizer's rate. (`learning_rate` looks for a scheduler among all objects, which is slow.)"""

    def __init__(self, optimizer):
        self.group = optimizer.param_groups[0]

    def read(self):
        return self.group["lr"]

    def write(self, value):
        self.group["lr"] = value
        return value


def rate_of(optimizer):
    return FloatHyperparameter("lr", low=1e-5, high=1.0, log=True, actuator=Rate(optimizer))


class Note(NamedTuple):
    """What a step had."""

    key: tuple
    branch: int
    trying: bool
    last_id: int
    values: dict
    owners: dict
    ramps: dict


class Live:
    """A run that is steered, over the lives of its processes, and what each of its steps really had."""

    def __init__(self, folder):
        self.folder = folder
        self.sent, self.saved = [], []
        self.given, self.losses, self.lives = {}, {}, [[]]
        self.bitwise = True

    def begin(self, resume):
        self.loop = Loop()
        self.told = [Told("one", NAMES), Told("two", NAMES)]
        arguments = {
            "hyperparameters": [
                rate_of(self.loop.optimizer),
                dropout(self.loop.model),
                IntHyperparameter("size", 32, low=1, high=512),
                CategoricalHyperparameter("flip", True, choices=(True, False)),
            ],
            "policies": self.told,
            "evaluate": self.loop.validate,
            "evaluate_every": 25,
            "sample_every": 5,
            "sensors": (),
            "limits": FREE,
            "rewinding": Rewinding(every=10, capacity=4),
        }
        make = self.loop.resume if resume else self.loop.tuner
        self.tuner = make(self.folder, **arguments)
        self.engine = self.tuner._engine
        if resume:
            owners = {name: parameter.owner for name, parameter in self.engine.controls.items()}
            assert owners == self.real["owners"], "who holds what outlasts the process"

    def train(self, turns):
        turns, resume, then = list(turns), False, ""
        while True:
            self.begin(resume)
            with self.tuner:
                then = self.live(turns)
                self.at_the_end(then)
            if then != "crash":
                return
            resume = True
            self.lives.append([])

    def live(self, turns):
        tuner, left = self.tuner, 4
        for batch in tuner.batches(self.loop.loader, epochs=1000):
            self.note()
            loss = self.loop.step(batch)
            self.losses[tuner.step, tuner.spent] = loss.item()
            tuner.report(loss=loss)
            self.boundary, self.trying = tuner.step - 1, self.engine.trials.running
            left -= 1
            if left > 0:
                continue
            if not turns:
                return "over"
            left, asked, of_policies, then = turns.pop(0)
            for policy, ops in zip(self.told, of_policies, strict=True):
                policy.next = [lambda seen, op=op: self.made(op, seen) for op in ops]
            sent = [one for author, op in asked for one in self.commands(author, op)]
            if then == "stop":
                sent.append(command(Stop(**WHY), "ann"))
            self.sent += sent
            post(tuner, *sent)
            if then == "crash" and self.engine.memory._saved:
                return then
        self.boundary, self.trying = tuner.step, False
        return "stop"

    def note(self):
        tuner, controls = self.tuner, self.engine.controls
        now = {name: parameter() for name, parameter in controls.items()}
        now["lr"] = self.loop.optimizer.param_groups[0]["lr"]
        now["dropout"] = self.loop.model[3].p
        key = (tuner.step + 1, tuner.spent + 1)
        self.given[key] = now
        self.lives[-1].append(
            Note(
                key,
                self.engine.clock.branch,
                self.engine.trials.running,
                self.engine.executor.last_id,
                now,
                {name: parameter.owner for name, parameter in controls.items()},
                {name: ramp.source for name, ramp in controls.ramps.items()},
            )
        )

    def at_the_end(self, how):
        self.clock = self.engine.clock
        if self.trying:
            self.boundary = self.clock.step
        self.real = self.engine.live()
        if self.engine.memory.resumed is not None:
            self.bitwise &= self.engine.memory.resumed[0] == "bitwise"

    # --- from what was drawn to what is sent ---------------------------------------------------------------

    def commands(self, author, op):
        if isinstance(op, tuple) and op[0] == "again":
            return [self.sent[-1 - op[1]]] if len(self.sent) > op[1] else []
        if isinstance(op, tuple) and op[0] == "late":
            return [
                command(one.action, one.author, expires_in=1e-6)
                for one in self.commands(author, op[1])
                if one not in self.sent and not isinstance(one.action, Pause | Resume)
            ]
        if isinstance(op, tuple) and op[0] == "paused":
            inner = [one for other in op[1] for one in self.commands(author, other)]
            return [command(Pause(**WHY), author), *inner, command(Resume(**WHY), "bob")]
        return [command(action, author) for action in self.made(op, self.engine._observe(()))]

    def made(self, op, seen):
        """The actions that an operation stands for."""
        if not isinstance(op, tuple):
            return [op]
        kind, *rest = op
        last = self.engine.executor.last_id
        match kind:
            case "rewind":
                return [Rewind(max(0, seen.step - rest[0]), rest[1], tuple(rest[2]), **WHY)]
            case "back":
                to = self.saved[rest[0] % len(self.saved)] if self.saved else "nowhere"
                return [Rewind(to, rest[1], tuple(rest[2]), **WHY)]
            case "save":
                self.saved.append(f"saved-{len(self.saved)}")
                return [Checkpoint(self.saved[-1] if rest[0] else None, **WHY)]
            case "schedule":
                ahead = itertools.accumulate((n for n, _, _ in rest[1]), initial=seen.step)
                points = zip(list(ahead)[1:], rest[1], strict=True)
                return [
                    Schedule(
                        rest[0], tuple(Point(s, NUMBERS[rest[0]](u), f) for s, (_, u, f) in points), **WHY
                    )
                ]
            case "undo":
                return [Undo(None if rest[0] == 0 else max(1, last - rest[0] + 1), **WHY)]
            case "probe":
                return [Probe(rest[0], tuple(rest[1]), tuple(rest[2]), **WHY)]
            case "adopt":
                kept = sorted(i for i, trial in seen.trials.items() if trial.kept)
                return [Adopt(kept[rest[0] % len(kept)], **WHY)] if kept else []
        asked = [d.id for d in self.tuner.decisions if d.status == "suggested"]
        return [kind(asked[-1 - rest[0]] if len(asked) > rest[0] else max(1, last), **WHY)]


# --- what must hold ----------------------------------------------------------------------------------------


def agree(live):
    journal = Journal.open(live.folder)
    decisions, meta = journal.decisions(), journal.meta()
    journal.close()
    answered_once(live, decisions)
    as_recorded(live, decisions)
    held(live, decisions)
    stands(live, meta["live"])
    line = lived(live.clock, live.given)
    if line:
        exported(live, line)
        trained(live, decisions, line)


def answered_once(live, decisions):
    done = {}
    for decision in decisions:
        id = decision.action.evidence.get("command")
        assert id is None or id not in done, "once"
        if id is not None:
            done[id] = decision
    with contextlib.closing(mailbox(live.folder)) as box:
        for sent in {one.id: one for one in live.sent}.values():  # some are sent again
            ack, decision = box.ack(sent.id), done.pop(sent.id, None)
            if decision is None:
                assert (ack.status, ack.decision) == ("refused", None)
                assert "the run was over" in ack.note
                continue
            said = (ack.status, ack.note, ack.decision, ack.step, ack.spent)
            assert said == (decision.status, decision.note, decision.id, decision.step, decision.spent)
            assert decision.status in ("applied", "clamped") or decision.note
            assert decision.source == f"human:{sent.author}"
            assert decision.action.kind == sent.action.kind
    assert not done


def as_recorded(live, decisions):
    """Values on record are those that the steps before and after had."""
    assert not [d for d in decisions if d.status in ("pending", "failed")]
    moving = [d for d in decisions if d.applied and isinstance(d.action, MOVES) and not redone(d)]
    notes = [note for life in live.lives for note in life]
    for spent, group in itertools.groupby(moving, key=lambda d: d.spent):
        first, *_ = at_once = list(group)
        for d in at_once:
            if isinstance(d.action, Set):
                assert d.after[d.action.name] == pytest.approx(d.action.value, rel=1e-9)
        was = [n for n in notes if n.key == (first.step, spent) and n.branch == first.branch]
        for name, value in first.before.items() if was and first.source.startswith("human:") else ():
            assert was[-1].values[name] == value or name in was[-1].ramps, first
        now = next((n for n in notes if n.last_id >= at_once[-1].id), None)
        for name, value in at_once[-1].after.items() if now and not now.trying else ():
            assert now.values[name] == pytest.approx(value, rel=1e-9), at_once[-1]


def redone(decision):
    """Done by a resume."""
    return decision.source == "supervisor" or "again" in decision.action.evidence


def held(live, decisions):
    """What a person holds is changed by people alone."""
    for life in live.lives:
        for was, now in itertools.pairwise(life):
            people = [
                d
                for d in decisions
                if was.last_id < d.id <= now.last_id and d.applied and d.source.startswith("human:")
            ]
            for name in NAMES:
                owner = was.owners[name]
                same = (was.values[name], owner) == (now.values[name], now.owners[name])
                back = was.trying and was.branch != now.branch  # to where a person's ramp was
                if owner != "policy" and not same and not people and not back:
                    assert was.ramps.get(name) == owner == now.owners[name], (name, now.key)


def stands(live, told):
    """What is told about the run is how it stands."""
    real = live.real
    for key in ("owners", "pins", "paused", "policies", "benched", "stretches"):
        assert told[key] == real[key], key
    running = [
        {name: ramp for name, ramp in state["ramps"].items() if running_from_json(ramp).end > live.boundary}
        for state in (told, real)
    ]
    assert running[0].keys() == running[1].keys()
    for name, value in real["values"].items():
        want = told["values"][name]
        if name in told["ramps"]:
            want = running_from_json(told["ramps"][name]).at(live.boundary)
        assert value == pytest.approx(want, rel=1e-6, abs=0.5 if name == "size" else None), name


def lived(clock, given):
    ends = [*(step for step, _ in clock.stretches[1:]), clock.step]
    return [
        (k, spent + k - step)
        for (step, spent), end in zip(clock.stretches, ends, strict=True)
        for k in range(step + 1, end + 1)
    ]


def exported(live, line):
    schedule = export_schedule(live.folder)
    changes = Replay(schedule)._changes
    assert schedule["steps"] == len(line)
    for step, key in enumerate(line):
        said = {name: [c for c in of if c.step <= step][-1].at(step) for name, of in changes.items()}
        said["size"] = round(said["size"])
        assert said == pytest.approx(live.given[key], rel=1e-9), key


def drawn_alike(live, line):
    """Whether steps that came again have drawn random numbers as before: where dropout is 0, it draws none.

    A batch that comes again leaves the generators as it did the first time, whatever was drawn before it.
    """
    draws = {}
    for (step, _), values in live.given.items():
        draws.setdefault(step, set()).add(values["dropout"] > 0)
    return all(len(draws[step]) == 1 for step, _ in line)


def trained(live, decisions, line):
    """The live line is what a loop without a tuner does with the same values."""
    skipped = [d for d in decisions if d.applied and isinstance(d.action, Rewind) and d.action.data == "skip"]
    approved = [d for d in decisions if d.applied and isinstance(d.action, Approve)]
    if skipped or approved or not live.bitwise or not drawn_alike(live, line):
        return
    loop = Loop()
    parameters = [rate_of(loop.optimizer), dropout(loop.model)]
    batches = itertools.chain.from_iterable(loop.loader for _ in itertools.count())
    for key, batch in zip(line, batches, strict=False):
        for parameter in parameters:
            parameter.write(live.given[key][parameter.name])
        loop.step(batch)
        assert loop.losses[-1] == live.losses[key], key


EXAMPLES = 60


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(turns, min_size=1, max_size=6))
def test_whatever_is_sent_record_plant_and_answers_agree(turns):
    folder = Path(tempfile.mkdtemp())
    try:
        live = Live(folder / "run")
        live.train(turns)
        agree(live)
    finally:
        shutil.rmtree(folder)


# --- at odd moments ----------------------------------------------------------------------------------------


def ack_of(folder, sent):
    with contextlib.closing(mailbox(folder)) as box:
        return box.ack(sent.id)


def rate(value, author="ann"):
    return command(Set("lr", value, **WHY), author)


def test_what_comes_before_the_first_batch_is_done_after_it(tmp_path):
    loop, sent = Loop(), rate(0.05)
    with (
        loop.tuner(tmp_path / "run", total_steps=10) as tuner,
        contextlib.closing(mailbox(tmp_path / "run")) as box,
    ):
        box.post(sent)
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.step == 1:
                post(tuner, sent)
    assert (ack_of(tmp_path / "run", sent).status, ack_of(tmp_path / "run", sent).step) == ("applied", 1)


def test_what_comes_between_two_loops_is_done_in_the_second(tmp_path):
    loop, sent = Loop(), rate(0.05)
    with loop.tuner(tmp_path / "run") as tuner:
        for batch in tuner.batches(loop.loader, epochs=1):
            loop.step(batch)
        post(tuner, sent)
        for batch in tuner.batches(loop.loader, epochs=1):
            loop.step(batch)
    ack = ack_of(tmp_path / "run", sent)
    assert (ack.status, ack.step, tuner.step) == ("applied", 9, 16)


def test_what_comes_during_an_evaluation_is_done_after_the_next_step(tmp_path):
    loop, sent = Loop(), []

    def evaluate():
        if tuner.step == 20:
            sent.append(rate(0.05))
            post(tuner, *sent)
        return loop.validate()

    tuner = loop.tuner(tmp_path / "run", total_steps=40, evaluate=evaluate, evaluate_every=20)
    with tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
    assert ack_of(tmp_path / "run", *sent).step == 21


def test_in_a_frameworks_loop_a_rewind_leaves_the_data_and_so_does_its_undo(tmp_path):
    loop = Loop()
    plan = {
        20: Checkpoint("here", **WHY),
        25: Rewind("here", **WHY),
        30: Rewind("here", "skip", **WHY),
        34: Undo(**WHY),
    }
    sent, states, first = {}, {}, {}
    with loop.tuner(tmp_path / "run", total_steps=60) as tuner:
        batches = itertools.chain.from_iterable(loop.loader for _ in itertools.count())
        while tuner.boundary():
            first.setdefault(tuner.spent, (tuner.step, loop.state()))
            loop.step(next(batches))
            states[tuner.spent] = loop.state()
            if tuner.spent in plan:
                sent[tuner.spent] = command(plan[tuner.spent], "ann")
                post(tuner, sent[tuner.spent])
    acks = [ack_of(tmp_path / "run", one) for one in sent.values()]
    assert [ack.status for ack in acks] == ["applied", "refused", "applied", "applied"]
    assert [first[spent][0] for spent in (30, 34)] == [20, 30]
    assert same(first[30][1], states[20])
    assert same(first[34][1], states[30])
    assert "skip" in acks[3].note or "left behind" in acks[3].note


def test_between_the_batches_of_one_step_nothing_is_done(tmp_path):
    loop, sent = Loop(), rate(0.05)
    rates = []
    with loop.tuner(tmp_path / "run", total_steps=8) as tuner:
        for n, (inputs, labels) in enumerate(tuner.batches(loop.loader)):
            if n == 9:
                post(tuner, sent)
            rates.append(tuner.hyperparameters["lr"]())
            cross_entropy(loop.model(inputs), labels).backward()
            if n % 4 == 3:
                loop.optimizer.step()
                loop.optimizer.zero_grad()
    assert rates == [0.01] * 12 + [0.05] * 20
    assert ack_of(tmp_path / "run", sent).step == 3


def test_a_run_whose_scaler_skips_every_step_still_obeys(tmp_path):
    loop, sent = Loop(), [rate(0.05), command(Checkpoint("bad", **WHY), "ann"), command(Stop(**WHY), "ann")]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with loop.tuner(tmp_path / "run", total_steps=90, stateful={"scaler": scaler}) as tuner:
        for n, (inputs, labels) in enumerate(tuner.batches(loop.loader)):
            assert n < 15, "it is to stop"
            loss = cross_entropy(loop.model(inputs), labels) * (1 if n < 5 else torch.inf)
            loop.optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(loop.optimizer)
            scaler.update()
            if n == 8:
                post(tuner, sent[0])
            if n == 9:
                assert loop.optimizer.param_groups[0]["lr"] == 0.05
                post(tuner, *sent[1:])
    assert [ack_of(tmp_path / "run", one).step for one in sent] == [5, 5, 5]
    assert n == 9


def test_without_states_in_memory_a_rewind_goes_to_disk_and_is_not_undone(tmp_path):
    loop, folder = Loop(), tmp_path / "run"
    sent = [
        command(action, "ann")
        for action in (Checkpoint("here", **WHY), Rewind(3, **WHY), Rewind("here", **WHY), Undo(**WHY))
    ]
    with loop.tuner(folder, total_steps=40, rewinding=Rewinding(capacity=0)) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.spent == 10:
                post(tuner, sent[0])
            if tuner.spent == 20:
                post(tuner, *sent[1:])
    assert [ack_of(folder, one).status for one in sent] == ["applied", "refused", "applied", "refused"]
    assert loop.losses[:10] + loop.losses[20:] == Loop().bare(30).losses


def test_a_stop_in_a_trial_saves_where_the_trials_began(tmp_path):
    trials = [Probe(15, (Set("lr", r, **WHY),), reason="which?") for r in (0.1, 0.001)]
    loop, sent = Loop(), command(Stop(**WHY), "ann")
    with loop.tuner(tmp_path / "run", total_steps=90, policies=[Scripted({20: trials})]) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.spent == 27:
                post(tuner, sent)
    ack = ack_of(tmp_path / "run", sent)
    assert (ack.status, ack.step, ack.spent) == ("applied", 20, 27)
    loop = Loop()
    resumed = loop.resume(tmp_path / "run", policies=[Scripted({20: trials})])
    assert (resumed.step, loop.optimizer.param_groups[0]["lr"]) == (20, 0.01)
    resumed.close()


def test_a_rewind_while_the_run_is_paused(tmp_path):
    loop = Loop()
    actions = (Pause(**WHY), Rewind("here", **WHY), Set("lr", 0.02, **WHY), Resume(**WHY))
    sent = [command(action, "ann") for action in actions]
    with loop.tuner(tmp_path / "run", total_steps=40) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.spent == 10:
                post(tuner, command(Checkpoint("here", **WHY), "ann"))
            if tuner.spent == 20:
                post(tuner, *sent)
    assert [ack_of(tmp_path / "run", one).step for one in sent] == [20, 20, 10, 10]
    assert tuner.step == 30


def test_undoing_a_rewind_that_left_data_behind_gives_state_and_data_back(tmp_path):
    loop, sent = Loop(), [command(a, "ann") for a in (Rewind(20, "skip", **WHY), Undo(**WHY))]
    seen, states = {}, {}
    with loop.tuner(
        tmp_path / "run", total_steps=80, rewinding=Rewinding(every=10), hyperparameters=[]
    ) as tuner:
        for batch in tuner.batches(loop.loader):
            states[tuner.step, tuner.spent] = loop.state()
            seen[tuner.spent] = batch[0].clone()
            loop.step(batch)
            if tuner.spent == 33:
                states["left"] = loop.state()
                post(tuner, sent[0])
            if tuner.spent == 40:
                post(tuner, sent[1])
    assert same(states[33, 40], states["left"])
    assert all(torch.equal(seen[40 + n], seen[33 + n]) for n in range(7))


def test_what_cannot_be_put_on_record_waits_until_it_can_in_order(tmp_path):
    loop, sent = Loop(), [rate(0.05), rate(0.03), rate(0.02)]
    with loop.tuner(tmp_path / "run", total_steps=60) as tuner:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            for batch in tuner.batches(loop.loader):
                loop.step(batch)
                if tuner.step == 12:
                    post(tuner, *sent[:2])
                    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))  # the disk is full
                if tuner.step == 25:
                    assert tuner.hyperparameters["lr"]() == 0.01
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                    post(tuner, sent[2])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    acks = [ack_of(tmp_path / "run", one) for one in sent]
    assert [(ack.status, ack.step) for ack in acks] == [("applied", 30)] * 3
    assert [ack.decision for ack in acks] == sorted(ack.decision for ack in acks)
    assert tuner.hyperparameters["lr"]() == 0.02


def test_what_is_done_but_not_on_record_as_done_is_not_done_again(tmp_path, monkeypatch):
    loop, sent = Loop(), rate(0.05)
    with loop.tuner(tmp_path / "run", total_steps=40) as tuner:
        settle, failures = tuner._journal.settle, [JournalError("full")]

        def settled(*arguments):
            if failures:
                raise failures.pop()
            settle(*arguments)

        monkeypatch.setattr(tuner._journal, "settle", settled)
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.step == 12:
                post(tuner, sent)
    assert not failures
    (decision,) = [d for d in tuner.decisions if d.action.evidence.get("command") == sent.id]
    ack = ack_of(tmp_path / "run", sent)
    assert (ack.status, ack.decision) == ("applied", decision.id)


def test_training_goes_on_while_the_mailbox_is_locked(tmp_path):
    loop, sent = Loop(), rate(0.05)
    with loop.tuner(tmp_path / "run", total_steps=40) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.step == 12:
                post(tuner, sent)
                other = sqlite3.connect(tmp_path / "run" / "commands.db", isolation_level=None)
                other.execute("BEGIN EXCLUSIVE")
            if tuner.step == 30:
                assert ack_of(tmp_path / "run", sent).status == "waiting"
                other.execute("ROLLBACK")
                other.close()
    ack = ack_of(tmp_path / "run", sent)
    assert (ack.status, ack.step) == ("applied", 12)


# --- what the search for failures has found ----------------------------------------------------------------


def trained_with(tuner, loop, plan):
    """Train with these commands, by `spent`; returns the rate of each step, by `spent` too."""
    rates, sent = {}, []
    with tuner:
        for batch in tuner.batches(loop.loader):
            rates[tuner.spent + 1] = tuner.hyperparameters["lr"]()
            loop.step(batch)
            actions = plan.get(tuner.spent, ())
            sent += (now := [command(action, "ann") for action in actions])
            post(tuner, *now)
    return rates, [ack_of(tuner.folder, one) for one in sent]


def test_what_is_saved_on_a_ramp_goes_on_along_the_ramp(tmp_path):
    loop, ramp = Loop(), Ramp("lr", 0.05, 40, **WHY)
    tuner = loop.tuner(tmp_path / "run", total_steps=60, policies=[Scripted({10: [ramp]})])
    rates, _ = trained_with(tuner, loop, {23: [Checkpoint("here", **WHY)], 30: [Rewind("here", **WHY)]})
    assert [rates[31 + n] for n in range(7)] == [rates[24 + n] for n in range(7)]


def test_what_followed_a_rewind_is_left_behind_when_that_is_undone(tmp_path):
    loop = Loop()
    policy = Scripted({10: [Set("lr", 0.02, **WHY)], 43: [Set("lr", 0.04, **WHY)]})
    tuner = loop.tuner(tmp_path / "run", total_steps=60, policies=[policy])
    plan = {
        20: [Checkpoint("here", **WHY)],
        33: [Rewind("here", **WHY)],
        45: [Undo(3, **WHY)],
        47: [Undo(**WHY)],
    }
    rates, acks = trained_with(tuner, loop, plan)
    assert rates[44] == 0.04
    assert rates[46] == 0.02
    assert rates[48] == 0.01, "the second takes back what was done before the rewind"
    assert [ack.status for ack in acks] == ["applied"] * 4


def test_a_benched_policys_ramp_does_not_come_back_with_an_earlier_state(tmp_path):
    loop, ramp = Loop(), Ramp("lr", 0.05, 40, **WHY)
    tuner = loop.tuner(tmp_path / "run", total_steps=60, policies=[Scripted({10: [ramp]})])
    plan = {23: [Checkpoint("here", **WHY)], 30: [Arrange((), **WHY), Rewind("here", **WHY)]}
    rates, _ = trained_with(tuner, loop, plan)
    assert rates[31] == rates[60] == rates[24]
    assert export_schedule(tmp_path / "run")["hyperparameters"]["lr"][-1] == {"step": 23, "value": rates[60]}


@pytest.mark.parametrize(
    ("before", "after", "value", "owner"),
    [
        ([], [Set("lr", 0.5, **WHY), Undo(**WHY)], 0.01, "policy"),
        ([Set("lr", 0.4, **WHY)], [Undo(1, **WHY)], 0.01, "policy"),
        ([], [Pin("lr", **WHY)], 0.02, "human:ann"),
        ([], [Rewind(5, then=(Set("lr", 0.03, **WHY),), **WHY)], 0.03, "human:ann"),
    ],
    ids=["undone", "undone since", "pinned", "set by a rewind"],
)
def test_a_resumed_run_stands_as_people_had_left_it(tmp_path, before, after, value, owner):
    loop = Loop()
    tuner = loop.tuner(tmp_path / "run", total_steps=20, policies=[Scripted({10: [Set("lr", 0.02, **WHY)]})])
    trained_with(tuner, loop, {5: before, 8: [Checkpoint("here", **WHY)], 15: after})
    loop = Loop()
    tuner = loop.resume(tmp_path / "run", policies=[Scripted({10: []})], total_steps=60)
    rate = tuner.hyperparameters["lr"]
    assert (rate(), rate.owner) == (value, owner)
    tuner.close()


def test_a_pin_ends_between_ticks_too(tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=40) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.step == 21:
                tuner.pin("lr", 3)
    assert [(d.action.kind, d.step) for d in tuner.decisions] == [("pin", 21), ("release", 24)]


def test_what_has_expired_ends_no_trials(tmp_path):
    trials = [Probe(15, (Set("lr", r, **WHY),), reason="which?") for r in (0.1, 0.001)]
    policy = Scripted({20: trials})
    loop, sent = Loop(), command(Set("lr", 0.05, **WHY), "ann", expires_in=1e-6)
    with loop.tuner(tmp_path / "run", total_steps=90, policies=[policy]) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.spent == 27:
                post(tuner, sent)
    assert ack_of(tmp_path / "run", sent).status == "refused"
    assert any(len(o.trials) == 2 for o in policy.seen)


def test_what_follows_a_stop_is_refused(tmp_path):
    loop = Loop()
    tuner = loop.tuner(tmp_path / "run", total_steps=40)
    _, (stop, late) = trained_with(tuner, loop, {12: [Stop(**WHY), Set("lr", 0.05, **WHY)]})
    assert (stop.status, late.status, late.decision) == ("applied", "refused", None)
    assert "the run was over" in late.note
