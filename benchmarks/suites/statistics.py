"""How runs are compared: paired, capped, with intervals; nothing that failed drops out of a mean."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr, wilcoxon

from autotune.records import TuneError

Floats = NDArray[np.float64]
RESAMPLES = 10_000


def capped(loss: float, initial: float) -> float:
    """min(loss, initial loss): a run that failed ends where it began; NaN is a failure.

    Means over unbounded losses would make a method that avoids one explosion look many times better.
    """
    return initial if math.isnan(loss) else min(loss, initial)


def median_interval(
    values: ArrayLike, groups: Sequence[object] | None = None, level: float = 0.95
) -> tuple[float, float, float]:
    """The median, and its percentile bootstrap interval, the same at each call.

    Of one group alone the ends are NaN: nothing says how much another would differ.

    Args:
        values: (n,), finite, n at least 1.
        groups: (n,), what each value belongs to, when only groups are independent of each other: they are
            drawn, with all their values. None: each value is a group.
        level: of confidence.

    Raises:
        TuneError: for no values, or one that is not finite.

    Source: Efron (1979); of groups, the cluster bootstrap of Davison & Hinkley (1997), section 3.8.
    """
    x = _finite(values)
    number = {group: i for i, group in enumerate(dict.fromkeys(groups or range(len(x))))}
    member = np.array([number[group] for group in groups or range(len(x))])
    order = x.argsort()
    if len(number) == 1:
        return float(np.median(x)), math.nan, math.nan
    x, drawn = x[order], _draws(len(number))[:, member[order]].cumsum(axis=1, dtype=np.int32)
    total = drawn[:, -1:]  # the values of a resample: each of x as often as its group was drawn
    middle = [x[(drawn > position).argmax(axis=1)] for position in ((total - 1) // 2, total // 2)]
    low, high = np.quantile(np.mean(middle, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return float(np.median(x)), float(low), float(high)


@functools.lru_cache(maxsize=16)
def _draws(groups: int) -> NDArray[np.int32]:
    """How often each group is in each resample: (RESAMPLES, groups)."""
    drawn = np.random.default_rng(0).integers(groups, size=(RESAMPLES, groups))
    flat = drawn + groups * np.arange(RESAMPLES)[:, None]
    return np.bincount(flat.ravel(), minlength=RESAMPLES * groups).reshape(-1, groups).astype(np.int32)


def wilcoxon_below(ratios: ArrayLike) -> float:
    """p of the signed-rank test (Wilcoxon 1945) that paired ratios are below 1, on their logs.

    1 when all are 1; some that are count half for either side. With n of them p is at least 2⁻ⁿ: five cannot
    reach 0.03.

    Raises:
        TuneError: for no ratios, or one that is not positive and finite.
    """
    x = _finite(ratios)
    if x.min() <= 0:
        raise TuneError(f"ratios of losses are positive, got {ratios!r}")
    logs = np.log(x)
    return float(wilcoxon(logs, alternative="less", zero_method="zsplit").pvalue) if logs.any() else 1.0


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
        TuneError: for arms with different numbers of problems, none, or NaN.
    """
    lengths = {len(row) for row in scores.values()}
    table = np.array([list(row) for row in scores.values()], dtype=float) if len(lengths) == 1 else None
    if table is None or not table.size or np.isnan(table).any():
        raise TuneError(
            "a profile needs one score an arm and problem, infinity for a failure, got gaps or NaN"
        )
    with np.errstate(invalid="ignore"):  # where all failed: NaN, which is within no factor
        ratios = table / table.min(axis=0)
    return {
        arm: (row[None, :] <= np.asarray(taus, dtype=float)[:, None]).mean(axis=1)
        for arm, row in zip(scores, ratios, strict=True)
    }


def sensitivity(losses: Sequence[float], initial: float) -> float:
    """Learning-rate sensitivity: the mean over initial rates of min(loss, initial) − the least of them.

    Args:
        losses: final losses, one an initial rate, on a grid that is even in log space.
        initial: loss before the first step.

    Source: Wortsman et al. (2023), section 2.2.
    """
    kept = [capped(loss, initial) for loss in losses]
    return float(np.mean(kept) - min(kept))


def time_to_target(spent: ArrayLike, losses: ArrayLike, target: float) -> float:
    """The `spent` at which a loss first is at most `target`; infinity when it never is.

    Args:
        spent: (n,) at which the losses were measured, growing.
        losses: (n,), NaN where a measurement failed.
        target: the loss to reach.
    """
    reached = np.asarray(losses, dtype=float) <= target
    return float(np.asarray(spent)[reached.argmax()]) if reached.any() else math.inf


def importance(columns: Mapping[str, ArrayLike], losses: ArrayLike) -> dict[str, float]:
    """How much of what a random forest explains of the losses each hyperparameter explains; sums to 1.

    All 0 when nothing explains anything: all losses are equal, or all columns constant.

    Args:
        columns: by name, (n,) numbers; categories as numbers of any order, which trees do not mind much.
        losses: (n,), positive and finite; compared by their logs.

    Source: mean decrease in impurity, Breiman et al. (1984); Breiman (2001).
    """
    from sklearn.ensemble import RandomForestRegressor  # slow to import, and runs do not need it

    forest = RandomForestRegressor(n_estimators=100, random_state=0)
    forest.fit(np.column_stack(list(columns.values())), np.log(_finite(losses)))
    return {name: float(part) for name, part in zip(columns, forest.feature_importances_, strict=True)}


def correlation(column: ArrayLike, losses: ArrayLike) -> float:
    """Spearman's rank correlation (1904); NaN when one of the two is constant, or has fewer than 3 values."""
    x, y = np.asarray(column, dtype=float), np.asarray(losses, dtype=float)
    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return math.nan
    return float(spearmanr(x, y).statistic)


def _finite(values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise TuneError(f"statistics need one or more finite values (cap failures first), got {values!r}")
    return x
