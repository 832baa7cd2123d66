"""Actions: what a policy or a person wants done, as frozen records that can be stored as JSON.

Nothing here imports torch; `records` has these names too.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

Value: TypeAlias = float | int | str | bool
"""What a hyperparameter can hold."""
Evidence: TypeAlias = Mapping[str, float | int | str | bool | None]
"""The statistics behind a decision, by name; plain values, so that they can be stored as JSON."""
Shape: TypeAlias = Literal["linear", "cosine", "exponential", "inverse_sqrt"]
Data: TypeAlias = Literal["replay", "skip"]

HUMAN = "human:"
"""How the source of a person's decisions, and the owner of what a person holds, begins."""
SHAPES: tuple[Shape, ...] = ("linear", "cosine", "exponential", "inverse_sqrt")
POSITIVE_SHAPES = ("exponential", "inverse_sqrt")
"""Shapes of ramps whose ends are positive."""
DATA: tuple[Data, ...] = ("replay", "skip")


class TuneError(ValueError):
    """Bad input to the tuner. The message says the rule, the value received and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something a policy or a person wants done, with why and on what evidence."""

    kind: ClassVar[str] = ""
    reason: str
    evidence: Evidence = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    def describe(self) -> str:
        """One short line for tables and plots."""
        return self.kind


@dataclass(frozen=True, slots=True)
class Set(Action):
    """Set a hyperparameter now; a ramp that is moving it ends."""

    kind: ClassVar[str] = "set"
    name: str
    value: Value

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "name", self.name, str)
        _expect(self, "value", self.value, (numbers.Real, str))

    def describe(self) -> str:
        """`lr → 0.05`."""
        return f"{self.name} → {_short(self.value)}"


@dataclass(frozen=True, slots=True)
class Ramp(Action):
    """Move a hyperparameter from where it is to `value` over the next `steps` steps."""

    kind: ClassVar[str] = "ramp"
    name: str
    value: float
    steps: int
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "name", self.name, str)
        _expect(self, "value", self.value, numbers.Real)
        _expect(self, "steps", self.steps, int)
        if self.steps < 1:
            raise TuneError(f"a ramp takes at least 1 step, got steps={self.steps}; use Set for a jump")
        _expect_one_of("a ramp's shape", self.shape, SHAPES)

    def describe(self) -> str:
        """`lr ⇢ 0.0 in 400 steps (linear)`."""
        return f"{self.name} ⇢ {_short(self.value)} in {self.steps} steps ({self.shape})"


@dataclass(frozen=True, slots=True)
class Release(Action):
    """Give a hyperparameter back, at its value.

    A person gives what she holds back to the policies. A policy that has done with a hyperparameter lets the
    policies after it move it in either direction again.
    """

    kind: ClassVar[str] = "release"
    name: str

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "name", self.name, str)

    def describe(self) -> str:
        """`release lr`."""
        return f"release {self.name}"


@dataclass(frozen=True, slots=True)
class Rewind(Action):
    """Go back to an earlier state, then write hyperparameters.

    `to` is a step (the newest state at or before it is taken) or a checkpoint's name. `data` says whether
    the batches since then come again (`replay`) or are left behind (`skip`). `then` is applied after the
    restore, as one decision with it.
    """

    kind: ClassVar[str] = "rewind"
    to: int | str
    data: Data = "replay"
    then: tuple[Set | Ramp, ...] = ()

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "to", self.to, (int, str))
        for action in self.then:
            _expect(self, "then", action, (Set, Ramp))
        _expect_one_of("data", self.data, DATA)

    def describe(self) -> str:
        """`rewind to 120, skip data; lr → 0.05`."""
        head = f"rewind to {self.to}, {self.data} data"
        return "; ".join([head, *(action.describe() for action in self.then)])


@dataclass(frozen=True, slots=True)
class Probe(Action):
    """Try out a stretch of training, on the same batches as all trials from this state, and come back.

    Several are run one after another, in the order in which they were asked for; the policies are asked
    again when all are finished, in the state in which they were asked before. Every step counts as spent.

    `then` is applied first. After `steps` steps the state is kept, for `Adopt` or for another trial that
    begins there. What `branch` ramps is then tried on the side, for as long as the longest of its ramps, and
    the trial is scored at the end of that. It ends early, with an infinite score, when the loss is not
    finite or above `give_up`.
    """

    kind: ClassVar[str] = "probe"
    steps: int
    then: tuple[Set | Ramp, ...] = ()
    branch: tuple[Ramp, ...] = ()
    after: int | None = None
    """The trial whose state it begins from; None: where the run stands."""
    give_up: float = math.inf
    evaluate: bool = True
    """Score it by `evaluate`; without, and where there is none, by the mean training loss over the branch."""

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "steps", self.steps, int)
        for action in self.then:
            _expect(self, "then", action, (Set, Ramp))
        for action in self.branch:
            _expect(self, "branch", action, Ramp)
        _expect(self, "after", self.after, (int, type(None)))
        _expect(self, "give_up", self.give_up, numbers.Real)
        _expect(self, "evaluate", self.evaluate, bool)
        if self.steps < 1:
            raise TuneError(f"a trial takes at least 1 step, got steps={self.steps}")

    @property
    def most(self) -> int:
        """The optimizer steps that it takes, unless it ends early."""
        return self.steps + max((ramp.steps for ramp in self.branch), default=0)

    def describe(self) -> str:
        """`try 30 steps; lr → 0.05; then lr ⇢ 0.0 in 12 steps (linear)`."""
        head = f"try {self.steps} steps" + ("" if self.after is None else f" after trial {self.after}")
        side = [f"then {ramp.describe()}" for ramp in self.branch]
        return "; ".join([head, *(action.describe() for action in self.then), *side])


@dataclass(frozen=True, slots=True)
class Adopt(Action):
    """Go on from the state that a trial of this policy was kept in; all others are forgotten."""

    kind: ClassVar[str] = "adopt"
    trial: int

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "trial", self.trial, int)

    def describe(self) -> str:
        """`adopt trial 7`."""
        return f"adopt trial {self.trial}"


@dataclass(frozen=True, slots=True)
class Checkpoint(Action):
    """Save the run to disk; a named checkpoint is pinned, so it is never pruned."""

    kind: ClassVar[str] = "checkpoint"
    name: str | None = None

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "name", self.name, (str, type(None)))

    def describe(self) -> str:
        """`checkpoint NAME`."""
        return f"checkpoint {self.name or ''}".strip()


@dataclass(frozen=True, slots=True)
class Stop(Action):
    """End the training loop at this step boundary."""

    kind: ClassVar[str] = "stop"


@dataclass(frozen=True, slots=True)
class Suggest(Action):
    """Advice: a change that a person may make, or (None) advice in the words of `reason` alone."""

    kind: ClassVar[str] = "suggest"
    action: Set | Ramp | None = None

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "action", self.action, (Set, Ramp, type(None)))

    def describe(self) -> str:
        """`suggest lr → 0.05`, or `advice`."""
        return "advice" if self.action is None else f"suggest {self.action.describe()}"


@dataclass(frozen=True, slots=True)
class Escalate(Action):
    """A person is needed: nothing changes, but it is recorded and shown loudly."""

    kind: ClassVar[str] = "escalate"


# --- what only a person does -------------------------------------------------------------------------------


class Point(NamedTuple):
    """A corner of a `Schedule`: the value that is reached at `step`, along `shape` from the corner before."""

    step: int
    value: float
    shape: Shape = "linear"


@dataclass(frozen=True, slots=True)
class Schedule(Action):
    """Move a hyperparameter from where it is through these corners, then hold it.

    `points` are in the order of their steps, all ahead of the present one; steps are those of the run.
    """

    kind: ClassVar[str] = "schedule"
    name: str
    points: tuple[Point, ...]
    from_now: bool = False
    """Steps are counted from the one at which it is applied; the record has those of the run."""

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "name", self.name, str)
        if not self.points:
            raise TuneError("a schedule has at least one point, got none; use Pin to hold a value")
        for point in self.points:
            _expect(self, "points", point, Point)
            _expect(self, "step", point.step, int)
            _expect(self, "value", point.value, numbers.Real)
            _expect_one_of("a point's shape", point.shape, SHAPES)
        steps = [point.step for point in self.points]
        if any(b <= a for a, b in itertools.pairwise(steps)):
            raise TuneError(f"a schedule's points are in the order of their steps, got steps {steps}")
        _expect(self, "from_now", self.from_now, bool)

    def applied_at(self, step: int) -> Schedule:
        """The same in steps of the run, for one that is applied at `step`."""
        if not self.from_now:
            return self
        points = tuple(point._replace(step=step + point.step) for point in self.points)
        return dataclasses.replace(self, points=points, from_now=False)

    def describe(self) -> str:
        """`lr ⇢ 0.01 at 400 (linear) ⇢ 0.0 at 900 (cosine)`; steps from now are `+400`."""
        sign = "+" if self.from_now else ""
        corners = [f"⇢ {_short(p.value)} at {sign}{p.step} ({p.shape})" for p in self.points]
        return " ".join([self.name, *corners])


@dataclass(frozen=True, slots=True)
class Pin(Action):
    """Hold a hyperparameter at its present value, for so many steps, or until it is released."""

    kind: ClassVar[str] = "pin"
    name: str
    steps: int | None = None

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "name", self.name, str)
        _expect(self, "steps", self.steps, (int, type(None)))
        if self.steps is not None and self.steps < 1:
            raise TuneError(f"a pin lasts at least 1 step, got steps={self.steps}; use Release to end one")

    def describe(self) -> str:
        """`pin lr for 500 steps`."""
        return f"pin {self.name}" + ("" if self.steps is None else f" for {self.steps} steps")


@dataclass(frozen=True, slots=True)
class Pause(Action):
    """Wait at this step boundary until a person resumes or stops the run."""

    kind: ClassVar[str] = "pause"


@dataclass(frozen=True, slots=True)
class Resume(Action):
    """Go on with a run that was paused."""

    kind: ClassVar[str] = "resume"


@dataclass(frozen=True, slots=True)
class Undo(Action):
    """Take a decision back: values, ramps and owners are as they were, or the run is where it was.

    What a policy had moved is held by the person afterwards, or it would move again.
    """

    kind: ClassVar[str] = "undo"
    decision: int | None = None
    """None: the last one that can be undone."""

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "decision", self.decision, (int, type(None)))

    def describe(self) -> str:
        """`undo decision 7`."""
        return "undo" if self.decision is None else f"undo decision {self.decision}"


@dataclass(frozen=True, slots=True)
class Approve(Action):
    """Do what was suggested, in the name of who suggested it."""

    kind: ClassVar[str] = "approve"
    decision: int

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "decision", self.decision, int)

    def describe(self) -> str:
        """`approve decision 7`."""
        return f"approve decision {self.decision}"


@dataclass(frozen=True, slots=True)
class Reject(Action):
    """Turn a suggestion down."""

    kind: ClassVar[str] = "reject"
    decision: int

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "decision", self.decision, int)

    def describe(self) -> str:
        """`reject decision 7`."""
        return f"reject decision {self.decision}"


@dataclass(frozen=True, slots=True)
class Comment(Action):
    """Say something about a decision; the words are the reason."""

    kind: ClassVar[str] = "comment"
    decision: int

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "decision", self.decision, int)

    def describe(self) -> str:
        """`comment on decision 7`."""
        return f"comment on decision {self.decision}"


@dataclass(frozen=True, slots=True)
class Arrange(Action):
    """Ask these policies, in this order, which is that of their precedence; the others are benched."""

    kind: ClassVar[str] = "arrange"
    policies: tuple[str, ...]

    def __post_init__(self) -> None:
        _check(self)
        _expect(self, "policies", self.policies, tuple)
        for name in self.policies:
            _expect(self, "policies", name, str)
        if len({*self.policies}) < len(self.policies):
            raise TuneError(f"each policy is named once, got {', '.join(self.policies)}")

    def describe(self) -> str:
        """`ask guard, plateau`."""
        return f"ask {', '.join(self.policies) or 'no policy'}"


PERSONAL = (Schedule, Pin, Pause, Resume, Undo, Approve, Reject, Comment, Arrange)
COMMANDS = (Set, Ramp, Release, Rewind, Checkpoint, Stop, *PERSONAL)
"""What a person may send."""


# --- as JSON -----------------------------------------------------------------------------------------------

ACTIONS: dict[str, type[Action]] = {
    cls.kind: cls
    for cls in (
        *(Set, Ramp, Release, Rewind, Probe, Adopt, Checkpoint, Stop, Suggest, Escalate),
        *PERSONAL,
    )
}


def action_to_json(action: Action) -> dict[str, Any]:
    """The action as plain JSON values, with its kind; `action_from_json` is the inverse."""
    out: dict[str, Any] = {"kind": action.kind}
    for f in dataclasses.fields(action):
        value = getattr(action, f.name)
        if f.name in ("then", "branch"):
            value = [action_to_json(a) for a in value]
        elif f.name == "points":
            value = [list(point) for point in value]
        elif f.name == "policies":
            value = list(value)
        elif f.name == "action" and value is not None:
            value = action_to_json(value)
        elif f.name == "evidence":
            value = dict(value)
        elif f.name == "give_up" and value == math.inf:
            value = None  # JSON has no infinity
        out[f.name] = value
    return out


def action_from_json(data: Mapping[str, Any]) -> Action:
    """Rebuild an action from `action_to_json`.

    Raises:
        TuneError: for an unknown kind or unknown, missing or invalid fields.
    """
    if not isinstance(data, Mapping) or data.get("kind") not in [*ACTIONS]:
        got = data.get("kind") if isinstance(data, Mapping) else data
        raise TuneError(f"an action's kind is one of {', '.join(ACTIONS)}, got {got!r}")
    fields = dict(data)
    kind = fields.pop("kind")
    try:
        for name in ("then", "branch"):
            if name in fields:
                fields[name] = tuple(action_from_json(a) for a in fields[name])
        if fields.get("give_up", 0) is None:
            fields["give_up"] = math.inf
        if fields.get("action") is not None:
            fields["action"] = action_from_json(fields["action"])
        if "points" in fields:
            fields["points"] = tuple(Point(*point) for point in fields["points"])
        if isinstance(fields.get("policies"), list):
            fields["policies"] = tuple(fields["policies"])
        return ACTIONS[kind](**fields)
    except TypeError as error:
        raise TuneError(f"a {kind!r} action does not have these fields: {error}") from error


def _check(action: Action) -> None:
    """What every action must hold to, so that it can be recorded."""
    _expect(action, "reason", action.reason, str)
    _expect(action, "evidence", action.evidence, Mapping)  # what is in it, the journal checks


def _expect(action: Action, field: str, value: object, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(value, kinds) or (kinds is int and isinstance(value, bool)):
        wanted = " or ".join(k.__name__ for k in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise TuneError(
            f"the {field} of a {action.kind!r} action is of type {wanted}, got {value!r} "
            f"of type {type(value).__name__}; give a plain value"
        )


def _expect_one_of(what: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise TuneError(f"{what} is one of {', '.join(choices)}, got {value!r}")


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
