"""The surrogate: its points, its fit, and what stands in for one that cannot be fitted."""

import math

import numpy as np
import pytest

from autotune.policies.gaussian_process import Encoder, Surrogate, default_kernel
from autotune.records import HyperparameterState, TuneError

LR = HyperparameterState("lr", "log", 0.1, "policy", 1e-4, 1.0)
DROPOUT = HyperparameterState("dropout", "float", 0.0, "policy", 0.0, 0.8)
BATCH = HyperparameterState("batch_size", "int", 32, "policy", 1, 512)
KIND = HyperparameterState("optimizer", "categorical", "sgd", "policy", choices=("sgd", "adam", "lion"))
LINE = np.linspace(0, 1, 6)[:, None]


def test_values_become_points_of_the_unit_cube_and_come_back():
    encoder = Encoder.of([LR, DROPOUT, BATCH, KIND])
    values = {"lr": 1e-2, "dropout": 0.2, "batch_size": 32, "optimizer": "adam"}
    point = encoder.encode(values)
    assert point == pytest.approx([0.5, 0.25, math.log(32) / math.log(512), 0, 1, 0])
    back = encoder.decode(point)
    assert back["optimizer"] == "adam"
    assert back["batch_size"] == 32
    assert isinstance(back["batch_size"], int)
    assert back["lr"] == pytest.approx(1e-2)
    beyond = encoder.decode([9, -9, 9, 0, 0, 1])
    assert beyond == {"lr": 1.0, "dropout": 0.0, "batch_size": 512, "optimizer": "lion"}


def test_a_range_can_be_given_and_one_that_is_missing_is_refused():
    decay = HyperparameterState("weight_decay", "float", 0.0, "policy", 0.0, 1.0)
    assert Encoder.of([decay], {"weight_decay": (1e-4, 1.0)}).decode([0.5]) == pytest.approx(
        {"weight_decay": 1e-2}
    )
    with pytest.raises(TuneError, match="low < high"):
        Encoder.of([HyperparameterState("lr", "log", 0.1, "policy")])
    with pytest.raises(TuneError, match="positive"):
        Encoder.of([HyperparameterState("lr", "log", 0.1, "policy", 0.0, 1.0)])


def test_a_smooth_function_is_learnt_in_its_own_units_and_always_alike():
    scores = 100 + 10 * np.sin(4 * LINE[:, 0])
    one, two = (Surrogate(LINE, scores) for _ in range(2))
    between = LINE[:-1] + 0.1
    mean, std = one.predict(between)
    assert one.status == "fitted"
    assert mean == pytest.approx(100 + 10 * np.sin(4 * between[:, 0]), abs=1.0)
    assert (std < 2).all()
    assert (mean == two.predict(between)[0]).all()
    far = one.predict(np.array([[5.0]]))[1]
    assert far > 3 * std.max()


def test_errors_of_scores_are_noise():
    scores = [1.0, 3.0, 1.0, 3.0, 1.0, 3.0]
    _, sure = Surrogate(LINE, scores, np.full(6, 1e-6), fit=False).predict(LINE)
    _, vague = Surrogate(LINE, scores, np.full(6, 2.0), fit=False).predict(LINE)
    assert vague.min() > 2 * sure.max()


@pytest.mark.parametrize(
    ("scores", "status"),
    [
        ([], "prior"),
        ([math.nan, math.inf], "prior"),
        ([2.0], "kernel as given"),
        ([2.0, 2.0, 2.0], "kernel as given"),
        ([2.0, math.nan], "kernel as given"),
        ([2.0, 3.0], "fitted"),
    ],
)
def test_what_cannot_be_fitted_falls_back_and_says_so(scores, status):
    surrogate = Surrogate(LINE[: len(scores)], scores)
    assert surrogate.status == status
    mean, std = surrogate.predict(LINE)
    assert np.isfinite([mean, std]).all()
    assert std.max() > 0


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_kernel_that_is_no_covariance_falls_back():
    from sklearn.gaussian_process.kernels import ConstantKernel

    surrogate = Surrogate(LINE, np.arange(6.0), kernel=ConstantKernel(-1.0, "fixed"))
    assert surrogate.status == "prior"
    assert surrogate.predict(LINE)[0] == pytest.approx(np.full(6, 2.5))


def test_equal_points_with_different_scores_are_noise():
    surrogate = Surrogate(np.zeros((4, 1)), [1.0, 2.0, 3.0, 4.0])
    assert surrogate.predict(np.zeros((1, 1)))[0] == pytest.approx([2.5], abs=0.1)


def test_lost_scores_count_as_the_worst_and_more():
    surrogate = Surrogate(LINE[:3], [1.0, 3.0, math.inf])
    assert surrogate.scores == pytest.approx([1.0, 3.0, 4.0])


def test_what_is_believed_makes_sure_and_moves_nothing():
    surrogate = Surrogate(LINE, np.sin(4 * LINE[:, 0]))
    at = np.array([[1.3]])
    believing = surrogate.believing(at)
    assert believing.predict(at)[0] == pytest.approx(surrogate.predict(at)[0], abs=0.05)
    assert believing.predict(at)[1] < 0.5 * surrogate.predict(at)[1]


def test_joint_holds_what_predict_does():
    surrogate = Surrogate(LINE, np.sin(4 * LINE[:, 0]), kernel=default_kernel(1))
    mean, covariance = surrogate.joint(LINE + 0.07)
    alone, std = surrogate.predict(LINE + 0.07)
    assert mean == pytest.approx(alone)
    assert np.sqrt(np.diag(covariance)) == pytest.approx(std, rel=1e-3)
