"""Disciplined advice: weight decay and batch size from short runs that all start from one state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.records import Action, Evidence, Observation, Release, Rewind, Set, Suggest, TuneError

from .evaluations import OF_MEDIAN_DIFFERENCE, binding_decay
from .memory import RETRY, Remembering, disturbed, free, refused
from .range_test import kept, undone

SHRINKAGES = (0.0, 0.3, 1.0, 3.0)  # rate × decay × steps of the run, of the decays that are tried
FACTORS = (0.5, 2.0)  # of the batch size
LENGTH, COUNTED = 3, 2  # evaluations in a short run, and those at its end that count
BEGIN = 0.3  # part of the budget after which it begins
MOST = 0.75  # part of the steps left, beyond which it is not begun
ERRORS = 2.0  # standard errors by which a change has to be better


class DisciplinedAdvice(Remembering):
    """Tries a few weight decays, and batch sizes, from one state, and suggests the best by validation loss.

    *Runs.* When 30 % of the budget is spent, or when asked: from a checkpoint that it makes one short run of
    3 evaluations with the present values, one each with a decay such that rate × decay × steps of the budget
    is 0, 0.3, 1 and 3, and where a batch size is given one each with half and twice of it, as much longer or
    shorter as makes the number of examples equal. All read the same data. The rate stays as it is.

    *Choice.* A run's score is the mean of its last 2 evaluations. Of those whose score is within 2 standard
    errors of the best, the one that changes least is chosen; the noise comes from the second differences of
    all runs. Then the run goes back, on new batches, with the present values and a suggestion, or (`act`)
    with the chosen ones.

    What it cannot say: three evaluations see what a decay does within their steps, so they favour values that
    help soon; a decay that pays off over the whole run may lose. A tie says that short runs cannot tell,
    not that the values are equally good. It costs all the steps of the runs: some half of a budget with 25
    evaluations, so evaluate often where it is used.

    Source: Smith 2018 (A disciplined approach to neural network hyper-parameters, sections 4.2 and 4.4), with
    paired runs and their noise in the place of reading curves.

    Args:
        weight_decay: name of the hyperparameter.
        batch_size: name of the hyperparameter; None: it is not tried.
        rate: name of the learning rate, which sets the scale of the decays; where none is registered the
            decays are 0, 0.003, 0.01 and 0.03.
        signal: what is compared, the lower the better.
        act: set the best values instead of suggesting them.
        name: unique within a run.
    """

    MEMORY = ("_asked", "_to", "_start", "_runs", "_values", "_before", "_returning", "_wait")

    def __init__(
        self,
        weight_decay: str = "weight_decay",
        batch_size: str | None = None,
        *,
        rate: str = "lr",
        signal: str = "validation/loss",
        act: bool = False,
        name: str = "disciplined_advice",
    ) -> None:
        if batch_size == weight_decay:
            raise TuneError(f"two hyperparameters have two names, got {weight_decay!r} twice; rename one")
        self.name = name
        self.requires: Sequence[str] = (signal,)
        self.controls: Sequence[str] = (weight_decay,) if batch_size is None else (weight_decay, batch_size)
        self._rate, self._act = rate, act
        self._asked: bool | None = None  # None: when it is time
        self._to: int | str = 0  # the state that all runs start from
        self._start = 0  # its step
        self._runs: list[list[Any]] = []  # name, value and evaluations of each, the least change first
        self._values: list[list[float]] = []  # evaluations of the runs that are over
        self._before: dict[str, Any] = {}  # the present values
        self._returning = False  # the way back was asked for
        self._wait = 0  # spent before which nothing is asked for

    def request(self) -> None:
        """Ask for the runs from the present state on; call it from the training loop."""
        self._asked = True

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        if self._returning:
            return self._returned(observation)
        if not self._runs:
            return self._begin(observation) if self._due(observation) else ()
        if undone(observation, self.name):
            self._runs, self._wait = [], observation.spent + RETRY
            self._asked = refused(observation, self.name) and not self._values
            return _sets(observation, self._before, "a short run could not begin")
        if any(disturbed(observation, self.name, name) for name in self.controls):
            if observation.step < self._start:  # someone went back further
                self._runs = []
                return ()
            before = {n: v for n, v in self._before.items() if _owned(observation, n)}
            return self._end(before, "the short runs were interrupted", {})
        signal = observation.signals[self.requires[0]].since(self._start + 1)
        evaluations = self._runs[len(self._values)][2]
        if len(signal) < evaluations:
            return ()
        self._values = [*self._values, signal.value[:evaluations].tolist()]
        return self._conclude() if len(self._values) == len(self._runs) else (self._next(),)

    def _due(self, observation: Observation) -> bool:
        budget = math.inf if observation.budget is None else observation.budget
        due = observation.spent >= BEGIN * budget if self._asked is None else self._asked
        signal = observation.signals.get(self.requires[0])
        states = [observation.hyperparameters[name] for name in self.controls]
        measured = signal is not None and len(signal) > 1
        return due and measured and observation.spent >= self._wait and all(map(free, states))

    def _begin(self, observation: Observation) -> Sequence[Action]:
        self._asked, self._values = False, []
        self._before = {name: observation.hyperparameters[name].value for name in self.controls}
        runs = self._plan(observation)
        steps = sum(run[2] for run in runs) * np.median(np.diff(observation.signals[self.requires[0]].spent))
        reason = ""
        if observation.remaining is not None and steps > MOST * observation.remaining:
            reason = f"they take {steps:.0f} steps, and {observation.remaining} are left: evaluate more often"
        elif observation.rewinds_left <= len(runs):
            reason = f"they take {len(runs) + 1} rewinds, and {observation.rewinds_left} are left"
        if reason:
            return (Suggest(reason=f"no short runs: {reason}"),)
        keep, self._to, self._start = kept(observation, self.name)
        self._runs = runs
        return (*keep, self._next())

    def _plan(self, observation: Observation) -> list[list[Any]]:
        """The runs: the present values, then each change of one of them."""
        name = self.controls[0]
        state = observation.hyperparameters[name]
        now, unit = float(state.value), binding_decay(observation, self._rate, name)
        high = math.inf if state.high is None else state.high
        decays = {min(max(s * unit, state.low or 0.0), high) for s in SHRINKAGES} - {now}
        runs: list[list[Any]] = [[name, now, LENGTH]]
        runs += [[name, decay, LENGTH] for decay in sorted(decays, key=lambda decay: _change(now, decay))]
        for name in self.controls[1:]:
            state = observation.hyperparameters[name]
            low, high = state.low or 1, math.inf if state.high is None else state.high
            for size in (round(factor * float(state.value)) for factor in FACTORS):
                if low <= size <= high:
                    runs.append([name, size, max(COUNTED, round(LENGTH * float(state.value) / size))])
        return runs

    def _next(self) -> Rewind:
        name, value, _ = self._runs[len(self._values)]
        reason = f"a short run with {name} {value:.4g}"
        values = {**self._before, name: value}
        then = tuple(Set(n, v, reason=reason) for n, v in values.items())
        return Rewind(self._to, "replay", then, reason=reason)

    def _conclude(self) -> Sequence[Action]:
        scores = [float(np.mean(values[-COUNTED:])) for values in self._values]
        scores = [score if math.isfinite(score) else math.inf for score in scores]
        jumps = np.concatenate([np.abs(np.diff(values, 2)) for values in self._values])
        jumps = jumps[np.isfinite(jumps)]
        error = (
            OF_MEDIAN_DIFFERENCE * float(np.median(jumps)) * math.sqrt(2 / COUNTED)
            if len(jumps)
            else math.inf
        )
        evidence: dict[str, float] = {"standard_error": error} if math.isfinite(error) else {}
        for (name, value, _), score in zip(self._runs, scores, strict=True):
            if math.isfinite(score):
                evidence[f"{name} {value:.4g}"] = score
        best = dict(self._before)
        for name in self.controls:
            of_name = [(scores[0], best[name])]
            tried = zip(self._runs[1:], scores[1:], strict=True)
            of_name += [(score, value) for (n, value, _), score in tried if n == name]
            least = min(score for score, _ in of_name)
            best[name] = next(value for score, value in of_name if score <= least + ERRORS * error)
        changed = {name: value for name, value in best.items() if value != self._before[name]}
        if not changed:
            return self._end(self._before, "short runs see no difference: the values stay", evidence)
        reason = (
            f"short runs: best with {', '.join(f'{name} {value:.4g}' for name, value in changed.items())}"
        )
        if self._act:
            return self._end(best, reason, evidence)
        advice = [
            Suggest(Set(n, v, reason=reason), reason=reason, evidence=evidence) for n, v in changed.items()
        ]
        return (*self._end(self._before, "the short runs are over", evidence), *advice)

    def _end(self, values: Mapping[str, Any], reason: str, evidence: Evidence) -> Sequence[Action]:
        """Go back, with these values, on new batches."""
        self._runs, self._returning = [], True
        then = tuple(Set(name, value, reason=reason) for name, value in values.items())
        back = Rewind(self._to, "skip", then, reason=reason, evidence=evidence)
        return (back, *(Release(name, reason=reason) for name in values))

    def _returned(self, observation: Observation) -> Sequence[Action]:
        """Where the way back was refused, at least the values go back."""
        self._returning = False
        if not undone(observation, self.name):
            return ()
        reason = "the short runs could not go back"
        back = _sets(observation, self._before, reason)
        return (*back, *(Release(name, reason=reason) for name in self._before if back))


def _sets(observation: Observation, values: Mapping[str, Any], reason: str) -> Sequence[Action]:
    """Those values that are not there already and that nobody holds."""
    now = observation.hyperparameters
    changed = {name: v for name, v in values.items() if now[name].value != v and _owned(observation, name)}
    return tuple(Set(name, v, reason=reason) for name, v in changed.items())


def _owned(observation: Observation, name: str) -> bool:
    return observation.hyperparameters[name].owner == "policy"


def _change(now: float, value: float) -> float:
    """How far a decay is from the present one; from none, and to none, the value itself counts."""
    if now == 0:
        return value
    return abs(math.log(value / now)) if value > 0 else math.inf
