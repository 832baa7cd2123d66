"""Memory that states lie in: how much one takes, how much is free, and where there is room for more."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from .records import TuneError

_ALIGNMENT = 64  # bytes; of each tensor within its slot
_HOST = torch.device("cpu")

Layout: TypeAlias = list[tuple[torch.Size, torch.dtype, torch.device]]
Place: TypeAlias = torch.device | None
"""Where slots lie; None: each tensor beside the live one, "cpu": in host memory (pinned for CUDA)."""


class NoRoom(TuneError):
    """There is no memory for one more state; nothing of the run has been touched."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where so many states find room, in half of what is free there."""

    place: Place
    homes: str
    """The devices, by name."""
    count: int
    nbytes: int
    """That one takes."""
    note: str = ""
    """Why it is not as was wished; empty: it is."""

    def __str__(self) -> str:
        size = f"at most {self.count} states of {self.nbytes / 1e6:.1f} MB on {self.homes}"
        return f"{size}, {self.count * self.nbytes / 1e6:.1f} MB in all{self.note and f'; {self.note}'}"


class Slot:
    """Memory for one state: a flat piece on each device, and the tensors that lie in it.

    Args:
        tensors: what it is for.
        place: where it lies.

    Raises:
        NoRoom: when there is no memory for it.
    """

    def __init__(self, tensors: Sequence[Tensor], place: Place) -> None:
        self.layout, self.place = layout(tensors), place
        self.pinned = _pinned(self.layout, place)
        self.nbytes = sum(tensor.nbytes for tensor in tensors)
        ends: defaultdict[torch.device, int] = defaultdict(int)
        starts = []
        for tensor in tensors:
            home = place or tensor.device
            starts.append((home, ends[home]))
            ends[home] += _aligned(tensor.nbytes)
        try:
            flat = {
                home: torch.empty(end, dtype=torch.uint8, device=home, pin_memory=self.pinned)
                for home, end in ends.items()
            }
        except (RuntimeError, MemoryError) as error:  # the host's allocator has no error of its own
            raise NoRoom(
                f"a state takes {self.nbytes / 1e6:.1f} MB on {_names(ends)}, got no such memory; free some "
                f"({str(error).splitlines()[0]})"
            ) from error
        self.tensors = [
            flat[home][start : start + tensor.nbytes]
            .view(tensor.dtype)
            .as_strided(tensor.shape, _strides(tensor))
            for tensor, (home, start) in zip(tensors, starts, strict=True)
        ]

    def fits(self, wanted: Layout, place: Place) -> bool:
        """Whether such tensors can lie in it, and it lies there."""
        return self.layout == wanted and self.place == place


def layout(tensors: Sequence[Tensor]) -> Layout:
    """What a slot for these tensors has to hold."""
    return [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]


def find_room(
    layouts: Sequence[Layout], wish: Place, mine: Sequence[Slot], least: int, most: int, known: Room | None
) -> Room:
    """See how many states find room in half of what is free.

    They lie where it is wished; where fewer than `most` fit there, on the host, if more fit there.

    Args:
        layouts: of states; one takes as much as the largest.
        wish: where they should lie.
        mine: slots that are there for them already.
        least: the fewest that are of use.
        most: the most that are wanted.
        known: what was found before; it stands unless states have grown since.

    Raises:
        NoRoom: when `least` fit nowhere.
    """
    if known is not None and sum(_need(layouts, known.place).values()) <= known.nbytes:
        return known
    on_host = all((wish or home).type == "cpu" for one in layouts for *_, home in one)
    fitting: dict[Place, int] = {}
    for place in (wish,) if on_host else (wish, _HOST):
        taken: defaultdict[torch.device, int] = defaultdict(int)
        for slot in mine:
            if slot.place == place:
                for home, size in _need([slot.layout], place).items():
                    taken[home] += size
        need = _need(layouts, place)
        fitting[place] = max(0, min((free_memory(h) + taken[h]) // 2 // need[h] for h in need))
        if fitting[place] >= most:
            break
    place = max(fitting, key=lambda one: min(fitting[one], most))  # the wish, where they are equal
    nbytes = sum(_need(layouts, place).values())
    there = ", ".join(f"{count} on {_names(_need(layouts, one))}" for one, count in fitting.items())
    if fitting[place] < least:
        raise NoRoom(
            f"trials take {least} states in memory, of {nbytes / 1e6:.1f} MB each, got half of what is free, "
            f"which holds {there}; free some, or make model or batches smaller"
        )
    short = place != wish or fitting[place] < most
    note = f"half of what was free held {there}, {most} were wanted" if short else ""
    return Room(place, _names(_need(layouts, place)), min(fitting[place], most), nbytes, note)


def free_memory(device: torch.device) -> int:
    """Bytes that could be taken on `device`.

    Of a GPU those that its driver has: what torch has cached there, the next step needs again. Of the host
    the least of what the machine has, what the job or container may take, and `ulimit -v`.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not Path("/proc/meminfo").exists():
        return 2**63
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return min([1024 * int(fields["MemAvailable"].split()[0]), *_address_space(), *_control_groups()])


def _address_space() -> Iterator[int]:
    """What is left of the process's address space, if that is limited."""
    for line in _lines(Path("/proc/self/limits")):
        if line.startswith("Max address space") and (limit := line.split()[3]) != "unlimited":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            yield int(limit) - pages * os.sysconf("SC_PAGE_SIZE")


def _control_groups() -> Iterator[int]:
    """What the control groups that the process is in may still take, of version 2 and 1."""
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
        elif controllers == "memory":
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        top = Path("/sys/fs/cgroup") / controllers
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            limit, used, reclaimable = folder / names[0], folder / names[1], folder / "memory.stat"
            if folder.is_relative_to(top) and limit.exists() and limit.read_text().strip() != "max":
                stat = dict(row.split() for row in _lines(reclaimable))
                # files that were read once are let go before anything runs out
                yield int(limit.read_text()) - int(used.read_text()) + int(stat.get(names[2], 0))


def _lines(path: Path) -> list[str]:
    """Of a file of the kernel's; none where there is no such file, as in sandboxes that imitate one."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _need(layouts: Sequence[Layout], place: Place) -> Mapping[torch.device, int]:
    """Bytes that the largest of them takes on each device."""
    need: defaultdict[torch.device, int] = defaultdict(int)
    for one in layouts:
        sizes: defaultdict[torch.device, int] = defaultdict(int)
        for shape, dtype, home in one:
            sizes[place or home] += _aligned(shape.numel() * dtype.itemsize)
        for home, size in sizes.items():
            # torch pins powers of two
            need[home] = max(need[home], 1 << (size - 1).bit_length() if _pinned(one, place) else size, 1)
    return need


def _names(devices: Iterable[torch.device]) -> str:
    return " and ".join(map(str, devices))


def _pinned(one: Layout, place: Place) -> bool:
    return place is not None and place.type == "cpu" and any(home.type == "cuda" for *_, home in one)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """The tensor's own memory format, without gaps."""
    return torch.empty_like(tensor, device="meta").stride()
