from itertools import pairwise

import numpy as np
import pytest
import torch

from autotune import AutoTuner
from autotune.actuators import learning_rate
from autotune.policies.update_ratio import UpdateRatio
from autotune.records import Policy, Ramp, Release, Rewind, Set, TuneError
from autotune.testing import Simulation, TrainingPlant

ADA = "human:ada"
RATES = {"sgd": 0.05, "adam": 2e-3}  # of the order of the best one


def plant(optimizer, factor, **changes):
    return TrainingPlant(optimizer=optimizer, rate=factor * RATES[optimizer], seed=1000, **changes)


def run(plant, policy=None, **arguments):
    simulation = Simulation(plant, [policy or UpdateRatio()], **{"budget": 1000, **arguments})
    return simulation.run(1000)


def test_it_is_a_policy():
    policy = UpdateRatio({"head": "lr/1", "body": "lr/0"}, name="band")
    assert isinstance(policy, Policy)
    assert policy.name == "band"
    assert (policy.requires, policy.controls) == (
        ("update_ratio/head", "update_ratio/body"),
        ("lr/1", "lr/0"),
    )
    assert UpdateRatio().requires == ("update_ratio",)


@pytest.mark.parametrize("rates", ["", {}, {"head": "lr", "body": "lr"}])
def test_rates_that_make_no_sense_are_refused(rates):
    with pytest.raises(TuneError, match="got"):
        UpdateRatio(rates)


@pytest.mark.parametrize("optimizer", RATES)
@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
def test_a_rate_that_is_about_right_is_left_alone_to_the_end(optimizer, factor):
    assert run(plant(optimizer, factor)).decisions == ()


@pytest.mark.parametrize("optimizer", RATES)
def test_a_rate_that_is_far_too_low_is_raised_to_the_edge_and_no_further(optimizer):
    simulation = run(plant(optimizer, 1e-4))
    moves = [d.after["lr"] / d.before["lr"] for d in simulation.decisions]
    assert len(moves) >= 2
    assert all(1 < move <= 10.001 for move in moves)
    assert simulation["lr"] < RATES[optimizer]
    assert simulation["lr"] > 0.01 * RATES[optimizer]
    assert all(b.spent - a.spent >= 50 for a, b in pairwise(simulation.decisions))


def test_a_rate_that_is_far_too_high_is_lowered_at_once():
    simulation = run(plant("adam", 1e4))
    first = simulation.decisions[0]
    assert first.spent <= 20
    assert first.before["lr"] / 10.001 < first.after["lr"] < first.before["lr"] / 3
    ratio = [value for _, _, value in simulation.values["update_ratio"]]
    assert np.median(ratio[-20:]) < 0.3


def test_without_a_budget_only_hopeless_rates_are_raised():
    assert run(plant("adam", 0.01), budget=None).decisions == ()
    assert run(plant("adam", 1e-5), budget=None).decisions


def test_a_decay_by_another_is_not_fought():
    simulation = Simulation(plant("adam", 1), [UpdateRatio()], budget=1000).run(200)
    simulation.submit(Ramp("lr", 1e-6, 500, "exponential", reason="cool-down"), ADA)
    simulation.run(520)
    simulation.submit(Release("lr", reason="done"), ADA)
    simulation.run()
    assert simulation["lr"] == pytest.approx(1e-6)
    assert moves(simulation) == []


@pytest.mark.parametrize("what", ["set", "rewind"])
def test_once_anyone_else_has_acted_the_rate_is_never_raised(what):
    simulation = Simulation(plant("adam", 1e-4), [UpdateRatio()], budget=1000).run(20)
    if what == "rewind":
        simulation.submit(Rewind(0, reason="by hand"), ADA)
    else:
        simulation.submit(Set("lr", simulation["lr"] / 2, reason="by hand"), ADA)
        simulation.submit(Release("lr", reason="done"), ADA)
    simulation.run()
    assert moves(simulation) == []


def test_what_is_not_done_is_asked_for_on_new_evidence_only():
    asked = [d.spent for d in run(plant("adam", 1e-4), suggest=True).decisions]
    assert len(asked) > 2
    assert all(later - earlier >= 50 for earlier, later in pairwise(asked))


def test_layer_groups_have_rates_of_their_own(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(8, 32), "head": torch.nn.Linear(32, 2)})
    optimizer = torch.optim.AdamW(
        [
            {"params": model["body"].parameters(), "lr": 1e-3},
            {"params": model["head"].parameters(), "lr": 1e-8},
        ]
    )
    rates = [learning_rate(optimizer, group=i) for i in range(2)]
    policy = UpdateRatio({"body": "lr/0", "head": "lr/1"})
    with AutoTuner(
        model,
        optimizer,
        hyperparameters=rates,
        policies=[policy],
        total_steps=200,
        folder=tmp_path / "run",
        mlflow=False,
    ) as tuner:
        for inputs in tuner.batches([torch.randn(16, 8)] * 4):
            loss = model["head"](model["body"](inputs).relu()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tuner.report(loss=loss)
    assert {d.action.name for d in tuner.decisions} == {"lr/1"}
    assert rates[0]() == 1e-3
    assert rates[1]() > 1e-6


def moves(simulation):
    return [d for d in simulation.decisions if d.source == "update_ratio"]
