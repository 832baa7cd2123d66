"""What live control costs a run, and how soon it acts; `page_speed` is about the page.

`OMP_NUM_THREADS=1 python -m autotune.benchmarks.live_control [postgresql://…]` measures, on a loop of about a
millisecond a step, with the database that is given too:

- what the thread that looks for commands adds to a step: blocks with it and without, in turn, of one loop
  whose mailbox holds a hundred old commands: at most 5 µs;
- from a command to the first step that uses it, and to its answer: at most a second and a step at worst, for
  100 commands by `autotune.connect`.

A cost is judged where it is two standard errors away from its target; nearer, `MET` is empty: the machine was
too busy to tell. Exits 1 when a target is missed. Takes about two minutes.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import queue
import random
import statistics
import sys
import tempfile
import threading
import time
import timeit
import uuid
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from autotune import AutoTuner, connect, journal_tables
from autotune.actuators import learning_rate
from autotune.commands import Ack, Command, Mailbox, command, mailbox
from autotune.inbox import Inbox
from autotune.places import Place
from autotune.records import Set

from .figures import Figure, show

FILES = "files"
"""The store where the write-ahead log does not work."""
MICROSECONDS, SECONDS = 5.0, 1.0
BLOCK_STEPS, BLOCK_PAIRS, CALLS = 200, 80, 100_000
COMMANDS = 100
MARK = 50
"""Steps after which the trainer says how far it is."""


# --- the loop ----------------------------------------------------------------------------------------------


class Loop:
    """A loop with a tuner, of about a millisecond a step."""

    def __init__(self, folder: Path, store: str | None) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        if store == FILES:
            journal_tables._wal_works = lambda probe: False
        self.model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.tuner = AutoTuner(
            self.model,
            self.optimizer,
            hyperparameters=[learning_rate(self.optimizer)],
            store=None if store == FILES else store,
            folder=folder,
            mlflow=False,
        )
        self.batches = self.tuner.batches([torch.randn(64, 256)] * 1000, epochs=10**9)

    def run(self, steps: int) -> None:
        """Train."""
        for batch in itertools.islice(self.batches, steps):
            self.optimizer.zero_grad()
            loss = self.model(batch).square().mean()
            loss.backward()
            self.optimizer.step()
            self.tuner.report(loss=loss)


class Trainer:
    """The loop in a process of its own, which says when a rate is first used and how far it is."""

    def __init__(self, folder: Path, store: str | None = None, cores: Iterable[int] = ()) -> None:
        context = multiprocessing.get_context("spawn")
        self._told, telling = context.Pipe(duplex=False)
        self._process = context.Process(target=train, args=(folder, store, set(cores), telling), daemon=True)
        self._process.start()
        telling.close()
        self._used: queue.SimpleQueue[tuple[float, float]] = queue.SimpleQueue()
        self._marks: list[tuple[float, int]] = []
        threading.Thread(target=self._listen, daemon=True).start()
        while not self._marks:
            time.sleep(0.01)

    def used(self, rate: float) -> float:
        """When the first step with this rate began."""
        while True:
            value, when = self._used.get(timeout=60)
            if value == rate:
                return when

    def pace(self, seconds: float) -> float:
        """Seconds that a step takes, over the next so many seconds."""
        first = len(self._marks)
        time.sleep(seconds)
        (start, at), (end, to) = self._marks[first], self._marks[-1]
        return (end - start) / (to - at)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.join()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError):
            while True:
                kind, value, when = self._told.recv()
                if kind == "used":
                    self._used.put((value, when))
                else:
                    self._marks.append((when, value))


def train(folder: Path, store: str | None, cores: set[int], telling: Connection) -> None:
    """Train until the process is ended, on these cores."""
    if cores:
        os.sched_setaffinity(0, cores)
    loop = Loop(folder, store)
    group = loop.optimizer.param_groups[0]
    rate = group["lr"]
    for step in itertools.count(1):
        batch = next(loop.batches)
        if group["lr"] != rate:
            rate = group["lr"]
            telling.send(("used", rate, time.monotonic()))
        loop.optimizer.zero_grad()
        loss = loop.model(batch).square().mean()
        loss.backward()
        loop.optimizer.step()
        loop.tuner.report(loss=loss)
        if step % MARK == 0:
            telling.send(("mark", step, time.monotonic()))


# --- the thread that looks for commands --------------------------------------------------------------------


class Added(NamedTuple):
    """What is added, by medians over pairs, in the unit of what was given."""

    median: float
    worst: float
    error: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> Added:
        """The standard error is that of a median, 1.25 σ/√n, with σ from the median absolute deviation."""
        middle = statistics.median(differences)
        deviation = statistics.median(abs(each - middle) for each in differences)
        return cls(middle, max(differences), 1.25 * 1.4826 * deviation / len(differences) ** 0.5)

    def within(self, most: float) -> bool | None:
        """Whether it is at most this; None: the machine was too busy to tell."""
        low, high = self.median - 2 * self.error, self.median + 2 * self.error
        return True if high <= most else False if low > most else None


class Held:
    """A mailbox whose reader stops at a gate."""

    def __init__(self, place: Place) -> None:
        self._mailbox = mailbox(place)
        self.gate = threading.Event()

    def waiting(self) -> list[Command]:
        """What waits, once the gate is open."""
        self.gate.wait()
        return self._mailbox.waiting()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mailbox, name)


def polling(name: str, folder: Path, store: str | None) -> list[Figure]:
    """What the thread adds to a step."""
    loop = Loop(folder, store)
    intake, place = loop.tuner._engine.intake, loop.tuner._journal.place
    loop.run(200)
    assert intake.inbox is not None
    intake.inbox.close("the benchmark has its own")
    box = mailbox(place)
    for _ in range(COMMANDS):
        old = command(Set("lr", 1e-3, reason=""), "ada")
        box.post(old)
        box.settle(Ack(old.id, "refused", "it is old"))
    box.close()

    held = Held(place)
    inbox = Inbox(lambda: cast(Mailbox, held), ())
    intake.inbox = inbox
    clock = time.pthread_getcpuclockid(inbox._thread.ident or 0)

    def block(looks: bool) -> tuple[float, float]:
        (held.gate.set if looks else held.gate.clear)()
        wall, own = time.perf_counter(), time.clock_gettime(clock)
        loop.run(BLOCK_STEPS)
        wall, own = time.perf_counter() - wall, time.clock_gettime(clock) - own
        return 1e6 * wall / BLOCK_STEPS, 1e6 * own / BLOCK_STEPS

    def idle(has_inbox: bool) -> float:
        intake.inbox = inbox if has_inbox else None
        return 1e9 * timeit.timeit(loop.tuner._engine.boundary, number=CALLS) / CALLS

    pairs = [
        {looks: block(looks) for looks in ((True, False) if pair % 2 else (False, True))}
        for pair in range(BLOCK_PAIRS + 1)
    ][1:]  # the first one warms up
    loop.run(15 - loop.tuner.step % 10)  # nothing is due at this step
    boundary = [(idle(True), idle(False)) for _ in range(9)]
    held.gate.set()
    inbox.close("the benchmark is over")
    intake.inbox = None
    loop.tuner.close()
    added = Added.of([pair[True][0] - pair[False][0] for pair in pairs])
    # What it takes from the training thread is at most what it works: the rest of the time it sleeps.
    own = statistics.median(pair[True][1] for pair in pairs)
    most = f"≤ {MICROSECONDS:g}"
    return [
        Figure(f"{name}: a step", statistics.median(pair[False][0] for pair in pairs), "µs"),
        Figure(f"{name}: the thread's own processor time", own, "µs a step", most, own <= MICROSECONDS),
        Figure(
            f"{name}: added, wall clock",
            added.median,
            "µs a step",
            most,
            added.within(MICROSECONDS),
            added.error,
        ),
        Figure(f"{name}: an idle boundary", min(on for on, _ in boundary), "ns"),
        Figure(f"{name}: and without inbox", min(off for _, off in boundary), "ns"),
    ]


def by_connect(trainer: Trainer, run: str, root: str) -> list[tuple[float, float]]:
    """Seconds from each command to the first step that uses it, and to the answer."""
    found = []
    with connect(run, root) as remote:
        for rate in rates():
            time.sleep(random.uniform(0, 0.1))  # at any time between two looks
            start = time.monotonic()
            remote.set("lr", rate)
            end = time.monotonic()
            found.append((trainer.used(rate) - start, end - start))
    return found


def rates() -> list[float]:
    """Of the commands: each another one."""
    return [1e-3 * (1 + (i + 1) / 1000) for i in range(COMMANDS)]


def latency(name: str, seconds: Sequence[float]) -> list[Figure]:
    """The median, where there are many the 95th of a hundred, and the worst, which has the target."""
    most = f"≤ {SECONDS:g} s + a step"
    many = len(seconds) >= 20
    return [
        Figure(f"{name}: median", 1e3 * statistics.median(seconds), "ms"),
        *([Figure(f"{name}: 95 of 100", 1e3 * sorted(seconds)[-len(seconds) // 20], "ms")] if many else []),
        Figure(f"{name}: worst of {len(seconds)}", 1e3 * max(seconds), "ms", most, max(seconds) <= SECONDS),
    ]


def latencies(name: str, found: Sequence[tuple[float, float]]) -> list[Figure]:
    """Both, of commands that were sent in one way."""
    effects, answers = zip(*found, strict=True)
    return latency(f"{name}, to effect", effects) + latency(f"{name}, to answer", answers)


# --- all ---------------------------------------------------------------------------------------------------


def costs(root: Path, database: str | None) -> Iterator[Figure]:
    """What looking for commands costs, for each kind of store."""
    yield from polling("SQLite", root / "sqlite", None)
    if database:
        yield from polling("PostgreSQL", root / f"pg-{uuid.uuid4().hex[:8]}", database)
    yield from polling("files", root / FILES, FILES)


def latencies_by_connect(root: Path, database: str | None) -> Iterator[Figure]:
    """From command to effect, for each kind of store."""
    for name, store in (("SQLite", None), ("files", FILES), ("PostgreSQL", database)):
        if store is None and name == "PostgreSQL":
            continue
        folder = root / f"connect-{uuid.uuid4().hex[:8]}"
        trainer = Trainer(folder, store)
        try:
            found = by_connect(trainer, folder.name, str(database if name == "PostgreSQL" else root))
        finally:
            trainer.close()
        yield from latencies(f"connect, {name}", found)


def main(database: str | None) -> int:
    """Measure all, and say how busy the machine was."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as folder:
        figures = [
            *costs(Path(folder) / "costs", database),
            *latencies_by_connect(Path(folder) / "connect", database),
        ]
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    return show(figures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
