"""The tables of a suite's store, and what several of its transactions do with them."""

from __future__ import annotations

import json
import sqlite3

from autotune.process import alive, this_process

from . import baseline
from .plan import Search
from .results import Config, Method, Trial, config_from, pack, trial_from

DEATHS = 5
"""Processes that an item may take with it before it counts as failed."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS workloads (
    name TEXT PRIMARY KEY,
    base TEXT NOT NULL,        -- whose tuned configuration its cells start from
    definition TEXT NOT NULL,
    tuned TEXT
);
CREATE TABLE IF NOT EXISTS items (
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL,        -- search, cell
    workload TEXT NOT NULL,
    record TEXT NOT NULL,
    place REAL NOT NULL,       -- in the order of work
    cost REAL NOT NULL,        -- optimizer steps
    state TEXT NOT NULL,       -- waiting (for searches), open, claimed, done
    claimed_by TEXT,
    deaths INTEGER NOT NULL DEFAULT 0,
    outcome TEXT,
    error TEXT,
    seconds REAL
);
CREATE INDEX IF NOT EXISTS items_by_state ON items (state, place);
CREATE TABLE IF NOT EXISTS trials (
    workload TEXT, method TEXT, number INTEGER, record TEXT NOT NULL, PRIMARY KEY (workload, method, number)
);
"""


def me() -> str:
    """This process, as who holds a claim."""
    return json.dumps(this_process())


def release_dead(db: sqlite3.Connection) -> None:
    """Open what was claimed by a process that is gone, or by another machine: the folder is this one's."""
    for (holder,) in db.execute("SELECT DISTINCT claimed_by FROM items WHERE state = 'claimed'").fetchall():
        if alive(json.loads(holder)) is True:
            continue
        db.execute(
            "UPDATE items SET state = 'open', claimed_by = NULL, deaths = deaths + 1"
            " WHERE state = 'claimed' AND claimed_by = ?",
            (holder,),
        )
        db.execute(
            "UPDATE items SET state = 'done', error = ? WHERE state = 'open' AND deaths >= ?",
            (f"{DEATHS} processes that ran it were killed, the last one {holder}", DEATHS),
        )


def keep(db: sqlite3.Connection, search: Search, number: int, trial: Trial) -> None:
    """Write down a trial, unless it is there."""
    db.execute(
        "INSERT OR IGNORE INTO trials VALUES (?, ?, ?, ?)",
        (search.workload, search.method, number, json.dumps(pack(trial))),
    )


def tune(db: sqlite3.Connection, base: str) -> None:
    """Take the winner of a workload whose searches have all succeeded."""
    (missing,) = db.execute(
        "SELECT COUNT(*) FROM items"
        " WHERE kind = 'search' AND workload = ? AND (state != 'done' OR error IS NOT NULL)",
        (base,),
    ).fetchone()
    if not missing:
        tried = [trial for found in trials(db)[base].values() for trial in found]
        tuned = json.dumps(pack(baseline.winner(tried)))
        db.execute("UPDATE workloads SET tuned = ? WHERE base = ?", (tuned, base))
        open_cells(db)


def open_cells(db: sqlite3.Connection) -> None:
    """Open the cells of workloads that are tuned."""
    db.execute(
        "UPDATE workloads SET tuned = (SELECT tuned FROM workloads AS w WHERE w.name = workloads.base)"
        " WHERE tuned IS NULL"
    )
    db.execute(
        "UPDATE items SET state = 'open' WHERE state = 'waiting'"
        " AND workload IN (SELECT name FROM workloads WHERE tuned IS NOT NULL)"
    )


def trials(db: sqlite3.Connection) -> dict[str, dict[Method, tuple[Trial, ...]]]:
    """Trials by workload and method."""
    found: dict[str, dict[Method, tuple[Trial, ...]]] = {}
    for workload, method, record in db.execute(
        "SELECT workload, method, record FROM trials ORDER BY workload, method, number"
    ):
        methods = found.setdefault(workload, {})
        methods[method] = (*methods.get(method, ()), trial_from(json.loads(record)))
    return found


def tuned(db: sqlite3.Connection) -> dict[str, Config]:
    """Tuned configurations by workload."""
    return {
        name: config_from(json.loads(text))
        for name, text in db.execute("SELECT name, tuned FROM workloads WHERE tuned IS NOT NULL")
    }
