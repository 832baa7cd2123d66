"""What people send to a run: commands, and the mailbox in the run's store through which they travel.

Whoever sends a command posts it; the trainer takes what waits, in the order of posting, and settles each with
an acknowledgement. The id is the sender's choice, so that a command that is sent again stays one command.
"""

from __future__ import annotations

import json
import math
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeAlias

import sqlalchemy as sa

from . import journal_tables
from .actions import COMMANDS, Action, Rewind, TuneError, action_from_json, action_to_json
from .places import DatabaseRun, Place, place_of

FILE = "commands.db"
FOLDER = "commands"
"""Of the files, one a command, where the write-ahead log does not work."""
EXPIRES_SECONDS = 600.0

AckStatus: TypeAlias = Literal["waiting", "applied", "clamped", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Command:
    """An action that a person has sent. Made by `command`.

    Raises:
        TuneError: for an id, an author, a time or an action that a command cannot have.
    """

    id: str
    """32 hexadecimal digits that the sender has chosen."""
    author: str
    action: Action
    sent: float
    """Seconds since the epoch, as `expires`."""
    expires: float
    """It is not applied after that."""

    def __post_init__(self) -> None:
        if not is_id(self.id):
            raise TuneError(f"a command's id is 32 hexadecimal digits, got {self.id!r}; leave it out")
        check_author(self.author)
        if not isinstance(self.action, COMMANDS):
            got = self.action.kind if isinstance(self.action, Action) else repr(self.action)
            raise TuneError(
                f"a person's action is one of {', '.join(kind.kind for kind in COMMANDS)}, got {got}"
            )
        then = self.action.then if isinstance(self.action, Rewind) else ()
        if any(action.evidence for action in (self.action, *then)):
            raise TuneError("a person's action gives its reason in words, got evidence; leave that out")
        if not (math.isfinite(self.sent) and math.isfinite(self.expires)):
            raise TuneError(f"a command's times are finite, got {self.sent!r} and {self.expires!r}")
        _to_text(self.action)

    def document(self) -> dict[str, Any]:
        """Plain values by the names of the fields, the action as text; `read` is the inverse."""
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "action": _to_text(self.action)}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """The command that `document` has written.

        Raises:
            TuneError: for what is no command of this version.
        """
        try:
            values = {f.name: document[f.name] for f in fields(cls)}
            return cls(**{**values, "action": action_from_json(json.loads(document["action"]))})
        except (ValueError, TypeError, KeyError) as error:
            raise TuneError(
                f"a command is as this version of autotune writes it, got another ({error}); "
                "use one version for the run and for what steers it"
            ) from error

    def check_same(self, known: Mapping[str, Any]) -> None:
        """See that a command of the same id, as a document, is this one.

        Raises:
            TuneError: when it is by another author, or about something else.
        """
        if (known.get("author"), known.get("action")) != (self.author, _to_text(self.action)):
            raise TuneError(
                f"a command's id names one command, got {self.id} again with another action or author; "
                "leave the id out for a new one"
            )

    @property
    def expired(self) -> bool:
        """Whether it is too late to apply it."""
        return time.time() > self.expires


@dataclass(frozen=True, slots=True)
class Ack:
    """What has become of a command."""

    command: str
    """Its id."""
    status: AckStatus
    """`waiting` until it is settled."""
    note: str = ""
    """Why it was clamped, refused or failed, or why it still waits."""
    decision: int | None = None
    """The id of the decision that it became."""
    step: int | None = None
    """The step at which it took effect, as `spent`."""
    spent: int | None = None
    time: float = 0.0
    """Seconds since the epoch; 0: the run has said nothing about it yet."""

    @property
    def done(self) -> bool:
        """Whether the run was changed."""
        return self.status in ("applied", "clamped")


class Mailbox(Protocol):
    """Where the commands to one run wait. Any number of processes may have it open.

    Each method raises OSError when the store cannot be reached.
    """

    def post(self, command: Command) -> None:
        """Leave a command; it is on disk when this returns. The same one again: nothing happens.

        Raises:
            TuneError: when the id is that of a command of another author, or with another action.
        """
        ...

    def waiting(self) -> list[Command]:
        """What is not settled, in the order of posting; what cannot be read is refused, with the reason."""
        ...

    def settle(self, ack: Ack) -> None:
        """Say what has become of a command; durable. `waiting` with a note says why it still waits.

        The ack's time becomes the present one. What was settled stays as it is.
        """
        ...

    def ack(self, id: str) -> Ack | None:
        """What has become of one command; None: there is none of this id."""
        ...

    def acks(self, after: float) -> list[Ack]:
        """What has changed after that time, oldest first."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


def command(
    action: Action, author: str, expires_in: float = EXPIRES_SECONDS, id: str | None = None
) -> Command:
    """A command, sent now.

    Args:
        action: one that a person may do, without evidence.
        author: who sends it: 1 to 64 printable characters without a colon.
        expires_in: seconds after which it is not applied any more; above 0.
        id: 32 hexadecimal digits, the same for a command that is sent again; None: a new one.

    Raises:
        TuneError: for any of them that does not keep to this.
    """
    if not (math.isfinite(expires_in) and expires_in > 0):
        raise TuneError(f"a command expires after a number of seconds above 0, got {expires_in!r}")
    now = time.time()
    return Command(uuid.uuid4().hex if id is None else id, author, action, now, now + expires_in)


def is_id(text: object) -> bool:
    """Whether a command can have this id."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{32}", text) is not None


def check_author(name: object) -> None:
    """See that a command can have this author.

    Raises:
        TuneError: when it cannot.
    """
    named = isinstance(name, str) and name.isprintable() and 0 < len(name.strip()) <= len(name) <= 64
    if not named or ":" in str(name):
        raise TuneError(
            f"an author is 1 to 64 printable characters without a colon, got {name!r}; "
            "give a name or initials"
        )


def mailbox(run: str | Place) -> Mailbox:
    """The mailbox of a run. Nothing is made before the first command is posted.

    Args:
        run: its folder, or its place in a database.

    Raises:
        TuneError: when there is no run, or its database cannot be reached.
    """
    from .mailboxes import FileMailbox, PostgresMailbox, SqliteMailbox

    place = place_of(run)
    if isinstance(place, DatabaseRun):
        return PostgresMailbox(place)
    if not (place / journal_tables.FILE).is_file():
        raise TuneError(
            f"a mailbox belongs to a run, got {place}, which has no {journal_tables.FILE}; "
            "`autotune runs` lists the runs that there are"
        )
    return SqliteMailbox(place / FILE) if _logs_ahead(place) else FileMailbox(place / FOLDER)


def _logs_ahead(folder: Path) -> bool:
    """Whether the journal has the write-ahead log, which was tried out when the run began."""
    # By SQLite: a file that is opened and closed beside it takes its locks away, for the whole process.
    engine = journal_tables.connect(folder / journal_tables.FILE)
    try:
        with engine.connect() as connection:
            return connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    except sa.exc.DBAPIError as error:
        raise TuneError(f"{folder} has a journal that cannot be read ({error.orig})") from error
    finally:
        engine.dispose()


def _to_text(action: Action) -> str:
    """The action as JSON, the same for the same action."""
    try:
        return json.dumps(action_to_json(action), sort_keys=True, allow_nan=False, default=_plain)
    except ValueError as error:
        raise TuneError(f"the numbers of a command are finite, got {action.describe()}") from error


def _plain(value: Any) -> Any:
    """A NumPy scalar, or another real number, as the Python number that it holds."""
    return value.item() if hasattr(value, "item") else float(value)
