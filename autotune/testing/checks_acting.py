"""What a policy does: the checks of its actions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..hyperparameters import Hyperparameter
from ..records import (
    Action,
    Decision,
    HyperparameterState,
    Observation,
    Policy,
    Ramp,
    Release,
    Set,
    Value,
)
from ..supervisor import Limits
from .scenarios import (
    EVERY,
    STEPS,
    MakePlant,
    MakePolicy,
    Watched,
    changes,
    run,
)
from .simulation import Simulation
from .subject import Violation, raised, subject

NAGS = 3  # refusals of one thing at ticks in a row
BUSY = 0.5  # part of the ticks with an action, in the second half of a run
SWINGS, SWING_STEPS = 4, 50  # opposite changes in a row, each within so many steps of the one before
MATERIAL_FACTOR, MATERIAL_PART = 1.1, 0.02  # smallest change that counts: a factor, or a part of the range
PERSON = "human:ada"


def bounds(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """Values are finite numbers within the bounds, also where the hyperparameter starts at one of them."""
    judged = subject(make, plant)
    for what, make_plant in judged.lively.items():
        for end in ("", "low", "high"):
            where = f"{what}, started at its {end} bound" if end else what
            watched = run(make(), make_plant(), between=_started_at(end, make()))
            if end and watched.error is not None:
                raise Violation(
                    "a policy lives with a hyperparameter at its bound",
                    raised(watched, where),
                    "Guard logarithms and divisions by the value.",
                ) from watched.error
            for tick in watched.ticks:
                for change in (c for action in tick.actions for c in changes(action)):
                    state = tick.observation.hyperparameters.get(change.name)
                    if isinstance(change, Set | Ramp) and state and not _allowed(change.value, state):
                        allowed = state.choices or f"[{state.low:g}, {state.high:g}]"
                        raise Violation(
                            "a policy stays within a hyperparameter's bounds; the third time it is benched",
                            f"{change.describe()}, where {allowed} is allowed, in {where}",
                            "Clamp to low and high of observation.hyperparameters[name].",
                        )


def declared(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """It moves what it names in `controls`, and nothing else."""
    for what, watched in subject(make, plant).runs.items():
        for action in (action for tick in watched.ticks for action in tick.actions):
            for change in changes(action):
                if change.name not in watched.controls:
                    raise Violation(
                        "a policy moves only what it names in controls; else it is benched",
                        f"{action.describe()} in {what}, where controls is {list(watched.controls)}",
                        f"Add {change.name!r} to controls.",
                    )


def explained(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """Every action has a reason in words and plain, finite numbers as evidence."""
    for what, watched in subject(make, plant).runs.items():
        for action in (action for tick in watched.ticks for action in tick.actions):
            if not action.reason.strip():
                raise Violation(
                    "each action says why, in words that a person understands",
                    f"{action.describe()} without a reason, in {what}",
                    "Give reason=...",
                )
            for name, value in action.evidence.items():
                if not _plain(value) or not isinstance(name, str):
                    raise Violation(
                        "evidence is plain, finite numbers, strings or None by name: it is stored as JSON",
                        f"{name!r}: {value!r} of type {type(value).__name__}, in {what}",
                        "Convert it by float(), or leave it out.",
                    )


def held(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """What a person holds is left alone."""
    for what, make_plant in subject(make, plant).lively.items():
        for since in (0, STEPS // 2):
            watched = run(make(), make_plant(), between=_held_from(since, make()))
            for tick in watched.ticks:
                states = tick.observation.hyperparameters
                for action in tick.actions:
                    for change in changes(action):
                        owner = states[change.name].owner if change.name in states else "policy"
                        if owner != "policy" and not isinstance(change, Release):
                            raise Violation(
                                "a hyperparameter that a person holds is left alone, in silence",
                                f"{action.describe()} held by {owner} in {what}",
                                'Do nothing while observation.hyperparameters[name].owner != "policy".',
                            )


def patient(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """What was refused is not asked for again at each tick."""
    nothing = Limits(cooldown=10**9, max_rewinds=0)
    for what, make_plant in subject(make, plant).lively.items():
        for where, start, arguments in (
            (what, "", {}),
            (f"{what}, with all refused", "", {"limits": nothing, "others": [_Toucher(make())]}),
            (f"{what}, in suggest mode", "", {"suggest": True}),
            (f"{what}, started at its low bound", "low", {}),
            (f"{what}, started at its high bound", "high", {}),
        ):
            watched = run(make(), make_plant(), between=_started_at(start, make()), **arguments)
            asked: dict[str, list[Decision]] = {}
            for decision in watched.decisions:
                if decision.source == watched.name and not decision.applied:
                    asked.setdefault(_nagging(decision), []).append(decision)
            for decisions in asked.values():
                for few in zip(*(decisions[i:] for i in range(NAGS)), strict=False):
                    if all(b.spent - a.spent <= EVERY for a, b in pairwise(few)):
                        raise Violation(
                            "what was refused, or only suggested, is asked for again after some 20 steps",
                            f"{few[0].action.describe()} at {NAGS} ticks in a row from spent {few[0].spent} "
                            f"on ({few[0].note or few[0].status}), in {where}",
                            "Look for refusals in observation.decisions, and wait.",
                        )


def settles(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """It comes to rest instead of acting at every tick."""
    for what, watched in subject(make, plant).runs.items():
        late = watched.ticks[len(watched.ticks) // 2 :]
        busy = sum(bool(tick.actions) for tick in late)
        if len(late) >= 10 and busy > BUSY * len(late):
            raise Violation(
                "a policy acts when something has changed, not all the time: each decision is on record",
                f"actions at {busy} of the last {len(late)} ticks of {what}",
                "Act on what matters, use one Ramp instead of many Sets, and wait after each action.",
            )


def steady(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """It does not move a hyperparameter to and fro."""
    for what, watched in subject(make, plant).runs.items():
        states = {} if not watched.ticks else watched.ticks[0].observation.hyperparameters
        for name in watched.controls:
            moves = _moves(watched, states[name]) if name in states else []
            swings = 0
            for (before, up), (spent, up_now) in pairwise(moves):
                swings = swings + 1 if up != up_now and spent - before <= SWING_STEPS else 0
                if swings >= SWINGS:
                    raise Violation(
                        "a policy does not undo its own change again and again",
                        f"{name} moved to and fro {swings} times in a row by spent {spent}, in {what}",
                        "Ask for more evidence to go back than to go on, or wait longer after a change.",
                    )


def once(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """Nothing is done twice on the same evidence; a tick may bring nothing new. Results of trials are new."""
    for what, make_plant in subject(make, plant).lively.items():
        watched = run(make(), make_plant(), between=lambda simulation: simulation.run(0).engine.skipped())
        for first, second in pairwise(watched.ticks):
            tried = first.observation.trials.keys() != second.observation.trials.keys()
            if first.observation.spent == second.observation.spent and not tried:
                for action in second.actions:
                    if _target(action) in map(_target, first.actions):
                        raise Violation(
                            "a policy acts once on the same evidence; a tick may bring nothing new",
                            f"{action.describe()} at step {second.observation.step} right after an action "
                            f"of its own, with nothing measured between, in {what}",
                            "Remember signal.spent[-1] when acting, and wait for later values.",
                        )


class _Toucher:
    """Moves every hyperparameter of another policy a little, once, before that one is asked."""

    name = "toucher"
    requires = ()

    def __init__(self, policy: Policy) -> None:
        self.controls = tuple(policy.controls)
        self._done = False

    def decide(self, observation: Observation) -> Sequence[Action]:
        if self._done:
            return ()
        self._done = True
        states = (observation.hyperparameters[name] for name in self.controls)
        return [Set(state.name, _beside(state), reason="a test") for state in states]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: object) -> None:
        """Nothing."""


def _beside(state: HyperparameterState) -> Value:
    if isinstance(state.value, str | bool) or state.low is None or state.high is None:
        return next(choice for choice in state.choices if choice != state.value)
    if state.kind == "int":
        return state.value - 1 if state.value > state.low else state.value + 1
    down = state.value - 0.01 * (state.value - state.low)
    return down if down < state.value else state.value + 0.01 * (state.high - state.value)


def _started_at(end: str, policy: Policy) -> Callable[[Simulation], None]:
    """Starts what the policy controls at an end of its range; nothing for ''."""

    def start(simulation: Simulation) -> None:
        for name in policy.controls if end and not simulation.clock.spent else ():
            parameter: Hyperparameter[Any] = simulation.controls[name]
            if parameter.kind != "categorical":
                bound = getattr(parameter.state(), end)
                parameter.write(int(bound) if parameter.kind == "int" else bound)

    return start


def _held_from(spent: int, policy: Policy) -> Callable[[Simulation], None]:
    """A person takes what the policy controls over, as it is."""

    def hold(simulation: Simulation) -> None:
        for name in policy.controls if simulation.clock.spent == spent else ():
            simulation.submit(Set(name, simulation[name], reason="a test"), PERSON)

    return hold


def _allowed(value: Value, state: HyperparameterState) -> bool:
    if state.choices:
        return value in state.choices
    if isinstance(value, str | bool) or state.low is None or state.high is None:
        return False
    return state.low <= value <= state.high  # False for NaN


def _plain(value: object) -> bool:
    if isinstance(value, np.generic):  # the journal takes the number that it holds
        value = value.item()
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, int | str | bool)


def _target(action: Action) -> str:
    """What tells an action from another that does something else."""
    if isinstance(action, Set | Ramp):
        return f"move {action.name}"
    return action.describe() if isinstance(action, Release) else action.kind


def _nagging(decision: Decision) -> str:
    """What is asked for again: a change of the same hyperparameter, or the very same advice."""
    return decision.action.describe() if decision.status == "suggested" else _target(decision.action)


def _moves(watched: Watched, state: HyperparameterState) -> list[tuple[int, bool]]:
    """When a policy has moved a hyperparameter by more than a little, and whether upwards."""
    moves = []
    for decision in watched.decisions:
        action = decision.action
        if decision.source != watched.name or not decision.applied or not isinstance(action, Set | Ramp):
            continue
        before, after = decision.before.get(state.name), action.value
        if (
            action.name != state.name
            or isinstance(before, str | bool | None)
            or isinstance(after, str | bool)
        ):
            continue
        if state.kind == "log":
            material = max(before, after) > MATERIAL_FACTOR * min(before, after)
        else:
            material = abs(after - before) > MATERIAL_PART * ((state.high or 0.0) - (state.low or 0.0))
        if material:
            moves.append((decision.spent, after > before))
    return moves
