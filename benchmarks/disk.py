"""What a checkpoint's save and verified load cost, against writing and reading the same bytes raw.

`python -m autotune.benchmarks.disk [FOLDER]` prints a table and exits with 1 when a target is missed. A save
stands against a buffered write of one file with fsync; both remove their predecessor. A load, up to the live
plant and with every byte verified, stands against `Path.read_bytes` of the same size, both from the page
cache. The last column, without a target, is a read into memory that is already there.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch

from autotune.checkpoints import CheckpointStore

from .snapshot import SIZES, SMALL, adam_plant, alternate, ratio, settle_threads, shown

SAVE_LIMIT, LOAD_LIMIT = 1.5, 2.0


def main(folder: str | None = None) -> int:
    """Measure and print.

    Args:
        folder: on the disk to be measured; None: where temporary files go.

    Returns:
        The exit status: 0 when all targets are met.
    """
    settle_threads()
    print(f"disk against raw, {torch.get_num_threads()} threads; medians of paired rounds")
    columns = ("raw write", "save", "ratio", "raw read", "load", "ratio", "read into")
    print(f"{'':12}" + "".join(f" {c:>{6 if c == 'ratio' else 10}}" for c in columns) + "   target")
    missed = False
    for label, nbytes, tensors, rounds in (*SIZES, SMALL):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            times = measure(Path(place), nbytes, tensors, rounds)
        save, load = ratio(times, "save", "write"), ratio(times, "load", "read")
        limited = label != SMALL[0]
        missed |= limited and (save > SAVE_LIMIT or load > LOAD_LIMIT)
        print(
            f"{label:12} {shown(times['write'])} {shown(times['save'])} {save:6.2f} "
            f"{shown(times['read'])} {shown(times['load'])} {load:6.2f} {shown(times['read into'])}   "
            + (f"at most {SAVE_LIMIT} and {LOAD_LIMIT}" if limited else "-")
        )
    return int(missed)


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
    sys.exit(main(*sys.argv[1:]))
