"""Searches: what they try, what they count, and that an interrupted one goes on where it was."""

import dataclasses
import itertools
import math
import sys
from dataclasses import dataclass, field

import pytest
import torch

from autotune.benchmarks.suites.arms import SCHEDULES
from autotune.benchmarks.suites.baseline import (
    DECADES,
    DECAYS,
    FINALISTS,
    GRID,
    REPEATS,
    STRIDES,
    search,
    winner,
)
from autotune.benchmarks.suites.results import Config, Trial, pack, trial_from
from autotune.benchmarks.suites.tried import SEARCH_SEED
from autotune.benchmarks.workloads.teacher_student import TeacherStudent
from autotune.records import TuneError

CPU = torch.device("cpu")
METHODS = ("grid", "random", "tpe", "asha", "hyperband", "top_of_k")
PRUNING = ("asha", "hyperband")
every_method = pytest.mark.parametrize("method", METHODS)


@dataclass(frozen=True)
class Counted:
    """A workload that notes seeds and steps."""

    steps: int = 30
    rate: float = 0.03
    epoch: int = 62
    name: str = "counted"
    target: float = 0.1
    seeds: list = field(default_factory=list, compare=False)
    taken: list = field(default_factory=list, compare=False)

    def begin(self, seed, device):
        self.seeds.append(seed)
        training = TeacherStudent(steps=self.steps).begin(seed, device)
        update = training.update

        def counted(loss, optimizer):
            self.taken.append(optimizer.param_groups[0]["lr"])
            update(loss, optimizer)

        training.update = counted
        return training


def without_finals(trials):
    """What was tried before the best were run again."""
    first = {}
    for trial in trials:
        first.setdefault((trial.config, trial.pruned), trial)
    return tuple(first.values())


class Killed(Exception):
    pass


def interrupted(workload, method, trials, after):
    """What was kept when a search ended in the middle of its next trial."""
    kept = []

    def keep(trial):
        if len(kept) == after:
            raise Killed
        kept.append(trial_from(pack(trial)))

    with pytest.raises(Killed):
        search(workload, method, trials, CPU, keep=keep)
    return kept


@every_method
def test_a_search_counts_what_it_spends_under_a_seed_of_its_own(method):
    workload, kept = Counted(), []
    trials = search(workload, method, 6, CPU, keep=kept.append)
    assert kept == list(trials)
    assert sum(trial.spent for trial in trials) == len(workload.taken)
    assert set(workload.seeds) == {SEARCH_SEED + i for i in range(REPEATS + 1)}
    assert SEARCH_SEED > 1000
    for trial in trials:
        assert trial.config.schedule in SCHEDULES
        assert trial.config.weight_decay in DECAYS
        assert trial.pruned or trial.spent == workload.steps or trial.loss == trial.curve[0][1]
        assert 0 < trial.loss <= trial.curve[0][1]


@every_method
@pytest.mark.parametrize("after", [1, 7])
def test_an_interrupted_search_goes_on_where_it_was(method, after):
    workload, trials = Counted(rate=0.003), 9
    whole = search(workload, method, trials, CPU)
    known = interrupted(workload, method, trials, after)
    assert known == list(whole[:after])
    new = []
    assert search(workload, method, trials, CPU, known, new.append) == whole
    assert new == list(whole[after:]), "what is known is not run again"


@every_method
def test_known_trials_of_another_search_are_refused(method):
    workload = Counted()
    whole = search(workload, method, 6, CPU)
    with pytest.raises(TuneError, match="known trials belong to the same search"):
        search(Counted(rate=0.05), method, 6, CPU, whole[:2])
    with pytest.raises(TuneError, match="known trials belong to the same search"):
        search(workload, method, 6, CPU, (*whole, whole[0]))


@pytest.mark.parametrize("method", PRUNING)
def test_pruned_trials_cost_less_and_a_replay_prunes_alike(method):
    workload = Counted()
    trials = search(workload, method, 20, CPU)
    assert sum(trial.spent for trial in trials[:20]) < 0.7 * 20 * workload.steps
    pruned = next(i for i, trial in enumerate(trials) if trial.pruned)
    assert trials[pruned].spent < workload.steps
    assert trials[pruned].loss == trials[pruned].curve[-1][1]
    longer = (*trials[pruned].curve, (30.0, 0.01))
    known = (*trials[:pruned], dataclasses.replace(trials[pruned], curve=longer, pruned=False))
    with pytest.raises(TuneError, match="after it was pruned"):
        search(workload, method, 20, CPU, known)


def test_the_grid_is_a_factorial_round_the_centre():
    trials = search(Counted(), "grid", 20, CPU)[:21]
    rates = sorted({trial.config.rate for trial in trials})
    assert {(t.config.rate, t.config.schedule) for t in trials} == {(r, s) for r in rates for s in GRID}
    assert len(rates) == 7
    assert rates[3] == pytest.approx(Counted().rate)
    assert {trial.config.weight_decay for trial in trials} == {None}


def test_a_search_looks_everywhere():
    trials = search(Counted(steps=2), "random", 60, CPU)[:60]
    centre = Counted().rate
    assert {trial.config.schedule for trial in trials} == set(SCHEDULES)
    assert {trial.config.weight_decay for trial in trials} == set(DECAYS)
    assert all(10**-DECADES <= trial.config.rate / centre <= 10**DECADES for trial in trials)
    assert min(t.config.rate for t in trials) < centre / 30
    assert max(t.config.rate for t in trials) > centre * 30


def test_the_grid_gets_finer_about_its_winner():
    trials = without_finals(search(Counted(), "grid", 9, CPU))
    centre = winner(trials[:-6]).rate
    finer = [(round(math.log10(t.config.rate / centre), 6), t.config.schedule) for t in trials[-6:]]
    assert set(finer) == set(itertools.product((-0.25, 0.25), ("linear", "cosine", "wsd")))
    assert {t.config.weight_decay for t in trials[-6:]} == {None}


@pytest.mark.parametrize("wrong", [1e-4, 1e4])
@every_method
def test_a_winner_at_an_edge_is_followed_outwards(method, wrong):
    """The best rate lies outside the bracket: other rates are tried beyond the winner's, while it pays."""
    trials = without_finals(search(Counted(rate=0.03 * wrong), method, 9, CPU))
    best, outwards = winner(trials), 1 if wrong < 1 else -1
    further = [trial for trial in trials if (trial.config.rate / best.rate) ** outwards > 1.01]
    on_top = len(trials) - {"grid": 15, "top_of_k": 10}.get(method, 9)
    assert further or on_top == STRIDES
    if method in ("grid", "random", "tpe"):
        proposed = max(trial.config.rate**outwards for trial in trials[:9])
        assert best.rate**outwards > proposed, "the best one was found there"


def test_a_run_that_explodes_ends_where_it_began():
    trials = search(Counted(rate=1e6), "random", 4, CPU)
    assert all(trial.loss == trial.curve[0][1] for trial in trials[:4])
    assert all(loss <= trial.curve[0][1] for trial in trials for _, loss in trial.curve)


def test_the_top_of_k_is_chosen_after_an_epoch_and_run_whole():
    workload = Counted(steps=100, epoch=8)
    trials = search(workload, "top_of_k", 5, CPU)
    short, whole = trials[:5], trials[5]
    assert [trial.spent for trial in short] == [8] * 5
    assert all(trial.pruned for trial in short)
    chosen = min(short, key=lambda trial: trial.loss)
    assert whole.config == chosen.config
    assert (whole.spent, whole.pruned) == (100, False)
    assert whole.curve[: len(chosen.curve)] == chosen.curve, "the same schedule as in the whole run"
    assert search(Counted(steps=100), "top_of_k", 1, CPU)[0].spent == 10, "at most a tenth"


def test_the_winner_is_the_least_loss_among_whole_runs_and_the_lower_rate_on_a_tie():
    trials = [
        Trial(Config(0.1), 0.5, 10),
        Trial(Config(0.01), 0.5, 10),
        Trial(Config(0.001), 0.6, 10),
        Trial(Config(0.0001), 0.1, 2, pruned=True),
    ]
    assert winner(trials) == winner(reversed(trials)) == Config(0.01)
    with pytest.raises(TuneError, match="run whole"):
        winner(trials[3:])


@every_method
def test_the_best_are_run_again_under_other_seeds(method):
    workload = Counted()
    trials = search(workload, method, 9, CPU)
    before = without_finals(trials)
    whole = sorted((trial for trial in before if not trial.pruned), key=lambda trial: trial.loss)[:FINALISTS]
    again = trials[len(before) :]
    assert [t.config for t in again] == [t.config for t in whole for _ in range(REPEATS)]
    assert workload.seeds[-len(again) :] == [SEARCH_SEED + 1, SEARCH_SEED + 2] * len(whole)
    assert all(trial.loss not in {other.loss for other in whole} for trial in again), "another run"
    means = {t.config: sum(a.loss for a in trials if a.config == t.config and not a.pruned) for t in whole}
    assert means[winner(trials)] == min(means.values())


def test_a_lucky_run_does_not_win():
    lucky, steady, once = Config(0.1), Config(0.2), Config(0.3)
    losses = {lucky: (0.1, 0.9, 0.9), steady: (0.3, 0.3, 0.3), once: (0.05,)}
    trials = [Trial(config, loss, 10) for config, found in losses.items() for loss in found]
    assert winner(trials) == steady


def test_of_those_that_reach_the_least_there_is_the_one_that_was_there_first_wins():
    def reached(rate, at):
        return Trial(Config(rate), 1.0, 10, curve=tuple((n, 2.0 if n < at else 1.0) for n in range(10)))

    assert winner([reached(0.1, 9), reached(0.2, 2), reached(0.3, 5)]) == Config(0.2)


def test_what_a_search_refuses():
    with pytest.raises(TuneError, match=r"a search is one of grid, .*got 'sweep'"):
        search(Counted(), "sweep", 4, CPU)
    with pytest.raises(TuneError, match="at least 1 trial, got 0"):
        search(Counted(), "random", 0, CPU)


def test_without_optuna_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(TuneError, match=r"autotune-torch\[bench\]"):
        search(Counted(), "random", 1, CPU)
