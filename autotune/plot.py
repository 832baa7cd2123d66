"""One picture of a run: loss, validation, hyperparameters, decisions and the stretches that were rewound."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from .curves import WIDE, Floats, Ints, Stretch, discarded, inside, limits, smooth, stairs, thin
from .journal import Journal, Series
from .places import Place
from .records import Decision

# Okabe and Ito (2008): told apart with every common form of colour blindness.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
INK, SOFT, GREY, BAND = "#222222", "#666666", "#A3A3A3", "#F1F1F1"
WIDTH, DPI = 10.0, 160
SMALL, NORMAL, LARGE = 8.5, 9.5, 11.5
"""Sizes of letters in points, for a picture that is shown 1,000 pixels wide."""
COLUMNS = 900
"""Columns that a long curve is thinned to."""
FEW = 80
"""Up to this many values are drawn as points joined by lines; more are smoothed."""
BREAK = np.array([np.nan])
LOUD = ("rewind", "stop", "escalate")
MARKERS = {"ramp": "D", "rewind": "<", "checkpoint": "s", "release": "v", "stop": "X", "escalate": "^"}
LABEL_ROWS, LABEL_LENGTH = 2, 44
OFF_SCALE = "not finite, or off the scale"
HAIRLINES = 60
"""Up to this many changes are marked by a line through all panels."""


def plot_run(run: Place, path: Path | None = None) -> Figure:
    """Draw a run from its journal.

    Args:
        run: its folder, or its name in a database.
        path: where to write the picture; its suffix (.png, .svg, .pdf) chooses the format. None: nowhere.

    Returns:
        The figure, 10 inches wide, over `spent`.

    Raises:
        TuneError: when there is no journal.
    """
    journal = Journal.open(run)
    try:
        meta = {"name": run.name, **journal.meta(), "status": journal.status()}
        series = {name: journal.metrics(name) for name in journal.metric_names()}
        decisions = journal.decisions()
    finally:
        journal.close()
    figure = draw(meta, series, decisions)
    if path is not None:
        figure.savefig(path, dpi=DPI)
    return figure


def draw(meta: Mapping[str, Any], series: Mapping[str, Series], decisions: Sequence[Decision]) -> Figure:
    """Draw a run from its parts.

    Args:
        meta: the run's `name` and `status`; its `total_steps` and `hyperparameters` (units) where known.
        series: metrics by name; drawn are `loss`, `train/loss`, each `validation/METRIC` with `train/METRIC`
            beside it, and `hp/NAME`.
        decisions: oldest first.
    """
    lost = discarded(series.values(), decisions)
    spent = max([0, *(int(s.spent.max()) for s in series.values()), *(d.spent for d in decisions)])
    end = max(1, spent)
    losses = {
        label: (series[name], colour)
        for label, name, colour in (
            ("training", "loss", BLUE),
            ("validation", "validation/loss", ORANGE),
            ("training, evaluated", "train/loss", GREEN),
        )
        if name in series
    }
    beside = ("validation/loss", "validation/loss_error")
    scores = [name for name in series if name.startswith("validation/") and name not in beside]
    moving = [name for name, s in series.items() if name.startswith("hp/") and np.ptp(s.value) > 0]
    sources = list(dict.fromkeys(d.source for d in decisions))

    heights = [2.8, *[1.2] * len(scores), *[0.9] * len(moving), *[0.1 + 0.46 * len(sources)] * bool(sources)]
    figure = Figure(figsize=(WIDTH, 0.9 + sum(heights) + 0.32 * len(heights)), layout="constrained")
    figure.suptitle(_heading(meta, series, moving, spent), x=0.01, ha="left", fontsize=LARGE, color=INK)
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    changes = [d.spent for d in decisions if d.applied and d.action.kind != "checkpoint"]
    for ax in grid:
        dress(ax, lost, changes if len(changes) <= HAIRLINES else [])
    grid[0].set_xlim(0, end)
    grid[-1].set_xlabel("optimizer steps spent, rewound ones included", fontsize=NORMAL, color=SOFT)
    grid[-1].xaxis.set_major_formatter(EngFormatter(sep=""))

    axes = iter(grid)
    _metric(next(axes), "loss", losses, lost, end)
    for name in scores:
        curves = {"": (series[name], ORANGE)}
        training = series.get(f"train/{name.removeprefix('validation/')}")
        if training is not None:
            curves = {"validation": (series[name], ORANGE), "training, evaluated": (training, GREEN)}
        _metric(next(axes), name, curves, lost, end)
    for name in moving:
        _hyperparameter(next(axes), _with_unit(name, meta), series[name], lost, end)
    if sources:
        figure.draw_without_rendering()  # settles the layout, which the decisions' labels are fitted to
        _lanes(next(axes), decisions, sources, lost)
    return figure


def _metric(
    ax: Axes, title: str, curves: Mapping[str, tuple[Series, str]], lost: Sequence[Stretch], end: int
) -> None:
    """Raw values light, their mean strong, what was rewound grey, what is off the scale at the edge."""
    put_title(ax, title)
    nothing = np.empty(0)
    every = np.concatenate([nothing, *(s.value for s, _ in curves.values())])
    live = np.concatenate([nothing, *(s.value[~inside(s.spent, lost)] for s, _ in curves.values())])
    low, high, log = limits(live, every)
    set_scale(ax, low, high, log)
    handles: list[Line2D | Patch] = []
    off_scale = False
    for label, (s, colour) in curves.items():
        gone = inside(s.spent, lost)
        few = {"marker": ".", "markersize": 4} if len(s.value) <= FEW else {}
        kept, dropped = np.where(gone, -1, s.branch), np.where(gone, s.branch, -1)
        _line(ax, s.spent, s.value, dropped, end, color=GREY, linewidth=0.8, zorder=2, **few)
        if few:
            _line(ax, s.spent, s.value, kept, end, color=colour, linewidth=1.5, zorder=4, **few)
        else:
            _line(ax, s.spent, s.value, kept, end, color=colour, linewidth=0.6, alpha=0.35, zorder=3)
            mean = _mean(s.value, kept, ~gone & (s.value >= low) & (s.value <= high), log)
            _line(ax, s.spent, mean, kept, end, color=colour, linewidth=1.6, zorder=4)
        off_scale |= _edges(ax, s, gone, colour, end)
        if label:
            handles.append(Line2D([], [], color=colour, linewidth=1.6, label=label))
    if handles and lost:
        handles.append(Patch(facecolor=BAND, edgecolor=GREY, label="rewound"))
    if off_scale:
        handles.append(Line2D([], [], color=INK, marker="^", linestyle="", markersize=5, label=OFF_SCALE))
    if handles:
        ax.legend(
            handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(handles), frameon=False,
            fontsize=SMALL, labelcolor=SOFT, handlelength=1.6, borderaxespad=0.2,
        )  # fmt: skip


def _mean(value: Floats, part: Ints, used: NDArray[np.bool_], log: bool) -> Floats:
    """Moving average within each part, of logarithms on a log scale; NaN where there is none."""
    out = np.full(len(value), np.nan)
    width = max(9, int(used.sum()) // 60)
    for branch in np.unique(part[used]):
        i = np.flatnonzero(used & (part == branch))
        mean = smooth(np.log(value[i]) if log else value[i], width)
        ends = width // 8 if len(i) > width else 0  # so few values that the mean is no smoother than they are
        out[i] = np.exp(mean) if log else mean
        out[i[:ends]] = out[i[len(i) - ends :]] = np.nan
    return out


def _hyperparameter(ax: Axes, title: str, s: Series, lost: Sequence[Stretch], end: int) -> None:
    put_title(ax, title)
    positive = s.value[s.value > 0]
    log = 2 * len(positive) > len(s.value) and bool(positive.max() > WIDE * positive.min())
    shown = positive if log else s.value
    set_scale(ax, float(shown.min()), float(shown.max()), log)
    x, y = stairs(s.spent, s.value, lost, end)
    gone = np.repeat(inside(x[1::2], lost), 2)
    _line(ax, x, y, np.where(gone, -1, 0), end, color=PURPLE, linewidth=1.6, zorder=4)
    _line(ax, x, y, np.where(gone, 0, -1), end, color=GREY, linewidth=1.2, zorder=2)


def _line(ax: Axes, x: Ints, y: Floats, part: Ints, end: int, **style: Any) -> None:
    """Points whose `part` is not negative; the line is broken between parts."""
    firsts = np.flatnonzero(np.diff(part, prepend=-2))
    xs: list[Floats] = []
    ys: list[Floats] = []
    for i, j in itertools.pairwise([*firsts.tolist(), len(part)]):
        if part[i] >= 0:
            px, py = thin(x[i:j].astype(np.float64), y[i:j], 0, end, COLUMNS)
            xs += [px, BREAK]
            ys += [py, BREAK]
    if xs:
        ax.plot(np.concatenate(xs), np.concatenate(ys), **style)


def _edges(ax: Axes, s: Series, gone: NDArray[np.bool_], colour: str, end: int) -> bool:
    """Marks at the edge for values that the axis does not show; whether there are any."""
    bottom, top = ax.get_ylim()
    low = s.value < bottom
    any_mark = False
    for out, y, marker in ((~(s.value <= top), 1.0, "^"), (low, 0.0, "v")):
        for part, shade in ((out & gone, GREY), (out & ~gone, colour)):
            if part.any():
                x = np.unique((s.spent[part] * (COLUMNS // 10)) // end) * (end / (COLUMNS // 10))
                ax.plot(
                    x, np.full(len(x), y), marker, color=shade, markersize=5, markeredgecolor="white",
                    markeredgewidth=0.4, transform=ax.get_xaxis_transform(), clip_on=False, zorder=6,
                )  # fmt: skip
                any_mark = True
    return any_mark


def _lanes(ax: Axes, decisions: Sequence[Decision], sources: Sequence[str], lost: Sequence[Stretch]) -> None:
    """One lane for each source; hollow marks for what was not applied, labels where there is room."""
    put_title(ax, "decisions")
    ax.set_ylim(-len(sources) + 0.75, 0.85)
    ax.set_yticks(
        [-i for i in range(len(sources))], [textwrap.shorten(s, 24, placeholder="…") for s in sources]
    )
    ax.tick_params(axis="y", length=0, labelsize=SMALL, labelcolor=INK)
    ax.grid(False, axis="y")
    back = {stretch.high: stretch.low for stretch in lost}
    end = ax.get_xlim()[1]
    taken: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for d in sorted(decisions, key=lambda d: (not d.applied, d.action.kind not in LOUD, d.spent)):
        lane = sources.index(d.source)
        colour = SOFT if not d.applied else VERMILLION if d.action.kind in LOUD else INK
        ax.plot(
            d.spent, -lane, MARKERS.get(d.action.kind, "o"), color=colour, markersize=6, markeredgewidth=1.0,
            markerfacecolor=colour if d.applied else "white", clip_on=False,
            zorder=5 + (d.action.kind in LOUD),
        )  # fmt: skip
        if d.action.kind == "rewind" and d.applied and d.spent - back.get(d.spent, d.spent) > 0.015 * end:
            ax.annotate(
                "", (back[d.spent], -lane), (d.spent, -lane), zorder=4,
                arrowprops={"arrowstyle": "->", "color": colour, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
        _label(ax, d, lane, colour, taken)


def _label(
    ax: Axes, d: Decision, lane: int, colour: str, taken: dict[tuple[int, int], list[tuple[float, float]]]
) -> None:
    """What was decided, in the lowest row above the mark that has room; nothing where all are full."""
    what = d.action.describe() if d.applied else f"{d.action.describe()} ({d.status})"
    text = ax.annotate(
        textwrap.shorten(what, LABEL_LENGTH, placeholder=" …"), (d.spent, -lane), (0, 0), color=colour,
        textcoords="offset points", fontsize=SMALL, zorder=6, annotation_clip=False, in_layout=False,
    )  # fmt: skip
    width = text.get_window_extent().width
    frame = ax.get_window_extent()
    x = ax.transData.transform((d.spent, 0))[0]
    left = max(min(x - 4, frame.x1 - width), frame.x0)
    for row in range(LABEL_ROWS):
        spans = taken.setdefault((lane, row), [])
        if all(left > b + 8 or left + width < a - 8 for a, b in spans):
            spans.append((left, left + width))
            text.set_position(((left - x) * 72 / ax.figure.dpi, 7 + row * (SMALL + 2)))
            return
    text.remove()


def _heading(meta: Mapping[str, Any], series: Mapping[str, Series], moving: Sequence[str], spent: int) -> str:
    total = f" of {meta['total_steps']:,}" if meta.get("total_steps") else ""
    still = {name: s.value[-1] for name, s in series.items() if name.startswith("hp/") and name not in moving}
    held = ", ".join(f"{_with_unit(name, meta)} {value:.4g}" for name, value in still.items())
    lines = [
        f"{meta['name']}: {meta['status']}, {spent:,}{total} steps",
        *textwrap.wrap(f"constant: {held}" if held else "", 100),
    ]
    return "\n".join(lines)


def _with_unit(name: str, meta: Mapping[str, Any]) -> str:
    name = name.removeprefix("hp/")
    unit = meta.get("hyperparameters", {}).get(name, {}).get("unit")
    return f"{name} ({unit})" if unit else name


def put_title(ax: Axes, text: str) -> None:
    """A panel's title, above its left corner."""
    ax.set_title(text, loc="left", fontsize=NORMAL, fontweight="bold", color=INK, pad=4)


def set_scale(ax: Axes, low: float, high: float, log: bool) -> None:
    """Ends the axis a little outside of [low, high]."""
    if log:
        margin = max(high / low, 2.0) ** 0.05
        ax.set_yscale("log")
        ax.set_ylim(low / margin, high * margin)
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
        ax.set_ylim(low - margin, high + margin)
        ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def dress(ax: Axes, lost: Sequence[Stretch] = (), changes: Sequence[int] = ()) -> None:
    """Quiet axes and grid; bands where the run was rewound, hairlines where something was changed."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GREY)
    ax.tick_params(labelsize=SMALL, color=GREY, labelcolor=SOFT)
    ax.grid(color="#E6E6E6", linewidth=0.6)
    ax.set_axisbelow(True)
    for low, high in lost:
        ax.axvspan(low, high, color=BAND, linewidth=0, zorder=0)
    for spent in changes:
        ax.axvline(spent, color=SOFT, linewidth=0.6, linestyle=(0, (1, 3)), zorder=1)
