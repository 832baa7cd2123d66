import numpy as np
import pytest

from autotune.policies.evaluations import Evaluations, Trend, noise
from autotune.records import Observation, Signal


def signal(spent, value):
    return Signal(np.array(spent), np.array(spent), np.array(value, float))


def test_only_what_was_measured_on_both_sides_counts():
    signals = {
        "v": signal([0, 10, 20, 30, 40], [5, 4, 3, np.nan, 1]),
        "t": signal([0, 10, 30, 40], [4, 3, 2, 1]),
    }
    found = Evaluations.of(Observation(40, 40, None, {}, signals), "v", "t", since=0)
    assert found.spent.tolist() == [10, 40]
    assert found.validation.tolist() == [4, 1]
    assert found.train.tolist() == [3, 1]
    assert found.every == 30
    assert len(Evaluations.of(Observation(40, 40, None, {}, {}), "v", "t", since=0).spent) == 0


def test_a_trend_falls_beyond_its_error_and_beyond_what_counts():
    line = np.array([5.0, 4.0, 3.0, 2.0])
    trend = Trend.of(line, 0.5)
    assert (trend.mean, trend.slope) == (3.5, -1.0)
    assert trend.error == pytest.approx(0.5 / np.sqrt(5))
    assert trend.falls(0.1)
    assert not trend.falls(0.3)
    assert not Trend.of(line, 5.0).falls(0.1)
    assert not Trend.of(-line, 0.0).falls(0.0)


def test_noise_is_measured_whatever_the_trend():
    rng = np.random.default_rng(0)
    x = np.arange(2000)
    assert noise(0.1 * rng.standard_normal(2000) + 0.5 * x) == pytest.approx(0.1, rel=0.1)
    assert noise(3.0 - 0.5 * x) == pytest.approx(0.0, abs=1e-12)
