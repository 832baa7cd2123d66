"""The hyperparameters of a run as one unit: states, writes, running ramps, and what a snapshot keeps."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from .hyperparameters import Hyperparameter
from .ramps import Running, RunningRamp, RunningSchedule, running_from_json
from .records import HUMAN, POSITIVE_SHAPES, HyperparameterState, Ramp, Schedule, TuneError, Value

POLICY = "policy"

Held: TypeAlias = Mapping[str, tuple[Value, Running | None]]


class Stand(NamedTuple):
    """How one hyperparameter stands."""

    value: Value
    owner: str
    ramp: Running | None
    pinned_until: int | None
    """The `spent` at which it is released by itself."""


class Controls(Mapping[str, Hyperparameter[Any]]):
    """Hyperparameters by name, each with one owner and at most one running ramp.

    Raises:
        TuneError: when two have one name, or write to one place of the plant.
    """

    def __init__(self, hyperparameters: Sequence[Hyperparameter[Any]]) -> None:
        self._parameters: dict[str, Hyperparameter[Any]] = {}
        self._ramps: dict[str, Running] = {}
        self._pins: dict[str, int] = {}
        targets: dict[Hashable, str] = {}
        for parameter in hyperparameters:
            if not isinstance(parameter, Hyperparameter):
                raise TuneError(
                    f"hyperparameters are Hyperparameter objects, got {parameter!r}; "
                    "see autotune.actuators for functions that return them"
                )
            if parameter.name in self._parameters:
                raise TuneError(
                    f"two hyperparameters are called {parameter.name!r}; give one of them name=..."
                )
            for target in parameter.actuator.targets:
                if target in targets:
                    raise TuneError(
                        "each place of the plant has one owner, but "
                        f"{targets[target]!r} and {parameter.name!r} both write {target!r}; drop one"
                    )
                targets[target] = parameter.name
            self._parameters[parameter.name] = parameter

    def __getitem__(self, name: str) -> Hyperparameter[Any]:
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    @property
    def ramps(self) -> Mapping[str, Running]:
        """The ramps that are running."""
        return self._ramps

    @property
    def pins(self) -> Mapping[str, int]:
        """The `spent` at which what is pinned is released by itself."""
        return self._pins

    def attach(self) -> None:
        """Let the actuators register their hooks."""
        for parameter in self.values():
            parameter.actuator.attach()

    def detach(self) -> None:
        """Take the actuators' hooks away."""
        for parameter in self.values():
            parameter.actuator.detach()

    def states(self) -> dict[str, HyperparameterState]:
        """What policies see."""
        return {
            name: parameter.state(self._ramps[name].end if name in self._ramps else None)
            for name, parameter in self._parameters.items()
        }

    def write(self, name: str, value: Value) -> None:
        """Write `value`; a running ramp ends. A write that fails leaves the old value."""
        parameter = self[name]
        before = parameter()
        try:
            parameter.write(value)
        except Exception:
            with contextlib.suppress(Exception):  # the first failure is the one to report
                parameter.actuator.write(before)
            raise
        self._ramps.pop(name, None)

    def ramp(self, action: Ramp, source: str, step: int) -> None:
        """Start a ramp from the present value; it replaces the one that is running.

        Raises:
            TuneError: for an exponential or inverse square root ramp from a value that is not positive.
        """
        first = float(self[action.name]())
        if action.shape in POSITIVE_SHAPES and first <= 0:
            raise TuneError(
                f"a ramp of shape {action.shape} needs a positive start, got {first!r} for {action.name}; "
                "use linear"
            )
        self._ramps[action.name] = RunningRamp(
            source, step, action.steps, first, float(action.value), action.shape
        )

    def schedule(self, action: Schedule, source: str, step: int) -> None:
        """Start a schedule from the present value; it replaces the ramp that is running."""
        running = RunningSchedule.of(action, source, step, float(self[action.name]()))
        self._ramps[action.name] = running

    def hold(self, name: str, owner: str, until: int | None = None) -> None:
        """Give a hyperparameter to a person, until it is released or `spent` comes to `until`."""
        self[name].owner = owner
        self._pins.pop(name, None)
        if until is not None:
            self._pins[name] = until

    def pin(self, name: str, owner: str, until: int | None) -> None:
        """Hold the present value; a running ramp ends."""
        self._ramps.pop(name, None)
        self.hold(name, owner, until)

    def advance(self, step: int) -> list[tuple[str, str, Exception]]:
        """Write what the running ramps say for the step that follows `step`.

        Returns:
            The ramps that ended because a write failed: hyperparameter, who started it, and what failed.
        """
        failed = []
        for name, ramp in list(self._ramps.items()):
            parameter = self[name]
            before = parameter()
            try:
                parameter.write(parameter.clamp(ramp.at(step)))
            except Exception as error:
                with contextlib.suppress(Exception):
                    parameter.actuator.write(before)
                failed.append((name, ramp.source, error))
                del self._ramps[name]
            else:
                if step >= ramp.end:
                    del self._ramps[name]
        return failed

    def release(self, name: str) -> None:
        """Give a hyperparameter back to the policies at its present value; a person's ramp ends."""
        self[name].owner = POLICY
        self._ramps.pop(name, None)
        self._pins.pop(name, None)

    def stand(self, name: str) -> Stand:
        """How it stands, for `put_back`."""
        parameter = self[name]
        return Stand(parameter(), parameter.owner, self._ramps.get(name), self._pins.get(name))

    def put_back(self, name: str, stand: Stand, step: int) -> None:
        """Let it stand so again; a ramp is where it would be by now."""
        ramp = stand.ramp
        self.write(name, stand.value if ramp is None else self[name].clamp(ramp.at(step)))
        if ramp is not None and step < ramp.end:
            self._ramps[name] = ramp
        self.hold(name, stand.owner, stand.pinned_until)

    def state_dict(self) -> dict[str, Any]:
        """Values, owners, ramps and pins, as plain JSON values."""
        return {
            "values": {name: parameter() for name, parameter in self.items()},
            "owners": {name: parameter.owner for name, parameter in self.items()},
            "ramps": {name: dataclasses.asdict(ramp) for name, ramp in self._ramps.items()},
            "pins": dict(self._pins),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take all of it back: a resumed run is as it was."""
        for name, owner in state["owners"].items():
            self[name].owner = owner
        self._pins = dict(state.get("pins", {}))
        self._restore(state, set(self))

    def rewind(self, state: Mapping[str, Any], held: Held, step: int) -> None:
        """Take values and ramps back, but neither owners nor what people hold.

        Args:
            state: what `state_dict` returned at the time of the snapshot.
            held: `held()`, taken before the plant was restored; a person's ramp goes on from where it was.
            step: that the run goes back to.
        """
        self._restore(state, set(self) - set(held))
        for name, (value, ramp) in held.items():
            if ramp is not None:
                self._ramps[name] = ramp.moved(step)
            self._write(name, value)

    def held(self, step: int) -> Held:
        """What people hold at `step`: values, and running ramps as if it were step 0."""
        held: dict[str, tuple[Value, Running | None]] = {}
        for name, parameter in self.items():
            ramp = self._ramps.get(name)
            value = parameter() if ramp is None else parameter.clamp(ramp.at(step))  # it may lag a boundary
            going = ramp.moved(-step) if ramp is not None and step < ramp.end else None
            if parameter.owner != POLICY:
                held[name] = value, going
        return held

    def _restore(self, state: Mapping[str, Any], names: set[str]) -> None:
        for name in names:
            self._write(name, state["values"][name])
            self._ramps.pop(name, None)
            if name in state["ramps"]:
                ramp = running_from_json(state["ramps"][name])
                if not ramp.source.startswith(HUMAN) or self[name].owner == ramp.source:
                    self._ramps[name] = ramp

    def _write(self, name: str, value: Value) -> None:
        # Only where it differs: param groups are back already, a ratio written again may move the last bit.
        if self[name]() != value:
            self[name].actuator.write(value)
