"""The report as a table, as a page, as a picture, and in MLflow."""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from mlflow.tracking import MlflowClient
from setups import mlp, preflight
from torch import nn

from autotune import AutoTuner, TuneError
from autotune.delivery import sync
from autotune.preflight.pictures import ROWS, draw
from autotune.preflight.report import Finding, Layer, Report


@pytest.fixture(scope="module")
def sick(tmp_path_factory):
    """A run with many faults, and its folder."""
    torch.manual_seed(0)
    setup = mlp()
    with torch.no_grad():
        setup.model[0].bias[:100] = -100
        setup.model[3].weight.mul_(100)
    setup.optimizer.param_groups[0]["lr"] = 5.0
    folder = tmp_path_factory.mktemp("runs") / "sick"
    return preflight(setup, folder, validation=setup.loader, pictures=True), folder


def test_the_worst_comes_first_and_is_not_ok(sick):
    report, _ = sick
    severities = [f.severity for f in report.findings]
    assert severities == sorted(severities, key=("error", "warning", "note", "ok").index)
    assert {"error", "warning", "ok"} <= set(severities)
    assert not report.ok
    fine = dataclasses.replace(
        report, findings=tuple(f for f in report.findings if f.severity in ("ok", "note"))
    )
    assert fine.ok
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.step = 3


def test_the_table_fits_80_columns_and_loses_no_word(sick):
    report, _ = sick
    text = str(report)
    assert max(map(len, text.splitlines())) <= 80
    for finding in report.findings:
        assert finding.check in text
        for part in (finding.found, finding.means, finding.remedy):
            assert set(re.findall(r"[A-Za-z]{4,12}", part)) <= set(re.findall(r"[A-Za-z]{4,12}", text))


def test_the_page_is_a_table_with_every_finding(sick):
    report, folder = sick
    page = (folder / "preflight.md").read_text()
    assert page == report.to_markdown()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(report.findings)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}
    bars = Finding("a|b", "note", "x | y\nz")
    assert "x \\| y z" in dataclasses.replace(report, findings=(bars,)).to_markdown()
    assert not list(folder.glob("*.part*"))


def test_a_finding_has_one_of_four_severities():
    with pytest.raises(TuneError, match="got 'fatal'; "):
        Finding("loader", "fatal", "x")


def test_the_picture_shows_each_layer_with_its_gradients(sick, tmp_path):
    report, folder = sick
    assert [layer.name for layer in report.layers] == ["0 Linear", "1 ReLU", "2 Dropout", "3 Linear"]
    assert [len(layer.gradients) > 0 for layer in report.layers] == [True, False, False, True]
    dead = report.layers[1].activations
    assert (dead == 0).mean() > 0.75
    assert imread(folder / "preflight.png").shape[1] == 1600
    figure = draw(report.layers, tmp_path / "again.png")
    assert len(figure.axes) == 8
    counted = [sum(bar.get_height() for bar in ax.patches) for ax in figure.axes[::2]]
    assert counted == [(layer.activations != 0).sum() for layer in report.layers]
    assert "exactly 0" in figure.axes[2].texts[0].get_text()


def test_odd_layers_are_drawn_too(tmp_path):
    nothing, broken = np.zeros(0, np.float32), np.full(9, np.nan, np.float32)
    constant = np.ones(9, np.float32)
    many = [Layer(f"layer.{i}", constant, nothing) for i in range(40)] + [Layer("last", broken, constant)]
    figure = draw(many, tmp_path / "many.svg")
    assert len(figure.axes) == 2 * ROWS
    assert "16 of 41 layers" in figure.axes[0].get_title("left")
    assert figure.axes[-2].texts[0].get_text() == "not finite"
    report = Report((), 0, 0, 0, 0, 0.0)
    with pytest.raises(TuneError, match="got none"):
        report.save_histograms(tmp_path / "none.png")


@pytest.fixture
def quiet(tmp_path, monkeypatch, mlflow_store):
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    monkeypatch.chdir(tmp_path)


def test_mlflow_gets_the_page_and_the_picture_and_each_newer_one(quiet, tmp_path):
    torch.manual_seed(0)
    setup = mlp()
    with AutoTuner(setup.model, setup.optimizer, folder=tmp_path / "run") as tuner:
        tuner.preflight(setup.loader, setup.loss, seconds=60, pictures=True)
        first = sync(tuner.folder)
        client = MlflowClient(first.tracking_uri)

        def page():
            return Path(client.download_artifacts(first.run_id, "autotune/preflight.md")).read_text()

        assert page() == (tuner.folder / "preflight.md").read_text()
        names = {entry.path for entry in client.list_artifacts(first.run_id, "autotune")}
        assert {"autotune/preflight.md", "autotune/preflight.png"} <= names
        nn.init.zeros_(setup.model[3].weight)
        report = tuner.preflight(setup.loader, setup.loss, seconds=60)
    assert page() == report.to_markdown()


def test_a_picture_of_nothing_costs_no_report(tmp_path):
    setup = mlp()
    setup.loader = []
    report = preflight(setup, tmp_path / "run", validation=None, pictures=True)
    assert (tmp_path / "run" / "preflight.md").read_text() == report.to_markdown()
    assert not (tmp_path / "run" / "preflight.png").exists()
