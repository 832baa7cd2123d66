import json

import pytest
from loops import Loop

from autotune.policies import DivergenceGuard, schedules
from autotune.policies.wrappers import (
    Cooldown,
    EveryN,
    IfThere,
    Limit,
    OnlyBetween,
    Patience,
    WarmUp,
    Wrapper,
)
from autotune.records import Policy, Release, Rewind, Set, TuneError
from autotune.testing import Simulation, TrainingPlant, conformance


class Nudge:
    """Wants to nudge the rate at each tick from `start` to `stop`; remembers all that it has seen."""

    name, requires, controls = "nudge", ("loss",), ("lr",)

    def __init__(self, start=0, stop=10**9, gaps=()):
        self.start, self.stop, self.gaps = start, stop, gaps
        self.asked, self.heard, self.wanted = [], [], 0

    def decide(self, observation):
        self.asked.append(observation.step)
        self.heard += [decision.id for decision in observation.decisions]
        if not self.start <= observation.step < self.stop or observation.step in self.gaps:
            return ()
        self.wanted += 1
        rate = observation.hyperparameters["lr"].value
        return [Set("lr", rate * (1.01 if self.wanted % 2 else 0.99), reason="a nudge")]

    def state_dict(self):
        return {"asked": self.asked, "heard": self.heard, "wanted": self.wanted}

    def load_state_dict(self, state):
        self.asked, self.heard, self.wanted = list(state["asked"]), list(state["heard"]), state["wanted"]


def run(policies, steps=200, **arguments):
    policies = policies if isinstance(policies, list) else [policies]
    return Simulation(TrainingPlant(seed=1000), policies, budget=1000, **arguments).run(steps)


def steps(sim):
    return [d.step for d in sim.decisions if d.applied and d.source == "nudge" and d.action.kind == "set"]


ALL = [
    lambda policy: Patience(policy, 2),
    lambda policy: Cooldown(policy, 30),
    lambda policy: WarmUp(policy, 50),
    lambda policy: OnlyBetween(policy, 30, 150),
    lambda policy: EveryN(policy, 3),
    lambda policy: Limit(policy, 4),
    IfThere,
]


@pytest.mark.parametrize("wrap", ALL)
def test_it_is_the_policy_that_it_wraps(wrap):
    wrapped = wrap(Nudge())
    assert isinstance(wrapped, Policy)
    assert (wrapped.name, wrapped.requires, wrapped.controls) == ("nudge", ("loss",), ("lr",))


def test_patience_lets_a_wish_through_that_lasts():
    assert steps(run(Patience(Nudge(50, 90), 3))) == [70]
    assert steps(run(Patience(Nudge(50, 130, gaps=(60, 90)), 3))) == [120]
    assert steps(run(Patience(Nudge(), 1))) == list(range(0, 201, 10))


def test_patience_makes_the_policy_forget_that_it_asked():
    nudge = Nudge(50, 70)
    sim = run(Patience(nudge, 3))
    assert not sim.decisions
    assert nudge.wanted == 0
    assert nudge.asked == [step for step in range(0, 201, 10) if step not in (50, 60)]


def test_patience_begins_anew_after_a_rewind():
    sim = run(Patience(Nudge(100), 4), 120)
    sim.submit(Rewind(100, reason=""), "human:anna")
    sim.run(60)
    assert steps(sim) == [140]


def test_a_cooldown_counts_from_what_was_applied():
    nudge = Nudge()
    assert steps(run(Cooldown(nudge, 40))) == [0, 40, 80, 120, 160, 200]
    assert nudge.asked == [0, 40, 80, 120, 160, 200]
    other = run(Cooldown(Nudge(), 40), 30)
    other.submit(Set("lr", 0.1, reason=""), "human:anna")
    other.run(60)  # what is refused is no reason to wait
    assert sum(d.status == "refused" for d in other.decisions) == 6


def test_a_warm_up_is_silent():
    nudge = Nudge()
    assert steps(run(WarmUp(nudge, 75))) == list(range(80, 201, 10))
    assert nudge.asked[0] == 80


def test_only_between_two_steps():
    assert steps(run(OnlyBetween(Nudge(), 30, 60))) == [30, 40, 50]
    assert steps(run(OnlyBetween(Nudge(), 180))) == [180, 190, 200]


def test_every_nth_tick():
    assert steps(run(EveryN(Nudge(), 6))) == [0, 60, 120, 180]


def test_a_limit_counts_what_was_applied():
    nudge = Nudge()
    assert steps(run(Limit(nudge, 3))) == [0, 10, 20]
    assert nudge.asked == [0, 10, 20]
    sim = Simulation(TrainingPlant(seed=1000), [Limit(Nudge(), 3)], budget=1000)
    sim.submit(Set("lr", 0.1, reason=""), "human:anna")
    sim.run(50)
    sim.submit(Release("lr", reason=""), "human:anna")
    assert steps(sim.run(100)) == [60, 70, 80]


def test_all_that_is_done_at_one_tick_is_one_time():
    class Burst(Nudge):
        def decide(self, observation):
            if not observation.step:
                return ()
            return [Rewind(observation.step - 10, "skip", reason=""), *super().decide(observation)]

    sim = run(Limit(Burst(), 2), 100)
    assert [d.action.kind for d in sim.decisions if d.applied] == ["rewind", "set"] * 2 + ["release"]


@pytest.mark.parametrize("wrap", ALL)
def test_what_is_decided_in_the_meantime_is_told_once_and_in_order(wrap):
    nudge = Nudge(start=0, stop=60)
    sim = Simulation(TrainingPlant(seed=1000), [wrap(nudge)], budget=1000)
    for step in range(120):
        if step in (15, 35, 42, 77):
            sim.submit(Set("momentum", 0.5 + step / 1000, reason=""), "human:anna")
        sim.run(1)
    if not isinstance(wrap(Nudge()), Limit):
        sim.run(40)
        assert nudge.heard == [d.id for d in sim.decisions if d.step < 120][: len(nudge.heard)]
        assert len(nudge.heard) >= 4
    assert nudge.heard == sorted(set(nudge.heard))


def test_wrappers_compose():
    nudge = Nudge()
    sim = run(WarmUp(Cooldown(EveryN(Limit(nudge, 2), 2), 50), 40))
    assert steps(sim) == [40, 100]
    assert isinstance(sim.panel.policies[0]._policy, Wrapper)


@pytest.mark.parametrize("at", [25, 77, 140])
@pytest.mark.parametrize("wrap", [*ALL, lambda policy: Patience(Cooldown(EveryN(policy, 2), 30), 2)])
def test_a_resumed_one_goes_on_as_if_nothing_had_happened(wrap, at):
    def fresh():
        return Simulation(TrainingPlant(seed=1000), [wrap(Nudge(30, 170))], budget=1000)

    def lead(sim):
        sim.run(at - 5)
        sim.submit(Set("momentum", 0.5, reason="", evidence={"by": "hand"}), "human:anna")
        sim.submit(Rewind(at - 15, "skip", (Set("momentum", 0.6, reason=""),), reason=""), "human:anna")
        return sim.run(5)

    whole, part, resumed = lead(fresh()), lead(fresh()), fresh()
    resumed.load_state_dict({**part.state_dict(), "panel": json.loads(json.dumps(part.panel.state_dict()))})
    whole.run(100)
    resumed.run(100)
    assert json.loads(json.dumps(resumed.panel.state_dict())) == json.loads(
        json.dumps(whole.panel.state_dict())
    )
    later = [[d.step for d in sim.decisions if d.spent > at] for sim in (resumed, whole)]
    assert later[0] == later[1]


def test_wrappers_within_wrappers_conform():
    conformance.check(lambda: Patience(Cooldown(WarmUp(schedules.linear(), 20), 30), 2), TrainingPlant)


def test_a_guard_that_is_limited_rescues_so_often():
    plants = [TrainingPlant(seed=1000, burst=(300, 320)) for _ in range(2)]
    policies = [DivergenceGuard(), Limit(WarmUp(DivergenceGuard(), 100), 1)]
    whole, limited = (
        Simulation(plant, [policy], budget=1000).run() for plant, policy in zip(plants, policies, strict=True)
    )
    rewinds = [[d.step for d in sim.decisions if d.action.kind == "rewind"] for sim in (whole, limited)]
    assert rewinds[0] == rewinds[1]
    assert len(rewinds[0]) == 1
    assert [d.action.kind for d in limited.decisions] == ["rewind", "release"]


def test_a_policy_that_is_over_lets_go_of_what_it_has_moved():
    class Lower(Nudge):
        name = "lower"

        def decide(self, observation):
            rate = observation.hyperparameters["lr"].value
            return [Set("lr", 0.9 * rate, reason="")]

    class Raise(Nudge):
        def decide(self, observation):
            rate = observation.hyperparameters["lr"].value
            return [Set("lr", 1.1 * rate, reason="")] if observation.step >= 100 else []

    for first in (OnlyBetween(Lower(), 10, 60), Limit(Lower(), 5)):
        sim = run([first, Raise()])
        kinds = [d.action.kind for d in sim.decisions if d.source == "lower"]
        assert kinds == ["set"] * 5 + ["release"]
        assert steps(sim) == list(range(100, 201, 10))


class Needy(Nudge):
    """Needs what is not in every run."""

    def __init__(self, signal="loss", hyperparameter="lr"):
        super().__init__()
        self.requires, self.controls = (signal,), (hyperparameter,)

    def decide(self, observation):
        assert all(name in observation.signals for name in self.requires)
        assert all(name in observation.hyperparameters for name in self.controls)
        return super().decide(observation)


@pytest.mark.parametrize("missing", [{"signal": "nowhere"}, {"hyperparameter": "nowhere"}])
def test_if_there_is_silent_where_something_is_missing_instead_of_an_error(missing):
    with pytest.raises(TuneError, match="nowhere"):
        run(Needy(**missing))
    needy = Needy(**missing)
    sim = run(IfThere(needy))
    assert not needy.asked
    assert not sim.decisions
    assert not sim.benched


def test_if_there_asks_where_all_is_there():
    assert steps(run(IfThere(Nudge()))) == list(range(10, 201, 10)), "from the first loss on"


def test_if_there_waits_for_the_first_value_and_tells_then_what_was_missed():
    needy = Needy("validation/loss")
    sim = Simulation(TrainingPlant(seed=1000), [IfThere(needy)], budget=1000, lag=3)
    sim.run(5)
    sim.submit(Set("momentum", 0.5, reason=""), "human:anna")
    sim.run(95)
    assert needy.asked[0] == 30, "values come three ticks late"
    assert needy.heard[0] == 1


@pytest.mark.parametrize("wrap", [lambda p: Limit(p, 3), lambda p: WarmUp(p, 50), lambda p: Patience(p, 2)])
def test_if_there_stays_so_in_other_wrappers(wrap):
    sim = run(wrap(IfThere(Needy(hyperparameter="nowhere"))))
    assert not sim.benched
    assert not sim.decisions


def test_if_there_needs_no_loss_in_a_loop_that_reports_none(tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path, policies=[IfThere(Nudge())], total_steps=60) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
    assert tuner.step == 60


@pytest.mark.parametrize(
    "make",
    [
        lambda: IfThere(object()),
        lambda: WarmUp(object(), 10),
        lambda: Patience(Nudge(), 0),
        lambda: Cooldown(Nudge(), 0),
        lambda: Cooldown(Nudge(), 1.5),
        lambda: WarmUp(Nudge(), True),
        lambda: OnlyBetween(Nudge(), -1),
        lambda: OnlyBetween(Nudge(), 50, 50),
        lambda: EveryN(Nudge(), 0),
        lambda: Limit(Nudge(), 0),
    ],
)
def test_bad_input_is_refused_at_once(make):
    with pytest.raises(TuneError, match="got"):
        make()
