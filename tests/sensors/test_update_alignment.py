import itertools
import math

import pytest
import torch
from torch import nn

from autotune.sensors import UpdateAlignment, UpdateRatio


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()]).double()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double()


def train(model, optimizer, steps, inputs=None):
    """Takes steps; the plain cosine of each step's gradient with the update before it."""
    cosines, before = [], None
    for _ in range(steps):
        optimizer.zero_grad()
        batch = torch.randn(16, model[0].in_features) if inputs is None else inputs
        model(batch).square().mean().backward()
        here, g = weights(model), gradients(model)
        if before is not None:
            u = here - before
            cosines.append(float(g @ u / (g.norm() * u.norm())))
        before = here
        optimizer.step()
    return cosines


def network(*widths):
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.Tanh())][:-1])


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_equals_the_plain_definition_on_a_small_model(bench, kind):
    model = network(6, 20, 3)
    optimizer = OPTIMIZERS[kind](model.parameters())
    b = bench(model, optimizer, [UpdateAlignment()], every=1)
    expected = train(model, optimizer, 12)
    assert b.values("update_alignment") == pytest.approx(expected, abs=1e-4)
    assert [s.step for s in b.samples] == list(range(2, 13))  # nothing stands before the first step


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_is_close_on_a_large_model(bench, kind):
    model = network(600, 700, 800)
    optimizer = OPTIMIZERS[kind](model.parameters())
    b = bench(model, optimizer, [UpdateAlignment()], every=1)
    expected = train(model, optimizer, 6, inputs=torch.randn(16, 600))
    assert max(map(abs, expected)) > 0.3
    assert b.values("update_alignment") == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("lr", "cosine"), [(0.4, -1.0), (1.5, 1.0)])
def test_its_sign_says_whether_the_step_was_too_short_or_too_long(bench, lr, cosine):
    model = nn.Linear(1, 1, bias=False)  # the loss is w²/2: a rate of 1 hits the minimum
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    b = bench(model, optimizer, [UpdateAlignment()], every=1)
    for _ in range(2):
        model.weight.grad = model.weight.detach().clone()
        optimizer.step()
    assert b.values("update_alignment") == [cosine]


def test_between_samples_only_the_step_before_one_is_looked_at(bench):
    looked = []

    class Watched(UpdateAlignment):
        def step_before(self, gradients):
            looked.append(b.step + 1)
            super().step_before(gradients)

    model = network(6, 20, 3)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    b = bench(model, optimizer, [Watched()], every=4)
    expected = train(model, optimizer, 13)  # of the steps 2, 3, ...
    assert looked == [3, 7, 11]
    assert b.values("update_alignment") == pytest.approx([expected[i - 2] for i in (4, 8, 12)], abs=1e-4)
    assert [s.step for s in b.samples] == [4, 8, 12]


def test_no_update_is_no_evidence_and_what_is_not_finite_is_nan(bench):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    b = bench(model, optimizer, [UpdateAlignment()], every=1)
    for value in (1.0, 1.0, math.inf, math.nan):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        optimizer.step()
    first, *broken = b.values("update_alignment")
    assert first == 0
    assert [math.isnan(value) for value in broken] == [True, True]


def test_parameters_without_a_gradient_are_left_out(bench):
    model = network(6, 20, 3)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    b = bench(model, optimizer, [UpdateAlignment()], every=1)
    begun = weights(model[2])
    train(model, optimizer, 1)
    update = weights(model[2]) - begun  # the first layer moved too
    for parameter in model[0].parameters():
        parameter.grad = None
    optimizer.step()
    g = gradients(model[2])
    assert b.values("update_alignment") == pytest.approx(
        [float(g @ update / (g.norm() * update.norm()))], abs=1e-4
    )


def test_after_a_rewind_to_the_step_between_the_two_the_same_is_measured(bench):
    model = network(6, 20, 3)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    b = bench(model, optimizer, [UpdateAlignment(), UpdateRatio()], every=4)
    train(model, optimizer, 7)  # the eighth is sampled and looks back at the seventh
    sensors, step, generator = b.instruments.state_dict(), b.step, torch.get_rng_state()
    plant = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = {p: {k: v.clone() for k, v in slots.items()} for p, slots in optimizer.state.items()}
    b.collect()
    train(model, optimizer, 2)
    expected = b.instruments.collect(wait=True)
    assert {s.name for s in expected} >= {"update_alignment", "update_ratio"}
    for _ in range(2):
        train(model, optimizer, 3)  # another way, up to the step before a sample
        model.load_state_dict(plant)
        for p, slots in moments.items():
            for key, value in slots.items():
                optimizer.state[p][key].copy_(value)
        b.instruments.load_state_dict(sensors)
        b.step = b.spent = step
        torch.set_rng_state(generator)
        train(model, optimizer, 2)
        assert b.instruments.collect(wait=True) == expected
