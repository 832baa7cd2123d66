"""The supervisor: checks each proposed action and clamps or refuses it, with one clear reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .hyperparameters import CategoricalHyperparameter, Hyperparameter
from .records import (
    HUMAN,
    PERSONAL,
    POSITIVE_SHAPES,
    Action,
    Adopt,
    Arrange,
    Pin,
    Probe,
    Ramp,
    Release,
    Rewind,
    Schedule,
    Set,
    Shape,
    SnapshotInfo,
    Suggest,
    TuneError,
    Undo,
    Value,
)

TUNER = "supervisor"
"""The source of what the tuner does by itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What policies may do; a person is held to the bounds alone.

    Args:
        cooldown: steps that must pass before one policy may change what another policy has just changed.
        max_factor: largest factor by which a log-scaled hyperparameter moves in one jump.
        max_fraction: largest part of its range by which any other number moves in one jump.
        max_rewinds: rewinds that policies may make in one run.
        max_trials: trials that policies may make in one run.
    """

    cooldown: int = 20
    max_factor: float = 1000.0
    max_fraction: float = 0.5
    max_rewinds: int = 20
    max_trials: int = 100

    def __post_init__(self) -> None:
        for rule, holds, value in (
            ("cooldown is 0 or more steps", self.cooldown >= 0, self.cooldown),
            ("max_factor is above 1", self.max_factor > 1, self.max_factor),
            ("max_fraction lies in (0, 1]", 0 < self.max_fraction <= 1, self.max_fraction),
            ("max_rewinds is 0 or more", self.max_rewinds >= 0, self.max_rewinds),
            ("max_trials is 0 or more", self.max_trials >= 0, self.max_trials),
        ):
            if not holds:
                raise TuneError(f"{rule}, got {value!r}; see Limits for the meaning and the default")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the supervisor makes of an action: the action to apply, or the reason why there is none."""

    status: Literal["applied", "clamped", "refused", "suggested"]
    action: Action
    note: str = ""
    fault: bool = False
    """The policy did what no policy may do (NaN, a wrong type, a hyperparameter not its own)."""
    out_of_bounds: bool = False
    """A value was clamped to the hyperparameter's bounds."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What an action is judged against.

    Args:
        spent: the present `spent`.
        ramps: who started the ramps that are running, by hyperparameter.
        before: values of the hyperparameters that the action names.
        target: the state that a `Rewind` would restore.
        here: whether that is the present state.
        controls: what the proposing policy declared as its own; None (a person): everything.
        left: steps of the budget that a trial could take; None: there is no budget.
        adopted: what a trial that is adopted has set.
        step: the present step.
    """

    spent: int
    ramps: Mapping[str, str]
    before: Mapping[str, Value] = field(default_factory=dict)
    target: SnapshotInfo | None = None
    here: bool = False
    controls: frozenset[str] | None = None
    left: int | None = None
    adopted: tuple[Set, ...] = ()
    step: int = 0


class Supervisor:
    """Checks owner, bounds, rate limit, cooldown and the budget of rewinds. Changes only its own memory.

    Policies have precedence in their order: what one has moved, a later one moves further in the same
    direction or not at all, until the earlier one releases it. So no two policies fight.

    Args:
        hyperparameters: by name.
        limits: what policies may do.
        suggest: record what policies would do, and apply none of it.
        order: the policies' names, in the order of their precedence.
    """

    def __init__(
        self,
        hyperparameters: Mapping[str, Hyperparameter[Any]],
        limits: Limits,
        suggest: bool = False,
        order: Sequence[str] = (),
    ) -> None:
        self.hyperparameters = hyperparameters
        self.limits = limits
        self.suggest = suggest
        self._order = tuple(order)
        self.rewinds = 0
        self.probes = 0
        self._changes: dict[
            str, tuple[str, int]
        ] = {}  # hyperparameter -> (who changed it last, at which spent)
        # hyperparameter -> policy -> whether it has raised (1) or lowered (-1) it, last, and to which value
        self._directions: dict[str, dict[str, tuple[int, Any]]] = {}
        self._replays: set[str] = set()

    @property
    def rewinds_left(self) -> int:
        """Rewinds that policies may still make."""
        return max(0, self.limits.max_rewinds - self.rewinds)

    def review(self, action: Action, source: str, situation: Situation) -> Verdict:
        """Check what `source` (a policy's name, or `human:NAME`) proposes; the verdict has what to apply."""
        human = source.startswith(HUMAN)
        try:
            if isinstance(action, PERSONAL) and not human:
                raise TuneError(f"a {action.kind} is for people; policies set, ramp, rewind and suggest")
            if isinstance(action, Set | Ramp):
                verdict = self._person(action) if human else self._policy(action, source, situation)
            elif isinstance(action, Rewind):
                verdict = self._rewind(action, source, situation)
            elif isinstance(action, Release):
                verdict = self._release(action, source, situation)
            elif isinstance(action, Probe):
                verdict = self._probe(action, source, situation)
            elif isinstance(action, Schedule):
                verdict = self._schedule(action, situation)
            elif isinstance(action, Pin):
                self._known(action)
                verdict = Verdict("applied", action)
            elif isinstance(action, Arrange):
                self._check_policies(action)
                verdict = Verdict("applied", action)
            elif isinstance(action, Suggest):
                return self._suggestion(action, situation)
            else:
                verdict = Verdict("applied", action)
        except TuneError as error:
            return Verdict("refused", action, str(error), fault=True)
        if self.suggest and not human and source != TUNER and verdict.status != "refused":
            return dataclasses.replace(verdict, status="suggested")
        return verdict

    def applied(self, action: Action, source: str, situation: Situation) -> None:
        """Remember an action that was applied in this situation."""
        if isinstance(action, Set | Ramp):
            self._moved(action, source, situation)
        elif isinstance(action, Release):
            if source.startswith(HUMAN) or self._last(action.name, source):
                self._changes.pop(action.name, None)
            directions = self._directions.get(action.name, {})
            directions.clear() if source.startswith(HUMAN) else directions.pop(source, None)
        elif isinstance(action, Probe):
            self.probes += 1
        elif isinstance(action, Schedule | Pin | Undo):
            for name in situation.before:
                self._changes[name] = (source, situation.spent)
                self._directions.pop(name, None)
        elif isinstance(action, Arrange):
            self._order = tuple(arranged(self._order, action.policies))
        elif isinstance(action, Adopt):
            for adopted in situation.adopted:
                self._moved(adopted, source, situation)
        elif isinstance(action, Rewind):
            if not source.startswith(HUMAN):
                self.rewinds += 1
            self._replays.add(_replay(action, situation))
            for change in {a.name: a for a in action.then}.values():  # where each ends
                self._moved(change, source, situation)

    def state_dict(self) -> dict[str, Any]:
        """The memory, as plain JSON values."""
        return {
            "order": list(self._order),
            "rewinds": self.rewinds,
            "probes": self.probes,
            "changes": {name: list(change) for name, change in self._changes.items()},
            "directions": {
                n: {p: list(m) for p, m in moves.items()} for n, moves in self._directions.items()
            },
            "replays": sorted(self._replays),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the memory back."""
        self._order = tuple(state.get("order", self._order))
        self.rewinds = state["rewinds"]
        self.probes = state.get("probes", 0)
        self._changes = {name: (source, spent) for name, (source, spent) in state["changes"].items()}
        self._directions = {
            name: {policy: (way, value) for policy, (way, value) in moves.items()}
            for name, moves in state.get("directions", {}).items()
        }
        self._replays = set(state["replays"])

    def dismiss(self, source: str) -> None:
        """Forget what a benched policy has moved: it cannot release it any more."""
        self._changes = {name: change for name, change in self._changes.items() if change[0] != source}
        for moves in self._directions.values():
            moves.pop(source, None)

    def _known(self, action: Set | Ramp | Release | Schedule | Pin) -> Hyperparameter[Any]:
        if action.name not in self.hyperparameters:
            known = ", ".join(sorted(self.hyperparameters)) or "none"
            raise TuneError(f"no hyperparameter is called {action.name!r}; registered: {known}")
        return self.hyperparameters[action.name]

    def _person(self, action: Set | Ramp) -> Verdict:
        """A person's change: held to the bounds, and to what the kind can do."""
        parameter = self._known(action)
        value = parameter.check(action.value)
        _check_ramp(action, parameter, value)
        return Verdict("applied", dataclasses.replace(action, value=value))

    def _schedule(self, action: Schedule, situation: Situation) -> Verdict:
        """A schedule lies ahead, within the bounds."""
        parameter, first = self._known(action), action.points[0].step
        if first <= situation.step:
            raise TuneError(f"a schedule lies ahead of step {situation.step}, got a point at step {first}")
        points = []
        ends = [parameter(), *(point.value for point in action.points)]
        for before, point in zip(ends, action.points, strict=False):
            value = parameter.check(point.value)
            _check_course(action.name, parameter, point.shape, before, value)
            points.append(point._replace(value=value))
        return Verdict("applied", dataclasses.replace(action, points=tuple(points)))

    def _check_policies(self, action: Arrange) -> None:
        unknown = [name for name in action.policies if name not in self._order]
        if unknown:
            known = ", ".join(self._order) or "none"
            raise TuneError(f"no policy is called {unknown[0]!r}; the run has: {known}")

    def _policy(self, action: Set | Ramp, source: str, situation: Situation) -> Verdict:
        """A policy's change of its own: held to everything."""
        verdict = self._within_bounds(action, situation)
        if verdict.status == "refused":
            return verdict
        wait = self._wait(action.name, source, situation)
        parameter, note = self._known(action), verdict.note
        value = parameter.clamp(action.value)
        wait = wait or self._precedence(action.name, parameter(), value, source)
        if wait:
            return Verdict("refused", action, wait)
        if isinstance(action, Set) or action.steps == 1:
            limited = self._limit(parameter, value)
            if limited != value:
                note = f"{value!r} is further than one jump may go (Limits): clamped to {limited!r}"
                value = limited
        if isinstance(action, Set) and value == parameter() and action.name not in situation.ramps:
            return Verdict("refused", action, note or f"{action.name} is {value!r} already")
        status: Literal["clamped", "applied"] = "clamped" if note else "applied"
        changed = dataclasses.replace(action, value=value)
        return Verdict(status, changed, note, out_of_bounds=verdict.out_of_bounds)

    def _within_bounds(self, action: Set | Ramp, situation: Situation) -> Verdict:
        """Whether a policy may change the hyperparameter at all, and the change clamped to its bounds."""
        parameter = self._known(action)
        verdict = self._clamped(action, situation)
        if parameter.owner != "policy":
            return Verdict("refused", action, f"{action.name} is held by {parameter.owner} until released")
        return verdict

    def _clamped(self, action: Set | Ramp, situation: Situation) -> Verdict:
        """The change clamped to the bounds."""
        parameter = self._known(action)
        self._check_declared(action.name, situation)
        value = parameter.clamp(action.value)
        _check_ramp(action, parameter, value)
        if value == action.value:
            return Verdict("applied", dataclasses.replace(action, value=value))
        note = f"{action.value!r} is out of bounds: clamped to {value!r}"
        return Verdict("clamped", dataclasses.replace(action, value=value), note, out_of_bounds=True)

    def _wait(self, name: str, source: str, situation: Situation) -> str:
        """Why `source` has to wait before it may change `name`; empty when it need not."""
        mover = situation.ramps.get(name, source)
        if mover != source:
            return f"a ramp of {mover} is moving {name}"
        last, when = self._changes.get(name, (source, 0))
        if last != source and situation.spent - when < self.limits.cooldown:
            return (
                f"{last} changed {name} {situation.spent - when} steps ago; "
                f"the cooldown is {self.limits.cooldown} steps"
            )
        return ""

    def _precedence(self, name: str, now: Value, value: Value, source: str) -> str:
        """Why `source` may not move `name` there: against an earlier policy, beyond where that left it."""
        earlier = self._order[: self._order.index(source)] if source in self._order else ()
        moves = self._directions.get(name, {})
        for policy in earlier:
            if policy in moves and isinstance(value, str | bool):
                return f"{policy}, further up the list, has set {name}: a later policy does not undo that"
            direction, left = moves.get(policy, (0, now))
            if _direction(now, value) * direction < 0 and _direction(left, value) * direction < 0:
                verb = "raised" if direction > 0 else "lowered"
                return f"{policy}, further up the list, has {verb} {name}: a later policy does not undo that"
        return ""

    def _moved(self, action: Set | Ramp, source: str, situation: Situation) -> None:
        self._changes[action.name] = (source, situation.spent)
        direction = _direction(situation.before[action.name], action.value)
        if source.startswith(HUMAN):
            self._directions.pop(action.name, None)
        elif direction or isinstance(action.value, str | bool):
            moves = self._directions.setdefault(action.name, {})
            for later in self._order[self._order.index(source) + 1 :] if source in self._order else ():
                if moves.get(later, (direction, 0))[0] != direction:
                    del moves[later]  # it has been overruled
            moves[source] = (direction, action.value)

    def _limit(self, parameter: Hyperparameter[Any], value: Value) -> Value:
        """`value`, or the furthest that one jump may go towards it."""
        state = parameter.state()
        if isinstance(value, str | bool) or state.low is None or state.high is None:
            return value
        now = float(state.value)
        if state.kind == "log":
            low, high = now / self.limits.max_factor, now * self.limits.max_factor
        else:
            reach = self.limits.max_fraction * (state.high - state.low)
            low, high = now - reach, now + reach
        limited: Value = value if low <= value <= high else parameter.clamp(min(max(value, low), high))
        return limited

    def _rewind(self, action: Rewind, source: str, situation: Situation) -> Verdict:
        """What a rewind sets afterwards is exempt from cooldown and rate limit: the plant is new then."""
        assert situation.target is not None
        if situation.here and not action.then:
            note = f"the run is at step {situation.target.step} already: a rewind changes nothing"
            return Verdict("refused", action, note)
        human = source.startswith(HUMAN)
        changes = [self._person(a) if human else self._within_bounds(a, situation) for a in action.then]
        kept = tuple(v.action for v in changes if v.status != "refused" and isinstance(v.action, Set | Ramp))
        allowed = dataclasses.replace(action, then=kept)
        if not human:
            if not self.rewinds_left:
                return Verdict(
                    "refused", action, f"all {self.limits.max_rewinds} rewinds are used up (Limits)"
                )
            if action.data == "replay" and (not kept or _replay(allowed, situation) in self._replays):
                note = "the same data with the same values would only repeat the run: change one, or skip"
                return Verdict("refused", action, note)
        note = "; ".join(v.note for v in changes if v.note)
        outside = any(v.out_of_bounds for v in changes)
        return Verdict("clamped" if note else "applied", allowed, note, out_of_bounds=outside)

    def _probe(self, action: Probe, source: str, situation: Situation) -> Verdict:
        """A trial comes back to where it began, so that it is held to bounds, owners and budget alone."""
        if source.startswith(HUMAN):
            return Verdict("refused", action, "trials are for policies, which read what comes of them")
        if situation.left is not None and action.most > situation.left:
            note = f"a trial of {action.most} steps does not fit into the {situation.left} that are left"
            return Verdict("refused", action, note)
        if self.probes >= self.limits.max_trials:
            return Verdict("refused", action, f"all {self.limits.max_trials} trials are used up (Limits)")
        changes = [self._within_bounds(change, situation) for change in (*action.then, *action.branch)]
        refused = next((v for v in changes if v.status == "refused"), None)
        if refused is not None:
            return Verdict("refused", action, refused.note)
        for change in (*action.then, *action.branch):
            mover = situation.ramps.get(change.name, source)
            if mover != source:
                return Verdict("refused", action, f"a ramp of {mover} is moving {change.name}")
        kept: list[Any] = [v.action for v in changes]
        then, branch = tuple(kept[: len(action.then)]), tuple(kept[len(action.then) :])
        note = "; ".join(v.note for v in changes if v.note)
        allowed = dataclasses.replace(action, then=then, branch=branch)
        outside = any(v.out_of_bounds for v in changes)
        return Verdict("clamped" if note else "applied", allowed, note, out_of_bounds=outside)

    def _release(self, action: Release, source: str, situation: Situation) -> Verdict:
        parameter = self._known(action)
        self._check_declared(action.name, situation)
        if source.startswith(HUMAN):
            if parameter.owner == "policy":
                return Verdict("refused", action, f"nobody holds {action.name}: there is nothing to release")
        elif parameter.owner != "policy":
            return Verdict("refused", action, f"{action.name} is held by {parameter.owner} until released")
        elif source not in self._directions.get(action.name, {}) and not self._last(action.name, source):
            return Verdict("refused", action, f"{source} has not moved {action.name}: nothing to release")
        return Verdict("applied", action)

    def _last(self, name: str, source: str) -> bool:
        """Whether `source` was the last to change `name`."""
        return self._changes.get(name, ("", 0))[0] == source

    def _suggestion(self, action: Suggest, situation: Situation) -> Verdict:
        """Advice is held to what can be done at all, not to whose turn it is."""
        if action.action is None:
            return Verdict("suggested", action)
        verdict = self._clamped(action.action, situation)
        change = verdict.action
        assert isinstance(change, Set | Ramp)
        if isinstance(change, Set) and change.value == self._known(change)():
            return Verdict("refused", action, f"{change.name} is {change.value!r} already")
        return Verdict("suggested", dataclasses.replace(action, action=change), verdict.note)

    def _check_declared(self, name: str, situation: Situation) -> None:
        if situation.controls is not None and name not in situation.controls:
            declared = ", ".join(sorted(situation.controls)) or "nothing"
            raise TuneError(f"{name} is not what the policy declares in `controls` ({declared})")


def arranged(order: Sequence[str], names: Sequence[str]) -> list[str]:
    """`order`, with these names in the order that they have here, in the places that they have there."""
    following = iter(names)
    return [next(following) if name in names else name for name in order]


def _replay(action: Rewind, situation: Situation) -> str:
    """What tells a rewind from others that lead to another run."""
    assert situation.target is not None
    then = [(a.kind, a.name, a.value, a.steps if isinstance(a, Ramp) else 0) for a in action.then]
    return f"{situation.target.spent} {action.data} {then!r}"


def _check_ramp(action: Set | Ramp, parameter: Hyperparameter[Any], value: Value) -> None:
    if isinstance(action, Ramp):
        _check_course(action.name, parameter, action.shape, parameter(), value)


def _check_course(name: str, parameter: Hyperparameter[Any], shape: Shape, first: Value, last: Value) -> None:
    """Raise where a hyperparameter cannot move from one value to the other along this shape."""
    if isinstance(last, str | bool) or isinstance(parameter, CategoricalHyperparameter):
        raise TuneError(f"{name} is categorical and cannot be ramped; use Set")
    if shape in POSITIVE_SHAPES and min(float(first), last) <= 0:
        raise TuneError(
            f"a ramp of shape {shape} needs positive ends, got {first!r} to {last!r} for {name}; "
            "use linear or cosine"
        )


def _direction(before: Value, after: Value) -> int:
    """1 for up, -1 for down; 0 for neither, and for what is no number."""
    if isinstance(before, str | bool) or isinstance(after, str | bool):
        return 0
    return (after > before) - (after < before)
