import math

import torch
from torch import nn

from autotune.sensors import GradientNorm, NonFinite


def gradients(model, *values):
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.grad = None if value is None else torch.full_like(parameter, value)


def test_global_and_per_group_equal_torch(bench):
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    b = bench(model, optimizer, [GradientNorm()], every=1)
    model(torch.randn(7, 20)).square().sum().backward()
    optimizer.step()
    norm = nn.utils.get_total_norm
    got = b.collect()
    assert set(got) == {"gradient_norm", "gradient_norm/0", "gradient_norm/2"} == b.instruments.signals
    assert math.isclose(got["gradient_norm"], norm([p.grad for p in model.parameters()]), rel_tol=1e-6)
    for group in ("0", "2"):
        expected = norm([p.grad for p in model.get_submodule(group).parameters()])
        assert math.isclose(got[f"gradient_norm/{group}"], expected, rel_tol=1e-6)


def test_nan_and_infinity_stay_in_their_group_and_are_counted(bench):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    b = bench(model, optimizer, [GradientNorm(), NonFinite()], every=1)
    gradients(model, math.nan, 1.0, math.inf, 1.0, 3.0, 4.0)
    model[0].weight.grad.view(-1)[1:] = 0.0  # one element is enough
    optimizer.step()
    got = b.collect()
    assert math.isnan(got["gradient_norm"])
    assert math.isnan(got["gradient_norm/0"])
    assert got["gradient_norm/1"] == math.inf
    assert math.isclose(got["gradient_norm/2"], math.sqrt(4 * 9 + 2 * 16), rel_tol=1e-6)
    assert got["nonfinite"] == 2


def test_parameters_without_gradient_or_not_held_do_not_count(bench):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[1].parameters()], lr=0.0)
    b = bench(model, optimizer, [GradientNorm(), NonFinite()], every=1)
    gradients(model, 1.0, None, None, None, math.nan, math.nan)
    optimizer.step()
    got = b.collect()
    assert got == {"gradient_norm": 2.0, "gradient_norm/0": 2.0, "nonfinite": 0.0}
    optimizer.zero_grad()
    optimizer.step()  # no gradient at all: nothing to say
    assert b.collect() == got
    optimizer.add_param_group({"params": list(model[2].parameters())})
    gradients(model, None, None, None, None, 1.0, None)
    optimizer.step()  # unfrozen in mid-run
    assert b.collect()["gradient_norm/2"] == 2.0


def test_dtypes_and_layouts_in_one_model(bench):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.low = nn.Parameter(torch.randn(500, 500).bfloat16())
            self.high = nn.Parameter(torch.randn(40).double())
            self.waves = nn.Parameter(torch.randn(40, dtype=torch.complex64))
            self.embedding = nn.Embedding(10, 4, sparse=True)
            self.last = nn.Linear(3, 3)

    model = Mixed()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    b = bench(model, optimizer, [GradientNorm()], every=1)
    loss = model.low.float().square().sum() + model.high.square().sum() + model.waves.abs().square().sum()
    loss = loss + model.embedding(torch.tensor([3, 3, 5])).square().sum() + model.last(torch.ones(3)).sum()
    loss.backward()
    dense = [p.grad.to_dense().to(torch.complex128) for p in model.parameters()]
    optimizer.step()
    expected = math.sqrt(sum(float(g.abs().square().sum()) for g in dense))
    assert math.isclose(b.collect()["gradient_norm"], expected, rel_tol=1e-5)


def test_half_precision_does_not_overflow_in_the_sum(bench):
    model = nn.Linear(300, 300, dtype=torch.float16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    b = bench(model, optimizer, [GradientNorm(), NonFinite()], every=1)
    gradients(model, 1000.0, 1000.0)
    optimizer.step()
    got = b.collect()
    assert math.isclose(got["gradient_norm"], 1000 * math.sqrt(300 * 301), rel_tol=1e-4)
    assert got["nonfinite"] == 0
