"""A suite worked off by several processes of this machine."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import joblib  # type: ignore[import-untyped]
import torch

from autotune.records import TuneError

from . import baseline
from .arms import Baseline
from .catalogue import Request
from .plan import Item, Job, Result, Search, baselines, planned, present
from .progress import Progress
from .rehearsal import brief
from .results import Outcome, Trial
from .run import execute
from .store import Store, StoreError
from .suite import Suite
from .workload import healthy

STOPS_WITHIN = 5.0
"""Seconds that a worker has to end when it is told to."""
SPAWN = multiprocessing.get_context("spawn")
Keep = Callable[[Trial], object]


def processes(device: str) -> int:
    """How many run at a time: one a core that this process may use, or one a GPU."""
    return torch.cuda.device_count() if device == "cuda" else int(joblib.cpu_count())


def run(store: Store, request: Request, device: str, processes: int) -> None:
    """Work off what is open, and return when nothing is left that can be run.

    Args:
        store: as made by `prepare.prepare`.
        request: the same.
        device: the same.
        processes: how many at a time; with `cuda` they share the GPUs that there are.

    Raises:
        TuneError: when a worker cannot even begin.
    """
    if processes < 1:
        raise TuneError(f"a suite is run by at least 1 process, got {processes}")
    workers: dict[int, SpawnProcess] = {}
    begun = SPAWN.Event()
    try:
        with Progress(store, processes) as progress:
            while store.busy():
                for number in range(processes):
                    if number not in workers:
                        workers[number] = _start(store.folder, request, device, number, begun)
                wait([worker.sentinel for worker in workers.values()], timeout=0.5)
                for number, worker in list(workers.items()):
                    if worker.is_alive():
                        continue
                    code = worker.exitcode or 0  # negative: killed by a signal, and the store counts it
                    if code > 0 or (code < 0 and not begun.is_set()):
                        raise TuneError(f"worker {number} has ended with exit code {code}")
                    del workers[number]
                progress.show()
    finally:
        _stop(list(workers.values()))


def attempt(suite: Suite, item: Item, device: torch.device, keep: Keep) -> Result:
    """Run an item; an error that it raises is its result."""
    try:
        return _search(suite, item, device, keep) if isinstance(item, Search) else _cell(suite, item, device)
    except StoreError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:
            raise
        return brief(error)


def _search(suite: Suite, search: Search, device: torch.device, keep: Keep) -> tuple[Trial, ...]:
    workload = baselines(suite)[search.workload]
    return baseline.search(workload, search.method, search.trials, device, search.known, keep)


def _cell(suite: Suite, job: Job, device: torch.device) -> Outcome:
    cell = job.cell
    workload, arm = suite.workload(cell.workload), suite.arm(cell.arm)
    if arm == Baseline():
        workload = healthy(workload)
    start = job.tuned if cell.factor is None else job.tuned.scaled(cell.factor)
    return execute(workload, arm, start, cell.seed, cell.budget, device)


def _start(folder: Path, request: Request, device: str, number: int, begun: Event) -> SpawnProcess:
    worker = SPAWN.Process(
        target=_work, args=(folder, request, device, number, begun), name=f"suite worker {number}"
    )
    with _one_thread() if device == "cpu" else contextlib.nullcontext():
        worker.start()
    return worker


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """In processes that are started meanwhile; OpenMP reads it when torch is imported."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _stop(workers: list[SpawnProcess]) -> None:
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + STOPS_WITHIN
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
        worker.kill()
        worker.join()


def _work(folder: Path, request: Request, device_name: str, number: int, begun: Event) -> None:
    """What a worker does: it ends when nothing is left, or when the process that started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver tells us when to end
    # Temporary folders are tidied away. Ray, in a search for a population, sets the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(signal.SIGTERM))
    logging.getLogger("autotune").setLevel(logging.ERROR)  # advice to a person, which is in the events
    device = torch.device(device_name)
    if device.type == "cuda":
        device = torch.device("cuda", number % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    driver = multiprocessing.parent_process()
    assert driver is not None
    try:
        suite, store = present(request.make()), Store(folder)
        store.limit(planned(suite))
        begun.set()
        work(store, suite, device, driver.is_alive)
    except TuneError as error:
        sys.exit(f"autotune: {error}")


def work(store: Store, suite: Suite, device: torch.device, go_on: Callable[[], bool]) -> None:
    """Run what is open in this process, one item after another, until nothing is left that can be run.

    Args:
        store: as made by `prepare.prepare`.
        suite: of the same request.
        device: to train on.
        go_on: asked before each item.
    """
    while go_on():
        item = store.claim()
        if item is not None:
            _finish(store, item, partial(attempt, suite, item, device))
        elif store.busy():
            time.sleep(0.2)  # another process is at a search that cells wait for
        else:
            return


def _finish(store: Store, item: Item, run: Callable[[Keep], Result]) -> None:
    """Run an item that this process holds, and write down what comes of it, its trials as they come."""
    numbers = itertools.count(len(item.known) if isinstance(item, Search) else 0)
    start = time.perf_counter()

    def keep(trial: Trial) -> None:
        assert isinstance(item, Search)
        store.keep(item, next(numbers), trial)

    try:
        result = run(keep)
        store.finish(item, result, time.perf_counter() - start)
    except SystemExit:
        store.release(item)
        raise
