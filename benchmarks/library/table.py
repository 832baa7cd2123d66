"""The table of all proofs, made in several processes."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from .proof import Proof, Scores, on_healthy, on_plants, on_real

THEMES = ("rates", "bandits", "searches", "schedules", "gradients", "capacity", "growing", "reinforcement")
PLANTS, HEALTHY = 200, 50
CHUNK = 25
"""Plants that one task of a process simulates."""
HARM = 1.01
"""The largest score over that of doing nothing, where nothing is wrong."""


def proofs() -> list[Proof]:
    """All of them, theme by theme."""
    modules = [importlib.import_module(f".{theme}", __package__) for theme in THEMES]
    return [proof for module in modules for proof in module.PROOFS]


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one proof."""

    proof: Proof
    plants: Scores
    healthy: NDArray[np.float64]
    real: Scores

    @property
    def faults(self) -> list[str]:
        """What a policy must do and this one does not; empty for a peer."""
        if self.proof.peer:
            return []
        out = []
        if not np.median(self.plants.against(self.plants.nothing)) < 1:
            out.append("does not beat doing nothing on the plants")
        if not np.median(self.real.against(self.real.nothing)) < 1:
            out.append(f"does not beat doing nothing on {self.proof.real.name}")
        if self.healthy.max() > HARM:
            out.append(f"harms {np.count_nonzero(self.healthy > HARM)} of {len(self.healthy)} healthy plants")
        return out


def measure(wanted: Sequence[Proof], plants: int = PLANTS, healthy: int = HEALTHY) -> Iterator[Row]:
    """Run proofs in as many processes as there are cores.

    Args:
        wanted: some of `proofs()`.
        plants: how many, seeds 0, 1, ...
        healthy: how many.
    """
    names = [proof.name for proof in wanted]
    with (
        ProcessPoolExecutor(os.cpu_count(), initializer=_one_thread) as pool,
        Progress(transient=True) as bar,
    ):
        work = {
            name: (
                [pool.submit(_plants, name, seeds) for seeds in _chunks(plants)],
                [pool.submit(_healthy, name, seeds) for seeds in _chunks(healthy)],
                pool.submit(_real, name),
            )
            for name in names
        }
        task = bar.add_task("proofs", total=len(names))
        for proof in wanted:
            on, well, real = work[proof.name]
            parts = [future.result() for future in on]
            merged = Scores(
                [s for part in parts for s in part.nothing],
                [s for part in parts for s in part.policy],
                [s for part in parts for s in part.fixed],
            )
            yield Row(proof, merged, np.concatenate([future.result() for future in well]), real.result())
            bar.advance(task)


def markdown(rows: Sequence[Row]) -> str:
    """The table, with what it means and what it was made with."""
    made_with = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    lines = [
        "# The policy library against doing nothing and against the best fixed setting",
        "",
        f"`python -m autotune.benchmarks.library` on {platform.machine()}, {os.cpu_count()} cores, CPU, one "
        f"thread a process; Python {platform.python_version()}, {made_with}.",
        "",
        "Scores are losses (the lower, the better), given as the policy's over that of the other arm, seed "
        "by seed: the median, and the worst. *Best fixed* is the best setting of a grid, chosen in "
        "hindsight: for each plant by its very score, on real workloads by the median over the seeds. "
        "*Better*: the share of plants on which the policy ends more than 1 % below doing nothing / above "
        "it. *Healthy*: plants on which nothing is wrong, at the best fixed setting of the grid. Every probe "
        "and rewound step counts. The policies' constants were set on other seeds; for digits, other seeds "
        "are other splits of the same images.",
        "",
        "| policy | plants: / nothing | better / worse | / best fixed | healthy: median, worst "
        "| real workload | / nothing | / best fixed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        plants, real = row.plants.against(row.plants.nothing), row.real
        cells = [
            row.proof.name + (" *(peer)*" if row.proof.peer else ""),
            _both(plants),
            f"{np.mean(plants < 0.99):.0%} / {np.mean(plants > 1.01):.0%}",
            _both(row.plants.against(row.plants.fixed)),
            _both(row.healthy),
            row.proof.real.name,
            _both(real.against(real.nothing)),
            _both(real.against(real.fixed)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [f"- **{row.proof.name}**: {row.proof.note}" for row in rows if row.proof.note]
    faults = [f"- **{row.proof.name}** {'; '.join(row.faults)}." for row in rows if row.faults]
    if notes:
        lines += ["", "## Notes", "", *notes]
    if faults:
        lines += ["", "## Where the library falls short", "", *faults]
    return "\n".join(lines) + "\n"


def _both(ratios: NDArray[np.float64]) -> str:
    return f"{_short(float(np.median(ratios)))}, {_short(float(ratios.max()))}"


def _short(ratio: float) -> str:
    return f"{ratio:.3f}" if 0.1 < ratio < 10 else f"{ratio:.2g}"


def _chunks(count: int) -> list[range]:
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _one_thread() -> None:
    torch.set_num_threads(1)


def _named(name: str) -> Proof:
    return next(proof for proof in proofs() if proof.name == name)


def _plants(name: str, seeds: range) -> Scores:
    return on_plants(_named(name), seeds)


def _healthy(name: str, seeds: range) -> NDArray[np.float64]:
    return on_healthy(_named(name), seeds)


def _real(name: str) -> Scores:
    return on_real(_named(name))
