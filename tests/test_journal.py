import contextlib
import math
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from autotune import journal as journal_module
from autotune import journal_tables
from autotune.journal import Journal, JournalError
from autotune.records import Outcome, Ramp, Rewind, Set, TuneError

STORES = ["folder", "database"]


@pytest.fixture(params=STORES)
def store(request):
    """The address of a database, or None: the record is in the run's folder."""
    return request.getfixturevalue("postgres").database() if request.param == "database" else None


@pytest.fixture
def journal(tmp_path, store):
    journal = Journal.create(tmp_path / "run", {"total_steps": 100}, store)
    yield journal
    with contextlib.suppress(JournalError):
        journal.close()


def decide(journal, action=None, **fields):
    action = action or Set("lr", 0.05, reason="flat", evidence={"p": 0.7})
    moment = {"step": 8, "spent": 10, "branch": 1, "source": "plateau", "before": {"lr": 0.1}}
    return journal.decide(action=action, **{**moment, **fields})


def started(tmp_path, code, store=None):
    """A process that runs `code` with a new journal at tmp_path/run, once it has printed a line."""
    setup = f"""
        import os, sys, time
        from autotune.journal import Journal
        from autotune.records import *
        journal = Journal.create({str(tmp_path / "run")!r}, {{}}, {store!r})
    """
    command = [sys.executable, "-c", textwrap.dedent(setup) + textwrap.dedent(code)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


# --- decisions and outcomes --------------------------------------------------------------------------------


def test_decision_is_on_record_pending_then_settled(journal):
    made = decide(journal, Ramp("lr", 0.0, 40, reason="end", evidence={"n": 3}))
    assert made.id == 1
    assert journal.decisions() == [made]
    assert made.status == "pending"

    settled = replace(made, status="clamped", after={"lr": 0.01}, note="low bound")
    journal.settle(settled)
    assert journal.decisions() == [settled]
    second = decide(journal, Rewind(4, "skip", (Set("lr", 0.1, reason="a"),), reason="nan", evidence={}))
    assert Journal.open(journal.folder).decisions(after=1) == [second]


def test_outcome_round_trips(journal):
    made = decide(journal)
    outcome = Outcome(made.id, 40, 30, "better", {"loss_measured": 0.5, "loss_forecast": None})
    journal.outcome(outcome)
    assert Journal.open(journal.folder).outcomes() == [outcome]


def test_evidence_computed_with_numpy_is_stored_as_plain_values(journal):
    evidence = {
        "z": np.float32(1.5),
        "n": np.int64(3),
        "sure": np.bool_(True),
        "worst": math.inf,
        "slope": math.nan,
    }
    decide(journal, Set("lr", 0.05, reason="r", evidence=evidence))
    stored = journal.decisions()[0].action.evidence
    assert {name: type(value) for name, value in stored.items()} == {
        "z": float,
        "n": int,
        "sure": bool,
        "worst": float,
        "slope": float,
    }
    assert stored["worst"] == math.inf
    assert math.isnan(stored["slope"])


def test_evidence_that_is_no_plain_value_is_refused_and_leaves_no_trace(journal):
    with pytest.raises(TuneError, match=r"plain JSON values, got .* a Tensor"):
        decide(journal, Set("lr", 0.05, reason="r", evidence={"x": torch.zeros(1)}))
    assert journal.decisions() == []


def test_kill_9_loses_no_decision(tmp_path):
    for round_ in range(3):
        process = started(
            tmp_path / str(round_),
            """
            action = Set("lr", 0.1, reason="r")
            while True:
                made = journal.decide(step=1, spent=1, branch=0, source="s", action=action, before={})
                print(made.id, flush=True)
            """,
        )
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        told = [1, *map(int, process.stdout.read().split())]
        kill(process)
        ids = [decision.id for decision in Journal.open(tmp_path / str(round_) / "run").decisions()]
        assert ids[: len(told)] == told
        assert len(ids) <= len(told) + 1  # one may be on disk and not yet told


# --- metrics -----------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(), max_size=20))
def test_metrics_round_trip_with_nan_and_infinities(tmp_path_factory, store, values):
    journal = Journal.create(tmp_path_factory.mktemp("metrics"), {}, store)
    before = time.time()
    for index, value in enumerate(values):
        journal.metric("loss", value, step=index, spent=2 * index, branch=index % 3)
    journal.close()
    series = Journal.open(journal.folder).metrics("loss")
    np.testing.assert_array_equal(series.value, np.array(values, dtype=float))
    np.testing.assert_array_equal(series.step, np.arange(len(values)))
    np.testing.assert_array_equal(series.spent, 2 * np.arange(len(values)))
    np.testing.assert_array_equal(series.branch, np.arange(len(values)) % 3)
    assert ((series.time >= before) & (series.time <= time.time())).all()
    assert [array.dtype for array in series] == [np.int64] * 3 + [np.float64] * 2


def test_metrics_arrive_without_being_asked_for_in_order(journal):
    journal.metric("b", 1.0, 1, 1, 0)
    journal.metric("a", math.nan, np.int64(1), 2, 0)
    reader = Journal.open(journal.folder)
    until(lambda: len(reader.metric_rows(0, 10)) == 2)
    first, second = reader.metric_rows(0, 10)
    assert (first.id, first.name, first.value) == (1, "b", 1.0)
    assert (second.id, second.name) == (2, "a")
    assert math.isnan(second.value)
    assert reader.metric_rows(1, 10)[0].id == 2
    assert len(reader.metric_rows(0, 1)) == 1
    assert reader.metric_names() == ["a", "b"]


def test_a_metric_that_is_no_number_is_refused_at_once(journal):
    with pytest.raises(ValueError, match="could not convert"):
        journal.metric("loss", "high", 1, 1, 0)
    journal.metric("loss", 1.0, 1, 1, 0)
    journal.flush()
    assert len(journal.metrics("loss").value) == 1


def test_an_empty_journal_reads_as_empty(journal):
    assert journal.metrics("loss").value.shape == (0,)
    assert journal.metric_names() == []
    assert journal.decisions() == []
    assert journal.outcomes() == []
    assert journal.last_spent() == 0


def test_last_spent_looks_at_everything(journal):
    journal.metric("loss", 1.0, 5, 5, 0)
    journal.flush()
    assert journal.last_spent() == 5
    decide(journal, spent=9)
    assert journal.last_spent() == 9
    journal.outcome(Outcome(1, 40, 30, "unclear", {}))
    assert journal.last_spent() == 40


def test_kill_9_loses_at_most_the_last_moment_of_metrics(tmp_path):
    process = started(
        tmp_path,
        """
        print(flush=True)
        for index in range(10**9):
            journal.metric("loss", index, index, index, 0)
            print(index, flush=True)
            time.sleep(0.001)
        """,
    )
    told = 0
    while told < 2000:
        told = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    told = max([told, *map(int, process.stdout)])
    kill(process)
    series = Journal.open(tmp_path / "run").metrics("loss")
    np.testing.assert_array_equal(series.value, np.arange(len(series.value)))
    assert told - len(series.value) < 1500  # those of half a second, and room for a busy machine


def test_exit_without_close_loses_nothing(tmp_path):
    process = started(
        tmp_path,
        """
        for index in range(1000):
            journal.metric("loss", index, index, index, 0)
        raise RuntimeError("the user's loop failed")
        """,
    )
    process.wait()
    process.stdout.close()
    assert len(Journal.open(tmp_path / "run").metrics("loss").value) == 1000


# --- failures of the disk ----------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(journal):
    """No file may grow, as on a full disk: the system's own limit on the size of files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("store", [None], ids=["folder"])
def test_full_disk_fails_the_decision_and_keeps_the_metrics(journal, monkeypatch):
    monkeypatch.setattr(journal_module, "FLUSH_SECONDS", 60)  # its thread would be told of it first
    decide(journal)
    journal.metric("loss", 1.0, 1, 1, 0)
    with full_disk(journal):
        with pytest.raises(JournalError, match=r"journal\.db cannot be written \(.*\); free space"):
            decide(journal)
        with pytest.raises(JournalError):
            journal.flush()
        journal.metric("loss", 2.0, 2, 2, 0)
    journal.flush()
    assert len(journal.decisions()) == 1
    np.testing.assert_array_equal(journal.metrics("loss").value, [1.0, 2.0])


def test_failure_of_the_writing_thread_surfaces_at_the_next_write(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_tables, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(journal_module, "FLUSH_SECONDS", 0.05)
    journal = Journal.create(tmp_path / "run", {})
    other = sqlite3.connect(journal.folder / "journal.db")
    other.execute("BEGIN EXCLUSIVE")
    journal.metric("loss", 0.0, 0, 0, 0)
    until(lambda: journal._failure)  # the thread has tried
    with pytest.raises(JournalError, match="database is locked"):
        journal.metric("loss", 1.0, 1, 1, 0)
    other.rollback()
    other.close()
    journal.close()
    np.testing.assert_array_equal(Journal.open(tmp_path / "run").metrics("loss").value, [0.0, 1.0])


def test_works_where_the_write_ahead_log_does_not(tmp_path, monkeypatch):
    """On SQLite's lock-file VFS, which has no shared memory, as network file systems have none."""

    def connect(path):
        return sa.create_engine(f"sqlite:///file:{path}?vfs=unix-dotfile&uri=true")

    monkeypatch.setattr(journal_tables, "connect", connect)
    journal = Journal.create(tmp_path / "run", {})
    decide(journal)
    journal.metric("loss", 1.0, 1, 1, 0)
    journal.close()
    reader = Journal.open(tmp_path / "run")
    assert len(reader.decisions()) == 1
    assert len(reader.metrics("loss").value) == 1
    monkeypatch.undo()
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "journal.db")) as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_new_journal_uses_the_write_ahead_log_and_leaves_no_probe_behind(tmp_path):
    Journal.create(tmp_path / "run", {}).close()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["journal.db"]
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "journal.db")) as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# --- several processes -------------------------------------------------------------------------------------


def test_another_process_reads_while_this_one_writes(journal):
    code = f"""
        import time
        from autotune.journal import Journal
        journal, seen = Journal.open({str(journal.folder)!r}), -1
        until = time.time() + 120
        while seen < 300 and time.time() < until:
            values = journal.metrics("loss").value
            assert len(values) >= seen and (values == range(len(values))).all()
            assert len(journal.decisions()) * 10 >= len(values) - 10
            seen = len(values)
        print(seen)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        for index in range(300):
            if index % 10 == 0:
                decide(journal)
            journal.metric("loss", index, index, index, 0)
            journal.flush()
        assert reader.stdout.read() == "300\n"


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index


def test_forked_workers_do_not_touch_the_record(journal):
    for epoch in range(3):
        journal.metric("loss", epoch, epoch, epoch, 0)
        for _ in DataLoader(Numbers(), num_workers=2, multiprocessing_context="fork"):
            decide(journal)
    journal.flush()
    assert len(journal.decisions()) == 24
    np.testing.assert_array_equal(journal.metrics("loss").value, [0, 1, 2])


def test_a_forked_child_cannot_write_and_its_exit_does_no_harm(tmp_path, store):
    process = started(
        tmp_path,
        """
        from autotune.journal import JournalError
        act = dict(step=1, spent=1, branch=0, source="s", action=Set("lr", 0.1, reason="r"), before={})
        journal.metric("loss", 1.0, 1, 1, 0)
        if os.fork() == 0:
            try:
                journal.decide(**act)
            except JournalError as error:
                sys.exit("forked child" not in str(error))  # runs the child's atexit handlers
            sys.exit(2)
        print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
        journal.decide(**act)
        journal.close()
        """,
        store,
    )
    assert process.wait() == 0
    process.stdout.close()
    reader = Journal.open(tmp_path / "run")
    assert len(reader.decisions()) == 1
    assert len(reader.metrics("loss").value) == 1


def test_a_run_has_one_training_process_and_is_free_after_its_death(tmp_path):
    process = started(tmp_path, "print(flush=True); time.sleep(60)")
    journal = Journal.open(tmp_path / "run")
    assert journal.status() == "running"
    with pytest.raises(TuneError, match=f"process {process.pid} on .* is running it; stop that one first"):
        journal.begin()
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie does not count as alive
    assert journal.status() == "killed"
    kill(process)
    assert journal.status() == "killed"
    journal.begin()
    assert journal.status() == "running"
    assert journal.meta()["process"]["pid"] == os.getpid()
    journal.end("failed")
    assert journal.status() == "failed"


def test_a_run_on_another_machine_is_judged_by_its_last_sign_of_life(journal):
    journal.set_meta("process", {"host": "elsewhere", "pid": 1, "started": "1"})
    assert journal.status() == "running"
    an_hour_ago = time.time() - 3600
    journal.set_meta("created", an_hour_ago)
    assert journal.status() == "killed"
    decide(journal)
    assert journal.status() == "running"


# --- opening -----------------------------------------------------------------------------------------------


def test_meta_holds_what_was_given_and_what_identifies_the_run(journal):
    journal.set_meta("note", {"a": [1, None]})
    meta = Journal.open(journal.folder).meta()
    assert meta["total_steps"] == 100
    assert meta["note"] == {"a": [1, None]}
    assert abs(meta["created"] - time.time()) < 60
    assert len(meta["id"]) == 32


def test_deliveries_are_noted_by_item(journal):
    journal.set_delivered("metrics", {"id": 3})
    journal.set_delivered("metrics", {"id": 5})
    assert journal.delivered() == {"metrics": {"id": 5}}


def test_create_refuses_a_folder_with_a_journal(journal):
    with pytest.raises(TuneError, match=r"without a journal, got .*; go on with that run by"):
        Journal.create(journal.folder, {})


def test_open_refuses_what_is_no_run(tmp_path):
    with pytest.raises(TuneError, match=r"holds a journal\.db, got .*; `autotune runs` lists"):
        Journal.open(tmp_path)
    with pytest.raises(TuneError, match=r"holds a journal\.db"):
        Journal.open(tmp_path / "missing")
    (tmp_path / "journal.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(TuneError, match=r"not a readable journal .*restore it from a copy"):
        Journal.open(tmp_path)


def test_open_refuses_a_journal_of_another_schema(journal):
    journal.set_meta("schema", 99)
    with pytest.raises(TuneError, match=r"schema 1, got 99 in .*use the version of autotune that wrote it"):
        Journal.open(journal.folder)


def test_close_twice_is_close_once(journal):
    journal.metric("loss", 1.0, 1, 1, 0)
    journal.close()
    journal.close()
    assert len(Journal.open(journal.folder).metrics("loss").value) == 1
