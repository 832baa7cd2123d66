"""A training run small enough to simulate by the hundred: a noisy quadratic with heavy tails, in numpy.

`Loop` is the tuner in miniature: it builds real observations, has the real supervisor review what policies
ask for, and applies it (ramps, rewinds that truncate the histories, snapshots thinned by age).
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from autotune.controls import Controls
from autotune.hyperparameters import FloatHyperparameter
from autotune.records import Decision, Escalate, Observation, Ramp, Rewind, Set, Signal, SnapshotInfo
from autotune.supervisor import Limits, Situation, Supervisor


class Quadratic:
    """Stochastic gradient descent on ½ Σ h w² with gradient noise; the measured loss has noise of its own.

    The curvatures h lie between 1/`condition` and 1, so rates above 2 diverge and the best constant rate
    is of order 1. With `ceiling`, loss and gradient saturate: what is thrown out far stays there, finite.

    Args:
        tails: degrees of freedom of the Student-t noise on the log loss; 3 is very heavy.
        noise: its scale.
        memory: its correlation from step to step, in [0, 1).
        poison: batches whose gradient is multiplied by 100 and points anywhere.
        nan: batches whose loss is NaN.
        spikes: batches whose loss is 50 times too high, and whose gradient is sound.
    """

    def __init__(
        self, seed=0, noise=0.1, tails=5.0, floor=1e-3, condition=30, gradient_noise=0.01, memory=0.0,
        ceiling=None, poison=range(0), nan=range(0), spikes=range(0),
    ):  # fmt: skip
        self.seed, self.noise, self.tails, self.floor = seed, noise, tails, floor
        self.memory, self.wander = memory, 0.0
        self.gradient_noise, self.ceiling = gradient_noise, ceiling
        self.poison, self.nan, self.spikes = poison, nan, spikes
        self.curvature = np.geomspace(1 / condition, 1, 20)
        self.w = np.random.default_rng(seed).standard_normal(20)
        self.w *= np.sqrt(2.0 / (self.curvature * self.w**2).sum())

    def step(self, rate, batch):
        rng = np.random.default_rng((self.seed, batch))
        with np.errstate(all="ignore"):
            loss = 0.5 * (self.curvature * self.w**2).sum()
            gradient = self.curvature * self.w
            if self.ceiling is not None:
                gradient = gradient * np.exp(-loss / self.ceiling)
                loss = self.ceiling * -np.expm1(-loss / self.ceiling)
            gradient = gradient + self.gradient_noise * rng.standard_normal(20)
            fresh = np.sqrt(1 - self.memory**2) * rng.standard_t(self.tails)
            self.wander = self.memory * self.wander + fresh
            measured = (loss + self.floor) * np.exp(self.noise * self.wander)
            if batch in self.poison:
                gradient = 100 * rng.standard_normal(20)
                measured *= 1000
            if batch in self.nan:
                gradient, measured = gradient * np.nan, np.nan
            if batch in self.spikes:
                measured *= 50
            before = np.linalg.norm(self.w)
            self.w = self.w - rate * gradient
            norm = np.linalg.norm(gradient)
            return {
                "loss": measured,
                "gradient_norm": norm,
                "update_ratio": rate * norm / before,
                "nonfinite": float(np.count_nonzero(~np.isfinite(gradient))),
            }

    def true_loss(self):
        with np.errstate(all="ignore"):
            return 0.5 * (self.curvature * self.w**2).sum() + self.floor

    def capture(self):
        return self.w.copy(), self.wander

    def restore(self, state):
        self.w, self.wander = state[0].copy(), state[1]


class Curve:
    """A loss that takes its course whatever the rate: `course(step)` under log-normal noise."""

    def __init__(self, course, noise=0.2, seed=0):
        self.course, self.noise, self.seed, self.at = course, noise, seed, 0

    def step(self, rate, batch):
        self.at += 1
        rng = np.random.default_rng((self.seed, batch))
        return {"loss": self.course(self.at) * np.exp(self.noise * rng.standard_normal())}

    def true_loss(self):
        return self.course(self.at)

    def capture(self):
        return self.at

    def restore(self, state):
        self.at = state


class Loop:
    """Runs policies on a plant. `spent`, `step`, decisions and histories as the tuner keeps them."""

    def __init__(
        self, plant, policies, rate, *, low=1e-5, high=1e4, budget=2000, every=10, snapshots=6, limits=None,
        lag=0, evaluate_every=None, suggest=False,
    ):  # fmt: skip
        self.plant, self.policies, self.budget = plant, list(policies), budget
        self.every, self.capacity, self.lag, self.evaluate_every = every, snapshots, lag, evaluate_every
        self.snapshot_every = min(100, max(10, (budget or 2000) // 40))
        self.controls = Controls([FloatHyperparameter("lr", rate, low=low, high=high, log=True)])
        self.supervisor = Supervisor(self.controls, limits or Limits(), suggest)
        self.step = self.spent = self.branch = self.batch = 0
        self.ring = []
        self.decisions = []
        self.told = {policy.name: 0 for policy in self.policies}
        self.seconds = []
        self.rows = {}

    @property
    def rate(self):
        return float(self.controls["lr"]())

    def applied(self, kind):
        return [d for d in self.decisions if d.applied and isinstance(d.action, kind)]

    def run(self, steps):
        """`steps` more steps of `spent`."""
        end = self.spent + steps
        while self.spent < end:
            if self.step % self.snapshot_every == 0 and (not self.ring or self.ring[-1][0] < self.step):
                self._snapshot()
            self.controls.advance(self.step)
            measured = self.plant.step(self.rate, self.batch)
            self.step, self.spent, self.batch = self.step + 1, self.spent + 1, self.batch + 1
            self._record("loss", measured.pop("loss"))
            if (self.step - 1) % self.every == 0:
                for name, value in measured.items():
                    self._record(name, value)
            if self.evaluate_every and self.step % self.evaluate_every == 0:
                self._record("validation/loss", self.plant.true_loss())
            if self.step % self.every == 0:
                self._tick()
        return self

    def observe(self, policy):
        unread = self.decisions[self.told[policy.name] :]
        self.told[policy.name] = len(self.decisions)
        return Observation(
            step=self.step,
            spent=self.spent,
            budget=self.budget,
            hyperparameters=self.controls.states(),
            signals=self.signals(),
            snapshots=[SnapshotInfo(s[0], s[4]) for s in self.ring],
            decisions=unread,
            rewinds_left=self.supervisor.limits.max_rewinds - self.supervisor.rewinds,
        )

    def signals(self):
        out = {}
        for name, (steps, spent, values) in self.rows.items():
            n = int(np.searchsorted(steps, self.step - self.lag, side="right"))
            first = max(0, n - 2000)
            out[name] = Signal(
                np.array(steps[first:n], dtype=np.int64),
                np.array(spent[first:n], dtype=np.int64),
                np.array(values[first:n], dtype=np.float64),
            )
        return out

    def _record(self, name, value):
        steps, spent, values = self.rows.setdefault(name, ([], [], []))
        steps.append(self.step)
        spent.append(self.spent)
        values.append(float(value))

    def _tick(self):
        for policy in self.policies:
            observation = self.observe(policy)
            before = time.perf_counter()
            actions = policy.decide(observation)
            self.seconds.append(time.perf_counter() - before)
            for action in actions:
                self._decide(action, policy.name)

    def _decide(self, action, source):
        target = self._find(action.to) if isinstance(action, Rewind) else None
        ramps = {name: ramp.source for name, ramp in self.controls.ramps.items()}
        situation = Situation(
            self.spent,
            ramps,
            {"lr": self.rate},
            target and SnapshotInfo(target[0], target[4]),
            target is not None and target[0] == self.step,
            frozenset({"lr"}),
        )
        verdict = self.supervisor.review(action, source, situation)
        assert not verdict.fault, verdict.note
        before = {"lr": self.rate}
        if verdict.status in ("applied", "clamped"):
            self.apply(verdict.action, source, target)
            self.supervisor.applied(verdict.action, source, situation)
        decision = Decision(
            len(self.decisions) + 1, 0.0, self.step, self.spent, self.branch, source, verdict.action,
            verdict.status, before, {"lr": self.rate}, verdict.note,
        )  # fmt: skip
        self.decisions.append(decision)

    def apply(self, action, source, target=None):
        if isinstance(action, Set):
            self.controls.write(action.name, action.value)
        elif isinstance(action, Ramp):
            self.controls.ramp(action, source, self.step)
        elif isinstance(action, Rewind):
            self._rewind(action, source, target or self._find(action.to))
        else:
            assert isinstance(action, Escalate), action

    def _find(self, to):
        return [s for s in self.ring if s[0] <= to][-1]

    def _rewind(self, action, source, target):
        step, batch, state, controls, _ = target
        self.plant.restore(state)
        self.controls.rewind(controls, self.controls.held(), self.step - step)
        self.step, self.branch = step, self.branch + 1
        if action.data == "replay":
            self.batch = batch
        self.ring = [s for s in self.ring if s[0] <= step]
        for steps, spent, values in self.rows.values():
            keep = int(np.searchsorted(steps, step, side="right"))
            del steps[keep:], spent[keep:], values[keep:]
        for change in action.then:
            self.apply(change, source)

    def _snapshot(self):
        state = (self.step, self.batch, self.plant.capture(), self.controls.state_dict(), self.spent)
        self.ring.append(state)
        if len(self.ring) > self.capacity:
            ages = [self.step + self.snapshot_every - s[0] for s in self.ring]
            crowding = [ages[i - 1] / ages[i + 1] for i in range(1, len(ages) - 1)]
            del self.ring[1 + int(np.argmin(crowding)) if crowding else 0]


def fields(decision):
    """A decision as comparable values."""
    return dataclasses.astuple(dataclasses.replace(decision, time=0.0))
