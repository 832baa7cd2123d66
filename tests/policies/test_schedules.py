import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler
from transformers import get_inverse_sqrt_schedule, get_wsd_schedule

from autotune import AutoTuner, Limits
from autotune.actuators import beta1, learning_rate, momentum
from autotune.policies import schedules
from autotune.policies.pieces import Piece, Plan
from autotune.policies.schedule import CHORDS, Schedule
from autotune.ramps import RunningRamp
from autotune.records import SHAPES, Checkpoint, Policy, Ramp, Release, Rewind, Set, TuneError
from autotune.testing import Simulation, TrainingPlant

PEAK, NOTHING = 0.1, 1e-30
FREE = Limits(max_factor=1e40)  # a warm-up from zero is one jump
MODEL = torch.nn.Linear(3, 1)


def used(policies, steps, every, folder, lr=PEAK, adam=False):
    """The rate and the momentum that each step of a real loop uses."""
    model = torch.nn.Linear(3, 1)
    optimizer = (
        torch.optim.Adam(model.parameters(), lr)
        if adam
        else torch.optim.SGD(model.parameters(), lr, momentum=0.95)
    )
    rate = learning_rate(optimizer, low=NOTHING, high=100.0)
    inverse = (beta1 if adam else momentum)(optimizer)
    rates, momenta = [], []
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    optimizer.register_step_pre_hook(lambda *_: momenta.append(inverse()))
    with AutoTuner(
        model,
        optimizer,
        hyperparameters=[rate, inverse],
        policies=policies,
        total_steps=steps,
        sample_every=every,
        limits=FREE,
        sensors=(),
        folder=folder / "run",
        mlflow=False,
    ) as tuner:
        for inputs in tuner.batches([torch.ones(2, 3)]):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
    assert all(decision.status == "applied" for decision in tuner.decisions)
    return rates, momenta


def of_torch(make, steps, lr=PEAK):
    """What a torch scheduler gives to each step, its `step()` called after each."""
    optimizer = torch.optim.SGD(MODEL.parameters(), lr, momentum=0.95)
    scheduler = make(optimizer)
    rates, momenta = [], []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    return rates, momenta


def warmed(make, **arguments):
    """A scheduler of transformers, from its function."""
    return lambda optimizer: make(optimizer, **arguments)


PAIRS = {
    "constant": (
        schedules.constant(warm_up=40, start=0.25, begin=10),
        lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=40),
    ),
    "linear": (
        schedules.linear(to=0.1, steps=50, begin=10),
        lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=50),
    ),
    "cosine": (
        schedules.cosine(to=0.01, begin=10),  # over the budget of 70 steps
        lambda o: lr_scheduler.CosineAnnealingLR(o, 60, eta_min=0.01 * PEAK),
    ),
    "restarts": (
        Schedule(
            [Piece(30, 0.01, "cosine"), Piece(0, 1.0, "step"), Piece(30, 0.01, "cosine")], begin=10
        ),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 30, eta_min=0.01 * PEAK),
    ),
    "step": (
        schedules.step([20, 50], factor=0.1, begin=10),
        lambda o: lr_scheduler.MultiStepLR(o, [20, 50]),
    ),
    "step every": (
        schedules.step([20, 40], factor=0.5, begin=10),
        lambda o: lr_scheduler.StepLR(o, 20, gamma=0.5),
    ),
    "exponential": (
        Schedule([Piece(60, 0.9**60, "exponential")], begin=10),
        lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    ),
    "cyclical": (
        schedules.cyclical(3, low=0.1, steps=60, begin=10),
        lambda o: lr_scheduler.CyclicLR(o, 0.1 * PEAK, PEAK, step_size_up=10, cycle_momentum=False),
    ),
    "triangular2": (
        schedules.cyclical(3, low=0.1, shrink=0.5, begin=10),
        lambda o: lr_scheduler.CyclicLR(o, 0.1 * PEAK, PEAK, 10, mode="triangular2", cycle_momentum=False),
    ),
    "inverse_sqrt": (
        schedules.inverse_sqrt(20, 50, begin=10),
        warmed(get_inverse_sqrt_schedule, num_warmup_steps=20, timescale=50),
    ),
    "inverse_sqrt lambda": (
        schedules.inverse_sqrt(10, begin=10),
        lambda o: lr_scheduler.LambdaLR(o, lambda n: min(n / 10, (10 / max(n, 1)) ** 0.5) if n else 0.0),
    ),
    "wsd": (
        schedules.wsd(20, 30, shape="cosine", begin=10),
        warmed(get_wsd_schedule, num_warmup_steps=20, num_decay_steps=30, num_training_steps=60),
    ),
    "wsd linear": (
        schedules.wsd(10, 0.5, to=0.2, start=0.2, begin=10),
        warmed(get_wsd_schedule,
            num_warmup_steps=10,
            num_decay_steps=30,
            num_training_steps=60,
            decay_type="linear",
            min_lr_ratio=0.2,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_it_equals_the_schedule_of_torch_in_each_step(name, tmp_path):
    schedule, make = PAIRS[name]
    rates, _ = used([schedule], 70, 10, tmp_path)
    expected, _ = of_torch(make, 60)
    assert rates[:10] == [PEAK] * 10
    assert rates[10:] == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize(("shape", "strategy"), [("cosine", "cos"), ("linear", "linear")])
@pytest.mark.parametrize("adam", [False, True])
def test_one_cycle_equals_that_of_torch_with_its_momentum(shape, strategy, adam, tmp_path):
    total = 63  # torch's lasts one step less than its total_steps, and so does its rise
    cycle = schedules.one_cycle(
        19, shape=shape, momentum="beta1" if adam else "momentum", peak=0.5, steps=total - 1, begin=1
    )
    rates, momenta = used(cycle, total + 1, 1, tmp_path, lr=0.02, adam=adam)
    expected = of_torch(
        lambda o: lr_scheduler.OneCycleLR(
            o, 0.5, total_steps=total, pct_start=20 / total, anneal_strategy=strategy
        ),
        total,
    )  # fmt: skip
    assert rates[1:] == pytest.approx(expected[0][:total], rel=0, abs=1e-12)
    assert momenta[1:] == pytest.approx(expected[1][:total], rel=0, abs=1e-12)


# --- in a simulated run: off the ticks, by hand, after rewinds, edited --------------------------------------


def simulation(policies, budget=1000, **arguments):
    return Simulation(TrainingPlant(rate=PEAK, seed=1000), policies, budget=budget, **arguments)


def follow(sim, steps):
    """The values after each of the next steps."""
    return [sim.run(1)["lr"] for _ in range(steps)]


def jumps(values):
    return max(abs(b - a) for a, b in pairwise(values))


class Once:
    """Does what it is told at one moment."""

    def __init__(self, spent, *actions, controls=("lr",)):
        self.name, self.requires, self.controls = "once", (), controls
        self.spent, self.actions = spent, actions

    def decide(self, observation):
        return self.actions if observation.spent == self.spent else ()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_it_is_a_policy_of_one_hyperparameter():
    schedule = schedules.cosine(hyperparameter="momentum", name="beta")
    assert isinstance(schedule, Policy)
    assert (schedule.name, schedule.requires, schedule.controls) == ("beta", (), ("momentum",))


def test_from_the_first_tick_it_is_on_time_though_pieces_end_between_ticks():
    pieces = [Piece(33, 0.5), Piece(0.104, 0.5, "step"), Piece(14, 0.2), Piece(None, 0.1, "exponential")]
    sim = simulation([Schedule(pieces)])
    values = [PEAK, *follow(sim, 1000)]
    assert values[33] == values[137] == pytest.approx(0.5 * PEAK)
    assert values[138] == values[140] > values[141]
    assert values[151] == values[160] == pytest.approx(0.2 * PEAK)
    assert values[1000] == pytest.approx(0.1 * PEAK)
    assert jumps(values) < 0.1 * PEAK
    assert len(sim.decisions) == 3


def test_a_peak_is_gone_to_at_once():
    sim = simulation([schedules.linear(peak=0.5)])
    assert follow(sim, 20)[9:] == pytest.approx([0.5 * (1 - n / 1000) for n in range(10, 21)])


def test_what_a_person_holds_is_left_alone_and_then_followed_in_proportion():
    sim = simulation([schedules.linear()])
    sim.run(400)
    sim.submit(Set("lr", 0.02, reason=""), "human:anna")
    assert follow(sim, 200) == [0.02] * 200
    sim.submit(Release("lr", reason=""), "human:anna")
    planned = [0.02 * min(1, (400 - n) / 390) for n in range(1, 401)]  # from the next tick on
    assert follow(sim, 400) == pytest.approx(planned, abs=1e-7)


def test_what_falls_due_while_a_person_holds_it_is_hers_to_have_left_out():
    sim = simulation([schedules.step([300, 500], 0.1)]).run(250)
    sim.submit(Set("lr", 0.05, reason=""), "human:anna")
    sim.run(100)
    sim.submit(Release("lr", reason=""), "human:anna")
    assert sim.run(100)["lr"] == 0.05
    assert sim.run(100)["lr"] == pytest.approx(0.005)


def test_a_cosine_that_was_interrupted_goes_on_from_where_it_is():
    sim, plain = simulation([schedules.cosine()]).run(500), simulation([schedules.cosine()]).run(500)
    sim.submit(Set("lr", sim["lr"] / 2, reason=""), "human:anna")
    sim.submit(Release("lr", reason=""), "human:anna")
    halved, usual = follow(sim, 500), follow(plain, 500)
    assert all(abs(a - b / 2) < 0.02 * PEAK for a, b in zip(halved, usual, strict=True))
    assert halved[-1] == 1e-7
    assert 2 <= len(sim.decisions) <= 4 + CHORDS


def test_a_warm_up_that_was_raised_does_not_raise_the_peak():
    sim = simulation([schedules.constant(warm_up=400, start=0.01)]).run(100)
    sim.submit(Set("lr", 0.08, reason=""), "human:anna")
    sim.submit(Release("lr", reason=""), "human:anna")
    values = follow(sim, 600)
    assert values[8] == 0.08
    assert max(values) == values[-1] == pytest.approx(PEAK)


@pytest.mark.parametrize("schedule", [schedules.linear, schedules.cosine, schedules.wsd, schedules.cyclical])
def test_after_a_rewind_it_ends_with_the_budget_and_goes_on_without_a_jump(schedule):
    sim = simulation([schedule()]).run(655)
    sim.submit(Rewind(400, reason=""), "human:anna")
    step = sim.clock.step
    values = [sim["lr"], *follow(sim, 345)]
    assert sim.clock.over
    assert sim.clock.step == step + 345
    plan = Plan([Piece(*piece) for piece in schedule()._pieces], 1000)
    assert values[-1] == pytest.approx(max(PEAK * plan.at(1000), 1e-7))
    assert jumps(values) < 0.05 * PEAK
    for n in range(345):  # a tick late at most, in which it goes 20 steps along
        assert values[n] == pytest.approx(PEAK * plan.at(step + n / 345 * (1000 - step)), abs=0.2 * PEAK)


def test_with_steps_of_its_own_it_goes_back_with_a_rewind():
    sim = simulation([schedules.cosine(steps=800)])
    before = follow(sim, 700)
    count = len(sim.decisions)
    sim.submit(Rewind(400, reason=""), "human:anna")
    step = sim.clock.step
    assert follow(sim, 300) == before[step : step + 300]
    assert len(sim.decisions) == count + 1  # the rewind: the ramp that ran then runs again


def test_a_rescue_keeps_what_it_has_lowered():
    then = (Set("lr", 0.005, reason=""), Ramp("lr", 0.05, 40, reason=""))
    rescue = Once(500, Rewind(350, "skip", then, reason=""))
    sim = simulation([rescue, schedules.wsd(warm_up=100, decay=0.3)])
    follow(sim, 500)
    values = [sim["lr"], *follow(sim, 500)]
    assert values[0] == 0.005
    assert max(values) == pytest.approx(0.05)
    assert values[40] == values[250] == pytest.approx(0.05)
    assert values[-1] == pytest.approx(1e-7)
    assert jumps(values) < 0.003
    assert not any(d.status == "refused" for d in sim.decisions)


def test_a_milestone_that_was_refused_is_asked_for_again():
    other = Once(290, Set("lr", 0.05, reason=""))
    sim = simulation([other, schedules.step([300], 0.1)]).run(400)
    refused = [d for d in sim.decisions if d.status == "refused"]
    assert [d.step for d in refused] == [300]
    assert sim["lr"] == pytest.approx(0.005)  # half of what was planned, as it was found


def test_a_state_saved_at_a_milestone_before_it_was_done_has_it_still_to_come():
    early = Once(300, Checkpoint("early", reason=""))
    sim = simulation([early, schedules.step([300], 0.1)]).run(400)
    sim.submit(Rewind("early", reason=""), "human:anna")
    assert sim["lr"] == PEAK
    assert sim.run(10)["lr"] == pytest.approx(0.1 * PEAK)


def test_what_is_refused_for_good_is_asked_for_seldom():
    lower = Once(10, Set("lr", 0.05, reason=""))  # further up the list, and it never lets go
    sim = simulation([lower, Schedule([Piece(0.1, 1.0, "step"), Piece(None, 5.0)])]).run(1000)
    assert sim["lr"] == 0.05
    assert 3 <= sum(d.status == "refused" for d in sim.decisions) <= 7


def test_it_is_edited_in_mid_run_from_the_value_where_it_is():
    schedule = schedules.cosine()
    sim = simulation([schedule]).run(500)
    with pytest.raises(TuneError, match="shape is one of"):
        schedule.edit([Piece(100, 1.0, "square")])
    with pytest.raises(TuneError, match="pieces fit"):
        schedule.edit([Piece(100, 1.0, "step"), Piece(50, 0.1)], steps=120)
    schedule.edit([Piece(100, 1.0, "step"), Piece(50, 2.0), Piece(None, 0.0)])
    found = sim.run(10)["lr"]
    values = [found, *follow(sim, 490)]
    assert values[100] == found
    assert values[150] == pytest.approx(2 * found)
    assert values[-1] == pytest.approx(1e-7)
    assert jumps(values) < 0.05 * found


def test_an_edit_that_is_rewound_begins_again_where_the_run_is():
    schedule = schedules.linear()
    sim = simulation([schedule]).run(600)
    schedule.edit([Piece(None, 0.5)])
    sim.run(100)
    sim.submit(Rewind(300, reason=""), "human:anna")
    found = sim.run(10)["lr"]
    assert sim.run(290)["lr"] == pytest.approx(found / 2)


@pytest.mark.parametrize("at", [55, 300, 655])
def test_a_resumed_schedule_goes_on_as_if_nothing_had_happened(at):
    def fresh():
        return [*schedules.one_cycle(warm_up=0.3), Once(400, Rewind(250, "skip", reason=""))]

    whole, policies = simulation(fresh()).run(at), fresh()
    part = simulation(policies).run(at)
    assert part["lr"] == whole["lr"]
    if at == 300:
        whole, part = part, simulation(again := fresh()).run(at)
        for policy in (policies[0], again[0]):
            policy.edit([Piece(100, 0.7, "cosine"), Piece(None, 0.0)])
    resumed = simulation(fresh())
    resumed.load_state_dict({**part.state_dict(), "panel": json.loads(json.dumps(part.panel.state_dict()))})
    assert follow(resumed, 300) == follow(whole, 300)
    assert resumed["momentum"] == whole["momentum"]


def test_it_says_so_once_when_there_is_no_total():
    sim = simulation([schedules.cosine()], budget=None).run(30)
    (decision,) = sim.decisions
    assert "total_steps" in decision.action.reason
    assert simulation([schedules.cosine(steps=20)], budget=None).run(40)["lr"] == pytest.approx(1e-7)


def test_it_says_so_once_when_there_is_nothing_to_be_relative_to():
    sim = simulation([schedules.linear(hyperparameter="weight_decay")]).run(30)
    (decision,) = sim.decisions
    assert "give peak" in decision.action.reason


def test_suggestions_are_not_repeated_at_every_tick():
    sim = simulation([schedules.linear()], suggest=True).run(1000)
    assert sim["lr"] == PEAK
    assert 3 <= len(sim.decisions) <= 7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule([]), "one Piece or more"),
        (lambda: Schedule([(100, 0.1)]), "one Piece or more"),
        (lambda: Schedule([Piece(None, 1.0), Piece(None, 0.0)]), "takes the rest"),
        (lambda: Schedule([Piece(0.7, 1.0, "step"), Piece(0.4, 0.0)]), "add up to 1 at most, got 1.1"),
        (lambda: Schedule([Piece(1.0, 1.0, "step"), Piece(10, 0.0)]), "pieces fit"),
        (lambda: Schedule([Piece(10, 0.0, "exponential")]), "positive"),
        (lambda: Schedule([Piece(10, 0.0)], steps=0), "at least 1"),
        (lambda: Schedule([Piece(10, 0.0)], peak=0.0), "positive number"),
        (lambda: Schedule([Piece(10, 0.0)], begin=-1), "step 0 or later"),
        (lambda: Piece(0, 1.0), "at least 1"),
        (lambda: Piece(1.5, 1.0), "part of the total"),
        (lambda: Piece(10, -1.0), "0 or more"),
        (lambda: schedules.step([300, 100]), "rise"),
        (lambda: schedules.step([]), "rise"),
        (lambda: schedules.inverse_sqrt(0), "timescale"),
        (lambda: schedules.cyclical(0), "one cycle"),
    ],
)
def test_bad_input_is_refused_at_once(make, message):
    with pytest.raises(TuneError, match=message):
        make()


values = st.floats(1e-6, 1e3)


@given(st.sampled_from(SHAPES), values, values, st.integers(1, 10_000), st.floats(0, 1))
def test_a_piece_is_the_curve_that_the_tuner_ramps_along(shape, first, last, steps, part):
    plan = Plan([Piece(0, first, "step"), Piece(steps, last, shape)], None)
    step = round(part * steps)
    assert plan.at(step) == pytest.approx(RunningRamp("", 0, steps, first, last, shape).at(step), rel=1e-12)
