"""What an attached tuner costs when it decides nothing.

`OMP_NUM_THREADS=1 python -m autotune.benchmarks.overhead` trains two copies of one model in blocks of steps,
in turn one bare and one with a tuner attached, in the same process, and compares medians of the pairs:

- all sensors on, AdamW, 10 million parameters in 100 tensors, batch 32: at most 2 % over the bare loop;
- idle path, the steps on which nothing is due, no sensors, a model of 30 parameters: at most 20 µs a step.

Snapshots are off (they have a benchmark of their own). Further rows say what they add at the default
interval, and what a tick every ten steps, which takes the losses over into history and journal, adds to the
idle path.

Both clocks are read: the processor time of the whole process, the tuner's threads included, which other work
on the machine disturbs little, and the wall clock, which waiting would show on. A target is missed when the
processor time is over it, or the wall clock by more than two standard errors. Exits 1 then. Takes about two
minutes.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autotune import AutoTuner, Rewinding

from .figures import Figure, show

PERCENT = 2.0
MICROSECONDS = 20.0
SNAPSHOT_EVERY = 100
"""The tuner's own choice for a run of unknown length."""
Block = Callable[[int], None]


class Timing(NamedTuple):
    """Seconds a step."""

    bare: float
    added: float
    """By processor time."""
    wall: float
    """The same by the wall clock, and its standard error."""
    error: float


def model_of_ten_million() -> nn.Module:
    """9,968,100 parameters in 100 tensors: fifty square layers."""
    return nn.Sequential(*(layer for _ in range(50) for layer in (nn.Linear(446, 446), nn.Tanh())))


def paired(bare: Block, tuned: Block, steps: int, pairs: int) -> Timing:
    """Time blocks of both in turn, the order swapped from pair to pair, and take medians over the pairs.

    The standard error is that of a median, 1.25 σ/√n, with σ from the median absolute deviation.
    """

    def timed(block: Block) -> tuple[float, float]:
        wall, processor = time.perf_counter(), time.process_time()
        block(steps)
        return (time.perf_counter() - wall) / steps, (time.process_time() - processor) / steps

    bare(steps)
    tuned(2 * steps)  # the first samples allocate
    results: list[tuple[float, float, float]] = []
    for pair in range(pairs):
        if pair % 2:
            (wall, processor), (tuned_wall, tuned_processor) = timed(bare), timed(tuned)
        else:
            (tuned_wall, tuned_processor), (wall, processor) = timed(tuned), timed(bare)
        results.append((processor, tuned_processor - processor, tuned_wall - wall))
    base, added, slower = (statistics.median(column) for column in zip(*results, strict=True))
    deviation = statistics.median(abs(wall - slower) for *_, wall in results)
    return Timing(base, added, slower, 1.25 * 1.4826 * deviation / pairs**0.5)


def compare(
    make: Callable[[], nn.Module],
    kind: type[torch.optim.Optimizer],
    inputs: Tensor,
    steps: int,
    pairs: int,
    **arguments: object,
) -> Timing:
    """`paired` for a model, once bare and once with a tuner that has these arguments."""
    torch.manual_seed(0)
    loader = [inputs] * 1000

    def start(tuner_of: Callable[[nn.Module, torch.optim.Optimizer], AutoTuner] | None) -> Block:
        model = make()
        optimizer = kind(model.parameters(), lr=1e-4)  # type: ignore[call-arg]
        tuner = tuner_of(model, optimizer) if tuner_of else None
        batches: Iterator[Tensor] = tuner.batches(loader, epochs=10**9) if tuner else itertools.cycle(loader)

        def block(steps: int) -> None:
            for batch in itertools.islice(batches, steps):
                loss = model(batch).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if tuner:
                    tuner.report(loss=loss)

        return block

    with tempfile.TemporaryDirectory() as folder:
        tuners: list[AutoTuner] = []

        def attach(model: nn.Module, optimizer: torch.optim.Optimizer) -> AutoTuner:
            tuners.append(
                AutoTuner(model, optimizer, folder=Path(folder) / "run", mlflow=False, **arguments)  # type: ignore[arg-type]
            )
            return tuners[0]

        result = paired(start(None), start(attach), steps, pairs)
        tuners[0].close()
    return result


def figures() -> list[Figure]:
    """Measure."""
    torch.set_num_threads(1)
    none = Rewinding(capacity=0)
    large = (model_of_ten_million, torch.optim.AdamW, torch.randn(32, 446))
    small = (lambda: nn.Linear(29, 1), torch.optim.SGD, torch.randn(1, 29))
    sensors = compare(*large, steps=10, pairs=30, rewinding=none)
    with_snapshots = compare(*large, steps=10, pairs=10, rewinding=Rewinding(every=10))
    idle = compare(*small, steps=1000, pairs=15, rewinding=none, sensors=[], sample_every=1000)
    ticking = compare(*small, steps=1000, pairs=15, rewinding=none, sensors=[])
    snapshot = max(0.0, 10 * (with_snapshots.added - sensors.added)) / SNAPSHOT_EVERY
    share = 100 / sensors.bare
    return [
        *_added("all sensors on", sensors, share, "%", PERCENT),
        Figure(
            f"and a snapshot every {SNAPSHOT_EVERY} steps: added, processor",
            share * (sensors.added + snapshot),
            "%",
        ),
        *_added("idle, no sensors", idle, 1e6, "µs", MICROSECONDS),
        *_added("and a tick every 10 steps", ticking, 1e6, "µs", None),
    ]


def _added(name: str, timing: Timing, scale: float, unit: str, target: float | None) -> list[Figure]:
    limit = "" if target is None else f"≤ {target:g}"
    most = float("inf") if target is None else target / scale
    by_processor, by_wall = timing.added <= most, timing.wall - 2 * timing.error <= most
    return [
        Figure(f"{name}: bare step", 1e6 * timing.bare, "µs"),
        Figure(
            f"{name}: added, processor", scale * timing.added, unit, limit, by_processor if limit else None
        ),
        Figure(
            f"{name}: added, wall clock",
            scale * timing.wall,
            unit,
            limit,
            by_wall if limit else None,
            scale * timing.error,
        ),
    ]


if __name__ == "__main__":
    sys.exit(show(figures()))
