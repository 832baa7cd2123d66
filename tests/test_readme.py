"""What the README shows is run as it stands."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from loops import Loop
from typer.testing import CliRunner

from autotune.cli import app
from autotune.journal import Journal
from autotune.testing import conformance

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_complete_example_runs_and_learns(tmp_path):
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "import torch" in block)
    code = code.replace("evaluate=validate,", "evaluate=validate,\n    mlflow=False,")
    environment = {**os.environ, "AUTOTUNE_RUNS": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.splitlines()[0]) > 0.85, "the accuracy"
    assert "adopt trial" in run.stdout
    assert len(list(tmp_path.iterdir())) == 1


def test_the_policy_of_ones_own_is_one_and_decides(tmp_path):
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "class " in block)
    names = {}
    exec(code, names)
    policy = names["HalveWhenWorse"]()
    loop = Loop()
    rising = iter(range(1, 100))
    with loop.tuner(
        tmp_path / "run", policies=[policy], evaluate=lambda: next(rising), evaluate_every=10, total_steps=60
    ) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    assert [d.step for d in tuner.decisions if d.applied] == [20, 30, 40, 50, 60]
    assert tuner.hyperparameters["lr"]() == 1e-2 / 2**5


def test_the_policy_of_ones_own_holds_to_the_rules():
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "class " in block)
    names = {}
    exec(code, names)
    conformance.check(names["HalveWhenWorse"])


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_link_of_the_pages_exists(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_link_and_command_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^make (\w+)", README, re.M):
        assert f"\n{command}:" in makefile
    commands = subprocess.run(
        [sys.executable, "-c", "from autotune.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for command in re.findall(r"^autotune (\w+)", README, re.M):
        assert command in commands


TRAINER = """
import sys
sys.path.insert(0, {tests!r})
from loops import Loop
loop = Loop()
with loop.tuner({folder!r}, total_steps=1_000_000) as tuner:
    for batch in tuner.batches(loop.loader):
        tuner.report(loss=loop.step(batch))
        if tuner.step == 30:
            print("on its way", flush=True)
"""


def test_the_lines_from_a_running_loop_to_a_rewind_work_as_they_stand(tmp_path, monkeypatch):
    (block,) = (b for b in README.split("```")[1::2] if "checkpoint latest before-surgery" in b)
    lines = [line.partition("#")[0].split() for line in block.strip().splitlines()]
    monkeypatch.setenv("AUTOTUNE_RUNS", str(tmp_path))
    code = TRAINER.format(tests=str(ROOT / "tests"), folder=str(tmp_path / "run"))
    with (
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as trainer,
        contextlib.ExitStack() as failing,
    ):
        failing.callback(trainer.kill)
        assert trainer.stdout.readline() == "on its way\n"
        for _, *words in lines:
            if words != ["ui"]:
                result = CliRunner().invoke(app, words)
                assert result.exit_code == 0, (words, result.output)
                assert words == ["show"] or "applied at step" in result.output
        assert CliRunner().invoke(app, ["stop", "latest"]).exit_code == 0
        failing.pop_all()
    assert trainer.returncode == 0
    done = [decision.action.kind for decision in Journal.open(tmp_path / "run").decisions()]
    assert done[-3:] == ["rewind", "checkpoint", "stop"]
