import math

import numpy as np
import pytest
from matplotlib.colors import to_hex
from recorded import Recorder, range_tested

from autotune.plot import BLUE, ORANGE
from autotune.plot_against import plot_against, range_tests
from autotune.records import Ramp, Rewind, TuneError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return range_tested(tmp_path_factory.mktemp("runs") / "tested")


@pytest.fixture(scope="module")
def ax(folder):
    return plot_against(folder, "lr").axes[0]


def lines(ax, colour):
    """The curve as measured, the smoothed one, and the mark of what was set after it."""
    return [line for line in ax.lines if to_hex(line.get_color()).upper() == colour]


def test_the_loss_stands_over_the_value_that_each_step_was_taken_with(ax):
    raw, smoothed, _ = lines(ax, BLUE)
    x, y = raw.get_data()
    np.testing.assert_allclose(x, np.geomspace(1e-4, 10, 101)[:100])
    assert x[np.argmin(y)] == pytest.approx(0.1)
    assert raw.get_alpha() < 1 < smoothed.get_linewidth()
    assert 80 < len(smoothed.get_xdata()) <= 100
    tail, _ = lines(ax, ORANGE)
    np.testing.assert_allclose(tail.get_xdata(), np.linspace(0.1, 0.01, 41))


def test_scales_and_labels(ax):
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel()) == ("log", "log", "lr")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "range test, step 10: lr ⇢ 10 in 100 steps (exponential); then lr → 0.1 (dashed)",
        "decay, step 50: lr ⇢ 0.01 in 40 steps (linear)",
    ]


def test_what_was_set_afterwards_is_marked_once(ax):
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata() for line in dashed] == [[0.1, 0.1]]
    assert to_hex(dashed[0].get_color()).upper() == BLUE


def test_no_ramp_no_picture(folder, tmp_path):
    with pytest.raises(TuneError, match=r"has moved, got 'dropout'; of such ramps this run has those of lr"):
        plot_against(folder, "dropout", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_a_range_test_is_told_from_other_ramps(folder, tmp_path):
    assert range_tests(folder) == ["lr"]
    for source, rewinder in (("decay", "guard"), ("human:ada", "human:ada")):
        run = Recorder(tmp_path / source.replace(":", "-"))
        run.train(10, loss=float)
        run.decide(source, Ramp("lr", 0.01, 40, reason=""), after={"lr": 0.1})
        run.train(10, loss=float)
        run.rewind(rewinder, 5)
        run.train(10, loss=float)
        run.end()
        assert range_tests(run.journal.folder) == []


@pytest.mark.parametrize("value", [math.nan, -math.inf, 0.0, 5e-324, 1.7e308])
@pytest.mark.parametrize("name", ["lr", "dropout"])
@pytest.mark.filterwarnings("error")
def test_any_losses_can_be_drawn(tmp_path, value, name):
    run = Recorder(tmp_path / "odd")
    run.decide("x", Ramp(name, 0.5, 40, reason=""), after={name: 0.0})
    run.train(20, loss=lambda step: value if step > 5 else 1.0)
    run.decide("x", Rewind(0, reason=""))
    run.end()
    figure = plot_against(tmp_path / "odd", name, tmp_path / "odd.png")
    assert (tmp_path / "odd.png").stat().st_size > 5_000
    assert figure.axes[0].get_xscale() == "linear"  # a logarithm has no place for the zero it starts from


def test_hundreds_of_ramps_are_drawn_and_the_first_are_named(tmp_path):
    run = Recorder(tmp_path / "busy")
    for i in range(200):
        run.decide("cyclic", Ramp("lr", 1.0 + i % 2, 5, reason=""), after={"lr": 2.0 - i % 2})
        run.train(5, loss=lambda step: 1 / step)
    run.end()
    figure = plot_against(tmp_path / "busy", "lr")
    figure.draw_without_rendering()
    legend = figure.axes[0].get_legend()
    assert legend.get_texts()[-1].get_text() == "and 188 more"
    assert legend.get_window_extent().y0 > -1  # a rounding
    assert figure.axes[0].get_window_extent().height > 300
