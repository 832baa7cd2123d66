"""The trials of a search: each is run once, and an interrupted search is replayed up to where it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from autotune.records import TuneError

from .arms import Baseline, loop, schedule
from .results import Config, Trial
from .run import BudgetSpent, Run, execute
from .statistics import capped
from .workload import Workload

SEARCH_SEED = 10_000
"""Of the runs of a search, and the first of those of its finalists: no seed of a report."""


class Pruned(Exception):
    """A trial is so far behind that it is not worth its remaining steps."""


class Tried:
    """The trials of a search so far; those that are known already are replayed, not run.

    Args:
        workload: what is trained.
        device: to train on.
        known: what an earlier, interrupted call of the same search kept.
        keep: called with each new trial.
        done: trials that have come about otherwise.
    """

    def __init__(
        self,
        workload: Workload,
        device: torch.device,
        known: Sequence[Trial],
        keep: Callable[[Trial], object],
        done: Sequence[Trial] = (),
    ) -> None:
        self.workload = workload
        self._device, self._keep = device, keep
        self._known = list(known)
        self.done = list(done)

    def run(
        self,
        config: Config,
        first: int | None = None,
        behind: Callable[[int, float], bool] = lambda look, loss: False,
        seed: int = SEARCH_SEED,
    ) -> Trial:
        """Try a configuration.

        Args:
            config: what the run is told.
            first: so many steps of the run only.
            behind: whether to give up, by the number of the look and its loss; asked in a replay as well,
                since pruners remember.
            seed: of the run.

        Raises:
            TuneError: when a known trial is not the one that is asked for.
        """
        if self._known:
            trial = _replayed(self._known.pop(0), config, behind)
        else:
            trial = _run(self.workload, self._device, config, first, behind, seed)
            self._keep(trial)
        self.done.append(trial)
        return trial

    def finished(self) -> tuple[Trial, ...]:
        """All trials, in order.

        Raises:
            TuneError: when some that are known have not been asked for.
        """
        if self._known:
            raise TuneError(f"known trials belong to the same search, got {len(self._known)} that it lacks")
        return tuple(self.done)


def _run(
    workload: Workload,
    device: torch.device,
    config: Config,
    first: int | None,
    behind: Callable[[int, float], bool],
    seed: int,
) -> Trial:
    curve: list[tuple[float, float]] = []

    def on_look(spent: float, loss: float) -> None:
        curve.append((spent, capped(loss, curve[0][1] if curve else loss)))
        if behind(len(curve) - 1, curve[-1][1]):
            raise Pruned

    arm = Baseline() if first is None else Beginning(first)
    try:
        outcome = execute(workload, arm, config, seed, 1.0, device, on_look)
    except Pruned:
        spent, loss = curve[-1]
        return Trial(config, loss, spent, True, tuple(curve))
    loss = capped(outcome.selection, outcome.initial_selection)
    return Trial(config, loss, outcome.spent, first is not None, tuple(curve))


def _replayed(trial: Trial, config: Config, behind: Callable[[int, float], bool]) -> Trial:
    if trial.config != config:
        raise TuneError(f"known trials belong to the same search, got {trial.config} in place of {config}")
    for look, (_, loss) in enumerate(trial.curve):
        if behind(look, loss) and not (trial.pruned and look == len(trial.curve) - 1):
            raise TuneError(f"known trials belong to the same search, got {config} after it was pruned")
    return trial


@dataclasses.dataclass(frozen=True, slots=True)
class Beginning:
    """The first steps of a run, under its schedule for the whole of it."""

    steps: int
    name: str = "beginning"
    uses_rate: bool = True
    decides: bool = False

    def train(self, run: Run, start: Config) -> None:
        """See `Arm.train`."""
        optimizer = run.start(start.rate, start.weight_decay)
        scheduler = schedule(optimizer, start, run.steps_beside(0))

        def after(step: int) -> None:
            scheduler.step()
            if step == self.steps:
                raise BudgetSpent

        loop(run, after)
