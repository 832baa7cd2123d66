"""A policy on trial: what a fault is called, and the runs that the checks of one policy share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

from ..records import (
    Policy,
)
from ..supervisor import TUNER
from .scenarios import (
    MakePlant,
    MakePolicy,
    Watched,
    plants,
    run,
)


class Violation(AssertionError):
    """A policy does not hold to a rule."""

    def __init__(self, rule: str, seen: str, remedy: str) -> None:
        super().__init__(f"{rule}; got {seen}. {remedy}")


def protocol(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """It has the members of `Policy`, with plain names, and `make` makes a fresh one each time."""
    policy, other = make(), make()
    members = ("name", "requires", "controls", "decide", "state_dict", "load_state_dict")
    missing = [member for member in members if not hasattr(policy, member)]
    if not isinstance(policy, Policy):
        raise Violation(
            f"a policy has {', '.join(members)}",
            f"{policy!r} without {', '.join(missing)}",
            "Write what is missing; a policy without memory returns {} from state_dict.",
        )
    if policy is other:
        raise Violation(
            "make() returns a fresh policy each time",
            "the same object twice",
            "Pass what makes it: check(lambda: MyPolicy()).",
        )
    if (
        not isinstance(policy.name, str)
        or not policy.name.strip()
        or ":" in policy.name
        or policy.name == TUNER
    ):
        raise Violation(
            f"a policy's name is a word without a colon, and not {TUNER!r}",
            repr(policy.name),
            "Give it a plain name, such as that of its class.",
        )
    for what in ("requires", "controls"):
        names = getattr(policy, what)
        plain = isinstance(names, Sequence) and not isinstance(names, str)
        if not plain or any(not isinstance(n, str) for n in names) or len(set(names)) < len(names):
            raise Violation(
                f"{what} is a sequence of different names", repr(names), 'Write it as a tuple: ("loss",).'
            )
        if list(names) != list(getattr(other, what)):
            raise Violation(
                f"{what} is the same for every policy that is made alike",
                f"{list(names)} and {list(getattr(other, what))}",
                "Derive it from the constructor's arguments alone.",
            )


class Subject:
    """A policy's plants, and how it runs on them; none for something that is no policy."""

    def __init__(self, make: MakePolicy, plant: MakePlant | None) -> None:
        self._make = make
        try:
            protocol(make)
        except Violation:
            self.plants: dict[str, MakePlant] = {}
        else:
            self.plants = plants(make(), plant)

    @cached_property
    def runs(self) -> dict[str, Watched]:
        """By what the plant is."""
        return {what: run(self._make(), make_plant()) for what, make_plant in self.plants.items()}

    @property
    def sound(self) -> bool:
        """Whether the policy runs at all, so that there is something to judge."""
        return bool(self.plants) and all(watched.error is None for watched in self.runs.values())

    @cached_property
    def lively(self) -> dict[str, MakePlant]:
        """The two plants on which it does most; none for a policy that does not run."""
        if not self.sound:
            return {}
        busy = sorted(self.runs, key=lambda what: -sum(bool(t.actions) for t in self.runs[what].ticks))
        return {what: self.plants[what] for what in busy[:2]}


@lru_cache(maxsize=4)
def subject(make: MakePolicy, plant: MakePlant | None) -> Subject:
    """The policy that `make` makes; the checks of one `make` share its runs."""
    return Subject(make, plant)


def raised(watched: Watched, what: str) -> str:
    """What a policy has raised, and where."""
    step = watched.ticks[-1].observation.step
    return f"{type(watched.error).__name__}: {watched.error} at step {step} of {what}"
