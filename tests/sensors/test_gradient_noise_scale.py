import math

import pytest
import torch
from torch import nn

from autotune.sensors import GradientNoiseScale

SIZE = 3000


def accumulate(
    bench, *, n=4, steps=60, divided=True, set_to_none=True, zero_first=True, examples=None, **arguments
):
    """A loop whose micro-batch gradients are a vector of length √SIZE plus normal noise of deviation 2."""
    torch.manual_seed(1)
    model = nn.Linear(SIZE, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    b = bench(model, optimizer, [GradientNoiseScale()], **arguments)
    for _ in range(steps):
        if zero_first:
            optimizer.zero_grad(set_to_none)
        for _ in range(n):
            b.next(examples)
            loss = (model.weight * (1 + 2 * torch.randn(SIZE))).sum() + model.bias.sum()
            (loss / n if divided else loss).backward()
        optimizer.step()
        if not zero_first:
            optimizer.zero_grad(set_to_none)
    return b


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("zero_first", [True, False])
def test_the_known_scale_is_found_however_the_loop_is_written(bench, set_to_none, zero_first):
    b = accumulate(bench, set_to_none=set_to_none, zero_first=zero_first, every=1)
    values = b.values("gradient_noise_scale")
    assert len(values) == 60
    assert values[-1] == pytest.approx(4.0, rel=0.1)  # tr Σ / |G|² = 4 SIZE / SIZE


def test_dividing_the_loss_changes_nothing(bench):
    divided = accumulate(bench, every=1).values("gradient_noise_scale")
    summed = accumulate(bench, every=1, divided=False).values("gradient_noise_scale")
    assert divided == pytest.approx(summed, rel=1e-3)


def test_only_steps_that_are_due_are_measured_and_examples_scale_it(bench):
    b = accumulate(bench, every=10, steps=40, examples=8)
    micro_batches = b.values("gradient_noise_scale")
    assert [s.step for s in b.samples if s.name == "gradient_noise_scale"] == [1, 10, 20, 30, 40]
    assert b.values("gradient_noise_scale/examples") == pytest.approx([8 * v for v in micro_batches])


def test_without_accumulation_there_is_no_signal(bench):
    assert accumulate(bench, n=1, every=1, steps=10).collect() == {}


def test_a_batch_that_the_loop_skips_is_not_taken_for_a_micro_batch(bench):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    b = bench(model, optimizer, [GradientNoiseScale()], every=1)
    for i in range(12):
        b.next()
        if i % 3 == 2:
            continue
        optimizer.zero_grad()
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()
    assert b.collect() == {}


def test_no_signal_is_infinite_and_a_broken_gradient_reads_nan_once(bench):
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    b = bench(model, optimizer, [GradientNoiseScale()], every=1)
    for pair in ([1.0, -1.0], [1.0, math.nan], [1.0, -1.0], [50.0, 50.0]):
        optimizer.zero_grad()
        for slope in pair:
            b.next()
            (slope * model.weight.sum()).backward()
        optimizer.step()
    infinite, broken, still, low = b.values("gradient_noise_scale")
    assert (infinite, still) == (math.inf, math.inf)
    assert math.isnan(broken)
    assert low < 0.01


def test_state_goes_on_where_it_stood(bench):
    b = accumulate(bench, every=1, steps=20)
    state = b.instruments.state_dict()
    expected = accumulate(bench, every=1, steps=20).instruments.state_dict()
    assert torch.equal(
        state["sensors"]["GradientNoiseScale"]["averages"],
        expected["sensors"]["GradientNoiseScale"]["averages"],
    )
    kept = state["sensors"]["GradientNoiseScale"]["averages"].clone()
    other = accumulate(bench, every=1, steps=0)
    for _ in range(2):
        other.instruments.load_state_dict(state)
        restored = other.instruments.state_dict()["sensors"]["GradientNoiseScale"]["averages"]
        assert torch.equal(restored, kept)
