"""What a checkpoint's save and verified load cost, against writing and reading the same bytes raw.

`python -m autotune.benchmarks.disk [FOLDER]` prints a table and exits with 1 when a target is missed. A save
stands against a buffered write of one file with fsync; both remove their predecessor. A load, up to the live
plant and with every byte verified, stands against `Path.read_bytes` of the same size, both from the page
cache. A read into memory that is already there is shown beside, without a target.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from autotune.checkpoints import CheckpointStore

from .figures import Figure, show
from .snapshot import SIZES, SMALL, adam_plant, alternate, limited, milliseconds, ratio, settle_threads

SAVE_LIMIT, LOAD_LIMIT = 1.5, 2.0


def figures(folder: str | None = None) -> list[Figure]:
    """Measure.

    Args:
        folder: on the disk to be measured; None: where temporary files go.
    """
    settle_threads()
    found: list[Figure] = []
    for label, nbytes, tensors, rounds in (*SIZES, SMALL):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            times = measure(Path(place), nbytes, tensors, rounds)
        for job, base, limit in (("save", "write", SAVE_LIMIT), ("load", "read", LOAD_LIMIT)):
            found.append(Figure(f"{label}: raw {base}", milliseconds(times[base]), "ms"))
            found.append(Figure(f"{label}: {job}", milliseconds(times[job]), "ms"))
            found.append(
                limited(
                    f"{label}: {job} over raw {base}",
                    ratio(times, job, base),
                    None if label == SMALL[0] else limit,
                )
            )
        found.append(Figure(f"{label}: read into memory", milliseconds(times["read into"]), "ms"))
    return found


def measure(folder: Path, nbytes: int, tensors: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round for raw write, save, raw read, verified load, and a read into existing memory."""
    plant = adam_plant(nbytes, tensors)
    store = CheckpointStore(folder / "checkpoints", keep_last=1)
    size = store.save("first", 0, {"plant": plant.state()}).nbytes
    data = memoryview(bytearray(os.urandom(2**20) * (size // 2**20 + 1)))[:size]
    raw, previous = folder / "raw", folder / "previous"
    step = 0

    def write() -> None:
        if raw.exists():
            raw.rename(previous)
        with raw.open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())
        previous.unlink(missing_ok=True)

    def save() -> None:
        nonlocal step
        step += 1
        store.save(f"step-{step}", step, {"plant": plant.state()})

    def load() -> None:
        plant.load(store.load().state["plant"])

    def read_into() -> None:
        with raw.open("rb", buffering=0) as file:
            done = 0
            while done < size:
                done += file.readinto(data[done:]) or 0

    jobs = {"write": write, "save": save, "read": raw.read_bytes, "load": load, "read into": read_into}
    alternate(jobs, 2)  # the files' pages and the processor's caches are as in the rounds that count
    return alternate(jobs, rounds)


if __name__ == "__main__":
    sys.exit(show(figures(*sys.argv[1:])))
