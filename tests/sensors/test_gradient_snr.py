import math

import pytest
import torch
from torch import nn

from autotune.sensors import GradientSNR


def feed(bench, gradients, sensor=None, size=400):
    """Steps an optimizer with these gradients of a single tensor and returns what was measured."""
    model = nn.Linear(size, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    b = bench(model, optimizer, [sensor or GradientSNR()], every=1)
    for gradient in gradients:
        model.weight.grad = gradient.view(1, -1)
        optimizer.step()
    return b, b.values("gradient_snr")


def reference(gradients, decay):
    """The docstring's definition, with all weights written out."""
    g = torch.stack(gradients).double()
    weights = decay ** torch.arange(len(g) - 1, -1, -1, dtype=torch.float64)
    weights /= weights.sum()
    r = weights.square().sum()
    mean = (weights[:, None] * g).sum(0)
    variance = (weights[:, None] * (g - mean).square()).sum() / (1 - r)
    return float((mean.square().sum() - r * variance).clamp(min=0) / variance)


def test_equals_the_plain_definition(bench):
    gradients = [torch.randn(400) + 0.5 * torch.sin(torch.arange(400) + i / 5) for i in range(40)]
    _, values = feed(bench, gradients)
    assert len(values) == 39  # from the second on
    assert values == pytest.approx([reference(gradients[:n], 0.95) for n in range(2, 41)], rel=1e-3)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0, 100.0])
def test_a_known_ratio_is_found_in_a_large_tensor(bench, ratio):
    size = 50_000
    signal = torch.randn(size) * math.sqrt(ratio)
    _, values = feed(bench, [signal + torch.randn(size) for _ in range(60)], size=size)
    assert values[-1] == pytest.approx(ratio, rel=0.1, abs=0.01)


def test_a_step_that_is_not_finite_reads_nan_and_leaves_the_averages_alone(bench):
    gradients = [1 + torch.randn(400) for _ in range(20)]
    broken = gradients[0].clone()
    broken[7] = math.inf
    _, values = feed(bench, [*gradients[:10], broken, *gradients[10:]])
    assert math.isnan(values[9])
    _, expected = feed(bench, gradients)
    assert values[:9] + values[10:] == expected


def test_a_missing_gradient_counts_as_zero_and_a_sparse_one_is_left_out(bench):
    model = nn.ModuleDict({"a": nn.Linear(9, 1, bias=False), "e": nn.Embedding(9, 2, sparse=True)})
    model["b"] = nn.Linear(9, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    b = bench(model, optimizer, [GradientSNR()], every=1)
    gradients = []
    for i in range(8):
        optimizer.zero_grad()
        loss = (model["a"].weight * torch.randn(9)).sum() + model["e"](torch.tensor([i])).sum()
        if i % 2:
            loss = loss + model["b"].weight.sum()
        loss.backward()
        b_gradient = model["b"].weight.grad if i % 2 else torch.zeros(1, 9)
        gradients.append(torch.cat([model["a"].weight.grad, b_gradient], 1)[0])
        optimizer.step()
    assert b.values("gradient_snr")[-1] == pytest.approx(reference(gradients, 0.95), rel=1e-3, abs=1e-6)


def test_state_can_be_loaded_any_number_of_times(bench):
    gradients = [1 + torch.randn(400) for _ in range(20)]
    _, expected = feed(bench, gradients)
    b, _ = feed(bench, gradients[:10])
    state = b.instruments.state_dict()
    for _ in range(2):
        model = nn.Linear(400, 1, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        again = bench(model, optimizer, [GradientSNR()], every=1)
        again.instruments.load_state_dict(state)
        for gradient in gradients[10:]:
            model.weight.grad = gradient.view(1, -1)
            optimizer.step()
        assert again.values("gradient_snr") == expected[9:]
