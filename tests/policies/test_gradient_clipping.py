import numpy as np
import pytest

from autotune.policies.gradient_clipping import GradientClipping
from autotune.records import Decision, HyperparameterState, Observation, Policy, Rewind, Set, Signal
from autotune.testing import Simulation, Task, TrainingPlant

START = 1e4


class Run:
    """A gradient norm and the policy that clips at it; `go` gives one sample after the other."""

    def __init__(self, clip=START, owner="policy", low=1e-4):
        self.policy, self.clip, self.owner, self.low = GradientClipping(), clip, owner, low
        self.norms, self.actions, self.decisions = [], [], []

    def go(self, *norms):
        for norm in norms:
            self.norms.append(norm)
            steps = 10 * np.arange(1, len(self.norms) + 1)
            state = HyperparameterState("gradient_clip", "log", self.clip, self.owner, self.low, START)
            signal = Signal(steps, steps, np.array(self.norms, float))
            step = int(steps[-1])
            seen = {"gradient_norm": signal}
            asked = self.policy.decide(
                Observation(step, step, None, {state.name: state}, seen, decisions=self.decisions)
            )
            self.decisions = []
            self.actions += asked
            for action in asked:
                self.clip = action.value
        return self

    def set_by(self, source, action):
        self.decisions = [Decision(1, 0.0, 0, 0, 0, source, action, "applied")]
        if isinstance(action, Set):
            self.clip = action.value


def test_it_is_a_policy():
    policy = GradientClipping("norm", "gradient_norm/head", name="clip")
    assert isinstance(policy, Policy)
    assert (policy.name, policy.requires, policy.controls) == ("clip", ("gradient_norm/head",), ("norm",))


def test_the_threshold_is_four_times_a_quiet_norm_and_higher_at_heavy_tails():
    assert Run().go(*[2.0] * 5).clip == pytest.approx(8.0)
    assert Run().go(*[2.0] * 4).clip == START
    rng = np.random.default_rng(0)
    heavy = np.exp(rng.standard_normal(400))
    run = Run().go(*heavy[:30])
    assert run.clip > 8
    exceeded = sum(norm > run.clip for norm in heavy[30:] if run.go(norm))
    assert exceeded <= 4


def test_spikes_and_a_short_burst_do_not_lift_it():
    run = Run().go(*[1.0] * 10)
    before = run.clip
    run.go(300, 1, 1, 1, 1, 1, 1, 1, 1, 1, 200, 300, 400, 500)
    assert run.clip == before


def test_it_follows_a_norm_that_falls_and_one_that_jumps():
    run = Run().go(*np.geomspace(1, 1e-3, 60))
    assert run.clip < 0.05
    run.go(*[0.1] * 6)
    assert run.clip > 0.1
    assert run.clip < 100


def test_a_norm_that_grows_tenfold_over_200_steps_is_never_clipped():
    run = Run().go(*[1.0] * 10)
    for norm in np.geomspace(1, 10, 21):
        assert run.go(norm).clip > norm


def test_a_steady_norm_is_one_decision():
    rng = np.random.default_rng(1)
    assert len(Run().go(*np.exp(0.1 * rng.standard_normal(300))).actions) == 1


def test_what_was_there_before_is_a_ceiling():
    assert Run(clip=1.0).go(*[5.0] * 50).actions == []
    run = Run(clip=1.0).go(*[0.01] * 10)
    assert run.clip == pytest.approx(0.04)
    assert run.go(*[5.0] * 20).clip == 1.0


def test_what_another_sets_is_a_ceiling_and_a_rewind_is_none():
    run = Run().go(*[1.0] * 10)
    run.set_by("human:ada", Set("gradient_clip", 0.5, reason="by hand"))
    assert run.go(*[1.0] * 20).clip == 0.5
    run = Run().go(*[1.0] * 10)
    run.set_by("divergence_guard", Rewind(10, reason="diverged"))
    assert run.go(*[10.0] * 20).clip == pytest.approx(40)


def test_it_stays_within_the_bounds_and_out_of_the_way():
    assert Run(low=1.0).go(*[1e-3] * 20).clip == 1.0
    assert Run(owner="human:ada").go(*[1.0] * 20).actions == []
    assert Run().go(*[0.0, np.nan, np.inf] * 20).actions == []


def loss(plant, policies):
    with np.errstate(all="ignore"):
        return Simulation(plant, policies, budget=600).run().plant.evaluate()["validation/loss"]


def test_poisoned_batches_are_rendered_harmless_and_healthy_runs_are_untouched():
    better = []
    for seed in range(1000, 1010):
        rate = Task.random(seed).usual_rate / 3
        poisoned = Task.random(seed, poison=0.01, rate=rate)
        better.append(loss(TrainingPlant(poisoned), [GradientClipping()]) / loss(TrainingPlant(poisoned), []))
        healthy = Task.random(seed, poison=0.0, rate=rate)
        untouched = loss(TrainingPlant(healthy), [])
        assert loss(TrainingPlant(healthy), [GradientClipping()]) == pytest.approx(untouched, rel=0.01)
    assert np.median(better) < 0.5
