"""Rate search: tries rates out inside the run, and goes on from the best trial's own state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.records import FACTOR, Action, Adopt, Observation, Probe, Ramp, Release, Set, Suggest, Trial

from . import rungs
from .memory import Remembering, free
from .relapse import SPACING, TRAIN, VALIDATION, Relapse

RATIO = "update_ratio"
REACH = 0.3  # ‖Δw‖/‖w‖ of a step at the first rate that is tried
RUNGS = (0.03, 0.06)  # lengths of trials, parts of the budget
COOLED = 0.3  # of a trial, on a branch
WARM = 0.01  # of the budget, in which the rate of a trial rises
FEWEST = 4  # steps of each of these
MOST = 8  # trials of a rung
SHARE = 0.25  # of the budget, after which no further rate is tried
LEAST = 0.5  # of the budget, in which four trials have to find room
LOST = 30.0  # times the training loss at the start, at which a trial is given up


class RateSearch(Remembering):
    """Finds the rate by trials inside the run, whatever the rate was, and goes on with the best one's steps.

    *Anchor.* One step at the present rate shows how far a unit of rate moves the weights. The first rate that
    is tried would move them by 0.3 of their size; others are √10 apart. It is a scale, not a wall.

    *Trials.* All from one state, on the same batches: the rate rises in a line over 1 % of the budget, holds,
    and cools down to nothing over the last 30 % of the trial, on a branch; then the loss is evaluated. Those
    of the first rung take 3 % of the budget, downwards and upwards from the anchor until the best has a worse
    neighbour on either side. Those of the second take 6 %, since shorter ones prefer rates that are too high:
    the best, the one below, and on until the best is not the lowest. A rate is dead when its loss is no
    better than at the start; where four are, but training losses have fallen, as in tasks that are learnt by
    heart first, the training loss decides from then on.

    *Choice.* The best trial of the second rung is adopted, its own steps are kept, and the rate moves to
    where a parabola through its neighbours has its minimum, by at most half the distance; a tie goes down.

    *Afterwards* a rate that destroys the run later is noticed; see `Relapse`.

    It spends mostly 15 to 25 % of the budget, and more of runs under 200 steps; where four trials find no
    room in half of it, without a budget, and where the rate is a factor on a schedule, it does not search.
    It decays nothing: see `HoldAndTail`.

    *When it harms.* On a run whose rate was right, by the steps it spends: some 3 % of the loss.

    Source: successive halving (Jamieson & Talwalkar 2016) in one run; cooled trials against the bias of short
    horizons: Wu et al. 2018. The constants were set once, on ten workloads of 400 to 2,000 steps.

    Args:
        hyperparameter: the rate.
        name: unique within a run.
    """

    MEMORY = (
        "_phase", "_asked", "_top", "_starts", "_judge", "_rung", "_results", "_states",
    )  # fmt: skip
    requires: Sequence[str] = (TRAIN,)

    def __init__(self, hyperparameter: str = "lr", *, name: str = "rate_search") -> None:
        self.name = name
        self.controls: Sequence[str] = (hyperparameter,)
        self._phase = "anchor"
        self._asked: list[int] = []  # places on the grid, of the trials whose results are awaited
        self._top = 0.0  # the rate at place 0; those at places i are SPACING ** i times that
        self._starts: list[float | None] = [None, None]  # score and training loss at the start
        self._judge = 0  # which of the two decides
        self._rung = 0
        self._results: list[dict[str, list[float | None]]] = [{} for _ in RUNGS]  # the two, by place
        self._states: dict[str, int] = {}  # the longest trial so far, by place
        self._relapse = Relapse(name, hyperparameter)

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        if self._phase == "over":
            return ()
        if self._phase == "watch":
            return self._relapse.actions(observation)
        rate = observation.hyperparameters[self.controls[0]]
        if rate.unit == FACTOR:
            return self._end("no search: a schedule of the user's has the rate")
        if observation.budget is None:
            return self._end("no search: it needs the number of steps, total_steps")
        if not free(rate):
            return self._end(f"no search: {rate.name} is held by {rate.owner} or moved by a ramp")
        if not float(rate.value) > 0:
            return self._end(f"no search: it needs a rate above 0, got {rate.value}")
        asked = [d for d in observation.decisions if d.source == self.name and isinstance(d.action, Probe)]
        if not all(d.applied for d in asked):
            return self._end("no search: a trial was refused")
        trials = [observation.trials[d.id] for d in asked if d.id in observation.trials]
        if self._phase == "anchor":
            return self._anchor(observation, float(rate.value), trials)
        if len(trials) < len(self._asked):
            return self._end(
                "the search is over: its trials were let go; let one tuner.batches run to total_steps, and "
                "have one search in a run"
            )
        for place, trial in zip(self._asked, trials, strict=True):
            cooled = trial.signals[TRAIN].since(trial.step + 1).value if TRAIN in trial.signals else ()
            train = float(np.mean(cooled)) if len(cooled) and math.isfinite(trial.score) else math.inf
            self._results[self._rung][str(place)] = [_finite(trial.score), _finite(train)]
            self._states[str(place)] = trial.id
        return self._search(observation)

    def state_dict(self) -> dict[str, Any]:
        """See `Policy.state_dict`."""
        return {**super().state_dict(), "relapse": self._relapse.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Policy.load_state_dict`."""
        super().load_state_dict(state)
        self._relapse.load_state_dict(state["relapse"])

    def _end(self, reason: str) -> Sequence[Action]:
        self._phase = "over"
        return (Suggest(reason=reason),)

    def _anchor(self, observation: Observation, rate: float, trials: Sequence[Trial]) -> Sequence[Action]:
        state = observation.hyperparameters[self.controls[0]]
        if not trials:
            lengths = [self._length(observation, rung) for rung in range(len(RUNGS))]
            if 2 * sum(map(sum, lengths)) > LEAST * (observation.remaining or 0):
                return self._end(f"no search: {observation.remaining} steps are too few for trials")
            reason = "how far does a unit of rate move the weights?"
            steps = 1 if observation.step == 0 else 10  # one is enough where it is sampled
            return (Probe(steps, (Set(state.name, rate, reason=reason),), evaluate=False, reason=reason),)
        signals = trials[0].signals
        moved = signals[RATIO].last if RATIO in signals else math.nan
        top = REACH * rate / moved if math.isfinite(moved) and moved > 0 else rate
        self._top = min(max(top, state.low or 0.0), math.inf if state.high is None else state.high)
        train = _finite(float(signals[TRAIN].value[0])) if TRAIN in signals else None
        validation = observation.signals.get(VALIDATION)
        self._starts = [train if validation is None else _finite(validation.last), train]
        self._phase = "search"
        return self._ask(observation, (0, -1))

    def _search(self, observation: Observation) -> Sequence[Action]:
        best = rungs.best(self._scores(), self._start)
        if best is None and self._rung == 0 and self._judge == 0:
            by_training = rungs.best(self._scores(judge=1), _known(self._starts[1]))
            if by_training is not None and len(self._scores()) >= MOST // 2:
                self._judge, best = 1, by_training  # learnt by heart first: validation falls at no rate
        scores = self._scores()
        further: int | None = None
        if best is None or best == min(scores):
            further = min(scores) - 1
        elif best == max(scores) and (
            self._rung == 0 or rungs.close(self._scores(self._rung - 1), self._start, best)
        ):
            further = best + 1
        full = len(scores) >= MOST or observation.spent > SHARE * (observation.budget or 0)
        if further is not None and not full and self._reachable(observation, further):
            return self._ask(observation, (further,))
        if best is None:
            return self._end("no rate was found at which the loss falls")
        if self._rung + 1 < len(RUNGS):
            self._rung += 1
            return self._ask(observation, (best, best - 1))
        return self._adopt(observation, best)

    def _scores(self, rung: int | None = None, judge: int | None = None) -> dict[int, float]:
        results = self._results[self._rung if rung is None else rung]
        which = self._judge if judge is None else judge
        return {place: _known(results[str(place)][which]) for place in sorted(map(int, results))}

    @property
    def _start(self) -> float:
        return _known(self._starts[self._judge])

    def _adopt(self, observation: Observation, best: int) -> Sequence[Action]:
        name, trial = self.controls[0], observation.trials[self._states[str(best)]]
        if not trial.kept:
            return self._end("the best trial was not kept")
        peak = self._rate(best + rungs.minimum(self._scores(), self._start, best))
        score, train = map(_known, self._results[self._rung][str(best)])
        validated = VALIDATION in trial.signals and trial.signals[VALIDATION].last == trial.score
        self._phase = "watch"
        self._relapse.begin(
            [_known(start) for start in self._starts],
            [score, train],
            validated and self._judge == 0,
            (trial.step, observation.spent),
            peak,
            max(FEWEST, round(WARM * (observation.budget or 0))),
        )
        evidence = {
            f"{self._rate(place):.3g} for {part:.0%}": score
            for rung, part in enumerate(RUNGS)
            for place, score in self._scores(rung).items()
            if math.isfinite(score)
        }
        actions: list[Action] = [Adopt(trial.id, reason="the best of the rates tried", evidence=evidence)]
        if peak != self._rate(best):
            actions.append(Set(name, peak, reason="between the best rates"))
        return (*actions, Release(name, reason="the search is over"))

    def _rate(self, place: float) -> float:
        return float(self._top * SPACING**place)

    def _reachable(self, observation: Observation, place: int) -> bool:
        state = observation.hyperparameters[self.controls[0]]
        return (state.low or 0.0) <= self._rate(place) <= (math.inf if state.high is None else state.high)

    def _length(self, observation: Observation, rung: int) -> tuple[int, int]:
        """Steps of a trial's own, and of its cool-down."""
        whole = max(2 * FEWEST, round(RUNGS[rung] * (observation.budget or 0)))
        cool = max(FEWEST, round(COOLED * whole))
        return whole - cool, cool

    def _ask(self, observation: Observation, places: Sequence[int]) -> Sequence[Action]:
        self._asked = [place for place in places if place == places[0] or self._reachable(observation, place)]
        return [self._probe(observation, place) for place in self._asked]

    def _probe(self, observation: Observation, place: int) -> Probe:
        name, rate = self.controls[0], self._rate(place)
        low = observation.hyperparameters[name].low or 0.0
        (steps, cool), warm = (
            self._length(observation, self._rung),
            max(FEWEST, round(WARM * (observation.budget or 0))),
        )
        reason, start = f"how good is {rate:.3g}?", self._starts[1]
        then: tuple[Set | Ramp, ...]
        earlier = observation.trials.get(self._states.get(str(place), -1))
        if earlier is not None and earlier.kept:
            steps -= earlier.step - earlier.start
            then = (Set(name, rate, reason=reason),)
        else:
            earlier = None
            then = (
                Set(name, max(low, rate / warm), reason=reason),
                Ramp(name, rate, warm, reason=reason),
            )
        return Probe(
            max(1, steps),
            then,
            branch=(Ramp(name, max(low, 1e-3 * rate), cool, reason=reason),),
            after=None if earlier is None else earlier.id,
            give_up=LOST * start if start is not None and start > 0 else math.inf,
            evaluate=self._judge == 0,
            reason=reason,
        )


def _finite(value: float) -> float | None:
    """As it is kept in the memory, which has no infinities."""
    return value if math.isfinite(value) else None


def _known(value: float | None) -> float:
    return math.inf if value is None else value
