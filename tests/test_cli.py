import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from loops import Loop
from recorded import Recorder, range_tested, rescued
from typer.testing import CliRunner

from autotune.cli import app
from autotune.delivery import sync as deliver
from autotune.delivery import target
from autotune.journal import Journal
from autotune.plot import plot_run
from autotune.records import Set

PROGRAM = str(Path(sys.executable).with_name("autotune"))
COMMANDS = ["runs", "show", "decisions", "plot", "replay", "export", "sync", "mlflow", "demo", "ui"]
CONTROL = [
    *("set", "ramp", "schedule", "pin", "release", "pause", "resume", "stop", "checkpoint", "rewind"),
    *("undo", "approve", "reject", "comment", "policies"),
]
BENCH = [f"bench {command}" for command in ("list", "run", "report", "import")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    rescued(root / "2026-rescued", created=200.0)
    run = Recorder(root / "2025-undecided", created=100.0)
    run.train(5, loss=float)
    run.end("failed")
    return root


@pytest.fixture
def invoke(root, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_RUNS", str(root))
    return lambda *arguments: CliRunner().invoke(app, [*arguments], prog_name="autotune")


@pytest.fixture
def shell(root, tmp_path):
    def run(*arguments, **environment):
        return subprocess.run(
            [PROGRAM, *arguments],
            env={**os.environ, "AUTOTUNE_RUNS": str(root), **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def send_to_mlflow(folder, uri):
    journal = Journal.open(folder)
    journal.set_meta("mlflow", target(tracking_uri=uri))
    journal.close()
    return folder


# --- what the commands print -------------------------------------------------------------------------------


def test_runs_lists_the_newest_first_with_its_state_and_last_decision(invoke):
    result = invoke("runs")
    assert result.exit_code == 0
    head, newest, oldest = result.stdout.splitlines()
    assert re.split(r"  +", head) == ["RUN", "STATE", "STEPS", "LOSS", "LAST DECISION", "AGE"]
    assert newest.startswith("2026-rescued    finished  400/400")
    assert "supervisor: escalate (applied)" in newest
    assert re.match(r"2025-undecided  failed      5/400 +5 +\d+ d$", oldest)


def test_runs_lists_a_journal_that_cannot_be_read(invoke, tmp_path):
    Recorder(tmp_path / "good").end()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "journal.db").write_bytes(b"no database" * 500)
    result = invoke("runs", "--root", str(tmp_path))
    assert result.exit_code == 0
    assert re.search(r"^bad +unreadable$", result.stdout, re.MULTILINE)
    assert re.search(r"^good +finished", result.stdout, re.MULTILINE)


def test_an_empty_root_is_no_error(invoke, tmp_path):
    result = invoke("runs", "--root", str(tmp_path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"autotune: no run in {tmp_path} yet\n"


def test_show_sums_the_run_up(invoke, root):
    out = invoke("show", "2026").stdout
    assert re.search(rf"^folder +{re.escape(str(root))}/2026-rescued$", out, re.MULTILINE)
    assert re.search(r"^steps +400/400 spent; at step 370 of branch 1$", out, re.MULTILINE)
    assert re.search(r"^validation/loss +0\.0245\d*$", out, re.MULTILINE)
    assert re.search(r"^mlflow +off$", out, re.MULTILINE)
    assert re.search(r"^dropout +0\.2 +human:ada +0 +0\.9$", out, re.MULTILINE)
    assert re.search(r"^plateau +refused +1$", out, re.MULTILINE)


def test_show_tells_a_pin_and_what_is_under_way(invoke, tmp_path):
    run = Recorder(tmp_path / "run")
    run.train(40, loss=float)
    run.rewind("human:ada", 20)
    ramp = {"source": "decay", "start": 10, "steps": 40, "first": 0.1, "last": 0.3, "shape": "linear"}
    parts = [ramp, {**ramp, "start": 50, "steps": 10, "shape": "cosine"}]
    live = {
        "values": {"lr": 0.1, "dropout": 0.5, "noise": "white"}, "ramps": {"lr": {"parts": parts}},
        "owners": {"dropout": "human:ada", "noise": "human:bob"}, "pins": {"dropout": 1540, "noise": 40},
        "stretches": [[0, 0], [20, 40]],
    }  # fmt: skip
    run.journal.set_meta("live", live)
    run.end()
    out = invoke("show", str(tmp_path / "run")).stdout
    assert re.search(r"^steps +40/400 spent; at step 20 of branch", out, re.MULTILINE)
    assert re.search(r"^loss +20$", out, re.MULTILINE), "there, not at step 40"
    assert re.search(
        r"^lr +0\.15 +policy .* linear to 0\.3 in 30 steps, then 1 more · decay$", out, re.MULTILINE
    )
    assert re.search(r"^dropout +0\.5 +human:ada +0 +0\.9 +until step 1,520$", out, re.MULTILINE)
    assert re.search(r"^noise +white +human:bob$", out, re.MULTILINE)


def test_decisions_are_one_line_each(invoke):
    lines = invoke("decisions", "latest").stdout.splitlines()
    assert len(lines) == 7
    assert re.fullmatch(r" *1 +40 +40 +divergence guard +rewind to 10, .*lr → 0\.03 +applied", lines[1])
    assert re.search(r"dropout → 0\.2 +applied +better +it overfits$", lines[2])
    assert re.search(r"lr → 0\.3 +refused +too soon; cooldown of 200 steps$", lines[3])


def documents(result):
    """What was printed, a strict JSON document a line."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert result.exit_code == 0
    return [json.loads(line, parse_constant=refuse) for line in result.stdout.splitlines()]


def test_runs_as_json_are_a_document_a_line_one_that_cannot_be_read_among_them(invoke, tmp_path):
    rescued(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "journal.db").write_bytes(b"no database" * 500)
    bad, good = sorted(documents(invoke("runs", "--json", "--root", str(tmp_path))), key=lambda d: d["name"])
    assert (bad["name"], bad["status"]) == ("bad", "unreadable")
    assert {key: good[key] for key in ("name", "status", "paused", "step", "spent", "total_steps")} == {
        "name": "good", "status": "finished", "paused": False, "step": 370, "spent": 400, "total_steps": 400,
    }  # fmt: skip
    assert (good["last"]["source"], good["last"]["text"]) == ("supervisor", "escalate")
    assert None in good["spark"]  # the loss was NaN for a while


def test_show_as_json_is_one_document(invoke):
    (shown,) = documents(invoke("show", "2026", "--json"))
    assert (shown["name"], shown["status"], shown["step"]) == ("2026-rescued", "finished", 370)
    assert shown["last"]["validation/loss"] == pytest.approx(0.0245, rel=1e-2)
    knobs = {knob["name"]: (knob["value"], knob["owner"]) for knob in shown["hyperparameters"]}
    assert knobs["dropout"] == (0.2, "human:ada")


def test_decisions_as_json_are_one_strict_document_a_line(invoke):
    made = documents(invoke("decisions", "--json"))
    assert [d["id"] for d in made] == [1, 2, 3, 4, 5, 6]
    assert made[0]["action"]["then"][0]["name"] == "lr"
    assert made[1]["outcomes"][0]["measures"] == {"loss_measured": 0.5, "loss_forecast": "nan"}
    assert made[4]["action"]["evidence"] == {"p": 0.8, "z": "inf"}


def test_a_run_without_decisions_says_so_and_prints_nothing(invoke):
    result = invoke("decisions", "2025")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing has been decided" in result.stderr


def test_plot_writes_where_it_says(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke("plot").stdout == "2026-rescued.png\n"
    assert (tmp_path / "2026-rescued.png").read_bytes().startswith(b"\x89PNG")
    assert invoke("plot", "2025", "-o", "x.svg").stdout == "x.svg\n"
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")


def test_plot_against_a_hyperparameter_that_a_ramp_moved(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = str(range_tested(tmp_path / "runs" / "tested"))
    assert invoke("plot", folder, "--against", "lr").stdout == "tested-lr.png\n"
    assert (tmp_path / "tested-lr.png").read_bytes().startswith(b"\x89PNG")
    assert invoke("plot", folder, "--against", "lr", "-o", "x.pdf").stdout == "x.pdf\n"
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


def test_help_lists_each_command(invoke):
    def listed(*group):
        commands = invoke(*group, "--help").stdout.partition("Commands:")[2]
        return sorted(re.findall(r"^  (\w+)  ", commands, re.MULTILINE))

    assert listed() == sorted([*COMMANDS, *CONTROL, "bench"])
    assert listed("bench") == sorted(command.removeprefix("bench ") for command in BENCH)


@pytest.mark.parametrize("command", [*COMMANDS, *CONTROL, *BENCH])
def test_help_explains_each_command_with_an_example(invoke, command):
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: autotune {command}" in result.stdout


def test_a_run_that_was_really_trained(invoke, tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path / "real", total_steps=120, evaluate=loop.validate) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if tuner.spent == 60:
                tuner.checkpoint("half-way", by="ada")
                tuner.rewind(40, by="ada", reason="to try again")
                tuner.set("lr", 0.02, by="ada")
    out = invoke("show", "real", "--root", str(tmp_path)).stdout
    assert re.search(r"^state +finished, ", out, re.MULTILINE)
    assert re.search(r"^steps +120/120 spent; at step 100 of branch 1$", out, re.MULTILINE)
    assert re.search(r"^lr +0\.02 +human:ada ", out, re.MULTILINE)
    assert re.search(r"^human:ada +applied +3$", out, re.MULTILINE)
    assert re.search(r"^half-way +60 .* for ever$", out, re.MULTILINE)
    rewind = json.loads(invoke("decisions", "--json", str(tmp_path / "real")).stdout.splitlines()[1])
    assert (rewind["source"], rewind["step"], rewind["action"]["to"]) == ("human:ada", 60, 40)
    picture = str(tmp_path / "real.png")
    assert invoke("plot", str(tmp_path / "real"), "-o", picture).exit_code == 0
    figure = plot_run(tmp_path / "real")
    assert [(p.get_x(), p.get_x() + p.get_width()) for p in figure.axes[0].patches] == [(40, 60)]


# --- the manners of a Unix program -------------------------------------------------------------------------


def test_version(shell):
    done = shell("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"autotune \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["show", "20"], 2, "unique, got '20'"),
        (["runs", "--root", "missing"], 2, "there is no missing"),
        (["sync", "2026"], 1, "synced"),
        (["mlflow", "2026"], 1, "MLflow off"),
        (["plot", "2025", "--against", "lr"], 1, "got 'lr'; of such ramps this run has none at all"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_a_code(invoke, arguments, code, says):
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith("autotune: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_so_it_is_in_a_process_of_its_own(shell):
    done = shell("show", "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("autotune: ")
    assert done.stderr.endswith("got 'nope'; there are 2026-rescued, 2025-undecided\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "No such command 'nope'"),
        (["runs", "--nope"], "No such option"),
        (["plot", "2026", "-o", "missing/run.png"], "folder that exists, got missing/run.png"),
        (["plot", "-o", "run.gif"], "a picture ends in .png, .svg, .pdf, got run.gif"),
        (["mlflow", "--port", "70000"], "65535"),
    ],
)
def test_wrong_usage_is_told_on_stderr_with_code_2(invoke, arguments, says):
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["runs", "show", "decisions"])
def test_a_pipe_gets_plain_text_that_is_not_cut(shell, command):
    done = shell(command, COLUMNS="20", TERM="xterm-256color")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert not re.search(r"[─-╿…]", done.stdout)
    assert "2026-rescued" in done.stdout or "divergence guard" in done.stdout


def test_a_locale_without_arrows_is_no_reason_to_fail(shell):
    done = shell("decisions", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0
    assert "lr ? 0.03" in done.stdout


def test_a_terminal_gets_a_table(root):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
    subprocess.run([PROGRAM, "runs", "--root", root], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    out = b""
    while chunk := _read(ours):
        out += chunk
    os.close(ours)
    text = re.sub(r"\x1b\[[\d;]*m", "", out.decode())
    head, rule, newest, oldest = text.splitlines()
    assert head.startswith("RUN ")
    assert set(rule) == {"─"}
    assert newest.startswith("2026-rescued ")
    assert oldest.startswith("2025-undecided ")


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


def test_control_characters_in_a_record_do_not_reach_the_terminal(invoke, tmp_path):
    run = Recorder(tmp_path / "run")
    run.decide("guard", Set("lr", 0.1, reason="\x1b]0;owned\x07 really\r\nbad"))
    run.end()
    line = invoke("decisions", str(tmp_path / "run")).stdout.splitlines()[1]
    assert line.endswith("]0;owned really bad")
    assert "\x1b" not in line


def test_a_reader_that_has_seen_enough_hears_no_complaint(tmp_path):
    run = Recorder(tmp_path / "run")
    for _ in range(400):  # more than a pipe holds
        run.decide("bayes", Set("lr", 0.1, reason="x" * 200))
    run.end()
    for command in (["decisions", "--json"], ["decisions"]):
        with subprocess.Popen(
            [PROGRAM, *command, str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""


@pytest.mark.parametrize("command", ["runs", "show", "decisions", "runs --json", "show --json"])
def test_looking_at_runs_imports_nothing_slow(root, command):
    code = (
        "import sys\n"
        "from autotune.cli import main\n"
        f"sys.argv = ['autotune', *{command.split()!r}, '--root', {str(root)!r}]\n"
        "try:\n    main()\nfinally:\n"
        "    print(sorted({'torch', 'mlflow', 'matplotlib', 'pandas'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


# --- MLflow ------------------------------------------------------------------------------------------------


def test_sync_delivers_once(invoke, tmp_path):
    folder = send_to_mlflow(rescued(tmp_path / "run"), f"sqlite:///{tmp_path}/mlflow.db")
    first, second = invoke("sync", str(folder)), invoke("sync", str(folder))
    metrics = len(Journal.open(folder).metric_rows(0, 10_000))
    assert first.exit_code == second.exit_code == 0
    assert first.stdout.startswith(f"delivered {metrics} metrics, 6 decisions, 1 outcomes\n")
    assert second.stdout.startswith("delivered 0 metrics, 0 decisions, 0 outcomes\n")
    assert "`autotune mlflow run` opens it" in first.stdout


def test_sync_that_fails_says_how_much_is_left(shell, tmp_path):
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        folder = send_to_mlflow(rescued(tmp_path / "run"), uri)
        done = shell("sync", str(folder), MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    metrics = len(Journal.open(folder).metric_rows(0, 10_000))
    assert done.returncode == 1
    assert done.stderr.startswith("autotune: ")
    assert done.stderr.endswith(f"left to deliver: {metrics} metrics, 6 decisions\n")
    assert "Traceback" not in done.stderr


def test_a_run_on_a_server_gets_its_link_and_no_second_server(invoke, tmp_path):
    folder = send_to_mlflow(rescued(tmp_path / "run"), "https://mlflow.example.org/")
    journal = Journal.open(folder)
    journal.set_delivered("run", {"run_id": "abc", "experiment_id": "7", "own": True})
    journal.close()
    link = "https://mlflow.example.org/#/experiments/7/runs/abc?workflowType=machine_learning"
    assert invoke("mlflow", str(folder)).stdout == f"{link}\n"
    assert f"mlflow               {link}\n" in invoke("show", str(folder)).stdout


@pytest.mark.parametrize("made", [False, True])
def test_mlflow_without_runs_shows_the_store_that_is_set(shell, tmp_path, made):
    folder = tmp_path / "none"
    if made:
        folder.mkdir()
    done = shell("mlflow", "--root", str(folder), MLFLOW_TRACKING_URI="https://mlflow.example.org")
    assert done.returncode == 0
    assert done.stdout == "https://mlflow.example.org/#/experiments?workflowType=machine_learning\n"


def serving(port):
    """Command lines of the processes that serve on `port`."""
    lines = (path.read_bytes().decode() for path in Path("/proc").glob("[0-9]*/cmdline") if path.is_file())
    return [line for line in lines if f"--port\0{port}\0" in line and "mlflow" in line]


def test_mlflow_serves_the_runs_page_until_ctrl_c(tmp_path):
    folder = send_to_mlflow(rescued(tmp_path / "run"), f"sqlite:///{tmp_path}/mlflow.db")
    deliver(folder)
    with subprocess.Popen(
        [PROGRAM, "mlflow", folder, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal: a test run in the background hands down a SIGINT that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        link = process.stdout.readline().strip()
        found = re.fullmatch(
            r"(http://127\.0\.0\.1:(\d+))/#/experiments/\d+/runs/(\w+)\?workflowType=machine_learning", link
        )
        assert found
        address, port, run_id = found.groups()
        with urllib.request.urlopen(f"{address}/api/2.0/mlflow/runs/get?run_id={run_id}") as answer:
            assert json.load(answer)["run"]["info"]["status"] == "FINISHED"
        assert 1 <= len(serving(port)) <= 2  # one worker, and no job processes
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert serving(port) == []


def test_a_port_that_is_taken_is_told_at_once(invoke, tmp_path):
    folder = send_to_mlflow(rescued(tmp_path / "run"), f"sqlite:///{tmp_path}/mlflow.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = invoke("mlflow", str(folder), "--port", port)
    assert result.exit_code == 1
    assert f"autotune: the server needs a free port, got {port}" in result.stderr


@pytest.mark.parametrize("there_are_runs", [True, False])
def test_mlflow_that_cannot_start_says_why(shell, tmp_path, there_are_runs):
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 500)
    start = time.monotonic()
    if there_are_runs:
        folder = send_to_mlflow(rescued(tmp_path / "run"), f"sqlite:///{tmp_path}/mlflow.db")
        done = shell("mlflow", str(folder))
    else:
        done = shell("mlflow", "--root", "none", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")
    assert done.returncode == 1
    assert f"MLflow's server did not start on sqlite:///{tmp_path}/mlflow.db" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 60


MINE = """
from autotune.records import Set


class Halve:
    name, requires, controls = "halve", ("loss",), ("lr",)

    def decide(self, observation):
        rate = observation.hyperparameters["lr"].value
        return [Set("lr", rate / 2, reason="half is enough")] if observation.step == 30 else []

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
"""


def test_replay_says_what_another_policy_would_have_done(tmp_path, monkeypatch):
    loop = Loop()
    with loop.tuner(tmp_path / "runs" / "one", total_steps=50) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    arguments = ["--root", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, ["replay", "mine:Halve", *arguments])
    assert result.exit_code == 0, result.output
    assert "halve: 1 actions at 6 ticks" in result.output
    assert "would: lr → 0.005 (half is enough)" in result.output
    missing = CliRunner().invoke(app, ["replay", "mine:Double", *arguments])
    assert missing.exit_code == 2
    assert "MODULE:NAME, got 'mine:Double'" in " ".join(missing.output.split())
