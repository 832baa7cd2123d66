import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.records import (
    ACTIONS,
    Approve,
    Arrange,
    Checkpoint,
    Comment,
    Escalate,
    Pause,
    Pin,
    Point,
    Ramp,
    Reject,
    Release,
    Resume,
    Rewind,
    Schedule,
    Set,
    Signal,
    Stop,
    Suggest,
    TuneError,
    Undo,
    action_from_json,
    action_to_json,
)

TEXT = st.text(max_size=8)
WHY = {
    "reason": TEXT,
    "evidence": st.dictionaries(TEXT, st.one_of(st.floats(allow_nan=False), TEXT), max_size=3),
}
SETS = st.builds(Set, TEXT, st.one_of(st.floats(allow_nan=False), st.integers(), TEXT), **WHY)
RAMPS = st.builds(Ramp, TEXT, st.floats(allow_nan=False), st.integers(1, 9), **WHY)
REWINDS = st.builds(
    Rewind,
    st.one_of(st.integers(), TEXT),
    then=st.lists(st.one_of(SETS, RAMPS), max_size=2).map(tuple),
    **WHY,
)
OTHERS = [
    st.builds(Release, TEXT, **WHY),
    st.builds(Checkpoint, TEXT, **WHY),
    st.builds(Stop, **WHY),
    st.builds(Suggest, st.one_of(st.none(), SETS, RAMPS), **WHY),
    st.builds(Escalate, **WHY),
    st.builds(
        lambda name, steps, values, from_now, **why: Schedule(
            name,
            tuple(Point(step, value) for step, value in zip(sorted(steps), values, strict=False)),
            from_now,
            **why,
        ),
        TEXT,
        st.sets(st.integers(1, 99), min_size=3),
        st.lists(st.floats(allow_nan=False), min_size=1, max_size=3),
        st.booleans(),
        **WHY,
    ),
    st.builds(Pin, TEXT, st.none() | st.integers(1, 9), **WHY),
    st.builds(Pause, **WHY),
    st.builds(Resume, **WHY),
    st.builds(Undo, st.none() | st.integers(1, 9), **WHY),
    *(st.builds(kind, st.integers(1, 9), **WHY) for kind in (Approve, Reject, Comment)),
    st.builds(Arrange, st.lists(TEXT, unique=True).map(tuple), **WHY),
]


@given(st.one_of(SETS, RAMPS, REWINDS, *OTHERS))
def test_every_action_comes_back_from_json_as_it_was(action):
    assert action_from_json(json.loads(json.dumps(action_to_json(action)))) == action


def test_a_schedule_of_an_older_journal_is_in_steps_of_the_run():
    old = {"kind": "schedule", "name": "lr", "points": [[40, 0.1, "linear"]], "reason": "", "evidence": {}}
    assert action_from_json(old) == Schedule("lr", (Point(40, 0.1),), reason="")


def test_every_kind_of_action_is_known_by_its_kind():
    assert set(ACTIONS) == {
        "set",
        "ramp",
        "release",
        "rewind",
        "probe",
        "adopt",
        "checkpoint",
        "stop",
        "suggest",
        "escalate",
        "schedule",
        "pin",
        "pause",
        "resume",
        "undo",
        "approve",
        "reject",
        "comment",
        "arrange",
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"kind": "eval", "code": "1"}, "got 'eval'"),
        ({"reason": ""}, "got None"),
        ({"kind": "set", "nam": "lr", "reason": ""}, "does not have these fields"),
        ({"kind": "ramp", "name": "lr", "value": 1.0, "steps": 0, "reason": ""}, "steps=0"),
        ({"kind": "rewind", "to": 1, "data": "redo", "reason": ""}, "got 'redo'"),
        ({"kind": ["set"], "reason": ""}, "got \\['set'\\]"),
        (["set"], "got \\['set'\\]"),
        ({"kind": "rewind", "to": 1, "then": ["set"], "reason": ""}, "got 'set'"),
        ({"kind": "ramp", "name": "lr", "value": 1.0, "steps": True, "reason": ""}, "of type bool"),
        ({"kind": "schedule", "name": "lr", "points": [], "reason": ""}, "at least one point"),
        ({"kind": "schedule", "name": "lr", "points": [[9, 1], [9, 2]], "reason": ""}, "in the order"),
        ({"kind": "schedule", "name": "lr", "points": [[9, 1, "zigzag"]], "reason": ""}, "got 'zigzag'"),
        ({"kind": "schedule", "name": "lr", "points": [[9]], "reason": ""}, "does not have these fields"),
        ({"kind": "pin", "name": "lr", "steps": 0, "reason": ""}, "steps=0"),
        ({"kind": "arrange", "policies": "ab", "reason": ""}, "of type tuple"),
        ({"kind": "arrange", "policies": ["a", "a"], "reason": ""}, "named once"),
    ],
)
def test_what_is_no_action_is_refused_with_the_reason(data, words):
    with pytest.raises(TuneError, match=words):
        action_from_json(data)


def test_a_signal_knows_its_end_and_its_tail():
    steps = np.array([10, 20, 30])
    signal = Signal(steps, steps + 5, np.array([3.0, 2.0, 1.0]))
    assert signal.last == 1.0
    assert signal.since(20).value.tolist() == [2.0, 1.0]
    assert signal.since(11).spent.tolist() == [25, 35]
    assert np.isnan(signal.since(31).last)
