"""Checkpoints on disk: written whole or not at all, verified when read, without pickle.

A checkpoint is a folder: `tensors.safetensors`, `state.json` (everything else, see `encoding.py`) and
`MANIFEST.json` (what it is, and the sizes and checksums of the other two; it carries its own). A save writes
a temporary folder, syncs it and renames it; what it replaces goes only afterwards. Folders whose names begin
with a dot are what a crash left of that, and the next save clears them away.
"""

from __future__ import annotations

import json
import math
import mmap
import re
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .encoding import DTYPES, decode, encode
from .manifest import read, seal, sync, verify
from .records import TuneError

TENSORS, STATE = "tensors.safetensors", "state.json"

_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]{0,99}")
_SAVING, _REPLACED, _DROPPED = ".saving-", ".replaced-", ".dropped-"


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A checkpoint on disk."""

    name: str
    step: int
    spent: int
    path: Path
    nbytes: int
    pinned: bool
    score: float | None
    """The lower, the better; None when it has none, or one that is not finite."""
    seconds: float = math.nan
    """What the save took; NaN when read back from disk."""


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A verified checkpoint. Its tensors stay in the file until used; writing to them never alters it."""

    info: CheckpointInfo
    state: dict[str, Any] = field(repr=False)


class CheckpointStore:
    """The checkpoints of one run. One process at a time may save.

    Args:
        folder: where they lie; made at the first save.
        keep_last: how many of the newest are kept, at least 1; the best and the pinned stay besides.

    Raises:
        TuneError: for a `keep_last` below 1.
    """

    def __init__(self, folder: Path, keep_last: int = 2) -> None:
        if keep_last < 1:
            raise TuneError(f"a store keeps at least its last checkpoint, got keep_last={keep_last}")
        self.folder = Path(folder)
        self._keep_last = keep_last

    def save(
        self,
        name: str,
        step: int,
        state: Mapping[str, Any],
        *,
        spent: int | None = None,
        pinned: bool = False,
        score: float | None = None,
    ) -> CheckpointInfo:
        """Write a checkpoint; when this returns it has reached the disk. Then prune those not worth keeping.

        Args:
            name: a file name of letters, digits and `._=+-`; a checkpoint of this name is replaced.
            step: the plant's clock.
            state: whatever `encode` takes. Its tensors must not change until this returns.
            spent: the clock that only grows; None: the same as `step`.
            pinned: whether it is kept for ever.
            score: of the lowest one the checkpoint is kept.

        Raises:
            TuneError: for a bad name or a state that cannot be stored. Nothing is written then.
            OSError: when it cannot be written (disk full, no permission). All earlier ones are untouched.
        """
        start = time.perf_counter()
        check_name(name)
        tensors: dict[str, Tensor] = {}
        text = json.dumps(encode(dict(state), tensors), allow_nan=False).encode()
        score = score if score is not None and math.isfinite(score) else None
        temporary = self.folder / f"{_SAVING}{name}"
        try:
            self._prepare()
            temporary.mkdir()
            save_file(_storable(tensors), temporary / TENSORS, {"format": "pt"})  # sync: copied to the host
            (temporary / STATE).write_bytes(text)
            sequence = max((n for n, _ in self._scan()[0]), default=0) + 1
            clocks = {"step": step, "spent": step if spent is None else spent}
            about = {"sequence": sequence, **clocks, "pinned": pinned, "score": score}
            about = seal(temporary, (TENSORS, STATE), about)
            self._put(temporary, name)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise OSError(
                f"checkpoint {name!r} was not saved, earlier ones are untouched: {error}; make room or give "
                f"permission at {self.folder}",
            ) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._prune()
        return _info(self.folder / name, about, time.perf_counter() - start)

    def load(self, name: str | None = None) -> LoadedCheckpoint:
        """Read a checkpoint and verify every byte of it.

        Args:
            name: which; None: the newest that is whole, with a warning for each newer one that is not.

        Raises:
            TuneError: when there is none, or `name` is truncated, altered or missing; it says which file.
        """
        kept, damaged = self._scan()
        if name is not None:
            path = next((i.path for _, i in kept if i.name == name), self.folder / check_name(name))
            if not path.is_dir():
                there = ", ".join(info.name for _, info in kept) or "none"
                raise TuneError(
                    f"a checkpoint is loaded by its name, got {name!r}; in {self.folder}: {there}"
                )
            return _load(path)
        for error in damaged:
            warnings.warn(f"passing over a checkpoint: {error}", stacklevel=2)
        for _, info in reversed(kept):
            try:
                return _load(info.path)
            except TuneError as error:
                warnings.warn(f"taking an older checkpoint: {error}", stacklevel=2)
        raise TuneError(f"a whole checkpoint is needed to go on from, got none in {self.folder}; start anew")

    def infos(self) -> list[CheckpointInfo]:
        """All checkpoints whose manifest is whole, oldest save first; the files are verified by `load`."""
        return [info for _, info in self._scan()[0]]

    def _scan(self) -> tuple[list[tuple[int, CheckpointInfo]], list[TuneError]]:
        """Checkpoints by sequence number, ascending, and what is wrong with the others."""
        found: dict[str, tuple[int, CheckpointInfo]] = {}
        damaged = []
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if path.is_dir() and not path.name.startswith((_SAVING, _DROPPED)):
                try:
                    about = read(path)
                except TuneError as error:
                    damaged.append(error)
                    continue
                info = _info(path, about)
                if info.name not in found or found[info.name][0] < about["sequence"]:
                    found[info.name] = about["sequence"], info
        return sorted(found.values(), key=lambda entry: entry[0]), damaged

    def _prepare(self) -> None:
        """Make the folder, and clear away what a crash has left."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            sync(self.folder.parent)
        for path in list(self.folder.iterdir()):
            if path.name.startswith((_SAVING, _DROPPED)):
                shutil.rmtree(path)
            elif path.name.startswith(_REPLACED):
                original = self.folder / path.name.removeprefix(_REPLACED)
                if original.exists():
                    shutil.rmtree(path)
                else:
                    path.rename(original)

    def _put(self, temporary: Path, name: str) -> None:
        """Give the finished folder its name; a reader finds the old or the new one at any moment."""
        path, replaced = self.folder / name, self.folder / f"{_REPLACED}{name}"
        if path.exists():
            path.rename(replaced)
        temporary.rename(path)
        sync(self.folder)
        shutil.rmtree(replaced, ignore_errors=True)

    def _prune(self) -> None:
        infos = self.infos()
        kept = {info.name for info in infos[-self._keep_last :]} | {i.name for i in infos if i.pinned}
        scores = {info.name: info.score for info in infos if info.score is not None}
        if scores:
            kept.add(min(scores, key=scores.__getitem__))
        for info in infos:
            if info.name not in kept:
                dropped = self.folder / f"{_DROPPED}{info.name}"
                info.path.rename(dropped)
                shutil.rmtree(dropped, ignore_errors=True)


def check_name(name: str) -> str:
    """A checkpoint's name, as given.

    Raises:
        TuneError: when it could not safely name a folder.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise TuneError(
            f"a checkpoint's name is 1 to 100 letters, digits and ._=+-, not beginning with one of . = + -; "
            f"got {name!r}; give another name"
        )
    return name


def _load(path: Path) -> LoadedCheckpoint:
    about, contents = verify(path)
    state = decode(json.loads(contents[STATE][:]), _tensors(contents[TENSORS]))
    return LoadedCheckpoint(_info(path, about), state)


def _tensors(data: mmap.mmap) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as views of its memory.

    Source: the format's description in the README of huggingface/safetensors.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    out = {}
    for name, entry in header.items():
        dtype, (low, high) = _DTYPES[entry["dtype"]], entry["data_offsets"]
        count = (high - low) // dtype.itemsize
        flat = (
            torch.frombuffer(data, dtype=dtype, count=count, offset=start + low) if count else torch.empty(0)
        )
        out[name] = flat.to(dtype).reshape(entry["shape"])
    return out


def _info(path: Path, about: Mapping[str, Any], seconds: float = math.nan) -> CheckpointInfo:
    return CheckpointInfo(
        name=path.name.removeprefix(_REPLACED),
        step=about["step"],
        path=path,
        nbytes=sum(file["size"] for file in about["files"].values()),
        spent=about["spent"],
        pinned=about["pinned"],
        score=about["score"],
        seconds=seconds,
    )


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors wants them: contiguous, and none in the storage of another."""
    out: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().contiguous()
        if plain.untyped_storage().data_ptr() in storages:
            plain = plain.clone()
        storages.add(plain.untyped_storage().data_ptr())
        out[name] = plain
    return out
