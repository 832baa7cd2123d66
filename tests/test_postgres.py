"""What is particular to records in PostgreSQL; test_journal.py runs on both kinds of store."""

import contextlib
import math
import os
import shutil
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
import torch
from filelock import Timeout
from loops import Loop, Scripted
from recorded import Recorder

from autotune import delivery, journal_database
from autotune import journal as journal_module
from autotune.checkpoints import CheckpointStore
from autotune.delivery import DeliveryError, sync, target
from autotune.export import export_schedule
from autotune.journal import Journal, JournalError
from autotune.places import STORE, DatabaseRun, place_of
from autotune.plot import plot_run
from autotune.process import this_process
from autotune.records import Checkpoint, Set, TuneError
from autotune.runs import UnknownRun, find, resolve, summarise
from autotune.web.store import Store
from autotune.web.view import View


@pytest.fixture
def url(postgres):
    return postgres.database()


def decide(journal, action=None, **fields):
    action = action or Set("lr", 0.05, reason="flat")
    moment = {"step": 8, "spent": 10, "branch": 1, "source": "plateau", "before": {"lr": 0.1}}
    return journal.decide(action=action, **{**moment, **fields})


# --- places ------------------------------------------------------------------------------------------------


def test_the_record_is_in_the_database_and_the_folder_says_where(tmp_path, url):
    journal = Journal.create(tmp_path / "run", {"total_steps": 100}, url)
    made = decide(journal)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [STORE]
    assert stat.S_IMODE((tmp_path / "run" / STORE).stat().st_mode) == 0o600
    assert place_of(tmp_path / "run") == journal.place == DatabaseRun(url, "run")
    for place in (tmp_path / "run", DatabaseRun(url, "run")):
        reader = Journal.open(place)
        assert reader.decisions() == [made]
        assert reader.folder == tmp_path / "run"


@pytest.mark.parametrize(
    "name",
    [
        "Robert'); DROP SCHEMA autotune CASCADE;--",
        '"run" [x] %s :y {z}',
        "public",
        "a" * 200,
        "мой запуск 🚀",
    ],
    ids=["sql", "quotes", "reserved", "long", "unicode"],
)
def test_a_name_is_text_and_nothing_else(tmp_path, url, name):
    other = Journal.create(tmp_path / "a" / (name[:-1] or "b"), {}, url)
    journal = Journal.create(tmp_path / name, {}, url)
    decide(journal, note=name)
    assert {place.name for place in find(url)} == {name, name[:-1]}
    assert Journal.open(DatabaseRun(url, name)).decisions()[0].note == name
    assert other.decisions() == []


@pytest.mark.parametrize("name", ["", "two\nlines", "zero\0", "\ud800"])
def test_a_name_that_cannot_be_printed_is_refused(name):
    with pytest.raises(TuneError, match="named by printable characters, got"):
        DatabaseRun("postgresql://ada@db/runs", name)


@pytest.mark.parametrize(
    "given",
    ["mysql://ada:secret@db/runs", "postgresql://ada:secret@db", "postgresql://ada:secret@db:port/runs"],
)
def test_an_address_of_another_kind_is_refused_without_its_password(given):
    with pytest.raises(TuneError, match="given as postgresql://user@host/database, got") as caught:
        DatabaseRun(given, "run")
    assert "secret" not in str(caught.value)


def test_a_password_is_shown_nowhere():
    run = DatabaseRun("postgresql://ada:secret@db/runs?sslpassword=secret", "run")
    assert "secret" not in f"{run} {run!r}"
    assert str(run) == "run in postgresql://ada:***@db/runs"


def test_a_damaged_note_in_the_folder_says_how_to_write_it_anew(tmp_path):
    (tmp_path / STORE).write_text('{"url": 1}')
    with pytest.raises(TuneError, match=r"cannot be read .*; write \{"):
        Journal.open(tmp_path)


def test_without_the_driver_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(TuneError, match=r"pip install 'autotune-torch\[postgres\]'"):
        find("postgresql://ada@db/runs")


# --- connections --------------------------------------------------------------------------------------------


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def connected(url, where="state IS NOT NULL"):
    """How many are connected to the database, but for who asks."""
    with psycopg.connect(url, autocommit=True) as asking:
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s AND "
        return asking.execute(count + where, [asking.info.backend_pid]).fetchone()[0]


def test_a_process_has_few_connections_however_many_runs_it_shows(tmp_path, url):
    for number in range(12):
        Recorder(tmp_path / f"run-{number}", store=url).end()
    store = Store(url)
    with ThreadPoolExecutor(12) as pool:
        lines = [*pool.map(lambda number: store.view(f"run-{number}").listed(), range(12))]
    assert [line["status"] for line in lines] == ["finished"] * 12
    assert 0 < connected(url) <= journal_database.CONNECTIONS
    store.close()


def test_those_who_share_connections_go_one_by_one(tmp_path, url):
    places = [Recorder(tmp_path / name, store=url).journal.place for name in ("one", "two")]
    one, two = map(journal_database.connect, places)
    with two.connect() as busy:
        own = "SELECT pg_backend_pid()"
        process = busy.exec_driver_sql(own).scalar()
        one.dispose()
        assert busy.exec_driver_sql(own).scalar() == process
    with two.connect() as again:
        assert again.exec_driver_sql(own).scalar() == process


def test_a_lock_goes_with_its_session_though_others_stay(tmp_path, url):
    place = Recorder(tmp_path / "run", store=url).journal.place
    staying = journal_database.connect(place)
    locks = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
    with journal_database.locked(place, "delivery", 1.0):
        assert connected(url, locks) == 1
        with pytest.raises(Timeout), journal_database.locked(place, "delivery", 0.0):
            pass
    until(lambda: connected(url, locks) == 0)
    staying.dispose()


def test_a_forked_process_has_connections_of_its_own(tmp_path, url):
    place = Recorder(tmp_path / "run", store=url).journal.place
    mine = journal_database.connect(place)
    asking = sa.text("SELECT pg_backend_pid()")
    with mine.connect() as connection:
        known = connection.scalar(asking)
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        with journal_database.connect(place).connect() as connection:
            os.write(writing, str(connection.scalar(asking)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reading, 20)) != known
    with mine.connect() as connection:
        assert connection.scalar(asking) == known


def test_a_page_says_that_the_database_is_away_and_goes_on_when_it_is_back(tmp_path, url, postgres):
    Recorder(tmp_path / "run", store=url).end()
    view = View(DatabaseRun(url, "run"))
    postgres.stop()
    try:
        for read in (view.state, view.document, view.listed, lambda: view.rows("loss")):
            with pytest.raises(JournalError, match="cannot be read"):
                read()
    finally:
        postgres.start()
    assert view.state()["status"] == "finished"
    view.close()


# --- making and finding ------------------------------------------------------------------------------------


def test_a_name_is_given_once_and_a_refused_run_leaves_nothing(tmp_path, url):
    Journal.create(tmp_path / "here" / "run", {}, url)
    with pytest.raises(TuneError, match=r"unique in its database, got a second run in postgresql"):
        Journal.create(tmp_path / "there" / "run", {}, url)
    assert not list((tmp_path / "there" / "run").iterdir())
    with pytest.raises(TuneError, match="without a journal"):
        Journal.create(tmp_path / "here" / "run", {}, url)


def test_many_machines_may_start_at_once_in_an_empty_database(tmp_path, url):
    together = threading.Barrier(6)

    def start(number):
        together.wait()
        Journal.create(tmp_path / f"run-{number}", {}, url).close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(6)))
    assert sorted(run.name for run in find(url)) == [f"run-{number}" for number in range(6)]


def test_runs_are_found_newest_first_and_meant_by_the_beginning_of_their_name(tmp_path, url):
    assert find(url) == []
    with pytest.raises(UnknownRun, match=r"there is no run in postgresql://tester@/runs_"):
        resolve(None, url)
    for name in ("old", "newest"):
        Recorder(tmp_path / name, store=url).end()
    assert [run.name for run in find(url)] == ["newest", "old"]
    assert resolve("latest", url) == resolve("new", url) == DatabaseRun(url, "newest")
    assert resolve("old", url) == DatabaseRun(url, "old")
    with pytest.raises(UnknownRun, match="got 'x'; there are newest, old"):
        resolve("x", url)
    assert find(tmp_path) == [tmp_path / "newest", tmp_path / "old"]  # by their folders, too


def test_a_database_that_is_not_there_or_unfit_is_named(tmp_path, postgres):
    missing = postgres.url("nowhere")
    with pytest.raises(TuneError, match=r'cannot be used \(.*"nowhere" does not exist'):
        find(missing)
    with pytest.raises(TuneError, match=r"cannot be used"):
        Journal.create(tmp_path / "run", {}, missing)
    with pytest.raises(TuneError, match="has the encoding UTF8, got SQL_ASCII"):
        Journal.create(tmp_path / "run", {}, postgres.database("ENCODING 'SQL_ASCII' TEMPLATE template0"))
    with pytest.raises(TuneError, match="there is no run gone in postgresql"):
        Journal.open(DatabaseRun(postgres.database(), "gone"))
    assert not list((tmp_path / "run").iterdir())


# --- writing -----------------------------------------------------------------------------------------------


def test_numbers_and_texts_that_postgresql_would_refuse_arrive(tmp_path, url):
    journal = Journal.create(tmp_path / "run", {"worst": [math.inf, -math.inf]}, url)
    journal.metric("loss", 1e-310, 2**40, 2**41, 0)
    journal.flush()
    assert journal.metrics("loss").spent.tolist() == [2**41]
    assert journal.metrics("loss").value.tolist() == [1e-310]
    assert journal.meta()["worst"] == [math.inf, -math.inf]
    decide(journal, note="a\0b")
    assert journal.decisions()[0].note == "a�b"


def test_newest_values_are_those_written_last_of_each_name(tmp_path, url):
    journal = Journal.create(tmp_path / "run", {}, url)
    for name, value in (("b", 1.0), ("a", 2.0), ("b", math.nan), ("B", 3.0), ("a", 4.0)):
        journal.metric(name, value, 1, 1, 0)
    journal.flush()
    assert [(row.name, str(row.value)) for row in journal.newest()] == [
        ("B", "3.0"),
        ("a", "4.0"),
        ("b", "nan"),
    ]
    assert journal.metric_names() == ["B", "a", "b"]


def test_metrics_whose_arrival_was_not_confirmed_are_kept_once(tmp_path, url, monkeypatch):
    monkeypatch.setattr(journal_module, "FLUSH_SECONDS", 60)  # its thread would be told of it first
    journal = Journal.create(tmp_path / "run", {}, url)
    dialect = journal._engine.dialect
    commit = dialect.do_commit

    def cut_off(connection):
        commit(connection)
        monkeypatch.setattr(dialect, "do_commit", commit)
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    for start in (0, 10):
        monkeypatch.setattr(dialect, "do_commit", cut_off)
        for index in range(start, start + 5):
            journal.metric("loss", index, index, index, 0)
        with pytest.raises(JournalError, match="closed the connection"):
            journal.flush()
        for index in range(start + 5, start + 10):
            journal.metric("loss", index, index, index, 0)
        journal.flush()
    np.testing.assert_array_equal(journal.metrics("loss").value, np.arange(20))


def test_training_goes_on_without_the_database_and_nothing_is_lost(tmp_path, url, postgres):
    """Decisions do not happen while it is away; metrics wait."""
    loop = Loop()
    script = {spent: [Set("lr", 1 / spent, reason="r")] for spent in (10, 20, 30)}
    journal = Journal.create(tmp_path / "run", {"name": "run"}, url)
    with loop.tuner(tmp_path / "run", policies=[Scripted(script)], total_steps=40, _journal=journal) as tuner:
        for batch in tuner.batches(loop.loader):
            loss = loop.step(batch)
            tuner.report(loss=loss)
            if tuner.spent == 15:
                postgres.stop()
                with pytest.raises(JournalError, match="cannot be read"):
                    journal.meta()
                with pytest.raises(TuneError, match="cannot be used"):
                    Journal.open(tmp_path / "run")
            elif tuner.spent == 25:
                postgres.start()
                journal.flush()
    assert tuner.spent == 40
    reader = Journal.open(DatabaseRun(url, "run"))
    assert reader.status() == "finished"
    assert reader.metrics("loss").spent.tolist() == list(range(1, 41))
    assert [(d.id, d.spent, d.status) for d in reader.decisions()] == [(1, 10, "applied"), (2, 30, "applied")]
    lr = reader.metrics("hp/lr")
    assert dict(zip(lr.spent.tolist(), lr.value.tolist(), strict=True))[20] == 0.1


def test_only_the_flushing_thread_waits_for_a_database_that_is_away(tmp_path, url, postgres):
    journal = Journal.create(tmp_path / "run", {}, url)
    journal.metric("loss", 1.0, 1, 1, 0)
    postgres.stop()
    with pytest.raises(JournalError):
        decide(journal)
    tried = []
    sa.event.listen(journal._engine, "do_connect", lambda *_: tried.append(threading.current_thread().name))

    def tried_again():
        with pytest.raises(JournalError, match=r"cannot be written .* start its database"):
            decide(journal)
        return len(tried) > 1

    until(tried_again)
    assert set(tried) == {"autotune-journal"}
    # The delivering process cannot ask either how the run stands: it goes by the trainer's life.
    assert not delivery._over(journal, this_process())
    assert delivery._over(journal, {**this_process(), "started": "long ago"})
    postgres.start()

    def decided():
        with contextlib.suppress(JournalError):
            return decide(journal)

    until(decided)
    journal.close()
    assert len(Journal.open(tmp_path / "run").metrics("loss").value) == 1


def test_a_run_is_resumed_by_its_folder(tmp_path, url):
    loop = Loop()
    journal = Journal.create(tmp_path / "run", {"name": "run", "total_steps": 40}, url)
    with loop.tuner(tmp_path / "run", total_steps=40, _journal=journal) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if tuner.spent == 20:
                tuner.checkpoint("half")
                break
    again = Loop()
    with again.resume(tmp_path / "run") as tuner:
        assert tuner.step == 20
        for batch in tuner.batches(again.loader):
            tuner.report(loss=again.step(batch))
    assert Journal.open(DatabaseRun(url, "run")).last_spent() == 40


# --- from another machine ----------------------------------------------------------------------------------


def test_a_run_is_summarised_where_its_folder_is_not(tmp_path, url):
    run = Recorder(tmp_path / "run", store=url)
    store = CheckpointStore(tmp_path / "run" / "checkpoints", keep_last=1)
    run.train(5, loss=float)
    for name in ("first", "best"):
        store.save(name, 5, {"weights": torch.zeros(1000)}, pinned=name == "best", score=float(len(name)))
        run.decide("human:ada", Checkpoint(name, reason=""))
    run.end()
    shutil.rmtree(tmp_path / "run")
    summary = summarise(DatabaseRun(url, "run"))
    assert (summary.place.name, summary.status, summary.last) == ("run", "finished", {"loss": 5.0})
    assert summary.folder == tmp_path / "run"
    assert [(c.name, c.step, c.pinned, c.score) for c in summary.checkpoints] == [("best", 5, True, 4.0)]
    assert summary.checkpoints[0].nbytes > 4000


def test_what_is_drawn_and_exported_is_the_same_from_a_database(tmp_path, url):
    for store in (None, url):
        run = Recorder(tmp_path / f"in-{store is None}", store=store)
        for value in (0.1, 0.05):
            run.train(20, every=10, loss=lambda step: 1 / step, hp__lr=lambda step, value=value: value)
            run.decide("plateau", Set("lr", value / 2, reason=""), after={"lr": value / 2})
        run.end()
    here, there = tmp_path / "in-True", DatabaseRun(url, "in-False")
    assert export_schedule(there) == export_schedule(here)
    lines = [[line.get_xydata() for ax in plot_run(run).axes for line in ax.lines] for run in (here, there)]
    for mine, other in zip(*lines, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_delivery_goes_by_the_database_and_only_one_at_a_time(tmp_path, url, monkeypatch):
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run = Recorder(tmp_path / "run", store=url, mlflow=target(store, "tests"))
    run.train(5, loss=float)
    run.decide("plateau", Set("lr", 0.1, reason=""))
    run.end()
    place = DatabaseRun(url, "run")
    monkeypatch.setattr(delivery, "LOCK_SECONDS", 0.0)
    with (
        journal_database.locked(place, "delivery", 1.0),
        pytest.raises(DeliveryError, match="another process"),
    ):
        sync(place)
    assert sync(place)[:2] == (5, 1)
    assert sync(tmp_path / "run")[:2] == (0, 0)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(TuneError, match=r"reached on its own machine, got .*; run `autotune sync"):
        sync(place)
