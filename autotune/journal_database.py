"""Records of runs in a PostgreSQL database, for many machines: a schema for each run, and a list of them."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from filelock import Timeout
from sqlalchemy.engine.base import OptionEngine

from . import journal_tables as tables
from .places import DatabaseRun, address, shown
from .records import TuneError

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

OPTIONS = {"connect_timeout": "10", "tcp_user_timeout": "10000", "client_encoding": "utf8"}
"""How long a database that has gone is waited for, in s and ms; what the address says comes first."""
NO_TABLE = "42P01"
"""PostgreSQL's code for a table that is not there."""
CONNECTIONS = 5
"""The most that a process has to one database, however many runs it looks at; more threads wait."""

listed = sa.MetaData(schema="autotune")
runs = sa.Table(
    "runs",
    listed,
    sa.Column("name", tables.Text, primary_key=True),
    sa.Column("schema", tables.Text, nullable=False),  # for people; it follows from the name
    sa.Column("created", sa.Float, nullable=False),
)


def connect(run: DatabaseRun) -> sa.Engine:
    """An engine to which tables without a schema are those of `run`. It connects again by itself.

    All that a process has on one database share their connections; `dispose` is one's own going.

    Raises:
        TuneError: when the driver is not installed.
    """
    return _shared(run.url, schema_translate_map={None: run.schema})


def make(run: DatabaseRun, facts: Mapping[str, Any], before_commit: Callable[[], None]) -> None:
    """Make the tables of a new run with `facts` as its meta: whole, or not at all.

    Args:
        run: where, and its name.
        facts: of these, `created` is listed too.
        before_commit: called when all is made and nobody sees it yet.

    Raises:
        TuneError: when the database has a run of this name, cannot be reached, or refuses.
    """
    engine = connect(run)
    try:
        with engine.begin() as connection:
            # Two machines may make the list at the same time.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_number("autotune.runs"))))
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
            if encoding != "UTF8":
                raise TuneError(
                    f"a database of runs has the encoding UTF8, got {encoding} in {shown(run.url)}; "
                    "make one by createdb --encoding=UTF8 --template=template0"
                )
            connection.execute(sa.schema.CreateSchema("autotune", if_not_exists=True))
            listed.create_all(connection)
            if connection.scalar(sa.select(runs.c.name).where(runs.c.name == run.name)) is not None:
                raise TuneError(
                    f"a run's name is unique in its database, got a second {run}; "
                    "choose a folder of another name"
                )
            row = {"name": run.name, "schema": run.schema, "created": facts["created"]}
            connection.execute(sa.insert(runs).values(row))
            connection.execute(sa.schema.CreateSchema(run.schema))
            tables.fill(connection, facts)
            before_commit()
    except sa.exc.DBAPIError as error:
        raise unreachable(run.url, error) from error
    finally:
        engine.dispose()


def names(url: str) -> list[str]:
    """The runs in a database, the one that was started last first.

    Raises:
        TuneError: when it cannot be reached, or refuses.
    """
    engine = _shared(url)
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table("runs", schema="autotune"):
                return []
            newest = sa.select(runs.c.name).order_by(runs.c.created.desc(), runs.c.name.desc())
            return list(connection.scalars(newest))
    except sa.exc.DBAPIError as error:
        raise unreachable(url, error) from error
    finally:
        engine.dispose()


def unreachable(url: str, error: sa.exc.StatementError) -> TuneError:
    """What to say when a database does not answer, or refuses."""
    return TuneError(
        f"the database {shown(url)} cannot be used ({' '.join(str(error.orig).split())}); "
        "start it, or look at the address and the rights there"
    )


def insert_metrics(connection: sa.Connection, first: int, rows: Sequence[tuple[object, ...]]) -> None:
    """Write metrics with ids from `first` on; those that have arrived already are left as they are."""
    columns = (range(first, first + len(rows)), *zip(*rows, strict=True))
    names = [column.name for column in tables.metrics.c]
    connection.execute(_metrics_insert(), dict(zip(names, map(list, columns), strict=True)))


def insert(table: sa.Table) -> postgresql.Insert:
    """An insertion that says what to do about a row that is there."""
    from sqlalchemy.dialects import postgresql  # here, because it takes 50 ms, and most runs are in folders

    return postgresql.insert(table)


@contextmanager
def locked(run: DatabaseRun, what: str, seconds: float) -> Iterator[None]:
    """Hold what one process in the world may do with a run at a time.

    Raises:
        Timeout: when another process holds it for longer than `seconds`.
    """
    engine, key = connect(run), _number(f"{run.schema}.{what}")
    until = time.monotonic() + seconds
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.detach()  # from what is shared: the lock goes with this connection
            while not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(key))):
                if time.monotonic() > until:
                    raise Timeout(f"{what} of {run}")
                time.sleep(0.1)
            yield
    finally:
        engine.dispose()


class _Shared(OptionEngine):
    """One of those that share the connections to a database; the last to go closes them."""

    def __init__(
        self, engine: sa.Engine, options: Mapping[str, Any], users: weakref.WeakSet[_Shared]
    ) -> None:
        super().__init__(engine, options)
        self.shared, self._users = engine, users
        users.add(self)

    def dispose(self, close: bool = True) -> None:
        """Go."""
        with _sharing:
            self._users.discard(self)
            if not self._users:
                super().dispose(close)


_users: defaultdict[tuple[int, str], weakref.WeakSet[_Shared]] = defaultdict(weakref.WeakSet)
"""Who shares connections: those of one process, since a fork's are not its own, to one address."""
_sharing = threading.Lock()


def _shared(url: str, **options: Any) -> sa.Engine:
    """One more of those that share the connections to a database."""
    with _sharing:
        users = _users[os.getpid(), url]
        other = next(iter(users), None)
        return _Shared(other.shared if other else _engine(url), options, users)


def _engine(url: str) -> sa.Engine:
    parsed = address(url)
    # The driver is named, because SQLAlchemy's own choice has changed.
    parsed = parsed.set(drivername="postgresql+psycopg", query={**OPTIONS, **parsed.query})
    try:
        return sa.create_engine(parsed, pool_pre_ping=True, pool_size=CONNECTIONS, max_overflow=0)
    except ModuleNotFoundError as error:
        raise TuneError(
            f"runs in a database need the driver psycopg ({error}); pip install 'autotune-torch[postgres]'"
        ) from error


@functools.cache
def _metrics_insert() -> sa.Executable:
    columns = list(tables.metrics.c)
    # A column at a time takes half the processor time, which is the training's, of a row at a time.
    arrays = [sa.bindparam(column.name, type_=sa.ARRAY(column.type)) for column in columns]
    rows = sa.func.unnest(*arrays).table_valued(*(column.name for column in columns)).render_derived()
    return insert(tables.metrics).from_select(columns, sa.select(rows)).on_conflict_do_nothing()


def _number(name: str) -> int:
    """Of an advisory lock: 64 bits."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
