"""The control page's server as a person starts it, and a client that says exactly what it is told to say."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from autotune.journal import Journal

COMMAND = [Path(sys.executable).with_name("autotune"), "ui"]
KNOB = {"kind": "log", "low": 1e-6, "high": 1.0, "choices": [], "unit": ""}


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body, parse_constant=_no_json)


def _no_json(text):
    raise AssertionError(f"{text} is no JSON")


@dataclass
class Served:
    port: int
    write: str
    read: str
    process: subprocess.Popen
    lines: list

    @property
    def origin(self):
        return f"http://127.0.0.1:{self.port}"

    def cookie(self, token):
        return f"autotune-{self.port}={token}"

    def ask(self, path, method="GET", body=None, headers=(), token=None):
        """One request, with the cookie of `token` (None: that of who may write; "": none)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        token = self.write if token is None else token
        given = {"Cookie": self.cookie(token)} if token else {}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            given["Content-Type"] = "application/json"
        if method not in ("GET", "HEAD"):
            given["Origin"] = self.origin
        given |= dict(headers)
        try:
            connection.request(method, path, body, {k: v for k, v in given.items() if v is not None})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def post(self, run, action, id=None, author="ada", **options):
        id = id or uuid.uuid4().hex
        body = {"id": id, "author": author, "action": {"reason": "", **action}, "expires_in": 60}
        return self.ask(f"/api/runs/{run}/commands", "POST", body, **options)

    def raw(self, data, then=b"", seconds=20):
        """What comes back for these bytes; `then` is sent until the server hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(data)
            with contextlib.suppress(OSError):
                while then:
                    connection.sendall(then)
            got = b""
            with contextlib.suppress(OSError):
                while chunk := connection.recv(65536):
                    got += chunk
            return got

    @contextlib.contextmanager
    def events(self, path, **headers):
        """The events of a stream as (kind, document), as they come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", path, headers={"Cookie": self.cookie(self.write), **headers})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()

        def each():
            kind = None
            for line in answer:
                name, _, rest = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = rest
                elif name == "data":
                    yield kind, json.loads(rest)

        try:
            yield each()
        finally:
            connection.close()


@contextlib.contextmanager
def served(root, state, *arguments):
    """The server on any free port, until the end of the block."""
    process = subprocess.Popen(
        [*COMMAND, "--root", str(root), "--port", "0", *arguments],
        env={**os.environ, "XDG_STATE_HOME": str(state), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("Ctrl-C"):
                break
        else:
            raise AssertionError(process.stderr.read())
        found = re.findall(r"(\d+)/\?token=(\S+)", "\n".join(lines))
        yield Served(int(found[0][0]), found[0][1], found[1][1], process, lines)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        process.stdout.close()
        process.stderr.close()


def make_run(folder, steps=0, knobs=("lr",), **meta):
    """A run's journal, of a process that is alive: this one."""
    facts = {
        "hyperparameters": dict.fromkeys(knobs, KNOB),
        "policies": ["guard", "plateau"],
        "total_steps": 1000,
        "versions": {"autotune": "0"},
        **meta,
    }
    journal = Journal.create(folder, facts)
    for step in range(1, steps + 1):
        journal.metric("loss", 1 / step, step, step, 0)
    journal.flush()
    return journal


def until(condition, seconds=60):
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found
