"""Hyperparameters: a name, bounds, a unit, one owner, and the actuator that holds the value in the plant."""

from __future__ import annotations

import abc
import math
import numbers
import posixpath
from collections.abc import Hashable, Sequence
from typing import Any, Generic, Literal, TypeVar

from .records import HyperparameterState, TuneError, Value

V = TypeVar("V", bound=Value)

LONGEST_NAME = 200
"""Characters; MLflow allows 250 for the whole metric name."""
FLOAT32_ROUNDING = 2.0**-23
"""Relative. A value that the plant keeps in float32 may come back this far beyond its bound."""


class Actuator(abc.ABC, Generic[V]):
    """Reads and writes one value of the plant.

    `attach` and `detach` are called by the tuner when it starts and closes; actuators that work through
    optimizer hooks register them there, after the sensors' hooks.
    """

    @property
    def targets(self) -> frozenset[Hashable]:
        """The places that are written now, as hashable keys.

        Two hyperparameters that share one would have two owners, which the tuner refuses.
        """
        return frozenset()

    @property
    def gain(self) -> float:
        """See `HyperparameterState.gain`."""
        return 1.0

    @abc.abstractmethod
    def read(self) -> V:
        """The value that the plant holds."""

    @abc.abstractmethod
    def write(self, value: V) -> V:
        """Write `value`; returns the value that the plant really holds afterwards, read back."""

    def attach(self) -> None:
        """Called once when a tuner takes the hyperparameter."""

    def detach(self) -> None:
        """Called once when the tuner closes; undoes `attach`."""


class Held(Actuator[V]):
    """Holds a value that lives nowhere else: the user's loop reads it by calling the hyperparameter."""

    def __init__(self, value: V) -> None:
        self._value = value

    def read(self) -> V:
        """The value."""
        return self._value

    def write(self, value: V) -> V:
        """Replace the value."""
        self._value = value
        return value


class Hyperparameter(abc.ABC, Generic[V]):
    """What the four kinds share. Called, it returns its present value.

    `owner` says who may change it: `policy` (any policy, within the supervisor's limits) or
    `human:NAME`, whose value stays until it is released.
    """

    kind: Literal["float", "log", "int", "categorical"]

    def __init__(self, name: str, actuator: Actuator[V], unit: str = "") -> None:
        if not name or not all(c.isalnum() or c in "_-./ " for c in name):
            raise TuneError(
                "a hyperparameter's name has letters, digits, spaces and _ - . / only (MLflow's rule), "
                f"got {name!r}"
            )
        if posixpath.normpath(f"hp/{name}") != f"hp/{name}" or len(name) > LONGEST_NAME:
            raise TuneError(
                f"a hyperparameter's name is a path of at most {LONGEST_NAME} characters, without empty, '.' "
                f"or '..' parts (MLflow's rule), got {name!r}; use a name such as 'lr/0'"
            )
        self.name = name
        self.actuator = actuator
        self.unit = unit
        self.owner = "policy"

    def __call__(self) -> V:
        """The present value, read from the plant."""
        return self.actuator.read()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self()!r})"

    def write(self, value: V) -> V:
        """Write a value that `check` accepts; returns what the plant holds afterwards."""
        return self.actuator.write(self.check(value))

    @abc.abstractmethod
    def check(self, value: Any) -> V:
        """Return `value` in this hyperparameter's type.

        Raises:
            TuneError: when it is of the wrong type, not finite, or out of bounds.
        """

    @abc.abstractmethod
    def clamp(self, value: Any) -> V:
        """The nearest value that `check` accepts; raises `TuneError` where there is none (NaN, a type)."""

    @abc.abstractmethod
    def state(self, ramp_until: int | None = None) -> HyperparameterState:
        """The record that policies see."""


class FloatHyperparameter(Hyperparameter[float]):
    """A real number in [low, high]; with `log=True` policies move it by factors, and low must be positive.

    Args:
        name: unique within a run; its MLflow metric is `hp/NAME`.
        value: where it starts; not used when an `actuator` is given, which is read instead.
        low: smallest value allowed.
        high: largest value allowed.
        log: whether the scale is logarithmic.
        unit: shown beside the value.
        actuator: where the value lives; without one this object holds it, and the loop reads it by calling.

    Raises:
        TuneError: for bounds that are inverted, not finite or (log scale) not positive, or a value outside.
    """

    def __init__(
        self,
        name: str,
        value: float | None = None,
        *,
        low: float,
        high: float,
        log: bool = False,
        unit: str = "",
        actuator: Actuator[float] | None = None,
    ) -> None:
        self.kind = "log" if log else "float"
        self.low, self.high = _bounds(name, low, high)
        if log and self.low <= 0:
            raise TuneError(
                f"{name}: a log scale needs low > 0, got low={low}; use log=False or a small positive low"
            )
        super().__init__(name, _actuator(name, value, actuator), unit)
        start = self.check(self())
        if isinstance(self.actuator, Held):
            self.actuator.write(start)

    def check(self, value: Any) -> float:
        """See `Hyperparameter.check`."""
        number = self._finite(value)
        nearest = min(max(number, self.low), self.high)
        if not math.isclose(number, nearest, rel_tol=FLOAT32_ROUNDING):
            raise TuneError(
                f"{self.name} must lie in [{self.low:g}, {self.high:g}], got {number!r}; "
                "widen low/high where the hyperparameter is made, or give another value"
            )
        return nearest

    def clamp(self, value: Any) -> float:
        """See `Hyperparameter.clamp`."""
        return min(max(self._finite(value), self.low), self.high)

    def state(self, ramp_until: int | None = None) -> HyperparameterState:
        """See `Hyperparameter.state`."""
        return HyperparameterState(
            name=self.name,
            kind=self.kind,
            value=self(),
            owner=self.owner,
            low=self.low,
            high=self.high,
            unit=self.unit,
            ramp_until=ramp_until,
            gain=self.actuator.gain,
        )

    def _finite(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TuneError(f"{self.name} is a number, got {value!r} of type {type(value).__name__}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise TuneError(f"{self.name} must be finite, got {value!r}")
        return number


class IntHyperparameter(Hyperparameter[int]):
    """A whole number in [low, high]. Arguments and errors as for `FloatHyperparameter`."""

    kind = "int"

    def __init__(
        self,
        name: str,
        value: int | None = None,
        *,
        low: int,
        high: int,
        unit: str = "",
        actuator: Actuator[int] | None = None,
    ) -> None:
        for bound in (low, high):
            if isinstance(bound, bool) or not isinstance(bound, int):
                raise TuneError(
                    f"{name}: bounds of an integer are whole numbers, got low={low!r}, high={high!r}"
                )
        _bounds(name, low, high)
        self.low, self.high = low, high
        super().__init__(name, _actuator(name, value, actuator), unit)
        start = self.check(self())
        if isinstance(self.actuator, Held):
            self.actuator.write(start)

    def check(self, value: Any) -> int:
        """See `Hyperparameter.check`."""
        number = self._whole(value)
        if not self.low <= number <= self.high:
            raise TuneError(
                f"{self.name} must lie in [{self.low}, {self.high}], got {number!r}; "
                "widen low/high where the hyperparameter is made, or give another value"
            )
        return number

    def clamp(self, value: Any) -> int:
        """The nearest whole number within the bounds; see `Hyperparameter.clamp`."""
        fraction = isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral)
        if fraction and math.isfinite(value):
            value = round(value)
        return min(max(self._whole(value), self.low), self.high)

    def state(self, ramp_until: int | None = None) -> HyperparameterState:
        """See `Hyperparameter.state`."""
        return HyperparameterState(
            self.name, self.kind, self(), self.owner, self.low, self.high, (), self.unit, ramp_until
        )

    def _whole(self, value: Any) -> int:
        whole = not isinstance(value, bool) and isinstance(value, numbers.Real) and value % 1 == 0
        if not whole:
            raise TuneError(f"{self.name} is a whole number, got {value!r} of type {type(value).__name__}")
        return int(value)


class CategoricalHyperparameter(Hyperparameter[Value]):
    """One of two or more `choices` (strings, numbers or booleans).

    Raises:
        TuneError: for fewer than two choices, repeated choices, or a value that is none of them.
    """

    kind = "categorical"

    def __init__(
        self,
        name: str,
        value: Value | None = None,
        *,
        choices: Sequence[Value],
        unit: str = "",
        actuator: Actuator[Value] | None = None,
    ) -> None:
        self.choices = tuple(choices)
        if len(self.choices) < 2 or len(set(self.choices)) != len(self.choices):
            raise TuneError(f"{name}: choices are two or more different values, got {self.choices!r}")
        super().__init__(name, _actuator(name, value, actuator), unit)
        self.check(self())

    def check(self, value: Any) -> Value:
        """See `Hyperparameter.check`."""
        for choice in self.choices:
            if choice == value and type(choice) is type(value):
                return choice
        raise TuneError(f"{self.name} must be one of {', '.join(map(repr, self.choices))}, got {value!r}")

    def clamp(self, value: Any) -> Value:
        """A choice has no nearest neighbour: the same as `check`."""
        return self.check(value)

    def state(self, ramp_until: int | None = None) -> HyperparameterState:
        """See `Hyperparameter.state`."""
        return HyperparameterState(
            self.name, self.kind, self(), self.owner, None, None, self.choices, self.unit, None
        )


def _bounds(name: str, low: Any, high: Any) -> tuple[float, float]:
    if not (isinstance(low, numbers.Real) and isinstance(high, numbers.Real)):
        raise TuneError(f"{name}: bounds are numbers, got low={low!r}, high={high!r}")
    if not (math.isfinite(low) and math.isfinite(high)):
        raise TuneError(f"{name}: bounds must be finite, got low={low}, high={high}")
    if not low < high:
        raise TuneError(f"{name}: low must be below high, got low={low}, high={high}")
    return float(low), float(high)


def _actuator(name: str, value: V | None, actuator: Actuator[V] | None) -> Actuator[V]:
    if (value is None) == (actuator is None):
        raise TuneError(
            f"{name} needs either a start value (the loop reads it by calling the hyperparameter) or an "
            f"actuator (which is read), got value={value!r}, actuator={actuator!r}"
        )
    if actuator is not None:
        return actuator
    assert value is not None
    return Held(value)
