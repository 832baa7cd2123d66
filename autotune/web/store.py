"""All runs of a store as the page sees them."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

from ..journal_tables import FILE
from ..places import STORE, Place, is_database, shown
from ..runs import UnknownRun, find
from .view import View

LOOK_SECONDS = 0.25
"""A new run is found this much later."""
CURVES_BYTES = 2**30
"""The memory that curves may take together; those of the runs that were looked at least recently go first."""


class Store:
    """The runs under a folder, or in a database; safe to use from several threads.

    Args:
        root: the folder, which need not exist yet, or the database's address.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}
        self._looked = -math.inf
        self._files_known: dict[str, tuple[int, ...]] = {}
        self._views: dict[str, View] = {}  # those looked at last come last
        self._lines: dict[str, tuple[object, dict[str, Any]]] = {}

    def __str__(self) -> str:
        return shown(str(self._root)) if is_database(self._root) else str(Path(self._root).absolute())

    def view(self, name: str) -> View:
        """One run.

        Args:
            name: as found in the store: nothing is made of it but a comparison.

        Raises:
            UnknownRun: when there is no run of this name.
            TuneError: when it cannot be read.
        """
        with self._lock:
            place = self._found().get(name)
            if place is None:
                raise UnknownRun(f"there is no run of this name in {self}")
            view = self._views.pop(name, None) or View(place)
            self._views[name] = view
            others = list(self._views.values())[:-1]
        held = sum(one.nbytes for one in (*others, view))
        for one in others:
            if held <= CURVES_BYTES:
                break
            held -= one.nbytes
            one.forget()
        return view

    def runs(self) -> list[dict[str, Any]]:
        """The list of runs, the one that was started last first; one that cannot be read is only named."""
        with self._lock:
            names = list(self._found())
        return [self._line(name) for name in names]

    def _line(self, name: str) -> dict[str, Any]:
        try:
            view = self.view(name)
            state = view.state()
            known, line = self._lines.get(name, (None, {}))
            if known != state:
                line = view.listed()
                self._lines[name] = (state, line)
            return line
        except Exception as error:  # whatever is wrong with it, the others are to be seen
            return {"name": name, "status": "unreadable", "note": str(error) or repr(error)}

    def close(self) -> None:
        """Let go of all runs."""
        for view in self._views.values():
            view.close()

    def _found(self) -> dict[str, Place]:
        """The runs there are, looked for anew every few seconds."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            files = self._files()
            if files is None or files != self._files_known:
                try:
                    found = find(self._root)
                except UnknownRun:  # no run was trained yet
                    found = []
                self._places = {place.name: place for place in found if _in_utf8(place.name)}
                for name in [*self._views]:  # one of the same name may be another run by now
                    if files is None and name in self._places:
                        continue
                    if files is None or files.get(name) != self._files_known.get(name):
                        self._views.pop(name).close()
            self._files_known = files or {}
        return self._places

    def _files(self) -> dict[str, tuple[int, ...]] | None:
        """What tells each run's file from any other; None in a database, whose list is quick to read."""
        if is_database(self._root):
            return None
        paths = (path for file in (FILE, STORE) for path in Path(self._root).glob(f"*/{file}"))
        return {path.parent.name: (path.stat().st_dev, path.stat().st_ino) for path in paths}


def _in_utf8(name: str) -> bool:
    """Whether an address can hold it: a folder's name may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
