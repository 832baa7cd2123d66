"""A Gaussian process over hyperparameters: the surrogate of the Bayesian policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from autotune.records import HyperparameterState, TuneError, Value

Array: TypeAlias = NDArray[np.float64]

WIDE = 100.0  # high / low from which a positive range is searched on a log scale
SPREAD = 1.0  # standard deviation of the logs of a kernel's hyperparameters about those that are given
STEPS = 30  # evaluations of the marginal likelihood in a fit
JITTER = 1e-8  # of the variance of the scores, on the diagonal
FIRM = 1e-3  # the same where the Cholesky decomposition has failed

Status = Literal["fitted", "kernel as given", "prior"]


@dataclass(frozen=True, slots=True)
class Axis:
    """One hyperparameter's part of the unit cube: one column, or one for each choice."""

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False
    choices: tuple[Value, ...] = ()

    @property
    def columns(self) -> int:
        """How many coordinates it takes."""
        return len(self.choices) or 1

    def encode(self, value: Value) -> list[float]:
        """The coordinates of a value; 0 and 1 are the ends of the range, which it may lie beyond."""
        if self.choices:
            return [float(value == choice) for choice in self.choices]
        place = float(value)
        if self.log:
            floor = self.low * 1e-6  # a value that may be 0 although its range is positive
            part = math.log(max(place, floor) / self.low) / math.log(self.high / self.low)
        else:
            part = (place - self.low) / (self.high - self.low)
        return [part]

    def decode(self, coordinates: Sequence[float]) -> Value:
        """The value nearest to these coordinates; within the range."""
        if self.choices:
            return self.choices[int(np.argmax(coordinates))]
        part = min(max(float(coordinates[0]), 0.0), 1.0)
        value: float = self.low + part * (self.high - self.low)
        if self.log:
            value = self.low * (self.high / self.low) ** part
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value


@dataclass(frozen=True, slots=True)
class Encoder:
    """Hyperparameters as points of the unit cube.

    A log scale is a log scale here too, and so is every positive range of a factor of 100 or more; whole
    numbers are rounded; a categorical one has a column for each choice, of which one is 1.
    """

    axes: tuple[Axis, ...]

    @classmethod
    def of(
        cls, states: Sequence[HyperparameterState], ranges: Mapping[str, tuple[float, float]] | None = None
    ) -> Self:
        """For these hyperparameters.

        Args:
            states: in the order of the columns.
            ranges: (low, high) by name, instead of a hyperparameter's own bounds.

        Raises:
            TuneError: for a range that is missing, empty, or not positive on a log scale.
        """
        return cls(tuple(_axis(state, (ranges or {}).get(state.name)) for state in states))

    @property
    def columns(self) -> int:
        """Of a point."""
        return sum(axis.columns for axis in self.axes)

    @property
    def placed(self) -> Iterator[tuple[int, Axis]]:
        """Each axis and its first column."""
        at = 0
        for axis in self.axes:
            yield at, axis
            at += axis.columns

    def encode(self, values: Mapping[str, Value]) -> Array:
        """The point (`columns`,) of these values."""
        return np.array([part for axis in self.axes for part in axis.encode(values[axis.name])])

    def decode(self, point: Sequence[float] | Array) -> dict[str, Value]:
        """The values at a point (`columns`,), or nearest to it."""
        parts = [float(part) for part in point]
        return {axis.name: axis.decode(parts[at : at + axis.columns]) for at, axis in self.placed}


def _axis(state: HyperparameterState, bounds: tuple[float, float] | None) -> Axis:
    if state.kind == "categorical":
        return Axis(state.name, choices=state.choices)
    low, high = bounds or (state.low, state.high)
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise TuneError(f"a search needs low < high, got [{low}, {high}] for {state.name}; give ranges")
    if state.kind == "log" and low <= 0:
        raise TuneError(f"on a log scale low is positive, got {low:g} for {state.name}; give ranges")
    log = state.kind == "log" or (low > 0 and high / low >= WIDE)
    return Axis(state.name, float(low), float(high), log, whole=state.kind == "int")


def default_kernel(columns: int) -> Any:
    """Constant × Matérn 5/2 with a length for each column, plus a little white noise."""
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel  # takes a second

    return ConstantKernel(1.0) * Matern([0.3] * columns, nu=2.5) + WhiteKernel(1e-3)


class Surrogate:
    """A Gaussian process of the scores of points, in the units of the scores; deterministic.

    *Law.* Scores are standardised; each has the variance `errors`² on the diagonal, beside the kernel's own.
    The kernel's hyperparameters maximise the marginal likelihood times a log-normal prior about those that
    are given (e to the power ±1), from the best of three starts, so that few points do not overfit.

    *Lost scores* (NaN, ±infinity) count as the worst finite one plus the standard deviation of the finite
    ones.

    *When it cannot be fitted* `status` says what is used instead: `kernel as given`, where fewer than two
    different scores are finite (the scale is 1 then) or the decomposition has failed (0.001 of the variance
    is added to the diagonal then); `prior`, mean and standard deviation of the scores at every point (0 and 1
    without any), where no score is finite or that has failed too.

    Source: Rasmussen & Williams 2006, algorithm 2.1 and equation 5.8.

    Args:
        points: (n, columns) in the unit cube.
        scores: (n,), the lower the better.
        errors: (n,) standard errors of the scores; NaN: not known, counted as 0.
        kernel: of scikit-learn, where its hyperparameters begin; None: `default_kernel`.
        fit: whether they are fitted at all.
    """

    def __init__(
        self,
        points: Array,
        scores: Sequence[float] | Array,
        errors: Sequence[float] | Array | None = None,
        kernel: Any = None,
        *,
        fit: bool = True,
    ) -> None:
        self.points = np.asarray(points, dtype=float)
        raw = np.asarray(scores, dtype=float)
        sound = raw[np.isfinite(raw)]
        self._centre, self._scale = 0.0, 1.0
        self.scores = raw
        self._errors = (
            np.zeros(len(raw)) if errors is None else np.nan_to_num(np.asarray(errors, dtype=float))
        )
        self._process: Any = None
        self._noise = 0.0
        self.status: Status = "prior"
        if not len(sound):
            return
        spread = float(sound.std())
        spread = spread if spread > 1e-12 * float(np.abs(sound).max()) else 0.0
        self.scores = np.where(np.isfinite(raw), raw, sound.max() + (spread or 1.0))
        self._centre, self._scale = float(self.scores.mean()), spread or 1.0
        begin = default_kernel(self.points.shape[1]) if kernel is None else kernel
        self.status = self._fit(begin, fit and spread > 0)

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation (n,) of the score without noise at points (n, columns)."""
        if self._process is None:
            return np.full(len(points), self._centre), np.full(len(points), self._scale)
        mean, std = self._process.predict(points, return_std=True)
        std = np.sqrt(np.maximum(std**2 - self._noise, 0.0))
        return self._centre + self._scale * mean, self._scale * std

    def joint(self, points: Array) -> tuple[Array, Array]:
        """Mean (n,) and covariance (n, n) of the scores without noise at points (n, columns)."""
        if self._process is None:
            return self.predict(points)[0], self._scale**2 * np.eye(len(points))
        mean, covariance = self._process.predict(points, return_cov=True)
        covariance = covariance - self._noise * np.eye(len(points))
        return self._centre + self._scale * mean, self._scale**2 * covariance

    @property
    def noise(self) -> float:
        """Standard deviation of a score about its mean, by the kernel's white noise."""
        return self._scale * math.sqrt(self._noise)

    def believing(self, points: Array) -> Surrogate:
        """The same with scores at further points (n, columns) as they are expected there.

        Source: Ginsbourger, Le Riche & Carraro 2010, the kriging believer.
        """
        if not len(points):
            return self
        expected, _ = self.predict(points)
        return Surrogate(
            np.vstack([self.points.reshape(-1, points.shape[1]), points]),
            np.concatenate([self.scores, expected]),
            np.concatenate([self._errors, np.zeros(len(points))]),
            None if self._process is None else self._process.kernel_,
            fit=False,
        )

    @property
    def kernel(self) -> Any:
        """As fitted; None: there is only the prior."""
        return None if self._process is None else self._process.kernel_

    def _fit(self, kernel: Any, fit: bool) -> Status:
        from sklearn.gaussian_process import GaussianProcessRegressor

        targets = (self.scores - self._centre) / self._scale
        variance = (self._errors / self._scale) ** 2
        for optimizer, diagonal in ((_maximise if fit else None, JITTER), (None, FIRM)):
            process = GaussianProcessRegressor(
                kernel, alpha=variance + diagonal, optimizer=optimizer, random_state=0
            )
            try:
                process.fit(self.points, targets)
            except (np.linalg.LinAlgError, ValueError):  # not positive definite; not finite
                continue
            self._process, at = process, self.points[:1]
            self._noise = float(process.kernel_.diag(at)[0] - process.kernel_(at, at)[0, 0])
            return "fitted" if optimizer else "kernel as given"
        return "prior"


def _maximise(negative: Callable[..., Any], given: Array, bounds: Array) -> tuple[Array, float]:
    """Where the posterior of a kernel's log-hyperparameters is highest; an optimizer for scikit-learn."""
    from scipy.optimize import minimize

    def posterior(theta: Array) -> tuple[float, Array]:
        value, gradient = negative(theta)
        away = (theta - given) / SPREAD
        return float(value) + 0.5 * float(away @ away), np.asarray(gradient) + away / SPREAD

    starts = [np.clip(given + shift, *bounds.T) for shift in (-1.0, 0.0, 1.0)]
    start = min(starts, key=lambda theta: posterior(theta)[0])
    found = minimize(posterior, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxfun": STEPS})
    return found.x, float(found.fun)
