"""Training runs small enough to simulate by the hundred: a noisy quadratic with heavy tails, or any curve."""

import numpy as np

from autotune.hyperparameters import FloatHyperparameter
from autotune.testing import Simulation


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


class Rated:
    """One of the above with its rate as a hyperparameter."""

    signals = ("loss", "gradient_norm", "update_ratio", "update_alignment", "nonfinite", "validation/loss")
    cost = 0.0

    def __init__(self, inner, rate, low, high):
        self.inner = inner
        self.rate = FloatHyperparameter("lr", rate, low=low, high=high, log=True)
        self.hyperparameters = [self.rate]
        self.true_loss, self.capture, self.restore = inner.true_loss, inner.capture, inner.restore

    def step(self, batch):
        return self.inner.step(self.rate(), batch)

    def evaluate(self):
        return {"validation/loss": self.inner.true_loss()}


class Loop(Simulation):
    """A simulation of one of them, from this rate on."""

    def __init__(self, plant, policies, rate, *, low=1e-5, high=1e4, **arguments):
        super().__init__(Rated(plant, rate, low, high), policies, **arguments)

    @property
    def rate(self):
        return self["lr"]

    def applied(self, kind):
        return [d for d in self.decisions if d.applied and isinstance(d.action, kind)]

    def resumed(self, other):
        """Go on as `other`, a run like this one."""
        other.load_state_dict(self.state_dict())
        return other
