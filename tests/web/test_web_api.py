import asyncio
import contextlib
import dataclasses
import datetime
import http.client
import json
import math
import os
import signal
import socket
import sqlite3
import ssl
import stat
import time

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from served import make_run, served, until

from autotune import connect, journal_tables, page_link
from autotune.clock import Clock
from autotune.commands import Ack, mailbox
from autotune.journal import Journal, JournalError
from autotune.records import (
    Approve,
    Checkpoint,
    Comment,
    Outcome,
    Ramp,
    Rewind,
    Set,
    Suggest,
    TuneError,
)
from autotune.remote import login
from autotune.web import ledger, reading, tokens
from autotune.web.bodies import to_json
from autotune.web.events import LOOK_SECONDS
from autotune.web.guard import Limit
from autotune.web.series import ROW, completed, live, parts, thin
from autotune.web.server import Listening, bound


@pytest.fixture
def run(root, request):
    """A run of the test's name, with its journal."""
    journal = make_run(root / request.node.name.partition("[")[0], steps=20)
    yield journal
    journal.close()


def decide(journal, action, source="guard", status="applied", spent=20, live=None, after=None, note=""):
    made = journal.decide(
        step=spent, spent=spent, branch=0, source=source, action=action, before={}, status=status, note=note
    )
    made = dataclasses.replace(made, after=after or {})
    journal.settle(made, live)
    return made.id


def found(server, name):
    """Ask until the server has found a run that is new."""
    return until(lambda: (answer := server.ask(f"/api/runs/{name}")).status == 200 and answer.json)


# --- signing in --------------------------------------------------------------------------------------------


def test_a_link_signs_in_and_the_token_leaves_the_address(server):
    answer = server.ask(f"/runs/some?token={server.write}&axis=spent", token="")
    assert (answer.status, answer.headers["Location"]) == (303, "/runs/some?axis=spent")
    name, *flags = answer.headers["Set-Cookie"].split("; ")
    assert name == server.cookie(server.write)
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {*flags}
    page = server.ask("/runs/some")
    assert page.status == 200
    assert page.headers["Content-Type"].startswith("text/html")


def test_a_token_can_be_typed(server):
    answer = server.ask("/login", "POST", {"token": server.read}, token="")
    assert answer.status == 204
    assert answer.headers["Set-Cookie"].startswith(server.cookie(server.read))


@pytest.mark.parametrize("write", [True, False])
def test_a_session_says_what_it_may_do(server, root, write):
    session = server.ask("/api/session", token=server.write if write else server.read).json
    assert session["write"] is write
    assert session["store"] == str(root)
    assert session["user"] == login()


def test_tokens_stay_until_new_ones_are_made(root, tmp_path):
    with served(root, tmp_path) as first:
        pass
    secret = tmp_path / "autotune" / "tokens.json"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700
    note = (tmp_path / "autotune" / page_link.FILE).read_text()
    assert json.loads(note) == {"address": first.origin}
    with served(root, tmp_path) as second:
        assert (second.write, second.read) == (first.write, first.read)
        with second.events("/api/events") as events, served(root, tmp_path, "--new-token") as third:
            next(events)
            assert not {third.write, third.read} & {first.write, first.read}
            for server in (second, third):  # the one that was running, too
                assert server.ask("/api/session", token=first.write).status == 401
                assert server.ask("/api/session", token=third.write).status == 200
            (tmp_path / "autotune" / "tokens.json").write_text("{")
            assert second.ask("/api/session", token=third.write).status == 200
            make_run(root / "unseen").close()
            assert next(events, None) is None


def test_tokens_that_others_can_read_are_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = tokens.load()
    assert tokens.load() == made
    (tmp_path / "autotune" / "tokens.json").chmod(0o644)
    with pytest.raises(TuneError, match="only you can read"):
        tokens.load()
    assert tokens.load(renew=True) != made
    assert tokens.load() != made


def test_ctrl_c_ends_it_with_a_stream_open(root, tmp_path):
    with served(root, tmp_path) as server, server.events("/api/events") as events:
        assert next(events)[0] == "runs"
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        assert server.process.stderr.read() == ""


def test_a_run_s_page_is_linked_to_where_it_was_served_last(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert page_link.run_page("a b") == "http://127.0.0.1:8484/runs/a%20b"
    page_link.remember("https://trainer.lan:9000")
    assert page_link.run_page("a") == "https://trainer.lan:9000/runs/a"


def certify(folder):
    """A certificate for this machine, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(today).not_valid_after(today + datetime.timedelta(days=1))
    (folder / "c.pem").write_bytes(made.sign(key, SHA256()).public_bytes(Encoding.PEM))
    plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "k.pem").write_bytes(key.private_bytes(*plain))
    return "--certificate", str(folder / "c.pem"), "--key", str(folder / "k.pem")


def test_with_tls_the_cookie_is_sent_by_no_other_way(root, tmp_path):
    with served(root, tmp_path, *certify(tmp_path)) as server:
        assert server.lines[0].startswith("the page     https://127.0.0.1:")
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.port, context=ssl._create_unverified_context()
        )
        connection.request("GET", f"/?token={server.write}")
        answer = connection.getresponse()
        assert answer.status == 303
        assert "Secure" in answer.headers["Set-Cookie"].split("; ")
        connection.close()


# --- where it listens --------------------------------------------------------------------------------------


def test_beyond_this_machine_it_takes_tls_or_an_explicit_word(tmp_path):
    with pytest.raises(TuneError, match="needs TLS"):
        Listening(host="192.168.1.5")
    Listening(host="192.168.1.5", insecure=True)
    for file in ("c", "k"):
        (tmp_path / file).touch()
    Listening(host="192.168.1.5", certificate=tmp_path / "c", key=tmp_path / "k")
    with pytest.raises(TuneError, match="give both"):
        Listening(certificate=tmp_path / "c")
    with pytest.raises(TuneError, match="--allow-host"):
        Listening(host="0.0.0.0", insecure=True)
    with pytest.raises(TuneError, match="without scheme"):
        Listening(names=["http://trainer.lan"])


def test_a_taken_port_is_refused_or_left_for_the_next():
    with bound(Listening(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TuneError, match=str(port)):
            bound(Listening(port=port))
    with bound(Listening()) as first, bound(Listening()) as second:
        ports = [bell.getsockname()[1] for bell in (first, second)]
        assert 8484 <= ports[0] < ports[1]


# --- reading -----------------------------------------------------------------------------------------------


def test_an_answer_does_not_wait_for_the_client_to_confirm_its_head():
    async def at_once(bell):
        told = asyncio.get_running_loop().create_future()

        async def take(_, writer):
            connection = writer.get_extra_info("socket")
            told.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(take, sock=bell):
            _, writer = await asyncio.open_connection(*bell.getsockname())
            writer.close()
            return await told

    with bound(Listening(port=0)) as bell:
        assert asyncio.run(at_once(bell))


def test_the_list_has_a_line_for_each_run(server, run):
    run.metric("validation/loss", 0.3, 20, 20, 0)
    run.metric("loss", math.nan, 21, 21, 0)
    run.flush()
    id = decide(run, Set("lr", 0.1, reason="it rose"), spent=21)
    found(server, run.folder.name)
    lines = until(lambda: (got := server.ask("/api/runs").json["runs"])[0]["last"] and got)
    line = lines[0]  # the newest comes first
    assert (line["name"], line["status"], line["paused"]) == (run.folder.name, "running", False)
    assert (line["step"], line["spent"], line["total_steps"]) == (21, 21, 1000)
    assert (line["loss"], line["validation"]) == (None, 0.3)
    assert line["spark"] == [1 / step for step in range(1, 21)] + [None]
    assert line["last"] == {
        "id": id, "source": "guard", "text": "lr → 0.1", "status": "applied", "step": 21
    }  # fmt: skip


def test_a_long_run_has_a_short_spark(server, root):
    make_run(root / "long", steps=1000).close()
    found(server, "long")
    spark = next(r for r in server.ask("/api/runs").json["runs"] if r["name"] == "long")["spark"]
    assert len(spark) == 60
    assert (spark[0], spark[-1]) == (1.0, 1 / 1000)


def test_a_journal_that_cannot_be_read_is_only_named(server, root):
    (root / "broken").mkdir()
    (root / "broken" / "journal.db").write_bytes(b"no database" * 1000)
    line = until(
        lambda: next((r for r in server.ask("/api/runs").json["runs"] if r["name"] == "broken"), None)
    )
    assert line["status"] == "unreadable"
    assert server.ask("/api/runs/broken").status == 503
    assert server.ask("/api/runs/none").status == 404


@pytest.mark.parametrize(
    ("name", "spoil", "mend", "status"),
    [
        ("no-table", "ALTER TABLE metrics RENAME TO gone", "ALTER TABLE gone RENAME TO metrics", 503),
        ("no-status", "UPDATE meta SET key = 'gone' WHERE key = 'status'",
         "UPDATE meta SET key = 'status' WHERE key = 'gone'", 500),
    ],
)  # fmt: skip
def test_what_is_wrong_with_one_run_does_not_hide_the_others(server, root, name, spoil, mend, status):
    journal = make_run(root / name, steps=3)
    make_run(root / f"beside-{name}", steps=20).close()
    found(server, name)
    with (
        contextlib.closing(sqlite3.connect(root / name / "journal.db")) as file,
        server.events(f"/api/runs/{name}/events") as events,
    ):
        assert next(events)[1]["step"] == 3
        file.executescript(spoil)
        lines = {line["name"]: line for line in server.ask("/api/runs").json["runs"]}
        assert lines[name]["status"] == "unreadable"
        assert lines[f"beside-{name}"]["step"] == 20
        assert server.ask(f"/api/runs/{name}").status == status
        time.sleep(2 * LOOK_SECONDS)  # who watches sees nothing for a while
        file.executescript(mend)
        journal.metric("loss", 1.0, 9, 9, 0)
        journal.close()
        assert next(events)[1]["step"] == 9
        assert server.ask(f"/api/runs/{name}").status == 200


def test_a_file_that_is_damaged_anywhere_is_an_error_of_the_journal(tmp_path):
    with contextlib.closing(make_run(tmp_path / "run", steps=2000)) as journal:
        assert len(journal.metrics("loss").value) == 2000
    whole, causes = (tmp_path / "run" / "journal.db").read_bytes(), []
    for page in range(0, len(whole), 4096):
        path = tmp_path / f"{page}.db"
        path.write_bytes(whole[:page] + b"x" * 4096 + whole[page + 4096 :])
        try:
            reading.rows(journal_tables.connect(path), "loss", 0)
        except JournalError as error:
            causes.append(error.__cause__)
    assert any(isinstance(cause, sqlite3.Error) for cause in causes)  # found while the rows came


def test_a_name_that_no_address_can_hold_is_left_out(server, root):
    make_run(root / os.fsdecode(b"bad\xff")).close()
    make_run(root / "good").close()
    found(server, "good")
    assert not [line["name"] for line in server.ask("/api/runs").json["runs"] if "bad" in line["name"]]


def test_a_run_stands_as_its_live_record_and_later_values_say(server, run):
    ramp = {"source": "human:ada", "start": 10, "steps": 20, "first": 0.1, "last": 0.3, "shape": "linear"}
    parts = [ramp, {**ramp, "start": 30, "steps": 10, "first": 0.3, "last": 0.0}]
    how = {
        "values": {"lr": 0.1}, "owners": {"lr": "human:ada"}, "ramps": {"lr": {"parts": parts}},
        "pins": {"lr": 500}, "paused": True, "policies": ["plateau", "guard"],
        "benched": {"guard": "it raised"}, "stretches": [[0, 0], [5, 8]],
    }  # fmt: skip
    decide(run, Set("lr", 0.1, reason=""), live=how, after={"lr": 0.1})
    document = found(server, run.folder.name)
    (knob,) = document["hyperparameters"]
    assert knob["value"] == pytest.approx(0.2)  # half-way at step 20
    assert (knob["owner"], knob["pinned_until"]) == ("human:ada", 500)
    assert (knob["kind"], knob["low"], knob["high"]) == ("log", 1e-6, 1.0)
    points = [[30, 0.3, "linear"], [40, 0.0, "linear"]]
    assert knob["ramp"] == {"source": "human:ada", "start": 10, "first": 0.1, "points": points}
    assert document["paused"] is True
    assert document["policies"] == [
        {"name": "plateau", "benched": None},
        {"name": "guard", "benched": "it raised"},
    ]
    assert document["stretches"] == [[0, 0], [5, 8]]
    for step in range(21, 61):
        run.metric("loss", 1.0, step, step, 0)
    run.metric("hp/lr", 0.07, 60, 60, 0)
    run.flush()
    (knob,) = server.ask(f"/api/runs/{run.folder.name}").json["hyperparameters"]
    assert (knob["value"], knob["ramp"]) == (0.07, None)


def test_a_run_without_a_live_record_has_its_values_from_its_decisions(server, run):
    decide(run, Set("lr", 0.2, reason=""), "human:ada", after={"lr": 0.2})
    document = found(server, run.folder.name)
    (knob,) = document["hyperparameters"]
    assert (knob["value"], knob["ramp"]) == (0.2, None)
    assert document["policies"] == [{"name": n, "benched": None} for n in ("guard", "plateau")]


def test_suggestions_are_shown_until_they_are_answered(server, run):
    def suggest(source, value):
        return decide(run, Suggest(Set("lr", value, reason=""), reason="r"), source, status="suggested")

    suggest("guard", 0.1)
    again, other = suggest("guard", 0.2), suggest("plateau", 0.3)
    advice = decide(run, Suggest(reason="in words"), "guard", status="suggested")
    assert [s["id"] for s in found(server, run.folder.name)["suggestions"]] == [advice, other, again]
    decide(run, Approve(again, reason=""), "human:ada")
    decide(run, Approve(other, reason=""), "human:ada", status="refused")
    ids = [s["id"] for s in server.ask(f"/api/runs/{run.folder.name}").json["suggestions"]]
    assert ids == [advice, other]


def test_whether_a_run_is_in_a_trial_and_where_a_rewind_has_led_it_says_itself(server, run):
    run.set_meta("live", {"trying": True, "stretches": [[0, 0], [7, 10**6]]})
    document = found(server, run.folder.name)
    assert (document["trying"], document["step"], document["spent"]) == (True, 7, 10**6)
    run.set_meta("live", {"trying": False, "stretches": [[0, 0]]})
    assert server.ask(f"/api/runs/{run.folder.name}").json["trying"] is False


def test_values_that_were_measured_on_a_branch_that_was_left_are_not_its_newest(server, run):
    run.metric("validation/loss", 0.3, 20, 20, 0)
    run.set_meta("live", {"stretches": [[0, 0], [7, 20]]})
    run.metric("loss", 0.5, 8, 21, 1)
    run.flush()
    assert found(server, run.folder.name)["last"] == {"loss": 0.5}

    def line():
        return next(r for r in server.ask("/api/runs").json["runs"] if r["name"] == run.folder.name)

    assert (line()["loss"], line()["validation"]) == (0.5, None)
    run.metric("validation/loss", 0.4, 7, 20, 1)  # of where the rewind led
    run.flush()
    assert line()["validation"] == 0.4


def test_the_link_into_mlflow_needs_a_server(server, root):
    there = {"tracking_uri": "http://mlflow.lan:5000", "experiment": "e", "run_id": None}
    with_server = make_run(root / "there", mlflow=there)
    make_run(root / "here", mlflow={**there, "tracking_uri": "sqlite:////x.db"}).close()
    found(server, "here")
    assert server.ask("/api/runs/here").json["mlflow"] == "autotune mlflow here"
    assert server.ask("/api/runs/there").json["mlflow"] is None
    with_server.set_delivered("run", {"experiment_id": "3", "run_id": "abc"})
    with_server.close()
    link = server.ask("/api/runs/there").json["mlflow"]
    assert link.startswith("http://mlflow.lan:5000/#/experiments/3/runs/abc")


def test_decisions_come_in_pages_and_can_be_searched(server, run):
    ids = [decide(run, Set("lr", i / 10, reason=f"Reason {i}")) for i in range(1, 6)]
    decide(run, Checkpoint("best", reason=""), "human:Zoë", note="saved")
    found(server, run.folder.name)
    ask = f"/api/runs/{run.folder.name}/decisions"
    first = server.ask(f"{ask}?limit=2").json
    assert first["more"] is True
    rest = server.ask(f"{ask}?before={first['decisions'][-1]['id']}").json
    assert rest["more"] is False
    assert [d["id"] for d in first["decisions"] + rest["decisions"]] == [6, *reversed(ids)]
    for search, expected in (
        ("reason+3", [3]), ("SAVED", [6]), ("zoë", [6]), ("lr+0.4", [4]), ("nothing", []),
    ):  # fmt: skip
        assert [d["id"] for d in server.ask(f"{ask}?search={quoted(search)}").json["decisions"]] == expected
    assert server.ask(f"{ask}?limit=many").status == 400
    for search in ("+".join(map(str, range(21))), "x" * 201):
        assert server.ask(f"{ask}?search={search}").status == 400
    assert server.ask(f"{ask}?search={'+'.join('x' * 30)}").status == 200


def test_a_search_reads_each_decision_once(run, monkeypatch):
    for _ in range(3):
        decide(run, Set("lr", 0.1, reason="one two three"))
    read, text = [], ledger._text
    monkeypatch.setattr(ledger, "_text", lambda decision: read.append(decision.id) or text(decision))
    assert len(ledger.Ledger(run).page(None, 9, "one two three lr")["decisions"]) == 3
    assert read == [3, 2, 1]


def quoted(text):
    return "".join(c if c.isascii() else "".join(f"%{b:02x}" for b in c.encode()) for c in text)


def test_a_decision_comes_with_its_outcome_and_what_was_said(server, run):
    id = decide(run, Set("lr", 0.1, reason="why", evidence={"z": math.nan}))
    run.outcome(Outcome(id, 30, 10, "better", {"loss_slope_after": -0.1}))
    decide(run, Comment(id, reason="well done"), "human:ada")
    decide(run, Comment(id, reason="not recorded"), "human:ada", status="refused")
    found(server, run.folder.name)
    one = server.ask(f"/api/runs/{run.folder.name}/decisions/{id}").json
    assert (one["action"]["reason"], one["action"]["evidence"]) == ("why", {"z": "nan"})
    assert [o["verdict"] for o in one["outcomes"]] == ["better"]
    assert [c["action"]["reason"] for c in one["comments"]] == ["well done"]
    assert server.ask(f"/api/runs/{run.folder.name}/decisions/99").status == 404


def test_a_decision_that_is_settled_later_is_shown_so(server, run):
    id = decide(run, Set("lr", 0.1, reason=""), status="pending")
    found(server, run.folder.name)
    ask = f"/api/runs/{run.folder.name}/decisions"
    assert server.ask(ask).json["decisions"][0]["status"] == "pending"
    run.settle(dataclasses.replace(run.decision(id), status="failed", note="no"))
    assert server.ask(ask).json["decisions"][0]["status"] == "failed"


def test_curves_grow_with_the_run_and_leave_what_was_rewound_behind(server, run):
    name = run.folder.name
    found(server, name)
    ask = f"/api/runs/{name}/series?names=loss,none"
    (piece,) = server.ask(ask).json["series"]["loss"]
    assert piece == {
        "branch": 0, "live": True, "x": [*range(1, 21)], "y": [1 / s for s in range(1, 21)]
    }  # fmt: skip
    decide(run, Rewind(10, reason=""), live={"stretches": [[0, 0], [10, 20]]})
    for step in range(11, 14):
        run.metric("loss", math.inf, step, step + 10, 1)
    run.flush()
    series = server.ask(ask).json["series"]
    assert series["none"] == []
    assert [(p["branch"], p["live"], p["x"]) for p in series["loss"]] == [
        (0, False, [*range(11, 21)]), (0, True, [*range(1, 11)]), (1, True, [11, 12, 13]),
    ]  # fmt: skip
    assert series["loss"][-1]["y"] == [None] * 3
    spent = server.ask(f"{ask}&axis=spent&from=12&to=15").json["series"]["loss"]
    assert [p["x"] for p in spent] == [[11, 12, 13, 14, 15, 16]]
    assert server.ask(f"{ask}&axis=time").status == 400
    assert server.ask(f"{ask}&from=here").status == 400


# --- commands and events -----------------------------------------------------------------------------------


def test_a_command_travels_to_the_mailbox_and_its_answer_back(server, run):
    found(server, run.folder.name)
    with server.events(f"/api/runs/{run.folder.name}/events") as events:
        assert next(events)[0] == "state"
        answer = server.post(run.folder.name, {"kind": "set", "name": "lr", "value": 0.1})
        assert answer.status == 202
        id = answer.json["id"]
        ask = f"/api/runs/{run.folder.name}/commands/{id}"
        assert server.ask(ask).json["status"] == "waiting"
        box = mailbox(run.folder)
        (command,) = box.waiting()
        assert (command.id, command.author, command.action) == (id, "ada", Set("lr", 0.1, reason=""))
        box.settle(Ack(id, "applied", decision=1, step=20, spent=20))
        box.close()
        _, ack = next(event for event in events if event[0] == "ack")
        assert (ack["command"], ack["status"], ack["step"]) == (id, "applied", 20)
        assert server.ask(ask).json == ack
    assert server.ask(f"/api/runs/{run.folder.name}/commands/{'0' * 32}").status == 404


@pytest.mark.parametrize("status", ["finished", "failed", "killed"])
def test_a_run_that_is_over_takes_no_commands(server, root, status):
    run = make_run(root / status)
    run.end(status)
    found(server, status)
    answer = server.post(status, {"kind": "pause"})
    assert answer.status == 409
    with (
        pytest.raises(TuneError, match=r"go on with it by AutoTuner\.resume") as caught,
        connect(run.folder) as it,
    ):
        it.pause()
    assert answer.json["error"] == str(caught.value).replace(str(run.folder), status)
    run.close()


def test_a_checkpoint_s_name_stays_a_name_and_a_step_a_number(server, run):
    found(server, run.folder.name)
    for to in ("100", 100):
        assert server.post(run.folder.name, {"kind": "rewind", "to": to, "then": []}).status == 202
    box = mailbox(run.folder)
    assert [command.action.to for command in box.waiting()] == ["100", 100]
    box.close()


def test_events_tell_of_changes_to_all_who_watch(server, run):
    found(server, run.folder.name)
    path = f"/api/runs/{run.folder.name}/events"
    with server.events(path) as one, server.events(path) as other:
        for events in (one, other):
            kind, first = next(events)
            assert (kind, first["step"], first["status"]) == ("state", 20, "running")
        run.metric("loss", 1.0, 21, 21, 0)
        run.flush()
        for events in (one, other):
            kind, second = next(events)
            assert (kind, second["step"]) == ("state", 21)
            assert second["metrics"] == first["metrics"] + 1
        id = decide(run, Ramp("lr", 0.1, steps=5, reason=""), live={"paused": True})
        state = next(s for _, s in one if s["last_decision"] == id and s["paused"])
        assert state["status"] == "running"


def test_a_new_run_shows_in_the_list_that_is_watched(server, root):
    with server.events("/api/events") as events:
        next(events)
        make_run(root / "newborn").close()
        names = next(names for _, d in events if "newborn" in (names := [r["name"] for r in d["runs"]]))
        assert names[0] == "newborn"


def test_a_run_that_was_trained_anew_in_its_folder_is_read_anew(server, root):
    make_run(root / "again", steps=5).close()
    assert found(server, "again")["step"] == 5
    for path in (root / "again").iterdir():
        path.unlink()
    make_run(root / "again", steps=7).close()
    until(lambda: server.ask("/api/runs/again").json.get("step") == 7)


def test_runs_in_a_database_are_served_as_those_in_folders(postgres, tmp_path):
    url = postgres.database()
    journal = Journal.create(tmp_path / "far", {"hyperparameters": {}, "policies": [], "total_steps": 9}, url)
    for step in range(1, 200):
        journal.metric("loss", math.nan if step == 7 else 1 / step, step, step, 0)
    journal.flush()
    decide(journal, Set("lr", 0.1, reason=""))
    with served(url, tmp_path) as server:
        assert server.ask("/api/session").json["store"] == url.partition("?")[0]
        (line,) = server.ask("/api/runs").json["runs"]
        assert (line["name"], line["step"], line["loss"], len(line["spark"])) == ("far", 199, 1 / 199, 60)
        (piece,) = server.ask("/api/runs/far/series?names=loss&points=40").json["series"]["loss"]
        assert (piece["x"][0], piece["x"][-1], None in piece["y"]) == (1, 199, True)
        assert server.ask("/api/runs/far").json["last_decision"] == 1
        assert server.post("far", {"kind": "pause"}).status == 202
        box = mailbox(journal.place)
        assert [command.action.kind for command in box.waiting()] == ["pause"]
        box.close()
    journal.close()


# --- the parts ---------------------------------------------------------------------------------------------


def test_what_is_not_finite_travels_as_null():
    values = {"a": [math.nan, 1.5, -math.inf], "b": {"c": math.inf}, "d": "NaN"}
    assert json.loads(to_json(values)) == {"a": [None, 1.5, None], "b": {"c": None}, "d": "NaN"}


def test_a_limit_counts_for_each_by_itself():
    limit = Limit(2, 60)
    for _ in range(2):
        assert not limit.reached("one")
        limit.count("one")
    assert limit.reached("one")
    assert not limit.reached("two")
    for other in range(Limit.MOST):
        limit.count(str(other))
    assert not limit.reached("one")  # forgotten, so that it takes no more memory


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_thinned_curves_keep_every_spike_and_every_gap(data):
    n, columns = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 40))
    values = st.floats(-10, 10) | st.just(math.nan)
    y = np.array(data.draw(st.lists(values, min_size=n, max_size=n)))
    x = np.cumsum(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    kept = thin(x, y, x[0], x[-1], columns)
    assert (np.diff(kept) > 0).all()
    assert {0, n - 1} <= {*kept.tolist()}
    assert len(kept) <= max(2 * columns, 3 * (columns + 1) + 2)
    column = np.floor((x - x[0]) * (columns / max(x[-1] - x[0], 1e-9)))
    for one in np.unique(column):
        inside, drawn = y[column == one], y[kept][column[kept] == one]
        assert np.isnan(inside).any() == np.isnan(drawn).any()
        for end in (np.fmin, np.fmax):
            assert np.array_equal(end.reduce(inside), end.reduce(drawn), equal_nan=True)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), max_size=8), st.booleans())
def test_live_rows_are_those_that_the_clock_calls_live(moves, recorded):
    clock, rows = Clock(None), []

    def advance(steps):
        for _ in range(steps):
            clock.advance()
            rows.append((len(rows) + 1, clock.step, clock.spent, clock.branch, 0.0))

    advance(5)
    known = list(clock.stretches)
    for steps, back in moves:
        step = max(0, clock.step - back)
        starts = [s for s in clock.stretches if s[0] <= step]
        first, begun = starts[-1]
        clock.rewind(step, begun + step - first, clock.stretches)
        known = list(clock.stretches) if recorded else known
        advance(steps)
    made = np.array(rows, ROW)
    marked = live(made, completed(known, made))
    assert marked.tolist() == [clock.live(step, spent) for _, step, spent, _, _ in rows]


def test_a_long_curve_becomes_as_few_points_as_a_picture_needs():
    rows = np.zeros(100_000, ROW)
    rows["id"] = rows["step"] = rows["spent"] = np.arange(1, 100_001)
    rows["value"] = np.sin(np.arange(100_000) / 9000)
    rows["value"][[500, 77_777]] = 9.0, -9.0
    (piece,) = parts(rows, [(0, 0)], pixels=400)
    assert len(piece["x"]) <= 605
    assert (max(piece["y"]), min(piece["y"])) == (9.0, -9.0)
    assert (piece["x"][0], piece["x"][-1]) == (1, 100_000)
    (zoomed,) = parts(rows, [(0, 0)], start=490, end=510, pixels=400)
    assert zoomed["x"] == [*range(489, 512)]
