"""What a policy is and remembers: the checks of its protocol, its memory and its repeatability."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from unittest.mock import patch

import numpy as np
import torch

from ..generators import Generators, State
from ..records import (
    Policy,
)
from .scenarios import (
    STEPS,
    MakePlant,
    MakePolicy,
    Watched,
    fed,
    run,
)
from .subject import Violation, raised, subject


def runs(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """`decide` returns actions, and raises nothing."""
    for what, watched in subject(make, plant).runs.items():
        if watched.error is not None:
            raise Violation(
                "decide returns a sequence of actions and raises nothing: what raises is benched",
                raised(watched, what),
                "Return () where there is nothing to do.",
            ) from watched.error


def acts(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """It does something on one plant at least; else the other checks prove little."""
    judged = subject(make, plant)
    if not judged.sound:
        return
    if not any(watched.acted for watched in judged.runs.values()):
        raise Violation(
            f"a policy is checked where it has something to do within {STEPS} steps",
            f"no action in {', '.join(judged.runs)}",
            "Pass plant=..., a function that makes a plant on which it acts.",
        )


def plain_memory(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """`state_dict` returns plain JSON values, and `load_state_dict` takes them back."""
    for what, watched in subject(make, plant).runs.items():
        again = Watched(make())
        for tick in watched.ticks:
            again.decide(tick.observation)
            state: object = None
            try:
                state = again.state_dict()
                before, after = _text(again.policy), _text(_resumed(make, again.policy))
                seen = "" if before == after else f"{after} after {before}"
            except Exception as error:
                seen = f"{type(error).__name__}: {error} for {state!r}"
            if seen:
                raise Violation(
                    "state_dict returns plain JSON values, and load_state_dict takes them back as they were",
                    f"{seen} at step {tick.observation.step} of {what}",
                    "Keep numbers, strings, lists and dicts with string keys; None instead of NaN; "
                    "call float() on NumPy scalars, list() on tuples and arrays.",
                )


def resume(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """A policy made anew from `state_dict` before each tick decides as one that was never interrupted."""
    for what, watched in subject(make, plant).runs.items():
        interrupted, lost = Watched(make()), set()
        for tick in watched.ticks:
            try:
                fresh = _resumed(make, interrupted.policy)
            except Exception:  # `plain_memory` says what is wrong
                return
            lost |= _differing(interrupted.policy, fresh)
            interrupted.policy = fresh
            interrupted.decide(tick.observation)
        if interrupted.log != watched.log and fed(make(), watched.ticks).log == watched.log:
            forgotten = f" (not restored: {', '.join(sorted(lost))})" if lost else ""
            raise Violation(
                "a resumed policy decides as one that was never interrupted",
                f"{_difference(watched.log, interrupted.log)} after a resume, in {what}{forgotten}",
                "Put all that decide remembers into state_dict, and take it back in load_state_dict.",
            )


def repeats(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """The same observations lead to the same decisions: no clock, no chance, nothing kept elsewhere."""
    judged = subject(make, plant)
    for what, make_plant in judged.lively.items():
        before = Generators().capture()
        watched = run(make(), make_plant())
        Generators().restore(before)  # who draws from these is caught by `undisturbing`
        with _fast_clock():
            again = fed(make(), watched.ticks)
        if watched.log != again.log:
            raise Violation(
                "the same observations lead to the same decisions, so that a run can be replayed",
                f"{_difference(watched.log, again.log)} the second time, in {what}",
                "Count steps instead of reading a clock; seed generators and keep their state in state_dict; "
                "keep no memory in the class or the module.",
            )


def undisturbing(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """It draws from no global random generator, which the training draws from as well."""
    for what, watched in subject(make, plant).runs.items():
        before = Generators().capture()
        fed(make(), watched.ticks)
        drawn = _drawn(before, Generators().capture())
        if drawn:
            raise Violation(
                "a policy leaves the global random generators alone: the training draws from them as well",
                f"draws from that of {', '.join(drawn)} in {what}",
                "Use np.random.default_rng(seed) of its own.",
            )


def _resumed(make: MakePolicy, policy: Policy) -> Policy:
    """A fresh policy with the memory of another, by way of JSON."""
    fresh = make()
    fresh.load_state_dict(json.loads(_text(policy)))
    return fresh


def _text(policy: Policy) -> str:
    return json.dumps(policy.state_dict(), allow_nan=False, sort_keys=True)


def _difference(one: Sequence[str], other: Sequence[str]) -> str:
    """Where two logs part."""
    for a, b in zip([*one, "nothing more"], [*other, "nothing more"], strict=False):
        if a != b:
            return f"{a} at first, {b}"
    return ""


def _differing(old: Policy, new: Policy) -> set[str]:
    """Attributes that are not what they were; by their text, which for most values is all there is."""
    before, after = (dict(getattr(policy, "__dict__", {})) for policy in (old, new))
    return {
        name
        for name in before.keys() | after.keys()
        if " at 0x" not in repr(before.get(name)) and repr(before.get(name)) != repr(after.get(name))
    }


def _drawn(before: State, after: State) -> list[str]:
    """Which global generators are not what they were."""
    python = before["python"] != after["python"]
    one, two = before["numpy"], after["numpy"]
    numpy = one["state"]["pos"] != two["state"]["pos"] or not np.array_equal(
        one["state"]["key"], two["state"]["key"]
    )
    torch_ = not torch.equal(before["torch"], after["torch"])
    return [n for n, d in (("random", python), ("numpy.random", numpy), ("torch", torch_)) if d]


@contextlib.contextmanager
def _fast_clock() -> Iterator[None]:
    """Every look at a clock finds another minute gone."""
    passed = 0.0

    def later(read: Callable[[], float]) -> Callable[[], float]:
        def look() -> float:
            nonlocal passed
            passed += 60
            return read() + passed

        return look

    with contextlib.ExitStack() as stack:
        for name in ("time", "monotonic", "perf_counter"):
            stack.enter_context(patch.object(time, name, later(getattr(time, name))))
        yield
