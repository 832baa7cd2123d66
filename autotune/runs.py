"""Finding runs on disk, and what there is to say about one, read from its journal alone."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from . import journal_tables as tables
from . import manifest
from .journal import Journal, MetricRow, RunStatus
from .records import Decision, Outcome, Ramp, Release, Rewind, Set, TuneError, Value, action_to_json

LATEST = "latest"


class UnknownRun(TuneError):
    """No run is meant by what was given, or more than one."""


def find(root: Path) -> list[Path]:
    """The folders of all runs under `root`, the one that was started last first.

    Raises:
        UnknownRun: when `root` is not a folder.
    """
    if not root.is_dir():
        raise UnknownRun(
            f"runs are kept in a folder, and there is no {root}; train one, or give another folder by --root"
        )
    folders = [path.parent for path in root.glob(f"*/{tables.FILE}")]
    return sorted(folders, key=lambda folder: (_created(folder), folder.name), reverse=True)


def resolve(run: str | None, root: Path) -> Path:
    """The folder of one run.

    Args:
        run: a run's folder, its name under `root`, or the beginning of its name if no other begins so;
            None or `latest`: the run that was started last.
        root: where the runs are.

    Raises:
        UnknownRun: when there is no such run, or several.
    """
    if run is not None and (Path(run) / tables.FILE).is_file():
        return Path(run)
    folders = find(root)
    if run is None or run == LATEST:
        if not folders:
            raise UnknownRun(f"there is no run in {root}; train one, or give another folder by --root")
        return folders[0]
    for folder in folders:
        if folder.name == run:
            return folder
    matching = [folder.name for folder in folders if folder.name.startswith(run)]
    if len(matching) > 1:
        raise UnknownRun(
            f"the beginning of a run's name has to be unique, got {run!r}, which begins {_some(matching)}"
        )
    if not matching:
        raise UnknownRun(
            f"a run is a folder, a name in {root} or the beginning of one, got {run!r}; "
            f"there are {_some([folder.name for folder in folders]) or 'none'}"
        )
    return root / matching[0]


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
class Saved:
    """A checkpoint on disk, as its manifest has it."""

    name: str
    step: int
    nbytes: int
    pinned: bool
    score: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run stands."""

    folder: Path
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
    mlflow: Mapping[str, Any] | None
    """`tracking_uri`, and once something was delivered `experiment_id` and `run_id`; None: MLflow is off."""


def summarise(folder: Path) -> Summary:
    """Read how a run stands.

    Raises:
        TuneError: when the folder holds no journal, or one that cannot be read.
    """
    journal = Journal.open(folder)
    try:
        meta, decisions = journal.meta(), journal.decisions()
        newest = _newest(folder, journal.metric_names())
        positions = [(row.spent, row.branch, row.step) for row in newest]
        positions += [(decision.spent, decision.branch, decision.step) for decision in decisions]
        spent, branch, step = max(positions, default=(0, 0, 0))
        target = meta.get("mlflow")
        return Summary(
            folder=folder,
            status=journal.status(),
            created=meta["created"],
            step=step,
            spent=spent,
            branch=branch,
            total_steps=meta["total_steps"],
            policies=meta["policies"],
            last={row.name: row.value for row in newest},
            knobs=[_knob(name, facts, newest, decisions) for name, facts in meta["hyperparameters"].items()],
            decisions=decisions,
            checkpoints=_checkpoints(folder / "checkpoints"),
            mlflow=target and {**target, **journal.delivered().get("run", {})},
        )
    finally:
        journal.close()


def undelivered(folder: Path) -> tuple[int, int]:
    """How many metrics and how many decisions MLflow does not have yet."""
    journal = Journal.open(folder)
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


def _newest(folder: Path, names: Sequence[str]) -> list[MetricRow]:
    """The value of each metric that was written last, without reading all the others."""
    t = tables.metrics
    engine = tables.connect(folder / tables.FILE)
    try:
        with engine.connect() as connection:
            rows = []
            for name in names:
                query = sa.select(t).where(t.c.name == name).order_by(t.c.id.desc()).limit(1)
                rows.append(MetricRow(*connection.execute(query).one()))
    finally:
        engine.dispose()
    return [row if row.value is not None else row._replace(value=math.nan) for row in rows]


def _knob(
    name: str, facts: Mapping[str, Any], newest: Sequence[MetricRow], decisions: Sequence[Decision]
) -> Knob:
    """The newest value is in a metric or in a decision made since; the owner is who decided last."""
    value: Value | None = None
    when, owner = -1, "policy"
    for row in newest:
        if row.name == f"hp/{name}":
            value, when = row.value, row.spent
    for decision in decisions:
        if not decision.applied:
            continue
        if decision.spent >= when and name in decision.after:
            value, when = decision.after[name], decision.spent
        actions = decision.action.then if isinstance(decision.action, Rewind) else (decision.action,)
        for action in actions:
            if isinstance(action, Set | Ramp | Release) and action.name == name:
                human = decision.source.startswith("human:") and not isinstance(action, Release)
                owner = decision.source if human else "policy"
    return Knob(name, value, owner, facts["low"], facts["high"], facts["unit"])


def _checkpoints(folder: Path) -> list[Saved]:
    # The store itself could tell, but takes torch, and a second, to import.
    found = []
    for path in folder.glob("[!.]*"):
        with contextlib.suppress(TuneError):
            about = manifest.read(path)
            nbytes = sum(file["size"] for file in about["files"].values())
            found.append(Saved(path.name, about["step"], nbytes, about["pinned"], about["score"]))
    return sorted(found, key=lambda saved: (saved.step, saved.name))


def _created(folder: Path) -> float:
    try:
        journal = Journal.open(folder)
    except TuneError:  # it is listed all the same, as unreadable
        return folder.stat().st_mtime
    try:
        return float(journal.meta()["created"])
    finally:
        journal.close()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
