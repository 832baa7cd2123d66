"""Can a handful of samples be learned by heart?"""

from __future__ import annotations

import math
from typing import Any

import torch

from .bench import Bench, examples, head, late
from .report import Finding
from .watch import Watch

CHECK = "overfitting"
HANDFUL = 8
"""Samples."""
RATES = (3e-3, 1e-3, 1e-2, 3e-4)
"""Of Adam, whose steps do not depend on the scale of the loss; tried in this order until one succeeds."""
STEPS = 150
"""For each rate."""
ENOUGH, LITTLE = 0.75, 0.2
"""Parts of the loss: as much gone is learned; less gone is not."""
FEWEST = 30
"""Steps without which nothing is said."""


def overfitting(bench: Bench, few: Any, deadline: float, step: int) -> Finding:
    """Train on a handful of samples with a fresh Adam; the caller undoes the last of it.

    What is drawn at random (dropout, noise) is the same at every step, so that it is no obstacle.

    Args:
        bench: between any two rates everything is put back.
        few: from `handful`.
        deadline: `time.perf_counter()` at which to end.
        step: of the run; from step 1 on the loss may be at its floor already.

    Source: Karpathy, A Recipe for Training Neural Networks (2019), "overfit one batch".
    """
    count = examples(few)
    terms = math.nan if late(deadline) else _terms(bench, few)
    first = best = math.nan
    taken, rate, reached, evaluated = 0, 0.0, 0.0, False
    for candidate in RATES:
        bench.undo.back()
        adam = torch.optim.Adam(bench.trained, lr=candidate)
        for number in range(STEPS + 1):
            if late(deadline):
                break
            bench.undo.redraw()
            evaluated = True
            value = float(bench.gradient(few))  # sync: a preflight may wait
            if math.isnan(first):
                first = best = value
            if not math.isfinite(value):
                break
            if value < best:
                best, rate = value, candidate
            reached = (first - best) / abs(first) if first else 0.0
            if reached >= 0.9:
                break
            taken = max(taken, number)
            for p in bench.trained:
                if p.grad is not None and p.grad.is_sparse:  # Adam takes none
                    p.grad = p.grad.to_dense()
            adam.step()
        if reached >= ENOUGH or late(deadline):
            break
    figures = {"first": first, "best": best, "rate": rate, "steps": taken, "samples": count}
    found = f"On {count} samples the loss went from {first:.3g} to {best:.3g} in at most {taken} steps."
    if not evaluated:
        return Finding(CHECK, "note", "Not decided. There was no time for it; give more seconds.")
    if not math.isfinite(first):
        return Finding(CHECK, "note", "The loss is not finite, so that nothing can be learned by heart.")
    if reached >= ENOUGH:
        return Finding(CHECK, "ok", found, figures=figures)
    if taken < FEWEST or first == 0:
        why = "The loss is 0." if first == 0 else "There was time for too few steps; give more seconds."
        return Finding(CHECK, "note", found, f"Not decided. {why}", figures=figures)
    if reached < LITTLE and not step and not _terms(bench, few) < (1 - LITTLE) * terms:
        return Finding(
            CHECK,
            "warning",
            found,
            "Network, loss and gradients do not fit together: so few samples can be learned by heart.",
            "Look at the other findings first; then at the last activation (can it reach the targets?), at "
            "reshapes that mix samples, and at the scale of the targets.",
            figures,
        )
    return Finding(
        CHECK,
        "note",
        found,
        "A part of the loss stays: a term that cannot reach 0, too small a network, a hard task, or weights "
        "that are trained already.",
        "Fine if the loss has such a term (KL, label smoothing, a constant); else the network is too small.",
        figures,
    )


def _terms(bench: Bench, few: Any) -> float:
    """What those terms of the loss come to that torch has a function for, without label smoothing."""
    watch = Watch(bench.model)
    bench.undo.redraw()
    with torch.no_grad(), watch:
        bench.loss(few)
    return sum(term.measured for term in watch.seen.terms.values())


def handful(bench: Bench, batch: Any) -> Any:
    """The first samples of a batch, if the loss takes so few; else the whole batch."""
    few = head(batch, HANDFUL)
    try:
        bench.loss(few)
    except Exception:  # a reshape to a fixed batch size, or whatever else the user's code relies on
        return batch
    return few
