import math

import pytest
import torch
from torch import nn

from autotune.sensors import GradientNoiseScale, GradientNorm, GradientSNR, LossScale, NonFinite, UpdateRatio

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=1e-2, fused=True),
}


def train(bench, kind, dtype=None, scale=None, unscale=False, micro_batches=1, steps=3):
    """Trains with or without a scaler; both see the same gradients, since the scale is a power of two."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(40, 80), nn.Tanh(), nn.Linear(80, 10))
    optimizer = OPTIMIZERS[kind](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    sensors = [
        GradientNorm(),
        NonFinite(),
        UpdateRatio(),
        GradientSNR(),
        GradientNoiseScale(),
        LossScale(scaler),
    ]
    b = bench(model, optimizer, sensors, every=1, scaler=scaler)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(micro_batches):
            b.next()
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                loss = model(torch.randn(16, 40)).float().square().mean()
            scaler.scale(loss).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    b.collect()
    return b


def table(b):
    return {(s.step, s.name): s.value for s in b.samples}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_values_are_unscaled_and_the_scale_is_a_signal(bench, kind, unscale, dtype):
    plain = table(train(bench, kind, dtype, micro_batches=2))
    scaled = table(train(bench, kind, dtype, scale=1024.0, unscale=unscale, micro_batches=2))
    scales = {key: scaled.pop(key) for key in list(scaled) if key[1] == "loss_scale"}
    assert scales == {(step, "loss_scale"): 1024.0 for step in (1, 2, 3)}
    assert ("loss_scale" in {name for _, name in plain}) is False
    assert plain.keys() == scaled.keys()
    assert (3, "gradient_noise_scale") in plain
    for key, value in plain.items():
        assert scaled[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


def test_half_precision(bench):
    plain = table(train(bench, "adamw"))
    half = table(train(bench, "adamw", torch.float16, scale=2.0**10))
    assert half[3, "gradient_norm"] == pytest.approx(plain[3, "gradient_norm"], rel=0.05)


def test_a_step_that_the_scaler_skips_is_not_measured(bench):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sensors = [GradientNorm(), GradientNoiseScale(), LossScale(scaler)]
    b = bench(model, optimizer, sensors, every=1, scaler=scaler)
    for slope in (1.0, math.inf, 1.0):
        b.next()
        optimizer.zero_grad()
        scaler.scale(slope * model(torch.ones(2, 3)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert b.values("loss_scale") == [1024, 512]
    assert b.values("gradient_norm") == pytest.approx([4.0, 4.0])
    assert b.values("gradient_noise_scale") == []  # nothing was accumulated


def test_a_fused_optimizer_that_skips_in_its_kernel_shows_the_overflow(bench):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    b = bench(model, optimizer, [NonFinite(), UpdateRatio()], every=1, scaler=scaler)
    scaler.scale(math.inf * model(torch.ones(2, 3)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert b.values("nonfinite") == [2]
    assert b.values("update_ratio") == [0]
