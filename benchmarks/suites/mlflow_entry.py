"""One run as MLflow is told of it, and what identifies it there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .results import Results

Level = Literal["suite", "arm", "workload", "cell"]
Curve = list[tuple[int, float]]
"""Points of (step, value); a figure is a curve of one point."""
SUITE = "summary"
"""Name of the suite's own run."""
RATE = "log10 rate ratio"
"""Of the initial rate over the tuned one. A slash in a name would make the UI file it apart."""
BEGAN = ("autotune-torch", "torch", "processor")
TAG = 5000
"""The longest tag that every store of MLflow takes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One MLflow run.

    Args:
        level: what it is about.
        key: unique within the results.
        name: as in lists.
        parent: `key` of the entry that it is shown under; that one comes first.
        params: by name; they never change.
        metrics: by name, finite.
        tags: by name, beside those that the writing needs.
        failed: an error ended the cell.
        color: of its bars, points and lines, as `#rrggbb`; empty: the UI chooses.
        seconds: that the cell took.
    """

    level: Level
    key: str
    name: str
    parent: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Curve] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False
    color: str = ""
    seconds: float = 0.0

    @property
    def lasting(self) -> bool:
        """Others are shown under it, so that it is renewed, not replaced, when it changes."""
        return self.level in ("suite", "workload")

    @property
    def digest(self) -> str:
        """Changes when anything about it does, its colour excepted."""
        return _digest({**dataclasses.asdict(self), "color": ""})


def identity(results: Results) -> str:
    """The same for one set of results as it grows: 16 hex digits.

    It is what began it that counts: suite, command, project, torch and processor. Results that began with
    others are others, and are not mixed with these.
    """
    command, *_ = results.command.split(" && ")
    began = [results.versions.get(name, "").split(" and ")[0] for name in BEGAN]
    return _digest([results.suite, command, *began])


def at(budget: float) -> str:
    """What names of figures at a budget end with."""
    return "" if budget == 1.0 else f" at {budget:g}"


def finite(metrics: Mapping[str, float | Curve]) -> dict[str, Curve]:
    """Curves that MLflow's charts can draw: one infinity would ruin the scale, so it goes into another."""
    found: dict[str, Curve] = {}
    for name, values in metrics.items():
        name = re.sub(r"[^\w\-. /]", "_", name)
        for step, value in values if isinstance(values, list) else [(0, values)]:
            if math.isfinite(value):
                found.setdefault(name, []).append((step, float(value)))
            elif isinstance(values, list):
                found.setdefault(f"nonfinite/{name}", []).append((step, 1.0))
    return found


def _digest(document: object) -> str:
    text = json.dumps(document, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
