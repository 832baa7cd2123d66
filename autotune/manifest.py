"""A folder of files that is whole or known to be damaged: its manifest has their sizes and checksums."""

from __future__ import annotations

import json
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
_PIECE = 2**18  # bytes read at once: they stay in the processor's cache
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
        sizes = {name: (folder / name).stat().st_size for name in files}
        sums = {name: _checksums(folder / name, size) for name, size in sizes.items()}
        list(synced)  # raises what a sync has raised
    listed = {name: {"size": sizes[name], "crc32": sums[name]} for name in files}
    manifest = {"format": _FORMAT, **about, "files": listed}
    (folder / MANIFEST).write_bytes(_sealed(manifest))
    sync(folder / MANIFEST)
    sync(folder)
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """Compare every byte of the files with the manifest.

    Returns:
        The manifest.

    Raises:
        TuneError: when a file is missing, truncated or altered, the manifest too; it says which.
    """
    manifest = read(folder)
    for name, whole in manifest["files"].items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            raise _damaged(folder, f"{name} is missing")
        if size != whole["size"]:
            raise _damaged(folder, f"{name} has {size} bytes instead of {whole['size']}")
        if _checksums(file, size) != whole["crc32"]:
            raise _damaged(folder, f"{name} does not have the checksum that it was written with")
    return manifest


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


def _checksums(path: Path, size: int) -> str:
    """CRC-32 of each chunk in hexadecimal, computed by several threads (zlib lets them run side by side)."""
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = pool.map(lambda start: _checksum(path, start), range(0, size, _CHUNK))
        return " ".join(f"{crc:08x}" for crc in sums)


def _checksum(path: Path, start: int) -> int:
    crc, left = 0, _CHUNK
    buffer = memoryview(bytearray(_PIECE))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while left and (count := file.readinto(buffer[:left])):
            crc = zlib.crc32(buffer[:count], crc)
            left -= count
    return crc
