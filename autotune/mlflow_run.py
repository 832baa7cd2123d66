"""The MLflow run that mirrors a journal. Imported late, because importing mlflow takes seconds."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from filelock import FileLock
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracing.client import TracingClient
from mlflow.tracking import MlflowClient

from .journal import OWN, Journal, MetricRow
from .mlflow_traces import change, feedback_of, trace_id, trace_of
from .page_link import run_page
from .preflight.report import FILES
from .records import Decision, Outcome

BATCH = 1000
"""The most metrics that MLflow takes in one call."""
POSITION_EVERY = 10
"""`step` and `branch` are logged this often, in steps spent, and whenever the branch changes."""
TABLE_SECONDS = 10.0
"""The table and the note of a run under way are renewed at most this often."""
PREFIX = "autotune/"
TABLE = f"{PREFIX}decisions.json"
STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
COLUMNS = ("id", "time", "step", "spent", "branch", "source", "change", "status", "reason", "note", "outcome")


class Sent(NamedTuple):
    """How much one delivery carried over."""

    metrics: int
    decisions: int
    outcomes: int

    def __add__(self, other: tuple[Any, ...]) -> Sent:
        return Sent(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class MlflowRun:
    """Carries a journal into one MLflow run: the user's own where there is one, else one that is made here.

    What has arrived is noted in the journal only after MLflow has confirmed it. What was sent without a
    confirmation is sent again, and every item is such that MLflow keeps it once: metrics repeat exactly,
    traces and feedback have ids that are derived from the journal's.

    Args:
        journal: a run's journal with `mlflow` in its meta, as `delivery.target` makes it.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._meta = journal.meta()
        self._id: str = self._meta["id"]
        self._target = self._meta["mlflow"]
        uri = self._target["tracking_uri"]
        with first_touch(uri):
            self._client = MlflowClient(tracking_uri=uri)
            self._client.search_experiments(max_results=1)
        self._traces = TracingClient(uri)
        self._state: dict[str, Any] = {}
        self._table_due = 0.0

    def deliver(self, everything: bool = False) -> Sent:
        """Send what MLflow does not have yet.

        Args:
            everything: the table and the picture too, though the run may be under way.

        Raises:
            Exception: whatever MLflow raises when it cannot be reached or refuses; what arrived before that
                is noted, the rest can be delivered later.
        """
        self._state = self._journal.delivered()  # another process may have delivered since
        status = self._journal.status()  # read before the rest: once it is over, nothing follows
        over = status != "running"
        self._attach()
        sent = Sent(self._send_metrics(), 0, 0) + self._send_decisions(over)
        if self._state["run"]["own"] and self._state.get("status", "RUNNING") != STATUS[status]:
            self._set_status(STATUS[status])
        if over or everything or time.monotonic() >= self._table_due:
            self._table_due = time.monotonic() + TABLE_SECONDS
            self._send_table(status)
        if over or everything:
            self._send_picture(status)
        self._send_preflight()
        return sent

    # --- the run -------------------------------------------------------------------------------------------

    @property
    def _run(self) -> str:
        return str(self._state["run"]["run_id"])

    def _attach(self) -> None:
        """Find the run or make it, and describe it, once."""
        if "run" not in self._state:
            run_id = self._target["run_id"]
            if run_id is not None:
                run = self._client.get_run(run_id)
            else:
                experiment = self._experiment()
                # Made but not noted, if this process was killed between the two: look by tag first.
                found = self._client.search_runs([experiment], f"tags.`autotune.run` = '{self._id}'")
                run = found[0] if found else self._create(experiment)
            info, own = run.info, run_id is None
            self._note("run", {"run_id": info.run_id, "experiment_id": info.experiment_id, "own": own})
        if "described" not in self._state:
            for part in _parts([Param(PREFIX + k, v) for k, v in _params(self._meta).items()], 100):
                self._client.log_batch(self._run, params=part)
            tags = {"autotune.run": self._id, "autotune.folder": str(self._journal.folder.resolve())}
            self._client.log_batch(self._run, tags=[RunTag(key, value) for key, value in tags.items()])
            self._note("described", True)

    def _experiment(self) -> str:
        name = self._target["experiment"]
        if name.isdigit():  # MLFLOW_EXPERIMENT_ID
            return str(name)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            uri = self._target["tracking_uri"]
            # MLflow would put a local store's files into the current folder, which is another one in `sync`.
            files = (database(uri).parent / "mlruns" / name).as_uri() if is_local(uri) else None
            return str(self._client.create_experiment(name, artifact_location=files))
        except MlflowException:
            found = self._client.get_experiment_by_name(name)  # another process was quicker
            if found is None:
                raise
            return str(found.experiment_id)

    def _create(self, experiment: str) -> Any:
        return self._client.create_run(
            experiment,
            start_time=int(self._meta["created"] * 1000),
            tags={"autotune.run": self._id},
            run_name=self._journal.place.name,
        )

    def _set_status(self, status: str) -> None:
        if status == "RUNNING":  # resumed
            self._client.update_run(self._run, status=status)
        else:
            self._client.set_terminated(self._run, status=status)
        self._note("status", status)

    # --- metrics -------------------------------------------------------------------------------------------

    def _send_metrics(self) -> int:
        cursor = self._state.get("metrics", {"id": 0, "spent": -POSITION_EVERY, "branch": -1})
        count = 0
        while rows := self._journal.metric_rows(cursor["id"], BATCH):
            metrics = []
            for row in rows:
                metrics.append(self._metric(row))
                moved = row.spent >= cursor["spent"] + POSITION_EVERY
                if moved or row.branch != cursor["branch"]:
                    metrics += self._position(row)
                    cursor = {"id": row.id, "spent": row.spent, "branch": row.branch}
            for part in _parts(metrics, BATCH):
                self._client.log_batch(self._run, metrics=part)
            cursor = {**cursor, "id": rows[-1].id}
            self._note("metrics", cursor)
            count += len(rows)
        return count

    def _metric(self, row: MetricRow) -> Metric:
        name = re.sub(r"[^\w\-. /]", "_", row.name)
        if math.isfinite(row.value):
            return self._entry(name, row.value, row)
        # One infinity ruins the scale of a whole chart: it becomes a mark in a chart of its own.
        return self._entry(f"nonfinite/{name}", 1.0, row)

    def _position(self, row: MetricRow) -> list[Metric]:
        return [self._entry("step", row.step, row), self._entry("branch", row.branch, row)]

    def _entry(self, name: str, value: float, row: MetricRow) -> Metric:
        # The owner of a joined run may log a `loss` too, over another axis.
        prefix = "" if self._state["run"]["own"] or name.startswith("hp/") else PREFIX
        return Metric(prefix + name, value, int(row.time * 1000), row.spent)

    # --- decisions and outcomes ----------------------------------------------------------------------------

    def _send_decisions(self, over: bool) -> Sent:
        decisions = outcomes = 0
        for decision in self._journal.decisions():
            item = f"decision/{decision.id}"
            # A pending one is about to be settled, unless the run broke off in the middle of it.
            if self._state.get(item) == decision.status or (decision.status == "pending" and not over):
                continue
            experiment = self._state["run"]["experiment_id"]
            info, span = trace_of(decision, self._id, self._run, experiment)
            self._traces.start_trace(info)
            self._traces.log_spans(experiment, [span])
            self._note(item, decision.status)
            decisions += 1
        for number, outcome in enumerate(self._journal.outcomes(), start=1):
            item = f"outcome/{number}"
            if item not in self._state:
                self._send_outcome(outcome, number)
                self._note(item, outcome.verdict)
                outcomes += 1
        return Sent(0, decisions, outcomes)

    def _send_outcome(self, outcome: Outcome, number: int) -> None:
        trace = trace_id(self._id, outcome.decision)
        known = {assessment.assessment_id for assessment in self._traces.get_trace_info(trace).assessments}
        for feedback in feedback_of(outcome, number, self._id):
            if feedback.assessment_id not in known:
                self._traces.log_assessment(trace, feedback)

    # --- pages ---------------------------------------------------------------------------------------------

    def _send_table(self, status: str) -> None:
        decisions = self._journal.decisions()
        outcomes = self._journal.outcomes()
        state = [status, len(outcomes), *(decision.status for decision in decisions)]
        if self._state.get("table") == state:
            return
        tags = self._client.get_run(self._run).data.tags
        if decisions:
            self._client.log_dict(self._run, _table(decisions, outcomes), TABLE)
            tables = json.loads(tags.get("mlflow.loggedArtifacts", "[]"))
            entry = {"path": TABLE, "type": "table"}
            if entry not in tables:
                self._client.set_tag(self._run, "mlflow.loggedArtifacts", json.dumps([*tables, entry]))
        note = tags.get("mlflow.note.content", "")
        if not note or note.startswith(_NOTE):  # a person's own note stays
            self._client.set_tag(self._run, "mlflow.note.content", self._text(status, decisions))
        self._note("table", state)

    def _text(self, status: str, decisions: Sequence[Decision]) -> str:
        applied = sum(decision.applied for decision in decisions)
        last = decisions[-1] if decisions else None
        lines = (
            f"{_NOTE} run `{self._journal.place.name}`, {status}: "
            f"{len(decisions)} decisions, {applied} applied",
            f"Last: step {last.step} · {last.source} · {change(last)}" if last else "No decision yet",
            f"[Control page]({run_page(self._journal.place.name)}), by `autotune ui`; "
            f"every decision is a trace of this run; the journal is in `{self._journal.place}`",
        )
        return "  \n".join(lines)

    def _send_picture(self, status: str) -> None:
        state = [status, self._state.get("metrics"), self._state.get("table")]
        if self._state.get("picture") == state:
            return
        # Here, because matplotlib is slow to import.
        from .plot import plot_run
        from .plot_against import plot_against, range_tests

        run = self._journal.place
        with tempfile.TemporaryDirectory() as folder:
            try:
                plot_run(run, Path(folder) / "timeline.png")
            except Exception as error:  # a picture less is no reason to hold back the rest
                print(f"the picture could not be drawn: {error!r}", file=sys.stderr)
                return
            try:
                for name in range_tests(run):
                    plot_against(run, name, Path(folder) / f"range-{name.replace('/', '-')}.png")
            except Exception as error:  # as above
                print(f"a range could not be drawn: {error!r}", file=sys.stderr)
            self._client.log_artifacts(self._run, folder, PREFIX.rstrip("/"))
        self._note("picture", state)

    def _send_preflight(self) -> None:
        for name in FILES:
            path = self._journal.folder / name
            if path.exists() and (written := path.stat().st_mtime_ns) != self._state.get(name):
                self._client.log_artifact(self._run, str(path), PREFIX.rstrip("/"))
                self._note(name, written)

    def _note(self, item: str, value: Any) -> None:
        self._journal.set_delivered(item, value)
        self._state[item] = value


_NOTE = "**autotune**"


def _params(meta: Mapping[str, Any]) -> dict[str, str]:
    """What the tuner was given, as text, without what journal and delivery keep for themselves."""
    flat: dict[str, Any] = {}
    for name in sorted(meta.keys() - {*OWN, "mlflow", "name"}):
        value = meta[name]
        flat |= {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return {name: text[:500] for name, value in flat.items() if (text := _text_of(value))}


def _text_of(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {text}" for key, part in value.items() if (text := _text_of(part)))
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _table(decisions: Sequence[Decision], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    verdicts = {outcome.decision: outcome.verdict for outcome in outcomes}
    rows = [
        [
            decision.id,
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(decision.time)),
            decision.step,
            decision.spent,
            decision.branch,
            decision.source,
            change(decision),
            decision.status,
            decision.action.reason,
            decision.note,
            verdicts.get(decision.id, ""),
        ]
        for decision in decisions
    ]
    return {"columns": list(COLUMNS), "data": rows}


def first_touch(uri: str) -> Any:
    """A lock round the first use of a local store: several processes at once would break it for good."""
    if not is_local(uri):
        return contextlib.nullcontext()
    path = database(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")


def is_local(uri: str) -> bool:
    """Whether a tracking URI is a database file on this machine."""
    return uri.startswith("sqlite:")


def database(uri: str) -> Path:
    """The file of a local tracking URI."""
    return Path(str(sa.make_url(uri).database)).absolute()


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
