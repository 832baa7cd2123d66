"""A suite: workloads × arms × initial rates × budgets × seeds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from autotune.records import TuneError

from .arms import Baseline
from .results import Cell, Method
from .run import Arm
from .workload import Workload

FACTORS = tuple(10.0**power for power in range(-3, 4))
"""Initial rates over the tuned one."""


@dataclass(frozen=True, slots=True)
class Suite:
    """What is compared with what.

    Args:
        name: of the suite.
        about: in a line.
        workloads: what is trained.
        arms: how, beside the tuned baseline, which is in every suite.
        factors: initial rates over the tuned one.
        budgets: total steps over the baseline's; those beyond 1 are for arms that decide, and the baseline,
            from the middle and the ends of the rates.
        seeds: how many; those of the searches are others.
        methods: how the baselines are searched for; the best that any of them finds is the baseline.
        trials: of each method, at least 20 for a claim.
        device: the kind that it is meant for.
    """

    name: str
    about: str
    workloads: tuple[Workload, ...]
    arms: tuple[Arm, ...]
    factors: tuple[float, ...] = FACTORS
    budgets: tuple[float, ...] = (1.0, 1.15)
    seeds: int = 5
    methods: tuple[Method, ...] = ("grid", "random", "tpe", "asha", "hyperband", "top_of_k")
    trials: int = 20
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "arms", (Baseline(), *(a for a in self.arms if a != Baseline())))
        _unique("workloads", (workload.name for workload in self.workloads))
        _unique("arms", (arm.name for arm in self.arms))
        for name, number in (("seeds", self.seeds), ("trials", self.trials)):
            if number < 1:
                raise TuneError(f"a suite has at least 1 of its {name}, got {number}")

    def cells(self, workload: str) -> list[Cell]:
        """All runs of a workload."""
        return [
            Cell(workload, arm.name, factor, budget, seed)
            for seed in range(self.seeds)
            for arm in self.arms
            for budget in self.budgets
            for factor in self._factors(arm, budget)
        ]

    def workload(self, name: str) -> Workload:
        """The workload of that name."""
        return next(workload for workload in self.workloads if workload.name == name)

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def quick(self) -> Suite:
        """About a tenth of it: the middle and the ends of the rates, two seeds, one search."""
        return dataclasses.replace(
            self, factors=self._ends, budgets=self.budgets[:1], seeds=min(2, self.seeds), methods=("random",)
        )

    @property
    def _ends(self) -> tuple[float, ...]:
        return (self.factors[0], 1.0, self.factors[-1]) if len(self.factors) > 2 else self.factors

    def _factors(self, arm: Arm, budget: float) -> tuple[float | None, ...]:
        if budget != 1 and not arm.decides:
            return ()
        if not arm.uses_rate:
            return (None,)
        return self.factors if budget == 1 else self._ends


def _unique(what: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TuneError(
            f"{what} of a suite have names of their own, got {', '.join(twice)} more than once; rename yours"
        )
