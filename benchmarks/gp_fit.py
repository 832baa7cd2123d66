"""What a fit of the Bayesian policies' surrogate costs: 50 points on one core, beside scikit-learn alone.

    OMP_NUM_THREADS=1 python -m autotune.benchmarks.gp_fit

A fit that takes more than 50 ms of processor time at the median misses its target. Exits 1 then.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor

from autotune.policies.gaussian_process import Surrogate, default_kernel

from .figures import Figure, show

POINTS, REPEATS = 50, 15
MILLISECONDS = 50.0


def milliseconds(work: Callable[[], object]) -> float:
    """Processor time at the median."""
    work()
    taken = []
    for _ in range(REPEATS):
        start = time.thread_time()
        work()
        taken.append(1e3 * (time.thread_time() - start))
    return statistics.median(taken)


def figures() -> list[Figure]:
    """Measure."""
    warnings.simplefilter("ignore", ConvergenceWarning)  # of scikit-learn's own fit, at its bounds
    out = []
    rng = np.random.default_rng(0)
    for columns in (2, 5):
        points = rng.random((POINTS, columns))
        scores = np.sin(5 * points[:, 0]) + points[:, 1] ** 2 + 0.05 * rng.standard_normal(POINTS)
        errors = np.full(POINTS, 0.05)
        ours = milliseconds(lambda p=points, s=scores, e=errors: Surrogate(p, s, e))  # type: ignore[misc]
        process = GaussianProcessRegressor(default_kernel(columns), alpha=0.0025, n_restarts_optimizer=2)
        theirs = milliseconds(lambda p=points, s=scores, g=process: g.fit(p, s))  # type: ignore[misc]
        name = f"{POINTS} points, {columns} columns"
        out.append(Figure(f"a fit, {name}", ours, "ms", f"≤ {MILLISECONDS:g}", ours <= MILLISECONDS))
        out.append(Figure(f"over scikit-learn's own with two restarts, {name}", ours / theirs, "times"))
    return out


if __name__ == "__main__":
    sys.exit(show(figures()))
