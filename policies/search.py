"""Rate search: tries rates out inside the run, and goes on from the best trial's own state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.records import FACTOR, Action, Adopt, Observation, Probe, Release, Set, Trial

from . import rungs
from .memory import free
from .relapse import SPACING, Relapse
from .trying import TRAIN, VALIDATION, Searching, Steps, finite

RUNGS = (0.03, 0.06)  # lengths of trials, parts of the budget
FEWEST = 4  # steps in which the rate of a trial rises, and cools down
MOST = 8  # trials of a rung
SHARE = 0.25  # of the budget, after which no further rate is tried
LEAST = 0.5  # of the budget, in which four trials have to find room
LOST = 30.0  # times the training loss at the start, at which a trial is given up


class RateSearch(Searching):
    """Finds the rate by trials inside the run, whatever the rate was, and goes on with the best one's steps.

    *Trials.* See `Searching`; rates are √10 apart. Those of the first rung take 3 % of the budget, downwards
    and upwards from the anchor until the best has a worse neighbour on either side. Those of the second take
    6 %, since shorter ones prefer rates that are too high: the best, the one below, and on until the best is
    not the lowest. A rate is dead when its loss is no better than at the start; where four are, but training
    losses have fallen, as in tasks that are learnt by heart first, the training loss decides from then on.

    *Choice.* The best trial of the second rung is adopted, its own steps are kept, and the rate moves to
    where a parabola through its neighbours has its minimum, by at most half the distance; a tie goes down.
    When a trial is refused, the best so far is; where its state is not kept, the rate alone is set.

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

    MEMORY = (*Searching.MEMORY, "_places", "_first", "_judge", "_rung", "_results", "_states", "_began")

    def __init__(self, hyperparameter: str = "lr", *, name: str = "rate_search") -> None:
        super().__init__((hyperparameter,), hyperparameter, LOST, name)
        self._places: list[int] = []  # places on the grid, of the trials whose results are awaited
        self._first = 0.0  # the rate at place 0; those at places i are SPACING ** i times that
        self._judge = 0  # which of the two losses decides
        self._rung = 0
        self._results: list[dict[str, list[float | None]]] = [{} for _ in RUNGS]  # the two, by place
        self._states: dict[str, int] = {}  # the longest trial so far, by place
        self._began = 0  # spent then
        self._relapse = Relapse(name, hyperparameter)
        self._fresh = self.state_dict()

    def search(self, observation: Observation) -> Sequence[Action]:
        """See `Searching`."""
        if self._phase == "watch":
            return self._relapse.actions(observation)
        rate = observation.hyperparameters[self._rate]
        if rate.unit == FACTOR:
            return self._end("no search: a schedule of the user's has the rate")
        if observation.budget is None:
            return self._end("no search: it needs the number of steps, total_steps")
        if not free(rate):
            return self._end(f"no search: a ramp moves {rate.name}")
        if not float(rate.value) > 0:
            return self._end(f"no search: it needs a rate above 0, got {rate.value}")
        if self._phase == "begin":
            lengths = [self._steps(observation, rung) for rung in range(len(RUNGS))]
            if 2 * sum(own + cool for own, cool, _ in lengths) > LEAST * (observation.remaining or 0):
                return self._end(f"no search: {observation.remaining} steps are too few for trials")
            self._began = observation.spent
            return self._anchor(observation)
        ids, made = self._asked(observation)
        if not made:
            return self._settle(observation, "no search: a trial was refused")
        trials = [observation.trials[id] for id in ids if id in observation.trials]
        if self._phase == "anchor":
            return self._anchored(observation, trials[0]) if trials else self._anchor(observation)
        if len(trials) < len(self._places):  # a person has ended them, or the loop has ended in them
            if self._late(observation):
                return self._settle(observation, "no search: trials were ended; let one loop run to the end")
            if observation.step != self._step:  # scores from here and there do not compare
                self._step = observation.step
                self._results[self._rung], self._states = {}, {}
                best = rungs.best(self._scores(self._rung - 1), self._start) if self._rung else None
                self._places = [best or 0, (best or 0) - 1]
            return self._ask(observation, self._places)
        for place, trial in zip(self._places, trials, strict=True):
            cooled = trial.signals[TRAIN].since(trial.step + 1).value if TRAIN in trial.signals else ()
            train = float(np.mean(cooled)) if len(cooled) and math.isfinite(trial.score) else math.inf
            self._results[self._rung][str(place)] = [finite(trial.score), finite(train)]
            self._states[str(place)] = trial.id
        return self._search(observation)

    def state_dict(self) -> dict[str, Any]:
        """See `Policy.state_dict`."""
        return {**super().state_dict(), "relapse": self._relapse.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Policy.load_state_dict`."""
        super().load_state_dict(state)
        self._relapse.load_state_dict(state["relapse"])

    def _anchored(self, observation: Observation, trial: Trial) -> Sequence[Action]:
        state, top = observation.hyperparameters[self._rate], self._top(observation, trial)
        self._first = min(max(top, state.low or 0.0), math.inf if state.high is None else state.high)
        validation = observation.signals.get(VALIDATION)
        self._starts[0] = self._starts[1] if validation is None else finite(validation.last)
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
        full = len(scores) >= MOST or self._late(observation)
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

    def _settle(self, observation: Observation, reason: str) -> Sequence[Action]:
        """There are no more trials: the best so far is adopted; the search ends where there is none."""
        self._rung = max((rung for rung, results in enumerate(self._results) if results), default=0)
        best = rungs.best(self._scores(), self._start)
        return self._end(reason) if best is None else self._adopt(observation, best)

    def _adopt(self, observation: Observation, best: int) -> Sequence[Action]:
        trial = observation.trials.get(self._states[str(best)])
        if trial is None or not trial.kept:
            self._phase, reason = "over", "the best of the rates tried; its state is not kept"
            return (Set(self._rate, self._at(best), reason=reason), Release(self._rate, reason=reason))
        peak = self._at(best + rungs.minimum(self._scores(), self._start, best))
        score, train = map(_known, self._results[self._rung][str(best)])
        validated = VALIDATION in trial.signals and trial.signals[VALIDATION].last == trial.score
        self._phase = "watch"
        self._relapse.begin(
            [_known(start) for start in self._starts],
            [score, train],
            validated and self._judge == 0,
            (trial.step, observation.spent),
            peak,
            self._steps(observation, self._rung).warm,
        )
        evidence = {
            f"{self._at(place):.3g} for {part:.0%}": score
            for rung, part in enumerate(RUNGS)
            for place, score in self._scores(rung).items()
            if math.isfinite(score)
        }
        actions: list[Action] = [Adopt(trial.id, reason="the best of the rates tried", evidence=evidence)]
        if peak != self._at(best):
            actions.append(Set(self._rate, peak, reason="between the best rates", evidence=evidence))
        return (*actions, Release(self._rate, reason="the search is over"))

    def _late(self, observation: Observation) -> bool:
        return observation.spent - self._began > SHARE * (observation.budget or 0)

    def _at(self, place: float) -> float:
        return float(self._first * SPACING**place)

    def _reachable(self, observation: Observation, place: int) -> bool:
        state = observation.hyperparameters[self._rate]
        return (state.low or 0.0) <= self._at(place) <= (math.inf if state.high is None else state.high)

    def _steps(self, observation: Observation, rung: int) -> Steps:
        return Steps.of(RUNGS[rung], observation.budget or 0, FEWEST)

    def _ask(self, observation: Observation, places: Sequence[int]) -> Sequence[Action]:
        self._places = [p for p in places if p == places[0] or self._reachable(observation, p)]
        return [self._probe(observation, place) for place in self._places]

    def _probe(self, observation: Observation, place: int) -> Probe:
        rate, trial = self._at(place), observation.trials.get(self._states.get(str(place), -1))
        earlier = (trial.id, trial.step - trial.start) if trial is not None and trial.kept else None
        steps, reason = self._steps(observation, self._rung), f"how good is {rate:.3g}?"
        values, judged = {self._rate: rate}, self._judge == 0
        evidence = {"first rate": self._first, "factors of √10 from it": place}
        return self._trial(observation, values, steps, earlier, reason, evaluate=judged, evidence=evidence)


def _known(value: float | None) -> float:
    return math.inf if value is None else value
