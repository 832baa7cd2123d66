"""A schedule as a policy: a hyperparameter follows a list of pieces, and yields to whoever else moves it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.records import (
    POSITIVE_SHAPES,
    Action,
    Escalate,
    HyperparameterState,
    Observation,
    Ramp,
    Set,
    TuneError,
)

from .memory import RETRY, Remembering, moves
from .pieces import Piece, Plan, Segment, check

CHORDS = 16  # straight lines that stand for a cosine which was interrupted
LONGEST_WAIT = 5  # doublings of RETRY, at most, while what is asked for is refused
KEPT = 100  # ends of its own ramps that it knows again after a rewind


class Schedule(Remembering):
    """Moves a hyperparameter along a list of pieces, by ramps, so that it is exact in every step.

    *Law.* Values are relative to the one that the schedule found, or to `peak`. A piece is one ramp; the
    value reached after n steps is used in step n + 1, as in torch. A piece that ends between two ticks is
    followed by the next one from the tick on, which still ends on time.
    *Total.* Pieces that are parts of a total, or its rest, share `steps`; without them the budget that is
    left. After a rewind it stands where it stood at that step. Where its total is the budget, what is left
    of the schedule is then drawn together into what is left of the budget, so that both end as one.
    *Hand-over.* While a person holds the hyperparameter, or another's ramp moves it, time passes and the
    schedule waits. Then it goes on from the value it finds, and all that is to come is scaled by found over
    planned: no jump, and a rate that a rescue has halved stays halved. The scale is raised only so far that
    nothing to come lies above both what was planned and what was found. A cosine entered in its middle is
    followed in 16 straight lines.

    It harms where a rate falls that need not: without gradient noise there is nothing to anneal.

    Args:
        pieces: in their order.
        hyperparameter: what follows them; no categorical one.
        peak: the value that 1.0 stands for; None: the value that the schedule finds when it begins.
        steps: its total; None: the run's budget, where a piece asks for a part or the rest of it.
        begin: step at which it begins; pieces are counted from there.
        name: unique within a run.

    Raises:
        TuneError: for pieces that cannot be, or do not fit into `steps`. What only the run shows (a budget
            that is needed and not known, or too short; a value of 0 and no `peak`), it escalates.
    """

    MEMORY = (
        "_pieces", "_peak", "_steps", "_begin", "_total", "_unit", "_anchors", "_done", "_asked",
        "_disturbed", "_anew", "_told", "_wait", "_refusals", "_ends",
    )  # fmt: skip

    def __init__(
        self,
        pieces: Sequence[Piece],
        *,
        hyperparameter: str = "lr",
        peak: float | None = None,
        steps: int | None = None,
        begin: int = 0,
        name: str = "schedule",
    ) -> None:
        if isinstance(begin, bool) or not isinstance(begin, int) or begin < 0:
            raise TuneError(f"a schedule begins at step 0 or later, got begin={begin!r}")
        self.name = name
        self.requires: Sequence[str] = ()
        self.controls: Sequence[str] = (hyperparameter,)
        self._wait = 0  # spent before which nothing is asked for
        self._refusals = 0  # in a row
        self._ends: list[int] = []  # steps at which its own ramps end
        self._left: int | None = None  # steps of the budget, when last asked
        self._pieces: list[list[Any]]
        self._total: int | None
        self._unit: float  # what 1.0 stands for
        # (step, position, speed, scale): from this step on it goes on from this position. The last one holds;
        # to those before it a rewind goes back. None: it has not begun.
        self._anchors: list[list[float]]
        self._done: float  # position up to which jumps are done
        self._asked: float  # the same, if what was asked for last time is done
        self._disturbed: bool  # someone else has moved the value, or rewound the run
        self._anew: bool  # its own ramp, should one be running, is not the right one any more
        self._told: bool  # a person, why it cannot begin
        self._new(pieces, peak, steps, begin)

    def edit(self, pieces: Sequence[Piece], *, peak: float | None = None, steps: int | None = None) -> None:
        """Follow these pieces instead, from the next tick on, as a schedule that begins there.

        Args:
            pieces: relative to the value at that time, or to `peak`.
            peak: see `Schedule`.
            steps: their total; None: the budget that is left then.

        Raises:
            TuneError: for pieces that cannot be, or do not fit into `steps` or what is left of the budget;
                the old ones are kept.
        """
        if check(pieces, steps) and self._left is not None:
            Plan(pieces, self._left)
        self._new(pieces, peak, steps, None)

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        state = observation.hyperparameters[self.controls[0]]
        step, remaining = observation.step, observation.remaining
        self._left = remaining
        self._learn(observation)
        if state.owner != "policy":
            self._disturbed = True
            self._done = self._position(step) if self._anchors else self._done
            return ()
        own = state.ramp_until in self._ends
        if (state.ramp_until is not None and not own) or observation.spent < self._wait or remaining == 0:
            return ()
        if self._anchors and step < self._anchors[0][0]:  # rewound to before it began
            self._anchors, self._done, self._anew = [], -1.0, True
        if not self._anchors:
            if self._begin is not None and step < self._begin:
                return ()
            try:
                self._start(state, step, remaining)
            except TuneError as error:
                told, self._told = self._told, True
                return () if told else (Escalate(reason=str(error)),)
        elif self._disturbed:
            self._take_over(state, step, remaining, own)
        self._disturbed = False
        position = self._position(step)
        actions = self._move(state, position, step, own)
        self._asked, self._done = position, self._done if actions else position
        self._anew = False
        return actions

    # --- what there is to do -------------------------------------------------------------------------------

    def _move(self, state: HyperparameterState, position: float, step: int, own: bool) -> list[Action]:
        plan, (_, since, speed, scale) = self._laid, self._anchors[-1]
        segment, now = plan.segments[plan.index(position)], float(state.value)
        evidence = {"position": position, "total": plan.total, "scale": scale}
        edited = "" if self._begin is not None else "edited: "
        reason = f"{edited}{segment.shape} to {segment.last:g} × {scale:g}"
        actions: list[Action] = []
        jump = plan.jump(self._done, position) is not None or (self._done < 0 and now != self._unit)
        if jump or (own and self._anew and segment.shape == "step"):
            value = _within(state, scale * plan.at(position)) if jump else now
            if value != now or own:
                actions.append(Set(state.name, value, reason=reason, evidence=evidence))
            now = value
        if segment.shape == "step" or (own and not self._anew and not jump):
            return actions
        end, shape = segment.end, segment.shape
        if shape == "cosine" and since > segment.start:
            end, shape = _next_chord(segment, position), "linear"
        target = _within(state, scale * segment.at(end))
        if shape in POSITIVE_SHAPES and min(now, target) <= 0:
            shape = "linear"
        steps = max(1, round((end - position) / speed))
        if target != now or own:
            self._ends = [*self._ends[1 - KEPT :], step + steps]
            actions.append(Ramp(state.name, target, steps, shape, reason=reason, evidence=evidence))
        return actions

    def _start(self, state: HyperparameterState, step: int, remaining: int | None) -> None:
        if isinstance(state.value, bool | str):
            raise TuneError(f"a schedule moves numbers, got {state.name}, which is {state.kind}; use another")
        unit = float(state.value) if self._peak is None else self._peak
        if unit == 0:
            raise TuneError(
                f"a schedule is relative to the value it finds, got 0 for {state.name}; give peak"
            )
        begin = step if self._begin is None else self._begin
        total = self._steps
        if self._spans:
            if remaining is None:
                raise TuneError(
                    "a piece that is a part of the whole needs to know how long that is, got neither steps "
                    "nor a budget; give the schedule steps=... or the tuner total_steps=..."
                )
            total = remaining + step - begin
        self._total, self._unit = total, unit
        self._laid = Plan([Piece(*piece) for piece in self._pieces], total)
        self._anchors = [[begin, 0.0, 1.0, unit]]

    def _take_over(self, state: HyperparameterState, step: int, remaining: int | None, own: bool) -> None:
        """Go on from the value that is found, in the time that is left."""
        plan, position = self._laid, self._position(step)
        self._anchors = [a for a in self._anchors if a[0] <= step]
        _, _, speed, scale = self._anchors[-1]
        rewound, self._done = position < self._done, min(self._done, position)
        if self._spans and remaining is not None and position < plan.total:
            speed = (plan.total - position) / remaining
        elif own:
            return  # after a rewind, the ramp that ran then runs again
        found = float(state.value)

        def as_planned(value: float) -> bool:
            return math.isclose(found, _within(state, scale * value), rel_tol=1e-9)

        start = plan.segments[plan.index(position)].start
        if rewound and plan.jump(start - 1, start) is not None and as_planned(plan.before(start)):
            self._done = start - 1.0  # the state was saved at the jump's tick, before it was made
        jump = plan.jump(self._done, position)
        planned = plan.at(position) if jump is None else plan.before(jump)
        if not own and planned and found and not as_planned(planned):
            scale = min(found / planned, max(scale, found / plan.highest(position)))
        self._anchors.append([step, position, speed, scale])
        self._anew = own

    # --- what is known -------------------------------------------------------------------------------------

    def _learn(self, observation: Observation) -> None:
        """From the decisions since it was last asked: what was done, refused, or changed by others."""
        mine = [d for d in observation.decisions if d.source == self.name]
        # A jump cut short to what one may go is asked for again, unless a ramp goes on from there.
        short = any(d.status == "clamped" for d in mine) and not any(isinstance(d.action, Ramp) for d in mine)
        for decision in observation.decisions:
            if decision.source != self.name:
                self._disturbed |= decision.applied and moves(decision, self.controls[0])
            elif decision.applied:
                self._refusals = 0
                if short:
                    self._wait = decision.spent + 1
                else:
                    self._done = self._asked
            else:
                self._wait = observation.spent + RETRY * 2 ** min(self._refusals, LONGEST_WAIT)
                self._refusals += 1

    def _position(self, step: int) -> float:
        """How far along the pieces it is, in their steps."""
        begun, position, speed, _ = next(
            (a for a in reversed(self._anchors) if a[0] <= step), self._anchors[0]
        )
        return position + max(0, step - begun) * speed

    def _new(self, pieces: Sequence[Piece], peak: float | None, steps: int | None, begin: int | None) -> None:
        if peak is not None and not 0 < peak < math.inf:
            raise TuneError(f"a schedule's peak is a positive number, got {peak!r}")
        self._spans = check(pieces, steps)  # whether its total is the budget
        self._pieces = [[p.length, p.value, p.shape] for p in pieces]
        self._peak, self._steps, self._begin = peak, steps, begin
        self._total, self._unit, self._anchors = None, 0.0, []
        self._done, self._asked = -1.0, -1.0
        self._disturbed, self._anew, self._told = False, begin is None, False

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Policy.load_state_dict`."""
        super().load_state_dict(state)
        pieces = [Piece(*piece) for piece in self._pieces]
        self._spans = check(pieces, self._steps)
        if self._anchors:
            self._laid = Plan(pieces, self._total)


def _next_chord(segment: Segment, position: float) -> float:
    """The next of the points that cut a cosine into chords, at least half a chord away."""
    chord = (segment.end - segment.start) / CHORDS
    return min(
        segment.end, segment.start + (math.floor((position - segment.start) / chord + 0.5) + 1) * chord
    )


def _within(state: HyperparameterState, value: float) -> float:
    """The nearest value that the hyperparameter can hold."""
    if state.low is not None and state.high is not None:
        value = min(max(value, state.low), state.high)
    return round(value) if state.kind == "int" else value
