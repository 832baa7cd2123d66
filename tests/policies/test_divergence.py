import math

import numpy as np
import pytest
from quadratic import Loop, Quadratic

from autotune.policies import DivergenceGuard
from autotune.policies.divergence import beginning
from autotune.policies.robust import Band, noise, running_median, spread, y_of


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_y_is_the_log_where_all_usual_losses_are_positive():
    y = y_of(np.array([math.e, 0.0, -1.0, math.nan, math.inf]), np.array([1.0, 2.0]))
    assert y.tolist() == [pytest.approx(1), -math.inf, -math.inf, math.inf, math.inf]


def test_y_is_in_units_of_the_usual_size_where_some_are_not():
    y = y_of(np.array([4.0, -4.0, math.nan]), np.array([-2.0, 1.0, 2.0, math.nan]))
    assert y.tolist() == [2.0, -2.0, math.inf]
    assert y_of(np.array([3.0]), np.array([0.0, 0.0])).tolist() == [3.0]


def test_a_running_median_of_fewer_values_is_that_of_all():
    assert running_median(np.array([3.0, 1.0, 2.0]), 10).tolist() == [2.0]
    assert running_median(np.arange(7.0), 3, every=2).tolist() == [1.0, 3.0, 5.0]


def test_spread_and_noise_are_standard_deviations_in_which_no_trend_counts(rng):
    values = rng.normal(size=20_000)
    for trend in (0.0, 1e-2):
        series = values + trend * np.arange(len(values))
        assert spread(series) == pytest.approx(1, rel=0.05)
        assert noise(series) == pytest.approx(1, rel=0.05)


def test_the_deviation_of_a_band_is_that_of_the_level(rng):
    bands = [Band.of(rng.normal(size=200)) for _ in range(200)]
    level = running_median(rng.normal(size=20_000), 10).std()
    assert np.median([b.deviation for b in bands]) == pytest.approx(level, rel=0.25)
    walk = [Band.of(np.cumsum(rng.normal(size=200)) / 3).deviation for _ in range(200)]
    assert np.median(walk) > 2 * np.median([b.deviation for b in bands])  # correlation widens it
    outliers = rng.normal(size=200)
    outliers[::20] = 100
    assert Band.of(outliers).deviation < 1


@pytest.mark.parametrize(
    ("course", "state"),
    [
        (np.linspace(0, -1, 60), "learned"),
        (np.zeros(60), "open"),
        (np.linspace(0, 0.05, 60), "open"),
        (np.r_[0, np.full(9, 3.0)], "exploded"),
        (np.r_[np.zeros(5), np.full(5, 0.5), np.full(50, 0.02)], "dead"),
        (np.r_[np.zeros(5), np.full(5, 0.5), np.linspace(0.5, 0.1, 50)], "open"),  # it still falls
    ],
)
def test_what_the_beginning_of_a_run_says(course, state, rng):
    assert beginning(course + 0.01 * rng.normal(size=len(course)), 0.0)[0] == state


def test_first_steps_that_overshoot_are_taken_back_even_where_the_loss_recovers():
    class Adaptive(Quadratic):
        """Steps of a length that depends on the rate alone, and shrinks as the weights settle."""

        def step(self, rate, batch):
            before = self.w.copy()
            measured = super().step(0.0, batch)
            direction = np.sign(self.curvature * before)
            self.w = before - rate * 0.5 ** min(batch, 20) * direction
            return {**measured, "update_ratio": rate * np.sqrt(20) / np.linalg.norm(before)}

    loop = Loop(Adaptive(), [DivergenceGuard()], 10.0).run(30)
    (decision,) = loop.decisions
    assert decision.action.reason == "the first steps overshot"
    evidence = decision.action.evidence
    assert evidence["first_update"] > 0.3
    assert loop.controls["lr"].state(None).value <= 10 * 0.3 / evidence["first_update"] + 1e-9


def test_gradients_date_the_first_anomaly():
    class Early(Quadratic):
        """The gradient norm breaks 20 steps before the loss."""

        def step(self, rate, batch):
            measured = super().step(rate, batch)
            return {**measured, "gradient_norm": measured["gradient_norm"] * (1e6 if batch >= 980 else 1)}

    (decision,) = Loop(Early(poison=range(1000, 1030)), [DivergenceGuard()], 0.5).run(1500).decisions
    assert decision.action.evidence["first_anomaly"] == 990  # measured on every tenth step
