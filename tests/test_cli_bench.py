import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from typer.testing import CliRunner

from autotune.benchmarks.suites.results import load
from autotune.benchmarks.suites.store import Store
from autotune.cli import app

PROGRAM = str(Path(sys.executable).with_name("autotune"))
SMALL = """
import multiprocessing
import random
import time
from autotune.benchmarks.workloads.teacher_student import TeacherStudent
from autotune.policies import Plateau

class Mine(TeacherStudent):
    name = "mine"
    def __init__(self):
        super().__init__(steps=5)

class Sleepy(Mine):
    name = "sleepy"
    def begin(self, seed, device):
        time.sleep(0.5)
        return super().begin(seed, device)

def policy():
    return [Plateau()]

class Broken(Mine):
    name = "broken"
    healthy = Mine()
    def begin(self, seed, device):
        if multiprocessing.parent_process() is not None:  # not in the rehearsal
            raise ArithmeticError("the data are broken")
        return super().begin(seed, device)

class Unseeded(Mine):
    name = "unseeded"
    def begin(self, seed, device):
        return super().begin(random.randrange(10**6), device)

class Negative(Mine):
    name = "negative"
    def begin(self, seed, device):
        training = super().begin(seed, device)
        training.evaluate = lambda part: -1.0
        return training

class Raises(Plateau):
    def decide(self, observation):
        raise RuntimeError("my own bug")

class Asks(Plateau):
    def __init__(self, patience):
        super().__init__()
"""
QUICK = ("smoke", "--quick", "--seeds", "1", "--processes", "1")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("user_small.py").write_text(SMALL)
    yield
    sys.modules.pop("user_small", None)


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments], prog_name="autotune")


def run(*arguments):
    return bench("run", *QUICK, *arguments)


def test_list_names_every_suite():
    result = bench("list")
    assert result.exit_code == 0
    for name in ("smoke: ", "core: ", "digits-mlp-adamw", "tuned baseline", "random (8 trials)"):
        assert name in result.output


def test_run_report_and_import_of_a_users_workload_and_policy(monkeypatch, mlflow_store):
    chosen = ("--workload", "user_small:Mine", "--only", "mine", "--policy", "user_small:policy")
    result = run(*chosen)
    assert result.exit_code == 0, result.output
    assert "All 16 runs are in." in result.output
    assert "\npolicy " in result.output
    assert "autotune bench report autotune-bench/smoke-quick" in result.output

    again = run(*chosen)
    assert again.exit_code == 0
    assert "17 of 17 finished" in again.output

    report = bench("report", "smoke-quick", "--no-mlflow")
    assert report.exit_code == 0, report.output
    folder = Path("autotune-bench/smoke-quick")
    assert report.stdout.split() == [
        str(folder / name) for name in ("report.md", "report.html", "results.json.gz")
    ]
    assert "mine" in (folder / "report.md").read_text()
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert {item.cell.arm for item in load(folder / "results.json.gz").cells} >= {"policy", "tuned baseline"}

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    imported = bench("import", str(folder / "results.json.gz"))
    assert imported.exit_code == 0, imported.output
    assert "http" in imported.output
    client = mlflow.MlflowClient(mlflow_store)
    [experiment] = [e for e in client.search_experiments() if e.name != "Default"]
    assert "smoke" in experiment.name
    assert client.search_runs([experiment.experiment_id])


def test_what_fails_is_named_and_is_the_exit_code():
    result = run("--workload", "user_small:Broken", "--only", "broken")
    assert result.exit_code == 1
    assert "ArithmeticError: the data are broken (user_small.py:" in result.output
    assert "--retry-errors" in result.output
    assert "All 13 runs are in, 12 of which ended in an error." in result.output
    assert run("--workload", "user_small:Broken", "--only", "broken").exit_code == 1, "they still are"


def test_ctrl_c_ends_the_workers_and_says_how_to_go_on():
    command = [PROGRAM, "bench", "run", *QUICK, "--workload", "user_small:Sleepy", "--only", "sleepy"]
    driver = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # As in a terminal: a test run in the background hands down a SIGINT that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    store = None
    deadline = time.monotonic() + 60
    while store is None or not store.status().running:
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.1)
        if Path("autotune-bench/smoke-quick/suite.sqlite").exists():
            store = Store(Path("autotune-bench/smoke-quick"))
    os.killpg(driver.pid, signal.SIGINT)
    output, _ = driver.communicate(timeout=30)  # until all who hold its stdout are gone, the workers too
    assert driver.returncode == 130
    assert "goes on from here" in output
    assert "Traceback" not in output
    assert store.status().running == ()
    assert store.claim() is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "nothing"), "a suite is one of"),
        (("run", "smoke", "--workload", "no_such:Thing"), "no_such:Thing"),
        (("run", "smoke", "--only", "nothing"), "digits-mlp-adamw"),
        (("run", "smoke", "--methods", "guess"), "a search is one of"),
        (("run", "smoke", "--device", "tpu"), "cpu or cuda"),
        (("run", "core", "--quick"), "run whole"),
        (("run", "smoke", "--workload", "user_small:Unseeded"), "the same seed gives the same training"),
        (("run", "smoke", "--workload", "user_small:Negative"), "got -1.0 on the test data"),
        (("run", "smoke", "--policy", "user_small:Raises"), "RuntimeError: my own bug"),
        (("run", "smoke", "--policy", "user_small:Asks"), "name a function that makes"),
        (("report", "nothing"), "was run"),
        (("report", "."), "run the suite first"),
        (("import", "nothing.json.gz"), "not there"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments, said):
    result = bench(*arguments)
    assert result.exit_code == 1
    assert said in result.output
    assert result.output.count("\n") == 1
    assert not Path("autotune-bench").exists()
