"""The record of a run, kept in its folder: what was measured, what was decided, what came of it.

Decisions and outcomes are on disk when the call returns. Metrics, of which there are many, are buffered and
written twice a second by a thread of the journal's own; a kill loses at most that half second. Other
processes may read at any time.
"""

from __future__ import annotations

import atexit
import dataclasses
import math
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects.sqlite import insert

from . import journal_tables as tables
from .journal_tables import FILE
from .process import alive, this_process
from .records import (
    Action,
    Decision,
    Outcome,
    Status,
    TuneError,
    Value,
    action_from_json,
    action_to_json,
)

SCHEMA = 1
OWN = ("id", "created", "process", "status", "schema")
"""What the journal itself keeps in its meta."""
FLUSH_SECONDS = 0.5
STALE_SECONDS = 600.0
"""A run on another machine that has written nothing for this long is taken for dead."""

RunStatus = Literal["running", "finished", "failed", "killed"]


class JournalError(RuntimeError):
    """The journal could not be written. Buffered metrics are still in memory and are tried again."""


class Series(NamedTuple):
    """One metric over a whole run, abandoned branches included: aligned arrays in the order of writing."""

    step: NDArray[np.int64]
    spent: NDArray[np.int64]
    branch: NDArray[np.int64]
    value: NDArray[np.float64]
    time: NDArray[np.float64]


class MetricRow(NamedTuple):
    """One metric as it was written; `id` counts from 1 within a run."""

    id: int
    name: str
    step: int
    spent: int
    branch: int
    time: float
    value: float


class Journal:
    """One run's record in `<folder>/journal.db`; made by `create` or `open`.

    Safe to use from several threads. A forked child (a DataLoader's worker) cannot write to it, and does it
    no harm by exiting.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._engine = tables.connect(folder / FILE)
        self._pid = os.getpid()
        self._writing = threading.RLock()
        self._buffer: deque[tuple[str, int, int, int, float, float]] = deque()
        self._failure: JournalError | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    # --- opening and closing -------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: str | Path, meta: Mapping[str, Any]) -> Journal:
        """Start the record of a new run, run by this process.

        Args:
            folder: the run's folder; made if it does not exist.
            meta: facts about the run by name; plain JSON values. Those in `OWN` are added: `id` is unique
                in the world, `created` in seconds since the epoch.

        Raises:
            TuneError: when the folder has a journal already.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / FILE).exists():
            raise TuneError(
                f"a new run needs a folder without a journal, got {folder}; "
                "go on with that run by AutoTuner.resume, or choose another folder"
            )
        own = (uuid.uuid4().hex, time.time(), this_process(), "running", SCHEMA)
        tables.make(folder / FILE, {**meta, **dict(zip(OWN, own, strict=True))})
        return cls(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Journal:
        """Open an existing run, to read it or to go on with it (then call `begin`).

        Raises:
            TuneError: when the folder holds no journal, or one that this version cannot read.
        """
        folder = Path(folder)
        if not (folder / FILE).is_file():
            raise TuneError(
                f"a run's folder holds a {FILE}, got {folder}, which has none; "
                "`autotune runs` lists the runs that there are"
            )
        journal = cls(folder)
        try:
            schema = journal.meta().get("schema")
        except sa.exc.DatabaseError as error:
            raise TuneError(
                f"{folder / FILE} is not a readable journal ({error.orig}); restore it from a copy"
            ) from error
        if schema != SCHEMA:
            raise TuneError(
                f"this version reads journals of schema {SCHEMA}, got {schema!r} in {folder / FILE}; "
                "use the version of autotune that wrote it"
            )
        return journal

    def begin(self) -> None:
        """Go on with a run: mark it as run by this process.

        Raises:
            TuneError: when another process that is alive runs it.
        """
        process = self.meta()["process"]
        if self.status() == "running" and process != this_process():
            raise TuneError(
                f"a run has one training process, got a second one for {self.folder}: "
                f"process {process['pid']} on {process['host']} is running it; stop that one first"
            )
        self.set_meta("process", this_process())
        self.set_meta("status", "running")

    def end(self, status: RunStatus) -> None:
        """Mark the run as over: `finished`, `failed` (by an exception) or `killed` (interrupted).

        Raises:
            JournalError: when this or what is still buffered cannot be written.
        """
        self.flush()
        self.set_meta("status", status)

    def close(self) -> None:
        """Write what is buffered and let go of the file; a second call does nothing.

        Raises:
            JournalError: when the last metrics cannot be written.
        """
        atexit.unregister(self.close)
        if os.getpid() != self._pid:
            return
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.flush()
        finally:
            self._engine.dispose()

    # --- writing -------------------------------------------------------------------------------------------

    def decide(
        self,
        *,
        step: int,
        spent: int,
        branch: int,
        source: str,
        action: Action,
        before: Mapping[str, Value],
        status: Status = "pending",
        note: str = "",
    ) -> Decision:
        """Record a decision before it is applied; it is on disk when this returns.

        Returns:
            The decision with its id; `settle` it once it is known what became of it.

        Raises:
            JournalError: when it cannot be written; it must not be applied then.
        """
        decision = Decision(
            id=0,
            time=time.time(),
            step=step,
            spent=spent,
            branch=branch,
            source=source,
            action=action,
            status=status,
            before=dict(before),
            note=note,
        )
        row = _fields(decision) | {"id": None, "action": action_to_json(action)}
        with self._transaction() as connection:
            result = connection.execute(sa.insert(tables.decisions).values(row))
            assert result.lastrowid is not None
            return dataclasses.replace(decision, id=result.lastrowid)

    def settle(self, decision: Decision, live: Mapping[str, Any] | None = None) -> None:
        """Record the status, the values read back and the note of a decision made earlier; durable.

        Args:
            decision: as it is now.
            live: plain JSON values that say how the run stands after it; kept as the meta `live`.
        """
        values = {"status": decision.status, "after": dict(decision.after), "note": decision.note}
        table = tables.decisions
        with self._transaction() as connection:
            connection.execute(sa.update(table).where(table.c.id == decision.id).values(values))
            if live is not None:
                connection.execute(_upsert("live", live))

    def outcome(self, outcome: Outcome) -> None:
        """Record what came of a decision; durable."""
        with self._transaction() as connection:
            connection.execute(sa.insert(tables.outcomes).values(_fields(outcome)))

    def metric(self, name: str, value: float, step: int, spent: int, branch: int) -> None:
        """Buffer one measured value; it is on disk half a second later.

        Raises:
            JournalError: when an earlier flush failed. This value and all buffered ones are kept, and the
                flush is tried again.
        """
        self._buffer.append((name, int(step), int(spent), int(branch), time.time(), float(value)))
        if self._thread is None:
            self._start()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def flush(self) -> None:
        """Write the buffered metrics now.

        Raises:
            JournalError: when they cannot be written; they stay in the buffer.
        """
        with self._writing:
            rows = []
            try:
                # One by one from the left, because other threads append at the right meanwhile.
                for _ in range(len(self._buffer)):
                    rows.append(self._buffer.popleft())
                if rows:
                    with self._transaction() as connection:
                        connection.exec_driver_sql(_INSERT_METRIC, [_nan_as_null(row) for row in rows])
            except BaseException:
                self._buffer.extendleft(reversed(rows))
                raise
            self._failure = None

    def set_meta(self, key: str, value: Any) -> None:
        """Set one fact about the run to a plain JSON value; durable."""
        self._execute(_upsert(key, value))

    def set_delivered(self, item: str, value: Any) -> None:
        """Note how far the delivery of one item has come; durable."""
        statement = insert(tables.deliveries).values(item=item, value=value)
        self._execute(statement.on_conflict_do_update(index_elements=["item"], set_={"value": value}))

    # --- reading -------------------------------------------------------------------------------------------

    def meta(self) -> dict[str, Any]:
        """Facts about the run by name."""
        return {row.key: row.value for row in self._select(sa.select(tables.meta))}

    def status(self) -> RunStatus:
        """How the run stands; `killed` when nothing says that it ended and its process is gone."""
        meta = self.meta()
        status: RunStatus = meta["status"]
        if status != "running":
            return status
        here = alive(meta["process"])
        if here is None:  # on another machine: judge by the last sign of life
            here = time.time() - self._last_time() < STALE_SECONDS
        return "running" if here else "killed"

    def decisions(self, after: int = 0) -> list[Decision]:
        """Every decision with an id above `after`, in the order they were made."""
        table = tables.decisions
        rows = self._select(sa.select(table).where(table.c.id > after).order_by(table.c.id))
        return [_decision(row) for row in rows]

    def decision(self, id: int) -> Decision:
        """One decision.

        Raises:
            TuneError: when there is none of this id.
        """
        table = tables.decisions
        rows = self._select(sa.select(table).where(table.c.id == id))
        if not rows:
            raise TuneError(f"a decision is named by its id, got {id}, which this run has not made")
        return _decision(rows[0])

    def outcomes(self) -> list[Outcome]:
        """Every outcome, in the order they were recorded."""
        table = tables.outcomes
        columns = [column for column in table.c if column.name != "id"]
        return [Outcome(**row._mapping) for row in self._select(sa.select(*columns).order_by(table.c.id))]

    def metric_names(self) -> list[str]:
        """Names of all metrics that were recorded, sorted."""
        # A loose scan of the index: one look-up a name, however long the run is.
        table = tables.metrics
        names = sa.select(sa.func.min(table.c.name).label("name")).cte("names", recursive=True)
        following = sa.select(sa.func.min(table.c.name)).where(table.c.name > names.c.name)
        names = names.union_all(sa.select(following.scalar_subquery()).where(names.c.name.is_not(None)))
        return [row.name for row in self._select(sa.select(names.c.name).where(names.c.name.is_not(None)))]

    def metrics(self, name: str) -> Series:
        """All recorded values of one metric; empty arrays for a name that was never recorded."""
        c = tables.metrics.c
        columns = (c.step, c.spent, c.branch, c.value, c.time)
        rows = self._select(sa.select(*columns).where(c.name == name).order_by(c.id))
        step, spent, branch, value, when = zip(*rows, strict=True) if rows else [()] * 5
        return Series(
            np.array(step, dtype=np.int64),
            np.array(spent, dtype=np.int64),
            np.array(branch, dtype=np.int64),
            np.array(value, dtype=np.float64),  # NULL, so None, becomes NaN
            np.array(when, dtype=np.float64),
        )

    def metric_rows(self, after: int, limit: int) -> list[MetricRow]:
        """At most `limit` metrics with an id above `after`, in the order of writing."""
        table = tables.metrics
        rows = self._select(sa.select(table).where(table.c.id > after).order_by(table.c.id).limit(limit))
        return [MetricRow(*row)._replace(value=_null_as_nan(row.value)) for row in rows]

    def last_spent(self) -> int:
        """The largest `spent` on record; 0 for a run that has recorded nothing."""
        recorded = (tables.metrics, tables.decisions, tables.outcomes)
        rows = self._select(sa.union_all(*(sa.select(sa.func.max(table.c.spent)) for table in recorded)))
        return max(row[0] or 0 for row in rows)

    def delivered(self) -> dict[str, Any]:
        """How far the delivery has come, by item."""
        return {row.item: row.value for row in self._select(sa.select(tables.deliveries))}

    # --- within --------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._flush_often, name="autotune-journal", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a daemon thread still runs when these handlers are called

    def _flush_often(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except JournalError as error:
                self._failure = error

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        if os.getpid() != self._pid:
            raise JournalError(
                "a journal is written by the process that opened it, got a write from a forked child; "
                "use the tuner in the training process only"
            )
        try:
            with self._writing, self._engine.begin() as connection:
                yield connection
        except sa.exc.StatementError as error:
            if isinstance(error.orig, TuneError):  # a value that is not plain JSON
                raise error.orig from None
            raise JournalError(
                f"the journal {self.folder / FILE} cannot be written ({error.orig}); free space or access"
            ) from error

    def _last_time(self) -> float:
        recorded = (tables.metrics, tables.decisions)
        newest = [sa.select(t.c.time).order_by(t.c.id.desc()).limit(1).subquery() for t in recorded]
        rows = self._select(sa.union_all(*(sa.select(times.c.time) for times in newest)))
        return float(max((row.time for row in rows), default=self.meta()["created"]))

    def _execute(self, statement: sa.Executable) -> None:
        with self._transaction() as connection:
            connection.execute(statement)

    def _select(self, statement: sa.Executable) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(statement))


def _decision(row: Any) -> Decision:
    return Decision(**{**row._mapping, "action": action_from_json(row.action)})


def _upsert(key: str, value: Any) -> sa.Executable:
    """Sets one fact of the meta."""
    statement = insert(tables.meta).values(key=key, value=value)
    return statement.on_conflict_do_update(index_elements=["key"], set_={"value": value})


_INSERT_METRIC = "INSERT INTO metrics (name, step, spent, branch, time, value) VALUES (?, ?, ?, ?, ?, ?)"


def _nan_as_null(row: tuple[str, int, int, int, float, float]) -> tuple[object, ...]:
    return (*row[:5], None if math.isnan(row[5]) else row[5])


def _null_as_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _fields(record: Decision | Outcome) -> dict[str, Any]:
    """The record's fields by name, mappings as plain dicts."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
