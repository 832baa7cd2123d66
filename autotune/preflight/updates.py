"""How far the first step moves the weights."""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .bench import Bench
from .report import Finding

CHECK = "update ratio"
BAND = (1e-4, 1e-2)
"""Where ‖Δw‖/‖w‖ of a step usually lies."""
WALL, REPLACED = 0.3, 1.0
"""Where the rate is too high for a group; where, for the median of groups, no weights are left."""
LOW = 2e-5
"""Where weights are hardly moved: a note for the median, a warning for all groups without a scheduler."""
SHOWN = 3


def updates(bench: Bench, batch: Any, groups: Mapping[str, Sequence[Tensor]]) -> list[Finding]:
    """‖Δw‖/‖w‖ of one step of the run's own optimizer, by layer group; the caller undoes the step.

    Tensors that are 0, or whose gradient is, are left out. Clipping in the loop's own code is not seen.

    Args:
        bench: for the gradient.
        batch: that is stepped on.
        groups: parameters by layer group.

    Source: the band is Karpathy's (CS231n, 2015); 0.3 is where training breaks off (docs/preflight.md).
    """
    bench.gradient(batch)
    with_gradient = [
        p for p in bench.trained if p.grad is not None and _norm([p.grad]) and _norm([p.detach()])
    ]
    before = {id(p): p.detach().clone() for p in with_gradient}
    kind = type(bench.optimizer)
    closure = Finding(CHECK, "note", f"{kind.__name__} wants a closure, which only the loop has.")
    given = inspect.signature(kind.step).parameters.get("closure")
    if given is not None and given.default is inspect.Parameter.empty:  # LBFGS and its kind
        return [closure]
    try:
        bench.optimizer.step()
    except Exception as error:  # an optimizer of the user's own may raise whatever it likes
        if "closure" in str(error).lower():
            return [closure]
        found = f"{kind.__name__}.step() raises {type(error).__name__}: {error}"
        return [Finding(CHECK, "warning", found, "The loop's own call will raise it too.", "Mend step().")]
    ratios, matrices = {}, set()
    for name, tensors in groups.items():
        moved = [p for p in tensors if id(p) in before]
        if moved:
            step = _norm([p.detach() - before[id(p)] for p in moved])
            ratios[name] = step / _norm([before[id(p)] for p in moved])
            if any(p.ndim > 1 for p in moved):
                matrices.add(name)
    if not ratios:
        return [Finding(CHECK, "note", "No weights were moved that are not 0: there is no ratio.")]
    middle, top = statistics.median_low(ratios.values()), max(ratios.values())
    order = sorted(ratios, key=lambda name: -ratios[name])
    shown = ", ".join(f"{name} {ratios[name]:.2g}" for name in order[:SHOWN])
    found = f"One step moves the weights by {middle:.2g} times their size (median of groups; most: {shown})."
    figures = {"median": middle, **ratios}
    if not all(map(math.isfinite, ratios.values())):
        return [Finding(CHECK, "error", "After one step the weights are not finite.", figures=figures)]
    order = [name for name in order if name in matrices]  # a gain or a bias may begin near 0
    wall = ratios[order[0]] if order else 0.0
    if wall >= WALL:
        factor = BAND[1] / (middle if middle >= WALL else wall)
        return [
            Finding(
                CHECK,
                "error" if middle >= REPLACED else "warning",
                found,
                f"Usual are {BAND[0]:g} to {BAND[1]:g}; from {WALL:g} on a step wipes the weights out.",
                f"Lower the rate to {factor:.1g} of what it is ({_where(order[0], ratios)}), or warm it up.",
                figures,
            )
        ]
    if middle < LOW:
        still = top == 0
        scheduled = any(
            "initial_lr" in group for group in bench.optimizer.param_groups
        )  # schedulers leave it
        return [
            Finding(
                CHECK,
                "note" if still or scheduled or top >= LOW else "warning",
                found,
                "The first step is of size 0, as at the start of a warm-up."
                if still
                else f"Usual are {BAND[0]:g} to {BAND[1]:g}: little is learned at this pace, unless a "
                "warm-up begins here.",
                "If there is no warm-up, look at the rate."
                if still
                else f"Raise the rate {BAND[0] / middle:.0g} times.",
                figures,
            )
        ]
    return [Finding(CHECK, "ok", found, figures=figures)]


def _where(name: str, ratios: Mapping[str, float]) -> str:
    others = [ratio for other, ratio in ratios.items() if other != name]
    alone = others and ratios[name] > 10 * max(others)
    return f"for {name} alone, in a parameter group of its own" if alone else "for all"


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.hypot(*(float(tensor.norm()) for tensor in tensors))  # sync: a preflight may wait
