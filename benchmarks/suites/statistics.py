"""How runs are compared: paired, capped, with intervals; nothing that failed drops out of a mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import wilcoxon

from autotune.records import TuneError

Floats = NDArray[np.float64]
RESAMPLES = 10_000


def capped(loss: float, initial: float) -> float:
    """min(loss, initial loss): a run that failed ends where it began; NaN is a failure.

    Means over unbounded losses would make a method that avoids one explosion look many times better.
    """
    return initial if math.isnan(loss) else min(loss, initial)


def median_interval(values: ArrayLike, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """The median, and its percentile bootstrap interval (Efron 1979).

    Args:
        values: (n,), finite, n at least 1.
        level: of confidence.
        seed: of the resampling.

    Raises:
        TuneError: for no values, or one that is not finite.
    """
    x = _finite(values)
    drawn = np.random.default_rng(seed).choice(x, (RESAMPLES, len(x)))
    low, high = np.quantile(np.median(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(np.median(x)), float(low), float(high)


def wilcoxon_less(a: ArrayLike, b: ArrayLike) -> float:
    """p of the paired signed-rank test (Wilcoxon 1945) that `a` is smaller than `b`, on log ratios.

    1 when all pairs are equal. With n pairs p is at least 2⁻ⁿ: five pairs cannot reach 0.03.

    Raises:
        TuneError: for unequal lengths, or values that are not positive and finite.
    """
    x, y = _finite(a), _finite(b)
    if len(x) != len(y) or min(x.min(), y.min()) <= 0:
        raise TuneError(f"paired losses are positive and of one length, got {len(x)} and {len(y)} values")
    difference = np.log(x / y)
    if not difference.any():
        return 1.0
    return float(wilcoxon(difference, alternative="less", zero_method="zsplit").pvalue)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of several tests (Holm 1979): below 0.05 all of them hold at 0.05 together."""
    adjusted, largest = {}, 0.0
    for rank, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p) - rank) * value))
        adjusted[name] = largest
    return adjusted


def performance_profile(scores: Mapping[str, Sequence[float]], taus: ArrayLike) -> dict[str, Floats]:
    """The share of problems that each arm solves within a factor τ of the best arm (Dolan & Moré 2002).

    Args:
        scores: by arm, one a problem in the same order, positive, the lower the better; infinity: failed.
        taus: (m,), at least 1.

    Returns:
        By arm, (m,) shares.

    Raises:
        TuneError: for arms with different numbers of problems, or NaN.
    """
    table = np.array(list(scores.values()), dtype=float)
    if table.ndim != 2 or np.isnan(table).any():
        raise TuneError(
            "a profile needs one score an arm and problem, infinity for a failure, got gaps or NaN"
        )
    with np.errstate(invalid="ignore"):
        ratios = np.where(np.isinf(table), np.inf, table / table.min(axis=0))
    return {
        arm: (row[None, :] <= np.asarray(taus, dtype=float)[:, None]).mean(axis=1)
        for arm, row in zip(scores, ratios, strict=True)
    }


def sensitivity(losses: Mapping[float, float], initial: float, best: float) -> float:
    """Learning-rate sensitivity (Wortsman et al. 2023): the mean over rates of min(loss, initial) − best.

    Args:
        losses: final loss by initial rate, on a grid that is even in log space.
        initial: loss before the first step.
        best: the least loss of the reference over its rates.
    """
    return float(np.mean([capped(loss, initial) - best for loss in losses.values()]))


def time_to_target(spent: ArrayLike, losses: ArrayLike, target: float) -> float:
    """The `spent` at which a loss first is at most `target`; infinity when it never is.

    Args:
        spent: (n,) at which the losses were measured, growing.
        losses: (n,), NaN where a measurement failed.
        target: the loss to reach.
    """
    reached = np.asarray(losses, dtype=float) <= target
    return float(np.asarray(spent)[reached.argmax()]) if reached.any() else math.inf


def _finite(values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise TuneError(f"statistics need one or more finite values (cap failures first), got {values!r}")
    return x
