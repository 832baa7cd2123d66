"""The way of one action: judged, written down, applied, and written down again with what the plant holds."""

from __future__ import annotations

import contextlib
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .checkpoints import CheckpointInfo
from .clock import Clock
from .controls import Controls
from .journal import Journal, JournalError
from .memory import Memory, Restored, Target
from .outcomes import Outcomes
from .records import (
    HUMAN,
    Action,
    Adopt,
    Checkpoint,
    Decision,
    Escalate,
    Probe,
    Ramp,
    Release,
    Rewind,
    Set,
    Signal,
    Stop,
    Suggest,
    TuneError,
    Value,
)
from .supervisor import Situation, Supervisor, Verdict
from .trials import Trials

log = logging.getLogger("autotune")


class BrokenRun(RuntimeError):
    """A rewind broke half-way: the run is in no known state, and training must not go on from it."""


class Run(Protocol):
    """What an action may ask of the run as a whole."""

    trials: Trials
    remembers: bool
    """Whether states are kept in memory."""

    def restore(self, target: Target) -> Restored:
        """Go back to `target`."""
        ...

    def save(self, name: str | None) -> CheckpointInfo:
        """Save a checkpoint."""
        ...

    def end(self) -> None:
        """End the loop at this boundary."""
        ...


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a proposal."""

    decision: Decision
    """As recorded."""
    verdict: Verdict
    result: Restored | CheckpointInfo | None = None
    """Of a rewind or a checkpoint that was applied."""
    error: Exception | None = None
    """What failed in applying it."""


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
        self.recalled: Sequence[Decision] = ()
        """What a resumed run had decided by its checkpoint."""
        self.last_id = 0
        self._broken: BrokenRun | None = None
        self._clock = clock
        self._controls = controls
        self._supervisor = supervisor
        self._memory = memory
        self._journal = journal
        self._outcomes = outcomes
        self._signals = signals
        self._run = run

    def since(self, known: int) -> Sequence[Decision]:
        """What was decided after the decision of this id, oldest first."""
        return [
            decision
            for decided in (self.recalled, self.decisions)
            for decision in decided[bisect_right(decided, known, key=lambda d: d.id) :]
        ]

    def note(self, id: int, text: str) -> None:
        """Add what has come of a decision to its record.

        Raises:
            JournalError: when it cannot be written down.
        """
        place = bisect_left(self.decisions, id, key=lambda d: d.id)
        decision = self.decisions[place]
        self.decisions[place] = replace(decision, note="; ".join(filter(None, (decision.note, text))))
        self._journal.settle(self.decisions[place])

    def dismiss(self, source: str) -> None:
        """A benched policy lets go of everything: its ramps end, and what it has moved is free."""
        self._supervisor.dismiss(source)
        for name, ramp in list(self._controls.ramps.items()):
            if ramp.source == source:
                self._controls.release(name)

    def submit(self, action: Action, source: str, declared: frozenset[str] | None = None) -> Submitted:
        """Take one action from proposal to record.

        Args:
            action: what `source` wants.
            source: a policy's name, `human:NAME` or `supervisor`.
            declared: the policy's `controls`; None: everything.

        Raises:
            JournalError: when it cannot be written down. If that is so before it is applied, it is not; if
                only after, it stays on record as pending.
            BrokenRun: when a rewind breaks half-way, and ever after.
        """
        if self._broken is not None:
            raise self._broken
        situation, verdict, target = self._judge(action, source, declared)
        applying = verdict.status in ("applied", "clamped")
        decision = self._journal.decide(
            step=self._clock.step,
            spent=self._clock.spent,
            branch=self._clock.branch,
            source=source,
            action=verdict.action,
            status="pending" if applying else verdict.status,
            before=situation.before,
            note=verdict.note,
        )
        self.last_id = decision.id
        submitted = Submitted(decision, verdict)
        if applying:
            before = self._signals()
            submitted = self._applied(submitted, situation, target)
            decision = submitted.decision
        self.decisions.append(decision)
        if isinstance(verdict.action, Suggest) and verdict.status == "suggested":
            what = verdict.action.action
            advice = action.reason if what is None else f"{what.describe()}, since {action.reason}"
            log.warning("%s suggests at step %d: %s", source, decision.step, advice)
        elif isinstance(action, Escalate):
            log.warning("%s needs a person at step %d: %s", source, decision.step, action.reason)
        elif submitted.error is not None:
            log.warning("step %d: %s failed: %s", decision.step, action.describe(), decision.note)
        if isinstance(submitted.error, BrokenRun):
            self._broken = submitted.error
            with contextlib.suppress(JournalError):  # then it stays pending; the run has ended either way
                self._journal.settle(decision)
            raise submitted.error
        if applying:
            self._journal.settle(decision)
            if decision.applied and isinstance(action, Set | Ramp | Rewind):
                self._outcomes.watch(decision, before)
        return submitted

    def _judge(
        self, action: Action, source: str, declared: frozenset[str] | None
    ) -> tuple[Situation, Verdict, Target | None]:
        """The verdict, and the state to rewind to, which is read only when the supervisor allows it."""
        clock, info, target, trials = self._clock, None, None, self._run.trials
        movers = {name: ramp.source for name, ramp in self._controls.ramps.items()}
        situation = Situation(clock.spent, movers, self._values(action), controls=declared)
        try:
            if trials.running and not isinstance(action, Stop | Suggest | Escalate):
                raise TuneError(
                    f"the run is in a trial, at step {clock.step} until {trials.until} or later; "
                    "ask again when it is back"
                )
            if isinstance(action, Probe):
                if not self._memory.movable:
                    raise TuneError("the data of a framework's loop cannot be replayed: no trials there")
                if not self._run.remembers:
                    raise TuneError(
                        "trials come back to a state in memory, got Rewinding(capacity=0), which keeps none; "
                        "give it a capacity of at least 1"
                    )
                if action.after is not None:
                    trials.state(action.after, source)
                left = None if clock.budget is None else clock.budget - clock.spent - trials.most
                situation = replace(situation, left=left)
            if isinstance(action, Adopt):
                if trials.waiting:
                    raise TuneError("a trial is adopted when all that were asked for are over; ask then")
                target = trials.state(action.trial, source)
                values = trials.results[action.trial].values
                adopted = tuple(Set(name, value, reason=action.reason) for name, value in values.items())
                before = {name: self._controls[name]() for name in values}
                situation = replace(situation, adopted=adopted, before=before)
            if isinstance(action, Rewind):
                info = self._memory.find(action.to)
                here = info.step == clock.step and clock.live(info.step, info.spent)
                situation = replace(situation, target=info, here=here)
            verdict = self._supervisor.review(action, source, situation)
            if info is not None and isinstance(action, Rewind) and verdict.status != "refused":
                target = self._memory.prepare(info, action.data)
        except TuneError as error:
            return situation, Verdict("refused", action, str(error)), None
        return situation, verdict, target

    def _applied(self, submitted: Submitted, situation: Situation, target: Target | None) -> Submitted:
        """Apply what was allowed, and say what became of it."""
        decision, verdict = submitted.decision, submitted.verdict
        notes = [verdict.note]
        result: Restored | CheckpointInfo | None = None
        try:
            match verdict.action:
                case Set() | Ramp() as change:
                    self._change(change, decision.source)
                case Release(name=name):
                    ramp = self._controls.ramps.get(name)
                    if decision.source.startswith(HUMAN) or (ramp and ramp.source == decision.source):
                        self._controls.release(name)
                case Rewind(then=then):
                    assert target is not None
                    result = self._restored(target)
                    notes.append(str(result))
                    notes += [self._changed_after(change, decision.source) for change in then]
                case Probe() as probe:
                    self._run.trials.ask(decision.id, decision.source, probe)
                case Adopt():
                    assert target is not None
                    result = self._restored(target)
                    notes.append(str(result))
                    self._run.trials.forget()
                case Checkpoint(name=name):
                    result = saved = self._run.save(name)
                    notes.append(f"{saved.nbytes / 1e6:.1f} MB in {1e3 * saved.seconds:.0f} ms")
                case Stop():
                    self._run.end()
        except Exception as error:
            note = str(error) if isinstance(error, TuneError) else f"{type(error).__name__}: {error}"
            return replace(submitted, decision=replace(decision, status="failed", note=note), error=error)
        self._supervisor.applied(verdict.action, decision.source, situation)
        note, after = "; ".join(filter(None, notes)), self._values(verdict.action)
        after = {change.name: self._controls[change.name]() for change in situation.adopted} or after
        decision = replace(decision, status=verdict.status, note=note, after=after)
        return replace(submitted, decision=decision, result=result)

    def _restored(self, target: Target) -> Restored:
        try:
            return self._run.restore(target)
        except Exception as error:
            raise BrokenRun(
                f"the rewind to step {target.info.step} broke half-way ({type(error).__name__}: {error}); "
                "resume from a checkpoint, and mend what failed"
            ) from error

    def _changed_after(self, change: Set | Ramp, source: str) -> str:
        """Change a hyperparameter after a restore; what fails does not undo the rewind, and is noted."""
        try:
            self._change(change, source)
        except Exception as error:
            return f"{change.describe()} failed: {error}"
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
        named: Sequence[Action | None] = (
            action.then
            if isinstance(action, Rewind)
            else (action.action if isinstance(action, Suggest) else action,)
        )
        names = [a.name for a in named if isinstance(a, Set | Ramp | Release)]
        return {name: self._controls[name]() for name in names if name in self._controls}
