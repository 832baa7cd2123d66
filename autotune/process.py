"""Whether the process that ran something is still there."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """What tells this process from all others, as plain JSON values."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def alive(process: Mapping[str, Any]) -> bool | None:
    """Whether a process named by `this_process` still runs; None when it ran on another machine."""
    if process["host"] != socket.gethostname():
        return None
    started = _started(process["pid"])
    return started is not None and started == process["started"]


def _started(pid: int) -> str | None:
    """When `pid` was started, as far as the system tells (a number may be used again); None if it is gone."""
    if Path("/proc/self/stat").exists():
        try:
            # After the command's name, which may hold spaces: the 1st field is the state, the 20th the start.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it belongs to someone else, so it is there
    return ""
