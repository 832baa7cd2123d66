"""Finding runs in a folder or a database, and what there is to say about one, read from its journal alone."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import journal_database
from .journal import Journal, MetricRow, RunStatus
from .journal_tables import FILE
from .places import STORE, DatabaseRun, Place, Saved, is_database, shown
from .ramps import Running, running_from_json
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
    """How a hyperparameter stands."""

    name: str
    value: Value | None
    """None: never recorded."""
    owner: str
    low: float | None
    high: float | None
    unit: str
    pinned_until: int | None
    """The `spent` at which the pin ends."""
    ramp: Running | None
    """The ramp or schedule that moves it."""


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
    """The newest value of each metric, but for those of a branch that was left."""
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
        live, newest = meta.get("live", {}), {row.name: row for row in journal.newest()}
        positions = [(row.spent, row.branch, row.step) for row in newest.values()]
        positions += [(decision.spent, decision.branch, decision.step) for decision in decisions]
        spent, branch, step = max(positions, default=(0, 0, 0))
        step, spent = arrived(live, step, spent)
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
            last=values(live, journal.newest(step)),
            knobs=[
                stand(name, facts, live, step, newest, decisions)
                for name, facts in meta["hyperparameters"].items()
            ],
            decisions=decisions,
            checkpoints=journal.checkpoints(),
            paused=journal.status() == "running" and live.get("paused", False),
            mlflow=target and {**target, **journal.delivered().get("run", {})},
        )
    finally:
        journal.close()


def arrived(live: Mapping[str, Any], step: int, spent: int) -> tuple[int, int]:
    """The step and `spent` that a run has come to.

    Args:
        live: what the run has told, see `Engine.live`.
        step: on record last. Of a rewind that no step has followed, only `live` tells.
        spent: of that step.
    """
    first, begun = live.get("stretches", [[0, 0]])[-1]
    return (first, begun) if begun >= spent else (step, spent)


def kept(live: Mapping[str, Any], step: int, spent: int) -> bool:
    """Whether what was measured there counts: no rewind since then has gone back behind it."""
    return all(step <= first for first, begun in live.get("stretches", ()) if begun >= spent)


def values(live: Mapping[str, Any], newest: Iterable[MetricRow]) -> dict[str, float]:
    """Those that were not measured on a branch that was left since."""
    return {row.name: row.value for row in newest if kept(live, row.step, row.spent)}


def stand(
    name: str,
    facts: Mapping[str, Any],
    live: Mapping[str, Any],
    step: int,
    newest: Mapping[str, MetricRow],
    decisions: Sequence[Decision],
) -> Knob:
    """How a hyperparameter stands at `step`.

    `live` was written with the last decision that was applied; later values are on record as metrics.
    """
    ramp = running_from_json(live["ramps"][name]) if name in live.get("ramps", {}) else None
    if ramp is not None and step >= ramp.end:
        ramp = None
    applied = [d for d in decisions if d.applied]
    told = [d for d in applied if name in d.after]
    since = applied[-1].spent if live and applied else told[-1].spent if told else -1
    value = live.get("values", {}).get(name, told[-1].after[name] if told else None)
    metric = newest.get(f"hp/{name}")
    if ramp is not None:
        value = ramp.at(step)
    elif metric is not None and (value is None or metric.spent > since):
        value = metric.value
    if facts["kind"] == "int" and isinstance(value, float):
        value = round(value)
    return Knob(
        name=name,
        value=value,
        owner=live.get("owners", {}).get(name, "policy"),
        low=facts["low"],
        high=facts["high"],
        unit=facts["unit"],
        pinned_until=live.get("pins", {}).get(name),
        ramp=ramp,
    )


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
