import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from autotune.hyperparameters import (
    Actuator,
    CategoricalHyperparameter,
    FloatHyperparameter,
    Held,
    Hyperparameter,
    IntHyperparameter,
)
from autotune.records import HyperparameterState, TuneError

finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def bounded_floats(draw):
    low, high = sorted([draw(finite), draw(finite)])
    if low == high:
        high = math.nextafter(low, math.inf) if low < 1e300 else low
        low = low if low < high else math.nextafter(low, -math.inf)
    return FloatHyperparameter("x", draw(st.floats(low, high)), low=low, high=high)


@given(bounded_floats(), finite)
def test_clamped_floats_are_accepted_and_lie_within_the_bounds(x, value):
    clamped = x.clamp(value)
    assert x.low <= clamped <= x.high
    assert x.check(clamped) == clamped
    if x.low <= value <= x.high:
        assert clamped == value


@given(bounded_floats(), finite)
def test_a_float_is_written_or_refused_and_then_unchanged(x, value):
    before = x()
    try:
        written = x.write(value)
    except TuneError:
        assert x() == before
        assert not x.low <= value <= x.high
    else:
        assert x() == written == x.clamp(value)


@given(st.integers(-100, 100), st.integers(1, 100), st.floats(-300, 300))
def test_clamped_integers_are_the_nearest_whole_numbers(low, width, value):
    n = IntHyperparameter("n", low, low=low, high=low + width)
    clamped = n.clamp(value)
    assert type(clamped) is int
    assert n.check(clamped) == clamped
    assert all(abs(clamped - value) <= abs(other - value) for other in range(low, low + width + 1))


@pytest.mark.parametrize(
    ("low", "high", "rule"),
    [
        (1.0, 0.1, "low must be below high, got low=1.0, high=0.1"),
        (1.0, 1.0, "low must be below high"),
        (math.nan, 1.0, "bounds must be finite"),
        (0.0, math.inf, "bounds must be finite"),
        ("a", 1.0, "bounds are numbers"),
        (None, 1.0, "bounds are numbers"),
    ],
)
def test_bad_bounds_are_refused_with_the_rule_and_the_values(low, high, rule):
    with pytest.raises(TuneError, match=rule):
        FloatHyperparameter("x", 0.5, low=low, high=high)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_a_log_scale_needs_a_positive_low(low):
    with pytest.raises(TuneError, match=r"a log scale needs low > 0, got low=.*use log=False"):
        FloatHyperparameter("x", 0.5, low=low, high=1.0, log=True)
    assert FloatHyperparameter("x", 0.5, low=low, high=1.0).kind == "float"
    assert FloatHyperparameter("x", 0.5, low=1e-3, high=1.0, log=True).kind == "log"


def test_a_start_outside_the_bounds_is_refused_with_the_remedy():
    with pytest.raises(TuneError, match=r"x must lie in \[0, 1\], got 2.0; widen low/high"):
        FloatHyperparameter("x", 2.0, low=0.0, high=1.0)
    with pytest.raises(TuneError, match=r"n must lie in \[1, 3\], got 4"):
        IntHyperparameter("n", actuator=Held(4), low=1, high=3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, np.float32("nan")])
def test_values_that_are_not_finite_have_no_nearest_value(value):
    x = FloatHyperparameter("x", 0.5, low=0.0, high=1.0)
    for use in (x.check, x.clamp, x.write):
        with pytest.raises(TuneError, match="must be finite"):
            use(value)
    assert x() == 0.5


@pytest.mark.parametrize("value", ["0.5", None, True, np.array([0.5]), 1j])
def test_what_is_no_number_is_refused(value):
    x = FloatHyperparameter("x", 0.5, low=0.0, high=1.0)
    n = IntHyperparameter("n", 1, low=0, high=2)
    for use in (x.check, x.clamp):
        with pytest.raises(TuneError, match="is a number, got"):
            use(value)
    for use in (n.check, n.clamp):
        with pytest.raises(TuneError, match="is a whole number, got"):
            use(value)


@pytest.mark.parametrize("number", [1, 1.0, np.float32(1), np.float64(1), np.int64(1), Fraction(1)])
def test_numbers_of_every_library_come_back_as_python_numbers(number):
    x = FloatHyperparameter("x", number, low=0.0, high=2.0)
    n = IntHyperparameter("n", number, low=0, high=2)
    for value in (x(), x.check(number), x.clamp(number), x.write(number)):
        assert type(value) is float
        assert value == 1.0
    for value in (n(), n.check(number), n.clamp(number), n.write(number)):
        assert type(value) is int
        assert value == 1


def test_a_bound_that_came_back_from_float32_is_still_within():
    x = FloatHyperparameter("x", 0.05, low=0.01, high=0.1)
    beyond = float(np.float32(0.1))
    assert beyond > 0.1
    assert x.check(beyond) == 0.1
    with pytest.raises(TuneError, match="must lie in"):
        x.check(0.1 * (1 + 1e-6))


@pytest.mark.parametrize("value", [1.5, math.inf, math.nan])
def test_an_integer_takes_no_fraction(value):
    n = IntHyperparameter("n", 1, low=0, high=2)
    with pytest.raises(TuneError, match="is a whole number, got"):
        n.write(value)
    with pytest.raises(TuneError, match="bounds of an integer are whole numbers"):
        IntHyperparameter("n", 1, low=0, high=2.5)


def test_a_choice_is_one_of_the_choices_by_value_and_type():
    c = CategoricalHyperparameter("c", "a", choices=["a", 1, 2.0, False])
    for value in ("a", 1, 2.0, False):
        assert c.write(value) == value == c()
    for value in ("b", True, 1.0, 2, 0, None):
        with pytest.raises(TuneError, match=r"c must be one of 'a', 1, 2.0, False, got"):
            c.clamp(value)
    assert c() is False


@pytest.mark.parametrize("choices", [[], ["a"], ["a", "a"], [1, 1.0]])
def test_choices_are_two_or_more_different_values(choices):
    with pytest.raises(TuneError, match="choices are two or more different values"):
        CategoricalHyperparameter("c", "a", choices=choices)


def test_a_start_value_or_an_actuator_is_needed_and_not_both():
    for arguments in ({}, {"value": 1.0, "actuator": Held(1.0)}):
        with pytest.raises(TuneError, match=r"x needs either a start value .* or an actuator"):
            FloatHyperparameter("x", low=0.0, high=2.0, **arguments)


@given(st.text(max_size=8) | st.text("a1/._- :", max_size=8))
def test_mlflow_takes_every_name_that_is_taken(name):
    try:
        FloatHyperparameter(name, 0.5, low=0.0, high=1.0)
    except TuneError:
        return
    _validate_metric_name(f"hp/{name}")


@pytest.mark.parametrize("name", ["lr", "lr/0", "a b-c_d.e", "β2", "x" * 200])
def test_good_names(name):
    assert FloatHyperparameter(name, 0.5, low=0.0, high=1.0).name == name


@pytest.mark.parametrize(
    "name", ["", "a:b", "a\n", "lr//0", "/lr", "lr/", "..", "a/../b", "./a", "x" * 201, "p%"]
)
def test_bad_names_are_refused_with_the_rule(name):
    with pytest.raises(TuneError, match=r"MLflow's rule.*got"):
        FloatHyperparameter(name, 0.5, low=0.0, high=1.0)


class Rounding(Actuator[float]):
    """A plant that holds whole numbers only."""

    def __init__(self):
        self.held = 1.0

    def read(self):
        return self.held

    def write(self, value):
        self.held = float(round(value))
        return self.held


def test_write_returns_what_the_plant_holds():
    x = FloatHyperparameter("x", low=0.0, high=5.0, actuator=Rounding())
    assert x.write(2.6) == 3.0 == x()


def test_the_state_is_what_policies_see():
    x = FloatHyperparameter("x", 0.5, low=0.1, high=1.0, log=True, unit="m")
    x.owner = "human:ann"
    assert x.state(7) == HyperparameterState("x", "log", 0.5, "human:ann", 0.1, 1.0, (), "m", 7)
    n = IntHyperparameter("n", 2, low=1, high=3)
    assert n.state() == HyperparameterState("n", "int", 2, "policy", 1, 3)
    c = CategoricalHyperparameter("c", "a", choices=("a", "b"))
    assert c.state() == HyperparameterState("c", "categorical", "a", "policy", choices=("a", "b"))
    assert repr(x) == "FloatHyperparameter('x', 0.5)"


def test_the_base_class_and_a_bare_actuator_cannot_be_made():
    with pytest.raises(TypeError):
        Hyperparameter("x", Held(1.0))
    with pytest.raises(TypeError):
        Actuator()
