"""Histograms of activations and gradients, layer by layer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..plot import BLUE, DPI, GREY, INK, LARGE, NORMAL, ORANGE, SMALL, SOFT, WIDTH
from ..records import TuneError
from .report import Layer

ROWS = 16
"""The most layers that are drawn, evenly spaced over the model."""
BINS = 60
TAIL = 0.5
"""Per cent of the values that may lie beyond the axis, at either end."""


def draw(layers: Sequence[Layer], path: Path) -> Figure:
    """Draw one row a layer: what it puts out, and the gradients of its parameters.

    Args:
        layers: in the order of the forward pass.
        path: where to write the picture; its suffix chooses the format.

    Raises:
        TuneError: when there are no layers.
    """
    if not layers:
        raise TuneError("histograms need layers, got none: the loss ran through no module of the model")
    some = ""
    if len(layers) > ROWS:
        some = f"; {ROWS} of {len(layers)} layers"
        layers = [layers[i] for i in np.linspace(0, len(layers) - 1, ROWS).round().astype(int)]
    figure = Figure(figsize=(WIDTH, 0.9 + 1.1 * len(layers)), layout="constrained")
    grid = figure.subplots(len(layers), 2, squeeze=False)
    for column, text in enumerate(
        (f"activations (output of the layer{some})", "gradients (of its parameters)")
    ):
        grid[0][column].set_title(text, loc="left", fontsize=LARGE, color=INK, pad=8)
    for (left, right), layer in zip(grid, layers, strict=True):
        _histogram(left, layer.activations, BLUE)
        _histogram(right, layer.gradients, ORANGE)
        name = textwrap.shorten(layer.name.replace(".", ". "), 40, placeholder="…").replace(". ", ".")
        left.set_ylabel(
            name, rotation=0, ha="right", va="center", fontsize=NORMAL, fontweight="bold", color=INK
        )
    figure.savefig(path, dpi=DPI)
    return figure


def _histogram(ax: Axes, values: NDArray[np.float32], colour: str) -> None:
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(GREY)
    ax.set_yticks([])
    ax.tick_params(labelsize=SMALL, color=GREY, labelcolor=SOFT)
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        ax.set_xticks([])
        text = "not finite" if values.size else "none"
        ax.text(0.5, 0.4, text, transform=ax.transAxes, ha="center", fontsize=SMALL, color=SOFT)
        return
    zero = (finite == 0).mean()
    shown = finite[finite != 0] if zero < 1 else finite  # a bar of zeros would hide the rest
    low, high = np.percentile(shown, [TAIL, 100 - TAIL])
    if low == high:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    ax.hist(np.clip(shown, low, high), bins=BINS, range=(low, high), color=colour)
    ax.set_xlim(low, high)
    ax.set_ylim(0, 1.7 * ax.get_ylim()[1])  # room for the text
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    ax.xaxis.get_offset_text().set(fontsize=SMALL, color=SOFT)
    notes = [f"mean {finite.mean():.2g}, deviation {finite.std():.2g}"]
    notes += [f"{zero:.0%} exactly 0, not drawn" if zero < 1 else "all exactly 0"] * bool(zero > 0.01)
    notes += [f"{1 - finite.size / values.size:.0%} not finite"] * bool(finite.size < values.size)
    ax.text(
        1.0, 0.98, "\n".join(notes), transform=ax.transAxes, ha="right", va="top", fontsize=SMALL, color=SOFT
    )
