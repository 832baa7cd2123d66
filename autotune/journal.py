"""The record of a run, in its folder or in a database: what was measured, what was decided, what came of it.

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
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from . import journal_database as database
from . import journal_tables as tables
from .journal_tables import FILE
from .places import STORE, DatabaseRun, Place, Saved, note, place_of, saved
from .process import alive, this_process
from .records import (
    Action,
    Checkpoint,
    Decision,
    Outcome,
    Status,
    TuneError,
    Value,
    action_from_json,
    action_to_json,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA = 1
OWN = ("id", "created", "process", "status", "schema")
"""What the journal itself keeps in its meta."""
FLUSH_SECONDS = 0.5
STALE_SECONDS = 600.0
"""A run on another machine that has written nothing for this long is taken for dead."""

RunStatus = Literal["running", "finished", "failed", "killed"]


class JournalError(RuntimeError):
    """The journal could not be written or read. Buffered metrics are still in memory and are tried again."""


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
    """One run's record, in `<folder>/journal.db` or in a database; made by `create` or `open`.

    Attributes:
        place: where the record is.
        folder: where the run's other files are, on the machine that trains it.

    Safe to use from several threads. A forked child (a DataLoader's worker) cannot write to it, and does it
    no harm by exiting.
    """

    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self.folder = folder
        self._in_database = isinstance(place, DatabaseRun)
        if isinstance(place, DatabaseRun):
            self._engine = database.connect(place)
        else:
            self._engine = tables.connect(place / FILE)
        self._next: int | None = None  # id of the next metric that goes into a database
        self._away = ""  # why the database is away, found out by every flush
        self._pid = os.getpid()
        self._writing = threading.RLock()
        self._buffer: deque[tuple[str, int, int, int, float, float]] = deque()
        self._failure: JournalError | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    # --- opening and closing -------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: str | Path, meta: Mapping[str, Any], url: str | None = None) -> Journal:
        """Start the record of a new run, run by this process.

        Args:
            folder: the run's folder; made if it does not exist.
            meta: facts about the run by name; plain JSON values. Those in `OWN` are added: `id` is unique
                in the world, `created` in seconds since the epoch.
            url: the PostgreSQL database that the record goes to, where the run has the folder's name; None:
                it goes into the folder.

        Raises:
            TuneError: when the folder has a journal already, or the database a run of this name, or when the
                database cannot be used.
        """
        folder = Path(folder)
        place: Place = folder if url is None else DatabaseRun(url, folder.resolve().name)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / FILE).exists() or (folder / STORE).exists():
            raise TuneError(
                f"a new run needs a folder without a journal, got {folder}; "
                "go on with that run by AutoTuner.resume, or choose another folder"
            )
        own = (uuid.uuid4().hex, time.time(), this_process(), "running", SCHEMA)
        facts = {**meta, **dict(zip(OWN, own, strict=True))}
        if isinstance(place, DatabaseRun):
            facts["folder"] = str(folder.resolve())
            database.make(place, facts, before_commit=lambda: note(folder, place))
        else:
            tables.make(place / FILE, facts)
        return cls(place, folder)

    @classmethod
    def open(cls, run: str | Place) -> Journal:
        """Open an existing run, to read it or to go on with it (then call `begin`).

        Args:
            run: its folder, or its name in a database.

        Raises:
            TuneError: when there is no journal, or none that this version can read, or its database cannot be
                used.
        """
        place = place_of(run)
        if isinstance(place, Path) and not (place / FILE).is_file():
            raise TuneError(
                f"a run's folder holds a {FILE}, got {place}, which has none; "
                "`autotune runs` lists the runs that there are"
            )
        journal = cls(place, Path() if isinstance(run, DatabaseRun) else Path(run))
        try:
            meta = journal.meta()
        except JournalError as error:
            journal._engine.dispose()
            raise _unreadable(place, error) from error
        if meta.get("schema") != SCHEMA:
            raise TuneError(
                f"this version reads journals of schema {SCHEMA}, got {meta.get('schema')!r} in "
                f"{_where(place)}; use the version of autotune that wrote it"
            )
        if isinstance(run, DatabaseRun):
            journal.folder = Path(meta["folder"])
        return journal

    def begin(self) -> None:
        """Go on with a run: mark it as run by this process.

        Raises:
            TuneError: when another process that is alive runs it.
        """
        process = self.meta()["process"]
        if self.status() == "running" and process != this_process():
            raise TuneError(
                f"a run has one training process, got a second one for {self.place}: "
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
        table = tables.decisions
        row = _fields(decision) | {"action": action_to_json(action), "id": None}
        if self._in_database:  # whose own count leaves gaps after a crash
            row["id"] = sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0) + 1).scalar_subquery()
        with self._transaction() as connection:
            result = connection.execute(sa.insert(table).values(row))
            assert result.inserted_primary_key is not None
            return dataclasses.replace(decision, id=result.inserted_primary_key[0])

    def settle(self, decision: Decision, live: Mapping[str, Any] | None = None) -> None:
        """Record status, values read back, note and evidence of a decision made earlier; durable.

        Args:
            decision: as it is now.
            live: plain JSON values that say how the run stands after it; kept as the meta `live`.
        """
        values = {
            "action": action_to_json(decision.action),
            "status": decision.status,
            "after": dict(decision.after),
            "note": decision.note,
        }
        table = tables.decisions
        facts: dict[str, Any] = {} if live is None else {"live": live}
        if self._in_database and isinstance(decision.action, Checkpoint):
            facts["checkpoints"] = [dataclasses.asdict(one) for one in saved(self.folder)]  # for others
        with self._transaction() as connection:
            connection.execute(sa.update(table).where(table.c.id == decision.id).values(values))
            for key, value in facts.items():
                connection.execute(self._setting(tables.meta, key, value))

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
                if rows or self._away:
                    with self._transaction(anew=True) as connection:
                        self._insert(connection, [_nan_as_null(row) for row in rows])
                    self._next = self._next and self._next + len(rows)
                    self._away = ""
            except BaseException:
                self._buffer.extendleft(reversed(rows))
                raise
            self._failure = None

    def set_meta(self, key: str, value: Any) -> None:
        """Set one fact about the run to a plain JSON value; durable."""
        self._execute(self._setting(tables.meta, key, value))

    def set_delivered(self, item: str, value: Any) -> None:
        """Note how far the delivery of one item has come; durable."""
        self._execute(self._setting(tables.deliveries, item, value))

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

    def checkpoints(self) -> list[Saved]:
        """The run's checkpoints whose manifest is whole, by step; from another machine, as saved last."""
        if self._in_database:
            return [Saved(**fields) for fields in self.meta().get("checkpoints", [])]
        return saved(self.folder)

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
        rows = self._select(sa.select(table).where(table.c.id == id)) if 0 < id < 2**63 else []
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
        names = _names()
        return [row.name for row in self._select(sa.select(names.c.name).where(names.c.name.is_not(None)))]

    def newest(self, until: int | None = None) -> list[MetricRow]:
        """The value of each metric that was written last, sorted by name; quick, however long the run is.

        Args:
            until: at this step or before it; None: at any.
        """
        table, other, names = tables.metrics, tables.metrics.alias(), _names()
        last = sa.select(sa.func.max(other.c.id)).where(other.c.name == names.c.name)
        if until is not None:
            last = last.where(other.c.step <= until)
        query = sa.select(table).join(names, table.c.id == last.scalar_subquery()).order_by(table.c.name)
        rows = self._select(query)
        return [_metric_row(row) for row in rows]

    def metrics(self, name: str) -> Series:
        """All recorded values of one metric; empty arrays for a name that was never recorded."""
        import numpy as np  # here, because most commands have no use for it

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
        return [_metric_row(row) for row in rows]

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
    def _transaction(self, anew: bool = False) -> Iterator[sa.Connection]:
        """A write that is whole or not at all.

        Args:
            anew: try it though the database was away a moment ago. The flushing thread does; the training,
                which would have to wait for as long as a lost network is given, does not.
        """
        if os.getpid() != self._pid:
            raise JournalError(
                "a journal is written by the process that opened it, got a write from a forked child; "
                "use the tuner in the training process only"
            )
        if self._away and not anew:
            raise JournalError(self._away)
        try:
            with self._writing, self._engine.begin() as connection:
                yield connection
        except sa.exc.StatementError as error:
            if isinstance(error.orig, TuneError):  # a value that is not plain JSON
                raise error.orig from None
            failure = JournalError(
                f"the journal {_where(self.place)} cannot be written ({_brief(error)}); "
                "free space or access, or start its database"
            )
            if self._in_database and self._thread and isinstance(error, sa.exc.OperationalError):
                self._away = str(failure)
            raise failure from error

    def _insert(self, connection: sa.Connection, rows: list[tuple[object, ...]]) -> None:
        if not self._in_database:
            connection.exec_driver_sql(_INSERT_METRIC, rows)
            return
        # When the database goes between a commit and its answer, the same rows are written again: their ids
        # are given here, so that they are kept once.
        if self._next is None:
            self._next = 1 + (connection.scalar(sa.select(sa.func.max(tables.metrics.c.id))) or 0)
        if rows:
            database.insert_metrics(connection, self._next, rows)

    def _last_time(self) -> float:
        recorded = (tables.metrics, tables.decisions)
        newest = [sa.select(t.c.time).order_by(t.c.id.desc()).limit(1).subquery() for t in recorded]
        rows = self._select(sa.union_all(*(sa.select(times.c.time) for times in newest)))
        meta = self.meta()
        told = meta.get("live", {}).get("time", meta["created"])  # by a run that is paused
        return float(max([told, *(row.time for row in rows)]))

    def _execute(self, statement: sa.Executable) -> None:
        with self._transaction() as connection:
            connection.execute(statement)

    def _select(self, statement: sa.Executable) -> list[Any]:
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(statement))
        except sa.exc.DBAPIError as error:
            raise JournalError(
                f"the journal {_where(self.place)} cannot be read ({_brief(error)})"
            ) from error

    def _setting(self, table: sa.Table, key: str, value: Any) -> sa.Executable:
        """Sets one row of a table of keys and values."""
        insert = database.insert if self._in_database else sqlite.insert
        (column,) = table.primary_key
        statement = insert(table).values({column.name: key, "value": value})
        return statement.on_conflict_do_update(index_elements=[column], set_={"value": value})


def _decision(row: Any) -> Decision:
    return Decision(**{**row._mapping, "action": action_from_json(row.action)})


def _names() -> sa.CTE:
    """The metrics' names and one NULL, by a loose scan of the index: one look-up a name, not one a row."""
    table = tables.metrics
    names = sa.select(sa.func.min(table.c.name).label("name")).cte("names", recursive=True)
    following = sa.select(sa.func.min(table.c.name)).where(table.c.name > names.c.name)
    return names.union_all(sa.select(following.scalar_subquery()).where(names.c.name.is_not(None)))


def _where(place: Place) -> str:
    return str(place / FILE if isinstance(place, Path) else place)


def _brief(error: sa.exc.StatementError) -> str:
    return " ".join(str(error.orig).split())


def _unreadable(place: Place, error: JournalError) -> TuneError:
    cause = error.__cause__
    assert isinstance(cause, sa.exc.DBAPIError)
    if isinstance(place, Path):
        what = f"{_where(place)} is not a readable journal ({_brief(cause)}); restore it from a copy"
        return TuneError(what)
    if getattr(cause.orig, "sqlstate", None) == database.NO_TABLE:
        return TuneError(f"there is no run {place}; `autotune runs` lists the runs that there are")
    return database.unreachable(place.url, cause)


_INSERT_METRIC = "INSERT INTO metrics (name, step, spent, branch, time, value) VALUES (?, ?, ?, ?, ?, ?)"


def _nan_as_null(row: tuple[str, int, int, int, float, float]) -> tuple[object, ...]:
    return (*row[:5], None if math.isnan(row[5]) else row[5])


def _metric_row(row: Any) -> MetricRow:
    return MetricRow(*row)._replace(value=math.nan if row.value is None else row.value)


def _fields(record: Decision | Outcome) -> dict[str, Any]:
    """The record's fields by name, mappings as plain dicts."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
