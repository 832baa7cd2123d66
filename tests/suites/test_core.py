import json
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from autotune.benchmarks import digits, disk, figures, overhead, snapshot
from autotune.benchmarks.figures import Figure
from autotune.benchmarks.suites import core
from autotune.cli import app
from autotune.records import TuneError


@pytest.fixture
def tiny(monkeypatch):
    """The benchmarks' real code, on sizes that a test can wait for."""
    monkeypatch.setattr(snapshot, "SIZES", (("1 MB", 1_000_000, 9, 3),))
    monkeypatch.setattr(snapshot, "SMALL", ("few", 10_000, 9, 3))
    monkeypatch.setattr(disk, "SIZES", snapshot.SIZES)
    monkeypatch.setattr(disk, "SMALL", snapshot.SMALL)


def test_a_missed_target_is_the_exit_status(capsys):
    met, missed = Figure("met", 1.0, "ms", "≤ 2", True), Figure("missed", 3.0, "ms", "≤ 2", False)
    assert figures.show([met, Figure("without", 9.0, "ms")]) == 0
    assert figures.show([met, missed]) == 1
    assert capsys.readouterr().out.splitlines()[-1].split() == ["missed", "3", "ms", "≤", "2", "no"]


@pytest.mark.parametrize(
    ("module", "limited"),
    [
        (snapshot, {"snapshot over memcpy", "restore over memcpy"}),
        (disk, {"save over raw write", "load over raw read"}),
    ],
)
def test_ratios_have_limits_where_sizes_have(tiny, module, limited):
    found = module.figures()
    assert {one.name for one in found if one.target} == {f"1 MB: {name}" for name in limited}
    for one in found:
        assert one.value > 0
        if one.target:
            assert one.met == (one.value <= float(one.target.removeprefix("≤ ")))


@pytest.mark.parametrize(
    ("timing", "met"),
    [
        ((1e-3, 1e-5, 1e-5, 0), (True, True)),
        ((1e-3, 3e-5, 3e-5, 1e-5), (False, True)),
        ((1e-3, 0, 3e-5, 0), (True, False)),
    ],
)
def test_the_wall_clock_misses_a_target_by_more_than_two_standard_errors(timing, met):
    bare, *added = overhead._added("it", overhead.Timing(*timing), 1e6, "µs", 20.0)
    assert bare.met is None
    assert tuple(one.met for one in added) == met
    assert added[1].error == 1e6 * timing[3]
    assert all(one.met is None for one in overhead._added("it", overhead.Timing(*timing), 1e6, "µs", None))


def test_the_figures_of_the_demo_count_the_seeds_that_hold(monkeypatch):
    monkeypatch.setattr(digits, "RATES", (1e-3,))
    monkeypatch.setattr(digits, "STEPS", 20)
    monkeypatch.setattr(digits.bare, "__defaults__", (range(0), 20))
    monkeypatch.setitem(digits.tuned.__kwdefaults__, "steps", 20)
    *rows, claim = digits.figures(seeds=1)
    static, _, tuned = (one.value for one in rows)
    assert claim.value == (tuned >= static - 0.5)
    assert claim.met == (claim.value >= 1)


def test_what_is_there_is_not_measured_again_and_makes_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "autotune-bench" / "core"
    folder.mkdir(parents=True)
    for name in core.BENCHMARKS:
        (folder / f"{name}.json").write_text(written(name, met=name != "disk"))
    result = CliRunner().invoke(app, ["bench", "run", "core"])
    assert result.exit_code == 1, "a target is missed"
    assert "disk of it" in result.output
    assert CliRunner().invoke(app, ["bench", "report", "core"]).exit_code == 0
    text = (folder / "report.md").read_text()
    assert "| disk of it | 2 ± 0.5 | ms | ≤ 1 | no |" in text
    assert "torch 9.9" in text


def test_what_a_benchmark_finds_is_written_whole(tmp_path, tiny):
    core.measure("snapshot", tmp_path)
    measured = core.read(tmp_path)
    assert {one.name for one in measured.figures["snapshot"]} == {one.name for one in snapshot.figures()}
    assert "torch" in measured.versions
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot.json"]


def test_a_benchmark_that_fails_ends_the_suite(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(core, "BENCHMARKS", ("no_such_benchmark",))
    with pytest.raises(TuneError, match="no_such_benchmark has ended with exit code 1"):
        core.run(tmp_path)


def test_figures_of_another_version_are_refused(tmp_path):
    data = json.loads(written("disk", met=True))
    data["versions"]["autotune-torch"] = "0.0.1"
    (tmp_path / "disk.json").write_text(json.dumps(data))
    with pytest.raises(TuneError, match="delete it"):
        core.run(tmp_path)


def written(name, *, met):
    figure = {"name": f"{name} of it", "value": 2.0, "unit": "ms", "target": "≤ 1", "met": met, "error": 0.5}
    return json.dumps(
        {"versions": {"autotune-torch": version("autotune-torch"), "torch": "9.9"}, "figures": [figure]}
    )
