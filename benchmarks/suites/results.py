"""What is run, and what came of it: plain records, the same in the store, in files and in reports."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autotune.records import TuneError

Method = Literal["grid", "random", "tpe", "asha", "hyperband", "top_of_k", "pbt", "pb2"]
"""How a baseline is searched for."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a static run is told.

    Args:
        rate: the peak of its schedule.
        schedule: a key of `arms.SCHEDULES`, or `pieces`.
        weight_decay: None: the workload's usual one.
        pieces: of the schedule `pieces`, what a population found: from a part of the run in [0, 1) on, a
            rate and a weight decay.
    """

    rate: float
    schedule: str = "constant"
    weight_decay: float | None = None
    pieces: tuple[tuple[float, float, float], ...] = ()

    def scaled(self, factor: float) -> Config:
        """The same from `factor` times the rate."""
        return dataclasses.replace(
            self,
            rate=self.rate * factor,
            pieces=tuple((part, rate * factor, decay) for part, rate, decay in self.pieces),
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """A configuration that a search tried.

    Args:
        config: what it was told.
        loss: its selection loss at the end of what it was given, at most the initial one.
        spent: steps that it cost, evaluations included.
        pruned: it was stopped early.
        curve: (spent, selection loss) at its looks.
    """

    config: Config
    loss: float
    spent: float
    pruned: bool = False
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a suite.

    Args:
        workload: its name.
        arm: its name.
        factor: initial rate over the tuned one; None for an arm that ignores the rate.
        budget: total steps over the baseline's.
        seed: pairs the arms: the same data, weights and order.
    """

    workload: str
    arm: str
    factor: float | None
    budget: float
    seed: int

    @property
    def key(self) -> str:
        """Unique, readable."""
        rate = "" if self.factor is None else f" ×{self.factor:g}"
        return f"{self.workload} | {self.arm}{rate} | {self.budget:g} | {self.seed}"


@dataclass(frozen=True, slots=True)
class Look:
    """A measurement from outside, at the same `spent` for every arm."""

    spent: float
    selection: float
    rate: float
    """The first param group's, in the step before; NaN before the first."""


@dataclass(frozen=True, slots=True)
class Event:
    """A decision of a policy."""

    spent: int
    step: int
    source: str
    text: str
    status: str


@dataclass(slots=True)
class Outcome:
    """What came of one run; losses of the test part unless named otherwise; NaN where it was destroyed."""

    initial: float
    final: float
    best: float
    """Of the state whose selection loss was least."""
    initial_selection: float
    selection: float
    """Selection loss of the final state."""
    best_selection: float
    steps: int
    """Optimizer steps, rewound ones and those of trials included."""
    spent: float
    """`steps`, and what the arm's evaluations cost."""
    allowed: float
    """The most that it may spend."""
    seconds: float
    """Of training and of the arm's own evaluations; the looks from outside left out."""
    looks: list[Look] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Finished:
    """A cell and what came of it: an outcome, or the error that ended it."""

    cell: Cell
    outcome: Outcome | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """All that a report is made from.

    Args:
        suite: its name.
        command: that gives these results again.
        versions: of packages, Python and machine, by name.
        searches: trials of the baselines, by workload and method.
        tuned: the best of them, by workload.
        targets: selection losses to reach, by workload.
        steps: of a run of the baseline, by workload.
        cells: all that are finished.
        planned: how many cells there are.
    """

    suite: str
    command: str
    versions: Mapping[str, str]
    searches: Mapping[str, Mapping[Method, tuple[Trial, ...]]]
    tuned: Mapping[str, Config]
    targets: Mapping[str, float]
    steps: Mapping[str, int]
    cells: tuple[Finished, ...]
    planned: int


def pack(record: Any) -> Any:
    """A record as JSON values; NaN and infinities as strings, which JSON lacks."""
    if dataclasses.is_dataclass(record):
        return {f.name: pack(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {key: pack(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [pack(value) for value in record]
    if isinstance(record, float) and not math.isfinite(record):
        return str(record)
    return record


def config_from(data: Mapping[str, Any]) -> Config:
    """The inverse of `pack`."""
    pieces = tuple((float(part), float(rate), float(decay)) for part, rate, decay in data["pieces"])
    return Config(data["rate"], data["schedule"], data["weight_decay"], pieces)


def trial_from(data: Mapping[str, Any]) -> Trial:
    """The inverse of `pack`."""
    curve = tuple((float(spent), float(loss)) for spent, loss in data["curve"])
    loss, spent = float(data["loss"]), float(data["spent"])
    return Trial(config_from(data["config"]), loss, spent, data["pruned"], curve)


def cell_from(data: Mapping[str, Any]) -> Cell:
    """The inverse of `pack`."""
    return Cell(**data)


def outcome_from(data: Mapping[str, Any]) -> Outcome:
    """The inverse of `pack`."""
    numbers: dict[str, Any] = {
        key: float(value) if isinstance(value, str) else value
        for key, value in data.items()
        if key not in ("looks", "events")
    }
    looks = [Look(**{key: float(value) for key, value in look.items()}) for look in data["looks"]]
    return Outcome(**numbers, looks=looks, events=[Event(**event) for event in data["events"]])


def results_from(data: Mapping[str, Any]) -> Results:
    """The inverse of `pack`."""
    return Results(
        suite=data["suite"],
        command=data["command"],
        versions=data["versions"],
        searches={
            workload: {method: tuple(map(trial_from, trials)) for method, trials in methods.items()}
            for workload, methods in data["searches"].items()
        },
        tuned={workload: config_from(config) for workload, config in data["tuned"].items()},
        targets={workload: float(target) for workload, target in data["targets"].items()},
        steps=data["steps"],
        cells=tuple(
            Finished(
                cell_from(item["cell"]), item["outcome"] and outcome_from(item["outcome"]), item["error"]
            )
            for item in data["cells"]
        ),
        planned=data["planned"],
    )


def save(results: Results, path: Path) -> None:
    """Write results to a `.json.gz` file, the same bytes for the same results."""
    text = json.dumps(pack(results), allow_nan=False, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def load(path: Path) -> Results:
    """Read what `save` has written.

    Raises:
        TuneError: when the file is not there, or was not written by `save`.
    """
    try:
        return results_from(json.loads(gzip.decompress(path.read_bytes())))
    except FileNotFoundError:
        raise TuneError(f"results are read from a .json.gz file of a suite, got {path}: not there") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise TuneError(
            f"results are read from a file that `autotune bench report` has written, got {path}, which is "
            f"none or is damaged: {type(error).__name__}: {error}"
        ) from error
