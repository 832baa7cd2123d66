"""Each attack by itself, against the server as a person starts it, on a socket."""

import contextlib
import json
import re
import socket
import threading
import time
import uuid

import pytest
from served import Served, make_run, served, until

from autotune.commands import mailbox
from autotune.web import server as web_server
from autotune.web.app import STATIC
from autotune.web.events import CLIENTS

NASTY = "<script>alert(1)</script>"
SET = {"kind": "set", "name": "lr", "value": 0.1}


@pytest.fixture(scope="module")
def journal(root):
    journal = make_run(root / "run", steps=5)
    yield journal
    journal.close()


@pytest.fixture(scope="module")
def server(root, journal, tmp_path_factory):
    with served(root, tmp_path_factory.mktemp("state")) as server:
        yield server


@pytest.fixture
def box(root, journal):
    box = mailbox(root / "run")
    yield box
    box.close()


@pytest.fixture(autouse=True)
def _nothing_arrives(box):
    """Whatever is tried here, no command reaches the run; tests of those that may are marked by a fixture."""
    before = box.waiting()
    yield
    assert box.waiting() == before


def post(server, **options):
    return server.post("run", SET, **options)


# --- tokens ------------------------------------------------------------------------------------------------

ROUTES = [
    "/", "/compare", "/runs/run", "/static/app.js", "/static/index.html", "/nothing", "/api/session",
    "/api/runs", "/api/events", "/api/runs/run", "/api/runs/run/series?names=loss",
    "/api/runs/run/decisions", "/api/runs/run/events",
]  # fmt: skip


@pytest.mark.parametrize("token", ["", "wrong", "x" * 43, "é"], ids=repr)
@pytest.mark.parametrize("path", ROUTES)
def test_nothing_is_shown_without_a_token(root, server, path, token):
    cookie = {"Cookie": server.cookie(token).encode()} if token else {}
    answer = server.ask(path, token="", headers=cookie)
    assert answer.status in (401, 429) if token else answer.status == 401
    assert b"run" not in answer.body.replace(b"running", b"") or b"autotune ui" in answer.body
    assert "Set-Cookie" not in answer.headers
    assert str(root).encode() not in answer.body


def test_nothing_is_done_without_a_token(server):
    assert post(server, token="").status == 401
    assert post(server, token="wrong").status in (401, 429)


def test_the_cookie_of_another_port_is_none_of_ours(server):
    cookie = {"Cookie": f"autotune-{server.port + 1}={server.write}; autotune={server.write}"}
    assert server.ask("/api/runs", token="", headers=cookie).status == 401


def test_a_token_in_the_address_opens_the_page_and_nothing_else(server):
    assert server.ask(f"/api/runs?token={server.write}", token="").status == 401
    assert server.ask(f"/static/app.js?token={server.write}", token="").status == 401


def test_no_token_in_the_address_leads_elsewhere(server):
    for path in ("//evil.example/", "/\\evil.example", "/runs/..//evil.example", "http://evil.example/"):
        answer = server.ask(f"{path}?token={server.write}", token="")
        assert answer.status in (401, 403)
        assert "Location" not in answer.headers


def test_who_may_only_look_changes_nothing(server):
    assert server.ask("/api/runs/run", token=server.read).status == 200
    answer = post(server, token=server.read)
    assert answer.status == 403
    assert "looking on" in answer.json["error"]


def test_a_flood_of_wrong_tokens_is_cut_off_and_shuts_nobody_out(root, tmp_path):
    with served(root, tmp_path) as server:
        tries = [server.ask("/login", "POST", {"token": f"wrong {i}"}, token="").status for i in range(15)]
        assert tries == [401] * 10 + [429] * 5
        assert server.ask("/?token=wrong", token="").status == 429
        assert server.ask("/api/runs", token="wrong").status == 429
        assert server.ask("/login", "POST", {"token": server.write}, token="").status == 204
        assert server.ask(f"/?token={server.write}", token="").status == 303
        assert server.ask("/api/runs").status == 200
        assert server.ask("/api/runs", token="").status == 401


@contextlib.contextmanager
def connections(server, count, sent=b""):
    """Connections on which the same was sent."""
    with contextlib.ExitStack() as stack:
        opened = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(count)]
        for connection in opened:
            stack.enter_context(connection)
            connection.sendall(sent)
        yield opened


def test_those_who_look_on_leave_half_of_the_streams_to_the_others(server):
    cookie = f"Cookie: {server.cookie(server.read)}"
    ask = "\r\n".join(["GET /api/events HTTP/1.1", f"Host: 127.0.0.1:{server.port}", cookie, "", ""])
    with connections(server, CLIENTS, ask.encode()) as opened:
        for connection in opened:
            assert connection.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.1 429")
        answer = server.ask("/api/events", token=server.read)
        assert (answer.status, answer.json["error"][:8]) == (429, "too many")
        with server.events("/api/runs/run/events") as events:
            assert next(events)[0] == "state"


@pytest.fixture
def hasty(root, journal, tmp_path, monkeypatch):
    """The server in this process, with little time for requests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(web_server, "ASKING_SECONDS", 1.0)
    made, said = [], []
    make = web_server.Server
    monkeypatch.setattr(web_server, "Server", lambda *given: made.append(make(*given)) or made[0])
    thread = threading.Thread(target=web_server.serve, args=(root, web_server.Listening(port=0), said.append))
    thread.start()
    until(lambda: made and made[0].started)
    (port, write), (_, read) = re.findall(r"(\d+)/\?token=(\S+)", "\n".join(said))
    yield Served(int(port), write, read, None, said)
    made[0].should_exit = True
    thread.join()


def test_a_connection_on_which_nothing_is_asked_is_closed(hasty, journal):
    whole = f"GET /static/login.js HTTP/1.1\r\nHost: 127.0.0.1:{hasty.port}\r\n\r\n".encode()
    end = (STATIC / "login.js").read_bytes()[-20:]
    with hasty.events("/api/runs/run/events") as events, contextlib.ExitStack() as stack:
        next(events)
        opened = stack.enter_context(connections(hasty, 4))
        silent, stutters, answered, stutters_again = opened
        stutters.sendall(whole[:9])
        for connection in (answered, stutters_again):
            connection.sendall(whole)
            got = b""
            while not got.endswith(end):
                got += (more := connection.recv(4096))
                assert more, "it was closed too early"
        stutters_again.sendall(whole[:9])
        for connection in (silent, stutters, answered, stutters_again):
            while connection.recv(4096):
                pass
        journal.metric("loss", 0.0, 6, 6, 0)
        assert next(events)[1]["step"] == 6  # an answer may take as long as it likes


# --- other pages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/api/runs", "/api/events", "/api/runs/run/events", "/login"]
)
@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.", "127.0.0.1@evil.example", "evil.example:8484",
     "127.1", "0.0.0.0", "", "localhost evil.example"],
)  # fmt: skip
def test_a_name_that_was_made_to_mean_this_address_is_refused(server, path, host):
    assert server.ask(path, headers={"Host": host}).status == 403


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "OPTIONS"])
def test_the_name_is_looked_at_whatever_the_method(server, method):
    answer = server.ask(
        "/api/runs/run/commands", method, headers={"Host": "evil.example", "Origin": "http://evil.example"}
    )
    assert answer.status == 403


def test_two_names_are_one_too_many(server):
    host = f"127.0.0.1:{server.port}"
    lines = [
        "GET /api/runs HTTP/1.1",
        f"Host: {host}",
        "Host: evil.example",
        f"Cookie: {server.cookie(server.write)}",
    ]
    answer = server.raw("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    assert answer.split()[1] in (b"400", b"403")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "[::1]", "127.0.0.1"])
def test_the_names_of_this_machine_are_known_at_any_port(server, host):
    own = {"Host": f"{host}:9999", "Origin": f"http://{host.lower()}:9999"}
    assert server.ask("/api/runs", headers=own).status == 200  # through a tunnel


def test_a_further_name_has_to_be_allowed(root, tmp_path):
    with served(root, tmp_path, "--allow-host", "trainer.lan") as server:
        assert server.ask("/api/runs", headers={"Host": "trainer.lan"}).status == 200
        assert server.ask("/api/runs", headers={"Host": "a.trainer.lan"}).status == 403


def origins(server):
    port = server.port
    return [
        "http://evil.example", "null", f"http://127.0.0.1:{port + 1}", f"https://127.0.0.1:{port}",
        f"http://127.0.0.1:{port}.evil.example", f"http://localhost:{port}", "http://127.0.0.1", "",
    ]  # fmt: skip


def test_another_page_cannot_post(server):
    for origin in origins(server):
        assert post(server, headers={"Origin": origin}).status == 403, origin
    assert post(server, headers={"Origin": None}).status == 403


def test_another_page_cannot_listen_or_read(server):
    for origin in origins(server):
        for path in ("/api/runs/run/events", "/api/events", "/api/runs", "/static/app.js"):
            answer = server.ask(path, headers={"Origin": origin})
            assert answer.status == 403, (origin, path)
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "made-up"])
def test_the_browser_s_own_word_on_where_a_request_comes_from_counts(server, site):
    own = {"Sec-Fetch-Site": site}
    for path in ("/api/runs", "/api/events", "/static/app.js", "/"):
        assert server.ask(path, headers=own).status == 403
    assert post(server, headers=own).status == 403
    opened = {**own, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert server.ask("/runs/run", headers=opened).status == 200  # a link on MLflow's page
    assert server.ask("/api/runs", headers=opened).status == 403
    assert server.ask("/runs/run", headers={**opened, "Sec-Fetch-Dest": "iframe"}).status == 403


def test_a_link_on_another_site_is_asked_for_again_with_the_cookie(server):
    opened = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    answer = server.ask("/runs/run", token="", headers=opened)
    assert (answer.status, answer.headers["Refresh"], answer.body) == (200, "0", b"")
    answer = server.ask("/runs/run", token="", headers={**opened, "Sec-Fetch-Site": "same-origin"})
    assert (answer.status, answer.headers["Refresh"]) == (401, None)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", None]
)
def test_a_form_cannot_post(server, kind):
    body = json.dumps({"id": uuid.uuid4().hex, "author": "a", "action": {**SET, "reason": ""}}).encode()
    answer = server.ask("/api/runs/run/commands", "POST", body, headers={"Content-Type": kind})
    assert answer.status == 415


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "CONNECTX", "get"]
)
def test_unknown_methods_are_refused(server, method):
    for path in ("/api/runs/run", "/api/runs/run/commands", "/", "/static/app.js", "/login"):
        answer = server.ask(path, method)
        assert answer.status == 405, path
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_every_answer_says_what_a_browser_may_do_with_it(server):
    for path, token in (
        ("/", None),
        ("/", ""),
        ("/api/runs", None),
        ("/api/runs", ""),
        ("/static/app.js", None),
        ("/x", None),
    ):
        headers = server.ask(path, token=token).headers
        policy = dict(part.partition(" ")[::2] for part in headers["Content-Security-Policy"].split("; "))
        assert policy == {
            "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
            "img-src": "'self' data:", "base-uri": "'none'", "form-action": "'self'",
            "frame-ancestors": "'none'",
        }  # fmt: skip
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Server" not in headers


# --- bodies ------------------------------------------------------------------------------------------------


def head(server, *lines):
    own = (
        f"Host: 127.0.0.1:{server.port}",
        f"Origin: {server.origin}",
        f"Cookie: {server.cookie(server.write)}",
    )
    first = "POST /api/runs/run/commands HTTP/1.1"
    return "\r\n".join([first, *own, "Content-Type: application/json", *lines, "", ""]).encode()


def test_a_large_body_is_refused_by_its_length(server):
    answer = server.ask("/api/runs/run/commands", "POST", {"id": "x" * 70_000})
    assert answer.status == 413


def test_a_body_without_a_length_is_counted(server):
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    stranger = head(server, "Transfer-Encoding: chunked").replace(b"Cookie", b"No-Cookie")
    assert server.raw(stranger, then=chunk).split()[1:2] in ([], [b"401"])  # nor is it read without a token
    answer = server.raw(head(server, "Transfer-Encoding: chunked"), then=chunk)
    assert not answer or answer.split()[1] == b"413"  # it may hang up before all of that is sent
    answer = server.raw(head(server, "Transfer-Encoding: chunked") + chunk * 5 + b"0\r\n\r\n")
    assert answer.split()[1] == b"413"


def test_a_length_that_lies_gains_nothing(server):
    sent = json.dumps({"id": uuid.uuid4().hex, "author": "ada", "action": {**SET, "reason": ""}}).encode()
    for length in (
        str(len(sent) - 7),
        "-1",
        "1e3",
        f"{len(sent)}, 5",
    ):  # the rest is no request, or bad from the start
        answer = server.raw(head(server, f"Content-Length: {length}", "Connection: close") + sent)
        assert answer.split()[1] == b"400", length
    both = head(server, f"Content-Length: {len(sent)}", "Transfer-Encoding: chunked", "Connection: close")
    assert server.raw(both + sent + b"\r\n").split()[1] == b"400"


def test_a_body_that_never_comes_is_given_up(server):
    start = time.monotonic()
    answer = server.raw(head(server, "Content-Length: 1000") + b"{", seconds=30)
    assert answer.split()[1] == b"400"
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{} {}", b"[" * 60_000, b'{"a":' * 10_000,
     b'{"id": NaN}', b'{"id": 1e999}', b'{"id": "\\ud800"}', b"{" + b'"a": ' + b"9" * 5000 + b"}"],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
def test_malformed_bodies_are_refused(server, body):
    for path in ("/api/runs/run/commands", "/login"):
        answer = server.ask(path, "POST", body, headers={"Content-Type": "application/json"})
        assert answer.status == 400, path
        assert answer.json["error"]


@pytest.mark.parametrize(
    "change",
    [
        {"id": None}, {"id": "short"}, {"id": "../../etc/passwd"}, {"id": "0" * 32 + "\n"},
        {"id": ["0" * 32]}, {"author": ""}, {"author": "human:ada"}, {"author": "a" * 65},
        {"author": "a\nb"}, {"author": 7}, {"author": None},
        {"action": None}, {"action": "pause"}, {"action": {}}, {"action": {"kind": "set"}},
        {"action": {"kind": "probe", "steps": 5, "reason": ""}},
        {"action": {"kind": "adopt", "trial": 1, "reason": ""}},
        {"action": {"kind": "suggest", "reason": ""}}, {"action": {"kind": "escalate", "reason": ""}},
        {"action": {**SET, "reason": "", "evidence": {"again": 1}}},
        {"action": {**SET, "reason": "", "evidence": 5}},
        {"action": {**SET, "reason": "", "value": [1]}}, {"action": {**SET, "reason": 5}},
        {"action": {"kind": "schedule", "name": "lr", "points": [[1]], "reason": ""}},
        {"action": {"kind": "schedule", "name": "lr", "points": 5, "reason": ""}},
        {"action": {"kind": "rewind", "to": 1, "then": [{"kind": "stop", "reason": ""}], "reason": ""}},
        {"action": {"kind": ["set"], "reason": ""}}, {"action": {"kind": "__class__", "reason": ""}},
        {"expires_in": "soon"}, {"expires_in": -1}, {"expires_in": True}, {"expires_in": 10**400},
        {"else": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_person_s_command_is_refused(server, change):
    body = {"id": uuid.uuid4().hex, "author": "ada", "action": {**SET, "reason": ""}, **change}
    answer = server.ask("/api/runs/run/commands", "POST", body)
    assert answer.status == 400
    assert answer.json["error"]


# --- paths and names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/static/../guard.py", "/static/%2e%2e/guard.py", "/static/..%2fguard.py", "/static/%2e%2e%2fguard.py",
     "/static//etc/passwd", "/static/....//guard.py", "/static/vendor/..%5c..%5cguard.py", "/static/",
     "/static/app.js%00.html", "/static/app.js/", "/../../etc/passwd", "/%2fetc%2fpasswd", "/static/APP.JS"],
)  # fmt: skip
def test_no_file_is_served_but_those_of_the_page(server, path):
    answer = server.ask(path)
    assert answer.status == 404
    assert b"import" not in answer.body
    assert b"root:" not in answer.body


@pytest.mark.parametrize(
    "name",
    ["..", "%2e%2e", "../run", "..%2frun", "%2e%2e%2f%2e%2e%2fetc", "run%00", "run%2f..%2frun", "ru",
     "RUN", "latest", "%2Ftmp", ".", "run%0a", "run/"],
)  # fmt: skip
def test_a_run_is_one_that_was_found_or_none(server, root, name):
    (root.parent / "outside").mkdir(exist_ok=True)
    for path in (
        f"/api/runs/{name}",
        f"/api/runs/{name}/series",
        f"/api/runs/{name}/decisions",
        f"/api/runs/{name}/events",
    ):
        answer = server.ask(path)
        assert answer.status == 404, path
    assert server.ask(
        f"/api/runs/{name}/commands", "POST", {"id": "0" * 32, "author": "a", "action": {}}
    ).status in (400, 404)


def test_script_in_names_and_words_stays_text(server, root, journal):
    name = NASTY.replace("/", "&")
    nasty = make_run(root / name, knobs=(NASTY,), policies=[NASTY])
    nasty.metric(NASTY, 1.0, 1, 1, 0)
    nasty.close()
    until(lambda: any(r["name"] == name for r in server.ask("/api/runs").json["runs"]))
    address = name.replace("<", "%3C").replace(">", "%3E").replace("&", "%26")
    for path in (
        "/api/runs",
        f"/api/runs/{address}",
        f"/api/runs/{address}/series?names=%3Cscript%3E",
        f"/api/runs/{NASTY}",
    ):
        answer = server.ask(path)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    document = server.ask(f"/api/runs/{address}").json
    assert (document["name"], document["signals"]) == (name, [NASTY])
    page = server.ask(f"/runs/{address}")
    assert page.body == server.ask("/").body  # whatever is asked for, the page is the same file


# --- what does arrive --------------------------------------------------------------------------------------


@pytest.fixture
def other(root, server):
    """A run that commands may reach, and its mailbox."""
    name = f"other-{uuid.uuid4().hex[:8]}"
    make_run(root / name).close()
    until(lambda: server.ask(f"/api/runs/{name}").status == 200)
    box = mailbox(root / name)
    yield name, box
    box.close()


def test_a_command_that_is_replayed_is_one_command(server, other):
    name, box = other
    id = uuid.uuid4().hex
    assert [server.post(name, SET, id=id).status for _ in range(3)] == [202] * 3
    assert [command.id for command in box.waiting()] == [id]
    for changed in ({"action": {**SET, "value": 0.2}}, {"action": SET, "author": "eve"}):
        answer = server.post(name, changed["action"], id=id, author=changed.get("author", "ada"))
        assert answer.status == 409
    (command,) = box.waiting()
    assert (command.author, command.action.value) == ("ada", 0.1)


def test_words_in_a_comment_arrive_as_they_are(server, other):
    name, box = other
    body = {"kind": "comment", "decision": 1, "reason": f"{NASTY} ' \" ; -- 🙂 \u2028"}
    assert server.post(name, body).status == 202
    assert box.waiting()[0].action.reason == body["reason"]


def test_a_flood_of_commands_is_cut_off(root, tmp_path):
    make_run(root / "flooded").close()
    with served(root, tmp_path) as server:
        answers = [server.post("flooded", {"kind": "pause"}).status for _ in range(35)]
        assert answers == [202] * 30 + [429] * 5
