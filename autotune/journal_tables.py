"""The journal's tables, and the file that they are in unless they are in a database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from .records import TuneError

FILE = "journal.db"
BUSY_SECONDS = 10.0
"""How long a write waits for another process's write before it fails."""


class _Lines(sa.types.TypeDecorator[str]):
    """Text in PostgreSQL: without the one character that it cannot hold, in an order that never changes."""

    impl = sa.Text(collation="C")
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.replace("\0", "�")


class _Document(sa.types.TypeDecorator[Any]):
    """JSON in PostgreSQL: as text, because its own JSON has no NaN."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str:
        return _to_json(value)

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return json.loads(value)


Int = sa.Integer().with_variant(sa.BigInteger(), "postgresql")
Text = sa.Text().with_variant(_Lines(), "postgresql")
Json = sa.JSON().with_variant(_Document(), "postgresql")

tables = sa.MetaData()
meta = sa.Table(
    "meta",
    tables,
    sa.Column("key", Text, primary_key=True),
    sa.Column("value", Json, nullable=False),
)
decisions = sa.Table(
    "decisions",
    tables,
    sa.Column("id", Int, primary_key=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("step", Int, nullable=False),
    sa.Column("spent", Int, nullable=False),
    sa.Column("branch", Int, nullable=False),
    sa.Column("source", Text, nullable=False),
    sa.Column("action", Json, nullable=False),
    sa.Column("status", Text, nullable=False),
    sa.Column("before", Json, nullable=False),
    sa.Column("after", Json, nullable=False),
    sa.Column("note", Text, nullable=False),
)
outcomes = sa.Table(
    "outcomes",
    tables,
    sa.Column("id", Int, primary_key=True),
    sa.Column("decision", sa.ForeignKey("decisions.id"), nullable=False),
    sa.Column("spent", Int, nullable=False),
    sa.Column("horizon", Int, nullable=False),
    sa.Column("verdict", Text, nullable=False),
    sa.Column("measures", Json, nullable=False),
)
metrics = sa.Table(
    "metrics",
    tables,
    sa.Column("id", Int, primary_key=True),
    sa.Column("name", Text, nullable=False),
    sa.Column("step", Int, nullable=False),
    sa.Column("spent", Int, nullable=False),
    sa.Column("branch", Int, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("value", sa.Float),  # NULL is NaN: SQLite has no other way to store it
    sa.Index("metrics_by_name", "name", "id"),
)
deliveries = sa.Table(
    "deliveries",
    tables,
    sa.Column("item", Text, primary_key=True),
    sa.Column("value", Json, nullable=False),
)


def connect(path: Path) -> sa.Engine:
    """An engine on the database at `path`; every commit through it is on disk when it returns."""
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_SECONDS},
        json_serializer=_to_json,
    )

    @sa.event.listens_for(engine, "connect")
    def durable(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=FULL")

    return engine


def make(path: Path, facts: Mapping[str, Any]) -> None:
    """Make the database at `path` with `facts` as its meta: whole, or not at all if the process is killed."""
    draft = path.with_name(f".{path.name}.draft")
    _remove(draft)
    mode = "WAL" if _wal_works(path.with_name(f".{path.name}.probe")) else "DELETE"
    engine = connect(draft)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA journal_mode={mode}")
        fill(connection, facts)
        connection.commit()
    engine.dispose()  # the last connection to close folds the write-ahead log into the file
    draft.rename(path)


def fill(connection: sa.Connection, facts: Mapping[str, Any]) -> None:
    """Make the tables, with `facts` as the meta."""
    tables.create_all(connection)
    connection.execute(sa.insert(meta), [{"key": key, "value": value} for key, value in facts.items()])


def _wal_works(probe: Path) -> bool:
    """Whether the write-ahead log works here: on network file systems it may fail only when it is used."""
    _remove(probe)
    engine = connect(probe)
    try:
        with engine.connect() as writer, engine.connect() as reader:
            mode = writer.exec_driver_sql("PRAGMA journal_mode=WAL").scalar()
            writer.exec_driver_sql("CREATE TABLE probe (x)")
            writer.exec_driver_sql("INSERT INTO probe VALUES (1)")
            writer.commit()
            return bool(mode == "wal" and reader.exec_driver_sql("SELECT x FROM probe").scalar() == 1)
    except sa.exc.OperationalError:
        return False
    finally:
        engine.dispose()
        _remove(probe)


def _remove(database: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _to_json(value: Any) -> str:
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """A NumPy scalar as the Python number that it holds: policies compute their evidence with NumPy."""
    import numpy as np  # here, because most commands have no use for it

    if isinstance(value, np.generic):
        return value.item()
    raise TuneError(
        f"the journal stores plain JSON values, got {value!r}, a {type(value).__name__}; convert it first"
    )
