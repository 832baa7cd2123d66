"""The random generators of a run: captured in microseconds, restored last of all in a rewind."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from .records import TuneError

State: TypeAlias = dict[str, Any]
"""What each generator holds, by name; `encoding.py` turns it into JSON."""
AnyGenerator: TypeAlias = torch.Generator | np.random.Generator | np.random.RandomState | random.Random

_Access: TypeAlias = tuple[Callable[[], Any], Callable[[Any], object]]


class Generators:
    """Python's, NumPy's and torch's global generators, each CUDA device's, and private ones.

    Args:
        private: further generators of the run by name (a loader's, an augmentation's, a worker seed's).
    """

    def __init__(self, private: Mapping[str, AnyGenerator] | None = None) -> None:
        self._private: dict[str, AnyGenerator] = {}
        for name, generator in (private or {}).items():
            self.register(name, generator)

    def register(self, name: str, generator: AnyGenerator) -> None:
        """Capture and restore `generator` too, from now on; one that is known already changes nothing.

        Raises:
            TuneError: when `name` belongs to another generator, or `generator` is not one.
        """
        if generator is torch.default_generator or any(generator is g for g in self._private.values()):
            return
        if name in self._private:
            raise TuneError(
                f"a generator's name is used once, got {name!r} for two; give one of them another name"
            )
        _access(name, generator)
        self._private[name] = generator

    def capture(self, last: State | None = None) -> State:
        """The state of each generator, as a copy. Draws nothing and does not synchronise with a device.

        Args:
            last: an earlier state. What Python's and NumPy's generators have not changed since is shared
                with it: reading NumPy's takes 30 µs otherwise, and Python's takes 25 kB.
        """
        state = {name: get() for name, (get, _) in self._all() if name != "numpy" or last is None}
        if last is not None:
            if _same_python(state["python"], last["python"]):
                state["python"] = last["python"]
            state["numpy"] = last["numpy"] if _same_numpy(last["numpy"]) else _numpy_state()
        return state

    def restore(self, state: State) -> frozenset[str]:
        """Put each generator back to `state`, which may be restored any number of times.

        Returns:
            Names that only one side knows, and so were not restored: a generator registered after
            `state` was captured, or one of another machine's devices. Empty when all is as it was.
        """
        here = dict(self._all())
        for name in here.keys() & state.keys():
            here[name][1](state[name])
        return frozenset(here.keys() ^ state.keys())

    def _all(self) -> Iterator[tuple[str, _Access]]:
        yield "python", (random.getstate, random.setstate)
        yield "numpy", (_numpy_state, np.random.set_state)
        yield "torch", (torch.default_generator.get_state, torch.default_generator.set_state)
        if torch.cuda.is_initialized():
            for index, device in enumerate(torch.cuda.default_generators):
                yield f"cuda:{index}", (device.get_state, device.set_state)
        for name, generator in self._private.items():
            yield f"private/{name}", _access(name, generator)


def _numpy_state() -> Any:
    return np.random.get_state(legacy=False)


def _same_python(state: Any, last: Any) -> bool:
    # The position and two of the 624 words: another state agrees in all three once in 2**64.
    return bool(state[1][-3:] == last[1][-3:] and state[2] == last[2])


def _same_numpy(last: Any) -> bool:
    """Whether NumPy's global generator is still in state `last`, read from its memory: 624 words, a position.

    A normal variate that it holds back (`has_gauss`) is not in that memory. Only drawing makes one, so that
    none is missed unless the same seed is set again and as many words are drawn in another way.
    """
    bits = np.random.get_bit_generator()  # type: ignore[attr-defined]  # missing in NumPy's annotations
    if not isinstance(bits, np.random.MT19937) or last["bit_generator"] != "MT19937" or last["has_gauss"]:
        return False
    memory = ctypes.string_at(bits.ctypes.state_address, 625 * 4)
    position = int.from_bytes(memory[-4:], sys.byteorder)
    return bool(position == last["state"]["pos"] and memory[:-4] == last["state"]["key"].tobytes())


def _access(name: str, generator: AnyGenerator) -> _Access:
    match generator:
        case torch.Generator():
            return generator.get_state, generator.set_state
        case random.Random():
            return generator.getstate, generator.setstate
        case np.random.RandomState():
            return lambda: generator.get_state(legacy=False), generator.set_state
        case np.random.Generator():
            bits = generator.bit_generator
            return lambda: bits.state, lambda state: setattr(bits, "state", state)
    raise TuneError(
        f"a generator is a torch.Generator, random.Random, numpy Generator or RandomState, "
        f"got {type(generator).__name__} for {name!r}; pass the generator itself, not a seed"
    )
