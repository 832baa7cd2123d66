"""What people have sent to a run, from its mailbox to the training thread and back.

A thread looks into the mailbox several times a second; the training thread sees only whether something has
come. The journal is the truth about what was done: the evidence of a decision has the id of the command that
led to it, so that one whose answer was lost with the process is answered again, and not done again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from .commands import Ack, AckStatus, Command, Mailbox
from .records import Decision

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("autotune")

POLL_SECONDS = 0.1
COMMAND = "command"
"""Where the evidence of a decision has the id of the command that led to it."""


class Inbox:
    """The trainer's end of a mailbox.

    Args:
        open: opens the mailbox; called in the thread that uses it.
        decisions: all that the run has decided so far.
    """

    def __init__(self, open: Callable[[], Mailbox], decisions: Iterable[Decision]) -> None:
        self._open = open
        self._known = {
            str(id): answer(str(id), d)
            for d in decisions
            if (id := d.action.evidence.get(COMMAND)) is not None
        }
        self._taken: set[str] = set()
        self._come: deque[Command] = deque()
        self._answers: deque[Ack] = deque()
        self._something, self._wake = threading.Event(), threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._look, name="autotune-inbox", daemon=True)
        self._thread.start()

    @property
    def arrived(self) -> bool:
        """Whether there is something to take."""
        return bool(self._come)

    def take(self) -> Command | None:
        """The oldest command that has come, which is to be answered; None: there is none."""
        return self._come.popleft() if self._come else None

    def answer(self, ack: Ack) -> None:
        """Tell who has sent a command what became of it."""
        self._answers.append(ack)
        self._wake.set()

    def wait(self, seconds: float) -> None:
        """Sleep until something has come, for so long at most."""
        self._something.wait(seconds)
        self._something.clear()

    def close(self, why: str) -> None:
        """Deliver the last answers, and refuse what was not done; `why`."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        self._answers.extend(Ack(command.id, "refused", note=why, time=time.time()) for command in self._come)
        self._come.clear()
        mailbox = None
        try:
            mailbox = self._open()
            self._deliver(mailbox)
            for command in mailbox.waiting():  # one that an earlier process has done may be among them
                refused = Ack(command.id, "refused", note=why, time=time.time())
                mailbox.settle(self._known.get(command.id, refused))
        except Exception as error:
            log.error("people may not learn what became of their last commands: %s", error)
        finally:
            if mailbox is not None:
                mailbox.close()

    def _look(self) -> None:
        mailbox: Mailbox | None = None
        failing = False
        while not self._closing:
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
            try:
                mailbox = mailbox or self._open()
                self._deliver(mailbox)
                for command in mailbox.waiting():
                    self._sort(command)
                failing = False
            except Exception as error:  # stores fail in many ways
                if not failing:
                    log.error("commands cannot be read at present: %s", error)
                failing = True
        if mailbox is not None:
            mailbox.close()

    def _sort(self, command: Command) -> None:
        if command.id in self._known:
            self._answers.append(self._known[command.id])
        elif command.id not in self._taken:
            self._come.append(command)
            self._taken.add(command.id)
            self._something.set()

    def _deliver(self, mailbox: Mailbox) -> None:
        while self._answers:
            mailbox.settle(self._answers[0])  # it stays in the queue if that fails
            self._answers.popleft()


def answer(command: str, decision: Decision) -> Ack:
    """What the record says of a command."""
    # One that is pending was under way when its process ended.
    failed = decision.status in ("pending", "suggested")
    status = "failed" if failed else cast(AckStatus, decision.status)
    return Ack(command, status, decision.note, decision.id, decision.step, decision.spent, time.time())
