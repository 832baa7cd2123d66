"""What a Bayesian search tries next, and which trial it goes on from: pure functions of their results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from autotune.records import Trial, Value

from .gaussian_process import Array, Encoder, Surrogate

FINALISTS = 2  # points that are tried at the full length, at the least
STRIDE = math.sqrt(10)  # how far outside of the rates tried the next one may lie
CANDIDATES, NEARBY = 96, 32  # points drawn in the whole range, and about the best one
ABOUT = 0.1  # standard deviation of the latter, in the unit cube
APART = 0.02  # of the unit cube, between two points that are tried
ALIKE = 2.0  # length scale of a trial's length, which is 0 or 1, where the fit begins
NOISE = 0.03  # variance of a score's own noise, parts of that of the scores, where the fit begins
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
WEIGHTS = WEIGHTS / WEIGHTS.sum()  # expectations over a standard normal


class Tried(TypedDict):
    """A trial; `score` and `error` are None where it was lost, and where they are not known."""

    values: dict[str, Value]
    long: bool
    id: int
    score: float | None
    error: float | None
    kept: bool


class Lengths(NamedTuple):
    """Steps of a short trial, of a long one, and those that a long one takes over from a short one."""

    short: int
    long: int
    shared: int

    def longer(self, kept: bool) -> int:
        """Steps that a long trial takes where the state of the short one is kept, or not."""
        return self.long - self.shared * kept


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known.

    Args:
        encoder: of the hyperparameters.
        rate: which of them is the learning rate; None: none of them.
        done: trials that are finished; one at least has a score.
        first: the score before all trials; None: not known.
        lengths: of trials.
        whole: steps of the run.
    """

    encoder: Encoder
    rate: str | None
    done: tuple[Tried, ...]
    first: float | None
    lengths: Lengths
    whole: int


class Proposal(NamedTuple):
    """A trial to make, and the numbers that speak for it."""

    values: dict[str, Value]
    long: bool
    evidence: dict[str, float | str]


def fit(plan: Plan) -> Surrogate:
    """The surrogate with a kernel that fits these trials: some 20 ms."""
    return _surrogate(plan, fit=True)


def propose(plan: Plan, fitted: Surrogate | None, left: int) -> Proposal | None:
    """The trial that is expected to gain most per step; None: none is worth its steps.

    Args:
        plan: what is known.
        fitted: by some of these trials, for its kernel; None: none was yet.
        left: steps that trials may still take.
    """
    surrogate = _surrogate(plan, fitted and fitted.kernel)
    known = _known(plan)
    there = np.array([plan.encoder.encode(tried["values"]) for tried in known])
    new = _candidates(plan, there[int(surrogate.predict(_at(there, 1.0))[0].argmin())])
    k, n = len(known), len(new)
    mean, covariance = surrogate.joint(np.vstack([_at(there, 1.0), _at(new, 1.0), _at(new, 0.0)]))

    def gains(measured: NDArray[np.int64], *others: NDArray[np.int64]) -> Array:
        """Of trials at these rows, where the best of the known points, or `others`, is gone on from."""
        told = np.column_stack([np.tile(np.arange(k), (len(measured), 1)), *others])
        variance = covariance[measured, measured] + surrogate.noise**2
        moves = covariance[measured[:, None], told] / np.sqrt(np.maximum(variance, 1e-300))[:, None]
        return float(mean[:k].min()) - expected_minimum(mean[told], moves)

    own, rivals = k + np.arange(n), np.flatnonzero([not tried["long"] for tried in known])
    missing = max(0, FINALISTS - sum(tried["long"] for tried in known))
    short, spare = plan.lengths.short, left - missing * plan.lengths.longer(kept=True)
    options: list[tuple[float, int, dict[str, Value], bool]] = []
    if short <= spare:
        decoded = [plan.encoder.decode(point) for point in new]
        options += [
            (gain, short, values, False) for gain, values in zip(gains(own + n, own), decoded, strict=True)
        ]
    for j, gain in zip(rivals, gains(rivals), strict=True):
        cost = plan.lengths.longer(kept=known[j]["kept"])
        if cost <= left:
            options.append((gain, cost, known[j]["values"], True))
    worth = [option for option in options if option[0] > option[1] / plan.whole]
    if not worth and missing:
        worth = [option for option in options if option[3]]
    if not worth:
        return None
    gain, cost, values, long = max(worth, key=lambda option: option[0] / option[1])
    evidence = {"gain": float(f"{gain:.3g}"), "part": cost / plan.whole, "trials": len(plan.done)}
    return Proposal(values, long, {**evidence, "surrogate": fitted.status if fitted else surrogate.status})


def choose(plan: Plan, fitted: Surrogate | None) -> Tried:
    """The trial to go on from: of the longest that are kept, the one with the lowest expected score.

    Of those that are not worse by more than a standard deviation of the difference, the lowest rate.
    """
    sound = [tried for tried in plan.done if tried["score"] is not None]
    sound = [tried for tried in sound if tried["kept"]] or sound
    sound = [tried for tried in sound if tried["long"]] or sound
    mean, covariance = _surrogate(plan, fitted and fitted.kernel).joint(_points(plan, sound))
    best, variance = int(mean.argmin()), np.diag(covariance)
    deviation = np.sqrt(np.maximum(variance + variance[best] - 2 * covariance[best], 0.0))
    tied = [tried for tried, worse in zip(sound, mean - mean[best] > deviation, strict=True) if not worse]
    rate = plan.rate
    return sound[best] if rate is None else min(tied, key=lambda tried: float(tried["values"][rate]))


def expected_minimum(mean: Array, moves: Array) -> Array:
    """Of means (n, m) that all move by `moves` (n, m) times one standard normal number: (n,).

    Source: Frazier, Powell & Dayanik 2009, equation 15, by quadrature.
    """
    return np.asarray(np.min(mean[:, :, None] + moves[:, :, None] * NODES, axis=1) @ WEIGHTS)


def paired_errors(trials: Sequence[Trial]) -> list[float]:
    """Standard errors of the scores of trials, for their comparison with each other.

    Where all have the losses of the same examples, what is common to all trials of an example is left out, as
    in a two-way layout without interaction; else each trial's own error; NaN: not known.
    """
    counts = {len(trial.losses) for trial in trials}
    if len(trials) < 2 or len(counts) > 1 or min(counts) < 2:
        return [trial.error for trial in trials]
    losses = np.array([trial.losses for trial in trials])
    own = losses - losses.mean(1, keepdims=True) - losses.mean(0) + losses.mean()
    m, n = losses.shape
    return [float(e) for e in own.std(1, ddof=1) * math.sqrt(m / (m - 1) / n)]


def _surrogate(plan: Plan, kernel: Any = None, *, fit: bool = False) -> Surrogate:
    """Of log scores (of scores, where one is not positive), none of them worse than that of the start."""
    scores = np.array([math.inf if t["score"] is None else t["score"] for t in plan.done])
    errors = np.array([math.nan if t["error"] is None else t["error"] for t in plan.done])
    sound = np.isfinite(scores)
    best = float(scores[sound].min())
    if plan.first is not None:
        scores[sound] = np.minimum(scores[sound], max(plan.first, best))
    if best > 0:
        scores, errors = np.log(scores), errors / np.where(sound, scores, 1.0)
    begin = _kernel(plan.encoder.columns) if kernel is None else kernel
    return Surrogate(_points(plan, plan.done), scores, errors, begin, fit=fit)


def _kernel(columns: int) -> Any:
    """Matérn 5/2, with a trial's length as the last column, plus what all trials of a length share."""
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel  # takes a second

    shared = ConstantKernel(4.0, "fixed") * RBF([1e3] * columns + [1.0], "fixed")
    return ConstantKernel(1.0) * Matern([0.3] * columns + [ALIKE], nu=2.5) + shared + WhiteKernel(NOISE)


def _known(plan: Plan) -> list[Tried]:
    """One trial of each point, the longest; none of those of which a trial was lost."""
    lost = [tried["values"] for tried in plan.done if tried["score"] is None]
    known: list[Tried] = []
    for tried in plan.done:
        known = [other for other in known if other["values"] != tried["values"]]
        if tried["values"] not in lost:
            known.append(tried)
    return known


def _points(plan: Plan, trials: Sequence[Tried]) -> Array:
    points = np.array([plan.encoder.encode(tried["values"]) for tried in trials])
    return _at(points, [float(tried["long"]) for tried in trials])


def _at(points: Array, length: float | Sequence[float]) -> Array:
    """Points with a trial's length as the last column."""
    return np.column_stack([points, np.broadcast_to(length, len(points))])


def _candidates(plan: Plan, best: Array) -> Array:
    """New points (n, columns): anywhere, and about the best one; rates not far outside of those tried."""
    there = np.array([plan.encoder.encode(tried["values"]) for tried in plan.done])
    rng = np.random.default_rng(len(plan.done))
    anywhere, near = rng.random((CANDIDATES, len(best))), rng.standard_normal((NEARBY, len(best)))
    drawn = np.vstack([anywhere, best + ABOUT * near])
    for at, axis in plan.encoder.placed:
        if axis.name == plan.rate:
            lost = [row[at] for row, t in zip(there, plan.done, strict=True) if t["score"] is None]
            stride = math.log(STRIDE) / math.log(axis.high / axis.low)
            low, high = max(0.0, there[:, at].min() - stride), min(1.0, there[:, at].max() + stride, *lost)
            drawn[:, at] = low + (high - low) * rng.random(len(drawn))
    points: Array = np.array([plan.encoder.encode(plan.encoder.decode(point)) for point in drawn])
    away = np.abs(points[:, None] - there[None]).max(2).min(1)
    return np.asarray(points[away >= APART])
