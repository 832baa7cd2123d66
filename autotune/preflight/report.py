"""What a preflight has found, as records and as a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..records import TuneError

Severity: TypeAlias = Literal["ok", "note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note", "ok")
"""Worst first."""
FILES = ("preflight.md", "preflight.png")
"""Table and picture in a run's folder."""
COLUMNS = ("check", "finding", "what it means", "what to do")
WIDTH = 80


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of one check.

    `ok`: looked at, and as it should be. `note`: worth knowing, or could not be decided. `warning`: will
    probably cost quality or time. `error`: the run cannot work like this.
    """

    check: str
    severity: Severity
    found: str
    means: str = ""
    remedy: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The numbers behind it, by name."""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise TuneError(
                f"a finding's severity is one of {', '.join(SEVERITIES)}, got {self.severity!r}; choose one"
            )


@dataclass(frozen=True, slots=True)
class Layer:
    """A sample of what one layer puts out and of the gradients of its parameters, 1-D float32 arrays."""

    name: str
    activations: NDArray[np.float32]
    gradients: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Report:
    """What `AutoTuner.preflight` has found, and what it cost. Nothing of it counts as spent."""

    findings: tuple[Finding, ...]
    """Worst first."""
    step: int
    batches: int
    """Read from the training loader."""
    losses: int
    """Evaluations of the loss."""
    gradients: int
    """Backward passes among them."""
    seconds: float
    layers: tuple[Layer, ...] = field(default=(), repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether there is neither a warning nor an error."""
        return all(finding.severity in ("ok", "note") for finding in self.findings)

    def to_markdown(self) -> str:
        """The table as a Markdown page."""
        rows = [(f"**{f.severity}** · {f.check}", f.found, f.means, f.remedy) for f in self.findings]
        lines = [" | ".join(_cell(cell) for cell in row) for row in (COLUMNS, ("---",) * 4, *rows)]
        table = "\n".join(f"| {line} |" for line in lines)
        return f"# Preflight at step {self.step}\n\n{self._summary()}\n\n{table}\n\n{self._cost()}\n"

    def save_histograms(self, path: str | Path) -> None:
        """Draw histograms of each layer's activations and gradients; the suffix chooses the format.

        Raises:
            TuneError: when there is nothing to draw: the loss ran through no layer of the model.
        """
        from .pictures import draw  # here, because matplotlib is slow to import

        draw(self.layers, Path(path))

    def __str__(self) -> str:
        """The table in plain text, 80 columns wide."""
        told = [f for f in self.findings if f.means or f.remedy]
        rest = [f for f in self.findings if not (f.means or f.remedy)]
        table = _table(COLUMNS, (13, 21, 21, 21))
        for f in told:
            table.add_row(*map(Text, (f"{f.severity}:\n{f.check}", f.found, f.means, f.remedy)))
            table.add_row()
        brief = _table(COLUMNS[:2], (19, 58))
        for f in rest:
            brief.add_row(Text(f"{f.severity}: {f.check}"), Text(f.found))
        console = Console(file=StringIO(), width=WIDTH, highlight=False, color_system=None)
        console.print(f"Preflight at step {self.step}: {self._summary()}\n")
        if told:
            console.print(table)
        if rest:
            console.print(brief)
        console.print(f"\n{self._cost()}")
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())

    def _summary(self) -> str:
        count = Counter(finding.severity for finding in self.findings)
        parts = [f"{count[name]} {name}{'s' * (count[name] > 1)}" for name in SEVERITIES[:3] if count[name]]
        return ", ".join([*parts, f"{count['ok']} ok"]) + "."

    def _cost(self) -> str:
        return (
            f"{self.seconds:.1f} s, {self.batches} batches read, {self.losses} evaluations of the loss, "
            f"{self.gradients} of them with gradient. None counts as spent: all of it is undone."
        )


def record(report: Report, folder: Path, pictures: bool) -> None:
    """Write the table, and the picture if it is wanted, into a run's folder; each is whole or not there."""
    table, picture = (folder / name for name in FILES)
    if pictures and report.layers:
        report.save_histograms(part := picture.with_suffix(".part.png"))
        os.replace(part, picture)
    part = table.with_suffix(".part")
    part.write_text(report.to_markdown(), encoding="utf-8")
    os.replace(part, table)


def _table(columns: Sequence[str], widths: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, width=width, overflow="fold")
    return table


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
