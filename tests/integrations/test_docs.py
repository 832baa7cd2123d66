"""What docs/integrations.md shows is run as it stands, but for MLflow."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from frameworks import framework

ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "integrations.md").read_text(), re.S)


@pytest.mark.parametrize(
    ("name", "code"), list(zip(("accelerate", "lightning", "transformers"), BLOCKS, strict=True))
)
def test_the_example_runs(tmp_path, name, code):
    framework(name)
    assert name in code
    code = code.replace("    policies=[", "    mlflow=False,\n    policies=[")
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "AUTOTUNE_RUNS": str(tmp_path / "runs"), "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 1
