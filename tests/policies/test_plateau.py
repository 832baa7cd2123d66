from itertools import pairwise

import numpy as np
import pytest
from quadratic import Curve, Loop, Quadratic

from autotune.policies import DivergenceGuard, Plateau
from autotune.records import Policy, Ramp, Set

LOW = 1e-5


def run(plant, steps=2000, signal="loss", **arguments):
    return Loop(plant, [Plateau(signal=signal)], 0.5, low=LOW, **arguments).run(steps)


def flat(step):
    return 1.0


def falling(step):
    return np.exp(-step / 500)


def test_it_is_a_policy():
    plateau = Plateau("rate", "validation/loss", name="decay")
    assert isinstance(plateau, Policy)
    assert (plateau.name, plateau.requires, plateau.controls) == ("decay", ("validation/loss",), ("rate",))


@pytest.mark.parametrize("budget", [None, 10_000])
def test_a_plateau_is_found(budget):
    found = 0
    for seed in range(10):
        loop = run(Curve(lambda step: 0.3 + np.exp(-step / 100), seed=seed), 4000, budget=budget)
        decays = loop.applied(Set)
        found += bool(decays)
        assert all(d.after["lr"] == pytest.approx(d.before["lr"] / 3) for d in decays)
        assert all(d.action.evidence["p_falling"] >= 0.5 for d in decays)
    assert found >= 7


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_a_steadily_falling_loss_is_not_decayed(noise):
    decays = [len(run(Curve(falling, noise, seed), 990).decisions) for seed in range(30)]
    assert sum(decays) <= 1


def test_slow_progress_under_much_noise_gets_a_longer_window():
    decays = [
        len(run(Curve(lambda step: np.exp(-step / 3000), 0.5, seed), 4990, budget=10_000).decisions)
        for seed in range(20)
    ]
    assert np.mean(np.array(decays) > 0) <= 0.15


def test_it_never_tests_what_it_has_not_seen_in_full():
    loop = run(Curve(flat), 1000)
    times = [d.step for d in loop.decisions]
    assert times
    assert times[0] >= 200
    assert all(b - a >= 200 for a, b in pairwise(times))


def slow(step):
    return 0.2 + np.exp(-step / 100)


class Aligned(Curve):
    """Its updates agree with the gradient by `cosine`, in the mean."""

    def __init__(self, course, cosine, **arguments):
        super().__init__(course, **arguments)
        self.cosine = cosine

    def step(self, rate, batch):
        noise = np.random.default_rng((self.seed, batch, 1)).standard_normal()
        return {**super().step(rate, batch), "update_alignment": self.cosine + 0.1 * noise}


def test_the_cool_down_is_linear_over_the_last_half_where_the_loss_has_little_to_give():
    loop = Loop(Curve(slow, noise=0.02), [Plateau()], 0.5, low=LOW, budget=2000).run(1000)
    (decision,) = loop.applied(Ramp)
    rate = decision.before["lr"]
    assert decision.step == 1000
    assert decision.action == Ramp(
        "lr", LOW, 1000, reason=decision.action.reason, evidence=decision.action.evidence
    )
    assert decision.action.evidence["given_up"] <= 0.05
    loop.run(500)
    assert loop.rate == pytest.approx(rate / 2, rel=0.01)
    loop.run(500)
    assert loop.rate == pytest.approx(LOW, rel=60)  # the last step has one thousandth of the rate left
    assert len(loop.applied(Ramp)) == 1


def test_a_loss_that_still_falls_fast_is_not_cooled_down():
    for seed in range(10):
        assert not run(Curve(falling, seed=seed)).decisions


@pytest.mark.parametrize(("cosine", "ramps"), [(0.1, 1), (-0.1, 0)])
def test_the_alignment_says_whether_there_is_noise_to_anneal(cosine, ramps):
    for course in (falling, slow):
        loop = run(Aligned(course, cosine, noise=0.05))
        assert len(loop.applied(Ramp)) == (1 if ramps else 0)
        if ramps:
            assert 1000 <= loop.applied(Ramp)[0].step <= 1200


def test_nothing_new_begins_in_the_last_fifth():
    def late(step):
        return np.exp(-min(step, 1700) / 300)

    assert not run(Curve(late, noise=0.05)).decisions


def test_a_pause_in_which_each_step_still_leads_downhill_is_no_plateau():
    assert not run(Aligned(flat, -0.1)).decisions
    assert run(Aligned(flat, 0.1)).applied(Set)


def test_without_a_budget_there_is_no_cool_down():
    loop = run(Curve(falling), 3000, budget=None)
    assert loop.applied(Ramp) == []


def test_decays_without_gain_bring_the_cool_down_forward():
    loop = run(Curve(flat, noise=0.05), 5000, budget=10_000)
    decays, ramps = loop.applied(Set), loop.applied(Ramp)
    assert len(decays) == 2
    (ramp,) = ramps
    assert ramp.spent < 5000
    assert ramp.action.steps == 10_000 - ramp.spent
    assert ramp.action.evidence["p_gain"] > 0.05


def test_the_rate_is_never_raised():
    for seed in range(10):
        loop = run(Quadratic(seed, gradient_noise=0.3), 2000)
        values = [d.after["lr"] - d.before["lr"] for d in loop.applied(Set)]
        assert all(change < 0 for change in values)


def test_validation_loss_is_tested_on_its_few_values():
    assert run(Curve(flat), 1000, signal="validation/loss", evaluate_every=20).applied(Set)
    assert not run(Curve(falling), 990, signal="validation/loss", evaluate_every=20).decisions
    assert not run(Curve(flat), 800, signal="validation/loss", evaluate_every=200).decisions


def test_a_cool_down_that_a_rewind_has_ended_begins_anew():
    plant = Quadratic(poison=range(1400, 1430))
    loop = Loop(plant, [DivergenceGuard(), Plateau()], 0.5, low=LOW, budget=2000).run(2000)
    sources = [d.source for d in loop.decisions if d.applied]
    rewind = sources.index("divergence_guard")
    after = [d for d in loop.decisions if d.applied and d.spent > loop.decisions[rewind].spent]
    assert [type(d.action) for d in after][:1] == [Ramp]
    assert after[0].step + after[0].action.steps == loop.clock.step + 2000 - loop.clock.spent
    assert loop.rate < 1e-3


def test_a_rate_that_a_person_holds_is_left_alone():
    loop = Loop(Curve(flat), [Plateau()], 0.5, low=LOW)
    loop.controls["lr"].owner = "human:ada"
    assert not loop.run(2000).decisions


def test_a_refused_change_is_asked_for_again_later():
    loop = Loop(Curve(flat), [Plateau()], 0.5, low=LOW, budget=2000, suggest=True).run(2000)
    ramps = [d for d in loop.decisions if isinstance(d.action, Ramp)]
    assert ramps
    assert all(b.spent - a.spent >= 20 for a, b in pairwise(ramps))


@pytest.mark.parametrize("at", [150, 450, 1200])
def test_a_round_trip_of_the_memory_changes_no_decision(at):
    def loop():
        return Loop(Quadratic(gradient_noise=0.3), [Plateau()], 0.5, low=LOW)

    whole = loop().run(2000)
    resumed = loop().run(at).resumed(loop()).run(2000 - at)
    assert resumed.decisions == whole.decisions != ()
