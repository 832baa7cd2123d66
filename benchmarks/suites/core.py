"""The suite of the core: what the tuner itself costs, each benchmark in a process of its own."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from autotune.records import TuneError

from ..figures import COLUMNS, Figure, rows
from .versions import merged, versions

BENCHMARKS = ("overhead", "snapshot", "disk", "logging_cost", "digits")
"""Modules that have `figures()`."""


@dataclass(frozen=True, slots=True)
class Core:
    """Figures by benchmark, and what they were measured with."""

    figures: Mapping[str, Sequence[Figure]]
    versions: Mapping[str, str]

    @property
    def met(self) -> bool:
        """Whether all targets are."""
        return not any(one.met is False for figures in self.figures.values() for one in figures)


def run(folder: Path) -> Core:
    """Measure what the folder does not have yet, with one thread.

    Raises:
        TuneError: when a benchmark ends with an error, or the folder is another version's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    read(folder)
    for name in BENCHMARKS:
        if not _file(folder, name).exists():
            command = [sys.executable, "-m", __name__, name, str(folder)]
            code = _wait(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
            if code:
                raise TuneError(f"{name} has ended with exit code {code}; run the suite again")
    return read(folder)


def read(folder: Path) -> Core:
    """What was measured.

    Raises:
        TuneError: when it was measured with another version of this package.
    """
    figures: dict[str, list[Figure]] = {}
    made_with: dict[str, str] = {}
    for name in BENCHMARKS:
        if not (path := _file(folder, name)).exists():
            continue
        data = json.loads(path.read_text())
        before, now = data["versions"]["autotune-torch"], version("autotune-torch")
        if before != now:
            raise TuneError(f"{path} is of autotune {before}, got {now}; delete it, or give another --folder")
        figures[name] = [Figure(**one) for one in data["figures"]]
        made_with = merged(made_with, data["versions"])
    return Core(figures, made_with)


def markdown(core: Core) -> str:
    """The report: a table a benchmark."""
    parts = [
        "# What the core costs",
        "    autotune bench run core",
        ", ".join(f"{name} {value}" for name, value in core.versions.items()),
    ]
    titles = [column.removeprefix(">").capitalize() for column in COLUMNS]
    rules = ["---:" if column.startswith(">") else "---" for column in COLUMNS]
    for name, figures in core.figures.items():
        lines = [f"| {' | '.join(line)} |" for line in (titles, rules, *rows(figures))]
        parts += [f"## `python -m autotune.benchmarks.{name}`", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def measure(name: str, folder: Path) -> None:
    """Run one benchmark, and write down what it found."""
    figures: list[Figure] = importlib.import_module(f"autotune.benchmarks.{name}").figures()
    data = {"versions": versions(), "figures": [dataclasses.asdict(one) for one in figures]}
    path = _file(folder, name)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(data))
    unfinished.replace(path)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Its exit code; Ctrl-C reaches both, and the other one has files and a server to tidy away."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


if __name__ == "__main__":
    try:
        measure(sys.argv[1], Path(sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(130)
