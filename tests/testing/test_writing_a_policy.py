"""What docs/writing-a-policy.md shows is run as it stands, and prints what it says."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.records import ACTIONS, PERSONAL
from autotune.testing import conformance

DOC = Path(__file__).parents[2] / "docs" / "writing-a-policy.md"
TEXT = DOC.read_text()
BLOCKS = re.findall(r"```python\n# (\w+\.py)\n(.*?)```\n(?:\n```output\n(.*?)```)?", TEXT, re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    for name, code, _ in BLOCKS:
        (folder / name).write_text(code)
    return folder


@pytest.fixture
def within(folder, monkeypatch):
    """The folder is where the examples are run, and imported from."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name, _, _ in BLOCKS:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_every_block_is_a_file_of_its_own():
    names = [name for name, _, _ in BLOCKS]
    assert len(set(names)) == len(names) == TEXT.count("```python")
    assert sum(output != "" for _, _, output in BLOCKS) == TEXT.count("```output")


def test_the_policy_passes_the_suite_as_shown(folder):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_halve_when_stuck.py"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250)
    assert f"{len(conformance.CHECKS)} passed" in run.stdout, run.stdout


def test_every_example_prints_what_it_says(within, capsys):
    for name, _, output in BLOCKS:
        if not name.startswith("test_"):
            runpy.run_path(str(within / name), run_name="__main__")
            assert capsys.readouterr().out == output, name


def test_the_fault_that_is_shown_is_found(folder):
    code = (folder / "halve_when_stuck.py").read_text().replace('{"since": self.since}', "{}")
    names = {}
    exec(code.replace('state["since"]', "0"), names)
    with pytest.raises(conformance.Violation) as caught:
        conformance.resume(names["HalveWhenStuck"])
    shown = next(block for block in re.findall(r"```\n(a resumed.*?)```", TEXT, re.S))
    words = [re.escape(part) for part in " ".join(shown.split()).split("Set(...)")]
    assert re.fullmatch(r"Set\(.*?\)".join(words), str(caught.value)), caught.value


def test_all_actions_and_links_are_there():
    for action in set(ACTIONS.values()) - set(PERSONAL):
        assert f"`{action.__name__}`" in TEXT
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (DOC.parent / target).exists(), target
