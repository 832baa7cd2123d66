"""Is the initial loss what chance predicts?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .bench import leaves
from .report import Finding
from .terms import Term
from .watch import Seen

CHECK = "initial loss"
CONFIDENT = 1.0
"""Nats above chance from which a network is taken to be sure of wrong answers."""
INFORMED = 0.7
"""Part of the best constant answer's loss below which a network knows more than frequencies."""
OFF = 10.0
"""A regression's loss over the variance of its targets, from which its outputs are far off."""
ERRORS = 4.0
"""Standard errors of the measured loss that are left to luck."""


def initial_loss(
    losses: Sequence[float], seen: Seen, batches: Sequence[Any], chance: float | None, step: int
) -> list[Finding]:
    """Compare the loss with what an answer comes to that knows nothing of the input.

    Cross-entropies are compared with log C, and from below with the entropy of the classes' frequencies,
    which the biases may hold already; regressions with the variance of targets that stand in the batch.

    Args:
        losses: of the batches that were watched.
        seen: what was seen meanwhile.
        batches: those batches.
        chance: the loss of such an answer, where the user has given it.
        step: of the run; from step 1 on a loss below chance is what training is for.

    Source: Karpathy, A Recipe for Training Neural Networks (2019), "verify loss @ init".
    """
    mean = sum(losses) / len(losses)
    figures = {"loss": mean}
    if not math.isfinite(mean):
        where = f"; the first module with such an output is {seen.broken}" if seen.broken else ""
        return [
            Finding(
                CHECK,
                "error",
                f"The loss is {mean}{where}.",
                "No step can be taken from here: the gradients are not finite either.",
                "Look for a logarithm or a root of 0, a division by 0, or inputs that are not finite; "
                "torch.autograd.detect_anomaly() names the line.",
                figures,
            )
        ]
    findings = [f for term in seen.terms.values() for f in _complaints(term)]
    if seen.failed:
        means = "Terms and activations there are not judged."
        findings.append(Finding(CHECK, "note", f"Looking on failed at {seen.failed}.", means))
    if chance is not None:
        return [*findings, _against_chance(mean, chance, step)]
    judged = [t for t in seen.terms.values() if t.family != "regression" or _given(t.target, batches)]
    findings += [_regression(t, step) if t.family == "regression" else _answers(t, step) for t in judged]
    if not judged:
        findings.append(
            Finding(
                CHECK,
                "note",
                f"The loss is {mean:.4g}; what chance predicts is not known.",
                "The loss is not made of torch's cross-entropies or of regressions on a part of the batch.",
                "To have it judged, give chance=..., the loss of an answer that knows nothing of the input.",
                figures,
            )
        )
    return findings


def _against_chance(mean: float, chance: float, step: int) -> Finding:
    figures = {"loss": mean, "chance": chance}
    found = f"The loss is {mean:.4g} where chance is {chance:.4g}."
    if mean > chance + 0.5 * abs(chance):
        return _above(found, figures)
    if mean < chance - 0.3 * abs(chance) and not step:
        return _below(found, figures)
    return Finding(CHECK, "ok", found, figures=figures)


def _answers(term: Term, step: int) -> Finding:
    measured, luck = term.measured, ERRORS * term.error
    figures = {"loss": measured, "chance": term.chance, "constant": term.baseline, "error": term.error}
    found = f"{term.name}: {measured:.4g} where chance is {term.chance:.4g}."
    if measured - luck > term.chance + CONFIDENT:
        return _above(found, figures)
    lower = INFORMED * min(term.chance, term.baseline)
    if measured + luck < lower and not step and not _positions(term.target):
        return _below(found, figures)
    return Finding(CHECK, "ok", found, figures=figures)


def _regression(term: Term, step: int) -> Finding:
    measured, variance = term.measured, term.baseline
    figures = {"loss": measured, "baseline": variance, "target_mean": float(term.targets.mean())}
    what = "variance" if term.name == "mse_loss" else "mean deviation"
    found = f"{term.name}: {measured:.4g}; predicting one constant gives {variance:.4g}."
    if variance == 0:
        return Finding(
            CHECK,
            "warning",
            f"{term.name}: every target is {figures['target_mean']:.4g}.",
            "There is nothing to learn but one constant.",
            "Check how the targets are made.",
            figures,
        )
    if measured > OFF * variance:
        offset = figures["target_mean"] ** 2 > 0.5 * measured
        return Finding(
            CHECK,
            "warning",
            f"{found} That is {measured / variance:.0f} times the {what} of the targets.",
            "The targets are far from 0, and the network has to learn their mean first."
            if offset
            else "The outputs are far larger than the targets.",
            "Standardise the targets, or set the last bias to their mean."
            if offset
            else "Scale the last layer's initial weights down.",
            figures,
        )
    if measured < 0.1 * variance and not step:
        return Finding(
            CHECK,
            "note",
            found,
            "The network predicts well already: trained weights, a shortcut from the input, or a target "
            "that is among the inputs.",
            "If the weights are new, look for the target among the inputs.",
            figures,
        )
    return Finding(CHECK, "ok", found, figures=figures)


def _above(found: str, figures: dict[str, float]) -> Finding:
    return Finding(
        CHECK,
        "warning",
        found,
        "The network begins sure of wrong answers; the first steps go into unlearning them.",
        "Scale the last layer's initial weights down (or its inputs: normalise them); check that targets "
        "and outputs are in the same order.",
        figures,
    )


def _below(found: str, figures: dict[str, float]) -> Finding:
    return Finding(
        CHECK,
        "note",
        found,
        "The network knows the answers before it has learned: the weights are trained already, or the target "
        "leaks into the input.",
        "If the weights are new, look for the target among the inputs.",
        figures,
    )


def _complaints(term: Term) -> list[Finding]:
    told = {
        "softmax": (
            "warning",
            f"{term.name} is given probabilities.",
            "It applies a softmax of its own: the loss cannot come near 0, and gradients are small.",
            "Give it the scores before the softmax.",
        ),
        "logarithm": (
            "error",
            f"{term.name} is given values that are no log-probabilities.",
            "Its value means nothing, and may fall without bound.",
            "Use cross_entropy on the scores, or log_softmax before it.",
        ),
        "shape": (
            "error",
            f"{term.name} is given predictions and targets of different shapes.",
            "They are broadcast: every prediction is compared with every target.",
            "Give both one shape, as by predictions.squeeze(-1).",
        ),
    }
    if not term.complaint:
        return []
    severity, found, means, remedy = told[term.complaint]
    return [Finding(CHECK, "error" if severity == "error" else "warning", found, means, remedy)]


def _positions(target: Tensor) -> bool:
    """Whether each sample is a class of its own, as in contrastive losses, which begin below chance."""
    return target.ndim == 1 and bool((target == torch.arange(len(target), device=target.device)).all())


def _given(target: Tensor, batches: Sequence[Any]) -> bool:
    """Whether the target stands in a batch as it is, in whatever shape and type."""
    flat = target.detach().cpu().double().flatten()
    return any(
        leaf.numel() == flat.numel() and bool((leaf.cpu().double().flatten() == flat).all())
        for batch in batches
        for leaf in leaves(batch).values()
    )
