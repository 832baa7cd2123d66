import math

import pytest
import torch
from torch import nn

from autotune.sensors import UpdateRatio


def train_once(model, optimizer, inputs):
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    return before, [p.detach() - old for p, old in zip(model.parameters(), before, strict=True)]


def norm(tensors):
    return float(nn.utils.get_total_norm(tensors))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_small_models_are_exact(bench, kind):
    model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5))
    optimizer = kind(model.parameters(), lr=1e-2)
    b = bench(model, optimizer, [UpdateRatio()], every=1)
    before, moved = train_once(model, optimizer, torch.randn(7, 20))
    got = b.collect()
    assert set(got) == {"update_ratio", "update_ratio/0", "update_ratio/2"} == b.instruments.signals
    assert math.isclose(got["update_ratio"], norm(moved) / norm(before), rel_tol=1e-5)
    assert math.isclose(got["update_ratio/0"], norm(moved[:2]) / norm(before[:2]), rel_tol=1e-5)
    assert math.isclose(got["update_ratio/2"], norm(moved[2:]) / norm(before[2:]), rel_tol=1e-5)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_large_models_are_close(bench, kind):
    model = nn.Sequential(nn.Linear(600, 700), nn.Tanh(), nn.Linear(700, 800))
    optimizer = kind(model.parameters(), lr=1e-2)
    b = bench(model, optimizer, [UpdateRatio()], every=1)
    before, moved = train_once(model, optimizer, torch.randn(16, 600))
    assert b.collect()["update_ratio"] == pytest.approx(norm(moved) / norm(before), rel=0.1)


def test_zero_weights(bench):
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    b = bench(model, optimizer, [UpdateRatio()], every=1)
    optimizer.step()
    assert b.collect() == {"update_ratio": 0, "update_ratio/0": 0, "update_ratio/1": 0}
    model[0].weight.grad.fill_(1.0)
    optimizer.step()
    assert b.collect() == {"update_ratio": math.inf, "update_ratio/0": math.inf, "update_ratio/1": 0}


def test_weights_that_become_nan_are_a_signal(bench):
    model = nn.Linear(2, 2)
    model.weight.grad = torch.full_like(model.weight, math.nan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    b = bench(model, optimizer, [UpdateRatio()], every=1)
    optimizer.step()
    assert math.isnan(b.collect()["update_ratio"])


def test_updates_of_doubles_far_below_single_precision_are_seen(bench):
    model = nn.Linear(30, 30, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)
    b = bench(model, optimizer, [UpdateRatio()], every=1)
    before, moved = train_once(model, optimizer, torch.randn(7, 30, dtype=torch.float64))
    assert b.collect()["update_ratio"] == pytest.approx(norm(moved) / norm(before), rel=1e-3)
