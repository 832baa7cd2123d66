"""Where a run is: in a folder, which holds its checkpoints and its record, or its record in a database."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import sqlalchemy as sa

from . import manifest
from .records import TuneError

STORE = "store.json"
"""In the folder of a run whose record is in a database: says which, and the run's name there."""


@dataclass(frozen=True, slots=True)
class DatabaseRun:
    """A run whose record is in a PostgreSQL database.

    Args:
        url: the database's address, as in `postgresql://user@host/db`; a password is shown nowhere.
        name: the run's, unique in the database.

    Raises:
        TuneError: for an address of another kind, or a name that is empty or cannot be printed.
    """

    url: str = field(repr=False)
    name: str

    def __post_init__(self) -> None:
        address(self.url)
        if not self.name or not self.name.isprintable():
            raise TuneError(
                f"a run in a database is named by printable characters, got {self.name!r}; "
                "train into a folder of another name"
            )

    def __str__(self) -> str:
        return f"{self.name} in {shown(self.url)}"

    @property
    def schema(self) -> str:
        """The PostgreSQL schema that holds the run's tables: a name that needs no quoting."""
        return f"autotune_{hashlib.sha256(self.name.encode()).hexdigest()[:32]}"


Place: TypeAlias = Path | DatabaseRun
"""A run's folder, or its name in a database. Both have a `name`."""


def is_database(root: str | Path) -> bool:
    """Whether what was given for the place of runs is a database's address, not a folder."""
    return isinstance(root, str) and "://" in root


def address(url: str) -> sa.URL:
    """The parts of a database's address.

    Raises:
        TuneError: when it is not that of a PostgreSQL database.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # a port that is no number
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("postgresql", "postgres") or not parsed.database:
        got = _plain(parsed) if parsed else f"{url.partition('://')[0]}://…"
        raise TuneError(
            f"a database of runs is given as postgresql://user@host/database, got {got}; "
            "give a folder to keep runs there"
        )
    return parsed


def shown(url: str) -> str:
    """A database's address without its password and options."""
    return _plain(address(url))


def place_of(run: str | Place) -> Place:
    """Where the record of a run is: that of a folder may be in a database.

    Raises:
        TuneError: when the folder says so, but not where.
    """
    if isinstance(run, DatabaseRun):
        return run
    folder = Path(run)
    try:
        stored = json.loads((folder / STORE).read_text(encoding="utf-8"))
        return DatabaseRun(stored["url"], stored["name"])
    except (FileNotFoundError, NotADirectoryError):
        return folder
    except (ValueError, KeyError, TypeError) as error:
        raise TuneError(
            f"{folder / STORE} says which database has the run, got what cannot be read ({error!r}); "
            'write {"url": "postgresql://…", "name": "…"} into it'
        ) from error


def note(folder: Path, run: DatabaseRun) -> None:
    """Say in a run's folder where its record is, for the user alone, since an address may hold a password."""
    draft = folder / f".{STORE}.draft"
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump({"url": run.url, "name": run.name}, file)
    manifest.sync(draft)
    draft.rename(folder / STORE)
    manifest.sync(folder)


def _plain(parsed: sa.URL) -> str:
    return parsed.set(query={}).render_as_string(hide_password=True)


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint on disk, as its manifest has it."""

    name: str
    step: int
    nbytes: int
    pinned: bool
    score: float | None


def saved(folder: Path) -> list[Saved]:
    """The checkpoints of a run's folder whose manifest is whole, by step."""
    # The store itself could tell, but takes torch, and a second, to import.
    found = []
    for path in (folder / "checkpoints").glob("[!.]*"):
        with contextlib.suppress(TuneError):
            about: dict[str, Any] = manifest.read(path)
            nbytes = sum(file["size"] for file in about["files"].values())
            found.append(Saved(path.name, about["step"], nbytes, about["pinned"], about["score"]))
    return sorted(found, key=lambda saved: (saved.step, saved.name))
