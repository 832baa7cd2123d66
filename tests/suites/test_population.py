"""Populations: what a member hands on is exact, so that what is found can be replayed by anyone."""

import random
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import ray
import torch

from autotune.benchmarks.suites.arms import Baseline
from autotune.benchmarks.suites.baseline import DECADES, search, winner
from autotune.benchmarks.suites.member import Member
from autotune.benchmarks.suites.results import Config, Trial
from autotune.benchmarks.suites.run import execute
from autotune.benchmarks.suites.tried import SEARCH_SEED
from autotune.benchmarks.workloads.digits_mlp import DigitsMLP
from autotune.records import TuneError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # members cannot import this file
CPU = torch.device("cpu")
STEPS = 3


class Dropped(torch.nn.Dropout):
    """An activation that draws random numbers."""

    def __init__(self):
        super().__init__(0.3)


@dataclass(frozen=True)
class Broken(DigitsMLP):
    def begin(self, seed, device):
        raise ValueError("no data here")


def workload():
    return DigitsMLP(steps=30, activation=Dropped)


def weights(member):
    return torch.nn.utils.parameters_to_vector(member._training.model.parameters())


def test_a_member_goes_on_elsewhere_as_if_nothing_had_happened(tmp_path):
    whole, begun = Member(workload(), CPU), Member(workload(), CPU)
    whole.begin()
    whole.advance(10, 1e-2, 0.0)
    whole.advance(30, 1e-3, 0.1)

    begun.begin()
    begun.advance(10, 1e-2, 0.0)
    begun.save(tmp_path / "state")
    for behind in (True, False):
        other = Member(workload(), CPU)
        other.advance(4 if behind else 20, 1.0, 0.0)
        other.load(tmp_path / "state")
        other.advance(30, 1e-3, 0.1)
        assert torch.equal(weights(other), weights(whole))
        assert (other.pieces, other.curve) == (whole.pieces, whole.curve)


def test_a_line_of_descent_is_replayed_by_its_pieces(tmp_path):
    donor, copy = Member(workload(), CPU), Member(workload(), CPU)
    donor.begin()
    donor.advance(10, 1e-2, 0.0)
    donor.save(tmp_path / "state")
    copy.advance(10, 1.0, 0.1)
    copy.load(tmp_path / "state")
    copy.advance(20, 3e-3, 1e-2)
    copy.advance(30, 3e-3, 1e-2)
    assert copy.pieces == [(0.0, 1e-2, 0.0), (10 / 30, 3e-3, 1e-2)]
    assert [spent for spent, _ in copy.curve] == [0, 10, 20, 30]


def checked(trials, members):
    assert len(trials) == members
    for trial in trials:
        starts = [part for part, _, _ in trial.config.pieces]
        assert starts == sorted(set(starts)), "a piece has steps"
        assert [spent for spent, _ in trial.curve] == list(range(STEPS + 1))
        assert trial.spent == STEPS
        assert not trial.pruned
        replayed = execute(DigitsMLP(steps=STEPS), Baseline(), trial.config, SEARCH_SEED, 1.0, CPU)
        assert trial.loss == pytest.approx(replayed.selection, rel=1e-4), "its pieces say how it was trained"
    first = [trial.config.pieces[0][1] for trial in trials]
    assert all(10**-DECADES <= rate / DigitsMLP().rate <= 10**DECADES for rate in first)
    assert winner(trials) == min(trials, key=lambda trial: trial.loss).config


def test_a_population_evolves_in_a_ray_of_its_own():
    before, kept = (random.getstate(), np.random.get_state()[1].tolist()), []
    trials = search(DigitsMLP(steps=STEPS), "pbt", 4, CPU, keep=kept.append)
    assert not ray.is_initialized()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert kept == list(trials)
    checked(trials[:4], 4)
    assert any(len(trial.config.pieces) > 1 for trial in trials), "some have copied others"
    assert search(DigitsMLP(steps=STEPS), "pbt", 4, CPU, trials, kept.append) == trials
    assert len(kept) == len(trials), "what is there whole is not trained again"


@pytest.fixture
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_bandit_joins_the_cluster_that_there_is_and_known_members_stay(cluster):
    known, kept = (Trial(Config(0.1), 0.5, STEPS),), []
    trials = search(DigitsMLP(steps=STEPS), "pb2", 4, CPU, known, kept.append)
    assert ray.is_initialized()
    assert trials == (*known, *kept)
    checked(trials[1:4], 3)
    with pytest.raises(TuneError, match="no data here"):
        search(Broken(steps=STEPS), "pb2", 4, CPU)


def test_what_a_population_refuses():
    with pytest.raises(TuneError, match="at least 4 members, got 3 trials"):
        search(DigitsMLP(), "pbt", 3, CPU)


def test_without_ray_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TuneError, match=r"autotune-torch\[ray\]"):
        search(DigitsMLP(), "pbt", 4, CPU)
