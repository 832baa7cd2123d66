"""Any state as JSON with tags, its tensors beside it: what checkpoints are written with, instead of pickle.

Plain values, lists and dicts with string keys stay as they are. Everything else becomes an object with the
key `$`, which names its type; `decode` is the inverse and runs no code of the data's choosing.
"""

from __future__ import annotations

import base64
import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .records import TuneError

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What tensors may hold, and what safetensors calls it."""

_TAG = "$"
_SEQUENCES: dict[str, type] = {"tuple": tuple, "set": set, "frozenset": frozenset, "size": torch.Size}
_MAPPINGS: dict[str, type] = {"dict": dict, "ordered": OrderedDict, "counter": Counter}
_FACTORIES: dict[str, type] = {
    kind.__name__: kind for kind in (int, float, bool, str, list, dict, set, tuple)
}
_NAMES = {kind: name for names in (_SEQUENCES, _MAPPINGS) for name, kind in names.items()}


def encode(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """`value` as JSON values.

    Args:
        value: nested containers of numbers, strings, bytes, NumPy arrays and scalars, and tensors.
        tensors: each dense tensor met is added under its path, once however often it occurs; not copied.
        path: where `value` stands, for the tensors' names and for errors.

    Raises:
        TuneError: for a type that cannot be stored; it says where it stands.
    """
    return _Encoder(tensors).encode(value, path)


class _Encoder:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._names = {id(tensor): name for name, tensor in tensors.items()}

    def encode(self, value: Any, path: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
            return value
        if kind is list:
            return [self.encode(item, _join(path, i)) for i, item in enumerate(value)]
        if kind is dict and _TAG not in value and all(type(key) is str for key in value):
            return {key: self.encode(item, _join(path, key)) for key, item in value.items()}
        tag, content = self._tagged(value, path)
        return {_TAG: tag, **content}

    def _tagged(self, value: Any, path: str) -> tuple[str, dict[str, Any]]:
        kind = type(value)
        if kind in _SEQUENCES.values():
            return _NAMES[kind], {"items": self.encode(list(value), path)}
        if kind in _MAPPINGS.values():
            return _NAMES[kind], {"items": self._pairs(value, path)}
        if isinstance(value, Tensor):
            return "tensor", {"name": self._hoist(value, path)}
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value, path)
        match value:
            case float():
                if kind is float:
                    return "float", {"value": repr(value)}
            case complex():
                return "complex", {"value": [self.encode(part, path) for part in (value.real, value.imag)]}
            case bytes():
                return "bytes", {"value": base64.b64encode(value).decode("ascii")}
            case deque():
                return "deque", {"items": self.encode(list(value), path), "maxlen": value.maxlen}
            case defaultdict():
                factory = value.default_factory
                name = getattr(factory, "__name__", None)
                if factory is None or _FACTORIES.get(str(name)) is factory:
                    return "defaultdict", {"items": self._pairs(value, path), "factory": name}
        raise _refused(path, f"a {kind.__module__}.{kind.__qualname__}")

    def _pairs(self, value: Mapping[Any, Any], path: str) -> list[Any]:
        return [[self.encode(k, _join(path, k)), self.encode(v, _join(path, k))] for k, v in value.items()]

    def _hoist(self, tensor: Tensor, path: str) -> str:
        if tensor.layout is not torch.strided or tensor.dtype not in DTYPES:
            raise _refused(path, f"a tensor of {tensor.layout}, {tensor.dtype}")
        if id(tensor) not in self._names:
            name = path if path not in self._tensors else f"{path}#{len(self._tensors)}"
            self._names[id(tensor)] = name
            self._tensors[name] = tensor
        return self._names[id(tensor)]

    @staticmethod
    def _array(value: np.ndarray[Any, Any] | np.generic, path: str) -> tuple[str, dict[str, Any]]:
        if value.dtype.kind not in "biufcSUmM":
            raise _refused(path, f"a NumPy value of dtype {value.dtype}")
        data = base64.b64encode(value.tobytes()).decode("ascii")
        content = {"dtype": value.dtype.str, "shape": list(value.shape), "data": data}
        return ("array" if isinstance(value, np.ndarray) else "scalar"), content


def decode(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `encode` was given; its tensors are those of `tensors`, not copies.

    Raises:
        TuneError: for a tag this version does not know, or a tensor that is missing.
    """
    if isinstance(data, list):
        return [decode(item, tensors) for item in data]
    if not isinstance(data, dict):
        return data
    if _TAG not in data:
        return {key: decode(item, tensors) for key, item in data.items()}
    tag = data[_TAG]
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](decode(data["items"], tensors))
    if tag in _MAPPINGS:
        return _MAPPINGS[tag](_dict(data, tensors))
    match tag:
        case "tensor":
            if data["name"] not in tensors:
                raise TuneError(
                    f"a state's tensors are stored beside it, {data['name']!r} is not; take an older state"
                )
            return tensors[data["name"]]
        case "array" | "scalar":
            buffer = bytearray(base64.b64decode(data["data"]))
            array: np.ndarray[Any, Any] = np.ndarray(data["shape"], data["dtype"], buffer)
            return array if tag == "array" else array[()]
        case "float":
            return float(data["value"])
        case "complex":
            return complex(*decode(data["value"], tensors))
        case "bytes":
            return base64.b64decode(data["value"])
        case "deque":
            return deque(decode(data["items"], tensors), data["maxlen"])
        case "defaultdict":
            factory = data["factory"]
            return defaultdict(None if factory is None else _FACTORIES[factory], _dict(data, tensors))
    raise TuneError(
        f"a state is read by the version that wrote it or a later one, got the tag {tag!r}; upgrade"
    )


def _dict(data: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    return {decode(key, tensors): decode(item, tensors) for key, item in data["items"]}


def _refused(path: str, what: str) -> TuneError:
    return TuneError(
        f"a stored state is made of tensors, NumPy arrays, plain values, containers, got {what} at {path}; "
        "leave it out of the state_dict, or turn it into one of these"
    )


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)
