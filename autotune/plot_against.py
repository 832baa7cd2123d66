"""The picture of a range test: the loss against the hyperparameter that a ramp moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .curves import HUGE, Floats, limits, smooth
from .journal import Journal
from .places import Place
from .plot import (
    BLUE,
    DPI,
    GREEN,
    INK,
    LARGE,
    NORMAL,
    OFF_SCALE,
    ORANGE,
    PURPLE,
    SMALL,
    SOFT,
    VERMILLION,
    WIDTH,
    dress,
    put_title,
    set_scale,
)
from .records import HUMAN, TuneError
from .sweeps import Sweep, sweeps

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION)
HEIGHT = 4.2
SMOOTHED = 20
"""The smoothed loss is the mean over this part of the losses of one curve."""
LABELS = 12
"""Curves that are named below the picture."""


def plot_against(run: Place, name: str, path: Path | None = None) -> Figure:
    """Draw a run's training loss against a hyperparameter: one curve for each ramp that moved it.

    The raw loss is faint, its moving mean strong. A dashed line marks what the value was set to when the ramp
    was over or was rewound.

    Args:
        run: its folder, or its name in a database.
        name: the hyperparameter.
        path: where to write the picture; its suffix (.png, .svg, .pdf) chooses the format. None: nowhere.

    Returns:
        The figure, 10 inches wide.

    Raises:
        TuneError: when there is no journal, or no ramp moved this hyperparameter.
    """
    meta, found = _read(run, [name])
    if not found[name]:
        moved = [other for other, curves in _read(run)[1].items() if curves]
        there_are = f"those of {', '.join(moved)}" if moved else "none at all"
        raise TuneError(
            f"the loss is drawn against a hyperparameter that a ramp has moved, got {name!r}; "
            f"of such ramps this run has {there_are}"
        )
    figure = draw_against(meta, name, found[name])
    if path is not None:
        figure.savefig(path, dpi=DPI)
    return figure


def range_tests(run: Place) -> list[str]:
    """The hyperparameters that a policy has ramped and taken back by a rewind of its own."""
    _, found = _read(run)
    return [
        name
        for name, curves in found.items()
        if any(s.taken_back and not s.source.startswith(HUMAN) for s in curves)
    ]


def draw_against(meta: Mapping[str, Any], name: str, curves: Sequence[Sweep]) -> Figure:
    """Draw the curves of one hyperparameter.

    Args:
        meta: the run's `name`; its `hyperparameters` (kind, unit) where known.
        name: the hyperparameter.
        curves: at least one, with at least one loss each.
    """
    known = meta.get("hyperparameters", {}).get(name, {})
    figure = Figure(figsize=(WIDTH, HEIGHT + 0.18 * min(len(curves), LABELS)), layout="constrained")
    figure.suptitle(f"{meta['name']}: loss against {name}", x=0.01, ha="left", fontsize=LARGE, color=INK)
    ax = figure.subplots()
    dress(ax)
    put_title(ax, "training loss")
    ax.set_xlabel(f"{name} ({known['unit']})" if known.get("unit") else name, fontsize=NORMAL, color=SOFT)

    value = np.concatenate([c.value for c in curves])
    shown = np.concatenate([value, [c.set_to for c in curves if c.set_to is not None]])
    if known.get("kind") == "log" and shown.min() > 0:
        ax.set_xscale("log")
    set_scale(ax, *_span(np.concatenate([c.loss for c in curves])))

    handles = []
    off_scale = False
    for i, curve in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        off_scale |= _curve(ax, curve, colour)
        handles.append(Line2D([], [], color=colour, linewidth=1.8, label=_label(curve)))
        if curve.set_to is not None:
            ax.axvline(curve.set_to, color=colour, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
    if len(handles) > LABELS:
        rest = Line2D([], [], linestyle="", label=f"and {len(handles) - LABELS} more")
        handles = [*handles[:LABELS], rest]
    if off_scale:
        handles.append(Line2D([], [], color=INK, marker="^", linestyle="", markersize=5, label=OFF_SCALE))
    ax.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.0, -0.14), frameon=False, fontsize=SMALL,
        labelcolor=SOFT, borderaxespad=0.0,
    )  # fmt: skip
    return figure


def _read(run: Place, names: Sequence[str] | None = None) -> tuple[dict[str, Any], dict[str, list[Sweep]]]:
    """The run's meta, and the sweeps of these hyperparameters, or of all that there are."""
    journal = Journal.open(run)
    try:
        meta = {"name": run.name, **journal.meta()}
        loss, decisions = journal.metrics("loss"), journal.decisions()
    finally:
        journal.close()
    return meta, {n: sweeps(n, loss, decisions) for n in names or meta.get("hyperparameters", {})}


def _span(loss: Floats) -> tuple[float, float, bool]:
    """Where the loss axis ends, and whether it is logarithmic: where all values are positive."""
    loss = loss[np.abs(loss) < HUGE]
    if len(loss) and loss.min() > 1 / HUGE:
        low, high, _ = limits(np.log(loss), np.log(loss))
        return float(np.exp(low)), float(np.exp(high)), True
    low, high, _ = limits(loss, loss)
    return low, high, False


def _curve(ax: Axes, curve: Sweep, colour: str) -> bool:
    """One line a branch, and marks at the edge for what the axis does not show; whether there are any."""
    bottom, top = ax.get_ylim()
    log = ax.get_yscale() == "log"
    above, below = ~(curve.loss <= top), curve.loss < bottom
    for branch in np.unique(curve.branch):
        shown = (curve.branch == branch) & ~above & ~below
        x, y = curve.value[shown], curve.loss[shown]
        ax.plot(x, y, color=colour, linewidth=0.7, alpha=0.4, zorder=3)
        width = max(3, len(y) // SMOOTHED)
        mean = smooth(np.log(y) if log else y, width)
        inner = slice(width // 4, len(mean) - width // 4)  # the ends are hardly smoothed
        ax.plot(x[inner], np.exp(mean[inner]) if log else mean[inner], color=colour, linewidth=1.8, zorder=4)
    for out, edge, marker in ((above, 1.0, "^"), (below, 0.0, "v")):
        if out.any():
            ax.plot(
                curve.value[out], np.full(out.sum(), edge), marker, color=colour, markersize=5,
                markeredgecolor="white", markeredgewidth=0.4, transform=ax.get_xaxis_transform(),
                clip_on=False, zorder=6,
            )  # fmt: skip
    return bool(above.any() or below.any())


def _label(curve: Sweep) -> str:
    then = "" if curve.set_to is None else f"; then {curve.action.name} → {curve.set_to:.4g} (dashed)"
    return f"{curve.source}, step {curve.step}: {curve.action.describe()}{then}"
