"""A healthy run is called healthy."""

import pytest
import torch
from setups import HEALTHY, mlp, preflight


@pytest.mark.parametrize("name", HEALTHY)
def test_no_false_alarm(tmp_path, name):
    torch.manual_seed(3)
    report = preflight(HEALTHY[name](), tmp_path / "run")
    assert report.ok, str(report)
    checks = {finding.check for finding in report.findings}
    assert checks >= {
        "loader",
        "initial loss",
        "units",
        "gradients",
        "update ratio",
        "differences",
        "overfitting",
    }
    (differences,) = (f for f in report.findings if f.check == "differences")
    assert differences.severity == "ok"
    assert differences.figures["agree"] >= 3


def test_it_says_what_it_has_cost(tmp_path):
    setup = mlp()
    calls = []
    loss = setup.loss
    setup.loss = lambda batch: calls.append(1) or loss(batch)
    report = preflight(setup, tmp_path / "run")
    assert report.losses == len(calls)
    assert 10 < report.gradients < report.losses
    assert report.batches == len(setup.loader) == 22
    assert f"{report.gradients} of them with gradient" in str(report)
