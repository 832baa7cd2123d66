"""What the searches saw, in pictures: parallel coordinates, and how much each hyperparameter matters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .results import Config, Trial
from .statistics import correlation, importance
from .svg import Axis, chart, logarithmic

WIDTH, HEIGHT, TOP, BOTTOM = 360, 250, 28, 12
SHADES = 5
"""Classes of loss, from the best fifth of the trials to the worst."""
LABELS = 9
"""Categories of an axis beyond this many are labelled at its ends only."""
FEW = 10
"""Trials from which importance is worked out at least."""


@dataclass(frozen=True, slots=True)
class Matter:
    """How much the hyperparameters of a workload matter to the selection loss.

    Args:
        forest: share of what a random forest explains, by hyperparameter.
        rank: Spearman's correlation of rate and weight decay with the loss; NaN where it is not defined.
    """

    forest: dict[str, float]
    rank: dict[str, float]


def matter(trials: Sequence[Trial]) -> Matter | None:
    """Of the trials that were run whole; None when there are too few of them, or all are alike."""
    whole = [trial for trial in trials if not trial.pruned and 0 < trial.loss < math.inf]
    losses = [trial.loss for trial in whole]
    if len(whole) < FEW or len(set(losses)) == 1:
        return None
    schedules = sorted({trial.config.schedule for trial in whole})
    rates = [math.log(trial.config.rate) for trial in whole]
    decays = [_decay(trial.config) for trial in whole]
    known = [i for i, trial in enumerate(whole) if trial.config.weight_decay is not None]
    columns: dict[str, list[float]] = {
        "rate": rates,
        "schedule": [float(schedules.index(trial.config.schedule)) for trial in whole],
        "weight decay": decays,
    }
    rank = {
        "rate": correlation(rates, losses),
        "weight decay": correlation([decays[i] for i in known], [losses[i] for i in known]),
    }
    return Matter(importance(columns, losses), rank)


def bars(found: dict[str, float], workload: str) -> str:
    """Shares side by side."""
    x, drawn = 0.0, []
    for i, (name, part) in enumerate(found.items()):
        width = 360 * part
        text = f'<text x="{x + width / 2:.1f}" y="15" text-anchor="middle">{100 * part:.0f} %</text>'
        drawn.append(
            f'<rect class="bar b{i}" x="{x:.1f}" y="0" width="{width:.1f}" height="22">'
            f"<title>{escape(name)}: {100 * part:.0f} %</title></rect>{text if part > 0.1 else ''}"
        )
        x += width
    parts = ", ".join(f"{name} {100 * part:.0f} %" for name, part in found.items())
    return chart("".join(drawn), f"Importance on {workload}: {parts}.", height=22)


def parallel(trials: Sequence[Trial], tuned: Config | None, workload: str) -> str | None:
    """A line a trial through rate, schedule, weight decay and loss; None when there is no trial.

    A trial whose loss is not finite has no place in it.
    """
    trials = [trial for trial in trials if math.isfinite(trial.loss)]
    if not trials:
        return None
    losses = [max(trial.loss, 1e-12) for trial in trials]
    axes = [
        logarithmic("rate", min(t.config.rate for t in trials), max(t.config.rate for t in trials)),
        _categories("schedule", sorted({trial.config.schedule for trial in trials}, reverse=True)),
        _categories("decay", [_decay_text(t.config) for t in sorted(trials, key=lambda t: _decay(t.config))]),
        logarithmic("loss", min(losses), max(losses)),
    ]
    places = [40.0, 140.0, 240.0, 330.0]
    order = sorted(range(len(trials)), key=lambda i: losses[i])
    lines = []
    for rank, i in reversed(list(enumerate(order))):
        shade = "pruned" if trials[i].pruned else f"q{rank * SHADES // len(trials)}"
        kept = " kept" if trials[i].config == tuned and not trials[i].pruned else ""
        at = [*_places(trials[i].config, axes), axes[3].part(losses[i])]
        points = " ".join(f"{x:g},{_y(y)}" for x, y in zip(places, at, strict=True))
        lines.append((kept, f'<polyline class="trial {shade}{kept}" points="{points}"/>'))
    lines.sort(key=lambda line: line[0])
    drawn = "".join(line for _, line in lines) + "".join(map(_axis, axes, places))
    best = trials[order[0]].config
    label = (
        f"{len(trials)} trials on {workload}. Least selection loss {losses[order[0]]:.3g}: rate "
        f"{best.rate:.3g}, schedule {best.schedule}, weight decay {_decay_text(best)}."
    )
    return chart(drawn, label, WIDTH, HEIGHT)


def _places(config: Config, axes: Sequence[Axis]) -> list[float]:
    texts = [config.schedule, _decay_text(config)]
    return [
        axes[0].part(config.rate),
        *(
            axis.part(next(at for at, text in axis.ticks if text == said))
            for axis, said in zip(axes[1:3], texts, strict=True)
        ),
    ]


def _axis(axis: Axis, x: float) -> str:
    ticks = axis.ticks if axis.log or len(axis.ticks) <= LABELS else (axis.ticks[0], axis.ticks[-1])
    said = "".join(
        f'<text class="halo" x="{x + 4:g}" y="{_y(axis.part(value))}" dy=".32em">{escape(text)}</text>'
        for value, text in ticks
    )
    return (
        f'<line class="axis" x1="{x:g}" x2="{x:g}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>{said}'
        f'<text class="label" x="{x:g}" y="14" text-anchor="middle">{escape(axis.label)}</text>'
    )


def _categories(label: str, values: Sequence[str]) -> Axis:
    found = list(dict.fromkeys(values))
    return Axis(label, -0.5, len(found) - 0.5, tuple((float(i), text) for i, text in enumerate(found)))


def _decay(config: Config) -> float:
    """For trees and ranks; the workload's usual one, whose value is not known here, below all others."""
    return -1.0 if config.weight_decay is None else config.weight_decay


def _decay_text(config: Config) -> str:
    return "usual" if config.weight_decay is None else f"{config.weight_decay:.3g}"


def _y(part: float) -> str:
    return f"{HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP):.1f}"
