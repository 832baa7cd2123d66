import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.history import History
from autotune.records import TuneError


def test_values_come_back_in_order_with_their_clocks():
    history = History()
    for i in range(1000):
        history.append("loss", i, 2 * i, i / 3)
    history.append("lr", 7, 14, math.nan)
    signals = history.signals()
    assert list(signals) == ["loss", "lr"]
    np.testing.assert_array_equal(signals["loss"].step, np.arange(1000))
    np.testing.assert_array_equal(signals["loss"].spent, 2 * np.arange(1000))
    np.testing.assert_array_equal(signals["loss"].value, np.arange(1000) / 3)
    assert math.isnan(signals["lr"].last)


def test_what_was_handed_out_is_read_only_and_never_changes():
    history = History(limit=8)
    for step in range(5):
        history.append("loss", step, step, float(step))
    before = history.signals()["loss"]
    history.truncate(1)
    for step in range(2, 40):
        history.append("loss", step, step + 100, -1.0)
    np.testing.assert_array_equal(before.value, [0, 1, 2, 3, 4])
    for array in (before.step, before.spent, before.value):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 9
    with pytest.raises(TypeError):
        history.signals()["loss"] = before


def test_truncate_keeps_the_step_itself_and_every_point_of_it():
    history = History()
    for step in (1, 2, 2, 3, 9):
        history.append("loss", step, step, float(step))
    history.truncate(2)
    assert history.signals()["loss"].value.tolist() == [1, 2, 2]
    history.truncate(0)
    assert len(history.signals()["loss"]) == 0
    history.append("loss", 1, 50, 5.0)
    assert history.signals()["loss"].spent.tolist() == [50]


def test_a_step_that_goes_down_is_refused():
    history = History()
    history.append("loss", 5, 5, 1.0)
    with pytest.raises(TuneError, match=r"loss at step 4 after step 5; call truncate\(4\)"):
        history.append("loss", 4, 6, 1.0)
    with pytest.raises(TuneError, match="limit=1"):
        History(limit=1)


@given(
    limit=st.integers(2, 70),
    moves=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 3)),
            st.tuples(st.just("truncate"), st.integers(0, 60)),
        )
    ),
)
def test_it_behaves_as_a_list_of_bounded_length(limit, moves):
    history, reference, step = History(limit), [], 0
    for spent, (move, n) in enumerate(moves):
        if move == "append":
            step += n
            if len(reference) == limit:
                reference = reference[limit // 2 :]
            reference.append((step, spent, float(spent)))
            history.append("x", step, spent, float(spent))
        else:
            history.truncate(n)
            reference = [point for point in reference if point[0] <= n]
            step = reference[-1][0] if reference else 0
    signal = history.signals().get("x")
    points = [] if signal is None else list(zip(signal.step, signal.spent, signal.value, strict=True))
    assert points == reference


def test_state_round_trips():
    history = History()
    values = [0.1, math.inf, -math.inf, math.nan, 1e-300, 3.0]
    for step, value in enumerate(values):
        history.append("loss", step, 2**40 + step, value)
    other = History()
    other.append("gone", 1, 1, 1.0)
    other.load_state_dict(history.state_dict())
    assert list(other.signals()) == ["loss"]
    signal = other.signals()["loss"]
    np.testing.assert_array_equal(signal.value, values)
    np.testing.assert_array_equal(signal.spent, 2**40 + np.arange(6))
    other.append("loss", 6, 2**40 + 6, 0.0)
    assert len(other.signals()["loss"]) == 7
    assert len(history.signals()["loss"]) == 6
