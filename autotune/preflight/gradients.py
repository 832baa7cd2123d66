"""What has a gradient, what the optimizer holds, and whether all of it is finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .bench import Bench
from .report import Finding

CHECK = "gradients"
SHAKEN = 1e-2
"""Noise, relative to the weights, that wakes what only waits for a later layer to leave 0."""
SHOWN = 4


def missing(bench: Bench, batches: Sequence[Any]) -> tuple[set[str], set[str]]:
    """Backward passes over the batches, from the weights as they are.

    Returns:
        The parameters whose gradient was always None, and those for which it was None or 0 throughout.
    """
    none = {name for name, p in bench.parameters.items() if p.requires_grad}
    zero = set(none)
    for batch in batches:
        bench.gradient(batch)
        for name, p in bench.parameters.items():
            if p.grad is not None:
                none.discard(name)
                if name in zero and bool(_values(p.grad).any()):  # sync: a preflight may wait
                    zero.discard(name)
    return none, zero


def untrained(bench: Bench, none: set[str], zero: set[str], batches: Sequence[Any]) -> list[Finding]:
    """Parameters that require a gradient and have none, or one that is exactly 0.

    A gradient that is 0 only because a later layer begins at 0 (residual branches, LoRA) is none of these:
    it is looked at once more after a little noise on all weights, which the caller undoes.

    Args:
        bench: for the gradients.
        none: as `missing` says.
        zero: likewise.
        batches: that `missing` was given.
    """
    wanted = [name for name, p in bench.parameters.items() if p.requires_grad]
    if not wanted:
        return [
            Finding(
                CHECK,
                "error",
                "No parameter requires a gradient.",
                "Nothing will be trained.",
                "Call requires_grad_(True) on what is to learn.",
            )
        ]
    if len(none) == len(wanted):
        return [
            Finding(
                CHECK,
                "error",
                "The loss does not depend on any parameter: it has no gradient.",
                "Nothing will be trained.",
                "Look for torch.no_grad(), detach(), item(), argmax or numpy between model and loss.",
            )
        ]
    findings = []
    if others := none & bench.others:
        what, means = (
            "no gradient from this loss.",
            "Another optimizer holds them: its own loss is to train them.",
        )
        figures = {"parameters": len(others)}
        findings.append(Finding(CHECK, "note", f"{_names(others)}: {what}", means, figures=figures))
    zero, none = zero - none - bench.others, none - others
    if none:
        findings.append(
            Finding(
                CHECK,
                "warning",
                f"{_names(none)}: no gradient, though it is required.",
                "The loss does not depend on them: they are not used, or cut off by detach().",
                "Use them in the forward pass, or freeze them by requires_grad_(False).",
                {"parameters": len(none)},
            )
        )
    if zero:
        _shake(bench)
        dead = zero & missing(bench, batches)[1]
        if dead:
            findings.append(
                Finding(
                    CHECK,
                    # The terms of a bias may cancel at first, as those of a critic's do.
                    "warning" if any(bench.parameters[name].ndim > 1 for name in dead) else "note",
                    f"{_names(dead)}: the gradient is exactly 0.",
                    "They do not learn: what follows is dead, multiplied by 0, or saturated.",
                    "Follow their output to where it becomes constant.",
                    {"parameters": len(dead)},
                )
            )
    return findings


def gradients(bench: Bench, losses: Sequence[float]) -> list[Finding]:
    """What the optimizer holds, and whether weights, buffers and gradients are finite.

    Args:
        bench: with the gradients of a batch.
        losses: where they are not finite, no gradient can be.
    """
    findings = []
    trained = {name: p for name, p in bench.parameters.items() if p.requires_grad}
    if outside := [name for name in trained if name not in bench.held]:
        findings.append(
            Finding(
                CHECK,
                "warning",
                f"{_names(outside)}: requires a gradient, but is in no optimizer.",
                "It stays as it is, and its gradient is computed for nothing.",
                "Add it to the optimizer, or freeze it by requires_grad_(False).",
                {"parameters": len(outside)},
            )
        )
    if frozen := [n for n, p in bench.parameters.items() if n in bench.held and not p.requires_grad]:
        findings.append(
            Finding(
                CHECK,
                "note",
                f"{_names(frozen)}: in the optimizer, but frozen.",
                "The optimizer passes it over until it is unfrozen.",
                figures={"parameters": len(frozen)},
            )
        )
    tensors: dict[str, dict[str, Tensor]] = {
        "weights": bench.parameters,
        "buffers": dict(bench.model.named_buffers()),
    }
    if all(map(math.isfinite, losses)):
        tensors["gradients"] = {n: p.grad for n, p in trained.items() if p.grad is not None}
    for what, named in tensors.items():
        if bad := [name for name, tensor in named.items() if not _sound(tensor, masks=what == "buffers")]:
            findings.append(
                Finding(
                    CHECK,
                    "error",
                    f"{_names(bad)}: {what} are not finite.",
                    "The first step spreads them over the whole network.",
                    "Look for a root or a norm at 0, or 0 times infinity behind torch.where."
                    if what == "gradients"
                    else "Initialise them anew.",
                )
            )
    return findings


def _shake(bench: Bench) -> None:
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in bench.trained:
            size = float(p.square().mean().sqrt()) or SHAKEN  # sync: a preflight may wait
            noise = torch.randn(p.shape, generator=draws).to(p.device, p.dtype)
            p.add_(noise, alpha=SHAKEN * size)


def _sound(tensor: Tensor, masks: bool) -> bool:
    values = _values(tensor.detach())
    if not values.is_floating_point():
        return True
    wrong = values.isnan() if masks else ~values.isfinite()  # a mask holds -inf
    return not bool(wrong.any())  # sync: a preflight may wait


def _values(tensor: Tensor) -> Tensor:
    return tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor


def _names(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
