"""The intake: what people have sent is done at a step boundary, in its order, before any policy is asked."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from typing import Protocol

from .clock import Clock
from .commands import Ack, Command
from .controls import Controls
from .executor import BrokenRun, Executor
from .inbox import COMMAND, Inbox, answer
from .journal import JournalError
from .records import (
    HUMAN,
    Action,
    Approve,
    Arrange,
    Checkpoint,
    Comment,
    Pause,
    Pin,
    Ramp,
    Reject,
    Release,
    Resume,
    Rewind,
    Schedule,
    Set,
    Stop,
    Undo,
)
from .trials import Trials

log = logging.getLogger("autotune")

RETRY_SECONDS = 1.0
"""Between two attempts to do what waits for the journal of a run that is paused."""
SIGN_SECONDS = 60.0
"""Between two signs of life of a run that is paused."""
BESIDE_TRIALS = (Pause, Resume, Reject, Comment, Arrange)
"""What trials need not know of."""


class Run(Protocol):
    """What the intake needs of the run."""

    clock: Clock
    controls: Controls
    trials: Trials
    executor: Executor
    stopping: bool
    paused: bool

    def tell(self) -> None:
        """Put on record how the run stands."""
        ...

    def leave_trials(self) -> None:
        """Go back to where the trials began, and let them be."""
        ...


class Intake:
    """Does what has come into the inbox; without one there is nothing to do."""

    def __init__(self, run: Run) -> None:
        self.inbox: Inbox | None = None
        self._run = run
        self._later: list[Command] = []  # what waits for the end of the trials, or for the journal

    @property
    def due(self) -> bool:
        """Whether there is something to do at this boundary."""
        return self.inbox is not None and (self.inbox.arrived or self._run.paused)

    def obey(self) -> None:
        """Do what has arrived; while the run is paused, wait for more."""
        while self.inbox is not None:
            while not self._run.stopping and (command := self.inbox.take()) is not None:
                self._take_in(command)
            if not self._run.paused or self._run.stopping:
                return
            self.inbox.wait(RETRY_SECONDS if self._later else SIGN_SECONDS)
            self._run.tell()
            if not self._run.trials.running:
                self.catch_up()

    def catch_up(self) -> None:
        """Do what had to wait, unless it has to wait on."""
        later, self._later = self._later, []
        for command in later:
            self._take_in(command)

    def end_pins(self) -> None:
        """Release what was pinned until now.

        Raises:
            JournalError: when that cannot be written down.
        """
        run = self._run
        for name, until in list(run.controls.pins.items()):
            if run.clock.spent >= until and not run.trials.running:
                run.executor.submit(Release(name, reason="its pin is over"), run.controls[name].owner)

    def _take_in(self, command: Command) -> None:
        """Do it now, or after the trials, unless it concerns them: it ends them then."""
        if self._later and not self._run.trials.running:
            self._wait(command, "what was sent before it is not on record yet")
            return
        beside = command.expired or isinstance(command.action, BESIDE_TRIALS)
        if self._run.trials.running and not beside:
            if not self._ends_trials(command.action):
                self._wait(command, "the run is in a trial; this is done when it is back")
                return
            spent = self._run.clock.spent - self._run.trials.begun
            self._run.leave_trials()
            self.catch_up()
            self._do(command, f"the trials under way, {spent} steps, are ended")
            return
        self._do(command)

    def _ends_trials(self, action: Action) -> bool:
        if isinstance(action, Rewind | Undo | Approve | Stop):
            return True
        return isinstance(action, Set | Ramp | Schedule | Pin) and action.name in self._run.trials.moved

    def _do(self, command: Command, note: str = "") -> None:
        assert self.inbox is not None
        submit, source = self._run.executor.submit, HUMAN + command.author
        action = dataclasses.replace(command.action, evidence={COMMAND: command.id})
        late = time.time() - command.expires
        refusal = f"it expired {late:.0f} s before it could be done; send it again" if late > 0 else ""
        try:
            if isinstance(action, Stop) and not refusal:
                saved = submit(Checkpoint(reason="before the stop"), source).decision
                refusal = (
                    "" if saved.applied else f"a stop saves the run first, and that failed: {saved.note}"
                )
            submitted = submit(action, source, refusal=refusal)
        except JournalError as error:
            log.error("step %d: %s", self._run.clock.step, error)
            last = next(reversed(self._run.executor.decisions), None)
            if last is not None and last.action.evidence.get(COMMAND) == command.id:
                self.inbox.answer(answer(command.id, last))  # it is done, and on record as pending
            else:  # what is not on record is not done
                self._wait(command, str(error))
        except BrokenRun as error:
            self.inbox.answer(Ack(command.id, "failed", str(error), time=time.time()))
            raise
        except Exception as error:  # whatever somebody sends must not end the training
            log.exception("step %d: a command of %s failed", self._run.clock.step, command.author)
            why = f"{type(error).__name__}: {error}"
            self.inbox.answer(Ack(command.id, "failed", why, time=time.time()))
        else:
            decision = submitted.decision
            if note:
                with contextlib.suppress(JournalError):
                    decision = self._run.executor.note(decision.id, note)
            self.inbox.answer(answer(command.id, decision))

    def _wait(self, command: Command, why: str) -> None:
        assert self.inbox is not None
        self.inbox.answer(Ack(command.id, "waiting", why, time=time.time()))
        self._later.append(command)
