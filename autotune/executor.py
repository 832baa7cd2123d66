"""The way of one action: judged, written down, applied, and written down again with what the plant holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

from .clock import Clock
from .controls import POLICY, Controls
from .journal import Journal
from .memory import Memory, Target
from .outcomes import Outcomes
from .records import (
    Action,
    Checkpoint,
    Decision,
    Escalate,
    Ramp,
    Release,
    Rewind,
    Set,
    Signal,
    Stop,
    TuneError,
    Value,
)
from .supervisor import HUMAN, Situation, Supervisor, Verdict

log = logging.getLogger("autotune")


class Run(Protocol):
    """What an action may ask of the run as a whole; each returns a note for the record."""

    def restore(self, target: Target) -> str:
        """Go back to `target`."""
        ...

    def save(self, name: str | None) -> str:
        """Save a checkpoint."""
        ...

    def end(self) -> str:
        """End the loop at this boundary."""
        ...


class Submitted(NamedTuple):
    """A decision as recorded, whether its source broke the rules, and what failed in applying it."""

    decision: Decision
    fault: bool
    error: Exception | None


class Executor:
    """Judges, records and applies actions; `decisions` holds what this process has recorded."""

    def __init__(
        self,
        clock: Clock,
        controls: Controls,
        supervisor: Supervisor,
        memory: Memory,
        journal: Journal,
        outcomes: Outcomes,
        signals: Callable[[], Mapping[str, Signal]],
        run: Run,
    ) -> None:
        self.decisions: list[Decision] = []
        self._clock = clock
        self._controls = controls
        self._supervisor = supervisor
        self._memory = memory
        self._journal = journal
        self._outcomes = outcomes
        self._signals = signals
        self._run = run

    def submit(self, action: Action, source: str, declared: frozenset[str] | None = None) -> Submitted:
        """Take one action from proposal to record.

        Args:
            action: what `source` wants.
            source: a policy's name, `human:NAME` or `supervisor`.
            declared: the policy's `controls`; None: everything.

        Raises:
            JournalError: when it cannot be written down; nothing is applied then.
        """
        verdict, target = self._judge(action, source, declared)
        applying = verdict.status in ("applied", "clamped")
        decision = self._journal.decide(
            step=self._clock.step,
            spent=self._clock.spent,
            branch=self._clock.branch,
            source=source,
            action=verdict.action,
            status="pending" if applying else verdict.status,
            before=self._values(verdict.action),
            note=verdict.note,
        )
        error = None
        if applying:
            before = self._signals()
            decision, error = self._settled(decision, verdict, target)
            self._journal.settle(decision)
            if error is None and isinstance(action, Set | Ramp | Rewind):
                self._outcomes.watch(decision, before)
        self.decisions.append(decision)
        if isinstance(action, Escalate):
            log.warning("%s needs a person at step %d: %s", source, decision.step, action.reason)
        elif error is not None:
            log.warning("step %d: %s failed: %s", decision.step, action.describe(), decision.note)
        return Submitted(decision, verdict.fault or error is not None, error)

    def _settled(
        self, decision: Decision, verdict: Verdict, target: Target | None
    ) -> tuple[Decision, Exception | None]:
        """Apply what was allowed; the decision with what became of it, and what failed."""
        try:
            cost = self._apply(verdict.action, decision.source, target)
        except Exception as error:
            note = str(error) if isinstance(error, TuneError) else f"{type(error).__name__}: {error}"
            return replace(decision, status="failed", note=note), error
        self._supervisor.applied(verdict.action, decision.source, self._clock.spent)
        note = "; ".join(part for part in (verdict.note, cost) if part)
        after = self._values(verdict.action)
        return replace(decision, status=verdict.status, note=note, after=after), None

    def _judge(
        self, action: Action, source: str, declared: frozenset[str] | None
    ) -> tuple[Verdict, Target | None]:
        target = None
        if isinstance(action, Rewind):
            try:
                target = self._memory.prepare(action.to, action.data)
            except TuneError as error:
                return Verdict("refused", action, str(error)), None
        movers = {name: ramp.source for name, ramp in self._controls.ramps.items()}
        situation = Situation(
            self._clock.step, self._clock.spent, movers, target.step if target else None, declared
        )
        return self._supervisor.review(action, source, situation), target

    def _apply(self, action: Action, source: str, target: Target | None) -> str:
        match action:
            case Set() | Ramp():
                self._change(action, source)
                return ""
            case Release():
                self._controls[action.name].owner = POLICY
                return ""
            case Rewind():
                assert target is not None
                note = self._run.restore(target)
                for change in action.then:
                    self._change(change, source)
                return note
            case Checkpoint():
                return self._run.save(action.name)
            case Stop():
                return self._run.end()
        return ""

    def _change(self, action: Set | Ramp, source: str) -> None:
        if isinstance(action, Set):
            self._controls.write(action.name, action.value)
        else:
            self._controls.ramp(action, source, self._clock.step)
        if source.startswith(HUMAN):
            self._controls[action.name].owner = source

    def _values(self, action: Action) -> dict[str, Value]:
        """What the plant holds of the hyperparameters that the action names."""
        named = action.then if isinstance(action, Rewind) else (action,)
        names = [a.name for a in named if isinstance(a, Set | Ramp | Release)]
        return {name: self._controls[name]() for name in names if name in self._controls}
