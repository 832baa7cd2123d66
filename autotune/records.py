"""The vocabulary: frozen records that policies read and return.

Nothing here imports torch, so a policy can be simulated, replayed and tested without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from .actions import (
    ACTIONS,
    DATA,
    HUMAN,
    PERSONAL,
    POSITIVE_SHAPES,
    SHAPES,
    Action,
    Adopt,
    Approve,
    Arrange,
    Checkpoint,
    Comment,
    Data,
    Escalate,
    Evidence,
    Pause,
    Pin,
    Point,
    Probe,
    Ramp,
    Reject,
    Release,
    Resume,
    Rewind,
    Schedule,
    Set,
    Shape,
    Stop,
    Suggest,
    TuneError,
    Undo,
    Value,
    action_from_json,
    action_to_json,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "ACTIONS",
    "DATA",
    "FACTOR",
    "HUMAN",
    "PERSONAL",
    "POSITIVE_SHAPES",
    "SHAPES",
    "Action",
    "Adopt",
    "Approve",
    "Arrange",
    "Checkpoint",
    "Comment",
    "Data",
    "Decision",
    "Escalate",
    "Evidence",
    "HyperparameterState",
    "Observation",
    "Outcome",
    "Pause",
    "Pin",
    "Point",
    "Policy",
    "Probe",
    "Ramp",
    "Reject",
    "Release",
    "Resume",
    "Rewind",
    "Schedule",
    "Set",
    "Shape",
    "Signal",
    "SnapshotInfo",
    "Status",
    "Stop",
    "Suggest",
    "Trial",
    "TuneError",
    "Undo",
    "Value",
    "action_from_json",
    "action_to_json",
    "between",
]

Status: TypeAlias = Literal["pending", "applied", "clamped", "refused", "suggested", "failed"]


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
    gain: float = 1.0
    """How much of it arrives at the weights: a decay that goes through SGD's momentum adds up over steps."""


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
