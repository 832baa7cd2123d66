"""What `evaluate` may return, and what becomes of it."""

import math

import numpy as np
import pytest
import torch
from loops import INPUTS, LABELS, Loop
from torch import nn
from torch.nn.functional import cross_entropy

from autotune.evaluation import Evaluation, standard_error
from autotune.generators import Generators
from autotune.policies import EarlyStopping, GeneralizationGap
from autotune.records import Probe, Set, TuneError


def evaluated(value):
    evaluation = Evaluation(lambda: value, nn.Linear(2, 2), Generators())
    return evaluation(), evaluation.losses


@pytest.mark.parametrize(
    "value", [0.5, torch.tensor(0.5), np.float32(0.5), np.array(0.5), torch.tensor([0.5])]
)
def test_one_loss_has_no_error(value):
    metrics, losses = evaluated(value)
    assert metrics == {"validation/loss": 0.5}
    assert losses == ()


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor])
def test_single_losses_count_as_their_mean_with_its_standard_error(make):
    single = [1.0, 2.0, 4.0, 5.0]
    for value in (make(single), {"loss": make(single), "train/loss": 0.5}):
        metrics, losses = evaluated(value)
        assert metrics["validation/loss"] == 3.0
        assert metrics["validation/loss_error"] == pytest.approx(np.std(single, ddof=1) / 2)
        assert losses == tuple(single)


def test_what_is_not_finite_is_a_value_like_others():
    metrics, _ = evaluated([1.0, math.nan])
    assert math.isnan(metrics["validation/loss"])
    assert math.isnan(metrics["validation/loss_error"])
    assert evaluated([1.0, math.inf])[0]["validation/loss"] == math.inf


def test_training_losses_stand_first_and_other_metrics_have_no_error():
    metrics, _ = evaluated({"loss": [1.0, 2.0], "accuracy": [0.0, 1.0], "train/loss": [0.5, 0.7]})
    assert list(metrics) == ["train/loss", "validation/accuracy", "validation/loss", "validation/loss_error"]
    assert metrics["train/loss"] == pytest.approx(0.6)
    assert metrics["validation/accuracy"] == 0.5


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"accuracy": 0.5}, ["a"], [[1.0, 2.0], [3.0, 4.0]], torch.zeros(0), torch.ones(2, 2)],
)
def test_what_is_no_loss_is_refused(value):
    with pytest.raises(TuneError, match="got"):
        evaluated(value)


def test_the_losses_are_those_of_the_last_evaluation():
    values = iter(([1.0, 2.0], 3.0))
    evaluation = Evaluation(lambda: next(values), nn.Linear(2, 2), Generators())
    evaluation()
    assert evaluation.losses == (1.0, 2.0)
    evaluation()
    assert evaluation.losses == ()


def test_the_standard_error_of_one_value_is_not_known():
    assert math.isnan(standard_error([1.0]))
    assert math.isnan(standard_error([]))
    assert standard_error([2.0, 2.0, 2.0]) == 0.0


class Trying:
    """Tries two rates at the start."""

    name, requires, controls = "trying", (), ("lr",)

    def __init__(self, **fields):
        self.seen, self.fields = [], fields

    def decide(self, observation):
        self.seen.append(observation)
        if observation.spent:
            return []
        return [Probe(10, (Set("lr", rate, reason=""),), reason="?", **self.fields) for rate in (1e-3, 3e-2)]

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def singles(loop):
    loop.model.eval()
    with torch.no_grad():
        return cross_entropy(loop.model(INPUTS), LABELS, reduction="none")


def run(tmp_path, *policies, steps=80, evaluate=singles):
    loop = Loop()
    settings = {"policies": policies, "total_steps": steps, "evaluate": lambda: evaluate(loop)}
    with loop.tuner(tmp_path, **settings) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    assert not tuner._engine.panel.benched
    return loop, tuner


def test_trials_are_told_their_single_losses_and_the_run_its_error(tmp_path):
    trying = Trying()
    _, tuner = run(tmp_path, trying, EarlyStopping(patience=None))
    low, high = next(o for o in trying.seen if o.trials).trials.values()
    for trial in (low, high):
        assert len(trial.losses) == len(LABELS)
        assert trial.score == pytest.approx(sum(trial.losses) / len(trial.losses))
        assert trial.error == pytest.approx(np.std(trial.losses, ddof=1) / math.sqrt(len(LABELS)))
    paired = np.std(np.subtract(low.losses, high.losses), ddof=1) / math.sqrt(len(LABELS))
    assert paired < math.hypot(low.error, high.error), "the same examples: their difference is better known"
    error, loss = (tuner.signals[name] for name in ("validation/loss_error", "validation/loss"))
    assert list(error.spent) == list(loss.spent)
    assert (error.value > 0).all()


def test_the_gap_of_the_sensor_serves_where_no_training_loss_is_evaluated(tmp_path):
    gap = GeneralizationGap(weight_decay="lr", dropout=None)  # any hyperparameter: that it can judge
    _, tuner = run(tmp_path, gap, steps=200, evaluate=lambda loop: singles(loop).mean())
    assert "train/loss" not in tuner.signals
    measured = tuner.signals["generalization_gap"]
    assert len(measured) >= 20
    assert gap.state_dict()["seen"] >= 180, "it has looked at the newest evaluations"
