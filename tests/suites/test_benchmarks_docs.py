"""What docs/benchmarks.md shows is run as it stands, and the `smoke` suite with both of its processes."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.benchmarks.suites import results as records
from autotune.benchmarks.suites.catalogue import SUITES

DOC = Path(__file__).parents[2] / "docs" / "benchmarks.md"
TEXT = DOC.read_text()
FILES = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.S)
(EXAMPLE,) = (
    block for block in re.findall(r"```\n(autotune bench run .*?)```", TEXT, re.S) if "--workload" in block
)


def autotune(folder, *arguments):
    program = Path(sys.executable).with_name("autotune")
    run = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    return run


def test_every_suite_is_in_the_table_and_no_other():
    rows = re.findall(r"^\| `([\w-]+)` \|", TEXT, re.M)
    assert rows == [*SUITES, "core"]


def test_the_complete_example(tmp_path):
    for name, code in FILES:
        (tmp_path / name).write_text(code)
    run, report = (shlex.split(line)[1:] for line in EXAMPLE.replace("\\\n", "").splitlines())
    mine = ["--only", "breast-cancer", "--only", "diabetes"]
    few = [*mine, "--quick", "--seeds", "1", "--processes", "1"]
    out = autotune(tmp_path, *run, *few).stdout
    assert "HalveWhenWorse" in out
    assert "guarded" in out
    autotune(tmp_path, *report, "--no-mlflow")
    folder = tmp_path / "autotune-bench" / "mine"
    results = records.load(folder / "results.json.gz")
    mine = [item for item in results.cells if item.cell.arm in ("HalveWhenWorse", "guarded")]
    assert {item.cell.workload for item in mine} == {"breast-cancer", "diabetes"}
    assert any(item.outcome.events for item in mine), "it decided something"
    for page in ("report.md", "report.html"):
        assert "HalveWhenWorse" in (folder / page).read_text()


def test_the_smoke_suite_at_one_seed(tmp_path):
    autotune(tmp_path, "bench", "run", "smoke", "--seeds", "1", "--processes", "2")
    autotune(tmp_path, "bench", "report", "smoke", "--no-mlflow")
    results = records.load(tmp_path / "autotune-bench" / "smoke" / "results.json.gz")
    suite = replace(SUITES["smoke"](), seeds=1)
    expected = {cell.key for workload in suite.workloads for cell in suite.cells(workload.name)}
    assert {item.cell.key for item in results.cells} == expected
    assert all(item.outcome is not None for item in results.cells)
    assert results.planned == len(expected)


COMMITTED = sorted((DOC.parents[1] / "benchmarks" / "results").glob("*.json.gz"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_committed_results_are_of_the_suites_that_there_are(path):
    results = records.load(path)
    suite = SUITES[results.suite]()
    assert len(results.cells) == results.planned
    assert all(item.outcome is not None for item in results.cells)
    expected = {cell.key for workload in suite.workloads for cell in suite.cells(workload.name)}
    assert {item.cell.key for item in results.cells} == expected
    assert {workload.name: workload.steps for workload in suite.workloads} == results.steps
    for item in results.cells:
        assert item.outcome.spent <= item.outcome.allowed + 1e-6
    json.dumps(records.pack(results), allow_nan=False)
