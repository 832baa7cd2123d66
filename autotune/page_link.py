"""Where the control page was served last, so that other pages can link to it; no secret is in it."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from urllib.parse import quote

FILE = "ui.json"
ADDRESS = "http://127.0.0.1:8484"
"""Where the page is served unless the user says otherwise."""


def state_folder() -> Path:
    """Of what is to be known at the next start: `$XDG_STATE_HOME/autotune`, or `~/.local/state/autotune`."""
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".local" / "state") / "autotune"


def remember(address: str) -> None:
    """Note where the page is served, as in `http://127.0.0.1:8484`."""
    folder = state_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".{FILE}.{os.getpid()}"
    draft.write_text(json.dumps({"address": address}), encoding="ascii")
    draft.replace(folder / FILE)


def run_page(name: str) -> str:
    """The address of a run's page, on the server that was started last on this machine."""
    address = ADDRESS
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        address = str(json.loads((state_folder() / FILE).read_text(encoding="ascii"))["address"])
    return f"{address}/runs/{quote(name, safe='')}"
