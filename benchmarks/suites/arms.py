"""Ways of training from an initial rate: fixed schedules, the tuned baseline, policies in the tuner."""

from __future__ import annotations

import bisect
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from autotune import AutoTuner
from autotune.records import Policy, TuneError

from .results import Config, Event
from .run import BudgetSpent, Run

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda part: 1.0,
    "step": lambda part: 0.1 ** int(3 * part),
    "linear": lambda part: 1 - part,
    "cosine": lambda part: 0.5 * (1 + math.cos(math.pi * part)),
    "inverse_sqrt": lambda part: min(1.0, part / 0.05) * math.sqrt(0.05 / max(part, 0.05)),
    "wsd": lambda part: min(1.0, part / 0.05, (1 - part) / 0.3),
    "1cycle": lambda part: _one_cycle(part),
}
"""The rate over its peak, by the part of the run in (0, 1) in whose middle a step lies."""


def _one_cycle(part: float) -> float:
    """From a 25th up to the peak in 30 %, and down to nothing: Smith & Topin 2017, by cosines as in torch."""
    if part < 0.3:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * part / 0.3)) / 2
    return (1 + math.cos(math.pi * (part - 0.3) / 0.7)) / 2


@dataclass(frozen=True, slots=True)
class Static:
    """The workload's optimizer under a fixed schedule from the cell's rate, with the usual weight decay."""

    schedule: str = "constant"
    uses_rate: bool = True
    decides: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise TuneError(f"a schedule is one of {', '.join(SCHEDULES)}, got {self.schedule!r}")

    @property
    def name(self) -> str:
        """The schedule."""
        return self.schedule

    def train(self, run: Run, start: Config) -> None:
        """See `Arm.train`."""
        follow(run, Config(start.rate, self.schedule))


@dataclass(frozen=True, slots=True)
class Baseline:
    """The tuned configuration as it is: what everything else is compared with."""

    name: str = "tuned baseline"
    uses_rate: bool = False
    decides: bool = True

    def train(self, run: Run, start: Config) -> None:
        """See `Arm.train`."""
        follow(run, start)


@dataclass(frozen=True, slots=True)
class Tuned:
    """Policies, in the tuner.

    Args:
        name: as in reports.
        policies: makes fresh ones.
        uses_rate: whether the initial rate matters.
        on_schedule: begin with the tuned baseline's schedule and weight decay instead of a constant rate and
            the usual decay: is a run that needs no help left alone?
        trials: evaluations that are set aside for trials of the policies.
    """

    name: str
    policies: Callable[[], Sequence[Policy]]
    uses_rate: bool = True
    on_schedule: bool = False
    trials: int = 0
    decides: bool = True

    def train(self, run: Run, start: Config) -> None:
        """See `Arm.train`."""
        steps = run.steps_beside(run.probes + self.trials + 1)  # one comes before the first step
        optimizer = run.start(start.rate, start.weight_decay if self.on_schedule else None)
        scheduler = schedule(optimizer, start, steps) if self.on_schedule else None
        stateful = {**run.stateful(), **({"scheduler": scheduler} if scheduler else {})}
        with (
            tempfile.TemporaryDirectory() as folder,
            AutoTuner(
                run.model,
                optimizer,
                hyperparameters=run.hyperparameters(scheduled=self.on_schedule),
                policies=self.policies(),
                total_steps=steps,
                evaluate=run.probe_losses,
                evaluate_every=math.ceil(steps / run.probes),
                stateful=stateful,
                reports=tuple(run.reports),
                folder=Path(folder) / "run",
                mlflow=False,
            ) as tuner,
        ):
            try:
                for batch in tuner.batches(run.batches):
                    loss = run.train(batch)
                    tuner.report(loss=loss, **run.reports)
                    if scheduler is not None:
                        scheduler.step()
                    run.look()
            except BudgetSpent:
                pass  # more evaluations than were set aside: what is left undone costs the arm, nobody else
            run.events += [
                Event(d.spent, d.step, d.source, f"{d.action.describe()}: {d.action.reason}", d.status)
                for d in tuner.decisions
            ]


def follow(run: Run, config: Config) -> None:
    """Train with a fixed schedule, without a tuner."""
    steps = run.steps_beside(0)
    optimizer = run.start(config.rate, config.weight_decay)
    scheduler = schedule(optimizer, config, steps)
    loop(run, lambda step: scheduler.step())


def loop(run: Run, after: Callable[[int], object]) -> None:
    """Train to the end of the budget, or until nothing is left to train.

    Args:
        run: its optimizer is there.
        after: called after each step with the number of steps taken.
    """
    for step, batch in enumerate(run.endless(), 1):
        run.train(batch)
        after(step)
        run.look()
        if run.destroyed:
            return


def schedule(optimizer: Optimizer, config: Config, steps: int) -> Any:
    """The scheduler of a configuration, for `steps` steps; `step()` comes after each of them."""
    if config.schedule != "pieces":
        shape = SCHEDULES[config.schedule]
        return LambdaLR(optimizer, lambda step: shape(min(1.0, (step + 0.5) / steps)))
    starts = [part for part, _, _ in config.pieces]

    def rate(step: int) -> float:
        _, value, decay = config.pieces[max(0, bisect.bisect_right(starts, step / steps) - 1)]
        for group in optimizer.param_groups:
            if "weight_decay" in group:
                group["weight_decay"] = decay
        return value / config.rate

    return LambdaLR(optimizer, rate)
