import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import Away, Broken, Exits, Slow, Tiny, Unsearchable, request

from autotune.benchmarks.suites import runner
from autotune.benchmarks.suites.arms import Baseline
from autotune.benchmarks.suites.catalogue import Request
from autotune.benchmarks.suites.plan import Job
from autotune.benchmarks.suites.prepare import prepare
from autotune.benchmarks.suites.progress import Progress
from autotune.benchmarks.suites.results import Cell, Config, pack
from autotune.benchmarks.suites.run import execute
from autotune.records import TuneError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def planned(wanted, folder="suite"):
    return prepare(wanted, Path(folder), "cpu", print)


def work_off(wanted, folder="suite"):
    """In this process."""
    store = planned(wanted, folder)
    runner.work(store, wanted.make(), CPU, lambda: True)
    return store


def comparable(results):
    """All but the seconds that it took."""
    data = pack(results)
    for item in data["cells"]:
        if item["outcome"]:
            del item["outcome"]["seconds"]
    return {**data, "cells": sorted(data["cells"], key=lambda item: str(item["cell"]))}


def seconds(store):
    """When a cell is run again, they change."""
    return {item.cell.key: item.outcome.seconds for item in store.results().cells}


def until(condition, patience=120.0):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it does not get on"
        time.sleep(0.02)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def drive(wanted):
    os.setsid()
    runner.run(planned(wanted), wanted, "cpu", 2)


def driven(wanted):
    """A driver that can be killed, with workers of its own."""
    driver = multiprocessing.get_context("fork").Process(target=drive, args=(wanted,))
    driver.start()
    return driver


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads the children of a process from /proc")
def test_killed_at_any_moment_no_cell_is_lost_and_none_is_run_twice():
    wanted = request(Slow)
    store = planned(wanted)
    chance = random.Random(0)

    def get_on():
        """Until more is finished, and something is being run."""
        before = store.status().finished
        until(lambda: store.status().finished > before and store.status().running)
        time.sleep(chance.uniform(0, 0.1))

    driver = driven(wanted)
    get_on()
    workers = children(driver.pid)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    finished = seconds(store)
    get_on()
    workers += children(driver.pid)
    driver.kill()
    driver.join()
    assert finished.items() <= seconds(store).items()

    driver = driven(wanted)
    get_on()
    workers += children(driver.pid)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.join()
    until(lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in workers))

    finished = seconds(store)
    runner.work(store, wanted.make(), CPU, lambda: True)
    assert finished.items() <= seconds(store).items()
    assert store.errors() == []
    keys = [item.cell.key for item in store.results().cells]
    assert sorted(keys) == sorted(cell.key for cell in wanted.make().cells("slow"))
    assert comparable(store.results()) == comparable(work_off(wanted, "undisturbed").results())


def test_an_error_is_a_result_and_the_rest_goes_on(capfd):
    store = work_off(request(Broken, Tiny))
    results = store.results()
    broken = [item for item in results.cells if item.cell.workload == "broken"]
    for item in broken:
        if item.cell.arm == "tuned baseline":
            assert item.outcome is not None, "it is run on the healthy twin"
        else:
            assert item.error.startswith("ArithmeticError: the data are broken (tiny.py:")
    assert len(broken) == 13
    assert all(item.outcome for item in results.cells if item.cell.workload == "tiny")
    Path("repaired").touch()
    store.retry_errors()
    runner.work(store, request(Broken, Tiny).make(), CPU, lambda: True)
    assert store.errors() == []
    assert all(item.outcome for item in store.results().cells)


def test_the_baseline_of_a_faulty_workload_is_that_of_its_healthy_twin():
    results = work_off(request(Broken, Tiny)).results()
    both = [item.outcome.final for item in results.cells if item.cell.arm == "tuned baseline"]
    assert len(both) == 2
    assert both[0] == both[1]


def test_a_search_that_fails_is_named_and_its_cells_are_left():
    store = work_off(request(Unsearchable, Tiny))
    assert [key for key, _ in store.errors()] == ["unsearchable | search: random"]
    assert {item.cell.workload for item in store.results().cells} == {"tiny"}
    assert store.results().planned == 26


def test_a_workload_that_exits_has_failed():
    store = work_off(request(Exits))
    [(_, error)] = store.errors()
    assert error.startswith("SystemExit (tiny.py:")


def test_a_cell_is_run_from_its_share_of_the_tuned_rate():
    suite = request(Tiny).make()
    tuned = Config(0.01, "cosine", 0.001)
    for arm, start in (("constant", tuned.scaled(100.0)), ("tuned baseline", tuned)):
        factor = None if arm == "tuned baseline" else 100.0
        cell = Cell("tiny", arm, factor, 1.0, 1)
        result = runner.attempt(suite, Job(cell, tuned), CPU, lambda trial: None)
        expected = execute(Tiny(), suite.arm(arm), start, 1, 1.0, CPU)
        assert result.final == expected.final
    assert suite.arm("tuned baseline") == Baseline()


def test_workers_give_the_results_of_one_process(capfd):
    wanted = request(Tiny)
    store = planned(wanted, "several")
    runner.run(store, wanted, "cpu", 2)
    assert comparable(store.results()) == comparable(work_off(wanted, "one").results())
    assert "14 of 14 finished" in capfd.readouterr().out


def test_workers_that_cannot_begin_end_the_run(monkeypatch, capfd):
    wanted = request(Tiny)
    store = planned(wanted)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(Path(__file__).parent)])
    with pytest.raises(TuneError, match="ended with exit code 1"):
        runner.run(store, wanted, "cpu", 1)
    assert "tiny:Tiny" in capfd.readouterr().err


def test_workers_that_are_killed_before_they_begin_end_the_run(monkeypatch):
    Path("deadly.py").write_text("""
import multiprocessing, os, tiny
class Deadly(tiny.Tiny):
    name = "deadly"
if multiprocessing.parent_process():
    os.kill(os.getpid(), 9)
""")
    wanted = Request("smoke", workloads=("deadly:Deadly",), only=("deadly",))
    store = planned(wanted)
    with pytest.raises(TuneError, match="ended with exit code -9"):
        runner.run(store, wanted, "cpu", 1)
    sys.modules.pop("deadly")


def test_a_line_names_what_is_still_being_run(capsys):
    store = planned(request(Tiny))
    with Progress(store, 1) as progress:
        store.claim()
        progress.show(last=True)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "0 of 14 finished"
    assert second == "0 of 14 finished; still running: tiny | search: random"


def test_a_workload_without_its_data_is_left_out():
    said = []
    store = prepare(request(Tiny, Away), Path("suite"), "cpu", said.append)
    assert list(store.results().steps) == ["tiny"]
    assert len(said) == 1
    assert "no-such-data" in said[0]
    with pytest.raises(TuneError, match="AUTOTUNE_DATA"):
        planned(request(Away), "nothing")


def test_its_data_make_a_workload_join(monkeypatch, tmp_path):
    (tmp_path / "no-such-data").mkdir()
    monkeypatch.setenv("AUTOTUNE_DATA", str(tmp_path))
    assert list(planned(request(Tiny, Away)).results().steps) == ["tiny", "away"]


def test_the_command_and_the_versions_are_on_record():
    planned(request(Tiny))
    store = planned(request(Tiny, seeds=2))
    command = "autotune bench run smoke --quick --workload tiny:Tiny --only tiny --seeds {} --device cpu"
    assert store.results().command == f"{command.format(1)} && {command.format(2)}"
    versions = store.results().versions
    assert versions["torch"] == torch.__version__
    assert {"python", "numpy", "scipy", "autotune-torch", "optuna", "processor"} <= versions.keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(TuneError, match="--device cpu"):
        prepare(request(Tiny), Path("suite"), "cuda", print)
    with pytest.raises(TuneError, match="cpu or cuda"):
        prepare(request(Tiny), Path("suite"), "tpu", print)


@pytest.mark.parametrize("options", [{"methods": ("guess",)}, {"seeds": 0}, {"only": ("none",)}])
def test_requests_that_make_no_suite_are_refused(options):
    with pytest.raises(TuneError):
        planned(request(Tiny, **options))
