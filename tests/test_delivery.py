import http.server
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from recorded import range_tested

from autotune.delivery import Delivery, DeliveryError, run_link, sync, target
from autotune.journal import Journal
from autotune.records import Outcome, Rewind, Set, TuneError

STEPS = 60


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    """What users have set must not reach the tests, nor the tests anyone outside."""
    before = dict(os.environ)
    folder = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("current"))  # MLflow's own runs keep their files in the current folder
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"] = "0"
    yield
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store):
    """The address of a local store, shared."""
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('store'))}"


class Server:
    """A real MLflow server that can be killed and started again at the same address."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        files = f"--backend-store-uri sqlite:///{self.folder}/mlflow.db --artifacts-destination {self.folder}"
        command = f"server --workers 1 --host 127.0.0.1 --port {self.port} {files}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command.split()],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self.answers)

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


def train(journal, first=0, steps=STEPS, pause=0.0):
    """What a tuner writes in `steps` steps: metrics, a decision and its outcome, a rewind."""
    branch, end = first // steps, first + steps
    for spent in range(first, end):
        journal.metric("loss", 2.0 - spent / 1000, spent, spent, branch)
        journal.metric("hp/lr", 0.1, spent, spent, branch)
        time.sleep(pause)
    journal.metric("loss", math.nan, end, end, branch)
    journal.metric("norm of [a]", math.inf, end, end, branch)
    settle(journal, decide(journal, Set("lr", 0.05, reason="flat", evidence={"p": 0.71}), end))
    settle(journal, decide(journal, Rewind(end - 9, "skip", reason="loss is NaN"), end))
    journal.metric("loss", 1.5, end - 9, end, branch + 1)
    measures = {"loss_measured": 0.4, "loss_forecast": 0.5, "loss_slope_before": None}
    journal.outcome(Outcome(journal.decisions()[-2].id, end, 30, "better", measures))


def wait_until(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def decide(journal, action, spent):
    moment = {"step": spent, "spent": spent, "branch": 0, "source": "plateau", "before": {"lr": 0.1}}
    return journal.decide(action=action, **moment)


def settle(journal, decision):
    journal.settle(replace(decision, status="applied", after={"lr": 0.05}))


def new(folder, uri, run_id=None):
    return Journal.create(folder, {"mlflow": target(uri, "tests", run_id)})


def mirror(folder):
    """The client and the MLflow run of a run."""
    journal = Journal.open(folder)
    client = MlflowClient(journal.meta()["mlflow"]["tracking_uri"])
    return client, client.get_run(journal.delivered()["run"]["run_id"])


def traces_of(client, run):
    """The traces of a run by decision, each of which has one."""
    experiment, run_id = run.info.experiment_id, run.info.run_id
    traces = client.search_traces(locations=[experiment], run_id=run_id, max_results=500)
    numbers = [int(trace.info.tags["autotune.decision"]) for trace in traces]
    assert len(numbers) == len(set(numbers))
    return dict(zip(numbers, traces, strict=True))


def check_once(folder, status, prefix=""):
    """All that the journal holds is in MLflow, and nothing is there twice."""
    journal = Journal.open(folder)
    client, run = mirror(folder)
    assert run.info.status == status
    mine = f"tags.`autotune.run` = '{journal.meta()['id']}'"
    assert len(client.search_runs([run.info.experiment_id], mine)) == 1

    rows = journal.metric_rows(0, 10**6)
    expected = {}
    for row in rows:
        name = row.name.replace("[", "_").replace("]", "_")
        name, value = (name, row.value) if math.isfinite(row.value) else (f"nonfinite/{name}", 1.0)
        name = name if name.startswith("hp/") else prefix + name
        expected.setdefault(name, []).append((row.spent, value, int(row.time * 1000)))
    logged = {name for name in run.data.metrics if not name.startswith("user_")}
    assert logged == {*expected, f"{prefix}step", f"{prefix}branch"}

    def history(name):
        return [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name)]

    for name, entries in expected.items():
        assert sorted(history(name)) == sorted(entries), name
    for field in ("step", "branch"):
        entries = history(prefix + field)
        assert len(set(entries)) == len(entries) >= len({row.spent for row in rows}) // 10
        assert {*entries} <= {(row.spent, getattr(row, field), int(row.time * 1000)) for row in rows}
    assert {value for _, value, _ in entries} == {row.branch for row in rows}

    traces = traces_of(client, run)
    judged = {decision.id: set() for decision in journal.decisions()}
    assert traces.keys() == judged.keys()
    for decision in journal.decisions():
        assert traces[decision.id].info.tags["autotune.status"] == decision.status
        assert len(traces[decision.id].data.spans) == 1
    for outcome in journal.outcomes():
        judged[outcome.decision] = {("delta_loss", -0.1), ("outcome", outcome.verdict)}
    for number, trace in traces.items():
        found = trace.info.assessments
        values = {(a.name, round(a.value, 6) if isinstance(a.value, float) else a.value) for a in found}
        assert len(found) == len(values)
        assert values == judged[number]
    return client, run, traces


# --- what arrives ------------------------------------------------------------------------------------------


def test_a_run_appears_in_mlflow_while_it_is_trained_and_is_ended_with_it(tmp_path, store):
    bounds = {"lr": {"kind": "log", "low": 1e-6, "high": 1.0, "choices": []}}
    given = {"total_steps": STEPS, "policies": ["guard", "plateau"], "hyperparameters": bounds}
    journal = Journal.create(tmp_path / "run", given)
    delivery = Delivery(journal, target(store, "tests"))
    train(journal)
    wait_until(lambda: "metrics" in journal.delivered())
    assert mirror(tmp_path / "run")[1].info.status == "RUNNING"
    train(journal, STEPS)
    journal.end("finished")
    assert delivery.close(deadline=120)
    client, run, traces = check_once(tmp_path / "run", "FINISHED")

    assert run.info.run_name == "run"
    assert run.data.params == {
        "autotune/total_steps": str(STEPS),
        "autotune/policies": "guard, plateau",
        "autotune/hyperparameters/lr": "kind log, low 1e-06, high 1.0",
    }
    assert run.data.tags["autotune.folder"] == str(tmp_path / "run")
    note = run.data.tags["mlflow.note.content"].splitlines()
    assert len(note) == 3
    assert "4 decisions, 4 applied" in note[0]
    assert "rewind to 111, skip data" in note[1]

    first = traces[1]
    assert first.info.request_preview == "step 60 · plateau · flat"
    assert first.info.response_preview == "lr 0.1 → 0.05 · applied"
    assert first.info.trace_metadata["mlflow.sourceRun"] == run.info.run_id
    span = first.data.spans[0]
    assert (span.inputs, span.outputs) == (first.info.request_preview, first.info.response_preview)
    assert span.get_attribute("evidence/p") == 0.71
    assert span.get_attribute("action")["reason"] == "flat"

    files = [file.path for file in client.list_artifacts(run.info.run_id, "autotune")]
    assert files == ["autotune/decisions.json", "autotune/timeline.png"]
    assert {"path": files[0], "type": "table"} in json.loads(run.data.tags["mlflow.loggedArtifacts"])
    with open(client.download_artifacts(run.info.run_id, files[0], tmp_path)) as file:
        table = json.load(file)
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["outcome"] for row in rows] == ["better", "", "better", ""]
    assert rows[0]["change"] == "lr 0.1 → 0.05"


def test_a_range_test_has_its_own_picture_beside_the_timeline(tmp_path, store):
    sync(range_tested(tmp_path / "run", mlflow=target(store, "tests")))
    client, run = mirror(tmp_path / "run")
    files = [file.path for file in client.list_artifacts(run.info.run_id, "autotune")]
    assert files == ["autotune/decisions.json", "autotune/range-lr.png", "autotune/timeline.png"]
    with open(client.download_artifacts(run.info.run_id, files[1], tmp_path), "rb") as picture:
        assert picture.read(8) == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("remote", [False, True])
def test_what_was_sent_and_not_noted_is_kept_once(tmp_path, store, server, remote):
    """As after a kill between any call to MLflow and its note, and all of them."""
    journal = new(tmp_path / "run", server.uri if remote else store)
    train(journal)
    journal.end("failed")
    first = sync(tmp_path / "run")
    assert (first.metrics, first.decisions, first.outcomes) == (2 * STEPS + 3, 2, 1)
    check_once(tmp_path / "run", "FAILED")

    again = sync(tmp_path / "run")
    assert (again.metrics, again.decisions, again.outcomes) == (0, 0, 0)
    with closing(sqlite3.connect(tmp_path / "run" / "journal.db")) as plain:
        plain.execute("DELETE FROM deliveries")
        plain.commit()
    replayed = sync(tmp_path / "run")
    assert replayed == first
    check_once(tmp_path / "run", "FAILED")


def test_the_active_run_of_this_thread_is_joined_and_left_open(tmp_path, store):
    mlflow.set_tracking_uri(store)
    try:
        with mlflow.start_run(description="Mine.") as active:
            mlflow.log_metric("user_loss", 1.0, step=1)
            assert target(run_id="other")["run_id"] == "other"
            elsewhere = []
            thread = threading.Thread(target=lambda: elsewhere.append(target()["run_id"]))
            thread.start()
            thread.join()
            assert elsewhere == [None]

            journal = Journal.create(tmp_path / "run", {"mlflow": target()})
            train(journal)
            journal.end("finished")
            assert sync(tmp_path / "run").run_id == active.info.run_id == mlflow.active_run().info.run_id
            _, run, _ = check_once(tmp_path / "run", "RUNNING", prefix="autotune/")
            assert run.data.tags["mlflow.note.content"] == "Mine."
            assert run.data.metrics["user_loss"] == 1.0
    finally:
        mlflow.set_tracking_uri(None)


def test_a_resumed_run_is_open_again_and_the_broken_off_decision_is_settled(tmp_path, store):
    journal = new(tmp_path / "run", store)
    train(journal)
    broken_off = decide(journal, Set("lr", 0.01, reason="flat"), STEPS)
    sync(tmp_path / "run")
    client, run = mirror(tmp_path / "run")
    assert run.info.status == "RUNNING"
    assert broken_off.id not in traces_of(client, run)  # about to be settled

    journal.end("killed")
    sync(tmp_path / "run")
    check_once(tmp_path / "run", "KILLED")

    journal.begin()
    settle(journal, broken_off)
    train(journal, STEPS)
    journal.flush()
    sync(tmp_path / "run")
    check_once(tmp_path / "run", "RUNNING")
    journal.end("finished")
    sync(tmp_path / "run")
    check_once(tmp_path / "run", "FINISHED")


def test_several_processes_make_one_new_store_together(tmp_path, store):
    uri = f"sqlite:///{tmp_path / 'fresh.db'}"
    for number in range(3):
        journal = new(tmp_path / str(number), uri)
        train(journal, steps=5)
        journal.end("finished")
        journal.close()
    code = "import sys; from autotune.delivery import sync; sync(sys.argv[1])"
    syncs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / str(n))]) for n in range(3)]
    assert [process.wait() for process in syncs] == [0] * 3
    for number in range(3):
        check_once(tmp_path / str(number), "FINISHED")


# --- kills -------------------------------------------------------------------------------------------------


def test_kill_9_of_the_delivery_at_any_moment_then_sync(tmp_path, store):
    journal = new(tmp_path / "run", store)
    train(journal, steps=4000)
    for _ in range(20):
        settle(journal, decide(journal, Set("lr", 0.05, reason="flat"), 4000))
    journal.end("finished")
    cursors = []
    for pause in (0.0, 0.05, 0.1, 0.2):
        command = [sys.executable, "-m", "autotune.delivery", str(tmp_path / "run")]
        with subprocess.Popen(command) as process:
            seen = journal.delivered()
            wait_until(lambda seen=seen: journal.delivered() != seen)  # it is at work
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
        cursors.append(journal.delivered().get("metrics"))
    assert cursors[0] is None or cursors[0]["id"] < 8000  # it did not get through at once
    sync(tmp_path / "run")
    check_once(tmp_path / "run", "FINISHED")


def test_kill_9_of_the_trainer_in_mid_delivery_then_sync(tmp_path, store):
    code = f"""
        import sys, time
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_delivery import *
        journal = Journal.create({str(tmp_path / "run")!r}, {{}})
        delivery = Delivery(journal, target({store!r}, "tests"))
        for number in range(10**6):
            train(journal, STEPS * number, pause=0.001)
            print(number, flush=True)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as trainer:
        trainer.stdout.readline()
        journal = Journal.open(tmp_path / "run")
        wait_until(lambda: "metrics" in journal.delivered())
        trainer.send_signal(signal.SIGKILL)
    sync(
        tmp_path / "run"
    )  # at the same time as the delivering process, which has seen that its trainer is gone
    _, run, _ = check_once(tmp_path / "run", "KILLED")
    assert f"{len(journal.decisions())} decisions" in run.data.tags["mlflow.note.content"]


# --- servers in trouble ------------------------------------------------------------------------------------


def test_server_killed_in_mid_run_and_started_again(tmp_path, server):
    journal = Journal.create(tmp_path / "run", {})
    delivery = Delivery(journal, target(server.uri, "tests"))
    train(journal)
    wait_until(lambda: "outcome/1" in journal.delivered())
    train(journal, STEPS, pause=0.005)
    server.kill()
    train(journal, 2 * STEPS, pause=0.005)
    journal.end("finished")
    started = time.monotonic()
    assert not delivery.close(deadline=1.0)
    assert time.monotonic() - started < 5.0
    with pytest.raises(
        DeliveryError, match=r"did not take the run .*nothing is lost, try again by `autotune sync"
    ):
        sync(tmp_path / "run")
    server.start()
    sync(tmp_path / "run")
    check_once(tmp_path / "run", "FINISHED")


@contextmanager
def silent():
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


class Broken(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


@contextmanager
def broken():
    """Answers everything by error 500."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_port}"
        listener.shutdown()


@pytest.mark.parametrize("trouble", [silent, broken])
def test_a_server_in_trouble_holds_nothing_up_and_nothing_is_lost(tmp_path, store, monkeypatch, trouble):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    journal = Journal.create(tmp_path / "run", {})
    with trouble() as uri:
        started = time.monotonic()
        delivery = Delivery(journal, target(uri, "tests"))
        train(journal)
        assert time.monotonic() - started < 5.0
        log = tmp_path / "run" / "delivery.log"
        wait_until(lambda: log.read_text())  # it has met the trouble
        train(journal, STEPS)
        journal.end("finished")
        started = time.monotonic()
        assert not delivery.close(deadline=1.0)
        assert time.monotonic() - started < 5.0
        with pytest.raises(DeliveryError, match="did not take the run"):
            sync(tmp_path / "run")
    journal.set_meta("mlflow", target(store, "tests"))
    sync(tmp_path / "run")
    check_once(tmp_path / "run", "FINISHED")


def test_without_mlflow_the_journal_keeps_everything(tmp_path, store, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent("""
            import sys

            class Absent:
                def find_spec(self, name, path=None, target=None):
                    if name.partition(".")[0] == "mlflow":
                        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

            sys.meta_path.insert(0, Absent())
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    journal = Journal.create(tmp_path / "run", {})
    delivery = Delivery(journal, target(store, "tests"))
    train(journal)
    journal.end("finished")
    assert not delivery.close()
    assert "No module named 'mlflow'" in (tmp_path / "run" / "delivery.log").read_text()
    monkeypatch.undo()
    assert sync(tmp_path / "run").metrics == 2 * STEPS + 3
    check_once(tmp_path / "run", "FINISHED")


# --- where it goes -----------------------------------------------------------------------------------------


def test_target_is_what_the_user_says_else_what_is_in_force(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local = f"sqlite:///{tmp_path / 'mlflow.db'}"
    default = {"tracking_uri": local, "experiment": "autotune", "run_id": None}
    mlflow.set_tracking_uri(local)  # other tests leave theirs in force
    assert target() == default
    monkeypatch.delitem(sys.modules, "mlflow")  # as for a user who did not import it
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert target() == default
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert target() == default
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.setenv("MLFLOW_RUN_ID", "r1")
    assert target() == {"tracking_uri": "http://127.0.0.1:1", "experiment": "mine", "run_id": "r1"}
    said = {"tracking_uri": "http://127.0.0.1:2", "experiment": "e", "run_id": "r2"}
    assert target(**said) == said
    assert "mlflow" not in sys.modules


def test_a_run_stays_where_it_was_first_delivered(tmp_path, store):
    journal = new(tmp_path / "run", store)
    delivery = Delivery(journal, target("http://127.0.0.1:1"))
    journal.end("finished")
    assert delivery.close(deadline=120)
    assert journal.meta()["mlflow"]["tracking_uri"] == store


def test_sync_says_what_is_wrong(tmp_path, store):
    with pytest.raises(TuneError, match=r"holds a journal\.db"):
        sync(tmp_path)
    Journal.create(tmp_path / "off", {}).close()
    with pytest.raises(TuneError, match="train with MLflow on"):
        sync(tmp_path / "off")
    new(tmp_path / "run", store, run_id="f" * 32).close()
    with pytest.raises(DeliveryError, match=r"f{32}.* not found"):
        sync(tmp_path / "run")


def test_link_opens_the_page_of_a_run_or_the_list_of_runs():
    page = "http://127.0.0.1:5000/#/experiments/1/runs"
    assert run_link("http://127.0.0.1:5000/", "1", "ab") == f"{page}/ab?workflowType=machine_learning"
    assert run_link("http://127.0.0.1:5000", "1") == f"{page}?workflowType=machine_learning"
