"""The way of one action: judged, written down, applied, and written down again with what the plant holds."""

from __future__ import annotations

import contextlib
import logging
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .checkpoints import CheckpointInfo
from .clock import Clock
from .controls import POLICY, Controls
from .journal import Journal, JournalError
from .memory import Memory, Restored, Target
from .outcomes import Outcomes
from .records import (
    HUMAN,
    Action,
    Adopt,
    Approve,
    Arrange,
    Checkpoint,
    Comment,
    Decision,
    Escalate,
    Evidence,
    Pause,
    Pin,
    Probe,
    Ramp,
    Reject,
    Release,
    Resume,
    Rewind,
    Schedule,
    Set,
    Signal,
    Stop,
    Suggest,
    TuneError,
    Undo,
    Value,
)
from .supervisor import Situation, Supervisor, Verdict
from .trials import Trials
from .undoing import Before, Undoing

log = logging.getLogger("autotune")

IN_A_TRIAL = (Stop, Suggest, Escalate, Pause, Resume, Reject, Comment, Arrange)
"""What can be done in the middle of a trial."""
TAKEN_BACK = (Set, Ramp, Schedule, Pin, Release)
"""What can be undone, beside a person's rewind."""


class BrokenRun(RuntimeError):
    """A rewind broke half-way: the run is in no known state, and training must not go on from it."""


class Run(Protocol):
    """What an action may ask of the run as a whole."""

    trials: Trials
    remembers: bool
    """Whether states are kept in memory."""
    paused: bool

    def hold(self) -> Target:
        """Keep the present state, with its history."""
        ...

    def release(self, target: Target) -> None:
        """Let it go."""
        ...

    def restore(self, target: Target) -> Restored:
        """Go back to `target`."""
        ...

    def save(self, name: str | None) -> CheckpointInfo:
        """Save a checkpoint."""
        ...

    def end(self) -> None:
        """End the loop at this boundary."""
        ...

    def arrange(self, policies: Sequence[str], why: str) -> None:
        """Ask these policies, in this order, and bench the others."""
        ...

    def live(self) -> dict[str, Any]:
        """How the run stands, as plain JSON values."""
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
        self._undoing = Undoing()
        self._unsettled: list[Decision] = []  # applied, and pending on record

    def since(self, known: int) -> Sequence[Decision]:
        """What was decided after the decision of this id, oldest first."""
        return [
            decision
            for decided in (self.recalled, self.decisions)
            for decision in decided[bisect_right(decided, known, key=lambda d: d.id) :]
        ]

    def note(self, id: int, text: str, evidence: Evidence | None = None) -> Decision:
        """Add what has come of a decision to its record, in words and as evidence, and return that.

        Raises:
            JournalError: when it cannot be written down.
        """
        place = bisect_left(self.decisions, id, key=lambda d: d.id)
        decision = self.decisions[place]
        action = replace(decision.action, evidence={**decision.action.evidence, **(evidence or {})})
        note = "; ".join(filter(None, (decision.note, text)))
        self.decisions[place] = replace(decision, action=action, note=note)
        self._journal.settle(self.decisions[place], self._run.live())
        return self.decisions[place]

    def dismiss(self, source: str) -> None:
        """A benched policy lets go of everything: its ramps end, and what it has moved is free."""
        self._supervisor.dismiss(source)
        for name, ramp in list(self._controls.ramps.items()):
            if ramp.source == source:
                self._controls.release(name)

    def passed(self, step: int) -> None:
        """The run has come to `step`: a rewind is not taken back when the run is beyond where it left."""
        target = self._undoing.target
        if target is not None and step > target.info.step:
            self._forget_rewind()

    def submit(
        self, action: Action, source: str, declared: frozenset[str] | None = None, refusal: str = ""
    ) -> Submitted:
        """Take one action from proposal to record.

        Args:
            action: what `source` wants.
            source: a policy's name, `human:NAME` or `supervisor`.
            declared: the policy's `controls`; None: everything.
            refusal: why it is not to be done, whatever it is.

        Raises:
            JournalError: when it cannot be written down. If that is so before it is applied, it is not; if
                only after, it stays on record as pending.
            BrokenRun: when a rewind breaks half-way, and ever after.
        """
        if self._broken is not None:
            raise self._broken
        self._settle()  # what the journal did not take then
        situation, verdict, target = self._judge(action, source, declared, refusal)
        applying = verdict.status in ("applied", "clamped")
        decision = self._journal.decide(
            step=self._clock.step,
            spent=self._clock.spent,
            branch=self._clock.branch,
            source=source,
            action=action if isinstance(action, Approve) else verdict.action,
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
            if decision.applied and isinstance(verdict.action, Set | Ramp | Schedule | Rewind):
                self._outcomes.watch(decision, before)
            self._unsettled.append(decision)
            self._settle()
        return submitted

    def _settle(self) -> None:
        """Write down what has become of decisions; what fails stays to be written."""
        while self._unsettled:
            self._journal.settle(self._unsettled[0], self._run.live())
            del self._unsettled[0]

    def _judge(
        self, action: Action, source: str, declared: frozenset[str] | None, refusal: str
    ) -> tuple[Situation, Verdict, Target | None]:
        """The verdict, and the state to rewind to, which is read only when the supervisor allows it."""
        clock, info, target, trials = self._clock, None, None, self._run.trials
        if isinstance(action, Schedule):
            action = action.applied_at(clock.step)
        movers = {name: ramp.source for name, ramp in self._controls.ramps.items()}
        situation = Situation(clock.spent, movers, self._values(action), controls=declared, step=clock.step)
        try:
            if refusal:
                raise TuneError(refusal)
            if trials.running and not isinstance(action, IN_A_TRIAL):
                raise TuneError(
                    f"the run is in a trial, at step {clock.step} until {trials.until} or later; "
                    "ask again when it is back"
                )
            action = self._meant(action)
            situation = replace(situation, before=self._values(action))
            if isinstance(action, Probe):
                if not self._memory.movable:
                    raise TuneError("the data of a framework's loop cannot be replayed: no trials there")
                if not self._run.remembers:
                    raise TuneError(
                        "trials come back to a state in memory, got none there; give Rewinding a capacity of "
                        "at least 1, and free memory where it found none"
                    )
                trials.make_room()
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
            if isinstance(action, Undo) and self._memory.movable:
                self._undoing.check(action.decision)
            if isinstance(action, Rewind):
                if source.startswith(HUMAN) and isinstance(action.to, int) and action.to > clock.step:
                    raise TuneError(
                        f"a rewind goes back, got step {action.to}; the run is at step {clock.step}"
                    )
                info = self._memory.find(action.to)
                here = info.step == clock.step and clock.live(info.step, info.spent)
                situation = replace(situation, target=info, here=here)
            verdict = self._supervisor.review(action, source, situation)
            if info is not None and isinstance(action, Rewind) and verdict.status != "refused":
                target = self._memory.prepare(info, action.data)
        except TuneError as error:
            return situation, Verdict("refused", action, str(error)), None
        return situation, verdict, target

    def _meant(self, action: Action) -> Action:
        """What an answer or an undo is about; any other action is what it is.

        Raises:
            TuneError: when there is nothing of the kind.
        """
        match action:
            case Undo(decision=id):
                return replace(action, decision=self._undoing.find(id))
            case Comment(decision=id):
                self._journal.decision(id)
            case Approve(decision=id) | Reject(decision=id):
                suggested = self._journal.decision(id)
                answers = [d for d in self._journal.decisions(after=id) if d.applied]
                again = action.evidence.get("again")  # after a resume
                given = next(
                    (
                        a
                        for a in answers
                        if isinstance(a.action, Approve | Reject)
                        and a.action.decision == id
                        and a.id != again
                    ),
                    None,
                )
                if suggested.status != "suggested" or given is not None:
                    how = suggested.status if given is None else f"answered by {given.source}"
                    raise TuneError(f"an open suggestion is answered, got decision {id}, which is {how}")
                what = suggested.action.action if isinstance(suggested.action, Suggest) else suggested.action
                if isinstance(action, Approve):
                    if what is None:
                        raise TuneError(f"decision {id} is advice in words; do what it says, or reject it")
                    return what
            case Pause() | Resume():
                if self._run.paused == isinstance(action, Pause):
                    raise TuneError(
                        "the run is paused already" if self._run.paused else "the run is not paused"
                    )
        return action

    def _applied(self, submitted: Submitted, situation: Situation, target: Target | None) -> Submitted:
        """Apply what was allowed, and say what became of it."""
        decision, verdict = submitted.decision, submitted.verdict
        notes = [verdict.note]
        result: Restored | CheckpointInfo | None = None
        source = by = decision.source
        if (
            isinstance(decision.action, Approve)
            and isinstance(verdict.action, Set | Ramp)
            and self._controls[verdict.action.name].owner == POLICY
        ):
            by = self._journal.decision(decision.action.decision).source  # it stays the policies'
        stands = {name: self._controls.stand(name) for name in situation.before}
        left: Target | None = None
        try:
            match verdict.action:
                case Set() | Ramp() | Schedule() as change:
                    self._change(change, by)
                case Pin(name=name, steps=steps):
                    self._controls.pin(name, source, None if steps is None else self._clock.spent + steps)
                case Release(name=name):
                    ramp = self._controls.ramps.get(name)
                    if source.startswith(HUMAN) or (ramp and ramp.source == source):
                        self._controls.release(name)
                case Rewind(then=then):
                    assert target is not None
                    left = self._run.hold() if source.startswith(HUMAN) and self._run.remembers else None
                    result = self._restored(target)
                    notes.append(str(result))
                    notes += [self._changed_after(change, source) for change in then]
                case Undo(decision=int() as id):
                    undone = self._journal.decision(id).action
                    notes.append(f"taken back: {undone.describe()}")
                    result = self._undo(self._undoing.take(id), source)
                    if result is not None and isinstance(undone, Rewind) and undone.data == "skip":
                        why = "batches that were skipped come again, with other random numbers"
                        result = replace(result, grade="approximate", why=why)
                    notes.append("" if result is None else str(result))
                case Pause() | Resume():
                    self._run.paused = isinstance(verdict.action, Pause)
                case Arrange(policies=policies):
                    self._run.arrange(policies, f"by {source}")
                case Probe() as probe:
                    notes.append(self._run.trials.ask(decision.id, decision.source, probe))
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
        self._supervisor.applied(verdict.action, by, situation)
        self._remember(decision, verdict.action, Before(source, stands, left))
        note, after = "; ".join(filter(None, notes)), {n: self._controls[n]() for n in situation.before}
        decision = replace(decision, status=verdict.status, note=note, after=after)
        return replace(submitted, decision=decision, result=result)

    def _remember(self, decision: Decision, action: Action, before: Before) -> None:
        """Keep what it takes to undo it: a policy's rewind is not undone, nor the end of a pin."""
        moved = isinstance(action, Rewind | Adopt)
        if moved:
            self._forget_rewind()
        ended = any((stand.pinned_until or math.inf) <= self._clock.spent for stand in before.stands.values())
        if before.target is not None or (before.stands and isinstance(action, TAKEN_BACK) and not ended):
            forgotten = self._undoing.remember(decision.id, before)
            if forgotten is not None:
                self._run.release(forgotten)
        if moved:
            self._undoing.rewound(decision.id)

    def _undo(self, before: Before, source: str) -> Restored | None:
        """Let all stand as it did; what a policy had moved is held, or it would move again."""
        result = None
        if before.target is not None:
            movable = self._memory.movable  # else those of the framework's loop go on from where they are
            result = self._restored(before.target if movable else replace(before.target, data="skip"))
            self._run.release(before.target)
        for name, stand in before.stands.items():
            if stand.owner == POLICY and not before.source.startswith(HUMAN):
                stand = stand._replace(owner=source, ramp=None)
            self._controls.put_back(name, stand, self._clock.step)
        return result

    def _forget_rewind(self) -> None:
        target = self._undoing.forget_target()
        if target is not None:
            self._run.release(target)

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

    def _change(self, action: Set | Ramp | Schedule, source: str) -> None:
        if isinstance(action, Set):
            self._controls.write(action.name, action.value)
        elif isinstance(action, Schedule):
            self._controls.schedule(action, source, self._clock.step)
        else:
            self._controls.ramp(action, source, self._clock.step)
        if source.startswith(HUMAN):
            self._controls.hold(action.name, source)

    def _values(self, action: Action) -> dict[str, Value]:
        """What the plant holds of the hyperparameters that the action names."""
        named: Sequence[Action | None] = (
            action.then
            if isinstance(action, Rewind)
            else (action.action if isinstance(action, Suggest) else action,)
        )
        names = [a.name for a in named if isinstance(a, Set | Ramp | Schedule | Pin | Release)]
        if isinstance(action, Undo) and action.decision is not None:
            names = self._undoing.names(action.decision)
        return {name: self._controls[name]() for name in names if name in self._controls}
