"""Plain text for people and for pipes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import typer

from .records import Value


def print_line(text: str) -> None:
    """Paths and links stay whole in a terminal too, so that they can be clicked and copied."""
    typer.echo(text)
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for a person in a terminal, or one plain line a row for a pipe.

    Args:
        columns: headings; one that begins with `>` stands for a column that is aligned right.
        rows: cells. In a terminal, columns without any text are left out.
    """
    if not rows:
        return
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [[_one_line(cell) for cell in row] for row in rows]
    heads = [column.lstrip(">") for column in columns]
    right = [column.startswith(">") for column in columns]
    console = Console(highlight=False)
    if console.is_terminal:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        used = [i for i in range(len(heads)) if any(row[i] for row in rows)]
        for i in used:
            table.add_column(heads[i], justify="right" if right[i] else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(row[i]) for i in used))
        console.print(table)
        return
    widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = []
        for cell, width, r in zip(row, widths, right, strict=True):
            gap = " " * (width - cell_len(cell))
            cells.append(gap + cell if r else cell + gap)
        typer.echo("  ".join(cells).rstrip())


def number(value: Value | None) -> str:
    """A value in four significant digits."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def age(since: float) -> str:
    """The time since then, in its largest unit."""
    seconds = max(0.0, time.time() - since)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _one_line(text: str) -> str:
    """Without line breaks, and without the control characters that a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
