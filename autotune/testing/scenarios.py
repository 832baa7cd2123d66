"""Runs in which a policy is watched: plants of many kinds, fitted to what the policy needs."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..hyperparameters import FloatHyperparameter, Hyperparameter, IntHyperparameter
from ..records import Action, Decision, Observation, Policy, Ramp, Release, Rewind, Set, Signal, Suggest
from .simulation import Plant, Simulation
from .training import Task, TrainingPlant

STEPS, EVERY = 600, 10

MakePolicy = Callable[[], Policy]
MakePlant = Callable[[], Plant]


@dataclass(frozen=True, slots=True)
class Tick:
    """What a policy was shown once, and what it asked for."""

    observation: Observation
    actions: tuple[Action, ...]


class Watched:
    """A policy, all that it was shown and asked for. What it raises ends its part in the run, and is kept."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.name, self.requires, self.controls = policy.name, policy.requires, policy.controls
        self.decisions: Sequence[Decision] = ()
        """Of the run, of every source."""
        self.ticks: list[Tick] = []
        self.error: Exception | None = None
        self.unasked: set[str] = set()
        """Signals that it took for granted and does not require."""

    def decide(self, observation: Observation) -> Sequence[Action]:
        """Ask the policy; it gets arrays that can be written, so that a fault shows as what it is."""
        if self.error is not None:
            return ()
        shown = copied(observation)
        try:
            actions = tuple(self.policy.decide(shown))
            if any(not isinstance(action, Action) for action in actions):
                raise TypeError(f"decide returns a sequence of actions, got {actions!r}")
        except Exception as error:
            self.error, actions = error, ()
        assert isinstance(shown.signals, Signals)
        self.unasked |= shown.signals.granted - set(self.requires)
        self.ticks.append(Tick(observation, actions))
        return actions

    def state_dict(self) -> dict[str, Any]:
        """The policy's."""
        return self.policy.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Into the policy."""
        self.policy.load_state_dict(state)

    @property
    def acted(self) -> bool:
        """Whether it asked for anything."""
        return any(tick.actions for tick in self.ticks)

    @property
    def log(self) -> list[str]:
        """Every action with the clocks, as text."""
        return [
            f"{action!r} at step {tick.observation.step}, spent {tick.observation.spent}"
            for tick in self.ticks
            for action in tick.actions
        ]


class Signals(Mapping[str, Signal]):
    """Signals as copies, and which of them were taken for granted: read by [] without asking first."""

    def __init__(self, signals: Mapping[str, Signal]) -> None:
        self._signals = {
            name: Signal(s.step.copy(), s.spent.copy(), s.value.copy()) for name, s in signals.items()
        }
        self._asked: set[str] = set()
        self.granted: set[str] = set()

    def __getitem__(self, name: str) -> Signal:
        if name not in self._asked:
            self.granted.add(name)
        return self._signals[name]

    def __contains__(self, name: object) -> bool:
        self._asked.add(str(name))
        return name in self._signals

    def get(self, name: str, default: Any = None) -> Any:
        """As of a dict."""
        return self._signals.get(name, default)

    def __iter__(self) -> Iterator[str]:
        self._asked |= self._signals.keys()
        return iter(self._signals)

    def __len__(self) -> int:
        return len(self._signals)


def copied(observation: Observation) -> Observation:
    """The observation with containers and arrays of its own."""
    return replace(
        observation,
        hyperparameters=dict(observation.hyperparameters),
        signals=Signals(observation.signals),
        snapshots=list(observation.snapshots),
        decisions=list(observation.decisions),
    )


def changes(action: Action) -> Sequence[Set | Ramp | Release]:
    """What an action does, or advises, to hyperparameters."""
    if isinstance(action, Rewind):
        return action.then
    if isinstance(action, Suggest):
        return () if action.action is None else (action.action,)
    return (action,) if isinstance(action, Set | Ramp | Release) else ()


def run(
    policy: Policy,
    plant: Plant,
    *,
    others: Sequence[Policy] = (),
    between: Callable[[Simulation], object] = lambda simulation: None,
    budget: int | None = STEPS,
    **arguments: Any,
) -> Watched:
    """Watch a policy for `STEPS` steps.

    Args:
        policy: is asked last.
        plant: what it runs on.
        others: asked before it.
        between: called before the first step, and between two ticks.
        budget: as the policies know it.
        **arguments: for `Simulation`.
    """
    watched = Watched(policy)
    simulation = Simulation(plant, [*others, watched], budget=budget, every=EVERY, **arguments)
    between(simulation)
    while simulation.clock.spent < STEPS and not simulation.engine.stopping:
        simulation.run(EVERY)
        between(simulation)
    watched.decisions = simulation.decisions
    return watched


def fed(policy: Policy, ticks: Sequence[Tick]) -> Watched:
    """Show a policy what another one was shown."""
    watched = Watched(policy)
    for tick in ticks:
        watched.decide(tick.observation)
    return watched


# --- plants ------------------------------------------------------------------------------------------------


def plants(policy: Policy, plant: MakePlant | None = None) -> dict[str, MakePlant]:
    """Plants on which the policy can run, by what they are; only `plant`, where it is given."""
    if plant is not None:
        return {"the plant given": lambda: Fitted(plant(), policy)}
    task = Task(
        optimizer="adam",
        rate=0.02,
        pretrained=0.3 if "frozen_layers" in policy.controls else None,
        long=256 if "sequence_length" in policy.controls else 0,
    )
    tasks = {
        "a healthy run": task,
        "a run whose rate is far too high": replace(task, optimizer="sgd", rate=30.0),
        "a run whose rate is far too low": replace(task, rate=1e-4),
        "a run with corrupted batches": replace(task, burst=(300, 330)),
        "a run that overfits": replace(task, overfit=0.5, floor=0.002, loss_noise=0.3),
    }
    return {what: lambda t=t: Fitted(TrainingPlant(t), policy) for what, t in tasks.items()}  # type: ignore[misc]


class Fitted:
    """A plant with all that a policy names.

    A hyperparameter that the plant lacks is there and changes nothing: it is like the plant's own of the
    name before the slash (`lr/head` like `lr`), or else a number that starts at 0.5, from 0.01 to 1. A signal
    that the plant lacks falls from 2 to 1 within some 500 steps, with noise of 10 %.

    Args:
        plant: what is completed.
        policy: whose `requires` and `controls` are there.
        alone: whether all else is hidden.
    """

    def __init__(self, plant: Plant, policy: Policy, alone: bool = False) -> None:
        own = {parameter.name: parameter for parameter in plant.hyperparameters}
        self._plant = plant
        self._invented = [name for name in policy.requires if name not in plant.signals]
        self._batch = 0
        names = [*own, *(name for name in policy.controls if name not in own)]
        signals = [*plant.signals, *self._invented]
        self.signals = [name for name in signals if not alone or name in policy.requires]
        self.hyperparameters = [
            own[name] if name in own else _stand_in(name, own.get(name.split("/")[0]))
            for name in names
            if not alone or name in policy.controls
        ]

    @property
    def cost(self) -> float:
        """See `Plant.cost`."""
        return self._plant.cost

    def step(self, batch: int) -> Mapping[str, float]:
        """See `Plant.step`."""
        self._batch = batch
        values = dict(self._plant.step(batch))
        for name in self._invented:
            noise = np.random.default_rng((zlib.crc32(name.encode()), batch)).standard_normal()
            values[name] = float((1 + np.exp(-batch / 200)) * np.exp(0.1 * noise))
        return {name: value for name, value in values.items() if name in self.signals}

    def evaluate(self) -> Mapping[str, float]:
        """See `Plant.evaluate`."""
        return {name: value for name, value in self._plant.evaluate().items() if name in self.signals}

    def capture(self) -> object:
        """See `Plant.capture`."""
        return self._plant.capture()

    def restore(self, state: Any) -> None:
        """See `Plant.restore`."""
        self._plant.restore(state)


class Broken(Fitted):
    """A plant all of whose values are lost at times, and at last for ever: NaN, and infinities."""

    LOST = (
        (0, 30, np.nan),
        (100, 150, np.nan),
        (200, 230, np.inf),
        (300, 310, -np.inf),
        (450, 10**9, np.nan),
    )

    def step(self, batch: int) -> Mapping[str, float]:
        """See `Plant.step`."""
        return self._lost(super().step(batch))

    def evaluate(self) -> Mapping[str, float]:
        """See `Plant.evaluate`."""
        return self._lost(super().evaluate())

    def _lost(self, values: Mapping[str, float]) -> Mapping[str, float]:
        for first, end, lost in self.LOST:
            if first <= self._batch < end:
                return dict.fromkeys(values, lost)
        return values


def _stand_in(name: str, like: Hyperparameter[Any] | None) -> Hyperparameter[Any]:
    if isinstance(like, IntHyperparameter):
        return IntHyperparameter(name, like(), low=like.low, high=like.high)
    if isinstance(like, FloatHyperparameter):
        log = like.kind == "log"
        return FloatHyperparameter(name, like(), low=like.low, high=like.high, log=log)
    return FloatHyperparameter(name, 0.5, low=0.01, high=1.0)
