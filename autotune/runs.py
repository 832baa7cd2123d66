"""Finding runs in a folder or a database, and what there is to say about one, read from its journal alone."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import journal_database
from .journal import Journal, MetricRow, RunStatus
from .journal_tables import FILE
from .places import STORE, DatabaseRun, Place, Saved, is_database, shown
from .records import Decision, Outcome, TuneError, Value, action_to_json

LATEST = "latest"
ROOT = "autotune-runs"
STORES = ("AUTOTUNE_STORE", "AUTOTUNE_RUNS")
"""Where the environment says where the runs are: a database, or a folder."""


class UnknownRun(TuneError):
    """No run is meant by what was given, or more than one."""


def default_root() -> str:
    """Where the runs are, as the environment has it; else `autotune-runs` in the current folder."""
    return next(filter(None, map(os.environ.get, STORES)), ROOT)


def find(root: str | Path) -> list[Place]:
    """All runs under `root`, the one that was started last first.

    Args:
        root: a folder, or the address of a database.

    Raises:
        UnknownRun: when `root` is not a folder.
        TuneError: when a database cannot be used.
    """
    if is_database(root):
        return [DatabaseRun(str(root), name) for name in journal_database.names(str(root))]
    root = Path(root)
    if not root.is_dir():
        raise UnknownRun(
            f"runs are kept in a folder, and there is no {root}; train one, or give another folder by --root"
        )
    folders = {path.parent for file in (FILE, STORE) for path in root.glob(f"*/{file}")}
    return [*sorted(folders, key=lambda folder: (_created(folder), folder.name), reverse=True)]


def resolve(run: str | None, root: str | Path) -> Place:
    """Where one run is.

    Args:
        run: a run's folder, its name under `root`, or the beginning of its name if no other begins so;
            None or `latest`: the run that was started last.
        root: where the runs are: a folder, or the address of a database.

    Raises:
        UnknownRun: when there is no such run, or several.
        TuneError: when a database cannot be used.
    """
    if run is not None and any((Path(run) / file).is_file() for file in (FILE, STORE)):
        return Path(run)
    places = find(root)
    where = shown(str(root)) if is_database(root) else root
    if run is None or run == LATEST:
        if not places:
            raise UnknownRun(f"there is no run in {where}; train one, or give another folder by --root")
        return places[0]
    matching = [place for place in places if place.name.startswith(run)]
    exact = [place for place in matching if place.name == run]
    if exact:
        return exact[0]
    if len(matching) > 1:
        raise UnknownRun(
            f"the beginning of a run's name has to be unique, got {run!r}, which begins {_some(matching)}"
        )
    if not matching:
        raise UnknownRun(
            f"a run is a folder, a name in {where} or the beginning of one, got {run!r}; "
            f"there are {_some(places) or 'none'}"
        )
    return matching[0]


@dataclass(frozen=True, slots=True)
class Knob:
    """A hyperparameter as it stood last."""

    name: str
    value: Value | None
    """None: never recorded."""
    owner: str
    low: float | None
    high: float | None
    unit: str


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run stands."""

    place: Place
    folder: Path
    """Of its files: checkpoints, logs; it is on the machine that trains the run."""
    status: RunStatus
    created: float
    """Seconds since the epoch."""
    step: int
    spent: int
    branch: int
    total_steps: int | None
    policies: Sequence[str]
    last: Mapping[str, float]
    """The newest value of each metric."""
    knobs: Sequence[Knob]
    decisions: Sequence[Decision]
    checkpoints: Sequence[Saved]
    """Those whose manifest is whole, by step."""
    paused: bool
    """By a person."""
    mlflow: Mapping[str, Any] | None
    """`tracking_uri`, and once something was delivered `experiment_id` and `run_id`; None: MLflow is off."""


def summarise(place: Place) -> Summary:
    """Read how a run stands.

    Raises:
        TuneError: when there is no journal, or one that cannot be read.
    """
    journal = Journal.open(place)
    try:
        meta, decisions = journal.meta(), journal.decisions()
        newest = journal.newest()
        positions = [(row.spent, row.branch, row.step) for row in newest]
        positions += [(decision.spent, decision.branch, decision.step) for decision in decisions]
        spent, branch, step = max(positions, default=(0, 0, 0))
        target = meta.get("mlflow")
        return Summary(
            place=place,
            folder=journal.folder,
            status=journal.status(),
            created=meta["created"],
            step=step,
            spent=spent,
            branch=branch,
            total_steps=meta["total_steps"],
            policies=meta["policies"],
            last={row.name: row.value for row in newest},
            knobs=[
                _knob(name, facts, newest, decisions, meta.get("live", {}))
                for name, facts in meta["hyperparameters"].items()
            ],
            decisions=decisions,
            checkpoints=journal.checkpoints(),
            paused=journal.status() == "running" and meta.get("live", {}).get("paused", False),
            mlflow=target and {**target, **journal.delivered().get("run", {})},
        )
    finally:
        journal.close()


def undelivered(place: Place) -> tuple[int, int]:
    """How many metrics and how many decisions MLflow does not have yet."""
    journal = Journal.open(place)
    try:
        delivered = journal.delivered()
        metrics = journal.metric_rows(delivered.get("metrics", {}).get("id", 0), limit=2**31)
        missing = [d for d in journal.decisions() if delivered.get(f"decision/{d.id}") != d.status]
        return len(metrics), len(missing)
    finally:
        journal.close()


def document(decision: Decision, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A decision and what came of it as plain JSON values; NaN and infinities as strings."""
    fields = {field.name: getattr(decision, field.name) for field in dataclasses.fields(decision)}
    mine = [dataclasses.asdict(outcome) for outcome in outcomes if outcome.decision == decision.id]
    plain: dict[str, Any] = _plain({**fields, "action": action_to_json(decision.action), "outcomes": mine})
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _knob(
    name: str,
    facts: Mapping[str, Any],
    newest: Sequence[MetricRow],
    decisions: Sequence[Decision],
    live: Mapping[str, Any],
) -> Knob:
    """The newest value is in a metric, or in a decision made since; at the start the run has told it."""
    value: Value | None = live.get("values", {}).get(name)
    when = -1
    for row in newest:
        if row.name == f"hp/{name}":
            value, when = row.value, row.spent
    for decision in decisions:
        if not decision.applied:
            continue
        if decision.spent >= when and name in decision.after:
            value, when = decision.after[name], decision.spent
    return Knob(
        name, value, live.get("owners", {}).get(name, "policy"), facts["low"], facts["high"], facts["unit"]
    )


def _created(folder: Path) -> float:
    try:
        journal = Journal.open(folder)
    except TuneError:  # it is listed all the same, as unreadable
        return folder.stat().st_mtime
    try:
        return float(journal.meta()["created"])
    finally:
        journal.close()


def _some(places: Sequence[Place]) -> str:
    names = [place.name for place in places]
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
