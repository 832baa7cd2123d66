import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.curves import HUGE, Stretch, discarded, inside, limits, smooth, stairs, thin
from autotune.journal import Series
from autotune.records import Decision, Rewind

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
FINITE = st.floats(-1e6, 1e6)


def series(rows):
    step, spent, branch = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return Series(step, spent, branch, np.zeros(len(rows)), np.zeros(len(rows)))


def rewind(number, step, spent, branch, to, status="applied"):
    return Decision(number, 0.0, step, spent, branch, "guard", Rewind(to, reason=""), status)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1), st.integers(0, 5)), max_size=6),
    st.integers(1, 30),
    st.integers(1, 12),
)
def test_discarded_is_what_a_rewind_went_back_over(rewinds, last, every):
    # Reference: the list of steps that make up the run, shortened by each rewind.
    step = spent = branch = 0
    rows, kept, decisions = [], [], []
    for i, (steps, share, overshoot) in enumerate([*rewinds, (last, 1.0, 0)]):
        for _ in range(steps):
            step, spent = step + 1, spent + 1
            kept.append(spent)
            if spent % every == 0:
                rows.append((step, spent, branch))
        rows.append((step, spent, branch))
        if i < len(rewinds):
            reached = int(share * step)  # the state that was found may be older than the one asked for
            decisions.append(rewind(i + 1, step, spent, branch, min(step, reached + overshoot)))
            kept = kept[:reached]
            step, branch = reached, branch + 1
    lost = discarded([series(rows)], decisions)
    clock = np.arange(1, spent + 1)
    assert clock[~inside(clock, lost)].tolist() == kept


def test_discarded_takes_the_decisions_word_until_something_is_measured():
    before = series([(step, step, 0) for step in range(1, 51)])
    assert discarded([before], [rewind(1, 50, 50, 0, to=20)]) == [Stretch(20, 50)]


def test_discarded_knows_a_resumed_run_whose_last_steps_went_with_the_process():
    rows = [(step, step, 0) for step in range(1, 51)] + [(step, step + 20, 1) for step in range(31, 61)]
    resumed = Decision(1, 0.0, 30, 50, 1, "supervisor", Rewind("step-30", reason=""), "applied")
    assert discarded([series(rows)], [resumed]) == [Stretch(30, 50)]


def test_a_refused_rewind_discards_nothing():
    rows = [(step, step, 0) for step in range(1, 51)]
    assert discarded([series(rows)], [rewind(1, 30, 30, 0, to=20, status="refused")]) == []


def test_nothing_measured_nothing_discarded():
    assert discarded([], []) == []
    assert not inside(np.arange(5), []).any()


@given(st.lists(FLOATS, min_size=1, max_size=300), st.integers(1, 40))
def test_thin_covers_the_same_pixels(values, columns):
    x, y = np.linspace(0, 7, len(values)), np.array(values)
    tx, ty = thin(x, y, 0, 7, columns)
    assert len(tx) == len(ty) <= 2 * columns

    def extent(xs, ys):
        column = np.minimum(xs * (columns / 7), columns - 1).astype(int)
        drawn = {}
        for c in sorted(set(column)):
            seen = ys[column == c]
            seen = seen[~np.isnan(seen)]
            drawn[c] = (seen.min(), seen.max()) if len(seen) else None
        return drawn

    assert extent(tx, ty) == extent(x, y)


@given(st.lists(FINITE, min_size=1, max_size=60), st.integers(1, 80))
def test_smooth_is_the_mean_of_a_symmetric_window(values, width):
    y = np.array(values)
    reference = []
    for i in range(len(y)):
        half = min(width // 2, i, len(y) - 1 - i)
        reference.append(y[i - half : i + half + 1].mean())
    np.testing.assert_allclose(smooth(y, width), reference, atol=1e-6)


def test_smooth_keeps_a_straight_line():
    line = np.linspace(3, -5, 101)
    np.testing.assert_allclose(smooth(line, 31), line, atol=1e-12)


@given(st.dictionaries(st.integers(0, 50), FINITE, min_size=1), st.sets(st.integers(0, 60), max_size=6))
def test_stairs_hold_each_value_until_the_next(records, borders):
    spent = sorted(records)
    borders = sorted(borders)
    lost = [Stretch(low, high) for low, high in zip(borders[::2], borders[1::2], strict=False)]
    x, y = stairs(np.array(spent), np.array([records[s] for s in spent]), lost, end=60)
    assert x[0] == spent[0]
    assert x[-1] == 60
    assert (x[1:-1:2] == x[2::2]).all()  # each tread begins where the one before ends
    for begin, finish, height, same in zip(x[::2], x[1::2], y[::2], y[1::2], strict=True):
        assert height == same
        assert not any(begin < border < finish for stretch in lost for border in stretch)
        following = [s for s in spent if s > begin]
        restored = any(begin == stretch.high for stretch in lost) and following
        assert height == records[following[0] if restored else max(s for s in spent if s <= begin)]


@settings(max_examples=200)
@given(st.lists(FLOATS, max_size=50), st.lists(FLOATS, max_size=50))
def test_limits_can_always_be_drawn(live, lost):
    low, high, log = limits(np.array(live), np.array(live + lost))
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert -HUGE <= low <= high <= HUGE * (1 + 1e-9)
    assert not log or low > 0


def test_a_spike_does_not_flatten_the_curve():
    live = np.linspace(2.0, 1.0, 1000)
    low, high, log = limits(live, np.append(live, 1e6))
    assert not log
    assert low == 1.0
    assert 2.0 <= high <= 3.0


def test_values_over_more_than_a_decade_are_drawn_on_a_log_scale():
    live = np.geomspace(2.0, 0.01, 1000)
    low, high, log = limits(live, np.append(live, [1e30, -1.0]))
    assert log
    assert low == pytest.approx(0.01)
    assert 2.0 <= high <= 600.0
