"""What a benchmark of the core measures: figures, each with its target where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.terminal import print_table


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement.

    Args:
        name: what was measured.
        value: in `unit`.
        unit: of the value.
        target: as a person reads it; empty: there is none.
        met: whether the target is; None without one.
        error: the value's standard error, where it was estimated.
    """

    name: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None
    error: float | None = None


COLUMNS = ("FIGURE", ">VALUE", "UNIT", "TARGET", "MET")


def rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """The figures as text, under `COLUMNS`."""
    return [
        (
            one.name,
            (f"{one.value:.4g}" if abs(one.value) < 1000 else f"{one.value:,.0f}")
            + ("" if one.error is None else f" ± {one.error:.2g}"),
            one.unit,
            one.target,
            "" if one.met is None else "yes" if one.met else "no",
        )
        for one in figures
    ]


def show(figures: Sequence[Figure]) -> int:
    """Print them as a table.

    Returns:
        The exit status: 0 when all targets are met.
    """
    print_table(COLUMNS, rows(figures))
    return int(any(one.met is False for one in figures))
