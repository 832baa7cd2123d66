"""The tuner round a simulated plant: the real engine, supervisor and panel, without model, disk or clock."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, cast

import torch

from ..checkpoints import CheckpointInfo
from ..clock import Clock
from ..controls import Controls
from ..engine import Engine, Every
from ..hyperparameters import Hyperparameter
from ..journal_tables import _to_json
from ..memory import Restored, Target
from ..panel import Panel
from ..records import (
    Action,
    Data,
    Decision,
    Observation,
    Outcome,
    Policy,
    Signal,
    SnapshotInfo,
    TuneError,
    action_to_json,
)
from ..sensors import Parameters, Sample, Sensor
from ..slots import Room
from ..snapshots import least_missed
from ..supervisor import Limits, Supervisor


class Plant(Protocol):
    """What a simulation steps: a training run in miniature."""

    @property
    def hyperparameters(self) -> Sequence[Hyperparameter[Any]]:
        """What may be adjusted; made once."""
        ...

    @property
    def signals(self) -> Sequence[str]:
        """Names of what `step` and `evaluate` return."""
        ...

    @property
    def cost(self) -> float:
        """What all steps so far have cost; 1 for a step at the hyperparameters of the start. Not rewound."""
        ...

    def step(self, batch: int) -> Mapping[str, float]:
        """Take one step on the batch of this number; the same batch has the same noise."""
        ...

    def evaluate(self) -> Mapping[str, float]:
        """Without noise and regularisation: `validation/loss`, `train/loss`, `generalization_gap`."""
        ...

    def capture(self) -> object:
        """The state; hyperparameters are none of it."""
        ...

    def restore(self, state: Any) -> None:
        """Take a state back, by copy."""
        ...


class Simulation:
    """Runs policies on a plant, as `AutoTuner` runs them on a training loop, in milliseconds.

    The boundary, the judgement and the order of things are the tuner's own (`Engine`, `Supervisor`, `Panel`);
    journal, snapshots and measurements lie in memory. Outcomes are not judged.

    Args:
        plant: what is stepped.
        policies: asked in this order.
        budget: the largest `spent`; None: not known to the policies, and `run` says how far.
        every: steps between two ticks.
        evaluate_every: steps between evaluations; None: 25 in the budget, or every 100.
        lag: ticks by which what `step` returns comes late, as from a GPU.
        capacity: snapshots in memory.
        limits: what the supervisor lets policies do.
        suggest: apply nothing.
        sensors: such as derive their signals from others, `ChangePoints` for one.

    Raises:
        TuneError: as `AutoTuner` does for policies that do not fit; for a sensor that derives nothing.
    """

    def __init__(
        self,
        plant: Plant,
        policies: Sequence[Policy] = (),
        *,
        budget: int | None = 2000,
        every: int = 10,
        evaluate_every: int | None = None,
        lag: int = 0,
        capacity: int = 6,
        limits: Limits | None = None,
        suggest: bool = False,
        sensors: Sequence[Sensor] = (),
    ) -> None:
        self.plant = plant
        self.controls = Controls(plant.hyperparameters)
        self.clock = Clock(budget)
        if isinstance(policies, Sequence):  # what is no policy, the panel refuses
            policies = [_Timed(p) if isinstance(p, Policy) else p for p in policies]
        self._instruments = _Instruments(lag, every, sensors)
        signals = frozenset([*plant.signals, *(name for sensor in sensors for name in sensor.signals)])
        self.panel = Panel(policies, signals, frozenset(self.controls))
        self.supervisor = Supervisor(self.controls, limits or Limits(), suggest, [p.name for p in policies])
        self.values: dict[str, list[tuple[int, int, float]]] = {}
        """(step, spent, value) of all that was ever measured, by name; `hp/NAME` too."""
        self._batch = 0
        self._every = every
        self._memory = _Memory(self, capacity)
        self._journal = _Journal(self.values)
        parts: dict[str, Any] = {
            "evaluation": plant.evaluate,
            "instruments": self._instruments,
            "memory": self._memory,
            "journal": self._journal,
            "outcomes": _NoOutcomes(),
        }
        self.engine = Engine(
            clock=self.clock,
            every=Every(
                sample=every,
                evaluate=evaluate_every or max(1, (budget or 2500) // 25),
                snapshot=min(max((budget or 4000) // 40, 10), 100),
                checkpoint=None,
            ),
            controls=self.controls,
            panel=self.panel,
            supervisor=self.supervisor,
            **parts,
        )

    def run(self, steps: int | None = None, cost: float = math.inf) -> Self:
        """Train until `spent` has grown by `steps`, the plant has cost `cost`, or it is over.

        Raises:
            TuneError: when nothing says where it ends.
        """
        if steps is None and self.clock.budget is None and cost == math.inf:
            raise TuneError("a run without a budget ends after steps=... or cost=..., got neither")
        end = math.inf if steps is None else self.clock.spent + steps
        if not self._memory.ring:
            self.engine.begin()
        while not (self.clock.over or self.engine.stopping or self.clock.spent >= end):
            if self.plant.cost >= cost:
                break
            measured = self.plant.step(self._batch)
            self._batch += 1
            self.clock.advance()
            step, spent = self.clock.step, self.clock.spent
            sampled = step % self._every == 0 or step == 1
            for name, value in measured.items():
                if sampled or name == "loss":
                    self._instruments.report(name, value, step, spent)
            self.engine.boundary()
        return self

    @property
    def decisions(self) -> Sequence[Decision]:
        """All of them, oldest first."""
        return tuple(self._journal.decided)

    @property
    def benched(self) -> Mapping[str, str]:
        """Policies that broke the rules, and why."""
        return self.panel.benched

    @property
    def signals(self) -> Mapping[str, Signal]:
        """What was measured on the live branch."""
        return self.engine.history.signals()

    @property
    def decide_seconds(self) -> Mapping[str, Sequence[float]]:
        """How long each call of `decide` took, by policy."""
        return {p.name: p.seconds for p in self.panel.policies if isinstance(p, _Timed)}

    def __getitem__(self, name: str) -> Any:
        """The present value of a hyperparameter."""
        return self.controls[name]()

    def submit(self, action: Action, source: str) -> Decision:
        """Do what a person (`human:NAME`) wants, at this boundary."""
        return self.engine.executor.submit(action, source).decision

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed simulation goes on from, to the bit; the policies' memory too."""
        return copy.deepcopy(
            {
                "plant": self.plant.capture(),
                "batch": self._batch,
                "clock": dataclasses.asdict(self.clock),
                "controls": self.controls.state_dict(),
                "history": self.engine.history.state_dict(),
                "late": self._instruments.queue,
                "instruments": self._instruments.state_dict(),
                "panel": self.panel.state_dict(),
                "supervisor": self.supervisor.state_dict(),
                "ring": self._memory.ring,
                "decisions": self._journal.decided,
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict` of another simulation of the same plant and policies."""
        state = copy.deepcopy(dict(state))
        self.plant.restore(state["plant"])
        self._batch = state["batch"]
        for name, value in state["clock"].items():
            setattr(self.clock, name, value)
        self.controls.load_state_dict(state["controls"])
        self.engine.history.load_state_dict(state["history"])
        self._instruments.load_state_dict(state["instruments"])
        self._instruments.queue = state["late"]
        self.panel.load_state_dict(state["panel"])
        self.supervisor.load_state_dict(state["supervisor"])
        self._memory.ring = state["ring"]
        self._journal.decided[:] = state["decisions"]
        self.engine.executor.recalled = state["decisions"]
        self.engine.executor.last_id = len(state["decisions"])
        self.engine._stand_at(self.clock.step)


@dataclasses.dataclass(slots=True)
class _State:
    """A state that can be gone back to, in memory or (with a name) as if on disk."""

    info: SnapshotInfo
    batch: int
    plant: Any
    kept: dict[str, Any]
    pinned: bool = False
    score: float | None = None


class _Timed:
    """A policy whose `decide` is timed."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.seconds: list[float] = []
        self.name, self.requires, self.controls = policy.name, policy.requires, policy.controls
        self.optional = getattr(policy, "optional", False)
        self.state_dict = policy.state_dict
        self.load_state_dict = policy.load_state_dict

    def decide(self, observation: Observation) -> Sequence[Action]:
        start = time.perf_counter()
        actions = self._policy.decide(observation)
        self.seconds.append(time.perf_counter() - start)
        return actions


class _Instruments:
    """Hands over what was reported, `lag` ticks late; a wait brings everything."""

    def __init__(self, lag: int, every: int, sensors: Sequence[Sensor]) -> None:
        self.queue: list[list[Sample]] = [[] for _ in range(lag + 1)]
        self.derives = bool(sensors)
        self._every = every
        self._sensors = sensors
        for sensor in sensors:
            if not sensor.derives:
                raise TuneError(
                    f"a simulation has sensors that derive signals from others, got {type(sensor).__name__}; "
                    "let the plant measure it"
                )
            sensor.prepare(Parameters({"plant": [torch.zeros(1)]}))

    def report(self, name: str, value: float, step: int, spent: int) -> None:
        self.queue[-1].append(Sample(step, spent, name, float(value)))

    def collect(self, wait: bool) -> list[Sample]:
        if wait:
            samples = [sample for tick in self.queue for sample in tick]
            self.queue = [[] for _ in self.queue]
            return samples
        self.queue.append([])
        return self.queue.pop(0)

    def derive(self, signals: Mapping[str, Signal]) -> Iterator[Sample]:
        for sensor in self._sensors:
            for step, spent, (names, values) in sensor.derive(signals, self._every):
                yield from (Sample(step, spent, n, float(v)) for n, v in zip(names, values, strict=True))

    def exclude(self, seconds: float) -> None:
        """Nothing is timed."""

    def state_dict(self) -> dict[str, Any]:
        return {"sensors": [sensor.state_dict() for sensor in self._sensors]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.queue = [[] for _ in self.queue]
        for sensor, kept in zip(self._sensors, state["sensors"], strict=True):
            sensor.load_state_dict(kept)


class _Memory:
    """States in memory; checkpoints are kept as `CheckpointStore` does: the last two, the best, the named."""

    movable = True

    def __init__(self, simulation: Simulation, capacity: int) -> None:
        self.ring: list[_State] = []
        self._simulation = simulation
        self._capacity = capacity

    @property
    def snapshots(self) -> list[SnapshotInfo]:
        return [state.info for state in self.ring if state.info.name is None]

    def snapshot(self, kept: dict[str, Any]) -> None:
        if not self._capacity:
            return
        clock = self._simulation.clock
        self.ring = [s for s in self.ring if s.info.name is not None or s.info.step < clock.step]
        steps = [info.step for info in self.snapshots]
        if len(steps) >= self._capacity:
            oldest = self.snapshots[least_missed(steps, clock.step)]
            self.ring = [state for state in self.ring if state.info != oldest]
        self._keep(None, kept)

    def checkpoint(
        self, name: str, kept: dict[str, Any], *, pinned: bool, score: float | None
    ) -> CheckpointInfo:
        self._keep(name, kept, pinned, score)
        saved = [state for state in self.ring if state.info.name is not None]
        scored = [state for state in saved if state.score is not None and math.isfinite(state.score)]
        best = min(scored, key=lambda state: state.score or 0.0, default=None)
        dropped = [s for s in saved[:-2] if not s.pinned and s is not best]
        self.ring = [state for state in self.ring if all(state is not d for d in dropped)]
        clock = self._simulation.clock
        return CheckpointInfo(name, clock.step, clock.spent, Path(), 0, pinned, score, 0.0)

    def has(self, name: str) -> bool:
        return any(state.info.name == name for state in self.ring)

    def infos(self) -> list[SnapshotInfo]:
        live = [s.info for s in self.ring if self._simulation.clock.live(s.info.step, s.info.spent)]
        return sorted(live, key=lambda info: (info.step, info.spent, info.name is None))

    def find(self, to: int | str) -> SnapshotInfo:
        infos = [s.info for s in self.ring if s.info.name == to] if isinstance(to, str) else self.infos()
        found = [info for info in infos if isinstance(to, str) or info.step <= to]
        if not found:
            raise TuneError(f"there is no state {to!r} to rewind to; see Observation.snapshots")
        return found[-1]

    def prepare(self, info: SnapshotInfo, data: Data) -> Target:
        state: Any = next(state for state in self.ring if state.info == info)
        position: Any = None  # it is in the state
        return Target(info, data, position, state.kept, state)

    def restore(self, target: Target, rest: Callable[[Mapping[str, Any]], None]) -> Restored:
        state: Any = target.state
        self._simulation.plant.restore(state.plant)
        if target.data == "replay":
            self._simulation._batch = state.batch
        rest(copy.deepcopy(state.kept))
        return Restored(target.info.step, "bitwise", "simulated", 0.0, 0, "memory")

    def room(self, least: int, most: int, known: Room | None) -> Room:
        return known or Room(None, "the simulation", min(most, max(least, self._capacity)), 0)

    def trim(self) -> None:
        """There is nothing to give back."""

    def hold(self, kept: dict[str, Any], room: Room | None) -> Target:
        clock, position = self._simulation.clock, cast(Any, None)
        info = SnapshotInfo(clock.step, clock.spent)
        plant = self._simulation.plant.capture()
        state: Any = _State(info, self._simulation._batch, plant, copy.deepcopy(kept))
        return Target(info, "replay", position, state.kept, state)

    def release(self, target: Target) -> None:
        """It goes with its last reference."""

    def forget_abandoned(self) -> None:
        live = self._simulation.clock.live
        self.ring = [s for s in self.ring if s.info.name is not None or live(s.info.step, s.info.spent)]

    def _keep(
        self, name: str | None, kept: dict[str, Any], pinned: bool = False, score: float | None = None
    ) -> None:
        clock, plant = self._simulation.clock, self._simulation.plant
        info = SnapshotInfo(clock.step, clock.spent, name)
        state = _State(info, self._simulation._batch, plant.capture(), copy.deepcopy(kept), pinned, score)
        self.ring.append(state)


class _Journal:
    """Numbers decisions and keeps them."""

    def __init__(self, values: dict[str, list[tuple[int, int, float]]]) -> None:
        self.decided: list[Decision] = []
        self._values = values

    def decide(self, **fields: Any) -> Decision:
        _to_json(action_to_json(fields["action"]))  # raises for what the real one cannot store
        self.decided.append(Decision(1 + len(self.decided), 0.0, **fields))
        return self.decided[-1]

    def settle(self, decision: Decision, live: Mapping[str, Any] | None = None) -> None:
        self.decided[decision.id - 1] = decision

    def decision(self, id: int) -> Decision:
        if not 0 < id <= len(self.decided):
            raise TuneError(f"a decision is named by its id, got {id}, which this run has not made")
        return self.decided[id - 1]

    def decisions(self, after: int = 0) -> list[Decision]:
        return self.decided[after:]

    def set_meta(self, key: str, value: Any) -> None:
        """Nobody looks in from outside."""

    def metric(self, name: str, value: float, step: int, spent: int, branch: int) -> None:
        self._values.setdefault(name, []).append((step, spent, value))


class _NoOutcomes:
    """Nobody reads outcomes here, and they are the slowest part."""

    def watch(self, decision: Decision, signals: Mapping[str, Signal]) -> None:
        """Nothing."""

    def due(self, *_: Any) -> list[Outcome]:
        return []

    def state_dict(self) -> dict[str, Any]:
        return {}
