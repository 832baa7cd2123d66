import dataclasses
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import sqlalchemy as sa
from recorded import META, Recorder

from autotune.commands import Ack, Command, command, mailbox
from autotune.journal import Journal
from autotune.places import DatabaseRun
from autotune.records import Comment, Escalate, Point, Probe, Rewind, Schedule, Set, TuneError

HALVE = Set("lr", 0.05, reason="it oscillates")
WRITERS, EACH = 8, 12
fork = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def database(postgres):
    return postgres.database()


@pytest.fixture(params=["sqlite", "files", "postgres"])
def place(request, tmp_path):
    """A run in each kind of store."""
    if request.param == "postgres":
        url, folder = request.getfixturevalue("database"), tmp_path / tmp_path.name  # unique there
        Journal.create(folder, {"name": folder.name, **META}, url=url).close()
        return DatabaseRun(url, folder.name)
    Recorder(tmp_path / "run").end()
    if request.param == "files":  # what a journal is like where the write-ahead log does not work
        with sqlite3.connect(tmp_path / "run" / "journal.db") as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        connection.close()
    return tmp_path / "run"


@pytest.fixture
def box(place):
    box = mailbox(place)
    yield box
    box.close()


# --- one at a time -----------------------------------------------------------------------------------------


def test_a_command_arrives_as_it_was_sent(box, place):
    points = (Point(400, 0.01), Point(900, 0.0, "cosine"))
    actions = [Schedule("lr", points, reason="“now” → slower\n"), Rewind(10, then=(HALVE,), reason="")]
    sent = [command(action, "ada l.") for action in actions]
    for one in sent:
        box.post(one)
    other = mailbox(place)
    assert other.waiting() == sent
    other.close()


def test_what_waits_is_in_the_order_of_posting_whenever_it_was_written(box):
    first, second = command(HALVE, "ada"), command(HALVE, "ada")
    box.post(second)
    box.post(first)
    assert box.waiting() == [second, first]


def test_a_command_that_is_sent_again_is_one_command(box):
    sent = command(HALVE, "ada")
    box.post(sent)
    box.settle(Ack(sent.id, "applied", decision=7, step=30, spent=40))
    box.post(dataclasses.replace(sent, sent=sent.sent + 9, expires=sent.expires + 9))
    assert box.waiting() == []
    assert box.ack(sent.id).decision == 7


@pytest.mark.parametrize("change", [{"author": "bob"}, {"action": Set("lr", 0.06, reason="it oscillates")}])
def test_an_id_names_one_command(box, change):
    sent = command(HALVE, "ada")
    box.post(sent)
    with pytest.raises(TuneError, match=r"one command, got \w+ again with another"):
        box.post(dataclasses.replace(sent, **change))
    assert box.waiting() == [sent]


def test_what_was_settled_is_said_once_and_stays(box):
    start, sent = time.time(), command(HALVE, "ada")
    assert box.ack(sent.id) is None
    box.post(sent)
    assert box.ack(sent.id) == Ack(sent.id, "waiting")
    box.settle(Ack(sent.id, "waiting", "the run is in a trial"))
    assert (box.ack(sent.id).note, box.waiting()) == ("the run is in a trial", [sent])
    box.settle(Ack(sent.id, "applied", "", 7, 30, 40))
    box.settle(Ack(sent.id, "refused", "too late"))
    ack = box.ack(sent.id)
    assert start < ack.time <= time.time()
    assert ack == Ack(sent.id, "applied", "", 7, 30, 40, ack.time)
    assert box.waiting() == []


def test_only_what_has_changed_is_told_again(box):
    sent = [command(HALVE, "ada") for _ in range(3)]
    for one in sent:
        box.post(one)
    assert box.acks(after=0.0) == []
    for one in reversed(sent):
        box.settle(Ack(one.id, "refused", "no"))
    told = box.acks(after=0.0)
    assert [ack.command for ack in told] == [one.id for one in reversed(sent)]
    assert box.acks(after=told[1].time) == told[2:]


def test_to_look_makes_nothing(box, place, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    box.settle(Ack("0" * 32, "refused", "no"))
    assert (box.waiting(), box.acks(0.0), box.ack("0" * 32)) == ([], [], None)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_id_is_no_path(place, box):
    box.post(command(HALVE, "ada"))
    assert box.ack("../journal") is None
    assert box.ack("..") is None


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_what_cannot_be_read_is_refused_and_hides_nothing(place, box):
    sent = [command(HALVE, "ada") for _ in range(4)]
    for one in sent:
        box.post(one)
    with sqlite3.connect(place / "commands.db") as connection:
        for bad, one in zip(('{"kind": "teleport"}', '{"kind": ', '{"kind": "adopt"}'), sent, strict=False):
            connection.execute("UPDATE commands SET action = ? WHERE id = ?", (bad, one.id))
    connection.close()
    assert box.waiting() == sent[3:]
    assert [box.ack(one.id).status for one in sent] == ["refused", "refused", "refused", "waiting"]
    assert "got 'teleport'" in box.ack(sent[0].id).note


@pytest.mark.parametrize("place", ["files"], indirect=True)
@pytest.mark.parametrize("content", ["", "[]", '{"posted": "now"}', '{"author": "ada", "posted": 1}'])
def test_a_file_that_cannot_be_read_is_refused_and_hides_nothing(place, box, content):
    sent, bad = command(HALVE, "ada"), "0" * 32
    box.post(sent)
    (place / "commands" / f"{bad}.json").write_text(content)
    (place / "commands" / "notes.txt").write_text("")
    assert box.waiting() == [sent]
    assert box.ack(bad).status == "refused"


@pytest.mark.parametrize("place", ["sqlite", "files"], indirect=True)
def test_a_store_that_cannot_be_written_says_so(place, box):
    (place / "commands.db").mkdir()
    (place / "commands").write_text("")
    with pytest.raises(OSError, match="commands"):
        box.post(command(HALVE, "ada"))


def test_a_mailbox_belongs_to_a_run(tmp_path):
    with pytest.raises(TuneError, match="belongs to a run"):
        mailbox(tmp_path)


def test_the_journal_keeps_its_locks_when_a_mailbox_is_opened(tmp_path):
    look = (
        "from autotune.journal import Journal; import sys; print(len(Journal.open(sys.argv[1]).decisions()))"
    )

    def decided():
        """As another process sees it, which then folds the log into the file if it believes itself alone."""
        command = [sys.executable, "-c", look, str(tmp_path / "run")]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    run = Recorder(tmp_path / "run")
    run.decide("human:ada", Set("lr", 0.1, reason=""))
    mailbox(tmp_path / "run").close()
    assert decided() == 1
    run.decide("human:ada", Set("lr", 0.2, reason=""))
    assert decided() == 2
    run.end()


# --- what a command may be ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"author": ""}, "author"),
        ({"author": " "}, "author"),
        ({"author": "human:ada"}, "colon"),
        ({"author": "a\nb"}, "printable"),
        ({"author": "a" * 65}, "64"),
        ({"author": None}, "author"),
        ({"id": "../../etc/passwd"}, "32 hexadecimal"),
        ({"id": "A" * 32}, "32 hexadecimal"),
        ({"expires_in": 0}, "above 0"),
        ({"expires_in": float("nan")}, "above 0"),
        ({"action": Probe(10, reason="")}, "got probe"),
        ({"action": Escalate(reason="")}, "got escalate"),
        ({"action": "pause"}, "got 'pause'"),
        ({"action": Set("lr", 0.1, reason="", evidence={"again": 3})}, "evidence"),
        ({"action": Rewind(1, reason="", then=(Set("lr", 1.0, reason="", evidence={"p": 1}),))}, "evidence"),
        ({"action": Set("lr", float("inf"), reason="")}, "finite, got lr → inf"),
    ],
)
def test_a_command_that_cannot_be_is_refused_when_it_is_made(given, says):
    with pytest.raises(TuneError, match=says):
        command(**{"action": HALVE, "author": "ada", **given})


def test_numbers_of_numpy_travel_as_numbers():
    sent = command(Set("lr", np.float32(0.5), reason=""), "ada")
    assert Command.read(sent.document()).action == Set("lr", 0.5, reason="")


# --- many at a time ----------------------------------------------------------------------------------------


def post_many(place, author, posted):
    box = mailbox(place)
    for number in range(EACH):
        sent = command(Comment(number, reason="x"), author)
        box.post(sent)
        posted.send(sent.id)
    box.close()
    posted.close()


def test_many_writers_at_once_lose_nothing_and_keep_their_order(place):
    ends = [fork.Pipe(duplex=False) for _ in range(WRITERS)]
    writers = [
        fork.Process(target=post_many, args=(place, f"writer {n}", end)) for n, (_, end) in enumerate(ends)
    ]
    for writer in writers:
        writer.start()
    box, taken, until = mailbox(place), [], time.monotonic() + 60
    while len(taken) < WRITERS * EACH and time.monotonic() < until:
        for one in box.waiting():
            taken.append(one)
            box.settle(Ack(one.id, "applied", step=len(taken)))
    for writer in writers:
        writer.join()
    assert len(taken) == WRITERS * EACH
    for n, (posted, _) in enumerate(ends):
        mine = [one for one in taken if one.author == f"writer {n}"]
        assert [one.action.decision for one in mine] == [*range(EACH)]
        assert [one.id for one in mine] == [posted.recv() for _ in range(EACH)]
    assert [ack.step for ack in box.acks(0.0)] == [*range(1, WRITERS * EACH + 1)]
    box.close()


@pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
def test_who_posts_later_is_not_seen_earlier(place, box):
    first, second = command(HALVE, "ada"), command(HALVE, "ada")
    slow, written, go_on = mailbox(place), threading.Event(), threading.Event()
    slow.post(early := command(HALVE, "ada"))  # which makes the table
    slow.settle(Ack(early.id, "applied"))

    @sa.event.listens_for(slow._engine, "commit")
    def between_its_write_and_its_commit(_):
        written.set()
        go_on.wait()

    threads = [threading.Thread(target=slow.post, args=(first,), daemon=True)]
    threads[0].start()
    written.wait()
    other = mailbox(place)
    threads.append(threading.Thread(target=other.post, args=(second,), daemon=True))
    threads[1].start()
    threads[1].join(timeout=0.3)
    assert box.waiting() == []
    go_on.set()
    for thread in threads:
        thread.join()
    assert box.waiting() == [first, second]
    slow.close()
    other.close()


def post_for_ever(place, posted):
    box = mailbox(place)
    while True:
        sent = command(HALVE, "ada")
        box.post(sent)
        posted.send(sent.id)


def test_what_was_posted_outlives_the_kill_of_its_sender(place):
    ids = set()
    for _ in range(3):
        here, there = fork.Pipe(duplex=False)
        writer = fork.Process(target=post_for_ever, args=(place, there))
        writer.start()
        there.close()
        for _ in range(5):
            ids.add(here.recv())
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        while here.poll():
            try:
                ids.add(here.recv())
            except EOFError:
                break
    box = mailbox(place)
    found = {one.id for one in box.waiting()}
    assert ids <= found
    assert len(found - ids) <= 3  # on its way when the sender was killed
    assert box.acks(0.0) == []
    box.close()
