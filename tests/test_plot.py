import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from recorded import Recorder, rescued

from autotune.plot import BLUE, COLUMNS, GREEN, GREY, ORANGE, PURPLE, plot_run
from autotune.records import Set, TuneError


@pytest.fixture(scope="module")
def figure(tmp_path_factory):
    return plot_run(rescued(tmp_path_factory.mktemp("runs") / "rescued"))


def panel(figure, title):
    return next(ax for ax in figure.axes if ax.get_title(loc="left") == title)


def points(ax, colour, **having):
    """All points of the lines of one colour."""
    lines = [
        line
        for line in ax.lines
        if to_hex(line.get_color()).upper() == colour and line.get_transform() == ax.transData
    ]
    xy = np.concatenate([np.empty((0, 2)), *(line.get_xydata() for line in lines)])
    return xy[np.isfinite(xy).all(axis=1)]


def test_every_part_of_the_run_has_its_panel(figure):
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["loss", "validation/accuracy", "dropout", "lr", "decisions"]
    assert figure.get_suptitle() == "rescued: finished, 400 of 400 steps"


def test_what_was_evaluated_on_training_data_stands_beside_the_validation(tmp_path):
    run = Recorder(tmp_path / "both")
    run.train(60, loss=lambda step: 2.0)
    for name in ("loss", "accuracy"):
        run.metric(f"validation/{name}", 0.5)
        run.metric(f"train/{name}", 0.75)
    run.end()
    figure = plot_run(tmp_path / "both")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["loss", "validation/accuracy"]
    for ax in figure.axes:
        assert points(ax, ORANGE).tolist() == [[60, 0.5]]
        assert points(ax, GREEN).tolist() == [[60, 0.75]]
        assert "training, evaluated" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_what_was_rewound_is_grey_and_only_that(figure):
    loss = panel(figure, "loss")
    grey, kept = points(loss, GREY), points(loss, BLUE)
    assert set(grey[:, 0]) == set(range(11, 36))  # steps 36 to 40 were infinite: marks, not points
    assert set(kept[:, 0]) == {*range(1, 11), *range(41, 401)}
    assert points(loss, ORANGE)[:, 0].tolist() == [100, 160, 220, 280, 340, 400]
    bands = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in loss.patches]
    assert bands == [(10, 40)]


def test_non_finite_values_are_marks_at_the_top_edge(figure):
    loss = panel(figure, "loss")
    marks = [line for line in loss.lines if line.get_marker() == "^"]
    x, y = np.concatenate([mark.get_xydata() for mark in marks]).T
    assert set(y) == {1.0}
    assert any(35 <= at <= 40 for at in x)
    assert "not finite" in loss.get_legend().get_texts()[-1].get_text()


def test_wide_positive_values_get_a_log_scale_and_narrow_ones_do_not(figure):
    assert panel(figure, "loss").get_yscale() == "log"
    assert panel(figure, "lr").get_yscale() == "log"
    assert panel(figure, "dropout").get_yscale() == "linear"


def test_the_learning_rate_is_grey_where_it_was_rewound(figure):
    lr = panel(figure, "lr")
    assert points(lr, GREY).tolist() == [[10, 3.0], [40, 3.0]]
    assert set(points(lr, PURPLE)[:, 1]) == {3.0, 0.03}


def test_decisions_stand_in_the_lane_of_their_source_with_what_they_did(figure):
    decisions = panel(figure, "decisions")
    assert [t.get_text() for t in decisions.get_yticklabels()] == [
        "divergence guard",
        "human:ada",
        "plateau",
        "supervisor",
    ]
    labels = {text.get_text(): (text.xy[0], -text.xy[1]) for text in decisions.texts if text.get_text()}
    assert labels["rewind to 10, replay data; lr → 0.03"] == (40, 0)
    assert labels["dropout → 0.2"] == (220, 1)
    assert labels["lr → 0.3 (refused)"] == (220, 2)
    assert labels["escalate"] == (280, 3)


def test_legends_stand_outside_of_the_data_and_labels_apart(figure):
    figure.draw_without_rendering()
    loss, decisions = panel(figure, "loss"), panel(figure, "decisions")
    assert loss.get_legend().get_window_extent().y0 >= loss.get_window_extent().y1 - 1
    boxes = [text.get_window_extent() for text in decisions.texts if text.get_text()]
    assert len(boxes) == 6
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    frame = figure.bbox
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_it_is_written_in_the_format_of_the_suffix(tmp_path, suffix, magic):
    path = tmp_path / f"run{suffix}"
    plot_run(rescued(tmp_path / "run"), path)
    assert path.read_bytes().startswith(magic)


def test_a_long_run_is_thinned_but_keeps_its_extremes(tmp_path):
    run = Recorder(tmp_path / "long", total_steps=20_000)
    run.train(20_000, loss=lambda step: 1.25 if step == 7_777 else 1 + 0.1 * math.sin(step))
    run.end()
    loss = panel(plot_run(tmp_path / "long"), "loss")
    raw = points(loss, BLUE)
    assert len(raw) <= 2 * (2 * COLUMNS)  # the raw line and its mean
    assert raw[:, 1].max() == 1.25


def test_hundreds_of_decisions_stay_readable(tmp_path):
    run = Recorder(tmp_path / "busy", total_steps=3_000)
    for i in range(300):
        run.train(10, every=10, loss=lambda step: 1 / step)
        run.decide("bayes", Set("lr", 1 / (i + 1), reason=""))
    run.end()
    figure = plot_run(tmp_path / "busy")
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in panel(figure, "decisions").texts if t.get_text()]
    assert 10 < len(boxes) < 60
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(lambda step: math.nan, id="nan"),
        pytest.param(lambda step: math.inf, id="inf"),
        pytest.param(lambda step: -math.inf, id="minus-inf"),
        pytest.param(lambda step: 0.0, id="zero"),
        pytest.param(lambda step: -1.0 * step, id="negative"),
        pytest.param(lambda step: 1.7e308, id="largest"),
        pytest.param(lambda step: 5e-324, id="smallest"),
        pytest.param(lambda step: 10.0 ** (step * 3), id="from-1-to-1e300"),
        pytest.param(lambda step: (-1) ** step * 1e300, id="alternating"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_any_values_can_be_drawn(tmp_path, value):
    run = Recorder(tmp_path / "odd")
    run.train(100, loss=value, validation__loss=value, validation__f1=value)
    run.end()
    plot_run(tmp_path / "odd", tmp_path / "odd.png")
    assert (tmp_path / "odd.png").stat().st_size > 5_000


@pytest.mark.filterwarnings("error")
def test_a_run_that_has_not_begun_can_be_drawn(tmp_path):
    run = Recorder(tmp_path / "new", total_steps=None)
    figure = plot_run(tmp_path / "new", tmp_path / "new.png")
    assert figure.get_suptitle() == "new: running, 0 steps"
    run.end()


def test_no_run_no_picture(tmp_path):
    with pytest.raises(TuneError, match=r"journal\.db"):
        plot_run(tmp_path, tmp_path / "run.png")
    assert not (tmp_path / "run.png").exists()


def test_drawing_leaves_pyplot_alone():
    code = "import sys, autotune.plot; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
