import copy
import math

import numpy as np
import pytest
import torch
from loops import Loop
from scipy import stats

from autotune.records import Signal
from autotune.sensors import ChangePoints, default_sensors
from autotune.sensors.change_points import BELIEVED, HAZARD, LEVEL, MEMORY, NOISE, RECENT, SLOPE

NAMES = ChangePoints.signals


def sensor():
    made = ChangePoints()
    made.prepare(None)
    return made


def signal(losses, first=1):
    steps = np.arange(first, first + len(losses))
    return {"loss": Signal(steps, steps + 1000, np.asarray(losses, dtype=float))}


def derived(losses, every=10, by=None):
    """What is told, as an array (values, 1 + signals): the step, then the signals."""
    by = by or sensor()
    told = list(by.derive(signal(losses), every))
    assert all(tuple(readings.names) == NAMES and spent == step + 1000 for step, spent, readings in told)
    return np.array([[step, *readings.values] for step, _, readings in told]).reshape(-1, 1 + len(NAMES))


def alarms(change):
    over = change > 0.9
    return int((over[1:] & ~over[:-1]).sum())


class Reference:
    """The same law, regime by regime, in textbook form: regression matrices and scipy's Student t."""

    def __init__(self):
        self.regimes = []  # the shortest first: p, values, mean (2,), covariance (2, 2), variance
        self.count = 0

    def update(self, y):
        if self.regimes:
            level = sum(p * (m[0] + n * m[1]) for p, n, m, *_ in self.regimes)
            variance = math.exp(sum(p * math.log(s) for p, *_, s in self.regimes))
        else:
            level, variance = y, NOISE**2
        new = (HAZARD, 0, np.array([level, 0.0]), np.diag([LEVEL**2, SLOPE**2]), variance)
        old = [(p * (1 - HAZARD), *rest) for p, *rest in self.regimes]
        self.regimes, self.count = [], self.count + 1
        freedom = min(self.count, BELIEVED)
        for p, n, m, v, s in [new, *old]:
            x = np.array([1.0, n])
            q = 1 + x @ v @ x
            error = y - x @ m
            p = p * stats.t(freedom, scale=math.sqrt(s * q)).pdf(error)
            s = (freedom * s + error**2 / q) / (freedom + 1)
            precision = np.linalg.inv(v) + np.outer(x, x)
            m = np.linalg.solve(precision, np.linalg.inv(v) @ m + x * y)
            self.regimes.append((p, n + 1, m, np.linalg.inv(precision), s))
        total = sum(p for p, *_ in self.regimes)
        self.regimes = [(p / total, *rest) for p, *rest in self.regimes]

    def read(self):
        slope = sum(p * m[1] for p, _, m, *_ in self.regimes)
        square = sum(p * (s * v[1, 1] + (m[1] - slope) ** 2) for p, _, m, v, s in self.regimes)
        change = sum(p for p, n, *_ in self.regimes[:-1] if 2 <= n <= RECENT)
        return [change, slope, math.sqrt(square), max(self.regimes, key=lambda r: r[0])[1]]


def test_it_is_the_law_as_the_textbook_has_it():
    rng = np.random.default_rng(0)
    y = np.concatenate([-0.02 * np.arange(60), -1.2 + np.zeros(50)]) + 0.05 * rng.normal(size=110)
    y[85:88] += 2
    found, reference = derived(np.exp(y), every=1), Reference()
    for row, value in zip(found, y, strict=True):
        reference.update(value)
        np.testing.assert_allclose(row[1:], reference.read(), rtol=1e-6, atol=1e-9)


def test_a_plateau_is_a_change_of_slope_to_none():
    rng = np.random.default_rng(1)
    steps = np.arange(3000)
    found = derived(np.exp(-np.minimum(steps, 1500) / 600 + 0.3 * rng.normal(size=3000)))
    before, after = found[149], found[189]
    assert before[2] == pytest.approx(-1 / 600, abs=3 * before[3])
    assert before[2] < -5 * before[3]
    assert abs(after[2]) < 3 * after[3]
    assert found[150:190, 1].max() > 0.9
    assert alarms(found[:150, 1]) == 0
    assert after[4] == pytest.approx(400, abs=150)


@pytest.mark.parametrize("curve", ["level", "spike"])
def test_a_jump_is_found_at_its_second_or_third_value(curve):
    rng = np.random.default_rng(2)
    steps = np.arange(1500)
    height = {"level": 1.0 * (steps >= 1000), "spike": 2 * (steps >= 1000) * np.exp(-(steps - 1000) / 50)}
    found = derived(np.exp(height[curve] + 0.3 * rng.normal(size=1500)))
    assert found[99, 1] < 0.1 < 0.9 < found[102, 1]
    assert found[102, 4] == 30


@pytest.mark.parametrize("slope", [0.0, -1e-3])
def test_steady_noise_seldom_gives_an_alarm(slope):
    for heavy in (False, True):
        count = 0
        for seed in range(10):
            rng = np.random.default_rng(seed)
            noise = 0.2 * rng.standard_t(3, size=3000) if heavy else 0.3 * rng.normal(size=3000)
            count += alarms(derived(np.exp(slope * np.arange(3000) + noise))[:, 1])
        assert count <= 3, f"{count} in 3,000 values"


def test_the_first_regime_is_no_change():
    found = derived(np.exp(0.1 * np.random.default_rng(3).normal(size=300)), every=10)
    assert found[:2, 1].tolist() == [0, 0]
    assert found[:, 1].max() < 0.5
    assert found[:, 4].tolist() == [10 * n for n in range(1, 31)]


def test_it_forgets_and_stays_in_its_bounds():
    made = sensor()
    found = derived(np.exp(-0.01 * np.arange(5 * MEMORY)), every=1, by=made)
    assert made.state_dict()["regimes"].shape == (4, MEMORY)
    assert np.exp(made.state_dict()["regimes"][3]).sum() == pytest.approx(1)
    assert found[-1, 4] == MEMORY
    assert found[-1, 2] == pytest.approx(-0.01, rel=1e-2)


@pytest.mark.parametrize(
    "losses",
    {
        "constant": [2.3] * 300,
        "zero": [0.0] * 300,
        "one": [2.3],
        "negative": (-np.arange(300.0)).tolist(),
        "to negative": np.linspace(3, -3, 300).tolist(),
        "to nothing": np.exp(-np.linspace(0, 700, 300)).tolist(),
        "exploding": np.exp(np.linspace(0, 709, 300)).tolist(),
        "huge and of both signs": [1e308, -1e308] * 150,
        "a negative one after huge ones": [1e308] * 50 + [-1e-300] * 250,
        "nan between": [2.3, math.nan, 2.4, math.inf, -math.inf] * 60,
    }.items(),
    ids=lambda item: item[0],
)
def test_whatever_the_loss_is_what_is_told_is_finite(losses):
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = derived(losses[1], every=1)
    assert len(found) == np.isfinite(losses[1]).sum()
    assert np.isfinite(found).all()
    assert ((found[:, 1] >= 0) & (found[:, 1] <= 1 + 1e-9)).all()
    if losses[0] in ("constant", "zero", "one"):
        assert found[:, 1].max() < 0.1
        assert np.abs(found[:, 2]).max() == pytest.approx(0, abs=1e-12)


def test_losses_that_are_not_finite_are_left_out():
    rng = np.random.default_rng(4)
    losses = np.exp(0.1 * rng.normal(size=400))
    broken = losses.copy()
    broken[100:120], broken[55] = math.nan, math.inf
    found = derived(broken)
    assert set(range(10, 401, 10)) - set(found[:, 0]) == {110, 120}
    np.testing.assert_array_equal(found[:5], derived(losses)[:5])
    assert alarms(found[:, 1]) == 0
    assert len(derived([math.nan] * 50)) == 0


def test_a_loss_without_a_log_is_measured_in_its_size():
    rng = np.random.default_rng(5)
    steps = np.arange(3000)
    losses = -1000 * (1 + np.minimum(steps, 1500) / 500 + 0.3 * rng.normal(size=3000))
    found = derived(losses)
    assert found[149, 2] < -5 * found[149, 3]
    assert abs(found[189, 2]) < 3 * found[189, 3]
    assert found[150:190, 1].max() > 0.9
    np.testing.assert_allclose(derived(1e-6 * losses), found, rtol=1e-6, atol=1e-9)  # whatever the unit


def test_a_loss_that_is_zero_now_and_then_keeps_its_log():
    losses = np.full(500, 2.0)
    losses[::7] = 0
    made = sensor()
    found = derived(losses, by=made)
    assert made.state_dict()["unit"] == 0
    assert found[:, 1].max() < 0.1


def test_it_does_not_matter_when_the_losses_come():
    losses = np.exp(np.random.default_rng(6).normal(size=300))
    at_once, bit_by_bit = derived(losses), []
    made = sensor()
    for end in (3, 10, 11, 25, 25, 40, 109, 230, 300):
        bit_by_bit += derived(losses[:end], by=made).tolist()
    np.testing.assert_array_equal(bit_by_bit, at_once)


def test_a_state_that_is_behind_catches_up_without_telling_twice():
    losses = np.exp(np.random.default_rng(7).normal(size=400))
    made = sensor()
    derived(losses[:185], by=made)
    state = copy.deepcopy(made.state_dict())
    whole = derived(losses, by=made)
    again = sensor()
    again.load_state_dict(state)
    known = Signal(np.array([210]), np.array([1210]), np.array([0.5]))  # told on the way to step 210
    told = list(again.derive(signal(losses) | {NAMES[0]: known}, 10))
    np.testing.assert_array_equal([r.values for _, _, r in told], whole[whole[:, 0] > 210][:, 1:])


def test_a_loop_that_reports_seldom_or_not_at_all():
    steps = np.arange(7, 1000, 7)
    seldom = {"loss": Signal(steps, steps, np.full(len(steps), 2.0))}
    told = [step for step, *_ in sensor().derive(seldom, 10)]
    assert told == [s for s in steps.tolist() if (s + 6) // 10 > (s - 1) // 10][: len(told)]
    assert len(told) > 90
    assert list(sensor().derive({}, 10)) == []


# --- in a run ---------------------------------------------------------------------------------------------


def train(folder, steps=200, sample_every=5, rewind=None, resume=False):
    """`rewind`: from which step back to which, once."""
    loop = Loop()
    attach = loop.resume if resume else loop.tuner
    with attach(folder, sensors=[ChangePoints()], sample_every=sample_every, total_steps=steps) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if rewind and tuner.step == rewind[0]:
                tuner.rewind(rewind[1])
                rewind = None
    return tuner.signals


def test_it_is_asked_for_by_name_only(tmp_path):
    assert not any(isinstance(made, ChangePoints) for made in default_sensors())
    signals = train(tmp_path / "run", 52)
    assert set(NAMES) <= signals.keys()
    for name in NAMES:
        assert signals[name].step.tolist() == list(range(5, 51, 5))


@pytest.mark.parametrize("every", [5, 7])
def test_a_rewind_takes_it_back_to_the_bit(tmp_path, every):
    straight = train(tmp_path / "straight", 150, every)
    rewound = train(tmp_path / "rewound", 203, every, (113, 60))
    assert rewound["loss"].step[-1] == len(rewound["loss"]) < 150
    for name in NAMES:
        told = len(rewound[name])
        assert told == len(rewound["loss"]) // every
        np.testing.assert_array_equal(rewound[name].value, straight[name].value[:told])
        np.testing.assert_array_equal(rewound[name].step, straight[name].step[:told])


def test_a_resumed_run_goes_on_with_it(tmp_path):
    straight = train(tmp_path / "straight", 160)
    loop = Loop()
    tuner = loop.tuner(tmp_path / "run", sensors=[ChangePoints()], sample_every=5, total_steps=160)
    for batch in tuner.batches(loop.loader):
        tuner.report(loss=loop.step(batch))
        if tuner.step == 83:
            tuner.checkpoint()
            break
    tuner.close("killed")
    signals = train(tmp_path / "run", 160, resume=True)
    for name in NAMES:
        np.testing.assert_array_equal(signals[name].value, straight[name].value)


def test_the_training_is_the_same_to_the_bit(tmp_path):
    bare = Loop().bare(60)
    loop = Loop()
    with loop.tuner(tmp_path / "run", sensors=[ChangePoints()], total_steps=60) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    assert loop.losses == bare.losses
    assert all(torch.equal(a, b) for a, b in zip(loop.state().values(), bare.state().values(), strict=True))
