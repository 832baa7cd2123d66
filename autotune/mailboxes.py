"""Mailboxes: in a database, or in files where SQLite's write-ahead log does not work."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from . import journal_database, journal_tables
from .commands import Ack, Command, Mailbox, is_id
from .journal_tables import Int, Text
from .manifest import sync
from .places import DatabaseRun, shown
from .records import TuneError

# --- in a database -----------------------------------------------------------------------------------------

_tables = sa.MetaData()
_commands = sa.Table(
    "commands",
    _tables,
    sa.Column("position", Int, primary_key=True),
    sa.Column("id", Text, nullable=False, unique=True),
    sa.Column("author", Text, nullable=False),
    sa.Column("action", Text, nullable=False),  # no JSON: one that cannot be read must not hide the others
    sa.Column("sent", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("status", Text, nullable=False, index=True),
    sa.Column("note", Text, nullable=False),
    sa.Column("decision", Int),
    sa.Column("step", Int),
    sa.Column("spent", Int),
    sa.Column("time", sa.Float, nullable=False, index=True),
)
_NEW = {"status": "waiting", "note": "", "time": 0.0}


class SqlMailbox(ABC):
    """A mailbox in the table `commands`; `name` says in which database, for people."""

    def __init__(self, engine: sa.Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._made = False

    @abstractmethod
    def _exists(self) -> bool:
        """Whether the table is there."""

    @abstractmethod
    def _make(self) -> None:
        """Make it, once, whoever else makes it at the same time."""

    @abstractmethod
    def _lock(self, connection: sa.Connection) -> None:
        """See to it that who posts later is not seen earlier."""

    def post(self, command: Command) -> None:
        """See `Mailbox.post`."""
        if not self._there():
            with self._reached():
                self._make()
        try:
            with self._reached(), self._engine.begin() as connection:
                self._lock(connection)
                connection.execute(sa.insert(_commands).values({**command.document(), **_NEW}))
        except _Posted:
            command.check_same(self._rows(_commands.c.id == command.id)[0]._mapping)

    def waiting(self) -> list[Command]:
        """See `Mailbox.waiting`."""
        rows = self._rows(_commands.c.status == "waiting")
        return _readable(self, [row._mapping for row in rows])

    def settle(self, ack: Ack) -> None:
        """See `Mailbox.settle`."""
        values = dataclasses.asdict(ack) | {"time": time.time()}
        unsettled = (_commands.c.id == values.pop("command")) & (_commands.c.status == "waiting")
        if self._there():
            with self._reached(), self._engine.begin() as connection:
                connection.execute(sa.update(_commands).where(unsettled).values(values))

    def ack(self, id: str) -> Ack | None:
        """See `Mailbox.ack`."""
        return next(map(_ack, self._rows(_commands.c.id == id)), None)

    def acks(self, after: float) -> list[Ack]:
        """See `Mailbox.acks`."""
        return sorted(map(_ack, self._rows(_commands.c.time > after)), key=lambda ack: ack.time)

    def close(self) -> None:
        """See `Mailbox.close`."""
        self._engine.dispose()

    def _there(self) -> bool:
        if not self._made:
            with self._reached():
                self._made = self._exists()
        return self._made

    def _rows(self, which: sa.ColumnElement[bool]) -> list[Any]:
        if not self._there():
            return []
        with self._reached(), self._engine.connect() as connection:
            return list(connection.execute(sa.select(_commands).where(which).order_by(_commands.c.position)))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.IntegrityError as error:
            raise _Posted from error
        except sa.exc.DBAPIError as error:
            raise self._unusable(error.orig) from error

    def _unusable(self, error: BaseException | None) -> OSError:
        why = " ".join(str(error).split())
        return OSError(f"the mailbox in {self._name} cannot be used ({why}); free space or access")


_ANY_WAITING = "SELECT 1 FROM {} WHERE status = 'waiting' LIMIT 1"


class SqliteMailbox(SqlMailbox):
    """A mailbox in a file of its own, so that whoever posts never blocks the journal."""

    def __init__(self, path: Path) -> None:
        super().__init__(journal_tables.connect(path), str(path))
        self._path = path
        self._peeking = threading.local()  # a connection of the driver belongs to its thread

    def waiting(self) -> list[Command]:
        """See `Mailbox.waiting`; the trainer asks ten times a second, and mostly there is nothing."""
        if not self._there():
            return []
        try:
            if not hasattr(self._peeking, "connection"):
                self._peeking.connection = sqlite3.connect(self._path, journal_tables.BUSY_SECONDS)
            found = self._peeking.connection.execute(_ANY_WAITING.format("commands")).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return [] if found is None else super().waiting()

    def close(self) -> None:
        """See `Mailbox.close`."""
        if hasattr(self._peeking, "connection"):
            self._peeking.connection.close()
            del self._peeking.connection
        super().close()

    def _exists(self) -> bool:
        return self._path.exists()

    def _make(self) -> None:
        draft = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        engine = journal_tables.connect(draft)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            _tables.create_all(connection)
            connection.commit()
        engine.dispose()  # the last connection to close folds the write-ahead log into the file
        _publish(draft, self._path)

    def _lock(self, connection: sa.Connection) -> None:
        pass  # one writes at a time there


class PostgresMailbox(SqlMailbox):
    """A mailbox among the tables of a run in a PostgreSQL database."""

    def __init__(self, run: DatabaseRun) -> None:
        super().__init__(journal_database.connect(run), shown(run.url))
        self._schema = run.schema  # which needs no quoting
        self._peeking: Any = None  # a connection of the driver, outside of the pool

    def waiting(self) -> list[Command]:
        """See `Mailbox.waiting`; as with SQLite, by the driver, at a sixth of the cost."""
        try:
            if self._peeking is None:
                borrowed = self._engine.raw_connection()
                self._peeking = borrowed.driver_connection
                borrowed.detach()
                self._peeking.autocommit = True
            found = self._peeking.execute(_ANY_WAITING.format(f"{self._schema}.commands")).fetchone()
        except self._engine.dialect.loaded_dbapi.Error as error:
            if getattr(error, "sqlstate", None) == journal_database.NO_TABLE:
                return []
            self._stop_peeking()
            raise self._unusable(error) from error
        return [] if found is None else super().waiting()

    def close(self) -> None:
        """See `Mailbox.close`."""
        self._stop_peeking()
        super().close()

    def _stop_peeking(self) -> None:
        if self._peeking is not None:
            self._peeking.close()
            self._peeking = None

    def _exists(self) -> bool:
        return sa.inspect(self._engine).has_table(_commands.name, schema=self._schema)

    def _make(self) -> None:
        with self._engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock(hashtext('{self._schema}.commands'))")
            _tables.create_all(connection)

    def _lock(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"LOCK TABLE {self._schema}.commands IN SHARE ROW EXCLUSIVE MODE")


class _Posted(Exception):
    """There is a command of this id."""


def _ack(row: Any) -> Ack:
    return Ack(row.id, row.status, row.note, row.decision, row.step, row.spent, row.time)


# --- in files ----------------------------------------------------------------------------------------------


class FileMailbox:
    """A mailbox of two files a command, `ID.json` and `ID.ack`, which appear whole.

    The order of posting is that of the senders' clocks.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settled: dict[str, Ack] = {}  # they do not change any more

    def post(self, command: Command) -> None:
        """See `Mailbox.post`."""
        self._folder.mkdir(exist_ok=True)
        path = self._path(command.id)
        if not path.exists():
            _publish(self._written({**command.document(), "posted": time.time_ns()}), path)
        command.check_same(self._read(command.id))

    def waiting(self) -> list[Command]:
        """See `Mailbox.waiting`."""
        acks = [self.ack(id) for id in self._ids() if id not in self._settled]
        documents = [self._read(ack.command) for ack in acks if ack and ack.status == "waiting"]
        return _readable(self, sorted(documents, key=lambda document: (document["posted"], document["id"])))

    def settle(self, ack: Ack) -> None:
        """See `Mailbox.settle`."""
        known = self.ack(ack.command)
        if known is not None and known.status == "waiting":
            draft = self._written(dataclasses.asdict(ack) | {"time": time.time()})
            draft.rename(self._folder / f"{ack.command}.ack")
            sync(self._folder)

    def ack(self, id: str) -> Ack | None:
        """See `Mailbox.ack`."""
        if id in self._settled:
            return self._settled[id]
        if not is_id(id) or not self._path(id).exists():
            return None
        try:
            ack = Ack(**json.loads((self._folder / f"{id}.ack").read_text()))
        except FileNotFoundError:
            return Ack(id, "waiting")
        if ack.status != "waiting":
            self._settled[id] = ack
        return ack

    def acks(self, after: float) -> list[Ack]:
        """See `Mailbox.acks`."""
        acks = filter(None, map(self.ack, self._ids()))
        return sorted((ack for ack in acks if ack.time > after), key=lambda ack: ack.time)

    def close(self) -> None:
        """See `Mailbox.close`."""

    def _path(self, id: str) -> Path:
        return self._folder / f"{id}.json"

    def _ids(self) -> list[str]:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return [id for id, dot, ending in (name.partition(".") for name in names) if dot + ending == ".json"]

    def _read(self, id: str) -> dict[str, Any]:
        """What a command's file holds, with its id and the time of posting at least."""
        try:
            document = json.loads(self._path(id).read_text())
            return {**document, "id": id, "posted": int(document["posted"])}
        except (ValueError, TypeError, KeyError):
            return {"id": id, "posted": 0}

    def _written(self, document: Mapping[str, Any]) -> Path:
        """A file with this document, on the disk, under a name that nobody looks for."""
        draft = self._folder / f".{uuid.uuid4().hex}"
        draft.write_text(json.dumps(document))
        sync(draft)
        return draft


# --- both --------------------------------------------------------------------------------------------------


def _readable(mailbox: Mailbox, documents: Iterable[Mapping[str, Any]]) -> list[Command]:
    """The commands that can be read; the others are refused."""
    commands = []
    for document in documents:
        try:
            commands.append(Command.read(document))
        except TuneError as error:
            mailbox.settle(Ack(document["id"], "refused", str(error)))
    return commands


def _publish(draft: Path, path: Path) -> None:
    """Give a file its name, unless there is one of this name already."""
    try:
        os.link(draft, path)
    except OSError:
        if not path.exists():  # a file system without hard links
            draft.rename(path)
    draft.unlink(missing_ok=True)
    sync(path.parent)
