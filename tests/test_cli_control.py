import json
import multiprocessing
import re
import subprocess
import sys
import threading
import time

import pytest
import typer
from recorded import META, Recorder
from typer.testing import CliRunner

from autotune.cli import Commands
from autotune.cli_control import register
from autotune.commands import Ack, command, mailbox
from autotune.journal import Journal
from autotune.places import DatabaseRun
from autotune.records import Pause, Set, TuneError
from autotune.remote import NotDone, connect

app = typer.Typer(cls=Commands, rich_markup_mode=None)
register(app)


def train(folder):
    """In a process of its own: train until told to stop."""
    import time

    from loops import Loop, Scripted

    from autotune.actuators import learning_rate
    from autotune.hyperparameters import (
        CategoricalHyperparameter,
        FloatHyperparameter,
        IntHyperparameter,
    )
    from autotune.records import Set, Suggest

    loop = Loop("sgd")
    advice = [Suggest(Set("lr", x, reason="flat"), reason="flat") for x in (0.02, 0.03)]
    hyperparameters = [
        learning_rate(loop.optimizer),
        FloatHyperparameter("shift", 0.0, low=-1, high=1),
        IntHyperparameter("rank", 4, low=1, high=8),
        CategoricalHyperparameter("noise", "none", choices=["none", "white", True, 2]),
    ]
    policies = [Scripted({10: advice}, name="adviser"), Scripted({}, name="guard"), Scripted({}, name="idle")]
    with loop.tuner(folder, total_steps=10**6, hyperparameters=hyperparameters, policies=policies) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            time.sleep(0.001)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Runs, of which one trains."""
    root = tmp_path_factory.mktemp("runs")
    Recorder(root / "over").end()
    trainer = multiprocessing.get_context("spawn").Process(target=train, args=(root / "live",))
    trainer.start()
    while not (root / "live" / "journal.db").exists() or not Journal.open(root / "live").decisions():
        assert trainer.is_alive()
        time.sleep(0.05)
    yield root
    trainer.kill()
    trainer.join()


@pytest.fixture
def invoke(root):
    def invoke(*arguments, code=0):
        done = CliRunner().invoke(
            app, [*arguments], prog_name="autotune", env={"AUTOTUNE_RUNS": str(root), "LOGNAME": "ada"}
        )
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.stderr

    return invoke


@pytest.fixture
def remote(root):
    with connect("live", root, author="bob") as remote:
        yield remote


def decisions(root):
    return Journal.open(root / "live").decisions()


def decided(root, id):
    """The decision of that number: the newest may be the end of a pin, which comes by itself."""
    (decision,) = (x for x in decisions(root) if x.id == id)
    return decision


# --- from the shell ----------------------------------------------------------------------------------------


def test_a_command_is_answered_in_one_line_and_is_on_record(invoke, root):
    said = invoke("set", "live", "lr", "0.05", "--reason", "it oscillates")
    step = int(re.fullmatch(r"applied at step (\d+): lr 0\.1 → 0\.05\n", said)[1])
    (decision,) = (x for x in decisions(root) if x.source == "human:ada")
    assert (decision.step, decision.after) == (step, {"lr": 0.05})
    assert decision.action.reason == "it oscillates"


def test_what_a_person_can_do(invoke):
    for words, says in (
        ("set live lr 0.04", r"lr 0\.\d+ → 0\.04"),
        ("set live lr x0.5", r"lr 0\.04 → 0\.02"),
        ("set live lr *10", r"lr 0\.02 → 0\.2"),
        ("set live shift -0.5", r"shift 0 → -0\.5"),
        ("set live rank 6", "rank 4 → 6"),
        ("set live rank x0.5", "rank 6 → 3"),
        ("set live noise white", "noise none → white"),
        ("set live noise true", "noise white → True"),
        ("set live noise 2", "noise True → 2"),
        ("ramp live lr 0.01 100000 --shape cosine", r"lr ⇢ 0\.01 in 100000 steps \(cosine\)"),
        ("schedule live lr +99999:0.01 +199999:x0.5:cosine", r"lr ⇢ 0\.01 at \d+ \(linear\) ⇢ 0\.\d+ at .+"),
        ("pin live lr", "pin lr"),
        ("pin live rank 500", "pin rank for 500 steps"),
        ("release live lr", "release lr"),
        ("pause live", "pause"),
        ("resume live", "resume"),
        ("checkpoint live good", r"checkpoint good \(.* MB in .* ms\)"),
        ("rewind live 1", r"rewind to 1, replay data \(at step 0, bitwise.*\)"),
        ("undo live", r"undo decision \d+ \(.*\)"),
        ("rewind live good --skip", r"rewind to good, skip data \(.*\)"),
        ("approve live 1", r"lr 0\.\d+ → 0\.02"),
        ("reject live 2", "reject decision 2"),
        ("comment live 2 hm", "comment on decision 2"),
        ("policies live --bench idle", "ask adviser, guard"),
        ("policies live --order guard", "ask guard, adviser"),
        ("policies live --enable idle --bench guard", "ask adviser, idle"),
    ):
        assert re.fullmatch(rf"applied at step \d+: {says}\n", invoke(*words.split()))


def test_steps_from_now_count_from_where_the_schedule_begins(invoke, root):
    said = invoke("schedule", "live", "lr", "+1:0.01", "+100000:0.02:cosine")
    steps = re.fullmatch(r"applied at step (\d+): lr .* at (\d+) .* at (\d+) .*\n", said).groups()
    begun, first, last = map(int, steps)
    assert (first - begun, last - begun) == (1, 100000)


def test_policies_are_listed_in_their_order(invoke):
    invoke("policies", "live", "--enable", "idle", "--enable", "guard", "--order", "idle,guard")
    invoke("policies", "live", "--bench", "guard", "--by", "eve")
    listed = json.loads(invoke("policies", "live", "--json"))
    assert [policy["name"] for policy in listed] == ["idle", "guard", "adviser"]
    assert [policy["benched"] for policy in listed] == [None, "by human:eve", None], "it keeps its place"
    assert [line.split() for line in invoke("policies", "live").splitlines()] == [
        ["POLICY", "BENCHED"], ["idle"], ["guard", "by", "human:eve"], ["adviser"],
    ]  # fmt: skip
    assert json.loads(invoke("policies", "over", "--json"))[0] == {
        "name": "divergence guard",
        "benched": None,
    }


def test_json_is_the_answer_whatever_it_is(invoke, root):
    ack = Ack(**json.loads(invoke("set", "live", "lr", "0.05", "--json", "--by", "eve")))
    decision = decided(root, ack.decision)
    assert (ack.status, ack.step) == ("applied", decision.step)
    assert (decision.source, decision.after) == ("human:eve", {"lr": 0.05})
    environment = {"AUTOTUNE_RUNS": str(root)}
    done = CliRunner().invoke(app, ["set", "live", "lr", "99", "--json"], env=environment)
    refused = Ack(**json.loads(done.stdout))
    assert (done.exit_code, refused.status) == (1, "refused")
    assert decided(root, refused.decision).status == "refused"
    assert refused.note in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["set", "live", "lr", "99"], r"autotune: lr must lie in \[1e-08, 10\], got 99\.0; widen"),
        (["set", "live", "momentum", "0.9"], "one of lr, shift, rank, noise, got 'momentum'"),
        (["set", "live", "lr", "fast"], "lr is a number, or x0.5 .* got 'fast'"),
        (["set", "live", "lr", "nan"], "finite, got lr → nan"),
        (["set", "live", "rank", "2.5"], "rank is a whole number"),
        (["set", "live", "noise", "pink"], "noise is one of none, white, True, 2, got 'pink'"),
        (["set", "live", "noise", "x2"], "got 'x2'"),
        (["ramp", "live", "noise", "2", "10"], "noise is a choice, which jumps"),
        (["ramp", "live", "lr", "0.1", "10", "--shape", "round"], "shape is one of linear, cosine"),
        (["schedule", "live", "lr", "400"], "STEP:VALUE:SHAPE, as in .* got '400'"),
        (["schedule", "live", "lr", "+9:1:cosine:1"], "got '\\+9:1:cosine:1'"),
        (["schedule", "live", "lr", "1:0.1"], "ahead of step"),
        (["schedule", "live", "lr", "+9:0.1", "999999:0"], r"or none does, got \+9:0\.1 999999:0"),
        (["approve", "live", "99999"], "99999"),
        (["policies", "live", "--bench", "nobody"], "one of .*, got 'nobody'"),
        (["set", "live", "lr", "0.1", "--by", "human:ada"], "without a colon, got 'human:ada'"),
        (["set", "over", "lr", "0.1"], "for a run that is training, got .*over, which is finished"),
    ],
)
def test_what_cannot_be_done_is_one_line_on_stderr(invoke, arguments, says):
    said = invoke(*arguments, code=1)
    assert re.search(says, said)
    assert said.count("\n") == 1


def test_no_such_run_is_wrong_usage(invoke):
    assert "got 'nope'; there are " in invoke("pause", "nope", code=2)
    invoke("pause", code=2)


def test_a_command_that_is_not_waited_for(invoke, root):
    assert invoke("set", "live", "shift", "0.25", "--no-wait") == "sent: shift → 0.25\n"
    while not any(x.after == {"shift": 0.25} for x in decisions(root)):
        time.sleep(0.02)


def test_no_answer_in_time_says_how_long_the_command_waits(tmp_path):
    run = Recorder(tmp_path / "silent")  # by this process, so that it counts as running
    arguments = ["pause", str(tmp_path / "silent"), "--timeout", "0.2"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert re.search(
        r"within 0\.2 s: .* waits until \d\d:\d\d:\d\d; `autotune decisions .*silent`", done.stderr
    )
    box = mailbox(tmp_path / "silent")
    (waiting,) = box.waiting()
    assert 590 < waiting.expires - time.time() < 600
    box.settle(Ack(waiting.id, "waiting", "the run is in a trial"))
    with (
        connect(tmp_path / "silent", timeout=0.1) as remote,
        pytest.raises(NotDone, match="in a trial") as error,
    ):
        remote.wait(waiting)
    assert error.value.ack.status == "waiting"
    run.end()


def test_a_run_that_ends_before_it_comes_to_a_command(tmp_path):
    run = Recorder(tmp_path / "ending")
    box = mailbox(tmp_path / "ending")

    def end():
        while not box.waiting():
            time.sleep(0.01)
        run.end()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    with connect(tmp_path / "ending") as remote, pytest.raises(NotDone, match="the run is finished"):
        remote.pause()
    ending.join()


def test_a_command_that_has_expired(tmp_path):
    run = Recorder(tmp_path / "late")
    sent = command(Pause(reason=""), "ada", expires_in=0.1)
    mailbox(tmp_path / "late").post(sent)
    with connect(tmp_path / "late") as remote, pytest.raises(NotDone, match="has expired"):
        remote.wait(sent)
    run.end()


def test_a_run_in_a_database_is_reached_by_the_databases_address(postgres, tmp_path):
    url = postgres.database()
    journal = Journal.create(tmp_path / "far", {"name": "far", **META}, url=url)
    done = CliRunner().invoke(app, ["set", "far", "lr", "0.5", "--root", url, "--timeout", "0.1"])
    assert "no answer within 0.1 s" in done.stderr
    box = mailbox(DatabaseRun(url, "far"))
    (waiting,) = box.waiting()
    assert waiting.action == Set("lr", 0.5, reason="")
    box.close()
    journal.close()


# --- from Python -------------------------------------------------------------------------------------------


def test_a_remote_run_is_steered_as_the_tuner_is(remote, root):
    ack = remote.set("lr", 0.03, reason="by hand")
    decision = decided(root, ack.decision)
    assert (ack.status, decision.source, decision.after) == ("applied", "human:bob", {"lr": 0.03})
    ramped = remote.ramp("lr", 0.01, 10**6, by="carol")
    assert decided(root, ramped.decision).source == "human:carol"
    now = remote.checkpoint("half-way").step
    drawn = remote.schedule("lr", [(now + 10**5, 0.01), (now + 10**6, 0.001, "exponential")])
    assert [tuple(p) for p in decided(root, drawn.decision).action.points] == [
        (now + 10**5, 0.01, "linear"), (now + 10**6, 0.001, "exponential"),
    ]  # fmt: skip
    assert remote.undo().done
    assert remote.rewind("half-way").done
    assert remote.pause().done
    assert remote.resume().done
    assert remote.pin("rank", 10).done
    assert remote.release("lr").done
    said = remote.comment(ack.decision, "well done")
    assert decided(root, said.decision).action.reason == "well done"
    assert remote.arrange(["guard"]).done
    assert repr(remote).endswith("live', author='bob')")


def test_a_refusal_is_an_error_with_the_answer(remote):
    with pytest.raises(NotDone, match="must lie in") as error:
        remote.set("lr", 99)
    assert error.value.ack.status == "refused"
    for answer in (remote.approve, remote.reject):
        with pytest.raises(NotDone, match="got 99999"):
            answer(99999)


@pytest.mark.parametrize(
    ("wrong", "says"), [({"author": "a:b"}, "colon"), ({"timeout": -1}, "timeout"), ({"run": "nope"}, "nope")]
)
def test_what_connect_cannot_take(root, wrong, says):
    with pytest.raises(TuneError, match=says):
        connect(**{"run": "live", "root": root, **wrong})


def test_a_point_that_is_none(remote):
    with pytest.raises(TuneError, match=r"a point is \(step, value\)"):
        remote.schedule("lr", [5])


# --- the shell's completion, and its start -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("set ", {"latest", "live", "over"}),
        ("set la", {"latest"}),
        ("set live ", {"lr", "shift", "rank", "noise"}),
        ("pin live r", {"rank"}),
        ("rewind live first", {"first-one"}),
        ("policies live --bench g", {"guard"}),
        ("set nope l", set()),
        ("sch", {"schedule"}),
    ],
)
def test_the_shell_completes_names(root, invoke, words, completed):
    if "first" in words:
        invoke("checkpoint", "live", "first-one")
    environment = {
        "AUTOTUNE_RUNS": str(root),
        "_AUTOTUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"autotune {words}",
        "COMP_CWORD": str(words.count(" ") + 1),
    }
    done = CliRunner().invoke(app, [], prog_name="autotune", env=environment)
    assert set(done.stdout.split()) == completed


def test_what_steers_from_outside_needs_no_torch():
    look = "import sys, autotune.cli_control, autotune.mailboxes; print({'torch', 'mlflow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# --- last --------------------------------------------------------------------------------------------------


def test_stop_saves_the_run_and_ends_it(invoke, root):
    assert re.fullmatch(r"applied at step \d+: stop\n", invoke("stop", "live"))
    while Journal.open(root / "live").status() == "running":
        time.sleep(0.05)
    checkpoint, stop = decisions(root)[-2:]
    assert (checkpoint.action.kind, checkpoint.status, stop.action.kind) == ("checkpoint", "applied", "stop")
    assert "which is finished" in invoke("pause", "live", code=1)
