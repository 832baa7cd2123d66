"""What logging to MLflow costs the training thread.

`OMP_NUM_THREADS=1 python -m autotune.benchmarks.logging_cost` trains one small model in blocks of a second,
in turn bare and logging as a tuner does: the loss of every step, and every ten steps ten metrics more. What
is compared is the lower quartile of either kind of block, because what else runs on the machine only ever
adds. It is the cost of journal, its thread and the delivery to MLflow together: in the bare blocks the
delivering process is halted, so that nothing of it is hidden in both.

Three servers: one that works, one that accepts and never answers, none at all. Target: at most 30 µs a step.
Exits 1 if it is missed. Takes about three minutes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from autotune.delivery import Delivery, target
from autotune.journal import Journal
from autotune.mlflow_server import serve

from .figures import Figure, show

MICROSECONDS = 30.0
SECONDS = 1.0
PAIRS = 24
SAMPLED = tuple(f"sensor_{number}" for number in range(10))


def training() -> Callable[[], None]:
    """One step of about a millisecond."""
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    optimizer = torch.optim.AdamW(model.parameters())
    inputs = torch.randn(64, 256)

    def step() -> None:
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()

    return step


def block(step: Callable[[], None], log: Callable[[int], None] | None, first: int) -> tuple[float, int]:
    """Train for `SECONDS`.

    Returns:
        Seconds a step, and the number of steps.
    """
    start = time.perf_counter()
    steps = 0
    while time.perf_counter() - start < SECONDS:
        step()
        if log:
            log(first + steps)
        steps += 1
    return (time.perf_counter() - start) / steps, steps


def measure(folder: Path, tracking_uri: str) -> tuple[float, float, int]:
    """Train with a delivery to `tracking_uri`.

    Returns:
        Seconds a bare step, seconds that logging adds to one, and how many metrics reached MLflow.
    """
    journal = Journal.create(folder, {})
    delivery = Delivery(journal, target(tracking_uri, "logging cost"))
    deliverer = delivery._process.pid
    step = training()

    def log(spent: int) -> None:
        journal.metric("loss", 0.5, spent, spent, 0)
        if spent % 10 == 0:
            for name in SAMPLED:
                journal.metric(name, 0.5, spent, spent, 0)

    time.sleep(5.0)  # it has imported MLflow and made its run, or met its trouble
    spent = 0
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(PAIRS + 1):
        for logs in (True, False) if pair % 2 else (False, True):
            os.kill(deliverer, signal.SIGCONT if logs else signal.SIGSTOP)
            each, steps = block(step, log if logs else None, spent)
            spent += steps if logs else 0
            journal.flush()
            if pair:  # the first one warms up
                seconds[logs].append(each)
    os.kill(deliverer, signal.SIGCONT)
    journal.end("finished")
    delivery.close()
    arrived = journal.delivered().get("metrics", {"id": 0})["id"]
    journal.close()
    bare, logging = (statistics.quantiles(seconds[logs], n=4)[0] for logs in (False, True))
    return bare, logging - bare, arrived


def figures() -> list[Figure]:
    """Measure."""
    found: list[Figure] = []
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.chdir(name),  # where the server puts its files
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.socket() as closed,
        serve(f"sqlite:///{name}/mlflow.db", 0) as server,
    ):
        closed.bind(("127.0.0.1", 0))  # bound, so nobody else's, and not listening
        silent_uri, dead_uri = (f"http://127.0.0.1:{s.getsockname()[1]}" for s in (silent, closed))
        for case, uri in (("up", server.address), ("silent", silent_uri), ("dead", dead_uri)):
            bare, added, arrived = measure(Path(name) / case, uri)
            added *= 1e6
            found += [
                Figure(f"MLflow {case}: bare step", bare * 1e6, "µs"),
                Figure(
                    f"MLflow {case}: logging adds", added, "µs", f"≤ {MICROSECONDS:g}", added <= MICROSECONDS
                ),
                Figure(f"MLflow {case}: metrics that arrived", arrived, ""),
            ]
    return found


if __name__ == "__main__":
    sys.exit(show(figures()))
