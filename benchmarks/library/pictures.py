"""One picture a policy: a simulated run with it and without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autotune.records import Decision
from autotune.testing import Simulation

from .proof import Proof, Scores

SEEDS = range(15)
"""The plants of which the picture shows the one with the median gain."""
BLUE, GREY, VERMILLION = "#0072B2", "#8A8A8A", "#D55E00"


def draw(proof: Proof, path: Path) -> None:
    """Write a PNG, 8 inches wide: the loss of both runs above, what the policy moves below."""
    plants = proof.plants
    scores = Scores(
        [plants.run(plants.make(seed), (), {}) for seed in SEEDS],
        [plants.run(plants.make(seed), proof.make(), {}) for seed in SEEDS],
        [],
    )
    ratios = scores.against(scores.nothing)
    seed = SEEDS[int(np.argsort(ratios)[len(ratios) // 2])]
    runs = []
    for policies in (proof.make(), ()):
        run = Simulation(plants.make(seed), policies, budget=plants.budget if plants.cost is None else None)
        runs.append(run.run(cost=np.inf if plants.cost is None else plants.cost))
    tuned, untouched = runs
    moved = [name for name in tuned.controls if len({value for *_, value in tuned.values[f"hp/{name}"]}) > 1]

    figure = Figure((8, 2.4 + 1.3 * len(moved)), layout="constrained")
    axes = figure.subplots(1 + len(moved), sharex=True, squeeze=False)[:, 0]
    for run, colour, label in ((untouched, GREY, "nothing"), (tuned, BLUE, proof.name)):
        _curve(axes[0], run, colour, label)
    axes[0].set_ylabel("validation loss")
    axes[0].legend(frameon=False, loc="upper right")
    for axis, name in zip(axes[1:], moved, strict=False):
        steps, values = zip(*[(spent, value) for _, spent, value in tuned.values[f"hp/{name}"]], strict=True)
        axis.step(steps, values, where="post", color=BLUE)
        if tuned.controls[name].kind == "log":
            axis.set_yscale("log")
        axis.set_ylabel(name)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        for decision in tuned.decisions:
            _mark(axis, decision)
    axes[-1].set_xlabel("steps, rewound ones included")
    figure.savefig(path, dpi=110)


def _curve(axis: Axes, run: Simulation, colour: str, label: str) -> None:
    rows = [(spent, value) for _, spent, value in run.values["validation/loss"] if np.isfinite(value)]
    steps, values = zip(*rows, strict=True)
    axis.plot(steps, values, color=colour, label=label)
    if min(values) > 0:
        axis.set_yscale("log")


def _mark(axis: Axes, decision: Decision) -> None:
    if decision.applied:
        colour = VERMILLION if decision.action.kind in ("rewind", "stop") else GREY
        axis.axvline(decision.spent, color=colour, linewidth=0.6, alpha=0.6, zorder=0)
