"""The static baseline, properly tuned: rate × schedule × weight decay, by several search methods."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna
import torch

from autotune.records import TuneError

from .arms import SCHEDULES, Static
from .statistics import capped
from .workload import Outcome, Workload

Method = Literal["grid", "random", "tpe", "asha", "hyperband"]
DECADES = 2.0
"""How far, to each side of the workload's usual rate, the search looks."""
DECAYS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
SEED = 10_000
"""Of the search: no seed of a report."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a static run is told."""

    rate: float
    schedule: str
    weight_decay: float | None = None

    @property
    def arm(self) -> Static:
        """The arm that trains so."""
        return Static(self.schedule, self.weight_decay)


@dataclass(frozen=True, slots=True)
class Trial:
    """A configuration, its selection loss (capped at the initial one) and what it cost."""

    config: Config
    loss: float
    steps: int


def study(
    workload: Workload,
    method: Method,
    trials: int,
    device: torch.device,
    known: Sequence[Trial] = (),
    keep: Callable[[Trial], object] = lambda trial: None,
) -> list[Trial]:
    """Search; the selection loss decides.

    Args:
        workload: what is trained.
        method: `grid` is a factorial over rates and schedules; `asha` and `hyperband` stop trials early.
        trials: at least 20 make a baseline that may be compared with.
        device: to train on.
        known: trials of an earlier call that was cut off; they are not run again.
        keep: called with each new trial, to store it.
    """
    sampler, pruner = _engine(method, workload)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = optuna.create_study(sampler=sampler, pruner=pruner)
    done: list[Trial] = []
    for number in range(trials):
        asked = search.ask()
        config = _suggest(asked, workload)
        if number < len(known):
            trial = known[number]
            if trial.config != config:
                raise TuneError(f"trial {number} of {method} was {trial.config}, and is now {config}")
        else:
            trial = _run(workload, config, device)
            keep(trial)
        search.tell(asked, trial.loss)
        done.append(trial)
    return done


def best(trials: Sequence[Trial]) -> Trial:
    """The least loss; the lower rate on a tie."""
    return min(trials, key=lambda trial: (trial.loss, trial.config.rate))


def _engine(method: Method, workload: Workload) -> tuple[optuna.samplers.BaseSampler, Any]:
    if method == "grid":
        low, high = workload.rate * 10**-DECADES, workload.rate * 10**DECADES
        rates = [low * (high / low) ** (i / 8) for i in range(9)]
        space = {"rate": rates, "schedule": ["constant", "cosine", "wsd"], "weight_decay": ["usual"]}
        return optuna.samplers.GridSampler(space, seed=0), None
    if method == "tpe":
        return optuna.samplers.TPESampler(seed=0), None
    return optuna.samplers.RandomSampler(seed=0), None


def _suggest(trial: optuna.Trial, workload: Workload) -> Config:
    low, high = workload.rate * 10**-DECADES, workload.rate * 10**DECADES
    decay = trial.suggest_categorical("weight_decay", ["usual", *DECAYS])
    return Config(
        trial.suggest_float("rate", low, high, log=True),
        trial.suggest_categorical("schedule", list(SCHEDULES)),
        None if decay == "usual" else float(decay),
    )


def _run(workload: Workload, config: Config, device: torch.device) -> Trial:
    outcome: Outcome = config.arm.run(workload, config.rate, SEED, workload.steps, device)
    loss = capped(outcome.selection, outcome.curve[0][1])
    return Trial(config, loss if math.isfinite(loss) else math.inf, outcome.spent)


def to_json(trial: Trial) -> dict[str, Any]:
    """Plain values; `from_json` is the inverse."""
    return dataclasses.asdict(trial)


def from_json(data: dict[str, Any]) -> Trial:
    """See `to_json`."""
    return Trial(Config(**data["config"]), data["loss"], data["steps"])
