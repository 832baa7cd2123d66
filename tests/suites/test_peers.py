"""Each peer is the loop that its README shows, and pays for what it looks at."""

import copy
import itertools
import sys
from dataclasses import dataclass

import dadaptation
import prodigyopt
import pytest
import schedulefree
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.optim.swa_utils import update_bn
from watched import named, watch

from autotune.benchmarks.suites.peers import BATCHES, PEERS
from autotune.benchmarks.suites.results import Config
from autotune.benchmarks.suites.run import BudgetSpent, Run, execute
from autotune.benchmarks.workloads.digits_mlp import DigitsMLP
from autotune.benchmarks.workloads.supervised import Supervised
from autotune.records import TuneError

CPU = torch.device("cpu")
STEPS = 60
SGD_DIGITS, ADAMW_DIGITS = DigitsMLP("sgd", 0.1, steps=STEPS), DigitsMLP("adamw", steps=STEPS)
RMSPROP_DIGITS = DigitsMLP("rmsprop", steps=STEPS)


def plain(workload, make, schedule=None):
    """The test loss after a loop without `Run`."""
    training = workload.begin(0, CPU)
    optimizer = make(training.model.parameters())
    scheduler = schedule(optimizer) if schedule else None
    step = 0
    while step < STEPS:
        for inputs, targets in training.batches:
            optimizer.zero_grad()
            cross_entropy(training.model(inputs), targets).backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
            step += 1
            if step == STEPS:
                break
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    return training.evaluate("test")


def annealed(optimizer):
    return CosineAnnealingLR(optimizer, T_max=STEPS)


def one_cycle(optimizer, **settings):
    return OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], total_steps=STEPS, **settings)


def free(optimizer):
    optimizer.train()


LOOPS = [
    ("OneCycleLR", SGD_DIGITS, lambda p: SGD(p, 0.1, momentum=0.9), one_cycle),
    ("OneCycleLR", ADAMW_DIGITS, lambda p: AdamW(p, 1e-3), one_cycle),
    (
        "OneCycleLR",
        RMSPROP_DIGITS,
        lambda p: RMSprop(p, 1e-3),
        lambda o: one_cycle(o, cycle_momentum=False),
    ),
    ("schedule-free", SGD_DIGITS, lambda p: schedulefree.SGDScheduleFree(p, 1.0, warmup_steps=2), free),
    (
        "schedule-free",
        ADAMW_DIGITS,
        lambda p: schedulefree.AdamWScheduleFree(p, 1e-3, weight_decay=0.01, warmup_steps=2),
        free,
    ),
    (
        "schedule-free",
        RMSPROP_DIGITS,
        lambda p: schedulefree.AdamWScheduleFree(p, 1e-3, warmup_steps=2),
        free,
    ),
    ("Prodigy", SGD_DIGITS, prodigyopt.Prodigy, annealed),
    ("Prodigy", ADAMW_DIGITS, lambda p: prodigyopt.Prodigy(p, weight_decay=0.01), annealed),
    ("D-Adaptation", SGD_DIGITS, lambda p: dadaptation.DAdaptSGD(p, momentum=0.9), annealed),
    (
        "D-Adaptation",
        ADAMW_DIGITS,
        lambda p: dadaptation.DAdaptAdam(p, weight_decay=0.01, decouple=True),
        annealed,
    ),
    ("D-Adaptation", RMSPROP_DIGITS, dadaptation.DAdaptAdam, annealed),
]


@pytest.mark.parametrize(
    ("name", "workload", "make", "schedule"), LOOPS, ids=[f"{n} {w.name}" for n, w, _, _ in LOOPS]
)
def test_a_peer_is_the_loop_of_its_readme(name, workload, make, schedule):
    expected = plain(workload, make, schedule)
    outcome = execute(workload, named(name), Config(workload.rate, "linear", 0.7), 0, 1.0, CPU)
    assert outcome.final == pytest.approx(expected, rel=1e-5)
    assert outcome.steps == outcome.spent == STEPS
    assert expected < 2.3, "it has learned something, so that equality means something"


@dataclass
class Custom:
    """A workload whose optimizer is not one of the usual ones."""

    make: object
    name: str = "custom"
    steps: int = STEPS

    def begin(self, seed, device):
        training = ADAMW_DIGITS.begin(seed, device)
        training.optimizer = lambda rate, weight_decay=None: self.make(training.model, rate)
        return training


def groups(model, rate):
    decayed, plain = [], []
    for parameter in model.parameters():
        (decayed if parameter.ndim > 1 else plain).append(parameter)
    settings = [{"params": decayed, "weight_decay": 0.2}, {"params": plain, "weight_decay": 0.0}]
    return Adam(settings, lr=rate, betas=(0.8, 0.95))


@pytest.mark.parametrize("name", ["schedule-free", "Prodigy", "D-Adaptation"])
def test_weight_decay_and_momenta_are_the_workloads(name):
    run = Run(Custom(groups).begin(0, CPU), STEPS)
    named(name).begin(run, 1e-3)
    found = run.optimizer.param_groups
    assert type(run.optimizer).__module__.split(".")[0] in ("schedulefree", "prodigyopt", "dadaptation")
    assert [group["weight_decay"] for group in found] == [0.2, 0.0]
    assert [group["betas"] for group in found] == [(0.8, 0.95)] * 2
    assert [group.get("decouple", False) for group in found] == [False] * 2, "Adam's decay is a penalty"
    assert [len(group["params"]) for group in found] == [3, 3]


def rate_at_looks(name, factor):
    outcome, _ = watch(named(name), factor=factor)
    return [look.rate for look in outcome.looks[1:]]


def test_reduce_lr_on_plateau_reduces_and_greedy_lr_moves_both_ways():
    assert set(rate_at_looks("ReduceLROnPlateau", 1.0)) == {3e-3}
    reduced = rate_at_looks("ReduceLROnPlateau", 100.0)
    assert reduced[0] == pytest.approx(0.3)
    assert reduced[-1] == pytest.approx(0.03)
    low, high = rate_at_looks("GreedyLR", 1e-3), rate_at_looks("GreedyLR", 100.0)
    assert low[-1] == pytest.approx(3e-6 / 0.9**5)
    assert high[-1] < high[0]


def test_greedy_lr_reduces_rates_below_its_default_minimum():
    training, losses = ADAMW_DIGITS.begin(0, CPU), itertools.count(1.0)
    training.evaluate, training.probe_cost = lambda part: next(losses), 0.1
    run = Run(training, STEPS)
    with pytest.raises(BudgetSpent):
        named("GreedyLR").train(run, Config(1e-5))
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(1e-5 * 0.9**6)


@pytest.mark.parametrize("name", ["ReduceLROnPlateau", "GreedyLR"])
def test_a_peer_that_looks_at_the_probe_pays_for_it(name):
    outcome, watched = watch(named(name))
    looked = watched.evaluated["probe"]
    assert looked == 16
    assert outcome.steps == outcome.allowed - looked * watched.training.probe_cost == 96


class Noise:
    """Digits, with BatchNorm and dropout."""

    name, steps = "noise", STEPS

    def begin(self, seed, device):
        of_digits = ADAMW_DIGITS.begin(seed, device)
        torch.manual_seed(seed)
        layers = nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)
        model = nn.Sequential(*layers)
        return Supervised(model, of_digits.batches, of_digits.parts, "adamw", 0.01)


def test_schedule_free_measures_the_statistics_of_batchnorm_again_at_the_averaged_weights():
    training, seen = Noise().begin(0, CPU), []
    run, loss = Run(training, STEPS), training.loss
    training.loss = lambda batch: seen.append(batch) or loss(batch)
    with pytest.raises(BudgetSpent):
        named("schedule-free").train(run, Config(1e-2))
    statistics = training.model[1].running_mean.clone()
    outcome = run.outcome()
    assert outcome.steps == len(seen) == STEPS - -(-BATCHES // 3)
    assert outcome.spent == pytest.approx(outcome.steps + BATCHES / 3)
    averaged = copy.deepcopy(training.model)
    run.optimizer.eval()
    averaged.load_state_dict(training.model.state_dict())
    update_bn(seen[-BATCHES:], averaged)
    training.model.load_state_dict(averaged.state_dict())
    assert training.evaluate("test") == pytest.approx(outcome.final, rel=1e-6)
    assert (training.model[1].running_mean - statistics).abs().max() > 1e-3, "the same as before"


def test_measuring_statistics_again_draws_no_random_numbers():
    run = Run(Noise().begin(0, CPU), STEPS)
    named("schedule-free").begin(run, 1e-2)
    for _, batch in zip(range(5), run.endless(), strict=False):
        run.train(batch)
    before, statistics = torch.get_rng_state(), run.model[1].running_mean.clone()
    run.probe()
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(run.model[1].running_mean, statistics)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("schedule-free", "schedulefree"),
        ("Prodigy", "prodigyopt"),
        ("D-Adaptation", "dadaptation"),
        ("GreedyLR", "transformers.optimization"),
    ],
)
def test_a_package_that_is_not_there_is_named_with_its_remedy(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TuneError, match=rf"{package}.*pip install 'autotune-torch\[bench\]'"):
        execute(ADAMW_DIGITS, named(name), Config(1e-3), 0, 1.0, CPU)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_prints_nothing(peer, capsys):
    execute(DigitsMLP(steps=5), peer, Config(1e-3), 0, 1.0, CPU)
    assert capsys.readouterr().out == ""
