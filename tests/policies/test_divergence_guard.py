import math

import numpy as np
import pytest
from quadratic import Loop, Quadratic

from autotune.policies import DivergenceGuard
from autotune.records import Escalate, Policy, Ramp, Rewind, Set, TuneError
from autotune.supervisor import Limits

GOOD = 0.5  # of the quadratic: rates above 2 diverge


def run(plant=None, rate=GOOD, steps=2000, attempts=6, **arguments):
    return Loop(plant or Quadratic(), [DivergenceGuard(attempts=attempts)], rate, **arguments).run(steps)


class Bare(Quadratic):
    """Only the loss is measured."""

    def step(self, rate, batch):
        return {"loss": super().step(rate, batch)["loss"]}


def test_it_is_a_policy():
    guard = DivergenceGuard("rate", name="guard")
    assert isinstance(guard, Policy)
    assert (guard.name, guard.requires, guard.controls) == ("guard", ("loss",), ("rate",))
    with pytest.raises(TuneError, match="attempts is at least 1, got 0"):
        DivergenceGuard(attempts=0)


# --- a healthy run is left alone ---------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 50])
def test_no_false_alarm_under_heavy_tailed_noise(first):
    alarms = []
    for seed in range(first, first + 50):
        rng = np.random.default_rng(seed)
        plant = (Quadratic if seed % 2 else Bare)(
            seed,
            noise=rng.choice([0.02, 0.1, 0.3]),
            tails=rng.choice([3, 5, 30]),
            floor=10 ** rng.uniform(-6, -1),
            condition=10 ** rng.uniform(0.5, 3),
            gradient_noise=10 ** rng.uniform(-4, -1),
            memory=rng.choice([0.0, 0.5]),
        )
        rate = 10 ** rng.uniform(-5, -0.05)
        alarms += run(plant, rate, 1200).decisions
    assert alarms == []


@pytest.mark.parametrize("rate", [1e-5, 1e-3])
def test_a_rate_that_is_too_low_is_left_alone(rate):
    assert not run(rate=rate).decisions


@pytest.mark.parametrize("length", [1, 5, 40])
def test_a_spike_that_recovers_is_waited_out(length):
    assert not run(Quadratic(spikes=range(1000, 1000 + length))).decisions


def test_losses_of_any_sign_have_no_false_alarm():
    class Shifted(Quadratic):
        def step(self, rate, batch):
            rng = np.random.default_rng((self.seed, batch, 1))
            measured = super().step(rate, batch)
            return {**measured, "loss": self.true_loss() - 0.7 + 0.05 * rng.standard_t(3)}

    for seed in range(10):
        assert not run(Shifted(seed)).decisions
    assert run(Shifted(poison=range(1000, 1030))).applied(Rewind)


# --- a run that breaks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ceiling", [None, 10.0], ids=["unbounded", "saturating"])
def test_a_burst_of_poisoned_batches_is_rewound_once_and_skipped(ceiling):
    loop = run(Quadratic(poison=range(1000, 1030), ceiling=ceiling))
    (decision,) = loop.applied(Rewind)
    assert decision.spent <= 1070
    assert decision.action.to < 1000
    assert decision.action.data == "skip"
    start, ramp = decision.action.then
    assert isinstance(start, Set)
    assert isinstance(ramp, Ramp)
    assert (start.value, ramp.value) == (pytest.approx(GOOD / 20), pytest.approx(GOOD / 2))
    assert loop.rate == pytest.approx(GOOD / 2)
    assert loop.plant.true_loss() < 2e-3


def test_it_rewinds_to_before_the_first_anomaly_not_to_the_confirmation():
    loop = run(Quadratic(poison=range(1000, 1030), ceiling=10.0), capacity=20)
    (decision,) = loop.applied(Rewind)
    taken_since = [1000, 1050]
    assert decision.action.to == 950
    assert decision.action.evidence["first_anomaly"] == 1001
    assert all(step > decision.action.to for step in taken_since)


def test_lost_losses_do_not_wait_and_bad_data_do_not_cost_the_rate():
    loop = run(Quadratic(nan=range(1000, 1030)))
    first, second = loop.applied(Rewind)
    assert first.spent == 1010
    assert (first.action.to, second.action.to) == (950, 950)
    assert second.action.evidence["factor"] == 1.0
    assert second.spent - first.spent >= 50  # the bad data were read to their end
    assert loop.rate == pytest.approx(GOOD / 2)
    assert loop.plant.true_loss() < 2e-3


@pytest.mark.parametrize("factor", [10, 100, 1000])
@pytest.mark.parametrize(
    ("ceiling", "measured"),
    [(None, True), (10.0, True), (None, False)],
    ids=["unbounded", "saturating", "unbounded, loss alone"],
)
def test_a_rate_that_is_far_too_high_at_the_start_is_corrected_within_200_steps(factor, ceiling, measured):
    for seed in range(2):
        loop = run((Quadratic if measured else Bare)(seed, ceiling=ceiling), GOOD * factor)
        assert loop.applied(Rewind)
        assert {d.action.to for d in loop.applied(Rewind)} == {0}
        assert loop.applied(Rewind)[-1].spent <= 200
        assert 1e-2 < loop.rate < 2
        assert loop.plant.true_loss() < 0.02


def test_a_second_divergence_soon_after_goes_deeper_and_lower():
    class Broken(Quadratic):
        """From batch 1000 on every step at a rate above 0.1 blows the weights up."""

        def step(self, rate, batch):
            measured = super().step(rate, batch)
            if batch >= 1000 and rate > 0.1:
                self.w = self.w * 3
            return measured

    loop = run(Broken(ceiling=10.0), steps=4000, budget=None)
    rewinds = loop.applied(Rewind)
    assert len(rewinds) >= 2
    assert rewinds[1].action.to < rewinds[0].action.to
    assert rewinds[1].action.evidence["factor"] < rewinds[0].action.evidence["factor"]
    assert loop.rate <= 0.1
    assert not loop.applied(Escalate)


def test_what_is_lost_slowly_is_noticed():
    class Eroding(Quadratic):
        """From batch 600 on the weights grow by 1 % a step, whatever the gradient."""

        def step(self, rate, batch):
            measured = super().step(1e-4 * rate if batch >= 600 else rate, batch)
            if 600 <= batch < 1100:
                self.w = self.w * 1.012
            return measured

    loop = run(Eroding(floor=1e-4, gradient_noise=0.03))
    assert loop.applied(Rewind)
    assert loop.decisions[0].action.to <= 700


# --- giving up ---------------------------------------------------------------------------------------------


def test_it_escalates_once_after_so_many_attempts():
    loop = run(Quadratic(nan=range(500, 10**6)), attempts=3, steps=3000, budget=None)
    assert len(loop.applied(Rewind)) == 3
    (escalation,) = loop.applied(Escalate)
    assert "3 rewinds did not help" in escalation.action.reason
    assert loop.decisions[-1] is escalation


def test_a_long_healthy_stretch_heals_the_count():
    bursts = [start + i for start in range(1000, 9000, 1500) for i in range(10)]
    loop = run(Quadratic(nan=bursts), attempts=2, steps=9000, budget=None, limits=Limits(max_rewinds=99))
    assert len(loop.applied(Rewind)) >= 6
    assert not loop.applied(Escalate)


@pytest.mark.parametrize("arguments", [{"suggest": True}, {"limits": Limits(max_rewinds=0)}])
def test_refusals_do_not_loop(arguments):
    loop = run(Quadratic(nan=range(500, 10**6)), steps=4000, budget=None, **arguments)
    assert not loop.applied(Rewind)
    assert 1 <= len(loop.decisions) <= 7
    assert isinstance(loop.decisions[-1].action, Escalate)


def test_a_rate_that_a_person_holds_is_not_lowered():
    loop = Loop(Quadratic(poison=range(1000, 1030)), [DivergenceGuard()], GOOD)
    loop.controls["lr"].owner = "human:ada"
    loop.run(2000)
    (decision,) = loop.decisions
    assert decision.action.then == ()
    assert loop.rate == GOOD
    assert loop.plant.true_loss() < 3e-3

    loop = Loop(Quadratic(), [DivergenceGuard()], 100 * GOOD)
    loop.controls["lr"].owner = "human:ada"
    loop.run(500)
    (decision,) = loop.decisions
    assert isinstance(decision.action, Escalate)
    assert "held by human:ada" in decision.action.reason


def test_a_rate_that_a_person_has_set_too_high_costs_one_rewind_and_not_the_run():
    loop = Loop(Quadratic(), [DivergenceGuard()], GOOD)
    loop.run(1000)
    loop.controls["lr"].owner = "human:ada"
    loop.controls["lr"].write(100 * GOOD)
    loop.run(1000)
    assert len(loop.applied(Rewind)) == 1
    (asked,) = loop.applied(Escalate)
    assert "lr is held by human:ada and cannot be lowered" in asked.action.reason


def test_without_snapshots_it_escalates():
    loop = Loop(Quadratic(), [DivergenceGuard()], 100 * GOOD, capacity=0)
    loop.run(200)
    assert [type(d.action) for d in loop.decisions] == [Escalate]


# --- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [30, 500, 1020, 1080])
@pytest.mark.parametrize("rate", [GOOD, 100 * GOOD])
def test_a_round_trip_of_the_memory_changes_no_decision(at, rate):
    def loop():
        return Loop(Quadratic(nan=range(1000, 1030), poison=range(1500, 1530)), [DivergenceGuard()], rate)

    whole = loop().run(2000)
    resumed = loop().run(at).resumed(loop()).run(2000 - at)
    assert resumed.decisions == whole.decisions != ()


def test_every_evidence_is_a_finite_number():
    for plant in (Quadratic(nan=range(500, 10**6)), Quadratic(poison=range(500, 530))):
        for decision in run(plant, steps=1500).decisions:
            assert all(math.isfinite(value) for value in decision.action.evidence.values())


def test_values_that_come_a_tick_late_change_little():
    loop = run(Quadratic(poison=range(1000, 1030)), lag=1)
    (decision,) = loop.applied(Rewind)
    assert decision.spent <= 1080
    assert decision.action.to == 950
