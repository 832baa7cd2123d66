"""What a snapshot in memory and its restore cost, against memcpy of the same bytes in the same process.

`python -m autotune.benchmarks.snapshot` prints a table and exits with 1 when a target is missed. The plant is
a model with Adam's state and gradients present. The targets hold for 100 MB and 1 GB; 5,000 small tensors are
shown, for there the cost is that of Python's and torch's work for each tensor, not of its bytes.

One thread, unless `OMP_NUM_THREADS` says otherwise: with more of them than free cores each tensor's copy
waits for the slowest, and the figures are the machine's load.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from autotune.generators import Generators
from autotune.plant import Plant
from autotune.snapshots import SnapshotRing

from .figures import Figure, show

LIMIT = 1.5
SIZES = (("100 MB", 100_000_000, 99, 31), ("1 GB", 1_000_000_000, 99, 11))
"""Label, bytes, tensors, rounds."""
SMALL = ("5,000 small", 20_000_000, 4_998, 11)


def figures() -> list[Figure]:
    """Measure."""
    settle_threads()
    found: list[Figure] = []
    for label, nbytes, tensors, rounds in (*SIZES, SMALL):
        times = measure(nbytes, tensors, rounds)
        limit = None if label == SMALL[0] else LIMIT
        found.append(Figure(f"{label}: memcpy", milliseconds(times["memcpy"]), "ms"))
        for job in ("snapshot", "restore"):
            found.append(Figure(f"{label}: {job}", milliseconds(times[job]), "ms"))
            found.append(limited(f"{label}: {job} over memcpy", ratio(times, job, "memcpy"), limit))
    return found


def measure(nbytes: int, tensors: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round for a memcpy, a snapshot and a restore of a plant of this size."""
    ring = SnapshotRing(adam_plant(nbytes, tensors), capacity=2)
    for step in range(3):  # every slot is in use once, its pages are there
        ring.restore(ring.capture(step, {}))
    source = torch.ones(ring.snapshots[-1].nbytes, dtype=torch.uint8)
    target = torch.zeros_like(source)
    step = 3

    def capture() -> None:
        nonlocal step
        step += 1
        ring.capture(step, {})

    return alternate(
        {
            "memcpy": lambda: target.copy_(source),
            "snapshot": capture,
            "restore": lambda: ring.restore(ring.snapshots[-1]),
        },
        rounds,
    )


def settle_threads() -> None:
    """One thread, unless the environment says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def adam_plant(nbytes: int, tensors: int) -> Plant:
    """A plant of about `nbytes`: weights of two sizes, and the two moments of Adam, `tensors` in all."""
    count = tensors // 3
    unit = nbytes // 4 // 3 // count
    sizes = [unit // 2 if i % 2 else unit + unit // 2 for i in range(count)]
    model = nn.ParameterList([nn.Parameter(torch.randn(size)) for size in sizes])
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    return Plant(model, optimizer, {}, Generators())


def alternate(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each job in each round; the jobs take turns, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Mapping[str, list[float]], job: str, base: str) -> float:
    """The median over the rounds of one job's time by another's."""
    return statistics.median(a / b for a, b in zip(times[job], times[base], strict=True))


def milliseconds(seconds: list[float]) -> float:
    """The median."""
    return 1e3 * statistics.median(seconds)


def limited(name: str, value: float, limit: float | None) -> Figure:
    """A ratio, with its limit where it has one."""
    if limit is None:
        return Figure(name, value, "×")
    return Figure(name, value, "×", f"≤ {limit:g}", value <= limit)


if __name__ == "__main__":
    sys.exit(show(figures()))
