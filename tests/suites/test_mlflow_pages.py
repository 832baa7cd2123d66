import base64
import dataclasses
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from made_results import made_results
from mlflow.tracking import MlflowClient

from autotune.benchmarks.suites.mlflow_entries import entries
from autotune.benchmarks.suites.mlflow_entry import RATE, SUITE, identity
from autotune.benchmarks.suites.mlflow_pages import DIGEST, KEY, _experiment, _shown, publish
from autotune.benchmarks.suites.mlflow_views import PREFIX, TRIALS, views
from autotune.benchmarks.suites.results import save
from autotune.benchmarks.suites.scores import ALL, summary
from autotune.benchmarks.suites.statistics import capped
from autotune.benchmarks.suites.svg import PALETTE
from autotune.delivery import DeliveryError

ARMS = ("tuned baseline", "constant", "recommended")


def made(**options):
    return made_results(
        **{"workloads": ("a, b", "40 % – noise"), "arms": ARMS, "seeds": 2, "factors": (0.01, 1.0), **options}
    )


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What users have set must not reach the tests."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    for name, value in {"DISABLE_TELEMETRY": "true", "HTTP_REQUEST_MAX_RETRIES": "1"}.items():
        monkeypatch.setenv(f"MLFLOW_{name}", value)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, empty_store):
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('store'))}"


@pytest.fixture
def store(shared, monkeypatch):
    """A local store with nothing in it of this test's: making one takes seconds."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared)
    return MlflowClient(shared)


@pytest.fixture(scope="module")
def whole(shared):
    """Results, and their runs by key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", shared)
        results = made()
        publish(results)
        return results, written(MlflowClient(shared), results)


def of_test(results, request):
    """The same, under the test's own name."""
    return dataclasses.replace(results, suite=request.node.name)


def written(client, results):
    experiment = client.get_experiment_by_name(f"autotune bench {results.suite}").experiment_id
    runs = client.search_runs([experiment], max_results=5000)
    assert len({run.data.tags[KEY] for run in runs}) == len(runs), "nothing is there twice"
    return {run.data.tags[KEY]: run for run in runs}


def test_every_cell_has_a_run_under_its_workload(store, whole):
    results, runs = whole
    assert len(runs) == 1 + len(ARMS) + 2 + len(results.cells)
    for item in results.cells:
        run = runs[item.cell.key]
        assert runs[f"workload {item.cell.workload}"].info.run_id == run.data.tags["mlflow.parentRunId"]
        assert run.data.params["arm"] == item.cell.arm
        assert run.data.params["seed"] == str(item.cell.seed)
        assert run.data.params.get("factor") == (item.cell.factor and f"{item.cell.factor:g}")
        assert run.data.metrics["final"] == item.outcome.final
        assert run.info.status == "FINISHED"
        assert run.info.end_time - run.info.start_time == 1000 * item.outcome.seconds
        history = store.get_metric_history(run.info.run_id, "selection capped")
        start = item.outcome.initial_selection
        looks = [(round(look.spent), capped(look.selection, start)) for look in item.outcome.looks]
        assert [(point.step, point.value) for point in history] == looks


def test_arms_have_the_colours_of_the_page(whole):
    results, runs = whole
    for number, arm in enumerate(ARMS):
        found = {runs[f.cell.key].data.tags["mlflow.runColor"] for f in results.cells if f.cell.arm == arm}
        assert found == {runs[f"arm {arm}"].data.tags["mlflow.runColor"]} == {PALETTE[number]}


def test_single_runs_are_called_what_they_are(whole, store):
    tags = store.get_experiment_by_name(f"autotune bench {whole[0].suite}").tags
    assert f"All {len(whole[0].cells)} single runs" in opened(tags, TRIALS)
    many = views("r", (1.0,), 101)
    assert "100 of 101 single runs, at random" in opened(many, TRIALS)


def opened(tags, view):
    """The state of a saved view, as the UI unpacks it."""
    (text,) = (value for name, value in tags.items() if name.startswith(PREFIX) and name.endswith(view))
    return zlib.decompress(base64.b64decode(json.loads(text)["state"].removeprefix("deflate;"))).decode()


def test_an_arms_run_has_its_row_of_the_summary(store, whole):
    results, runs = whole
    for row in summary(results):
        suffix = "" if row.budget == 1.0 else f" at {row.budget:g}"
        if row.workload == ALL:
            run = runs[f"arm {row.arm}"]
            assert run.data.tags["mlflow.parentRunId"] == runs[SUITE].info.run_id
            assert run.data.metrics[f"median score{suffix}"] == row.final.median
            assert run.data.metrics[f"worst score{suffix}"] == row.final.worst
            rates = store.get_metric_history(run.info.run_id, f"{RATE}{suffix}")
            values = store.get_metric_history(run.info.run_id, f"score by rate{suffix}")
            curve = {10**rate.value: value.value for rate, value in zip(rates, values, strict=True)}
            assert curve == pytest.approx(row.rates or dict.fromkeys((0.01, 1.0), row.final.median))
        else:
            metrics = runs[f"workload {row.workload}"].data.metrics
            assert metrics[f"median score{suffix}/{row.arm}"] == row.final.median


def test_progress_begins_at_the_first_look_and_ends_at_the_last():
    results = made(workloads=("one",), seeds=1, factors=(1.0,), budgets=(1.0,))
    outcomes = {item.cell.arm: item.outcome for item in results.cells}
    arm = next(entry for entry in entries(results) if entry.key == "arm constant")
    curve = arm.metrics["progress by percent"]
    assert [step for step, _ in curve] == list(range(0, 101, 4))
    base = outcomes["tuned baseline"].selection
    assert curve[0][1] == outcomes["constant"].looks[0].selection / base
    assert curve[-1][1] == outcomes["constant"].selection / base


def test_progress_counts_what_failed_and_survives_a_loss_of_zero():
    results = made(workloads=("one",), seeds=1, factors=(1.0,), budgets=(1.0,))
    base, *rest = results.cells
    base = dataclasses.replace(base, outcome=dataclasses.replace(base.outcome, selection=0.0))
    rest = [dataclasses.replace(item, outcome=None, error="OSError: gone") for item in rest]
    found = entries(dataclasses.replace(results, cells=(base, *rest)))
    curve = next(e for e in found if e.key == "arm constant").metrics["progress by percent"]
    assert [value for _, value in curve] == pytest.approx([1e9] * 26)


def test_a_run_that_was_destroyed_or_failed_is_shown_and_no_curve_holds_an_infinity():
    first, *rest = made(seeds=1).cells
    found = next(item for item in rest if item.cell.factor == 1.0)
    looks = [dataclasses.replace(look, selection=math.nan) for look in found.outcome.looks]
    looks[3] = dataclasses.replace(looks[3], selection=math.inf)
    gone = dataclasses.replace(found.outcome, final=math.nan, best=math.inf, looks=looks)
    cells = [dataclasses.replace(i, outcome=gone) if i is found else i for i in rest]
    failed = dataclasses.replace(cells[-1], outcome=None, error="RuntimeError: out of cheese")
    results = dataclasses.replace(made(seeds=1), cells=(first, *cells[:-1], failed))
    by_key = {entry.key: entry for entry in entries(results)}
    values = [v for entry in by_key.values() for curve in entry.metrics.values() for _, v in curve]
    assert all(map(math.isfinite, values))
    destroyed = by_key[found.cell.key]
    assert {value for _, value in destroyed.metrics["selection capped"]} == {gone.initial_selection}
    assert destroyed.metrics["score"] == [(0, pytest.approx(gone.initial / first.outcome.final))]
    assert by_key[failed.cell.key].failed
    assert by_key[failed.cell.key].tags["error"] == failed.error
    assert by_key[failed.cell.key].metrics["score"][0][1] > 1
    assert by_key[SUITE].metrics["errors"] == [(0, 1.0)]


def test_published_again_nothing_is_written(store, shared, request, capsys):
    results = of_test(made(seeds=1), request)
    link = publish(results)
    wrote = f"{len(results.cells)} runs of the suite {results.suite} are in {shared}"
    assert wrote in capsys.readouterr().err
    before = {key: run.to_dictionary() for key, run in written(store, results).items()}
    assert publish(results) == link
    assert {key: run.to_dictionary() for key, run in written(store, results).items()} == before


def test_more_cells_join_and_the_aggregates_follow(store, request):
    results = of_test(made(mishaps=False), request)
    part = dataclasses.replace(results, cells=results.cells[: len(results.cells) // 2])
    publish(part)
    before = written(store, results)
    publish(results)
    after = written(store, results)
    for key in before.keys() & {item.cell.key for item in part.cells}:
        assert after[key].info.run_id == before[key].info.run_id
    row = next(row for row in summary(results) if (row.workload, row.arm) == (ALL, "constant"))
    assert after["arm constant"].data.metrics["median score"] == row.final.median
    assert after[SUITE].data.metrics["cells"] == len(results.cells)
    assert after[SUITE].info.run_id == before[SUITE].info.run_id
    history = store.get_metric_history(after["arm constant"].info.run_id, "score by rate")
    assert len(history) == len(row.rates), "a curve that was renewed has no second set of points"


def test_results_of_another_command_are_not_mixed_with_these(store, request):
    results = of_test(made(seeds=1), request)
    other = dataclasses.replace(results, command="autotune bench run made --quick")
    assert publish(results) != publish(other)
    experiment = store.get_experiment_by_name(f"autotune bench {results.suite}").experiment_id
    for item in (results, other):
        mine = f"tags.`autotune.results` = '{identity(item)}'"
        assert len(store.search_runs([experiment], mine)) == 1 + len(ARMS) + 2 + len(item.cells)


def test_results_keep_their_identity_as_they_grow():
    results = made(seeds=1)
    grown = dataclasses.replace(
        results,
        command=f"{results.command} && autotune bench run made --policy mine:Mine",
        versions={**results.versions, "torch": f"{results.versions['torch']} and 3.0", "ray": "2.60"},
        cells=results.cells[:1],
    )
    assert identity(grown) == identity(results)
    assert identity(dataclasses.replace(results, versions={"torch": "3.0"})) != identity(results)


def test_documents_are_artifacts_of_the_suites_run(store, request, tmp_path):
    results = of_test(made(seeds=1), request)
    (tmp_path / "page.html").write_text("<p>hello</p>")
    publish(results, {"report.html": tmp_path / "page.html"})
    run = written(store, results)[SUITE].info.run_id
    assert [found.path for found in store.list_artifacts(run)] == ["report.html"]
    assert Path(store.download_artifacts(run, "report.html")).read_text() == "<p>hello</p>"


def test_two_stores_of_a_folder_have_their_files_apart(shared, tmp_path):
    found = [tmp_path / file for file in ("mlflow.db", "other.db")]
    client = MlflowClient(shared)  # the addresses count, not the store that takes them
    places = [
        client.get_experiment(_experiment(client, f"sqlite:///{file}", f"of {file.name}")).artifact_location
        for file in found
    ]
    assert places == [
        (tmp_path / "mlruns" / "of mlflow.db").as_uri(),
        (tmp_path / "mlruns" / "other" / "of other.db").as_uri(),
    ]


def test_a_password_is_not_shown():
    assert _shown("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert _shown("sqlite:////home/a@b/mlflow.db") == "sqlite:////home/a@b/mlflow.db"


def test_killed_in_the_middle_it_is_completed(store, shared, request, tmp_path):
    results = of_test(made(seeds=1), request)
    save(results, tmp_path / "results.json.gz")
    code = (
        "import sys, pathlib\n"
        "from autotune.benchmarks.suites.mlflow_pages import publish\n"
        "from autotune.benchmarks.suites.results import load\n"
        "publish(load(pathlib.Path(sys.argv[1])))"
    )
    name = f"autotune bench {results.suite}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "results.json.gz")],
        env={**os.environ, "MLFLOW_TRACKING_URI": shared},
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    while (found := store.get_experiment_by_name(name)) is None or len(
        store.search_runs([found.experiment_id])
    ) < 8:
        assert process.poll() is None
        assert time.monotonic() < until
    process.send_signal(signal.SIGKILL)
    process.wait()
    publish(results)
    runs = written(store, results)
    wanted = {entry.key: entry for entry in entries(results)}
    assert runs.keys() == wanted.keys()
    for key, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.data.tags[DIGEST] == wanted[key].digest
        assert run.data.params == wanted[key].params
        for metric, curve in wanted[key].metrics.items():
            history = store.get_metric_history(run.info.run_id, metric)
            assert [(point.step, point.value) for point in history] == curve


def test_a_server_that_is_down_is_reported_within_seconds(monkeypatch):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(DeliveryError, match=r"did not take the results .* publish them again"):
            publish(made(seeds=1))
        assert time.monotonic() - begin < 60
