"""Early stopping: ends a run whose validation loss has turned to rise, in the best state that it had."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from autotune.records import (
    HUMAN,
    Action,
    Adopt,
    Checkpoint,
    Observation,
    Ramp,
    Rewind,
    Set,
    Signal,
    Stop,
    TuneError,
)

from .memory import Remembering

RISES = 0.01  # p below which the signal rises
LONGEST = 50  # evaluations that are tested


class EarlyStopping(Remembering):
    """Keeps the best state, and goes back to it when patience is exhausted or the budget spent.

    *Best.* Each evaluation that is the lowest so far is saved as a checkpoint, at its own step, so that the
    weights gone back to are those that were evaluated, bitwise.
    *Patience.* It is exhausted when `patience` or more evaluations since the best have brought no new one
    and rise: Mann–Kendall, one-sided, p ≤ 0.01, so that noise about a plateau does not count; or when the
    last `patience` of them are not finite. It begins anew after a rewind, and when a person changes a
    hyperparameter: that is given its time.
    *End.* `Rewind` to the best state and `Stop`, as two decisions at one moment. When the budget is spent
    and the last state is not the best one, the rewind alone; where `evaluate` returns single losses, the best
    one has to be better by a standard error, since the lowest of many looks is low by luck as well. Should
    the best state not be kept, the best that is; should there be none, or no rewinds left, the reason says
    so, and the run ends as it is.

    A plateau does not end a run: there the rate may still be lowered. It harms where a loss rises for
    long and then falls again (double descent, restarts of a cyclical rate): give it more patience.

    Source: Prechelt 1998, section 2 (UP, successive increases; the best state is kept), with a test for the
    trend (Mann 1945, Kendall 1975) in place of a count.

    Args:
        signal: the lower, the better.
        patience: evaluations without a new best; None: the run goes on to the end of its budget.
        min_delta: difference of the signal that does not count, in its unit.
        name: unique within a run.

    Raises:
        TuneError: for a patience below 1, or a negative `min_delta`.
    """

    MEMORY = ("_best", "_waited", "_changed", "_seen", "_ended", "_stopped")

    def __init__(
        self,
        signal: str = "validation/loss",
        patience: int | None = 6,
        min_delta: float = 0.0,
        name: str = "early_stopping",
    ) -> None:
        whole = isinstance(patience, int) and not isinstance(patience, bool)
        if patience is not None and not (whole and patience >= 1):
            raise TuneError(f"patience is 1 evaluation or more, or None, got {patience!r}")
        if not 0 <= min_delta < math.inf:
            raise TuneError(f"min_delta is 0 or more, got {min_delta!r}")
        self.name = name
        self.requires: Sequence[str] = (signal,)
        self.controls: Sequence[str] = ()
        self._patience = patience
        self._min_delta = min_delta
        self._best: list[Any] | None = None  # value, spent, step, and the checkpoint's name once it is known
        self._waited = 0  # evaluations since then, or since patience began anew
        self._changed = -1  # spent when it did
        self._seen = -1  # spent of the newest evaluation that was judged
        self._ended = -1  # spent
        self._stopped = False

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        signal = observation.signals.get(self.requires[0])
        if signal is None or self._stopped:
            return ()
        self._learn(observation)
        before, new = self._best, signal.spent > self._seen
        for value, spent, step in zip(signal.value[new], signal.spent[new], signal.step[new], strict=True):
            self._judge(float(value), int(spent), int(step))
        over = observation.remaining == 0
        self._stopped = not over and bool(new.any()) and self._rises(signal)
        if over and self._ended == observation.spent:
            return ()
        if over or self._stopped:
            self._ended = observation.spent
            why = "the budget is spent" if over else f"it has risen for {self._waited} evaluations"
            return self._end(observation, signal, why)
        if self._best is not None and self._best is not before and self._best[1] == observation.spent:
            evidence = {"value": self._best[0]}
            return (Checkpoint(reason=f"{self.requires[0]} is the lowest so far", evidence=evidence),)
        return ()

    def _learn(self, observation: Observation) -> None:
        """The name that the last checkpoint was given, and whether patience begins anew."""
        for state in observation.snapshots:
            if self._best is not None and state.name and [state.spent, state.step] == self._best[1:3]:
                self._best[3] = state.name
        for decision in observation.decisions:
            human = decision.source.startswith(HUMAN) and isinstance(decision.action, Set | Ramp)
            if decision.applied and (human or isinstance(decision.action, Rewind | Adopt)):
                self._changed, self._waited = decision.spent, 0

    def _judge(self, value: float, spent: int, step: int) -> None:
        self._seen = spent
        self._waited += spent > self._changed
        if math.isfinite(value) and (self._best is None or value < self._best[0] - self._min_delta):
            self._best, self._waited = [value, spent, step, None], 0

    def _rises(self, signal: Signal) -> bool:
        if self._patience is None or self._waited < self._patience:
            return False
        since = signal.value[-min(self._waited, LONGEST) :]
        finite = np.isfinite(since)
        if not finite[-self._patience :].any():
            return True
        trend = kendalltau(np.arange(len(since)), np.where(finite, since, np.inf), alternative="greater")
        return bool(trend.pvalue <= RISES)

    def _end(self, observation: Observation, signal: Signal, why: str) -> Sequence[Action]:
        """Back to the best state that is kept, if the present one is not as good."""
        last = signal.last if len(signal) and signal.spent[-1] == observation.spent else math.nan
        evidence = {"waited": self._waited, "last": last if math.isfinite(last) else None}
        if self._best is not None:
            evidence |= {"best": self._best[0], "best_step": self._best[2]}
        stop = () if observation.remaining == 0 else (Stop(reason=why, evidence=evidence),)
        margin = max(self._min_delta, 0.0 if stop else self._error(observation))
        kept = min(self._kept(observation, signal), key=lambda state: state[0], default=None)
        if self._best is None or last <= self._best[0] + margin:
            return stop
        if kept is None or observation.rewinds_left < 1 or last <= kept[0] + margin:
            missing = "no rewinds are left" if observation.rewinds_left < 1 else "no better state is kept"
            return (Stop(reason=f"{why}; the run ends as it is, since {missing}", evidence=evidence),)
        value, step, to = kept
        reason = f"{why}: back to {self.requires[0]} {value:.4g} of step {step}"
        return (Rewind(to, "skip", reason=reason, evidence=evidence), *stop)

    def _error(self, observation: Observation) -> float:
        error = observation.signals.get(f"{self.requires[0]}_error")
        return error.last if error is not None and math.isfinite(error.last) else 0.0

    def _kept(self, observation: Observation, signal: Signal) -> list[tuple[float, int, int | str]]:
        """Value, step and address of each state that was evaluated and can be gone back to."""
        columns = (signal.step.tolist(), signal.spent.tolist(), signal.value.tolist())
        values = {(step, spent): value for step, spent, value in zip(*columns, strict=True)}
        kept: list[tuple[float, int, int | str]] = [
            (values[state.step, state.spent], state.step, state.name or state.step)
            for state in observation.snapshots
            if math.isfinite(values.get((state.step, state.spent), math.nan))
        ]
        if self._best is not None and self._best[3] and (self._best[2], self._best[1]) not in values:
            kept.append((self._best[0], self._best[2], self._best[3]))  # of a branch that was left
        return kept
