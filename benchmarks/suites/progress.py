"""How far a suite is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from .plan import Status
from .store import Store

EVERY = 30.0
"""Seconds between lines."""
REFRESH = 1.0


class Progress:
    """Shows a store's status.

    Args:
        store: of the suite.
        processes: that work it off; the time that is left is divided by them.
    """

    def __init__(self, store: Store, processes: int) -> None:
        self._store, self._processes = store, processes
        self._console = Console(highlight=False)
        self._bar: Bar | None = None
        self._shown = -float("inf")
        self._running: frozenset[str] = frozenset()
        if self._console.is_terminal:
            self._bar = Bar(
                BarColumn(20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                TextColumn(
                    "{task.description}",
                    markup=False,
                    table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
                ),
                console=self._console,
                expand=True,
            )
            self._task = self._bar.add_task("", left="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.show(last=True)
        if self._bar is not None:
            self._bar.stop()

    def show(self, last: bool = False) -> None:
        """Bring it up to date, when it is time to."""
        now = time.monotonic()
        if not last and now - self._shown < (EVERY if self._bar is None else REFRESH):
            return
        self._shown = now
        status = self._store.status()
        left = f"about {duration(status.left / self._processes)} left" if status.left else ""
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=status.finished,
                total=status.planned,
                left=left,
                description="; ".join(status.running),
            )
        else:
            still = [key for key in status.running if key in self._running]
            self._running = frozenset(status.running)
            self._console.print(line(status, left, still), markup=False, soft_wrap=True)


def line(status: Status, left: str, still: Sequence[str]) -> str:
    """Where it stands, in a line.

    Args:
        status: of the store.
        left: the time, as text; empty: not known.
        still: keys of what is being run since the last line, and may hang.
    """
    errors = f", {status.errors} of them errors" if status.errors else ""
    parts = [f"{status.finished:,} of {status.planned:,} finished{errors}", left]
    if still:
        parts.append(f"still running: {', '.join(still)}")
    return "; ".join(filter(None, parts))


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
