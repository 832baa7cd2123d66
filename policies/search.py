"""Rate search: tries rates out inside the run, and goes on from the best trial's own state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autotune.records import (
    FACTOR,
    Action,
    Adopt,
    Observation,
    Probe,
    Ramp,
    Release,
    Rewind,
    Set,
    Suggest,
    Trial,
)

from .memory import Remembering, disturbed, free

VALIDATION, TRAIN, RATIO = "validation/loss", "loss", "update_ratio"
REACH = 0.3  # ‖Δw‖/‖w‖ of a step at the first rate that is tried
SPACING = math.sqrt(10)  # between two rates
RUNGS = (0.03, 0.06)  # lengths of trials, parts of the budget
COOLED = 0.3  # of a trial, on a branch
WARM = 0.01  # of the budget, in which the rate of a trial rises
FEWEST = 4  # steps of each of these
MOST = 8  # trials of a rung
SHARE = 0.25  # of the budget, after which no further rate is tried
LOST = 3.0  # times the loss at the start, at which a trial is given up
CLOSE = 0.1  # of what was gained in the first rung: a rate as good as that is tried in the second as well
TIE = 0.01  # of the score: a difference that does not count
PATIENCE = 0.12  # of the budget, after which the run is back at the score of its trial
LOWERINGS = 3


class RateSearch(Remembering):
    """Finds the rate by trials inside the run, whatever the rate was, and goes on with the best one's steps.

    *Anchor.* One step at the present rate shows how far a unit of rate moves the weights. The first rate that
    is tried would move them by 0.3 of their size; others are √10 apart. It is a scale, not a wall.

    *Trials.* All from one state, on the same batches: the rate rises in a line over 1 % of the budget, holds,
    and cools down to nothing over the last 30 % of the trial, on a branch; then the loss is evaluated. Those
    of the first rung take 3 % of the budget, downwards and upwards from the anchor until the best has a worse
    neighbour on either side. Those of the second take 6 %, since shorter ones prefer rates that are too high:
    the best, the one below, and on until the best is not the lowest. A rate is dead when its loss is no
    better than at the start; where all are, as in tasks that are learnt by heart first, the training loss
    decides.

    *Choice.* The best trial of the second rung is adopted, its own steps are kept, and the rate moves to
    where a parabola through its neighbours has its minimum, by at most half the distance; a tie goes down.

    *Afterwards.* A rate that destroys the run later is noticed: when two evaluations in a row are no better
    than at the start, the run goes back to where it was adopted; when 12 % of the budget has not brought it
    back to what its own trial had reached, to its best evaluation. Either way at a rate √10 lower, at most
    three times.

    It spends a quarter of the budget at most, mostly 15 to 20 %. Without a budget, and where the rate is a
    factor on a schedule, it does not search. It decays nothing: see `HoldAndTail`.

    *When it harms.* On a run whose rate was right, by the steps it spends: some 3 % of the loss.

    Source: successive halving (Jamieson & Talwalkar 2016) in one run; cooled trials against the bias of short
    horizons: Wu et al. 2018. The constants were set once, on ten workloads of 400 to 2,000 steps.

    Args:
        hyperparameter: the rate.
        name: unique within a run.
    """

    MEMORY = (
        "_phase", "_asked", "_top", "_at_start", "_rung", "_scores", "_states", "_goal", "_adopted", "_since",
        "_lowered", "_back",
    )  # fmt: skip
    requires: Sequence[str] = (TRAIN,)

    def __init__(self, hyperparameter: str = "lr", *, name: str = "rate_search") -> None:
        self.name = name
        self.controls: Sequence[str] = (hyperparameter,)
        self._phase = "anchor"
        self._asked: list[int] = []  # places on the grid, of the trials whose results are awaited
        self._top = 0.0  # the rate at place 0; those at places i are SPACING ** i times that
        self._at_start: float | None = None  # the loss that a rate has to be better than, where it is known
        self._rung = 0
        self._scores: list[dict[str, list[float | None]]] = [
            {} for _ in RUNGS
        ]  # score, training loss; by place
        self._states: dict[str, int] = {}  # the longest trial so far that is kept, by place
        self._goal = 0.0  # the score of the trial that was adopted
        self._adopted = 0  # the step that it had come to
        self._since = 0  # spent when it was, or when anyone last moved the rate
        self._lowered = 0  # times
        self._back = False  # whether the run has come back to that score

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        if self._phase == "over":
            return ()
        if self._phase == "watch":
            return self._watch(observation)
        rate = observation.hyperparameters[self.controls[0]]
        if rate.unit == FACTOR:
            return self._end("no search: a schedule of the user's has the rate")
        if observation.budget is None or not free(rate) or not float(rate.value) > 0:
            return self._end("no search: it needs a budget, and a rate above 0 that nobody else moves")
        asked = [d for d in observation.decisions if d.source == self.name and isinstance(d.action, Probe)]
        if not all(d.applied for d in asked):
            return self._end("no search: a trial was refused")
        trials = [observation.trials[d.id] for d in asked if d.id in observation.trials]
        if self._phase == "anchor":
            return self._anchor(observation, float(rate.value), trials)
        if len(trials) < len(self._asked):
            return self._end("no search: trials were lost with the process that ran them")
        for place, trial in zip(self._asked, trials, strict=True):
            cooled = trial.signals[TRAIN].since(trial.step + 1).value if TRAIN in trial.signals else ()
            train = float(np.mean(cooled)) if len(cooled) and math.isfinite(trial.score) else math.inf
            self._scores[self._rung][str(place)] = [_finite(trial.score), _finite(train)]
            if trial.kept:
                self._states[str(place)] = trial.id
        return self._search(observation)

    @property
    def _start(self) -> float:
        return _known(self._at_start)

    def _end(self, reason: str) -> Sequence[Action]:
        self._phase = "over"
        return (Suggest(reason=reason),)

    def _anchor(self, observation: Observation, rate: float, trials: Sequence[Trial]) -> Sequence[Action]:
        name = self.controls[0]
        if not trials:
            reason = "how far does a unit of rate move the weights?"
            steps = 1 if observation.step == 0 else 10  # one is enough where it is sampled
            return (Probe(steps, (Set(name, rate, reason=reason),), evaluate=False, reason=reason),)
        signals = trials[0].signals
        moved = signals[RATIO].last if RATIO in signals else math.nan
        self._top = REACH * rate / moved if math.isfinite(moved) and moved > 0 else rate
        if VALIDATION in observation.signals:
            self._at_start = _finite(observation.signals[VALIDATION].last)
        elif TRAIN in signals:
            self._at_start = _finite(float(signals[TRAIN].value[0]))
        self._phase = "search"
        return self._ask(observation, (0, -1))

    def _search(self, observation: Observation) -> Sequence[Action]:
        scores = {
            int(p): (_known(score), _known(train)) for p, (score, train) in self._scores[self._rung].items()
        }
        best = self._best(scores)
        further: int | None = None
        if best is None or best == min(scores):
            further = min(scores) - 1
        elif best == max(scores) and (self._rung == 0 or self._close(best)):
            further = best + 1
        full = len(scores) >= MOST or observation.spent > SHARE * (observation.budget or 0)
        if further is not None and not full and self._reachable(observation, further):
            return self._ask(observation, (further,))
        if best is None:
            return self._end("no rate was found at which the loss falls")
        if self._rung + 1 < len(RUNGS):
            self._rung += 1
            return self._ask(observation, [p for p in (best, best - 1) if self._reachable(observation, p)])
        return self._adopt(observation, best, scores)

    def _best(self, scores: Mapping[int, tuple[float, float]]) -> int | None:
        alive = {place: score for place, (score, _) in scores.items() if score < self._start}
        if alive:
            least = min(alive.values())
            return min(place for place, score in alive.items() if score <= least + TIE * abs(least))
        sound = [place for place in scores if math.isfinite(scores[place][1])]
        return min(sound, key=lambda place: (scores[place][1], place)) if sound else None

    def _close(self, best: int) -> bool:
        """Whether the rate above was about as good in the rung before, or was not tried there."""
        before = self._scores[self._rung - 1]
        at, above = (_known(before[str(p)][0]) if str(p) in before else -math.inf for p in (best, best + 1))
        return above <= at + CLOSE * (self._start - at)

    def _adopt(
        self, observation: Observation, best: int, scores: Mapping[int, tuple[float, float]]
    ) -> Sequence[Action]:
        if str(best) not in self._states:
            return self._end("the best trial was not kept")
        name, trial = self.controls[0], observation.trials[self._states[str(best)]]
        self._phase, self._goal = "watch", scores[best][0]
        self._adopted, self._since = trial.step, observation.spent
        evidence = {
            f"{self._rate(int(place)):.3g} for {part:.0%}": score
            for part, rung in zip(RUNGS, self._scores, strict=True)
            for place, (score, _) in sorted(rung.items(), key=lambda item: int(item[0]))
            if score is not None
        }
        actions: list[Action] = [Adopt(trial.id, reason="the best of the rates tried", evidence=evidence)]
        shift = self._shift(best, scores)
        if shift:
            actions.append(Set(name, self._rate(best + shift), reason="between the best rates"))
        return (*actions, Release(name, reason="the search is over"))

    def _shift(self, best: int, scores: Mapping[int, tuple[float, float]]) -> float:
        """How far from the best place the minimum lies, from -0.5 to 0.5."""
        at = scores[best][0]
        if best - 1 not in scores or not at < self._start:
            return 0.0
        below = min(scores[best - 1][0], self._start)
        if best + 1 not in scores:
            return 0.0
        above = min(scores[best + 1][0], self._start)
        bend = below - 2 * at + above
        return max(-0.5, min(0.5, 0.5 * (below - above) / bend)) if bend > 0 else 0.0

    def _watch(self, observation: Observation) -> Sequence[Action]:
        rate = observation.hyperparameters[self.controls[0]]
        if disturbed(observation, self.name, rate.name):
            self._since = observation.spent
        validation = observation.signals.get(VALIDATION)
        if validation is None or self._lowered >= LOWERINGS or not free(rate):
            return ()
        new = validation.spent > self._since
        values = np.where(np.isfinite(validation.value[new]), validation.value[new], math.inf)
        self._back = self._back or bool((values < self._goal).any())
        if len(values) < 2:
            return ()
        if not (values[-2:] < self._start).any():
            reason, to = "no better than at the start", self._adopted
        elif not self._back and observation.spent - self._since > PATIENCE * (observation.budget or 0):
            reason, to = "not back at what its trial had reached", int(validation.step[new][values.argmin()])
        else:
            return ()
        self._since, self._lowered = observation.spent, self._lowered + 1
        lower = Set(rate.name, max(rate.low or 0.0, float(rate.value) / SPACING), reason=reason)
        facts = {"best since": float(values.min()), "of the trial": self._goal, "at the start": self._start}
        evidence = {name: value for name, value in facts.items() if math.isfinite(value)}
        return (Rewind(to, then=(lower,), reason=reason, evidence=evidence),)

    def _rate(self, place: float) -> float:
        return float(self._top * SPACING**place)

    def _reachable(self, observation: Observation, place: int) -> bool:
        state = observation.hyperparameters[self.controls[0]]
        return (state.low or 0.0) < self._rate(place) < (math.inf if state.high is None else state.high)

    def _ask(self, observation: Observation, places: Sequence[int]) -> Sequence[Action]:
        self._asked = list(places)
        return [self._probe(observation, place) for place in places]

    def _probe(self, observation: Observation, place: int) -> Probe:
        name, rate, budget = self.controls[0], self._rate(place), observation.budget or 0
        low = observation.hyperparameters[name].low or 0.0
        whole = max(2 * FEWEST, round(RUNGS[self._rung] * budget))
        cool, warm = max(FEWEST, round(COOLED * whole)), max(FEWEST, round(WARM * budget))
        steps, reason = whole - cool, f"how good is {rate:.3g}?"
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
            give_up=LOST * self._start if self._start > 0 else math.inf,
            reason=reason,
        )


def _finite(value: float) -> float | None:
    """As it is kept in the memory, which has no infinities."""
    return value if math.isfinite(value) else None


def _known(value: float | None) -> float:
    return math.inf if value is None else value
