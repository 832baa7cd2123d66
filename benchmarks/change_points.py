"""How soon the sensor `ChangePoints` sees that the loss changes, and how often it sees what is not there.

`OMP_NUM_THREADS=1 python -m autotune.benchmarks.change_points` feeds it simulated and real losses and prints

- FALSE: false alarms in 1,000 values before anything changes (in a curve that bends, not all are errors);
- FOUND, DELAY: the part of the changes that are found within 60 values, and the median delay in values of
  ten steps each;
- the same of two simpler tests on the same values: a CUSUM of one-step forecasts from the line through the
  last 40, with the threshold at which it gives as few false alarms in Gaussian noise; and for plateaus the
  Mann-Kendall test on the last 40, with the levels of the policy `Plateau` (0.05: falls, 0.5: does not);
- how often the true slope lies within two of the standard errors that it tells;
- what a value costs.

An alarm is `loss_change` above 0.9 after it was not; in the comparison with Mann-Kendall, the end of a fall
by the same levels of the slope over its standard error. Takes two minutes.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau

from autotune.records import Action, Observation, Set, Signal
from autotune.sensors import ChangePoints, Parameters
from autotune.terminal import print_table

from .library.digits import train_digits

Array = NDArray[np.float64]

SEEDS = 30
EVERY = 10  # steps a value
STEPS, CHANGE = 3000, 1500
SURE = 0.9
WITHIN = 60  # values
WINDOW = 40  # values, of both simpler tests
SLACK, LIMIT = 0.5, 9.0  # of the CUSUM, in standard deviations
FALLS, FLAT = 0.05, 0.5  # p of Mann-Kendall
SURELY = 1.645  # standard errors: the same for the sensor's slope
TURN, REAL_SEEDS = 600, 5  # of the real runs: the step of the change
Test = Callable[[Array], list[int]]
"""From the losses to the values at which there is an alarm."""

STEP = np.arange(STEPS, dtype=float)
SINCE = np.maximum(STEP - CHANGE, 0)
STEADY: dict[str, Array] = {
    "constant": 0 * STEP,
    "exponential decay": -STEP / 1000,
    "power law (bends)": -0.5 * np.log(STEP + 20),
    "decay to a floor (bends)": np.log(0.2 + 2 * np.exp(-STEP / 400)),
}
CHANGING: dict[str, Array] = {
    "plateau": -np.minimum(STEP, CHANGE) / 600,
    "plateau after slow decay": -np.minimum(STEP, CHANGE) / 2000,
    "decay after a plateau": -SINCE / 600,
    "jump by 1.65": np.where(STEP >= CHANGE, 0.5, 0.0),
    "drop by a third": -STEP / 2000 - np.where(STEP >= CHANGE, 0.4, 0.0),
    "spike of 4.5, 30 steps": np.where(STEP >= CHANGE, 1.5 * np.exp(-SINCE / 30), 0.0) - STEP / 2000,
}


def gaussian(rng: np.random.Generator) -> Array:
    """Independent noise of the log loss, 0.3."""
    return 0.3 * rng.normal(size=STEPS)


def heavy(rng: np.random.Generator) -> Array:
    """Student's t with 3 degrees of freedom."""
    return 0.2 * rng.standard_t(3, size=STEPS)


def correlated(rng: np.random.Generator) -> Array:
    """Gaussian, with a correlation of 0.8 from step to step: 0.3 between values."""
    shocks, noise = 0.3 * math.sqrt(1 - 0.8**2) * rng.normal(size=STEPS), np.zeros(STEPS)
    for i in range(1, STEPS):
        noise[i] = 0.8 * noise[i - 1] + shocks[i]
    return noise


def watch(losses: Array) -> Array:
    """What the sensor tells of each value: (values, 4)."""
    sensor = ChangePoints()
    sensor.prepare(Parameters({"weights": [torch.zeros(1)]}))
    steps = np.arange(1, len(losses) + 1)
    told = sensor.derive({"loss": Signal(steps, steps, losses)}, EVERY)
    return np.array([readings.values for _, _, readings in told])


def values_of(losses: Array) -> Array:
    """The mean log loss of each ten steps."""
    logs: Array = np.log(losses[: len(losses) // EVERY * EVERY]).reshape(-1, EVERY).mean(axis=1)
    return logs


def cusum(losses: Array) -> list[int]:
    """Where it gives an alarm; then it begins anew."""
    values = values_of(losses)
    alarms, start, high, low = [], 0, 0.0, 0.0
    for n in range(len(values)):
        window = values[max(start, n - WINDOW) : n]
        if len(window) < WINDOW // 2:
            continue
        x = np.arange(len(window))
        slope, level = np.polyfit(x, window, 1)
        deviation = math.sqrt(float(((window - level - slope * x) ** 2).sum()) / (len(window) - 2))
        z = (values[n] - level - slope * len(window)) / deviation
        high, low = max(0.0, high + z - SLACK), max(0.0, low - z - SLACK)
        if max(high, low) > LIMIT:
            alarms.append(n)
            start, high, low = n, 0.0, 0.0
    return alarms


def rises(over: NDArray[np.bool_]) -> list[int]:
    """Where it becomes true."""
    begins: list[int] = np.flatnonzero(over[1:] & ~over[:-1]).tolist()
    return [n + 1 for n in begins]


def bayesian(losses: Array) -> list[int]:
    """Alarms of the sensor."""
    return rises(watch(losses)[:, 0] > SURE)


def by_slope(losses: Array) -> list[int]:
    """Plateaus by the sensor: the slope was negative, and now it shows no sign of being so."""
    _, slope, error, _ = watch(losses).T
    return _ends(slope < -SURELY * error, slope >= 0)


def by_mann_kendall(losses: Array) -> list[int]:
    """The same by the windowed test."""
    values = values_of(losses)
    windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW)
    p = np.full(len(values), FLAT)
    p[WINDOW - 1 :] = [kendalltau(np.arange(WINDOW), w, alternative="less").pvalue for w in windows]
    return _ends(p <= FALLS, p >= FLAT)


def _ends(falls: NDArray[np.bool_], flat: NDArray[np.bool_]) -> list[int]:
    """Where it is flat for the first time after it fell."""
    fell, ends = False, []
    for n in range(len(falls)):
        if fell and flat[n]:
            ends.append(n)
        fell = bool(falls[n]) or (fell and not flat[n])
    return ends


def judge(test: Test, runs: Sequence[Array], change: int | None) -> tuple[str, str, str]:
    """False alarms in 1,000 values, part of the changes that are found, and the median delay.

    Args:
        test: what finds alarms in losses.
        runs: the losses of each.
        change: the value with which they change; None: they do not.
    """
    false, delays, seen = 0, [], 0
    for losses in runs:
        alarms = test(losses)
        before = len(losses) // EVERY if change is None else change
        false += sum(alarm < before for alarm in alarms)
        seen += before
        delays.append(next((n - before + 1.0 for n in alarms if before <= n < before + WITHIN), math.inf))
    rate = f"{1000 * false / seen:.1f}"
    if change is None:
        return rate, "", ""
    return rate, f"{np.isfinite(delays).mean():.2f}", f"{np.median(delays):.0f}"


def simulated(curve: Array, noise: Callable[[np.random.Generator], Array]) -> list[Array]:
    """Losses with this course of their log."""
    return [np.exp(curve + noise(np.random.default_rng(seed))) for seed in range(SEEDS)]


class Recorder:
    """A policy that keeps the losses, and multiplies the rate once."""

    name = "recorder"
    requires = ("loss",)
    controls = ("lr",)

    def __init__(self, factor: float) -> None:
        self.losses: Array = np.empty(0)
        self._factor = factor

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        if "loss" in observation.signals:
            self.losses = observation.signals["loss"].value
        if observation.step != TURN or self._factor == 1:
            return ()
        rate = float(observation.hyperparameters["lr"].value)
        return (Set("lr", self._factor * rate, reason="to see what happens"),)

    def state_dict(self) -> dict[str, float]:
        """Nothing is asked of it."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """See `state_dict`."""


def real(factor: float, poisoned: Sequence[int] = ()) -> list[Array]:
    """Losses of an MLP on digits, a fifth of whose labels are wrong: SGD, in steps of 64 examples."""
    runs = []
    for seed in range(REAL_SEEDS):
        recorder = Recorder(factor)
        train_digits(
            seed,
            [recorder],
            {},
            steps=2 * TURN,
            rate=0.05,
            optimizer="sgd",
            wrong_labels=0.2,
            poisoned=poisoned,
        )
        runs.append(recorder.losses)
    return runs


def coverage(noise: Callable[[np.random.Generator], Array]) -> float:
    """How often the slope of a steady decay is within two standard errors, from the 50th value on."""
    curve = STEADY["exponential decay"]
    told = np.concatenate([watch(losses)[50:] for losses in simulated(curve, noise)])
    return float(np.mean(np.abs(told[:, 1] - (curve[1] - curve[0])) < 2 * told[:, 2]))


def microseconds() -> float:
    """Of the processor, for one value; the best of five times 500 values."""
    losses = np.exp(gaussian(np.random.default_rng(0)))
    watch(losses)
    times = []
    for _ in range(5):
        start = time.process_time()
        told = watch(losses)
        times.append((time.process_time() - start) / len(told))
    return 1e6 * min(times)


def main() -> int:
    """Measure and print."""
    torch.set_num_threads(1)
    rows = []
    kinds = (gaussian, heavy, correlated)
    cases = [
        (name, noise, simulated(curve, noise), None) for noise in kinds for name, curve in STEADY.items()
    ]
    changing = [
        (n, noise, simulated(c, noise), CHANGE // EVERY) for noise in kinds for n, c in CHANGING.items()
    ]
    for name, noise, runs, change in [*cases, *changing]:
        rows.append(_row(name, noise.__name__, judge(bayesian, runs, change), judge(cusum, runs, change)))
    turn = TURN // EVERY
    for name, runs, change in (
        ("nothing", real(1), None),
        ("rate / 10", real(0.1), turn),
        ("rate x 10", real(10), turn),
        ("five bad batches", real(1, range(TURN, TURN + 5)), turn),
    ):
        rows.append(_row(name, "digits", judge(bayesian, runs, change), judge(cusum, runs, change)))
    print_table(_columns("CUSUM"), rows)
    rows = []
    for name, noise, runs, change in [*cases, *changing]:
        if name in ("exponential decay", "plateau", "plateau after slow decay"):
            results = judge(by_slope, runs, change), judge(by_mann_kendall, runs, change)
            rows.append(_row(name, noise.__name__, *results))
    print_table(_columns("MANN-KENDALL"), rows)
    covered = [
        (f"slope within 2 errors, {noise.__name__} noise", f"{coverage(noise):.2f}") for noise in kinds
    ]
    cost = ("processor time for a value of ten losses", f"{microseconds():.0f} µs")
    print_table(("FIGURE", ">VALUE"), [*covered, cost])
    return 0


def _columns(other: str) -> tuple[str, ...]:
    return (
        "CHANGE",
        "NOISE",
        *(f">{what} {who}" for what in ("FALSE", "FOUND", "DELAY") for who in ("", other)),
    )


def _row(name: str, noise: str, ours: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    return (name, noise, *(cell for pair in zip(ours, other, strict=True) for cell in pair))


if __name__ == "__main__":
    sys.exit(main())
