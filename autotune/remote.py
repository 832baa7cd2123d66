"""Steering a run from another process: `autotune.connect`."""

from __future__ import annotations

import getpass
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from .commands import EXPIRES_SECONDS, Ack, Command, check_author, command, mailbox
from .journal import Journal
from .places import Place
from .records import Action, Checkpoint, Data, Resume, Rewind, TuneError
from .runs import default_root, resolve
from .verbs import Verbs

TIMEOUT_SECONDS = 30.0
LOOK_SECONDS = 0.05
"""Between two looks for an answer."""
ALIVE_SECONDS = 1.0
"""Between two looks whether the run is still there."""


class NotDone(TuneError):
    """A command has changed nothing. `ack` is the run's answer: refused, failed, or still waiting."""

    def __init__(self, message: str, ack: Ack) -> None:
        super().__init__(message)
        self.ack = ack


def connect(
    run: str | Path | None = None,
    root: str | Path | None = None,
    *,
    author: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Remote:
    """Reach a run that another process trains, on this machine or through a store that both can reach.

    Args:
        run: its folder, its name or the beginning of its name; None or `latest`: the run started last.
        root: the folder or the database that holds the runs; None: see `runs.default_root`.
        author: who gives the commands, for the record; None: the login name.
        timeout: seconds to wait for the answer to each; 0: not at all, the answer is then `waiting`.

    Raises:
        UnknownRun: when there is no such run, or several.
        TuneError: when its record cannot be read, or for an author or a timeout that cannot be.
    """
    if not 0 <= timeout < math.inf:
        raise TuneError(f"a timeout is a finite number of seconds from 0 on, got {timeout!r}")
    author = login() if author is None else author
    check_author(author)
    root = default_root() if root is None else root
    return Remote(resolve(None if run is None else str(run), root), author, timeout)


def login() -> str:
    """The name of who is logged in, as an author; `user` where it is not known."""
    try:
        name = getpass.getuser()
        check_author(name)
    except (TuneError, OSError, KeyError):  # in a container, a number without a name
        return "user"
    return name


class Remote(Verbs[Ack]):
    """A run that another process trains. Made by `connect`.

    Each method sends a command and returns the run's answer to it, which says the step at which it took
    effect.

    Raises:
        NotDone: when the run refuses or fails, and when it does not answer in time: then the command still
            waits, until it expires ten minutes after it was sent.
        TuneError: when the run is over.
    """

    def __init__(self, place: Place, author: str, timeout: float) -> None:
        self.place = place
        self.journal = Journal.open(place)
        self._mailbox = mailbox(place)
        self._name = str(place) if isinstance(place, Path) else place.name
        self._author = author
        self._timeout = timeout

    def _do(self, action: Action, by: str | None) -> Ack:
        sent = self.send(action, by)
        return self.wait(sent) if self._timeout else Ack(sent.id, "waiting")

    def rewind(self, to: int | str, data: Data = "replay", *, by: str | None = None, reason: str = "") -> Ack:
        """Go back to an earlier state.

        Args:
            to: a checkpoint's name, or a step: the newest state at or before it is taken.
            data: `replay`: the same batches come again; `skip`: they are left behind.
            by: who wants it.
            reason: why, for the record.
        """
        return self._do(Rewind(to, data, reason=reason), by)

    def checkpoint(self, name: str | None = None, *, by: str | None = None, reason: str = "") -> Ack:
        """Save the run to disk; a named checkpoint is kept for ever."""
        return self._do(Checkpoint(name, reason=reason), by)

    def resume(self, *, by: str | None = None, reason: str = "") -> Ack:
        """Go on with a run that was paused."""
        return self._do(Resume(reason=reason), by)

    def send(self, action: Action, by: str | None = None) -> Command:
        """Leave a command for the run, without waiting for its answer.

        Raises:
            TuneError: when the run is over.
        """
        sent = command(action, self._author if by is None else by, max(EXPIRES_SECONDS, self._timeout))
        status = self.journal.status()
        if status != "running":
            raise TuneError(
                f"commands are for a run that is training, got {self._name}, which is {status}; "
                "go on with it by AutoTuner.resume, then send them again"
            )
        self._mailbox.post(sent)
        return sent

    def wait(self, sent: Command) -> Ack:
        """The run's answer to a command.

        Raises:
            NotDone: when it refuses or fails, ends, or does not answer in time.
        """
        until, status = time.monotonic() + self._timeout, "running"
        look_at_run = time.monotonic() + ALIVE_SECONDS
        while (ack := self._answer(sent)).status == "waiting":
            if status != "running":
                raise NotDone(f"the run is {status}, and has not come to this command", ack)
            now = time.monotonic()
            if now >= until or sent.expired:
                raise NotDone(self._unanswered(sent, ack), ack)
            if now >= look_at_run:  # what it still answered at its end is looked for once more
                status, look_at_run = self.journal.status(), now + ALIVE_SECONDS
            time.sleep(min(LOOK_SECONDS, until - now))
        if not ack.done:
            raise NotDone(ack.note or f"the command was {ack.status}", ack)
        return ack

    def _answer(self, sent: Command) -> Ack:
        return self._mailbox.ack(sent.id) or Ack(sent.id, "waiting")

    def _unanswered(self, sent: Command, ack: Ack) -> str:
        why = f" ({ack.note})" if ack.note else ""
        if sent.expired:
            return f"the command has expired before the run came to it{why}; send it again"
        clock = time.strftime("%H:%M:%S", time.localtime(sent.expires))
        return (
            f"no answer within {self._timeout:g} s{why}: the command waits until {clock}; "
            f"`autotune decisions {self._name}` will show what has become of it"
        )

    def close(self) -> None:
        """Let go of the run."""
        self._mailbox.close()
        self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Remote({self._name!r}, author={self._author!r})"
