"""What the page reads often, as queries that stay quick however long a run is."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from .. import journal_tables as tables
from ..journal import JournalError
from .series import ROW, Rows


class Position(NamedTuple):
    """How far a run has come, and what is newest in its journal; 0 where there is nothing."""

    spent: int
    branch: int
    step: int
    metric: int
    decision: int
    outcome: int
    revision: int
    """Another one when the newest decision was settled, or more was noted about it."""


@contextmanager
def _connected(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection, to read by.

    Raises:
        JournalError: when that cannot be done.
    """
    try:
        with engine.connect() as connection:
            yield connection
    except (sa.exc.SQLAlchemyError, engine.dialect.loaded_dbapi.Error) as error:
        why = " ".join(str(getattr(error, "orig", error)).split())
        raise JournalError(f"the journal cannot be read ({why})") from error


def rows(engine: sa.Engine, name: str, after: int) -> Rows:
    """The rows of one metric with an id above `after`, without an object for each."""
    c = tables.metrics.c
    query = sa.select(c.id, c.step, c.spent, c.branch, c.value)
    query = query.where(c.name == name, c.id > after).order_by(c.id)
    with _connected(engine) as connection:
        cursor: Any = connection.execute(query).cursor  # of the driver
        found: Rows = np.fromiter(cursor, ROW)  # None becomes NaN
        return found


def position(engine: sa.Engine) -> Position:
    """How far the run has come."""
    places: list[tuple[int, int, int]] = [(0, 0, 0)]
    newest: list[int] = []
    noted = ""
    with _connected(engine) as connection:
        for table in (tables.metrics, tables.decisions):
            row = connection.execute(sa.select(table).order_by(table.c.id.desc()).limit(1)).one_or_none()
            newest.append(0 if row is None else row.id)
            if row is not None:
                places.append((row.spent, row.branch, row.step))
        if row is not None:
            noted = f"{row.status} {row.note}"
        outcome = connection.execute(sa.select(sa.func.max(tables.outcomes.c.id))).scalar() or 0
    spent, branch, step = max(places)
    metric, decision = newest
    return Position(spent, branch, step, metric, decision, outcome, zlib.crc32(noted.encode()))


def sample(engine: sa.Engine, name: str, count: int) -> list[float | None]:
    """At most `count` values of a metric, spread evenly, the newest among them: a look-up for each."""
    m, found = tables.metrics, tables.metrics.alias()
    mine = m.c.name == name
    ends = (sa.select(end(m.c.id)).where(mine).scalar_subquery() for end in (sa.func.min, sa.func.max))
    with _connected(engine) as connection:
        first, last = connection.execute(sa.select(*ends)).one()
        if first is None:
            return []
        # By arithmetic, not as a list of values: that would be another statement each time, to be compiled.
        number = sa.select(sa.literal(0, tables.Int).label("i")).cte(recursive=True)
        number = number.union_all(sa.select(number.c.i + 1).where(number.c.i < count - 1))
        tick = last - (last - first) * number.c.i // max(count - 1, 1)
        at = sa.select(sa.func.min(m.c.id)).where(mine, m.c.id >= tick).correlate(number)
        query = sa.select(found.c.id, found.c.value).distinct().order_by(found.c.id)
        query = query.select_from(number.join(found, found.c.id == at.scalar_subquery()))
        return [row.value for row in connection.execute(query)]
