"""The stretches of a run in which a ramp moved a hyperparameter, with the loss at each value it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .journal import Series
from .ramps import RunningRamp
from .records import HUMAN, Action, Decision, Ramp, Release, Rewind, Set


@dataclass(slots=True)
class Sweep:
    """What the loss was while one ramp moved a hyperparameter, on every branch that it did so on."""

    source: str
    step: int
    """At which it was started."""
    action: Ramp
    value: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """Of the hyperparameter in the step of each loss."""
    loss: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    branch: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    set_to: float | None = None
    """What the hyperparameter was set to by what ended the ramp or rewound it, or by its source next."""
    taken_back: bool = False
    """Whether its own source rewound the run to before it: then it was a test."""


def sweeps(name: str, loss: Series, decisions: Sequence[Decision]) -> list[Sweep]:
    """What each ramp of a hyperparameter did, found by following the decisions through the run.

    Args:
        name: the hyperparameter.
        loss: the training loss over the whole run, abandoned branches included.
        decisions: oldest first.

    Returns:
        One for each ramp during which a loss was measured, oldest first.
    """
    run = _Replay(name, loss)
    for decision in decisions:
        if decision.applied:
            run.follow(decision)
    run.measure(int(loss.spent.max(initial=0)))
    return [sweep for sweep in run.found if len(sweep.loss)]


@dataclass(slots=True)
class _Mover:
    """What has determined the value since `step` of the live branch."""

    step: int
    source: str
    ramp: RunningRamp | None = None
    sweep: Sweep | None = None


class _Replay:
    """The live branch as a line of movers, and the sweeps found on the way."""

    def __init__(self, name: str, loss: Series) -> None:
        self.found: list[Sweep] = []
        self._name = name
        self._loss = loss
        self._line: list[_Mover] = []
        self._spent = 0

    def measure(self, until: int) -> None:
        """Hand the losses up to this `spent` to the ramp that is running."""
        loss, since, self._spent = self._loss, self._spent, until
        if not self._line or (ramp := self._line[-1].ramp) is None:
            return
        sweep = self._line[-1].sweep
        assert sweep is not None
        # A boundary after step n writes what the ramp says for n, so that step n + 1 is taken with it.
        own = (loss.spent > since) & (loss.spent <= until) & (loss.step > ramp.start)
        own &= loss.step <= ramp.end + 1
        sweep.value = np.append(sweep.value, [ramp.at(step - 1) for step in loss.step[own].tolist()])
        sweep.loss = np.append(sweep.loss, loss.value[own])
        sweep.branch = np.append(sweep.branch, loss.branch[own])

    def follow(self, decision: Decision) -> None:
        """Apply one decision."""
        self.measure(decision.spent)
        action, step = decision.action, decision.step
        changes: Sequence[Action] = (action,)
        left: list[_Mover] = []
        if isinstance(action, Rewind):
            step, changes = self._restored(decision, action), action.then
            left = self._go_back(decision, step)
        for change in changes:
            if isinstance(change, Set | Ramp | Release) and change.name == self._name:
                self._change(change, decision, step, left)

    def _restored(self, decision: Decision, action: Rewind) -> int:
        """The step that a rewind came to: step and spent advance together from there."""
        after = np.flatnonzero(self._loss.spent > decision.spent)
        if len(after):
            return int(self._loss.step[after[0]] - self._loss.spent[after[0]]) + decision.spent
        return action.to if isinstance(action.to, int) else decision.step

    def _go_back(self, decision: Decision, step: int) -> list[_Mover]:
        """Take the line back to `step`; returns what was left behind."""
        held = self._line[-1] if self._line and self._line[-1].source.startswith(HUMAN) else None
        for mover in self._line:
            if mover.sweep is not None and mover is not held and mover.step >= step:
                mover.sweep.taken_back |= mover.source == decision.source
        left = [mover for mover in self._line if mover.step > step]
        self._line = [mover for mover in self._line if mover.step <= step]  # a snapshot is a boundary's last
        if held is not None:  # what a person holds is not rewound, and their ramp goes on from where it is
            back = decision.step - step
            ramp = held.ramp and replace(held.ramp, start=held.ramp.start - back)
            self._line.append(replace(held, step=step, ramp=ramp))
        return left

    def _change(
        self, change: Set | Ramp | Release, decision: Decision, step: int, left: list[_Mover]
    ) -> None:
        mover = _Mover(step, decision.source)
        if isinstance(change, Set):
            now = self._line[-1:]
            ended = [m for m in now if m.ramp and (step < m.ramp.end or m.source == mover.source)]
            for sweep in [m.sweep for m in (*left, *ended) if m.sweep is not None]:
                sweep.set_to = float(change.value)
        elif isinstance(change, Ramp) and self._name in decision.after:
            first, last = float(decision.after[self._name]), float(change.value)
            mover.ramp = RunningRamp(mover.source, step, change.steps, first, last, change.shape)
            mover.sweep = Sweep(mover.source, step, change)
            self.found.append(mover.sweep)
        self._line.append(mover)
