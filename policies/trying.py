"""What searches by trials have in common: their anchor, the shape of a trial, and when they begin anew."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from autotune.records import (
    Action,
    Adopt,
    HyperparameterState,
    Observation,
    Probe,
    Ramp,
    Rewind,
    Set,
    Suggest,
    Trial,
    Value,
)

from .memory import Remembering

TRAIN, VALIDATION, RATIO = "loss", "validation/loss", "update_ratio"
REACH = 0.3  # ‖Δw‖/‖w‖ of a step at the first rate that is tried
COOLED = 0.3  # of a trial, on a branch
COLD = 1e-3  # of the rate, where a cool-down ends
WARM = 0.01  # of the run: in a trial the rate rises in a line


class Steps(NamedTuple):
    """Of a trial: its own, those of its cool-down, and those of its own in which the rate rises."""

    own: int
    cool: int
    warm: int

    @classmethod
    def of(cls, part: float, run: int, least: int = 0, cooled: float = COOLED) -> Steps:
        """Those of a trial that takes a part of the run, with at least so many of each."""
        whole = max(2 * least, round(part * run))
        cool = max(least, round(cooled * whole))
        return cls(whole - cool, cool, max(least, round(WARM * run)))


class Searching(Remembering, abc.ABC):
    """Tries values out in trials from one state, and goes on with the best.

    *Anchor.* One step at the present rate shows how far a unit of rate moves the weights. The first rate that
    is tried would move them by 0.3 of their size. It is a scale, not a wall.

    *Trials.* All from one state, on the same batches: the rate rises in a line over 1 % of the run, holds,
    and cools down to nothing over the last 30 % of the trial, on a branch; then the loss is evaluated.

    Where another policy takes the run elsewhere, scores from here and there do not compare: the search begins
    anew there, once, when no ramp moves what it searches. While people hold all that it searches it waits,
    and begins anew when they have released it.

    Args:
        names: hyperparameters that are tried.
        rate: the learning rate, if it is one of them.
        lost: times the training loss at the start, at which a trial is given up.
        name: unique within a run.
    """

    MEMORY: ClassVar[tuple[str, ...]] = ("_phase", "_starts", "_anew", "_step")
    requires: Sequence[str] = (TRAIN,)

    def __init__(self, names: Sequence[str], rate: str, lost: float, name: str) -> None:
        self.name = name
        self.controls: Sequence[str] = tuple(names)
        self._rate, self._lost = rate, lost
        self._phase = "begin"
        self._starts: list[float | None] = [None, None]  # score and training loss at the start
        self._anew = False  # whether it has begun anew
        self._step = 0  # of the state that all trials are made from
        self._fresh: Mapping[str, Any] = {}  # the memory at the beginning

    @abc.abstractmethod
    def search(self, observation: Observation) -> Sequence[Action]:
        """What is done now, while the search is not over."""

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        moved = [d.action for d in observation.decisions if d.applied and d.source != self.name]
        if self._phase in ("anchor", "search") and any(isinstance(a, Rewind | Adopt) for a in moved):
            if self._anew:
                return self._end("the search is over: the run keeps being taken elsewhere")
            self.load_state_dict({**self._fresh, "anew": True})
        states = [observation.hyperparameters[name] for name in self.controls]
        if self._phase in ("begin", "anchor", "search", "held") and all(s.owner != "policy" for s in states):
            return self._wait(states)
        if self._phase == "held":
            self._phase = "begin"
        ramps = any(state.ramp_until is not None and state.owner == "policy" for state in states)
        if self._phase == "over" or (self._phase == "begin" and self._anew and ramps):
            return ()
        if self._phase == "begin":
            self._step = observation.step
        return self.search(observation)

    def _wait(self, states: Sequence[HyperparameterState]) -> Sequence[Action]:
        told = self._phase == "held"
        self.load_state_dict({**self._fresh, "anew": self._anew, "phase": "held"})
        held = ", ".join(f"{state.name} is held by {state.owner}" for state in states)
        reason = f"the search waits: {held}; it begins anew after a release"
        return () if told else (Suggest(reason=reason),)

    def _end(self, reason: str) -> Sequence[Action]:
        self._phase = "over"
        return (Suggest(reason=reason),)

    def _asked(self, observation: Observation) -> tuple[list[int], bool]:
        """The trials that were asked for last, by id, and whether all of them were made."""
        probes = [d for d in observation.decisions if d.source == self.name and isinstance(d.action, Probe)]
        return [d.id for d in probes], all(d.applied for d in probes)

    def _anchor(self, observation: Observation) -> Sequence[Action]:
        """A trial at the present rate, for `_top`."""
        rate = float(observation.hyperparameters[self._rate].value)
        steps = 1 if observation.step == 0 else 10  # a signal is measured at the first step, and every 10
        reason = "how far does a unit of rate move the weights?"
        self._phase = "anchor"
        return (Probe(steps, (Set(self._rate, rate, reason=reason),), evaluate=False, reason=reason),)

    def _top(self, observation: Observation, anchor: Trial) -> float:
        """The rate at which a step would move the weights by `REACH`; not measured: the present one."""
        rate = float(observation.hyperparameters[self._rate].value)
        loss, ratio = anchor.signals.get(TRAIN), anchor.signals.get(RATIO)
        self._starts[1] = None if loss is None else finite(float(loss.value[0]))
        moved = math.nan if ratio is None else ratio.last
        return REACH * rate / moved if math.isfinite(moved) and moved > 0 else rate

    def _trial(
        self,
        observation: Observation,
        values: Mapping[str, Value],
        steps: Steps,
        earlier: tuple[int, int] | None,
        reason: str,
        **rest: Any,
    ) -> Probe:
        """A trial: the rate, if it is among the values, rises, holds, and cools down on a branch.

        One that goes on from an `earlier` one, given by its id and its steps, does not rise again.
        """
        then: list[Set | Ramp] = [Set(n, v, reason=reason) for n, v in values.items() if n != self._rate]
        branch: tuple[Ramp, ...] = ()
        if self._rate in values:
            rate, low = float(values[self._rate]), observation.hyperparameters[self._rate].low or 0.0
            then.append(Set(self._rate, rate if earlier else max(low, rate / steps.warm), reason=reason))
            if not earlier:
                then.append(Ramp(self._rate, rate, steps.warm, reason=reason))
            branch = (Ramp(self._rate, max(low, COLD * rate), steps.cool, reason=reason),)
        (after, done), start = earlier or (None, 0), self._starts[1]
        give_up = self._lost * start if start is not None and start > 0 else math.inf
        return Probe(max(1, steps.own - done), tuple(then), branch, after, give_up, reason=reason, **rest)


def finite(value: float) -> float | None:
    """As it is kept in a memory, which has no infinities."""
    return value if math.isfinite(value) else None
