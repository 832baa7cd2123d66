import dataclasses
import multiprocessing
import sqlite3

import pytest
from tiny import Broken, Slow, Tiny, request

from autotune.benchmarks.suites.baseline import winner
from autotune.benchmarks.suites.plan import Job, Search, defined, planned
from autotune.benchmarks.suites.results import Cell, Config, Look, Outcome, Trial, load, pack, save
from autotune.benchmarks.suites.rows import DEATHS
from autotune.benchmarks.suites.store import FILE, Store, StoreError
from autotune.process import this_process
from autotune.records import TuneError

FACTS = {"suite": "smoke", "methods": ("random",)}
TRIALS = [Trial(Config(rate, "cosine"), loss, 5.0) for rate, loss in ((0.1, 0.4), (0.2, 0.3), (0.3, 0.5))]
NAN = float("nan")
OUTCOME = Outcome(1.0, NAN, 0.5, 1.0, NAN, 0.4, 5, 5.5, 6.0, 0.1, [Look(0.0, 1.0, NAN)])


def plan(store, suite, facts=FACTS):
    store.plan(facts, defined(suite), planned(suite))


@pytest.fixture
def suite():
    return request(Tiny).make()


@pytest.fixture
def store(tmp_path, suite):
    store = Store(tmp_path / "suite")
    plan(store, suite)
    return store


def search(store, trials=TRIALS):
    item = store.claim()
    assert isinstance(item, Search)
    store.finish(item, trials, 1.0)


def drain(store):
    while (item := store.claim()) is not None:
        yield item
        store.finish(item, TRIALS if isinstance(item, Search) else OUTCOME, 1.0)


def claim_and_die(folder):
    assert Store(folder).claim() is not None


def in_another_process(function, *arguments):
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_cells_wait_for_the_search_and_start_from_its_winner(store):
    item = store.claim()
    assert item == Search("tiny", "random", 8)
    assert store.claim() is None
    assert store.busy(), "the search is being run"
    store.finish(item, TRIALS, 1.0)
    job = store.claim()
    assert isinstance(job, Job)
    assert job.tuned == TRIALS[1].config == winner(TRIALS)


def test_every_item_is_claimed_once(store, suite):
    keys = [item.key for item in drain(store)]
    assert len(keys) == len(set(keys))
    assert {key for key in keys if "search" not in key} == {cell.key for cell in suite.cells("tiny")}
    assert not store.busy()


def test_the_baseline_is_taken_when_the_last_search_is_finished(tmp_path):
    suite = request(Tiny, methods=("random", "tpe")).make()
    store = Store(tmp_path)
    plan(store, suite)
    first, second = store.claim(), store.claim()
    store.finish(first, TRIALS, 1.0)
    assert store.claim() is None
    better = Trial(Config(0.9), 0.01, 5.0)
    store.finish(second, [better], 1.0)
    assert store.claim().tuned == better.config
    assert store.results().searches == {"tiny": {"random": tuple(TRIALS), "tpe": (better,)}}


def test_trials_are_kept_as_they_come(store):
    item = store.claim()
    for number, trial in enumerate(TRIALS[:2]):
        store.keep(item, number, trial)
    store.release(item)
    again = store.claim()
    assert again.known == tuple(TRIALS[:2])
    store.finish(again, TRIALS, 1.0)
    assert store.results().searches["tiny"]["random"] == tuple(TRIALS)


def test_what_a_dead_process_claimed_is_free(store):
    in_another_process(claim_and_die, store.folder)
    assert store.claim() == Search("tiny", "random", 8)


def test_what_a_living_process_claimed_is_not(store):
    store.claim()
    assert store.claim() is None


def test_what_another_machine_claimed_is_free(store):
    store.claim()
    elsewhere = str({**this_process(), "host": "elsewhere"}).replace("'", '"')
    with sqlite3.connect(store.folder / FILE) as db:
        db.execute("UPDATE items SET claimed_by = ? WHERE state = 'claimed'", (elsewhere,))
    assert store.claim() is not None


def test_an_item_that_kills_whoever_runs_it_fails(store):
    for _ in range(DEATHS):
        in_another_process(claim_and_die, store.folder)
    assert store.claim() is None
    assert not store.busy()
    [(key, error)] = store.errors()
    assert key == "tiny | search: random"
    assert "killed" in error


def test_a_trial_that_got_through_makes_up_for_deaths(store):
    for _ in range(DEATHS - 1):
        in_another_process(claim_and_die, store.folder)
    item = store.claim()
    store.keep(item, 0, TRIALS[0])
    store.release(item)
    in_another_process(claim_and_die, store.folder)
    assert store.claim() is not None


def test_a_result_needs_a_claim(store):
    item = store.claim()
    store.finish(item, TRIALS, 1.0)
    with pytest.raises(RuntimeError, match="claimed it"):
        store.finish(item, TRIALS, 1.0)


def test_an_error_is_a_result_and_can_be_tried_again(store):
    search(store)
    job = store.claim()
    store.finish(job, "ValueError: no", 1.0)
    assert store.errors() == [(job.key, "ValueError: no")]
    assert [item.error for item in store.results().cells] == ["ValueError: no"]
    assert job.key not in [item.key for item in drain(store)]
    store.retry_errors()
    assert [item.key for item in drain(store)] == [job.key]
    assert store.errors() == []


def test_cells_of_a_failed_search_are_not_run(store):
    store.finish(store.claim(), "ValueError: no", 1.0)
    assert store.claim() is None
    assert not store.busy()
    store.retry_errors()
    assert len(list(drain(store))) == len(store.results().cells) + 1 > 1


def test_another_request_adds_what_is_missing(store):
    done = [item.key for item in drain(store)]
    more = request(Tiny, seeds=2).make()
    plan(store, more)
    added = [item.key for item in drain(store)]
    assert not set(done) & set(added)
    assert {*done, *added} >= {cell.key for cell in more.cells("tiny")}
    plan(store, more)
    assert store.claim() is None


def test_what_only_another_request_asks_for_is_left_to_it(tmp_path):
    both, one = (request(*workloads).make() for workloads in ((Tiny, Slow), (Tiny,)))
    here, there = Store(tmp_path), Store(tmp_path)
    plan(here, both)
    plan(there, one)
    assert {item.key.partition(" |")[0] for item in drain(there)} == {"tiny"}
    assert not there.busy()
    assert (there.status().finished, there.status().planned) == (14, 14)
    assert here.busy()
    assert (here.status().finished, here.status().planned) == (14, 28)
    here.finish(here.claim(), "ValueError: no", 1.0)
    assert there.errors() == []
    there.retry_errors()
    assert [key for key, _ in here.errors()] == ["slow | search: random"]
    here.retry_errors()
    assert {item.key.partition(" |")[0] for item in drain(here)} == {"slow"}
    assert there.results().planned == len(there.results().cells) == 26


def test_a_healthy_twin_is_searched_once_for_both(tmp_path):
    store = Store(tmp_path)
    plan(store, request(Broken).make())
    assert store.claim() == Search("tiny", "random", 8)
    assert store.claim() is None
    plan(store, request(Broken, Tiny).make())
    assert store.claim() is None, "the same search"


def test_cells_planned_after_the_search_are_open(tmp_path):
    store = Store(tmp_path)
    plan(store, request(Tiny).make())
    list(drain(store))
    plan(store, request(Tiny, Broken).make())
    assert {item.cell.workload for item in drain(store)} == {"broken"}
    results = store.results()
    assert results.tuned["broken"] == results.tuned["tiny"] == TRIALS[1].config
    assert results.searches["broken"] == results.searches["tiny"]


def test_results_of_only_the_faulty_one_do_not_name_its_twin(tmp_path):
    store = Store(tmp_path)
    plan(store, request(Broken).make())
    list(drain(store))
    results = store.results()
    for by_workload in (results.tuned, results.searches, results.steps, results.targets):
        assert list(by_workload) == ["broken"]


@pytest.mark.parametrize("change", [{"methods": ("tpe",)}, {"suite": "cpu"}])
def test_other_facts_are_refused(store, suite, change):
    with pytest.raises(TuneError, match="delete the folder"):
        plan(store, suite, {**FACTS, **change})


def test_other_steps_of_a_workload_are_refused(store, suite):
    longer = Tiny()
    object.__setattr__(longer, "steps", 6)
    with pytest.raises(TuneError, match=r'tiny.*"steps": 5.*"steps": 6'):
        plan(store, dataclasses.replace(suite, workloads=(longer,)))
    assert len(list(drain(store))) == len(store.results().cells) + 1, "nothing of it is there"


def test_another_healthy_twin_is_refused(tmp_path, monkeypatch):
    store = Store(tmp_path)
    plan(store, request(Broken).make())
    monkeypatch.setattr(Broken, "healthy", Slow())
    with pytest.raises(TuneError, match=r"broken = tiny.* got slow"):
        plan(store, request(Broken).make())


def test_work_goes_seed_by_seed_and_the_workloads_take_turns(tmp_path):
    store = Store(tmp_path)
    plan(store, request(Tiny, Broken, seeds=2).make())
    cells = [item.cell for item in drain(store) if isinstance(item, Job)]
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    for first, second in zip(cells[::2], cells[1::2], strict=True):
        assert {first.workload, second.workload} == {"tiny", "broken"}
        assert first.arm == second.arm


def test_results_survive_the_way_to_a_file(store, tmp_path):
    list(drain(store))
    store.note("versions", {"python": "3"})
    store.note("commands", ["one", "two"])
    results = store.results()
    assert results.command == "one && two"
    assert results.planned == len(results.cells) == 13
    assert isinstance(results.cells[0].cell, Cell)
    assert results.steps == {"tiny": 5}
    save(results, tmp_path / "results.json.gz")
    assert pack(load(tmp_path / "results.json.gz")) == pack(results)


def test_time_left_is_by_steps_and_by_workload(store):
    assert store.status().left is None
    search(store)
    status = store.status()
    assert (status.finished, status.planned) == (1, 14)
    assert status.left == pytest.approx(13 * 5 / (8 * 5))


def test_who_reads_does_not_wait_for_who_writes(store):
    search(store)
    with sqlite3.connect(store.folder / FILE) as other:
        other.execute("BEGIN IMMEDIATE")
        assert store.status().finished == 1
        assert store.results().planned == 13


def test_a_file_that_is_none_of_ours_is_named(tmp_path):
    (tmp_path / FILE).write_text("some other thing")
    with pytest.raises(StoreError, match=f"{FILE}: file is not a database"):
        Store.at(tmp_path)


def test_a_folder_without_a_suite_is_refused(tmp_path):
    with pytest.raises(TuneError, match="run the suite first"):
        Store.at(tmp_path)
    assert not list(tmp_path.iterdir())
