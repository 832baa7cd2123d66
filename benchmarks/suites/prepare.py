"""What a request asks for, planned in a suite's folder."""

from __future__ import annotations

import hashlib
import itertools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from autotune.records import TuneError

from .catalogue import Request, imported
from .plan import defined, lacking, planned, present
from .store import Store
from .versions import merged, versions


def prepare(request: Request, folder: Path, device: str, say: Callable[[str], object]) -> Store:
    """Plan what a request asks for, beside what the folder holds already, and which it leaves alone.

    Args:
        request: what is to be run.
        folder: of the suite.
        device: `cpu` or `cuda`.
        say: is told in a line what is left out.

    Raises:
        TuneError: for a device that is not there, when no workload is left, and when the folder holds
            results that were made in another way.
    """
    usable(device)
    suite = request.make()
    for name, data in lacking(suite).items():
        say(f"{name} is left out: its data, {data}/, are not in the folder that AUTOTUNE_DATA names")
    suite = present(suite)
    if not suite.workloads:
        raise TuneError(f"{suite.name} needs data that are not here; set AUTOTUNE_DATA to their folder")
    store = Store(folder)
    now = versions(device)
    facts = {
        "suite": suite.name,
        "autotune-torch": now["autotune-torch"],
        "device": device,
        "methods": suite.methods,
        "trials": suite.trials,
        **{f"source of {path}": source(path) for path in (*request.workloads, *request.policies)},
    }
    store.plan(facts, defined(suite), planned(suite))
    store.note("versions", merged(store.fact("versions", {}), now))
    store.note("commands", list(dict.fromkeys([*store.fact("commands", []), command(request, device)])))
    return store


def usable(device: str) -> torch.device:
    """A device that this machine has.

    Raises:
        TuneError: for another.
    """
    if device not in ("cpu", "cuda"):
        raise TuneError(f"a device is cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise TuneError("cuda needs a GPU that torch sees, got none; give --device cpu")
    return torch.device(device)


def source(path: str) -> str:
    """What tells the file that an import path leads to from the same file after a change."""
    file = Path(str(sys.modules[imported(path).__module__].__file__))
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def command(request: Request, device: str) -> str:
    """The command line of a request."""
    words = ["autotune", "bench", "run", request.suite]
    if request.quick:
        words.append("--quick")
    for option, values in (
        ("--workload", request.workloads),
        ("--policy", request.policies),
        ("--only", request.only),
        ("--methods", request.methods),
    ):
        words += itertools.chain.from_iterable((option, value) for value in values)
    if request.seeds is not None:
        words += ["--seeds", str(request.seeds)]
    return shlex.join([*words, "--device", device])
