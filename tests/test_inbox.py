"""What people send to a live trainer: done at the next boundary, once, in order, on record; taken back."""

import threading
import time

import pytest
from loops import Loop, Scripted
from people import WHY, post

from autotune.actuators import dropout, learning_rate
from autotune.commands import command, mailbox
from autotune.journal import Journal
from autotune.records import (
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
    TuneError,
    Undo,
)


class Desk:
    """A run that people send commands to at given steps; the step waits until they have arrived."""

    def __init__(self, folder, steps=60, policies=(), plan=None, **arguments):
        self.loop = Loop()
        self.plan, self.sent = {int(k[1:]): v for k, v in (plan or {}).items()}, []
        self.rates = {}
        arguments.setdefault(
            "hyperparameters", [learning_rate(self.loop.optimizer), dropout(self.loop.model)]
        )
        self.tuner = self.loop.tuner(
            folder, total_steps=steps, policies=policies, evaluate=self.loop.validate, **arguments
        )
        with self.tuner as tuner:
            for batch in tuner.batches(self.loop.loader):
                self.rates[tuner.step + 1, tuner.spent + 1] = tuner.hyperparameters["lr"]()
                tuner.report(loss=self.loop.step(batch))
                for action in self.plan.pop(tuner.spent, ()):
                    self.send(action() if callable(action) else action)
        self.box = mailbox(folder)
        self.acks = [self.box.ack(sent.id) for sent in self.sent]
        self.box.close()
        with_commands = [d for d in tuner.decisions if "command" in d.action.evidence]
        answered = sorted((ack.decision, ack.command) for ack in self.acks if ack.decision)
        assert [(d.id, d.action.evidence["command"]) for d in with_commands] == answered

    def send(self, action, **more):
        self.sent.append(command(action, "ann", **more))
        post(self.tuner, self.sent[-1])

    def status(self):
        return [ack.status for ack in self.acks]


def rate(value):
    return Set("lr", value, **WHY)


def test_a_command_takes_effect_at_the_next_step_and_is_acknowledged(tmp_path):
    desk = Desk(
        tmp_path / "run", plan={"s13": [rate(0.05)], "s20": [rate(99.0), Ramp("lr", 0.01, 10, **WHY)]}
    )
    assert desk.rates[13, 13] == 0.01
    assert desk.rates[14, 14] == 0.05
    assert desk.status() == ["applied", "refused", "applied"]
    assert [ack.step for ack in desk.acks] == [13, 20, 20]
    assert "must lie in" in desk.acks[1].note
    assert desk.rates[26, 26] == pytest.approx(0.03)
    assert {d.source for d in desk.tuner.decisions if "command" in d.action.evidence} == {"human:ann"}


def test_a_tuner_that_nobody_sends_anything_changes_nothing(tmp_path):
    desk = Desk(tmp_path / "run", steps=30)
    assert desk.loop.losses == Loop().bare(30).losses
    assert not (tmp_path / "run" / "commands.db").exists()


def test_what_has_expired_is_refused_on_record(tmp_path):
    desk = Desk(tmp_path / "run", steps=20)
    late = command(rate(0.5), "ann", expires_in=1e-3)
    loop = Loop()
    with loop.tuner(tmp_path / "late", total_steps=20) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.step == 5:
                post(tuner, late)
    (decision,) = [d for d in tuner.decisions if d.action.kind == "set"]
    assert decision.status == "refused"
    assert "expired" in decision.note
    assert desk.loop.losses == loop.losses


def test_what_comes_too_late_is_refused_when_the_run_ends(tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=20) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
        sent = command(rate(0.5), "ann")
        post(tuner, sent)
    ack = mailbox(tmp_path / "run").ack(sent.id)
    assert ack.status == "refused"
    assert "the run was over, at step 20" in ack.note


def test_a_schedule_leads_through_its_points_and_is_held(tmp_path):
    points = (Point(20, 0.02), Point(30, 0.02), Point(40, 0.004, "cosine"))
    policy = Scripted({45: [rate(0.5)]})
    desk = Desk(tmp_path / "run", policies=[policy], plan={"s10": [Schedule("lr", points, **WHY)]})
    assert desk.rates[16, 16] == pytest.approx(0.015)
    assert desk.rates[26, 26] == 0.02
    assert desk.rates[36, 36] == pytest.approx(0.012)
    assert desk.rates[60, 60] == 0.004
    behind = Desk(tmp_path / "late", plan={"s10": [Schedule("lr", (Point(10, 0.1),), **WHY)]})
    assert "lies ahead of step 10" in behind.acks[0].note


def test_a_schedule_from_now_counts_from_the_step_at_which_it_is_done(tmp_path):
    soon = Schedule("lr", (Point(10, 0.02), Point(30, 0.004, "cosine")), from_now=True, **WHY)
    none_left = Schedule("lr", (Point(0, 0.02),), from_now=True, **WHY)
    desk = Desk(tmp_path / "run", plan={"s13": [soon], "s50": [none_left]})
    assert desk.status() == ["applied", "refused"]
    assert [desk.rates[s, s] for s in (19, 24, 44)] == pytest.approx([0.015, 0.02, 0.004])
    assert "ahead of step 50, got a point at step 50" in desk.acks[1].note
    recorded = Journal.open(tmp_path / "run").decision(desk.acks[0].decision).action
    assert (recorded.from_now, [point.step for point in recorded.points]) == (False, [23, 43])


def test_a_pin_holds_against_policies_until_it_expires(tmp_path):
    policy = Scripted({s: [rate(0.02 + 1e-4 * s)] for s in range(10, 60, 10)})
    desk = Desk(tmp_path / "run", policies=[policy], plan={"s12": [Pin("lr", 20, **WHY)]})
    assert desk.rates[31, 31] == desk.rates[13, 13] == pytest.approx(0.021)
    assert desk.rates[41, 41] == pytest.approx(0.024)
    released = next(d for d in desk.tuner.decisions if isinstance(d.action, Release))
    assert (released.step, released.source, released.action.reason) == (32, "human:ann", "its pin is over")


def test_pause_waits_and_resume_goes_on_to_the_bit(tmp_path):
    waits = []

    def soon(tuner):
        journal = Journal.open(tuner.folder)
        while not journal.meta().get("live", {}).get("paused"):
            time.sleep(0.01)
        time.sleep(0.3)
        waits.append(tuner.step)
        post(tuner, command(Resume(**WHY), "bob"))

    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=30) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.step == 10:
                post(tuner, command(Pause(**WHY), "ann"))
                person = threading.Thread(target=soon, args=(tuner,))
                person.start()
    person.join()
    assert waits == [10]
    assert loop.losses == Loop().bare(30).losses
    assert [(d.action.kind, d.source, d.step) for d in tuner.decisions] == [
        ("pause", "human:ann", 10),
        ("resume", "human:bob", 10),
    ]


def test_a_stop_saves_first(tmp_path):
    desk = Desk(tmp_path / "run", plan={"s15": [Stop(**WHY)]})
    assert desk.tuner.step == 15
    assert [d.action.kind for d in desk.tuner.decisions] == ["checkpoint", "stop"]
    resumed = desk.loop.resume(
        tmp_path / "run", hyperparameters=[learning_rate(desk.loop.optimizer), dropout(desk.loop.model)]
    )
    assert resumed.step == 15
    resumed.close()


def test_a_rewind_is_two_commands_away_and_can_be_undone(tmp_path):
    loop = Loop()
    sent = [
        command(action, "ann") for action in (Checkpoint("here", **WHY), Rewind("here", **WHY), Undo(**WHY))
    ]
    with loop.tuner(tmp_path / "run", total_steps=80, hyperparameters=[]) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.spent == 20:
                post(tuner, sent[0])
            if tuner.spent == 33:
                post(tuner, sent[1])
            if tuner.spent == 34:
                assert tuner.step == 21
            if tuner.spent == 40:
                post(tuner, sent[2])
            if tuner.spent == 41:
                assert tuner.step == 34
    assert tuner.step == 80 - 7
    lived = loop.losses[:33] + loop.losses[40:]
    assert lived == Loop().bare(73).losses, "as if nobody had rewound"
    assert all(mailbox(tmp_path / "run").ack(s.id).status == "applied" for s in sent)


def test_a_rewind_cannot_be_undone_once_the_run_has_come_as_far_again(tmp_path):
    plan = {"s20": [Checkpoint("here", **WHY)], "s30": [Rewind("here", **WHY)], "s55": [Undo(**WHY)]}
    desk = Desk(tmp_path / "run", plan=plan)
    assert desk.status() == ["applied", "applied", "refused"]


# --- taking back -------------------------------------------------------------------------------------------


def test_undo_gives_value_ramp_and_owner_back(tmp_path):
    plan = {
        "s10": [Ramp("lr", 0.05, 40, **WHY)],
        "s20": [rate(0.5)],
        "s22": [Undo(**WHY)],
        "s35": [Undo(**WHY)],
    }
    desk = Desk(tmp_path / "run", plan=plan)
    assert desk.rates[21, 21] == 0.5
    assert desk.rates[24, 24] == pytest.approx(0.01 + 0.04 * 13 / 40), "the ramp is where it would be"
    assert desk.rates[40, 40] == 0.01
    assert desk.tuner.hyperparameters["lr"].owner == "policy"


def test_what_a_policy_did_is_held_when_it_is_undone(tmp_path):
    policy = Scripted({s: [rate(0.02)] for s in (10, 30)})
    desk = Desk(
        tmp_path / "run", policies=[policy], plan={"s15": [Undo(**WHY)], "s40": [Release("lr", **WHY)]}
    )
    assert desk.rates[15, 15] == 0.02
    assert desk.rates[31, 31] == desk.rates[60, 60] == 0.01
    assert "held by human:ann" in next(d.note for d in desk.tuner.decisions if d.status == "refused")


def test_only_what_still_stands_can_be_undone(tmp_path):
    plan = {
        "s10": [rate(0.02), rate(0.03), Undo(1, **WHY), Undo(2, **WHY), Undo(1, **WHY), Undo(**WHY)],
        "s20": [rate(0.02), Rewind(10, "skip", **WHY), Undo(7, **WHY)],
        "s40": [Undo(99, **WHY), Set("dropout", 0.5, **WHY), Undo(**WHY)],
    }
    desk = Desk(tmp_path / "run", plan=plan)
    notes = [ack.note for ack in desk.acks]
    assert desk.status()[:6] == ["applied", "applied", "refused", "applied", "applied", "refused"]
    assert "decision 2 has changed lr since decision 1" in notes[2]
    assert "nothing has been done" in notes[5]
    assert "has been rewound since decision 7" in notes[8]
    assert desk.status()[9:] == ["refused", "applied", "applied"]


# --- suggestions, policies, comments -----------------------------------------------------------------------


def test_a_suggestion_is_answered_once_and_stays_the_policys(tmp_path):
    suggest = [
        Suggest(rate(0.02), reason="higher"),
        Suggest(rate(0.5), reason="much"),
        Suggest(reason="rest"),
    ]
    policy = Scripted({10: suggest, 30: [rate(0.03)]})
    plan = {
        "s15": [Approve(1, **WHY), Approve(1, **WHY), Reject(2, **WHY), Approve(2, **WHY), Approve(3, **WHY)]
    }
    desk = Desk(tmp_path / "run", policies=[policy], plan=plan)
    assert desk.status() == ["applied", "refused", "applied", "refused", "refused"]
    assert desk.rates[16, 16] == 0.02
    assert desk.rates[31, 31] == 0.03, "the policy moves on"
    assert "answered by human:ann" in desk.acks[1].note
    assert "advice in words" in desk.acks[4].note


def test_what_policies_only_suggest_is_done_when_it_is_approved(tmp_path):
    policy = Scripted({10: [rate(0.02)], 20: [Ramp("lr", 0.04, 10, reason="")]})
    desk = Desk(
        tmp_path / "run",
        policies=[policy],
        suggest=True,
        plan={"s15": [Approve(1, **WHY)], "s25": [Approve(3, **WHY)]},
    )
    assert desk.rates[15, 15] == 0.01
    assert desk.rates[16, 16] == desk.rates[25, 25] == 0.02
    assert desk.rates[60, 60] == 0.04


def test_policies_are_benched_enabled_and_put_in_order(tmp_path):
    one = Scripted({s: [rate(0.01 + 1e-4 * s)] for s in range(10, 60, 10)}, "one")
    two = Scripted({}, "two")
    plan = {
        "s15": [Arrange(("two",), **WHY)],
        "s35": [Arrange(("two", "one"), **WHY), Arrange(("three",), **WHY)],
    }
    desk = Desk(tmp_path / "run", policies=[one, two], plan=plan)
    assert desk.status() == ["applied", "applied", "refused"]
    asked = {o.step for o in one.seen}
    assert asked >= {10, 36, 60}
    assert not asked & set(range(16, 36))
    live = Journal.open(tmp_path / "run").meta()["live"]
    assert (live["policies"], live["benched"]) == (["two", "one"], {})


def test_a_comment_needs_its_decision(tmp_path):
    desk = Desk(tmp_path / "run", plan={"s9": [rate(0.02), Comment(1, reason="hm"), Comment(9, reason="hm")]})
    assert desk.status() == ["applied", "applied", "refused"]


# --- in the middle of trials -------------------------------------------------------------------------------


class Trying(Scripted):
    """Runs two trials of 15 steps at step 20, and keeps what it sees."""

    def __init__(self):
        trials = [Probe(15, (rate(r),), reason="which?") for r in (0.1, 0.001)]
        super().__init__({20: trials}, "trying")


def test_what_does_not_concern_the_trials_waits_for_their_end(tmp_path):
    policy = Trying()
    desk = Desk(tmp_path / "run", steps=90, policies=[policy], plan={"s25": [Set("dropout", 0.5, **WHY)]})
    (ack,) = desk.acks
    assert (ack.status, ack.step, ack.spent) == ("applied", 20, 50)
    assert any(len(o.trials) == 2 for o in policy.seen)


def test_what_concerns_the_trials_ends_them(tmp_path):
    policy = Trying()
    plan = {"s22": [Set("dropout", 0.5, **WHY)], "s25": [Comment(1, **WHY), rate(0.05)]}
    desk = Desk(tmp_path / "run", steps=90, policies=[policy], plan=plan)
    waited, comment, change = desk.acks
    assert (comment.status, comment.step) == ("applied", 25)
    assert [(a.status, a.step, a.spent) for a in (waited, change)] == [("applied", 20, 25)] * 2
    assert desk.rates[21, 26] == 0.05
    assert not any(o.trials for o in policy.seen)


# --- exactly once ------------------------------------------------------------------------------------------


def test_a_command_that_is_sent_again_is_done_once_and_answered_after_a_restart(tmp_path):
    loop, folder = Loop(), tmp_path / "run"
    again = command(Ramp("lr", 0.05, 5, **WHY), "ann")
    with loop.tuner(folder, total_steps=20) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.step == 5:
                post(tuner, again)
            if tuner.step == 8:
                box = mailbox(folder)
                box.post(again)
                box.close()
            if tuner.step == 15:
                tuner.checkpoint("here")
    box = mailbox(folder)
    first = box.ack(again.id)
    with box._engine.begin() as connection:  # as if the process had been killed before it could answer
        connection.exec_driver_sql("UPDATE commands SET status = 'waiting', decision = NULL")
    loop = Loop()
    with loop.resume(folder, total_steps=60) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if box.ack(again.id).status != "waiting":
                break
            time.sleep(0.05)
    second = box.ack(again.id)
    box.close()
    assert (first.status, first.decision, first.step) == (second.status, second.decision, second.step)
    ramps = [d for d in Journal.open(folder).decisions() if isinstance(d.action, Ramp)]
    assert len(ramps) == 1


def test_what_people_did_after_the_checkpoint_is_done_again_on_resume(tmp_path):
    folder = tmp_path / "run"
    points = (Point(30, 0.02), Point(40, 0.01))
    plan = {
        "s12": [Checkpoint("here", **WHY)],
        "s15": [Schedule("lr", points, **WHY), Set("dropout", 0.5, **WHY), Pin("dropout", **WHY)],
        "s16": [Arrange((), **WHY)],
    }
    Desk(folder, steps=20, policies=[Scripted({})], plan=plan)
    loop = Loop()
    knobs = [learning_rate(loop.optimizer), dropout(loop.model)]
    tuner = loop.resume(folder, hyperparameters=knobs, policies=[Scripted({})], total_steps=60)
    assert tuner.hyperparameters["dropout"]() == 0.5
    assert tuner.hyperparameters["dropout"].owner == "human:ann"
    for batch in tuner.batches(loop.loader):
        loop.step(batch)
        if tuner.step == 30:
            assert tuner.hyperparameters["lr"]() == pytest.approx(0.02, rel=0.1)
    tuner.close()
    assert Journal.open(folder).meta()["live"]["benched"] == {"scripted": "by human:ann"}


def test_a_pin_that_ends_where_the_process_did_is_over_on_resume(tmp_path):
    plan = {"s12": [Checkpoint("here", **WHY)], "s15": [Pin("dropout", 5, **WHY)]}
    Desk(tmp_path / "run", steps=20, plan=plan)
    loop = Loop()
    knobs = [learning_rate(loop.optimizer), dropout(loop.model)]
    with loop.resume(tmp_path / "run", hyperparameters=knobs, total_steps=40) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
    assert tuner.hyperparameters["dropout"].owner == "policy"


def test_the_same_verbs_work_in_the_training_process(tmp_path):
    loop = Loop()
    with loop.tuner(
        tmp_path / "run", total_steps=40, policies=[Scripted({10: [Suggest(rate(0.02), reason="")]})]
    ) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.step == 12:
                tuner.approve(1)
                assert tuner.hyperparameters["lr"]() == 0.02
                tuner.schedule("lr", [(20, 0.04), (30, 0.02, "cosine")])
                with pytest.raises(TuneError, match="in the order of their steps"):
                    tuner.schedule("lr", [(20, 0.04), (20, 0.02)])
            if tuner.step == 15:
                assert tuner.undo().after["lr"] == 0.02
                tuner.pin("lr", 5)
                tuner.comment(1, "well done")
                tuner.arrange([])
    assert tuner.hyperparameters["lr"].owner == "policy"
