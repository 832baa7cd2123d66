import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.policies.forecast import exponential

STEPS = np.arange(1.0, 101.0)


def loss(a, tau, c, x=STEPS):
    return a * np.exp(-x / tau) + c


@settings(max_examples=60, deadline=None)
@given(
    a=st.floats(0.1, 10),
    tau=st.floats(25, 300),
    c=st.floats(0.01, 2),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_an_exponential_is_found_again_at_any_scale(a, tau, c, scale):
    forecast = exponential(STEPS, scale * loss(a, tau, c))
    assert forecast.fitted
    assert forecast.at(1000.0) == pytest.approx(scale * loss(a, tau, c, 1000.0), abs=0.05 * scale * a)
    assert forecast.at(100.0) == pytest.approx(scale * loss(a, tau, c, 100.0), abs=0.01 * scale * a)


def test_a_rising_loss_is_forecast_to_rise():
    assert exponential(STEPS, 3 - loss(2, 40, 0)).at(1000.0) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_early_outliers_do_not_count(seed):
    rng = np.random.default_rng(seed)
    noisy = loss(2, 50, 0.5) * np.exp(0.01 * rng.normal(size=100))
    spoilt = noisy.copy()
    spoilt[[10, 30, 40]] *= 30
    assert exponential(STEPS, spoilt).at(1000.0) == pytest.approx(
        exponential(STEPS, noisy).at(1000.0), abs=0.1
    )


def test_losses_are_not_forecast_to_be_negative_unless_they_are():
    falling = loss(5, 300, 0) - loss(5, 300, 0)[-1] + 0.01  # nearly straight, to nearly nothing
    assert exponential(STEPS, falling).at(1000.0) >= 0
    assert exponential(STEPS, falling - 1).at(1000.0) < -1


def test_many_values_are_averaged():
    x = np.arange(1.0, 5001.0)
    noisy = loss(2, 2500, 0.5, x) * np.exp(0.2 * np.random.default_rng(0).normal(size=len(x)))
    assert exponential(x, noisy).at(20_000.0) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    ("losses", "level"),
    [
        ([], math.nan),
        ([math.nan] * 20, math.nan),
        ([3.0], 3.0),
        ([5.0, 4.0, 3.0, 2.0], 2.0),
        ([3.0] * 20, 3.0),
        ([0.0] * 20, 0.0),
        ([4.0, math.inf, 3.0, 2.0, math.nan, 1.0, -math.inf], 1.0),
    ],
)
def test_what_cannot_be_fitted_stays_where_it_is(losses, level):
    forecast = exponential(np.arange(float(len(losses))), np.array(losses))
    assert not forecast.fitted
    assert forecast.at(1e6) == pytest.approx(level, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.floats(-1e12, 1e12), st.sampled_from([math.nan, math.inf])), max_size=150))
def test_whatever_comes_the_forecast_is_a_number(losses):
    forecast = exponential(np.arange(float(len(losses))), np.array(losses, dtype=float))
    assert math.isfinite(forecast.at(1000.0)) == bool(np.isfinite(losses).any())
