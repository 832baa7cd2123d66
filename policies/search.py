"""Rate search: tries rates out inside the run, goes on from the best trial's own state, and cools down."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autotune.records import Action, Adopt, Observation, Probe, Ramp, Set, Suggest, Trial

from .memory import Remembering, free

REACH = 0.3  # ‖Δw‖/‖w‖ of a step at the highest rate that is worth a trial to begin with
RATIO = math.sqrt(10)  # between two rates
FIRST, SECOND = 0.015, 0.05  # length of a trial of the first and of the second rung, parts of the budget
COOLED = 0.4  # of a trial of the first rung
WARM = 0.6  # of what is not cooled
FEWEST = 5  # steps of a trial
MOST = 8  # trials of the first rung
FINALISTS = 2
LOST = 10.0  # times the loss at the start, at which a trial is given up


class RateSearch(Remembering):
    """Finds the rate by trials from one state, whatever the rate was, and decays it from there to the end.

    *Anchor.* A step at the present rate says how far a unit of rate moves the weights; a rate that would move
    them by 0.3 of their size is the first to be tried.

    *First rung.* Short trials at rates √10 apart, warmed up and cooled down on a branch; downwards from the
    anchor, upwards where the highest wins, until the best one has a worse neighbour on either side.

    *Second rung.* The best two go on from their own states, are cooled again, and the better one is adopted;
    a tie goes to the lower rate.

    *Tail.* The rate decays in a line to nothing over the steps that are left.

    Args:
        hyperparameter: the rate, on a log scale.
        hold: part of the steps that are left at which the decay begins.
        name: unique within a run.
    """

    MEMORY = ("_phase", "_asked", "_rates", "_scores", "_kept", "_peak", "_from")

    def __init__(self, hyperparameter: str = "lr", *, hold: float = 0.0, name: str = "rate_search") -> None:
        self.name = name
        self.requires: Sequence[str] = ("loss",)
        self.controls: Sequence[str] = (hyperparameter,)
        self._hold = hold
        self._phase = "anchor"
        self._asked: list[int] = []  # decisions whose results are awaited
        self._rates: dict[str, float] = {}  # of trials, by id
        self._scores: dict[str, float] = {}  # of the first rung, by rate
        self._kept: dict[str, int] = {}  # trials of the first rung, by rate
        self._peak = 0.0
        self._from = 0

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        if self._phase == "over":
            return ()
        if self._phase == "tail":
            return self._tail(observation)
        rate = observation.hyperparameters[self.controls[0]]
        if observation.budget is None or not free(rate):
            self._phase = "over"
            return (Suggest(reason="no search: it needs a budget, and a rate that nobody else moves"),)
        for decision in observation.decisions:
            if decision.source == self.name and isinstance(decision.action, Probe):
                if not decision.applied:
                    self._phase = "over"
                    return ()
                self._asked.append(decision.id)
                if decision.action.then:
                    self._rates[str(decision.id)] = float(decision.action.then[-1].value)
        trials = [observation.trials[id] for id in self._asked if id in observation.trials]
        self._asked = []
        if self._phase == "anchor":
            return self._anchor(observation, float(rate.value), trials)
        if self._phase == "first":
            return self._first(observation, trials)
        return self._second(observation, trials)

    def _anchor(self, observation: Observation, rate: float, trials: Sequence[Trial]) -> Sequence[Action]:
        if not trials:
            steps = 1 if observation.step == 0 else 10
            reason = "how far does a unit of rate move the weights?"
            return (Probe(steps, (Set(self.controls[0], rate, reason=reason),), reason=reason),)
        ratio = trials[0].signals.get("update_ratio")
        moved = ratio.last if ratio is not None else math.nan
        top = REACH * rate / moved if math.isfinite(moved) and moved > 0 else rate
        self._phase = "first"
        return self._rung(
            observation, [self._bounded(observation, top), self._bounded(observation, top / RATIO)]
        )

    def _first(self, observation: Observation, trials: Sequence[Trial]) -> Sequence[Action]:
        for trial in trials:
            key = repr(self._rates[str(trial.id)])
            self._scores[key], self._kept[key] = trial.score, trial.id
        rates = sorted(map(float, self._scores))
        best = min(rates, key=lambda r: (self._scores[repr(r)], r))
        low, high = self._bounded(observation, best / RATIO), self._bounded(observation, best * RATIO)
        if len(rates) < MOST:
            if math.isinf(self._scores[repr(best)]):
                lower = self._bounded(observation, rates[0] / RATIO)
                if lower < rates[0]:
                    return self._rung(observation, [lower])
            elif best == rates[0] and low < best:
                return self._rung(observation, [low])
            elif best == rates[-1] and high > best:
                return self._rung(observation, [high])
        finalists = sorted(rates, key=lambda r: (self._scores[repr(r)], r))[:FINALISTS]
        finalists = [r for r in finalists if math.isfinite(self._scores[repr(r)])]
        if not finalists:
            self._phase = "over"
            return (Suggest(reason="no rate was found at which the loss falls"),)
        self._phase = "second"
        n, cool = self._length(observation, SECOND, COOLED / 2)
        n = max(FEWEST, n - self._length(observation, FIRST, COOLED)[0])
        return [self._probe(observation, r, n, cool, 0, self._kept[repr(r)]) for r in finalists]

    def _second(self, observation: Observation, trials: Sequence[Trial]) -> Sequence[Action]:
        sound = [trial for trial in trials if trial.kept]
        if not sound:
            self._phase = "over"
            return ()
        best = min(sound, key=lambda t: (t.score, self._rates[str(t.id)]))
        self._peak, self._phase = self._rates[str(best.id)], "tail"
        evidence = {f"score at {float(rate):.3g}": score for rate, score in self._scores.items()}
        evidence |= {f"then at {self._rates[str(t.id)]:.3g}": t.score for t in sound}
        evidence = {key: value for key, value in evidence.items() if math.isfinite(value)}
        return (Adopt(best.id, reason="the best of the rates that were tried", evidence=evidence),)

    def _tail(self, observation: Observation) -> Sequence[Action]:
        if not self._from:
            self._from = observation.spent + round(self._hold * (observation.remaining or 0))
        rate = observation.hyperparameters[self.controls[0]]
        if observation.spent < self._from or not observation.remaining:
            return ()
        self._phase = "over"
        if not free(rate):
            return ()
        end = max(rate.low or 0.0, float(rate.value) * 1e-3)
        reason = "decay to the end of the run"
        return (Ramp(rate.name, end, observation.remaining, "linear", reason=reason),)

    def _rung(self, observation: Observation, rates: Sequence[float]) -> Sequence[Action]:
        n, cool = self._length(observation, FIRST, COOLED)
        return [
            self._probe(observation, rate, n, cool, round(WARM * n), None) for rate in dict.fromkeys(rates)
        ]

    def _probe(
        self, observation: Observation, rate: float, n: int, cool: int, warm: int, after: int | None
    ) -> Probe:
        name, low = self.controls[0], observation.hyperparameters[self.controls[0]].low or 0.0
        loss = observation.signals.get("loss")
        reason = f"how good is {rate:.3g}?"
        then: tuple[Set | Ramp, ...] = (Set(name, rate, reason=reason),)
        if warm > 1:
            then = (Set(name, max(low, rate / warm), reason=reason), Ramp(name, rate, warm, reason=reason))
        branch = (Ramp(name, max(low, 1e-3 * rate), cool, reason=reason),)
        return Probe(n, then, branch, after, reason=reason)

    def _length(self, observation: Observation, part: float, cooled: float) -> tuple[int, int]:
        whole = part * (observation.budget or 0)
        return max(FEWEST, round(whole * (1 - cooled))), max(3, round(whole * cooled))

    def _bounded(self, observation: Observation, rate: float) -> float:
        state = observation.hyperparameters[self.controls[0]]
        return min(max(rate, state.low or 0.0), state.high or math.inf)
