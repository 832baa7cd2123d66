import math

import numpy as np
import pytest
import torch
from torch import nn

from autotune.records import TuneError
from autotune.sensors import GeneralizationGap, LossStatistics


def idle(bench, sensors, every=1):
    model = nn.Linear(2, 2)
    return bench(model, torch.optim.SGD(model.parameters(), lr=0.0), sensors, every=every)


@pytest.mark.parametrize("as_tensor", [True, False])
def test_mean_and_variance_of_a_window(bench, as_tensor):
    b = idle(bench, [LossStatistics(window=20)], every=5)
    losses = torch.rand(50) + 3
    for b.step, loss in enumerate(losses, start=1):
        b.report("loss", loss if as_tensor else float(loss))
    assert b.values("loss") == losses.tolist()
    windows = [losses[max(0, n - 20) : n].double().numpy() for n in range(5, 51, 5)]
    assert b.values("loss_mean") == pytest.approx([w.mean() for w in windows], rel=1e-6)
    assert b.values("loss_variance") == pytest.approx([w.var(ddof=1) for w in windows], rel=1e-5)
    assert [s.step for s in b.samples if s.name == "loss_mean"] == list(range(5, 51, 5))


def test_one_loss_has_no_variance_and_nan_is_a_signal(bench):
    b = idle(bench, [LossStatistics(window=3)])
    for b.step, loss in enumerate([1.0, math.nan, math.inf, 2.0, 2.0, 2.0], start=1):
        b.report("loss", torch.tensor(loss))
    np.testing.assert_array_equal(b.values("loss_mean"), [1, math.nan, math.nan, math.nan, math.inf, 2])
    np.testing.assert_array_equal(b.values("loss_variance"), [math.nan, math.nan, math.nan, math.nan, 0])


def test_a_loss_that_is_overwritten_by_the_next_replay_is_kept(bench):
    b = idle(bench, [LossStatistics()])
    static = torch.zeros((), requires_grad=True)  # as a CUDA graph's output
    for b.step in range(1, 6):
        with torch.no_grad():
            static.fill_(b.step)
        b.report("loss", static)
    assert b.values("loss") == [1, 2, 3, 4, 5]
    assert b.values("loss_mean")[-1] == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_losses_of_any_real_dtype_and_shape_of_one_element(bench, dtype):
    b = idle(bench, None)
    b.report("loss", torch.full((1, 1), 2, dtype=dtype))
    b.report("loss", torch.tensor(4.0))
    assert b.values("loss") == [2, 4]
    assert b.values("loss_mean") == [2, 3]


@pytest.mark.parametrize(
    "value", [torch.ones(2), torch.ones(0), torch.ones((), dtype=torch.complex64), "1.x", None]
)
def test_what_is_no_single_number_is_refused(bench, value):
    with pytest.raises(TuneError, match="one real number, got loss"):
        idle(bench, None).report("loss", value)


def test_the_gap_is_validation_less_the_window_mean(bench):
    b = idle(bench, [GeneralizationGap(window=2)])
    b.report("validation/loss", 5.0)  # no training loss yet
    assert b.values("generalization_gap") == []
    for loss in (100.0, 1.0, 2.0):
        b.report("loss", loss)
    b.report("validation/loss", 2.75)
    assert b.values("generalization_gap") == [1.25]
    assert b.values("validation/loss") == [5.0, 2.75]


def test_the_gap_is_between_losses_of_one_evaluation_where_it_gives_both(bench):
    b = idle(bench, [GeneralizationGap(window=2)])
    for loss in (8.0, 10.0):
        b.report("loss", loss)
    b.report("train/loss", 4.0)
    state = b.instruments.state_dict()
    b.report("validation/loss", 4.5)
    b.report("validation/loss", 4.5)  # one without a training loss of its own
    assert b.values("generalization_gap") == [0.5, -4.5]
    b.instruments.load_state_dict(state)
    b.report("validation/loss", 6.0)
    assert b.values("generalization_gap")[-1] == 2.0


def test_the_window_is_rewound(bench):
    b = idle(bench, [LossStatistics(window=4), GeneralizationGap(window=4)])
    for b.step, loss in enumerate([1.0, 2.0, 3.0], start=1):
        b.report("loss", torch.tensor(loss))
    b.collect()
    state = b.instruments.state_dict()
    for _ in range(2):
        for b.step, loss in enumerate([70.0, 80.0, 90.0, 60.0], start=4):
            b.report("loss", loss)
        b.instruments.load_state_dict(state)
        b.step = 4
        b.report("loss", torch.tensor(4.0))
        b.report("validation/loss", 3.5)
        b.samples = b.instruments.collect()
        assert b.values("loss_mean") == [2.5]
        assert b.values("generalization_gap") == [1.0]
