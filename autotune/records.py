"""The vocabulary: frozen records that policies read and return.

Nothing here imports torch, so a policy can be simulated, replayed and tested without it.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Value: TypeAlias = float | int | str | bool
"""What a hyperparameter can hold."""
Evidence: TypeAlias = Mapping[str, float | int | str | bool | None]
"""The statistics behind a decision, by name; plain values, so that they can be stored as JSON."""
Shape: TypeAlias = Literal["linear", "cosine", "exponential", "inverse_sqrt"]
Data: TypeAlias = Literal["replay", "skip"]
Status: TypeAlias = Literal["pending", "applied", "clamped", "refused", "suggested", "failed"]

HUMAN = "human:"
"""How the source of a person's decisions, and the owner of what a person holds, begins."""
SHAPES: tuple[Shape, ...] = ("linear", "cosine", "exponential", "inverse_sqrt")
POSITIVE_SHAPES = ("exponential", "inverse_sqrt")
"""Shapes of ramps whose ends are positive."""
DATA: tuple[Data, ...] = ("replay", "skip")


class TuneError(ValueError):
    """Bad input to the tuner. The message says the rule, the value received and the remedy."""


def between(first: float, last: float, part: float, shape: Shape) -> float:
    """The value of a ramp from `first` to `last` when `part` of it, in [0, 1], is over.

    Straight in the value (linear), its log (exponential) or its inverse square (inverse_sqrt: first ·
    √(t₀ / (t₀ + t)) for some t₀), or along half a period of a cosine.
    """
    if shape == "exponential":
        return math.exp((1 - part) * math.log(first) + part * math.log(last))
    if shape == "inverse_sqrt":
        return math.pow((1 - part) * first**-2 + part * last**-2, -0.5)
    if shape == "cosine":
        part = (1 - math.cos(math.pi * part)) / 2
    return first + part * (last - first)


# --- what a policy sees ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signal:
    """History of one measured quantity on the live branch: aligned read-only arrays, oldest first."""

    step: NDArray[np.int64]
    spent: NDArray[np.int64]
    value: NDArray[np.float64]
    """May hold NaN and infinities: they are signals too."""

    def __len__(self) -> int:
        return len(self.value)

    @property
    def last(self) -> float:
        """The newest value; NaN before the first one."""
        return float(self.value[-1]) if len(self.value) else math.nan

    def since(self, step: int) -> Signal:
        """The part measured at `step` or later."""
        start = int(self.step.searchsorted(step))
        return Signal(self.step[start:], self.spent[start:], self.value[start:])


FACTOR = "× schedule"
"""The unit of a hyperparameter that multiplies what a schedule of the user's says."""


@dataclass(frozen=True, slots=True)
class HyperparameterState:
    """A hyperparameter as a policy sees it."""

    name: str
    kind: Literal["float", "log", "int", "categorical"]
    value: Value
    owner: str
    """`policy` or `human:NAME`."""
    low: float | None = None
    high: float | None = None
    choices: tuple[Value, ...] = ()
    unit: str = ""
    ramp_until: int | None = None
    """The step at which the ramp that is moving the value ends; None when none is running."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A state of the run that can be rewound to."""

    step: int
    spent: int
    name: str | None = None
    """The checkpoint's name on disk; None for a snapshot in memory."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a `Probe` has found out; `id` is that of its decision."""

    id: int
    start: int
    """The step that it began at."""
    step: int
    """The step that its own training ended at; the branch that it was scored on is not counted."""
    spent: int
    """Optimizer steps that it took, those of the branch included."""
    score: float
    """The loss that it is judged by, the lower the better; infinity: the loss was lost on the way."""
    error: float = math.nan
    """Standard error of the score; NaN: not known."""
    losses: tuple[float, ...] = ()
    """Of single examples or batches, where `evaluate` returns them: paired between trials."""
    values: Mapping[str, Value] = field(default_factory=dict)
    """The hyperparameters that it set, as they were at `step`."""
    signals: Mapping[str, Signal] = field(default_factory=dict)
    """What was measured on the way, the branch included."""
    kept: bool = False
    """Whether its state is there to be continued from, or adopted."""


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a policy may know at one moment."""

    step: int
    """Optimizer steps on the live branch; repeats after a rewind."""
    spent: int
    """Every optimizer step ever taken, rewound ones included; only grows."""
    budget: int | None
    """The largest `spent` there will be; None when the user did not say."""
    hyperparameters: Mapping[str, HyperparameterState]
    signals: Mapping[str, Signal]
    snapshots: Sequence[SnapshotInfo] = ()
    """Of the live branch, oldest first."""
    decisions: Sequence[Decision] = ()
    """Decisions recorded since this policy was last asked, from every source."""
    rewinds_left: int = 0
    trials: Mapping[int, Trial] = field(default_factory=dict)
    """Those that are finished, by id, while more of them are asked for at each tick; then all are let go."""

    @property
    def remaining(self) -> int | None:
        """Steps that are left in the budget; None when there is no budget."""
        return None if self.budget is None else max(0, self.budget - self.spent)


# --- what a policy returns ---------------------------------------------------------------------------------


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
        if self.shape not in SHAPES:
            raise TuneError(f"a ramp's shape is one of {', '.join(SHAPES)}, got {self.shape!r}")

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
        if self.data not in DATA:
            raise TuneError(f"data is one of {', '.join(DATA)}, got {self.data!r}")

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


ACTIONS: dict[str, type[Action]] = {
    cls.kind: cls for cls in (Set, Ramp, Release, Rewind, Probe, Adopt, Checkpoint, Stop, Suggest, Escalate)
}


def action_to_json(action: Action) -> dict[str, Any]:
    """The action as plain JSON values, with its kind; `action_from_json` is the inverse."""
    out: dict[str, Any] = {"kind": action.kind}
    for f in dataclasses.fields(action):
        value = getattr(action, f.name)
        if f.name in ("then", "branch"):
            value = [action_to_json(a) for a in value]
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
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind not in ACTIONS:
        raise TuneError(f"an action's kind is one of {', '.join(ACTIONS)}, got {kind!r}")
    for name in ("then", "branch"):
        if name in fields:
            fields[name] = tuple(action_from_json(a) for a in fields[name])
    if fields.get("give_up", 0) is None:
        fields["give_up"] = math.inf
    if fields.get("action") is not None:
        fields["action"] = action_from_json(fields["action"])
    try:
        return ACTIONS[kind](**fields)
    except TypeError as error:
        raise TuneError(f"a {kind!r} action does not have these fields: {error}") from error


# --- what is on record -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decision:
    """One action and what became of it. `id` counts from 1 within a run."""

    id: int
    time: float
    """Seconds since the epoch."""
    step: int
    spent: int
    branch: int
    """0 at the start of a run; one more with each rewind."""
    source: str
    """A policy's name, `human:NAME` or `supervisor`."""
    action: Action
    status: Status
    before: Mapping[str, Value] = field(default_factory=dict)
    after: Mapping[str, Value] = field(default_factory=dict)
    """Values of the hyperparameters that the action names, read back from the plant."""
    note: str = ""
    """Why it was clamped, refused or failed, or what it cost; empty when there is nothing to add."""

    @property
    def applied(self) -> bool:
        """Whether the plant was changed."""
        return self.status in ("applied", "clamped")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a decision, `horizon` steps later, against a forecast of the run without it."""

    decision: int
    spent: int
    horizon: int
    verdict: Literal["better", "worse", "unclear"]
    measures: Mapping[str, float | None]
    """loss_slope_before, loss_slope_after, loss_forecast, loss_measured, loss_standard_error, ..."""


@runtime_checkable
class Policy(Protocol):
    """Decides by returning actions; never touches what it controls.

    `name` is unique within a run. `requires` names the signals that `decide` cannot do without, `controls`
    the hyperparameters that it moves; the tuner refuses to start where one of them is missing.
    `state_dict` returns plain JSON values and `load_state_dict` takes them back; both must be written, so
    that no memory is lost in silence on resume. A rewind does not touch a policy's memory.
    """

    @property
    def name(self) -> str:
        """Shown as the source of its decisions."""
        ...

    @property
    def requires(self) -> Sequence[str]:
        """Signals that must be measured."""
        ...

    @property
    def controls(self) -> Sequence[str]:
        """Hyperparameters that must be registered."""
        ...

    def decide(self, observation: Observation) -> Sequence[Action]:
        """The actions to take now; empty for none."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The memory, as plain JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the memory back."""
        ...


def _check(action: Action) -> None:
    """What every action must hold to, so that it can be recorded."""
    _expect(action, "reason", action.reason, str)
    _expect(action, "evidence", action.evidence, Mapping)  # what is in it, the journal checks


def _expect(action: Action, field: str, value: object, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(value, kinds):
        wanted = " or ".join(k.__name__ for k in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise TuneError(
            f"the {field} of a {action.kind!r} action is of type {wanted}, got {value!r} "
            f"of type {type(value).__name__}; give a plain value"
        )


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
