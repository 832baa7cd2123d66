"""Who may see the page and who may use it: two secrets, kept in a file that only this user can read."""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ..page_link import state_folder
from ..records import TuneError

log = logging.getLogger("autotune")

FILE = "tokens.json"
Role: TypeAlias = Literal["write", "read"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The two secrets; they are shown nowhere but in the links that are printed."""

    write: str
    read: str
    """For onlookers, who see all and change nothing."""

    @classmethod
    def new(cls) -> Tokens:
        """Two that nobody can guess: 256 random bits each."""
        return cls(secrets.token_urlsafe(32), secrets.token_urlsafe(32))

    def __repr__(self) -> str:
        return "Tokens(…)"

    def role(self, candidates: Collection[str]) -> Role | None:
        """What somebody may do who shows these; the time that it takes says nothing about the tokens."""
        roles: tuple[Role, ...] = ("read", "write")
        found: Role | None = None
        for role in roles:
            secret = getattr(self, role).encode()
            for candidate in candidates:
                if secrets.compare_digest(secret, candidate.encode(errors="replace")):
                    found = role
        return found


class Held:
    """The tokens that are in force: another server's --new-token counts at once.

    Args:
        renew: make new ones, see `load`.
    """

    def __init__(self, renew: bool = False) -> None:
        self._now = load(renew)
        self._seen: tuple[int, int] | None = None

    @property
    def now(self) -> Tokens:
        """The two; those before where the file has gone or cannot be read."""
        path = state_folder() / FILE
        try:
            about = path.stat()
            seen = about.st_mtime_ns, about.st_ino
            if seen != self._seen:
                self._seen = seen
                self._now = _read(path)
        except (OSError, TuneError) as error:
            log.debug("the tokens stay as they were: %s", error)
        return self._now


def load(renew: bool = False) -> Tokens:
    """This user's tokens, the same at each start, so that who is signed in stays so.

    They are made where there are none.

    Args:
        renew: make new ones: all who have the old ones are shut out.

    Raises:
        TuneError: when somebody else can read the file, or it cannot be read.
    """
    folder = state_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / FILE
    if not renew and path.exists():
        return _read(path)
    tokens = Tokens.new()
    draft = folder / f".{FILE}.{secrets.token_hex(8)}"
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            json.dump(asdict(tokens), file)
        if renew:
            draft.replace(path)
            return tokens
        try:
            path.hardlink_to(draft)  # fails where another server was first
        except FileExistsError:
            return _read(path)
        return tokens
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> Tokens:
    about = path.stat()
    if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077:
        raise TuneError(
            f"tokens are kept where only you can read them, got {path} of mode "
            f"{stat.S_IMODE(about.st_mode):o}; make new ones by --new-token"
        )
    try:
        tokens = Tokens(**json.loads(path.read_text(encoding="ascii")))
        if min(len(tokens.write), len(tokens.read)) < 32 or tokens.write == tokens.read:
            raise ValueError("they are too short, or the same")
    except (ValueError, TypeError) as error:
        raise TuneError(f"{path} holds two tokens, got {error}; make new ones by --new-token") from error
    return tokens
