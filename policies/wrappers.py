"""Wrappers round any policy: when it is asked, and whether it gets its way. They compose."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from autotune.records import (
    Action,
    Adopt,
    Decision,
    Observation,
    Policy,
    Ramp,
    Release,
    Rewind,
    Set,
    TuneError,
    action_from_json,
    action_to_json,
)

from .memory import Remembering


class Wrapper(Remembering):
    """Asks the policy within when `due` says so, under its own name; all else passes through.

    What was decided while the policy was not asked it is told when it is asked next, so that it misses
    neither a refusal nor what others have changed. When it will be asked no more, what it has moved is
    released, so that later policies may move it in either direction. Wrappers go round wrappers, too.

    Args:
        policy: what is wrapped.

    Raises:
        TuneError: for something that is no policy.
    """

    MEMORY: ClassVar[tuple[str, ...]] = ()
    optional = False
    """Whether it is silent, rather than an error, in runs that lack what it needs."""

    def __init__(self, policy: Policy) -> None:
        if not isinstance(policy, Policy):
            raise TuneError(f"a wrapper goes round a policy, got {policy!r}; see autotune.Policy")
        self.policy = policy
        self.name = policy.name
        self.requires = policy.requires
        self.controls = policy.controls
        self.optional = self.optional or getattr(policy, "optional", False)
        self._untold: list[Decision] = []
        self._moved: list[str] = []  # hyperparameters that it has moved, and not released

    def due(self, observation: Observation) -> bool:
        """Whether the policy is asked now; called at each tick."""
        return True

    def over(self, observation: Observation) -> bool:
        """Whether the policy, not being due, will be asked no more."""
        return False

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        self._hear(observation)
        if not self.due(observation):
            if not self.over(observation):
                return ()
            moved, self._moved, self._untold = self._moved, [], []
            return [Release(name, reason="the policy has done with it") for name in moved]
        actions = self._ask(observation)
        self._untold = []
        return actions

    def state_dict(self) -> dict[str, Any]:
        """See `Policy.state_dict`."""
        untold = [_to_json(decision) for decision in self._untold]
        own = {"policy": self.policy.state_dict(), "untold": untold, "moved": list(self._moved)}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Policy.load_state_dict`."""
        super().load_state_dict(state)
        self.policy.load_state_dict(state["policy"])
        self._untold = [_from_json(decision) for decision in state["untold"]]
        self._moved = list(state["moved"])

    def _hear(self, observation: Observation) -> None:
        self._untold.extend(observation.decisions)
        for decision in observation.decisions:
            if decision.source == self.name and decision.applied:
                action = decision.action
                for change in action.then if isinstance(action, Rewind) else (action,):
                    if isinstance(change, Set | Ramp) and change.name not in self._moved:
                        self._moved.append(change.name)
                    elif isinstance(change, Release) and change.name in self._moved:
                        self._moved.remove(change.name)

    def _ask(self, observation: Observation) -> Sequence[Action]:
        return self.policy.decide(dataclasses.replace(observation, decisions=tuple(self._untold)))

    def _acts(self, observation: Observation) -> list[int]:
        """`spent` at each time that the policy within has changed the run, of which nothing was heard yet.

        Where nothing is applied (`suggest=True`, a replay), what it would have changed.
        """
        changes = (Set, Ramp, Rewind, Adopt)
        done = ("applied", "clamped", "suggested")
        mine = (d for d in observation.decisions if d.source == self.name and d.status in done)
        return sorted({d.spent for d in mine if isinstance(d.action, changes)})


class IfThere(Wrapper):
    """Asks the policy only in runs that have what it needs; elsewhere it is silent, instead of an error.

    For compositions that are used with any run: a policy for `gradient_clip` where none is registered, one
    for validation where nothing is evaluated.

    Args:
        policy: whose `requires` and `controls` may be missing.
    """

    optional = True

    def due(self, observation: Observation) -> bool:
        """Whether each signal has been measured, and each hyperparameter is there."""
        return all(name in observation.signals for name in self.requires) and all(
            name in observation.hyperparameters for name in self.controls
        )


class Patience(Wrapper):
    """Lets the policy act only when it has wanted to at so many ticks in a row.

    Until then it is made to forget that it asked. For policies whose wish lasts as long as its reason; one
    that asks once, at the moment of an event, is never heard.

    Args:
        policy: what is wrapped.
        ticks: at least 1; the last of them is the one at which it acts.

    Raises:
        TuneError: for fewer than one tick.
    """

    MEMORY = ("_wanted",)

    def __init__(self, policy: Policy, ticks: int) -> None:
        super().__init__(policy)
        self._ticks = _whole("patience", "ticks", ticks, 1)
        self._wanted = 0

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        if any(d.applied and isinstance(d.action, Rewind | Adopt) for d in observation.decisions):
            self._wanted = 0  # what it wanted was for another branch
        self._hear(observation)
        before = copy.deepcopy(self.policy.state_dict())
        actions = self._ask(observation)
        self._wanted = self._wanted + 1 if actions else 0
        if 0 < self._wanted < self._ticks:
            self.policy.load_state_dict(before)
            return ()
        self._wanted, self._untold = 0, []
        return actions


class Cooldown(Wrapper):
    """Does not ask the policy for some steps after it has changed the run.

    Args:
        policy: what is wrapped.
        steps: of `spent`, at least 1.

    Raises:
        TuneError: for fewer than one step.
    """

    MEMORY = ("_until",)

    def __init__(self, policy: Policy, steps: int) -> None:
        super().__init__(policy)
        self._steps = _whole("a cooldown", "steps", steps, 1)
        self._until = 0  # spent

    def due(self, observation: Observation) -> bool:
        """See `Wrapper.due`."""
        for spent in self._acts(observation):
            self._until = spent + self._steps
        return observation.spent >= self._until


class OnlyBetween(Wrapper):
    """Asks the policy only from one step of the run on, and before another.

    Args:
        policy: what is wrapped.
        start: the first `step` at which it is asked, at least 0.
        stop: the first at which it is asked no more; None: it is asked to the end.

    Raises:
        TuneError: for a stop that is not after the start.
    """

    def __init__(self, policy: Policy, start: int, stop: int | None = None) -> None:
        super().__init__(policy)
        self._start = _whole("a start", "steps", start, 0)
        self._stop = None if stop is None else _whole("a stop after the start", "steps", stop, start + 1)

    def due(self, observation: Observation) -> bool:
        """See `Wrapper.due`."""
        return self._start <= observation.step and not self.over(observation)

    def over(self, observation: Observation) -> bool:
        """See `Wrapper.over`."""
        return self._stop is not None and observation.step >= self._stop


class WarmUp(OnlyBetween):
    """Does not ask the policy in the first steps of the run.

    Args:
        policy: what is wrapped.
        steps: of the run, at least 1.

    Raises:
        TuneError: for fewer than one step.
    """

    def __init__(self, policy: Policy, steps: int) -> None:
        super().__init__(policy, _whole("a warm-up", "steps", steps, 1))


class EveryN(Wrapper):
    """Asks the policy at the first tick, before the first step, and at every n-th one after it.

    Args:
        policy: what is wrapped.
        n: ticks, at least 1.

    Raises:
        TuneError: for fewer than one tick.
    """

    MEMORY = ("_tick",)

    def __init__(self, policy: Policy, n: int) -> None:
        super().__init__(policy)
        self._n = _whole("every n-th tick", "n", n, 1)
        self._tick = 0

    def due(self, observation: Observation) -> bool:
        """See `Wrapper.due`."""
        tick, self._tick = self._tick, (self._tick + 1) % self._n
        return tick == 0


class Limit(Wrapper):
    """Asks the policy no more once it has changed the run so many times.

    All that it does at one tick is one time.

    Args:
        policy: what is wrapped.
        times: at least 1.

    Raises:
        TuneError: for fewer than one time.
    """

    MEMORY = ("_left",)

    def __init__(self, policy: Policy, times: int) -> None:
        super().__init__(policy)
        self._left = _whole("a limit", "times", times, 1)

    def due(self, observation: Observation) -> bool:
        """See `Wrapper.due`."""
        self._left -= len(self._acts(observation))
        return self._left > 0

    def over(self, observation: Observation) -> bool:
        """See `Wrapper.over`."""
        return self._left <= 0


def _whole(what: str, unit: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TuneError(f"{what} is a whole number of {unit}, at least {least}, got {value!r}")
    return value


def _to_json(decision: Decision) -> dict[str, Any]:
    fields = {f.name: getattr(decision, f.name) for f in dataclasses.fields(decision)}
    changed = {"before": dict(decision.before), "after": dict(decision.after)}
    return {**fields, **changed, "action": action_to_json(decision.action)}


def _from_json(fields: Mapping[str, Any]) -> Decision:
    return Decision(**{**fields, "action": action_from_json(fields["action"])})
