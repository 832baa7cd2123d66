"""A suite on disk: what is to be run is run once, whoever is killed on the way.

One SQLite file in the suite's folder, which the processes of one machine work off. A claim holds as long as
the process that made it lives.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.records import TuneError

from . import rows
from .plan import Defined, Item, Job, Planned, Result, Search, Status
from .results import Cell, Finished, Outcome, Results, Trial, cell_from, outcome_from, pack

FILE = "suite.sqlite"


class StoreError(TuneError):
    """The file cannot be read or written."""


class Store:
    """The items of a suite, and what came of them.

    Args:
        folder: of the suite; made when it is not there.

    Raises:
        StoreError: from here and from all methods, when the file cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._wanted: Container[str] | None = None
        with self._errors():
            self._db = sqlite3.connect(folder / FILE, timeout=60, isolation_level=None)
            # So a commit waits for no disk: a run may take 0.3 s, and many processes commit. What is killed
            # loses nothing; when the machine goes down, the last seconds may be run again.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.create_function("wanted", 1, lambda key: self._wanted is None or key in self._wanted)
        with self._transaction() as db:
            for statement in rows.SCHEMA.split(";"):
                db.execute(statement)

    @classmethod
    def at(cls, folder: Path) -> Store:
        """The store of a suite that was run.

        Raises:
            TuneError: when the folder has none.
        """
        store = cls(folder) if (folder / FILE).exists() else None
        if store is None or store.fact("suite") is None:
            raise TuneError(f"a suite's folder holds {FILE}, got {folder}: not there; run the suite first")
        return store

    def limit(self, items: Iterable[Planned]) -> None:
        """Claim, count and report these only: what one request asks for, of all that the folder has.

        Another request may have workloads and policies that this one's processes do not know.
        """
        self._wanted = frozenset(one.item.key for one in items)

    def plan(self, facts: Mapping[str, Any], workloads: Sequence[Defined], items: Sequence[Planned]) -> None:
        """Add what is not there yet, and be limited to the items; what is there stays as it is.

        Args:
            facts: of the suite, the same whenever it is planned.
            workloads: those of the items, and their bases.
            items: searches and cells.

        Raises:
            TuneError: when facts or a workload differ from what was planned before.
        """
        with self._transaction() as db:
            for name, value in facts.items():
                self._insert_same(db, "facts", {"name": name, "value": json.dumps(pack(value))})
            for one in workloads:
                definition = json.dumps(pack(one.definition))
                self._insert_same(
                    db, "workloads", {"name": one.name, "base": one.base, "definition": definition}
                )
            db.executemany(
                "INSERT OR IGNORE INTO items (key, kind, workload, record, place, cost, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        one.item.key,
                        "cell" if isinstance(one.item, Cell) else "search",
                        one.item.workload,
                        json.dumps(pack(one.item)),
                        one.place,
                        one.cost,
                        "waiting" if isinstance(one.item, Cell) else "open",
                    )
                    for one in items
                ],
            )
            rows.open_cells(db)
        self.limit(items)

    def _insert_same(self, db: sqlite3.Connection, table: str, row: Mapping[str, str]) -> None:
        columns, now = ", ".join(row), tuple(row.values())
        before = db.execute(f"SELECT {columns} FROM {table} WHERE name = ?", (row["name"],)).fetchone()
        if before is None:
            db.execute(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(row))})", now)
        elif before != now:
            raise TuneError(
                f"{self.folder} holds results with {before[0]} = {', '.join(before[1:])}, "
                f"got {', '.join(now[1:])}; delete the folder, or give another one by --folder"
            )

    def claim(self) -> Item | None:
        """Take what comes next; None when nothing is open at present."""
        with self._transaction() as db:
            rows.release_dead(db)
            found = db.execute(
                "SELECT key, kind, record, workload FROM items"
                " WHERE state = 'open' AND wanted(key) ORDER BY place LIMIT 1"
            ).fetchone()
            if found is None:
                return None
            key, kind, record, workload = found
            db.execute("UPDATE items SET state = 'claimed', claimed_by = ? WHERE key = ?", (rows.me(), key))
            if kind == "cell":
                return Job(cell_from(json.loads(record)), rows.tuned(db)[workload])
            data = json.loads(record)
            known = rows.trials(db).get(workload, {}).get(data["method"], ())
            return Search(workload, data["method"], data["trials"], known)

    def keep(self, search: Search, number: int, trial: Trial) -> None:
        """Write down a trial of a search that goes on; one that is there stays."""
        with self._transaction() as db:
            rows.keep(db, search, number, trial)
            db.execute("UPDATE items SET deaths = 0 WHERE key = ?", (search.key,))

    def finish(self, item: Item, result: Result, seconds: float) -> None:
        """Write down what came of an item; with a workload's last search, its cells are opened.

        Raises:
            RuntimeError: when this process does not hold it.
        """
        error = result if isinstance(result, str) else None
        outcome = json.dumps(pack(result)) if isinstance(result, Outcome) else None
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE items SET state = 'done', claimed_by = NULL, outcome = ?, error = ?, seconds = ?"
                " WHERE key = ? AND state = 'claimed' AND claimed_by = ?",
                (outcome, error, seconds, item.key, rows.me()),
            ).rowcount
            if changed != 1:
                raise RuntimeError(f"an item is finished by who claimed it, got {item.key}")
            if isinstance(item, Search) and not isinstance(result, Outcome | str):
                for number, trial in enumerate(result):
                    rows.keep(db, item, number, trial)
                rows.tune(db, item.workload)

    def release(self, item: Item) -> None:
        """Give an item back, to be run another time."""
        with self._transaction() as db:
            db.execute(
                "UPDATE items SET state = 'open', claimed_by = NULL"
                " WHERE key = ? AND state = 'claimed' AND claimed_by = ?",
                (item.key, rows.me()),
            )

    def retry_errors(self) -> None:
        """Open again what ended in an error."""
        with self._transaction() as db:
            db.execute(
                "UPDATE items SET state = 'open', error = NULL, deaths = 0"
                " WHERE state = 'done' AND error IS NOT NULL AND wanted(key)"
            )

    def busy(self) -> bool:
        """Whether something is open or being run; cells whose search has failed are neither."""
        with self._transaction() as db:
            rows.release_dead(db)
            return bool(
                db.execute(
                    "SELECT EXISTS (SELECT 1 FROM items WHERE state IN ('open', 'claimed') AND wanted(key))"
                ).fetchone()[0]
            )

    def errors(self) -> list[tuple[str, str]]:
        """Keys of items that failed, and why."""
        with self._reading() as db:
            return db.execute(
                "SELECT key, error FROM items WHERE error IS NOT NULL AND wanted(key) ORDER BY place"
            ).fetchall()

    def status(self) -> Status:
        """How far it is."""
        with self._reading() as db:
            finished, planned, errors = db.execute(
                "SELECT COALESCE(SUM(state = 'done'), 0), COUNT(*), COUNT(error) FROM items WHERE wanted(key)"
            ).fetchone()
            running = db.execute(
                "SELECT key FROM items WHERE state = 'claimed' AND wanted(key) ORDER BY place"
            ).fetchall()
            costs = db.execute(
                "SELECT TOTAL(seconds), TOTAL(cost) FILTER (WHERE seconds IS NOT NULL),"
                " TOTAL(cost) FILTER (WHERE state != 'done') FROM items WHERE wanted(key) GROUP BY workload"
            ).fetchall()
        seconds, cost = (sum(row[i] for row in costs) for i in (0, 1))
        if not cost:
            left = None
        else:  # a workload that has not been run yet takes per step what the others do
            left = sum(todo * (took / done if done else seconds / cost) for took, done, todo in costs)
        return Status(finished, planned, errors, tuple(key for (key,) in running), left)

    def note(self, name: str, value: Mapping[str, str] | Sequence[str]) -> None:
        """Write down something beside the results that may change."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(pack(value))))

    def fact(self, name: str, default: Any = None) -> Any:
        """What `plan` or `note` has written down."""
        with self._reading() as db:
            found = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return json.loads(found[0]) if found else default

    def results(self) -> Results:
        """All that is finished, in the order in which it was planned; whoever asked for it."""
        with self._reading() as db:
            facts = {name: json.loads(value) for name, value in db.execute("SELECT name, value FROM facts")}
            workloads = [
                (name, base, json.loads(text))
                for name, base, text in db.execute(
                    "SELECT name, base, definition FROM workloads"
                    " WHERE name IN (SELECT workload FROM items WHERE kind = 'cell') ORDER BY rowid"
                )
            ]
            trials, tuned = rows.trials(db), rows.tuned(db)
            cells = db.execute(
                "SELECT record, outcome, error FROM items"
                " WHERE kind = 'cell' AND state = 'done' ORDER BY place, rowid"
            ).fetchall()
            (planned,) = db.execute("SELECT COUNT(*) FROM items WHERE kind = 'cell'").fetchone()
            return Results(
                suite=facts["suite"],
                command=" && ".join(facts.get("commands", ())),
                versions=facts.get("versions", {}),
                searches={name: trials[base] for name, base, _ in workloads if base in trials},
                tuned={name: tuned[name] for name, _, _ in workloads if name in tuned},
                targets={name: float(one["target"]) for name, _, one in workloads},
                steps={name: int(one["steps"]) for name, _, one in workloads},
                cells=tuple(
                    Finished(
                        cell_from(json.loads(cell)), outcome and outcome_from(json.loads(outcome)), error
                    )
                    for cell, outcome, error in cells
                ),
                planned=planned,
            )

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        with self._errors(), self._db:  # committed, or rolled back
            self._db.execute(f"BEGIN {kind}")
            yield self._db

    def _reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """One state of all tables; nobody who writes waits for it."""
        return self._transaction("DEFERRED")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            path = self.folder / FILE
            raise StoreError(
                f"a suite needs a file that can be read and written, got {path}: {error}"
            ) from error
