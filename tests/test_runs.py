import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from loops import Loop
from recorded import Recorder, rescued

from autotune.checkpoints import CheckpointStore
from autotune.journal import Journal
from autotune.policies import EarlyStopping
from autotune.records import Outcome, Release, Rewind, Set, TuneError
from autotune.runs import UnknownRun, document, find, resolve, summarise, undelivered
from autotune.web.view import View


@pytest.fixture
def root(tmp_path):
    for age, name in enumerate(["old", "newest", "newer"]):
        Recorder(tmp_path / name, created=[100.0, 300.0, 200.0][age]).end()
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_runs_are_found_newest_first_and_nothing_else_is(root):
    assert [folder.name for folder in find(root)] == ["newest", "newer", "old"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [(None, "newest"), ("latest", "newest"), ("old", "old"), ("o", "old"), ("newer", "newer")],
)
def test_a_run_is_meant_by_its_name_or_its_beginning(root, given, meant):
    assert resolve(given, root) == root / meant


def test_a_run_is_meant_by_its_folder_wherever_it_lies(root, tmp_path, monkeypatch):
    assert resolve(str(root / "old"), tmp_path / "nowhere") == root / "old"
    monkeypatch.chdir(root / "old")
    assert resolve(".", tmp_path / "nowhere").samefile(root / "old")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("new", r"unique, got 'new', which begins newest, newer$"),
        ("nope", r"got 'nope'; there are newest, newer, old$"),
        ("notes", r"got 'notes'"),
        ("", r"unique, got ''"),
    ],
)
def test_no_run_or_several_is_an_error_that_names_those_there_are(root, given, says):
    with pytest.raises(UnknownRun, match=says):
        resolve(given, root)


def test_a_root_without_runs_and_one_that_is_missing(tmp_path):
    with pytest.raises(UnknownRun, match="there is no run in"):
        resolve(None, tmp_path)
    with pytest.raises(UnknownRun, match=r"there is no .*missing; train one"):
        find(tmp_path / "missing")


def test_a_summary_says_how_the_run_stands(tmp_path):
    s = summarise(rescued(tmp_path / "run"))
    assert (s.status, s.spent, s.step, s.branch, s.total_steps) == ("finished", 400, 370, 1, 400)
    assert s.last["validation/loss"] == pytest.approx(2.5 * math.exp(-370 / 80))
    assert s.mlflow is None
    assert [(k.name, k.value, k.owner) for k in s.knobs] == [
        ("lr", 0.03, "policy"),
        ("dropout", 0.2, "human:ada"),
        ("noise", None, "policy"),
    ]


def test_a_decision_since_the_last_metric_gives_the_value_and_its_release_the_owner(tmp_path):
    run = Recorder(tmp_path / "run")
    run.train(10, every=10, hp__lr=lambda step: 0.1)
    run.decide("human:ada", Set("noise", "white", reason=""), after={"noise": "white"})
    run.decide("human:ada", Set("lr", 0.2, reason=""), "refused")
    then = (Set("lr", 0.05, reason=""),)
    run.decide("human:bob", Rewind(5, then=then, reason=""), after={"lr": 0.05})
    run.decide("human:ada", Release("noise", reason=""), after={"noise": "white"})
    run.end()
    knobs = {k.name: (k.value, k.owner) for k in summarise(tmp_path / "run").knobs}
    assert knobs["lr"] == (0.05, "human:bob")
    assert knobs["noise"] == ("white", "policy")


def test_checkpoints_are_listed_without_reading_their_tensors(tmp_path):
    folder = rescued(tmp_path / "run")
    store = CheckpointStore(folder / "checkpoints")
    for step in (20, 10):
        store.save(f"step-{step}", step, {"weights": torch.zeros(1000)}, pinned=step == 10, score=1.5)
    (store.folder / "step-20" / "tensors.safetensors").unlink()
    (store.folder / ".saving-step-30").mkdir()
    saved = summarise(folder).checkpoints
    assert [(c.name, c.step, c.pinned, c.score) for c in saved] == [
        ("step-10", 10, True, 1.5),
        ("step-20", 20, False, 1.5),
    ]
    assert all(c.nbytes > 4000 for c in saved)


def test_a_run_whose_process_was_killed_is_not_shown_as_running(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from recorded import Recorder;"
        "run = Recorder(Path(sys.argv[1])); run.train(5, loss=float); run.journal.flush();"
        "os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    subprocess.run([sys.executable, "-c", code, tmp_path / "run"], env=environment, check=False)
    s = summarise(tmp_path / "run")
    assert (s.status, s.spent, s.last) == ("killed", 5, {"loss": 5.0})


def test_an_altered_journal_is_still_listed(root):
    (root / "newest" / "journal.db").write_bytes(b"not a database" * 100)
    assert {folder.name for folder in find(root)} == {"old", "newest", "newer"}
    with pytest.raises(TuneError):
        summarise(root / "newest")


def test_what_is_undelivered_is_counted(tmp_path):
    run = Recorder(tmp_path / "run")
    run.train(7, loss=float)
    decisions = [run.decide("plateau", Set("lr", 0.1, reason="")) for _ in range(3)]
    run.end()
    assert undelivered(tmp_path / "run") == (7, 3)
    journal = Journal.open(tmp_path / "run")
    journal.set_delivered("metrics", {"id": 5})
    journal.set_delivered(f"decision/{decisions[1].id}", "applied")
    journal.close()
    assert undelivered(tmp_path / "run") == (2, 2)


def test_a_document_is_strict_json_with_all_that_is_known(tmp_path):
    run = Recorder(tmp_path / "run")
    evidence = {"z": math.inf, "p": math.nan, "n": 3, "what": "loss"}
    decision = run.decide("guard", Rewind(0, evidence=evidence, reason="z = ∞"), note="bitwise")
    outcomes = [Outcome(i, 20, 10, "better", {"loss": -math.inf, "none": None}) for i in (1, 2)]
    run.end()
    text = json.dumps(document(decision, outcomes), allow_nan=False)
    back = json.loads(text)
    assert back["action"]["evidence"] == {"z": "inf", "p": "nan", "n": 3, "what": "loss"}
    assert back["action"]["kind"] == "rewind"
    assert [o["measures"] for o in back["outcomes"]] == [{"loss": "-inf", "none": None}]
    assert {field.name for field in dataclasses.fields(decision)} < back.keys()


def test_a_run_that_ends_in_an_earlier_state_is_shown_with_what_was_measured_of_that(tmp_path):
    loop = Loop()
    seen = iter([3.0, 1.0, 2.0, 4.0, 5.0])
    with loop.tuner(
        tmp_path,
        policies=[EarlyStopping(patience=None)],
        total_steps=40,
        evaluate=lambda: next(seen),
        evaluate_every=10,
    ) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    summary = summarise(tuner.folder)
    assert (tuner.step, summary.step, summary.spent) == (10, 10, 40)
    assert summary.last["validation/loss"] == 1.0


def test_after_a_rewind_that_no_step_has_followed_only_what_is_live_is_shown_and_the_page_agrees(tmp_path):
    loop, shown = Loop(), []

    def look():
        tuner._journal.flush()
        with contextlib.closing(View(tuner.folder)) as view:
            document, line = view.document(), view.listed()
        s = summarise(tuner.folder)
        (knob,), (plain,) = s.knobs, document["hyperparameters"]
        assert (s.step, s.spent, s.last) == (document["step"], document["spent"], document["last"])
        assert (knob.value, knob.ramp and knob.ramp.start) == (
            plain["value"],
            plain["ramp"] and plain["ramp"]["start"],
        )
        assert s.last.get("loss") == line["loss"]
        shown.append((s.step, s.spent, knob.value, s.last.get("loss"), s.last.get("validation/loss")))

    with loop.tuner(tmp_path / "run", total_steps=45, evaluate=lambda: 1.0, evaluate_every=20) as tuner:
        tuner.checkpoint("start", by="ada")
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if tuner.spent == 25:
                look()
                tuner.ramp("lr", 0.11, 100, by="ada")
                tuner.rewind("start", by="ada")
                look()
    look()
    assert shown == [
        (20, 20, 0.01, loop.losses[19], 1.0),
        (0, 25, 0.01, None, 1.0),
        (20, 45, pytest.approx(0.03), loop.losses[44], 1.0),
    ]
