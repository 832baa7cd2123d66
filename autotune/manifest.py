"""A folder of files that is whole or known to be damaged: its manifest has their sizes and checksums."""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .records import TuneError

MANIFEST = "MANIFEST.json"

_FORMAT = 1
_CHUNK = 16 * 2**20  # bytes per checksum
_THREADS = min(4, os.cpu_count() or 1)


def seal(folder: Path, files: Sequence[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest of `folder`, and wait until it, the files and their names are on the disk.

    Args:
        folder: holds the files already.
        files: their names. They are synced while the checksums are computed.
        about: what else the manifest shall say, as JSON values.

    Returns:
        The manifest.
    """
    with ThreadPoolExecutor(1) as pool:
        synced = pool.map(sync, [folder / name for name in files])
        listed = {}
        for name in files:
            with _mapped(folder / name) as data:
                listed[name] = {"size": len(data), "crc32": _checksums(data)}
        list(synced)  # raises what a sync has raised
    manifest = {"format": _FORMAT, **about, "files": listed}
    (folder / MANIFEST).write_bytes(_sealed(manifest))
    sync(folder / MANIFEST)
    sync(folder)
    return manifest


def verify(folder: Path) -> tuple[dict[str, Any], dict[str, mmap.mmap]]:
    """Compare every byte of the files with the manifest.

    Returns:
        The manifest, and each file as the memory that was verified: private, so that writing to it alters
        no file.

    Raises:
        TuneError: when a file is missing, truncated or altered, the manifest too; it says which.
    """
    manifest = read(folder)
    contents = {}
    for name, whole in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise _damaged(folder, f"{name} is missing")
        if size != whole["size"]:
            raise _damaged(folder, f"{name} has {size} bytes instead of {whole['size']}")
        contents[name] = _mapped(path)
        if _checksums(contents[name]) != whole["crc32"]:
            raise _damaged(folder, f"{name} does not have the checksum that it was written with")
    return manifest, contents


def read(folder: Path) -> dict[str, Any]:
    """The manifest alone, itself verified; the files are not looked at.

    Raises:
        TuneError: when it is missing, altered, or of a later version.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read ({error.strerror})") from error
    try:
        manifest: dict[str, Any] = json.loads(data)
        del manifest["crc32"]
        whole = data == _sealed(manifest)
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise _damaged(folder, f"{MANIFEST} does not have the checksum that it was written with")
    if manifest["format"] > _FORMAT:
        raise TuneError(
            f"checkpoints are read by the version that wrote them or a later one, got format "
            f"{manifest['format']} in {folder}, known is {_FORMAT}; upgrade autotune-torch"
        )
    return manifest


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """The manifest's bytes, with the checksum of all the rest in it."""
    crc = zlib.crc32(json.dumps(manifest).encode())
    return json.dumps({**manifest, "crc32": f"{crc:08x}"}, indent=1).encode()


def _damaged(folder: Path, what: str) -> TuneError:
    return TuneError(
        f"a checkpoint must be as it was written, but in {str(folder)!r} {what}; load another one, or None "
        "for the newest that is whole"
    )


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _checksums(data: mmap.mmap) -> str:
    """CRC-32 of each chunk in hexadecimal, by several threads: zlib lets them run side by side."""
    with memoryview(data) as view, ThreadPoolExecutor(_THREADS) as pool:
        sums = pool.map(lambda start: zlib.crc32(view[start : start + _CHUNK]), range(0, len(view), _CHUNK))
        return " ".join(f"{crc:08x}" for crc in sums)
