import random

import numpy as np
import pytest
import torch
from torch import nn

from autotune.records import TuneError
from autotune.sensors import GradientNorm, Instruments, NonFinite, Readings


def network():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(8 * 36, 10)
    )


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
}


def train(kind, attach, steps=12, micro_batches=2):
    """Returns losses, weights and generators at the end, and what `attach` returned."""
    model = network()
    optimizer = OPTIMIZERS[kind](model.parameters())
    b = attach(model, optimizer) if attach else None
    random.seed(0)
    np.random.seed(0)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(micro_batches):
            if b:
                b.next(4)
            loss = nn.functional.cross_entropy(model(torch.randn(4, 1, 8, 8)), torch.randint(10, (4,)))
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if b:
            b.report("loss", loss)
            b.report("validation/loss", 2.0)
            b.collect()
            b.instruments.state_dict()
    generators = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()))
    return losses, model.state_dict(), generators, b


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_training_is_the_same_to_the_bit(bench, kind):
    alone = train(kind, None)
    watched = train(kind, lambda model, optimizer: bench(model, optimizer, every=2))
    assert watched[0] == alone[0]
    for name, tensor in alone[1].items():
        assert torch.equal(watched[1][name], tensor), name
    assert torch.equal(alone[2][0], watched[2][0])
    assert alone[2][1:] == watched[2][1:]
    b = watched[3]
    measured = {sample.name for sample in b.samples}
    assert measured == b.instruments.signals | {"loss", "validation/loss", "generalization_gap"}


def test_samples_come_at_first_and_every_few_steps_with_their_clocks(bench):
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    b = bench(model, optimizer, [GradientNorm(), NonFinite()], every=4)
    b.spent = 100
    for _ in range(9):
        model(torch.randn(2, 1, 8, 8)).sum().backward()
        optimizer.step()
        b.report("loss", 1.0)
    b.collect()
    assert {(s.step, s.spent) for s in b.samples if s.name != "loss"} == {(1, 101), (4, 104), (8, 108)}
    assert [(s.step, s.spent) for s in b.samples if s.name == "loss"] == [(i, 100 + i) for i in range(1, 10)]
    assert b.instruments.collect(wait=True) == []


def test_nothing_reads_a_value_before_values_are_collected(bench):
    model = network().to("meta")  # tensors without data: whatever needs a value raises
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    b = bench(model, optimizer, every=1)
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(2):
            b.next(4)
            loss = model(torch.randn(4, 1, 8, 8, device="meta")).square().mean()
            loss.backward()
        optimizer.step()
        b.report("loss", loss)
        b.report("validation/loss", 1.0)
        state = b.instruments.state_dict()
    b.instruments.load_state_dict(state)
    b.report("loss", loss)
    with pytest.raises((RuntimeError, NotImplementedError), match=r"[Mm]eta"):
        b.collect()  # which does read


def test_after_a_rewind_the_same_is_measured_again_any_number_of_times(bench):
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    b = bench(model, optimizer, every=2)

    def go(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            for _ in range(2):
                b.next()
                loss = model(torch.randn(4, 1, 8, 8)).square().mean()
                loss.backward()
            optimizer.step()
            b.report("loss", loss)
        return [
            s for s in b.instruments.collect(wait=True) if s.name not in ("step_time", "samples_per_second")
        ]

    go(5)
    sensors, step, generator = b.instruments.state_dict(), b.step, torch.get_rng_state()
    plant = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    momentum = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    expected = go(6)
    assert {"gradient_snr", "gradient_noise_scale", "loss_mean"} <= {s.name for s in expected}
    for _ in range(3):
        model.load_state_dict(plant)
        for parameter, buffer in zip(model.parameters(), momentum, strict=True):
            optimizer.state[parameter]["momentum_buffer"].copy_(buffer)
        b.instruments.load_state_dict(sensors)
        b.step = b.spent = step
        b.stepped = True
        torch.set_rng_state(generator)
        assert go(6) == expected


def test_values_of_an_abandoned_branch_do_not_arrive(bench):
    model = nn.Linear(2, 2)
    b = bench(model, torch.optim.SGD(model.parameters(), lr=0.0), every=1)
    state = b.instruments.state_dict()
    b.report("loss", torch.tensor(1.0))
    b.instruments.load_state_dict(state)
    assert b.instruments.collect(wait=True) == []


def test_a_parameter_that_only_the_optimizer_knows_is_measured(bench):
    model, temperature = nn.Linear(2, 2), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([*model.parameters(), temperature], lr=0.0)
    b = bench(model, optimizer, [GradientNorm()], every=1)
    temperature.grad = torch.full((3,), 2.0)
    optimizer.step()
    assert b.collect()["gradient_norm/other"] == pytest.approx(12**0.5)


def test_groups_of_the_users_own(bench):
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    b = bench(model, optimizer, [GradientNorm()], every=1, groups={"head": [*model[5].parameters()]})
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    assert set(b.collect()) == {"gradient_norm", "gradient_norm/head"}


class Lopsided(NonFinite):
    def before_step(self, gradients):
        return Readings(("a", "b"), gradients.norms[:1])


def test_a_sensor_of_the_users_own_that_returns_too_little_is_named(bench):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    bench(model, optimizer, [Lopsided()], every=1)
    model(torch.ones(2)).sum().backward()
    with pytest.raises(TuneError, match="got 1 values for a, b"):
        optimizer.step()


def test_bad_input():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for every in (0, -3, 2.5, True):
        with pytest.raises(TuneError, match="at least 1, got every="):
            Instruments(model, optimizer, every=every)
    with pytest.raises(TuneError, match="two for gradient_norm"):
        Instruments(model, optimizer, [GradientNorm(), GradientNorm()])
    with pytest.raises(TuneError, match=r"'a' and again in 'b'"):
        Instruments(model, optimizer, groups={"a": [model.weight], "b": [model.weight]})
    with pytest.raises(TuneError, match="got 'sp@m'"):
        Instruments(model, optimizer, groups={"sp@m": [model.weight]})
    with pytest.raises(TuneError, match="at least one parameter"):
        Instruments(model, optimizer, groups={})
