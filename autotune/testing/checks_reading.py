"""What a policy reads: the checks of what it takes for granted."""

from __future__ import annotations

import contextlib
import math

import numpy as np

from ..history import History
from ..records import (
    Observation,
    Rewind,
)
from .scenarios import (
    EVERY,
    STEPS,
    Broken,
    Fitted,
    MakePlant,
    MakePolicy,
    Watched,
    changes,
    copied,
    run,
)
from .simulation import Simulation
from .subject import Violation, raised, subject

PERSON = "human:ada"


def required(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """It lives with the signals that it requires and the hyperparameters that it controls."""
    judged = subject(make, plant)
    for what, make_plant in judged.lively.items():
        granted = judged.runs[what].unasked
        if granted:
            raise Violation(
                "a signal that a policy cannot do without stands in requires",
                f"{', '.join(sorted(granted))} read without being asked for, in {what}",
                'Name it in requires, or read it by observation.signals.get("...") and live with None.',
            )
        watched = run(make(), Fitted(make_plant(), make(), alone=True))
        if watched.error is not None:
            raise Violation(
                "requires and controls name all that a policy cannot do without",
                raised(watched, f"{what}, with nothing else there"),
                "Name it there, or read it by .get(...) and live with None.",
            ) from watched.error


def unmeasured(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """Signals may not be there yet, may be empty, and come late; there may be nothing to rewind to."""
    judged = subject(make, plant)
    for what, make_plant in judged.lively.items():
        built, none = make_plant(), History()
        for name in built.signals:
            none.append(name, 1, 1, 0.0)
        none.truncate(0)
        states = {parameter.name: parameter.state() for parameter in built.hyperparameters}
        watched = Watched(make())
        for signals in ({}, none.signals()):
            watched.decide(Observation(EVERY, EVERY, STEPS, states, signals, rewinds_left=20))
        if watched.error is None:
            watched = run(make(), make_plant(), lag=1)
        if watched.error is None:
            watched = run(make(), make_plant(), capacity=0)
        if watched.error is not None:
            raise Violation(
                "a policy waits for what has not been measured yet: on a GPU values come ticks later",
                raised(watched, what),
                'Read signals by .get("..."), and return () while there is none or too little of it.',
            ) from watched.error


def nonfinite(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """NaN and infinities are signals too."""
    judged = subject(make, plant)
    for what, make_plant in judged.lively.items():
        watched = run(make(), Broken(make_plant(), make()))
        usual, lost = _not_finite(judged.runs[what]), _not_finite(watched)
        if watched.error is not None or (lost and not usual):
            raise Violation(
                "a policy stands NaN and infinities in its signals, and hands none on",
                f"{lost[0]} in {what}" if lost else raised(watched, f"{what}, with values that are lost"),
                "Keep the finite values only, by np.isfinite, and wait where too few are left.",
            ) from watched.error


def no_budget(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """The budget may not be known."""
    for what, make_plant in subject(make, plant).lively.items():
        watched = run(make(), make_plant(), budget=None)
        if watched.error is not None:
            raise Violation(
                "a policy works without a budget: budget and remaining may be None",
                raised(watched, f"{what}, without one"),
                "Test for None, and do what can be done without.",
            ) from watched.error


def rewound(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """Others may rewind the run: the step goes back, and the histories are cut back."""

    def back(simulation: Simulation) -> None:
        to, data = {200: (100, "skip"), 400: (0, "replay")}.get(simulation.clock.spent, (None, "skip"))
        if to is not None:
            simulation.submit(Rewind(to, data, reason="a test"), PERSON)  # type: ignore[arg-type]

    for what, make_plant in subject(make, plant).lively.items():
        watched = run(make(), make_plant(), between=back)
        if watched.error is not None:
            raise Violation(
                "a policy stands a rewind: the step goes back, and histories are cut back to it",
                raised(watched, f"{what}, rewound by a person"),
                "Keep values of spent, never indices or lengths, and expect fewer values than last time.",
            ) from watched.error


def hands_off(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """It changes nothing of what it is shown."""
    for what, watched in subject(make, plant).runs.items():
        policy = make()
        for tick in watched.ticks:
            shown = copied(tick.observation)
            with contextlib.suppress(Exception):  # `runs` says what is wrong
                policy.decide(shown)
            changed = _changed(tick.observation, shown)
            if changed:
                raise Violation(
                    "a policy only reads what it is shown",
                    f"{changed} changed by decide at step {shown.step} of {what}",
                    "Work on a copy: np.sort(values) instead of values.sort().",
                )


def _not_finite(watched: Watched) -> list[str]:
    """Actions with NaN or an infinity in them."""
    out = []
    for action in (action for tick in watched.ticks for action in tick.actions):
        values = [*action.evidence.values(), *(getattr(change, "value", 0.0) for change in changes(action))]
        if any(isinstance(v, float | np.floating) and not math.isfinite(v) for v in values):
            out.append(repr(action))
    return out


def _changed(before: Observation, after: Observation) -> str:
    """Which part of an observation is no longer what it was; empty for none."""
    if dict(before.hyperparameters) != dict(after.hyperparameters):
        return "hyperparameters"
    if list(before.snapshots) != list(after.snapshots) or list(before.decisions) != list(after.decisions):
        return "snapshots or decisions"
    for name, signal in before.signals.items():
        now = after.signals.get(name)
        pairs = (
            ()
            if now is None
            else ((signal.step, now.step), (signal.spent, now.spent), (signal.value, now.value))
        )
        if now is None or not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs):
            return f"the signal {name}"
    return ""
