import itertools
import math

from hypothesis import assume, given
from hypothesis import strategies as st

from autotune.ramps import RunningRamp
from autotune.records import SHAPES

VALUES = st.floats(1e-8, 1e4)


@given(VALUES, VALUES, st.integers(0, 1000), st.integers(1, 500), st.sampled_from(SHAPES))
def test_ends_are_exact_and_all_between_is_monotone(first, last, start, steps, shape):
    ramp = RunningRamp("policy", start, steps, first, last, shape)
    assert ramp.at(start) == first
    assert ramp.at(ramp.end) == ramp.at(ramp.end + 7) == last
    values = [ramp.at(start + n) for n in range(steps + 1)]
    sign = 1 if last >= first else -1
    slack = 1e-12 * max(first, last)
    assert all(sign * (b - a) >= -slack for a, b in itertools.pairwise(values))


@given(VALUES, VALUES, st.integers(1, 250).map(lambda n: 2 * n))
def test_half_way_is_the_mean_in_the_shape_s_own_scale(first, last, steps):
    assume(first != last)
    half = {shape: RunningRamp("", 0, steps, first, last, shape).at(steps // 2) for shape in SHAPES}
    assert math.isclose(half["linear"], (first + last) / 2)
    assert math.isclose(half["cosine"], (first + last) / 2)
    assert math.isclose(half["exponential"], math.sqrt(first * last), rel_tol=1e-9)
    assert math.isclose(half["inverse_sqrt"], ((first**-2 + last**-2) / 2) ** -0.5, rel_tol=1e-9)
