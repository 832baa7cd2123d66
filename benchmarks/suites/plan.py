"""What a suite has to run, in which order, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from autotune.records import TuneError

from .results import Cell, Config, Method, Outcome, Trial
from .suite import Suite
from .workload import Workload, healthy


@dataclass(frozen=True, slots=True)
class Search:
    """A search for a workload's baseline; `known` are trials of one that was cut off."""

    workload: str
    method: Method
    trials: int
    known: tuple[Trial, ...] = ()

    @property
    def key(self) -> str:
        """Unique, readable."""
        return f"{self.workload} | search: {self.method}"


@dataclass(frozen=True, slots=True)
class Job:
    """A cell whose baseline is found."""

    cell: Cell
    tuned: Config

    @property
    def key(self) -> str:
        """See `Cell.key`."""
        return self.cell.key


Item: TypeAlias = Search | Job
Result: TypeAlias = Outcome | Sequence[Trial] | str
"""What came of a cell, of a search, or the error that ended either."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A search or a cell, with its place in the order of work and its cost in optimizer steps."""

    item: Search | Cell
    place: float
    cost: float


@dataclass(frozen=True, slots=True)
class Defined:
    """A workload, the one whose baseline it is compared with, and numbers that may not change."""

    name: str
    base: str
    definition: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Status:
    """How far it is: items (searches and cells), what is being run, seconds of one process's work left."""

    finished: int
    planned: int
    errors: int
    running: tuple[str, ...]
    left: float | None


def baselines(suite: Suite) -> dict[str, Workload]:
    """The workloads that are searched, by name: those of the suite, or their healthy twins."""
    return {base.name: base for base in map(healthy, suite.workloads)}


def defined(suite: Suite) -> list[Defined]:
    """The suite's workloads and their baselines.

    Raises:
        TuneError: when a workload and its healthy twin do not have the same steps.
    """
    for one in suite.workloads:
        if one.steps != healthy(one).steps:
            raise TuneError(
                f"a workload and its healthy twin have the same steps, got {one.steps} of {one.name} and "
                f"{healthy(one).steps} of {healthy(one).name}"
            )
    workloads = {**baselines(suite), **{one.name: one for one in suite.workloads}}
    return [
        Defined(
            name,
            healthy(one).name,
            {"steps": one.steps, "epoch": one.epoch, "rate": one.rate, "target": one.target},
        )
        for name, one in workloads.items()
    ]


def planned(suite: Suite) -> list[Planned]:
    """Searches first, then cells seed by seed; the workloads take turns, so that a part covers them all."""
    items: list[Planned] = []
    for base in baselines(suite).values():
        for i, method in enumerate(suite.methods):
            place = (i + 0.5) / len(suite.methods) - 1
            search = Search(base.name, method, suite.trials)
            items.append(Planned(search, place, suite.trials * base.steps))
    for one in suite.workloads:
        cells = suite.cells(one.name)
        each = len(cells) / suite.seeds
        for i, cell in enumerate(cells):
            items.append(Planned(cell, cell.seed + (i % each + 0.5) / each, cell.budget * one.steps))
    return items


def lacking(suite: Suite) -> dict[str, str]:
    """Workloads whose data are not on this machine: the folder that `AUTOTUNE_DATA` lacks, by name."""
    root = os.environ.get("AUTOTUNE_DATA")
    needs = {one.name: getattr(one, "needs", None) for one in suite.workloads}
    return {
        name: folder
        for name, folder in needs.items()
        if folder is not None and not (root and Path(root, folder).is_dir())
    }


def present(suite: Suite) -> Suite:
    """The suite without the workloads that are `lacking`."""
    missing = lacking(suite)
    return replace(suite, workloads=tuple(one for one in suite.workloads if one.name not in missing))
