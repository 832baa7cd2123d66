"""What the page shows is run as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parent.parent.parent / "docs" / "preflight.md").read_text()


def test_the_example_finds_what_is_wrong_with_it(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    code = code.replace("total_steps=100", "total_steps=100, mlflow=False")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "AUTOTUNE_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stderr.splitlines() == ["not like this"]
    (folder,) = tmp_path.iterdir()
    table = (folder / "preflight.md").read_text()
    assert (folder / "preflight.png").exists()
    for text in ("**error** · update ratio", "**error** · leak", "**warning** · loader"):
        assert text in table
    shown = re.search(r"It prints.*?```\n(.*?)```", PAGE, re.S)[1]
    assert shown.splitlines()
    for line in shown.splitlines():
        assert line in run.stdout.splitlines() or re.search(r"\d", line), line  # figures differ by machine


def test_every_check_is_on_the_page():
    package = Path(__file__).parent.parent.parent / "autotune" / "preflight"
    source = "".join(path.read_text() for path in package.glob("*.py"))
    names = re.findall(r"^(?:CHECK|LOADER, LEAK, LABELS, INPUTS) = (.*)$", source, re.M)
    checks = re.findall(r'"([a-z ]+)"', " ".join(names))
    assert len(checks) == 10
    listed = re.findall(r"^\| ([a-z ]+) \|", PAGE, re.M)[1:]
    assert sorted(checks) == sorted(listed)
