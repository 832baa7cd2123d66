import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.hyperparameters import CategoricalHyperparameter, FloatHyperparameter, IntHyperparameter
from autotune.records import Ramp, Release, Rewind, Set, SnapshotInfo, Stop, Suggest, TuneError
from autotune.supervisor import Limits, Situation, Supervisor

NOW = Situation(spent=120, ramps={})
STATE = SnapshotInfo(60, 60)
BEFORE = {"lr": 0.1, "dropout": 0.2, "batch": 32, "loss": "mse"}


def at(spent):
    return Situation(spent, {}, BEFORE, target=STATE)


def make(limits=None, suggest=False, order=()):
    parameters = [
        FloatHyperparameter("lr", 0.1, low=1e-6, high=1.0, log=True),
        FloatHyperparameter("dropout", 0.2, low=0.0, high=0.8),
        IntHyperparameter("batch", 32, low=8, high=512),
        CategoricalHyperparameter("loss", "mse", choices=("mse", "mae")),
    ]
    return Supervisor({p.name: p for p in parameters}, limits or Limits(), suggest, order)


def lr(value, reason="test"):
    return Set("lr", value, reason=reason)


def test_an_action_within_all_limits_is_applied_as_it_is():
    verdict = make().review(lr(0.05), "plateau", NOW)
    assert (verdict.status, verdict.action, verdict.note) == ("applied", lr(0.05), "")


@pytest.mark.parametrize(("asked", "got"), [(5.0, 1.0), (1e-9, 1e-4)])
def test_values_out_of_bounds_or_reach_are_clamped_with_the_reason(asked, got):
    verdict = make().review(lr(asked), "plateau", NOW)
    assert verdict.status == "clamped"
    assert verdict.action.value == pytest.approx(got)
    assert "clamped to" in verdict.note


def test_a_jump_of_a_linear_hyperparameter_is_limited_to_a_part_of_its_range():
    verdict = make(Limits(max_fraction=0.25)).review(Set("dropout", 0.8, reason=""), "gap", NOW)
    assert (verdict.status, verdict.action.value) == ("clamped", pytest.approx(0.4))


@pytest.mark.parametrize("value", [math.nan, math.inf, "big", True])
def test_what_is_no_number_is_refused_and_a_fault(value):
    verdict = make().review(lr(value), "plateau", NOW)
    assert (verdict.status, verdict.fault) == ("refused", True)


def test_unknown_and_undeclared_hyperparameters_are_refused_and_a_fault():
    unknown = make().review(Set("momentum", 0.9, reason=""), "plateau", NOW)
    assert unknown.fault
    assert "no hyperparameter is called 'momentum'; registered: batch, dropout, loss, lr" in unknown.note
    undeclared = make().review(lr(0.05), "gap", Situation(120, {}, controls=frozenset({"dropout"})))
    assert undeclared.fault
    assert "declares in `controls` (dropout)" in undeclared.note


def test_what_a_person_holds_no_policy_changes():
    supervisor = make()
    supervisor.hyperparameters["lr"].owner = "human:ada"
    verdict = supervisor.review(lr(0.05), "plateau", NOW)
    assert (verdict.status, verdict.fault) == ("refused", False)
    assert "held by human:ada until released" in verdict.note
    assert supervisor.review(lr(0.05), "human:bob", NOW).status == "applied"
    assert supervisor.review(Release("lr", reason=""), "human:bob", NOW).status == "applied"


def test_a_person_is_held_to_the_bounds_but_not_to_cooldown_or_reach():
    supervisor = make(Limits(cooldown=1000, max_factor=1.5))
    supervisor.applied(lr(0.1), "plateau", at(119))
    assert supervisor.review(lr(1e-5), "human:ada", NOW).status == "applied"
    refused = supervisor.review(lr(7.0), "human:ada", NOW)
    assert refused.status == "refused"
    assert "must lie in [1e-06, 1], got 7.0" in refused.note


def test_cooldown_holds_for_other_policies_only_and_ends():
    supervisor = make(Limits(cooldown=20))
    supervisor.applied(lr(0.1), "guard", at(110))
    assert "guard changed lr 10 steps ago" in supervisor.review(lr(0.05), "plateau", NOW).note
    assert supervisor.review(lr(0.05), "guard", NOW).status == "applied"
    assert supervisor.review(lr(0.05), "plateau", Situation(130, {})).status == "applied"


def test_a_running_ramp_belongs_to_who_started_it():
    moving = Situation(120, {"lr": "plateau"})
    assert "a ramp of plateau is moving lr" in make().review(lr(0.05), "guard", moving).note
    assert make().review(lr(0.05), "plateau", moving).status == "applied"


def test_a_set_that_changes_nothing_is_refused_but_lets_a_person_take_hold():
    assert "is 0.1 already" in make().review(lr(0.1), "plateau", NOW).note
    assert make().review(lr(0.1), "human:ada", NOW).status == "applied"


def test_a_ramp_needs_a_number_and_positive_ends_where_it_is_exponential():
    assert make().review(Ramp("loss", 1.0, 10, reason=""), "plateau", NOW).fault
    exponential = make().review(Ramp("dropout", 0.0, 10, "exponential", reason=""), "gap", NOW)
    assert "needs positive ends" in exponential.note


LOWER = (lr(0.05),)


def rewind(to=60, data="skip", then=LOWER):
    return Rewind(to, data, then, reason="test")


BACK = Situation(120, {}, target=STATE)


def test_rewinds_of_policies_are_bounded_and_a_persons_are_not():
    supervisor = make(Limits(max_rewinds=2))
    for _ in range(2):
        assert supervisor.review(rewind(), "guard", BACK).status == "applied"
        supervisor.applied(rewind(), "guard", at(120))
    assert "all 2 rewinds are used up" in supervisor.review(rewind(), "guard", BACK).note
    assert supervisor.rewinds_left == 0
    assert supervisor.review(rewind(), "human:ada", BACK).status == "applied"


def test_a_rewind_that_changes_nothing_is_refused():
    here = Situation(120, {}, target=SnapshotInfo(100, 120), here=True)
    assert "changes nothing" in make().review(rewind(100, then=()), "human:ada", here).note
    assert "only repeat the run" in make().review(rewind(data="replay", then=()), "guard", BACK).note
    supervisor = make()
    supervisor.applied(rewind(data="replay"), "guard", at(120))
    assert "only repeat the run" in supervisor.review(rewind(data="replay"), "guard", BACK).note
    assert supervisor.review(rewind(data="replay", then=(lr(0.02),)), "guard", BACK).status == "applied"


def test_what_follows_a_rewind_is_exempt_from_cooldown_but_not_from_owner_and_bounds():
    supervisor = make(Limits(cooldown=1000))
    supervisor.applied(lr(0.1), "plateau", at(119))
    assert supervisor.review(rewind(), "guard", BACK).status == "applied"
    clamped = supervisor.review(rewind(then=(lr(9.0),)), "guard", BACK)
    assert (clamped.status, clamped.action.then[0].value) == ("clamped", 1.0)
    supervisor.hyperparameters["lr"].owner = "human:ada"
    kept = supervisor.review(rewind(), "guard", BACK)
    assert (kept.status, kept.action.then) == ("clamped", ())


def test_suggest_mode_holds_back_policies_and_not_people():
    supervisor = make(suggest=True)
    assert supervisor.review(lr(0.05), "plateau", NOW).status == "suggested"
    assert supervisor.review(rewind(), "guard", BACK).status == "suggested"
    assert supervisor.review(Stop(reason=""), "guard", NOW).status == "suggested"
    assert supervisor.review(lr(0.05), "human:ada", NOW).status == "applied"


def test_only_what_is_held_is_released():
    undeclared = Situation(120, {}, controls=frozenset({"dropout"}))
    assert make().review(Release("lr", reason=""), "guard", undeclared).fault
    assert "nothing to release" in make().review(Release("lr", reason=""), "human:ada", NOW).note


@pytest.mark.parametrize(
    "wrong", [{"cooldown": -1}, {"max_factor": 1.0}, {"max_fraction": 0.0}, {"max_rewinds": -1}]
)
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(TuneError, match=next(iter(wrong))):
        Limits(**wrong)


def test_memory_survives_a_round_trip():
    first, second = make(), make()
    first.applied(lr(0.05), "guard", at(119))
    first.applied(rewind(data="replay"), "guard", at(119))
    second.load_state_dict(first.state_dict())
    for action in (lr(0.02), rewind(data="replay"), rewind()):
        assert first.review(action, "plateau", BACK) == second.review(action, "plateau", BACK)
    assert second.rewinds_left == first.rewinds_left


NUMBERS = st.one_of(st.floats(), st.integers(-(10**6), 10**6), st.text(max_size=3), st.booleans())
NAMES = st.sampled_from(["lr", "dropout", "batch", "loss", "nobody"])
CHANGES = st.one_of(
    st.builds(Set, NAMES, NUMBERS, reason=st.just("")),
    st.builds(
        Ramp,
        NAMES,
        st.floats(),
        st.integers(1, 50),
        st.sampled_from(["linear", "cosine", "exponential"]),
        reason=st.just(""),
    ),
)
ACTIONS = st.one_of(
    CHANGES,
    st.builds(
        Rewind,
        st.integers(0, 99),
        st.sampled_from(["replay", "skip"]),
        st.lists(CHANGES, max_size=2).map(tuple),
        reason=st.just(""),
    ),
)


@given(st.lists(st.tuples(ACTIONS, st.sampled_from(["a", "b", "human:ada"])), max_size=12))
def test_whatever_is_proposed_what_is_applied_is_within_bounds_and_what_is_not_has_a_reason(proposals):
    supervisor = make(Limits(max_rewinds=3))
    for spent, (action, source) in enumerate(proposals):
        verdict = supervisor.review(action, source, Situation(spent, {}, target=STATE))
        if verdict.status == "refused":
            assert verdict.note
            continue
        changes = verdict.action.then if isinstance(verdict.action, Rewind) else [verdict.action]
        for change in changes:
            parameter = supervisor.hyperparameters[change.name]
            parameter.check(change.value)
            parameter.write(change.value)
        supervisor.applied(verdict.action, source, at(spent))
    assert supervisor.rewinds <= 3


def test_a_later_policy_does_not_undo_what_an_earlier_one_has_done():
    supervisor = make(order=("first", "second", "third"))
    supervisor.applied(lr(0.05), "second", at(0))  # lowered
    refused = supervisor.review(lr(0.2), "third", at(100))
    assert refused.status == "refused"
    assert "second, further up the list, has lowered lr" in refused.note
    assert supervisor.review(lr(0.01), "third", at(100)).status == "applied"  # the same direction
    assert supervisor.review(lr(0.2), "second", at(100)).status == "applied"  # its own
    assert supervisor.review(lr(0.2), "first", at(100)).status == "applied"  # it has precedence


def test_precedence_ends_with_a_release_and_with_a_person():
    supervisor = make(order=("first", "second"))
    release = Release("lr", reason="done")
    assert supervisor.review(release, "first", at(0)).status == "refused"
    supervisor.applied(lr(0.05), "first", at(0))
    assert supervisor.review(release, "first", at(1)).status == "applied"
    supervisor.applied(release, "first", at(1))
    assert supervisor.review(lr(0.2), "second", at(2)).status == "applied"

    supervisor.applied(lr(0.05), "first", at(3))
    supervisor.applied(lr(0.3), "human:ann", at(4))
    assert supervisor.review(lr(0.5), "second", at(100)).status == "applied"


def test_a_rewind_that_lowers_a_rate_counts_as_lowering_it():
    supervisor = make(order=("guard", "hypergradient"))
    supervisor.applied(Rewind(60, "skip", (lr(0.01),), reason=""), "guard", at(0))
    assert supervisor.review(lr(0.2), "hypergradient", at(500)).status == "refused"


def test_precedence_survives_a_round_trip():
    first, second = (make(order=("a", "b")) for _ in range(2))
    first.applied(lr(0.05), "a", at(0))
    second.load_state_dict(first.state_dict())
    assert second.review(lr(0.2), "b", at(500)).status == "refused"


@pytest.mark.parametrize("suggest", [True, False])
def test_advice_is_recorded_and_never_applied(suggest):
    supervisor = make(suggest=suggest)
    verdict = supervisor.review(Suggest(lr(5.0), reason="too low"), "advisor", at(0))
    assert (verdict.status, verdict.action.action.value) == ("suggested", 1.0)
    assert "clamped" in verdict.note
    assert supervisor.review(Suggest(reason="more data"), "advisor", at(0)).status == "suggested"
    assert supervisor.review(Suggest(lr(0.1), reason="as it is"), "advisor", at(0)).status == "refused"
    foreign = Situation(0, {}, controls=frozenset({"dropout"}))
    assert supervisor.review(Suggest(lr(0.2), reason=""), "advisor", foreign).fault


def test_a_later_policy_may_come_back_to_where_an_earlier_one_has_left_it():
    supervisor = make(order=("first", "second"))
    supervisor.applied(lr(0.05), "first", at(0))
    supervisor.hyperparameters["lr"].write(0.001)  # the second one has gone on down, for a warm-up
    assert supervisor.review(lr(0.05), "second", at(100)).status == "applied"
    assert supervisor.review(lr(0.06), "second", at(100)).status == "refused"


def test_what_an_earlier_policy_overrules_is_forgotten():
    supervisor = make(order=("first", "second", "third"))
    supervisor.applied(lr(0.05), "second", at(0))
    supervisor.applied(lr(0.2), "first", at(50))
    supervisor.hyperparameters["lr"].write(0.2)
    assert supervisor.review(lr(0.3), "third", at(100)).status == "applied"
    assert "first, further up" in supervisor.review(lr(0.1), "third", at(100)).note


def test_a_policy_that_is_dismissed_binds_nobody():
    supervisor = make(order=("first", "second"))
    supervisor.applied(lr(0.05), "first", at(100))
    supervisor.dismiss("first")
    assert supervisor.review(lr(0.2), "second", at(101)).status == "applied"


def test_precedence_holds_for_choices_too():
    supervisor = make(order=("first", "second"))
    supervisor.applied(Set("loss", "mae", reason=""), "first", at(0))
    back = Set("loss", "mse", reason="")
    assert "has set loss" in supervisor.review(back, "second", at(100)).note
    supervisor.applied(Release("loss", reason=""), "first", at(110))
    supervisor.hyperparameters["loss"].write("mae")
    assert supervisor.review(back, "second", at(200)).status == "applied"


def test_advice_reaches_the_person_who_holds_the_hyperparameter():
    supervisor = make()
    supervisor.hyperparameters["lr"].owner = "human:ann"
    assert supervisor.review(Suggest(lr(0.05), reason="lower"), "advisor", at(0)).status == "suggested"
