"""One training, watched from outside: what an arm may see of it, and what it has spent."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autotune.hyperparameters import Hyperparameter
from autotune.records import TuneError

from .results import Config, Event, Look, Outcome
from .workload import Part, Training, Workload

LOOKS = 25
"""Measurements from outside in a run, beside the one before the first step."""
ROUNDING = 1e-6
"""Of budgets and of sums of costs, in steps: 1.15 × 100 is a little less than 115."""


class BudgetSpent(Exception):
    """A run has spent what it may; the state that it has is its final one."""


class Arm(Protocol):
    """A way of training."""

    @property
    def name(self) -> str:
        """Unique within a suite."""
        ...

    @property
    def uses_rate(self) -> bool:
        """Whether the initial rate matters; an arm that ignores it is run once, not once a rate."""
        ...

    @property
    def decides(self) -> bool:
        """Whether it reacts to what it measures; budgets beyond the baseline's are for such arms."""
        ...

    def train(self, run: Run, start: Config) -> None:
        """Train until the budget is spent.

        Args:
            run: the training.
            start: the tuned baseline, its rate multiplied by the cell's factor.
        """
        ...


class Run:
    """A training as an arm sees it: batches, steps and the probe data; selection and test data are not there.

    Each batch that goes through `train` counts as a step, whatever becomes of it later, and each evaluation
    of the probe counts what it costs. What would go beyond the budget raises `BudgetSpent`, and a step of
    the optimizer outside `train` raises a TuneError.

    Args:
        training: fresh.
        allowed: steps, at least 1.
        on_look: called with `spent` and selection loss at each look; it may raise, to prune the run.
    """

    def __init__(
        self,
        training: Training,
        allowed: float,
        on_look: Callable[[float, float], object] = lambda spent, loss: None,
    ) -> None:
        if not allowed >= 1:
            raise TuneError(f"a run has at least 1 step, got {allowed}")
        self.allowed = allowed
        self.steps = 0
        self.spent = 0.0
        self.events: list[Event] = []
        self.optimizer: Optimizer | None = None
        self._training, self._on_look = training, on_look
        self._stepping = False
        self._settle: Callable[[], object] = lambda: None
        self._looks: list[Look] = []
        self._used: float | Tensor = math.nan  # the first group's rate in the last step
        self._initial = self._evaluate("test")
        if not 0 < self._initial < math.inf:
            raise TuneError(
                f"a loss is positive, and finite before the first step, got {self._initial} on the test "
                "data; scores are ratios: add a constant to a loss that can be negative"
            )
        self._best = self._best_selection = math.inf
        self._aside = 0.0
        self._start = time.perf_counter()
        self.look()

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return self._training.model

    @property
    def batches(self) -> Any:
        """One pass over the training data."""
        return self._training.batches

    @property
    def reports(self) -> dict[str, Tensor | float]:
        """What the last step measured beside its loss."""
        return dict(self._training.reports)

    @property
    def probe_cost(self) -> float:
        """What `probe` costs, in steps."""
        return self._training.probe_cost

    def start(self, rate: float, weight_decay: float | None = None) -> Optimizer:
        """The workload's optimizer, which `train` steps."""
        return self.use(self._training.optimizer(rate, weight_decay))

    def use(self, optimizer: Optimizer, settle: Callable[[], object] = lambda: None) -> Optimizer:
        """Train with another optimizer than the workload's.

        Args:
            optimizer: of the model's parameters; its `eval` and `train`, where it has them, are called
                round each evaluation.
            settle: called before each evaluation, in eval mode of an optimizer that has one: for what must
                be measured again at its averaged weights. It draws no random numbers, and the arm pays.
        """
        optimizer.register_step_pre_hook(self._watch)
        optimizer.register_step_post_hook(self._note)
        self.optimizer, self._settle = optimizer, settle
        return optimizer

    def hyperparameters(self, scheduled: bool = False) -> list[Hyperparameter[Any]]:
        """What policies may move; see `Training.hyperparameters`."""
        assert self.optimizer is not None
        return self._training.hyperparameters(self.optimizer, scheduled=scheduled)

    def stateful(self) -> dict[str, object]:
        """See `Training.stateful`."""
        return dict(self._training.stateful())

    @property
    def probes(self) -> int:
        """How often an arm that evaluates regularly does: 25 times, or as a 25th of the budget pays for."""
        return max(2, min(LOOKS, math.floor(self.allowed / LOOKS / self.probe_cost + ROUNDING)))

    def steps_beside(self, probes: int) -> int:
        """Whole steps that are left when `probes` evaluations are paid for, at least 1."""
        return max(1, math.floor(self.allowed - self.spent - probes * self.probe_cost + ROUNDING))

    def endless(self) -> Iterator[Any]:
        """Batches, pass after pass."""
        while True:
            yield from self.batches

    def pay(self, steps: float) -> None:
        """Count what is about to be done.

        Raises:
            BudgetSpent: when it would go beyond what is allowed.
        """
        if self.spent + steps > self.allowed + ROUNDING:
            raise BudgetSpent
        self.spent += steps

    def train(self, batch: Any) -> Tensor:
        """One optimizer step on a batch; returns its training loss, a scalar.

        Raises:
            BudgetSpent: before the step, see `pay`.
        """
        assert self.optimizer is not None, "start() or use() comes first"
        self.pay(1)
        self.steps += 1
        self._stepping = True
        try:
            loss = self._training.loss(batch)
            self._training.update(loss, self.optimizer)
        finally:
            self._stepping = False
        return loss

    def probe(self) -> float:
        """The loss on the probe data: what an arm may know of generalisation.

        Raises:
            BudgetSpent: before it, see `pay`.
        """
        self.pay(self.probe_cost)
        return self._evaluate("probe")

    def probe_losses(self) -> list[float]:
        """The losses on equal shares of the probe data, at the price of `probe`.

        Raises:
            BudgetSpent: before it, see `pay`.
        """
        self.pay(self.probe_cost)
        return self._training.losses("probe")

    def look(self) -> None:
        """Measure from outside, when a 25th of the budget has been spent since the last time.

        Arms call it after each step, when whatever they do between steps is done.
        """
        if self._looks and self.spent < len(self._looks) * self.allowed / LOOKS:
            return
        before = time.perf_counter()
        self._look()
        self._aside += time.perf_counter() - before
        self._on_look(self.spent, self._looks[-1].selection)

    @property
    def destroyed(self) -> bool:
        """At the last look the loss was not a number: no optimizer comes back from that by itself."""
        return math.isnan(self._looks[-1].selection)

    def outcome(self) -> Outcome:
        """The run has ended, in the state that it has now."""
        seconds = time.perf_counter() - self._start - self._aside
        if self._looks[-1].spent == self.spent:
            self._looks.pop()  # the state may be another by now
        self._look()
        return Outcome(
            initial=self._initial,
            final=self._evaluate("test"),
            best=self._best,
            initial_selection=self._looks[0].selection,
            selection=self._looks[-1].selection,
            best_selection=self._best_selection,
            steps=self.steps,
            spent=self.spent,
            allowed=self.allowed,
            seconds=seconds,
            looks=self._looks,
            events=self.events,
        )

    def _look(self) -> None:
        selection = self._evaluate("selection")
        self._looks.append(Look(self.spent, selection, float(self._used)))  # sync: a look, if it is a tensor
        if selection < self._best_selection:
            self._best_selection, self._best = selection, self._evaluate("test")

    def _evaluate(self, part: Part) -> float:
        averaging: Any = self.optimizer if hasattr(self.optimizer, "eval") else None  # schedule-free ones
        if averaging is None:
            return float(self._training.evaluate(part))
        weights: list[Tensor] = [*self.model.parameters()]
        kept = [weight.detach().clone() for weight in weights]
        averaging.eval()
        try:
            self._settle()
            return float(self._training.evaluate(part))
        finally:
            averaging.train()
            with torch.no_grad():  # there and back is not exact, and a look changes nothing
                torch._foreach_copy_(weights, kept)

    def _note(self, *_: object) -> None:
        # In the hook: afterwards a tuner or a scheduler may have put another value there.
        assert self.optimizer is not None
        rate = self.optimizer.param_groups[0]["lr"]
        self._used = rate.clone() if isinstance(rate, Tensor) else rate

    def _watch(self, *_: object) -> None:
        if not self._stepping:
            raise TuneError("a step of the optimizer goes through Run.train, got one that nobody counted")


def execute(
    workload: Workload,
    arm: Arm,
    start: Config,
    seed: int,
    budget: float,
    device: torch.device,
    on_look: Callable[[float, float], object] = lambda spent, loss: None,
) -> Outcome:
    """Train a workload by an arm, once.

    Args:
        workload: what is trained.
        arm: how.
        start: see `Arm.train`.
        seed: of everything random.
        budget: steps over the workload's.
        device: to train on.
        on_look: see `Run`.
    """
    run = Run(workload.begin(seed, device), budget * workload.steps, on_look)
    with contextlib.suppress(BudgetSpent):
        arm.train(run, start)
    return run.outcome()
