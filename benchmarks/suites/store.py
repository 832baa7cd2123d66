"""Results on disk: each cell of a suite is run once, whoever is killed on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.process import alive, this_process

from .workload import Outcome

SCHEMA = """
CREATE TABLE IF NOT EXISTS cells (
    key TEXT PRIMARY KEY,
    cell TEXT NOT NULL,
    claimed_by TEXT,  -- a process; a dead one claims nothing
    outcome TEXT,
    error TEXT,
    finished REAL
)
"""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One run of a suite.

    Args:
        workload: its name.
        arm: its name.
        factor: initial rate over the tuned one; None for an arm that ignores the rate.
        budget: total steps over the baseline's.
        seed: pairs the arms: the same data, weights and order.
    """

    workload: str
    arm: str
    factor: float | None
    budget: float
    seed: int

    @property
    def key(self) -> str:
        """Unique, readable."""
        rate = "" if self.factor is None else f" ×{self.factor:g}"
        return f"{self.workload} | {self.arm}{rate} | {self.budget:g} | {self.seed}"


@dataclass(frozen=True, slots=True)
class Finished:
    """A cell and what came of it: an outcome, or the error that ended it."""

    cell: Cell
    outcome: Outcome | None
    error: str | None


class Store:
    """The cells of a suite in one SQLite file, which several processes work off.

    Args:
        path: the file; made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with self._transaction() as db:
            db.execute(SCHEMA)

    def add(self, cells: Sequence[Cell]) -> None:
        """Plan cells; those that are there already stay as they are."""
        rows = [(cell.key, json.dumps(dataclasses.asdict(cell))) for cell in cells]
        with self._transaction() as db:
            db.executemany("INSERT OR IGNORE INTO cells (key, cell) VALUES (?, ?)", rows)

    def claim(self) -> Cell | None:
        """Take a cell that nobody has run or is running; None when there is none left."""
        with self._transaction() as db:
            open_ = db.execute(
                "SELECT key, cell, claimed_by FROM cells WHERE finished IS NULL ORDER BY rowid"
            )
            for key, cell, claimed_by in open_:
                if claimed_by is None or alive(json.loads(claimed_by)) is False:
                    me = json.dumps(this_process())
                    db.execute("UPDATE cells SET claimed_by = ? WHERE key = ?", (me, key))
                    return Cell(**json.loads(cell))
        return None

    def finish(self, cell: Cell, outcome: Outcome | None, error: str | None = None) -> None:
        """Write down what came of a cell.

        Raises:
            RuntimeError: when it has a result already.
        """
        text = None if outcome is None else json.dumps(dataclasses.asdict(outcome))
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE cells SET outcome = ?, error = ?, finished = ? WHERE key = ? AND finished IS NULL",
                (text, error, time.time(), cell.key),
            ).rowcount
        if changed != 1:
            raise RuntimeError(f"a cell is run once, got a second result for {cell.key}")

    def finished(self) -> list[Finished]:
        """All results, in the order in which the cells were planned."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT cell, outcome, error FROM cells WHERE finished IS NOT NULL ORDER BY rowid"
            ).fetchall()
        return [
            Finished(Cell(**json.loads(cell)), None if text is None else _outcome(json.loads(text)), error)
            for cell, text, error in rows
        ]

    def counts(self) -> tuple[int, int]:
        """How many cells are finished, and how many there are."""
        with self._transaction() as db:
            finished, planned = db.execute("SELECT COUNT(finished), COUNT(*) FROM cells").fetchone()
        return int(finished), int(planned)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # A connection each: workers are forked and spawned, and a run takes seconds.
        db = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        finally:
            db.close()


def _outcome(fields: dict[str, Any]) -> Outcome:
    fields["curve"] = [(int(spent), float(loss)) for spent, loss in fields["curve"]]
    return Outcome(**fields)
