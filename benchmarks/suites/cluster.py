"""A suite worked off by a Ray cluster; the store stays with the process that drives it."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from typing import Any

import torch

from autotune.records import TuneError

from .catalogue import Request
from .plan import Item, Result, Search
from .progress import Progress
from .runner import attempt, processes
from .store import Store

LOCAL = "local"
"""The address that starts a Ray here, and ends it again."""


def run(store: Store, request: Request, device: str, address: str, at_most: int | None = None) -> None:
    """Work off what is open, and return when nothing is left that can be run.

    The machines of the cluster have this package, the user's modules and the data where this one has them.

    Args:
        store: as made by `prepare.prepare`.
        request: the same.
        device: the same; a task has a core, or a GPU.
        address: of the cluster, as for `ray.init`, or `local`.
        at_most: tasks at a time; None: as many as the cluster has cores or GPUs.

    Raises:
        TuneError: when Ray is missing, does not answer, or a machine of it cannot make the suite.
    """
    try:
        import ray
        from ray.util.queue import Queue
    except ImportError:
        raise TuneError("--ray needs Ray; pip install 'autotune-torch[ray]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            ray.init(LOCAL, num_cpus=at_most or processes("cpu"), include_dashboard=False, **quiet)
        else:
            _knock(address)  # Ray itself waits for minutes
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise TuneError(
            f"--ray is the address of a running Ray, or {LOCAL}, got {address!r}: {error}"
        ) from error
    flying: dict[Any, Item] = {}
    try:
        has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        devices = has.get("GPU" if device == "cuda" else "CPU", 0)
        if devices < 1:
            raise TuneError(f"a cluster for --device {device} has one, got {address!r} with {has}")
        slots = int(min(at_most or devices, devices))
        task = ray.remote(num_cpus=1, num_gpus=int(device == "cuda"))(_task)
        trials = Queue(actor_options={"num_cpus": 0})
        with Progress(store, slots) as progress:
            while store.busy():
                while len(flying) < slots and (item := store.claim()) is not None:
                    flying[task.remote(request, item, device, os.getcwd(), trials)] = item
                if not flying:
                    time.sleep(0.5)  # what is being run is another driver's
                    continue
                done, _ = ray.wait(list(flying), timeout=0.5)
                for search, number, trial in trials.get_nowait_batch(trials.qsize()):
                    store.keep(search, number, trial)
                for reference in done:
                    result, seconds = _result(reference)
                    store.finish(flying.pop(reference), result, seconds)
                progress.show()
    finally:
        for item in flying.values():
            store.release(item)
        ray.shutdown()


def _knock(address: str) -> None:
    """See that something answers at HOST:PORT or ray://HOST:PORT; other addresses are Ray's to judge."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


def _task(request: Request, item: Item, device: str, here: str, trials: Any) -> tuple[Result, float]:
    """An item on a machine of the cluster: what came of it, and its seconds."""
    if here not in sys.path:
        sys.path.insert(0, here)
    torch.set_num_threads(1)
    known = len(item.known) if isinstance(item, Search) else 0
    numbers = iter(range(known, sys.maxsize))
    suite = request.make()
    start = time.perf_counter()
    result = attempt(
        suite, item, torch.device(device), lambda trial: trials.put((item, next(numbers), trial))
    )
    return result, time.perf_counter() - start


def _result(reference: Any) -> tuple[Result, float]:
    """What a task returned; the error of one whose process or machine was lost, again and again."""
    import ray

    try:
        found: tuple[Result, float] = ray.get(reference)
        return found
    except ray.exceptions.RayTaskError as error:
        raise TuneError(f"a machine of the cluster cannot make the suite: {error.cause!r}") from error
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}", 0.0
