"""Terms of a loss that torch has a function for, and what they come to when nothing is known of the input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Family: TypeAlias = Literal["classes", "yes or no", "regression"]

FEW = 1_000_000
"""Values of a regression's prediction and target that are looked at."""


@dataclass(slots=True)
class Term:
    """One term over the batches that were watched."""

    name: str
    family: Family
    losses: Tensor
    """Of each sample (of each element, for yes or no and for regression), float32, (n,)."""
    targets: Tensor
    """Classes: how often each occurred, (C,), or the sum of their probabilities; else the targets, (n,)."""
    target: Tensor
    """The targets of the last batch, as they were given."""
    complaint: str = ""
    """What is wrong in the way in which the function was called: `softmax`, `logarithm`, `shape`."""

    def after(self, earlier: Term | None) -> Term:
        """This one and what was seen before it."""
        if earlier is None:
            return self
        classes = self.family == "classes"
        both = self.targets + earlier.targets if classes else torch.cat([earlier.targets, self.targets])
        losses = torch.cat([earlier.losses, self.losses])
        return Term(self.name, self.family, losses, both, self.target, self.complaint or earlier.complaint)

    @property
    def measured(self) -> float:
        """The mean over samples."""
        return float(self.losses.double().mean())  # sync: a preflight may wait

    @property
    def error(self) -> float:
        """The standard error of `measured`."""
        n = len(self.losses)
        return float(self.losses.double().std()) / math.sqrt(n) if n > 1 else 0.0  # sync: as above

    @property
    def chance(self) -> float:
        """What an answer comes to that knows nothing: all classes alike; the mean of all targets."""
        if self.family == "classes":
            return math.log(len(self.targets))
        if self.family == "yes or no":
            return math.log(2)
        return self.baseline

    @property
    def baseline(self) -> float:
        """What the best constant answer comes to: the classes' frequencies; the mean or the median."""
        t = self.targets.double()
        if self.family == "classes":
            p = t / t.sum()
            return float(-(p * p.clamp_min(1e-300).log()).sum())
        if self.family == "yes or no":
            p = t.mean().clamp(1e-12, 1 - 1e-12)
            return float(-(p * p.log() + (1 - p) * (1 - p).log()))
        if self.name == "mse_loss":
            return float(t.var(unbiased=False))
        return float((t - t.median()).abs().mean())


def _cross_entropy(input: Tensor, target: Tensor, *args: Any, ignore_index: int = -100, **_: Any) -> Term:
    scores = input.detach().float()
    classes = scores.shape[1 if scores.ndim > 1 else 0]
    name = f"cross_entropy over {classes} classes"
    softmax = bool((scores >= 0).all()) and _sums_to_one(scores.sum(1 if scores.ndim > 1 else 0))
    losses = F.cross_entropy(scores, target, ignore_index=ignore_index, reduction="none")
    return _classes(name, losses, target, classes, ignore_index, "softmax" if softmax else "")


def _nll_loss(input: Tensor, target: Tensor, *args: Any, ignore_index: int = -100, **_: Any) -> Term:
    scores = input.detach().float()
    classes = scores.shape[1 if scores.ndim > 1 else 0]
    normal = _sums_to_one(scores.exp().sum(1 if scores.ndim > 1 else 0))
    losses = F.nll_loss(scores, target, ignore_index=ignore_index, reduction="none")
    name = f"nll_loss over {classes} classes"
    return _classes(name, losses, target, classes, ignore_index, "" if normal else "logarithm")


def _classes(name: str, losses: Tensor, target: Tensor, classes: int, ignored: int, complaint: str) -> Term:
    if target.is_floating_point():  # probabilities of the classes
        rows = target.detach().movedim(1, -1) if target.ndim > 1 else target.detach()
        counts = rows.reshape(-1, classes).double().sum(0)
        return Term(name, "classes", losses.flatten(), counts, target.detach(), complaint)
    valid = target.flatten() != ignored
    counts = torch.bincount(target.flatten()[valid], minlength=classes).double()
    return Term(name, "classes", losses.flatten()[valid], counts, target.detach(), complaint)


def _with_logits(input: Tensor, target: Tensor, *_: Any, **__: Any) -> Term:
    losses = F.binary_cross_entropy_with_logits(input.detach().float(), target.float(), reduction="none")
    name = "binary_cross_entropy_with_logits"
    return Term(name, "yes or no", _few(losses), _few(target), target.detach())


def _binary(input: Tensor, target: Tensor, *_: Any, **__: Any) -> Term:
    losses = F.binary_cross_entropy(input.detach().float(), target.float(), reduction="none")
    return Term("binary_cross_entropy", "yes or no", _few(losses), _few(target), target.detach())


def _regression(name: str) -> Callable[..., Term]:
    def term(input: Tensor, target: Tensor, *_: Any, **__: Any) -> Term:
        complaint = "" if input.shape == target.shape or not target.ndim else "shape"  # one number is meant
        difference = input.detach().float() - target.detach().float()
        losses = difference.square() if name == "mse_loss" else difference.abs()
        return Term(name, "regression", _few(losses), _few(target), target.detach(), complaint)

    return term


TERMS: dict[str, Callable[..., Term]] = {
    "cross_entropy": _cross_entropy,
    "nll_loss": _nll_loss,
    "binary_cross_entropy_with_logits": _with_logits,
    "binary_cross_entropy": _binary,
    **{name: _regression(name) for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")},
}
"""What each function of torch was asked to compute, from its arguments."""


def _few(values: Tensor) -> Tensor:
    return values.detach().float().flatten()[:FEW].clone()


def _sums_to_one(sums: Tensor) -> bool:
    return bool((sums - 1).abs().max() < 1e-3)  # sync: a preflight may wait
