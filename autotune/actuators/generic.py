"""Any attribute and any callable as a hyperparameter."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, TypeAlias, cast

from torch import Tensor

from ..hyperparameters import (
    Actuator,
    CategoricalHyperparameter,
    FloatHyperparameter,
    Hyperparameter,
    IntHyperparameter,
    V,
)
from ..records import TuneError, Value

Kind: TypeAlias = Literal["float", "log", "int", "categorical"]


def attribute(
    obj: Any,
    attribute: str,
    *,
    kind: Kind = "float",
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Value] | None = None,
    unit: str = "",
    name: str | None = None,
) -> Hyperparameter[Any]:
    """An attribute of any object; it starts at the value that it has.

    A tensor of one element (a buffer) is filled in place, so that nothing is compiled again.

    Args:
        obj: whose attribute it is.
        attribute: its name.
        kind: `float`, `log` (a float on a log scale), `int` or `categorical`.
        low: smallest value; needed unless categorical.
        high: largest value; needed unless categorical.
        choices: the values allowed; needed when categorical.
        unit: shown beside the value.
        name: unique within a run; the attribute's name unless given.

    Raises:
        TuneError: when there is no such attribute or it cannot be set, for bounds that do not fit the kind,
            or a start outside.
    """
    if not hasattr(obj, attribute):
        raise TuneError(f"{type(obj).__name__} has no attribute {attribute!r}; set it before it is tuned")
    place: Attribute[Any] = Attribute(obj, attribute)
    try:
        place.write(place.read())
    except Exception as error:
        raise TuneError(
            f"attribute {attribute!r} of {type(obj).__name__} must be one that can be set, but setting it to "
            f"what it holds raised {error!r}; use call() with functions that write and read it"
        ) from error
    return _hyperparameter(name or attribute, kind, low, high, choices, unit, place)


def call(
    name: str,
    *,
    write: Callable[[Any], object],
    read: Callable[[], Any],
    kind: Kind = "float",
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Value] | None = None,
    unit: str = "",
) -> Hyperparameter[Any]:
    """Anything that a pair of functions can write and read.

    Args:
        name: unique within a run.
        write: takes the new value; what it returns is not used.
        read: returns the value that is really held; called after each write too.
        kind: `float`, `log` (a float on a log scale), `int` or `categorical`.
        low: smallest value; needed unless categorical.
        high: largest value; needed unless categorical.
        choices: the values allowed; needed when categorical.
        unit: shown beside the value.

    Raises:
        TuneError: for bounds that do not fit the kind, or when what `read` returns lies outside.
    """
    return _hyperparameter(name, kind, low, high, choices, unit, Call(write, read))


class Attribute(Actuator[V]):
    """Holds the value in an attribute, looked up at every access."""

    def __init__(self, obj: Any, attribute: str) -> None:
        self.obj, self.attribute = obj, attribute

    @property
    def targets(self) -> frozenset[Hashable]:
        """The object and the attribute's name."""
        return frozenset({("attribute", id(self.obj), self.attribute)})

    def read(self) -> V:
        """The attribute, as a Python value."""
        held: Any = getattr(self.obj, self.attribute)
        value: Any = held.item() if isinstance(held, Tensor) else held  # sync: for a tensor on a device
        return cast("V", value)

    def write(self, value: V) -> V:
        """Set the attribute; a tensor is filled in place."""
        held = getattr(self.obj, self.attribute)
        if isinstance(held, Tensor):
            held.fill_(cast("float", value))
        else:
            setattr(self.obj, self.attribute, value)
        return self.read()


class Call(Actuator[V]):
    """Holds the value wherever two functions put it."""

    def __init__(self, write: Callable[[V], object], read: Callable[[], V]) -> None:
        self._write, self._read = write, read

    @property
    def targets(self) -> frozenset[Hashable]:
        """The function that writes."""
        return frozenset({("call", self._write)})

    def read(self) -> V:
        """What the function that reads returns."""
        return self._read()

    def write(self, value: V) -> V:
        """Call the function that writes, then read."""
        self._write(value)
        return self._read()


def _hyperparameter(
    name: str,
    kind: Kind,
    low: Any,
    high: Any,
    choices: Sequence[Value] | None,
    unit: str,
    actuator: Actuator[Any],
) -> Hyperparameter[Any]:
    if kind not in ("float", "log", "int", "categorical"):
        raise TuneError(f"{name}: kind is float, log, int or categorical, got {kind!r}")
    bounded, listed = low is not None and high is not None, choices is not None
    if (kind == "categorical") != listed or (kind != "categorical") != bounded:
        needs = "choices=[...] and no bounds" if kind == "categorical" else "low= and high= and no choices"
        raise TuneError(f"{name}: kind {kind!r} needs {needs}, got {low=}, {high=}, {choices=}")
    if choices is not None:
        return CategoricalHyperparameter(name, choices=choices, unit=unit, actuator=actuator)
    if kind == "int":
        return IntHyperparameter(name, low=low, high=high, unit=unit, actuator=actuator)
    return FloatHyperparameter(name, low=low, high=high, log=kind == "log", unit=unit, actuator=actuator)
