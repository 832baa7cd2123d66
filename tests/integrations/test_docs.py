"""What docs/integrations.md shows is run as it stands, but for MLflow."""

import re
import runpy
from pathlib import Path

import pytest
from frameworks import framework

ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "integrations.md").read_text(), re.S)


@pytest.mark.parametrize(
    ("name", "code"), list(zip(("accelerate", "lightning", "transformers"), BLOCKS, strict=True))
)
def test_the_example_runs(tmp_path, monkeypatch, name, code):
    framework(name)
    assert name in code
    (tmp_path / "example.py").write_text(code.replace("    policies=[", "    mlflow=False,\n    policies=["))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOTUNE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    runpy.run_path("example.py", run_name="__main__")
    assert len(list((tmp_path / "runs").iterdir())) == 1
