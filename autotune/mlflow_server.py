"""MLflow's page for a store on this machine, started with what looking at runs takes and no more."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

from .records import TuneError

HOST = "127.0.0.1"
PORT = 5000
"""MLflow's own, taken when it is free."""
START_SECONDS = 120.0
STOP_SECONDS = 10.0


class ServerError(RuntimeError):
    """The server did not start, or ended by itself."""


class Server(NamedTuple):
    """A server that answers."""

    address: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def serve(tracking_uri: str, port: int | None = None) -> Iterator[Server]:
    """Start the server, wait until it answers, and stop it with all its processes at the end.

    Args:
        tracking_uri: the store, as in `sqlite:////home/ada/mlflow.db`.
        port: on loopback; 0: any that is free. None: 5000, or any that is free if that one is taken.

    Raises:
        TuneError: when the port is taken.
        ServerError: when the server does not start.
    """
    port = _port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C reaches this process alone, which then stops all of the server's.
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    lines = log.read().decode(errors="replace").split("\n")
                    said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
                    raise ServerError(
                        f"MLflow's server did not start on {tracking_uri}, its last words were: {said}"
                    )
                time.sleep(0.1)
            yield Server(f"http://{HOST}:{port}", process)
        finally:
            _stop(process)


def _port(port: int | None) -> int:
    for candidate in (PORT, 0) if port is None else (port,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, candidate))
                return int(probe.getsockname()[1])
    raise TuneError(f"the server needs a free port, got {port}, which cannot be had; leave --port out")


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    for request in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, request)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return
