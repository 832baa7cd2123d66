"""AutoLRS: the rate of each stage of the training by Bayesian optimisation of a forecast loss; a peer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autotune.records import Action, HyperparameterState, Observation, Probe, Set, Trial, TuneError

from .background import Background
from .forecast import FEWEST, exponential
from .gaussian_process import Surrogate
from .memory import RETRY, Remembering, free, refused

TAU, SHORTEST = 1000, 100  # steps of the first stage: without a budget, and at the least
DOUBLED = 3  # times that a stage is twice as long as the one before
STAGES = 10  # of a budget
EXPLORED = 10  # rates a stage
TRIED = 10  # steps of a stage over those of a trial
REACH = 30.0  # factor about the present rate within which the others are
KAPPA = 1e6  # standard deviations below the mean
GRID = 101  # rates that are compared
PATIENT = 3  # refusals in a row after which nothing is tried any more


class AutoLRS(Remembering):
    """Trains in stages, each at the one rate of ten that promises the lowest loss at the stage's end.

    *Stage.* τ steps at a constant rate. Before it ten rates are tried from the present state for τ/10 steps
    each: the present one, then where the lower confidence bound μ − κσ of a Gaussian process over log rates
    is lowest. Each trial's losses are followed by an exponential (`forecast.exponential`), whose value at τ
    is the rate's score. The best rate of all is set; no steps of a trial are kept. From stage to stage τ
    doubles, up to eight times the first. At full length the forecast is of the validation loss.

    *Cost.* The search takes as many steps as the training that it is for: half of the budget. So the first τ
    is a budget's 1/126, which makes ten stages, but at least 100 steps; 1,000 without a budget. A stage is
    cut short to fit into what is left with its search, and where a trial would have fewer than 8 steps the
    last rate stays.

    *Differences* from the published: a trial brings back the generators and the position in the data, so
    that all rates see the same batches; the validation loss is measured at a trial's end, and moved on by
    the forecast fall of the training loss, instead of being forecast from values on the way; the first rate
    is the present one, not a random one; each rate is chosen while the one before it is tried, by a process
    that takes the latter's forecast for granted, so that no step waits for a fit; τ follows the budget; the
    range, which is the user's there, is a factor of 30 about the present rate unless given. A lost trial is
    worse than all others. κ = 10⁶, as in its repository, explores only.

    It harms runs that are short, or healthy: it gives up half of the steps, and what falls fastest over one
    stage is often too low a rate for the next (Wu et al. 2018). A peer, for comparison.

    Source: Jin et al. 2021, "AutoLRS: Automatic Learning-Rate Schedule by Bayesian Optimization on the Fly",
    ICLR; the constants are those of github.com/YuchenJin/autolrs.

    Args:
        hyperparameter: the rate, positive.
        tau: steps of the first stage, at least 80; None: as above.
        low: lowest rate that is tried, positive; None: a thirtieth of the present one.
        high: highest rate that is tried; None: 30 times the present one.
        name: unique within a run.

    Raises:
        TuneError: for an argument outside these ranges.
    """

    MEMORY = (
        "_tau", "_stage", "_range", "_rates", "_forecasts", "_trial", "_until", "_refusals",
    )  # fmt: skip

    def __init__(
        self,
        hyperparameter: str = "lr",
        *,
        tau: int | None = None,
        low: float | None = None,
        high: float | None = None,
        name: str = "auto_lrs",
    ) -> None:
        least = TRIED * FEWEST
        ordered = low is None or high is None or low < high
        for rule, holds, value in (
            (f"tau is at least {least} steps", tau is None or tau >= least, tau),
            ("0 < low < high", ordered and all(b is None or b > 0 for b in (low, high)), (low, high)),
        ):
            if not holds:
                raise TuneError(f"{rule}, got {value!r}; leave it out for the default")
        self.name = name
        self.requires: Sequence[str] = ("loss",)
        self.controls: Sequence[str] = (hyperparameter,)
        self._first, self._bounds = tau, (low, high)
        self._background = Background()
        self._tau = 0  # of this stage
        self._stage = 0  # how many there were
        self._range: list[float] = []  # lowest and highest rate of this stage
        self._rates: list[float] = []  # tried before this stage; the last one is still to come back
        self._forecasts: list[float | None] = []  # of those that have; None: lost
        self._trial: int | None = None  # the decision whose result is awaited
        self._until = 0  # spent before which there is nothing to do
        self._refusals = 0  # in a row

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        rate = observation.hyperparameters[self.controls[0]]
        for decision in observation.decisions:
            if decision.source == self.name and isinstance(decision.action, Probe) and decision.applied:
                self._trial, self._refusals = decision.id, 0
        if refused(observation, self.name):
            self._until, self._refusals = max(self._until, observation.spent + RETRY), self._refusals + 1
        if not free(rate) or float(rate.value) <= 0:
            self._forget()
            return ()
        trial = observation.trials.get(self._trial) if self._trial is not None else None
        if trial is not None:
            return self._next(observation, rate, trial)
        if observation.spent < self._until or self._refusals >= PATIENT:
            return ()
        if not self._rates:
            return self._begin(observation, rate)
        return self._try(observation)  # it was lost with the process, or with what another policy has adopted

    def _next(self, observation: Observation, rate: HyperparameterState, trial: Trial) -> Sequence[Action]:
        """A rate has been tried."""
        self._forecasts.append(self._forecast(trial))
        if len(self._rates) == EXPLORED:
            return self._train(observation, rate)
        self._rates.append(self._background.answer(_choose, *self._evidence()))
        return self._try(observation)

    def _begin(self, observation: Observation, rate: HyperparameterState) -> Sequence[Action]:
        """A stage: how long it is, and the first rate."""
        now, left = float(rate.value), observation.remaining
        low, high = self._bounds
        lowest = max(rate.low or 0.0, low or now / REACH)
        highest = min(rate.high or math.inf, high or now * REACH)
        first = self._first or TAU
        if self._first is None and observation.budget is not None:
            length = sum(2 ** min(stage, DOUBLED) for stage in range(STAGES))
            first = max(SHORTEST, observation.budget // (2 * length))
        self._tau = first * 2 ** min(self._stage, DOUBLED)
        if left is not None:
            self._tau = min(self._tau, left // 2)
        if self._tau // TRIED < FEWEST or lowest >= highest:
            return ()
        self._range, self._rates = [lowest, highest], [min(max(now, lowest), highest)]
        return self._try(observation)

    def _try(self, observation: Observation) -> Sequence[Action]:
        """Try the last of the rates, and choose the next one meanwhile."""
        rate, steps, self._trial = self._rates[-1], self._tau // TRIED, None
        self._until = observation.spent + steps + RETRY  # when it is asked for again
        if len(self._rates) < EXPLORED:
            self._background.begin(_choose, *self._evidence())
        reason = f"where does {rate:.3g} lead in {self._tau} steps?"
        return (Probe(steps, (Set(self.controls[0], rate, reason=reason),), reason=reason),)

    def _evidence(self) -> tuple[tuple[float, ...], tuple[float | None, ...], float, float]:
        """What the next rate is chosen by; the last one's forecast comes too late for that."""
        low, high = self._range
        return tuple(self._rates), tuple(self._forecasts[: len(self._rates) - 1]), low, high

    def _forecast(self, trial: Trial) -> float | None:
        """The loss at the end of the stage; None for a lost trial."""
        loss = trial.signals.get("loss")
        if math.isinf(trial.score) or loss is None:
            return None
        fit = exponential((loss.step - trial.start).astype(float), loss.value)
        end = fit.at(self._tau)
        if self._stage >= DOUBLED and "validation/loss" in trial.signals:
            end += trial.score - fit.at(trial.step - trial.start)
        return end if math.isfinite(end) else None

    def _train(self, observation: Observation, rate: HyperparameterState) -> Sequence[Action]:
        """The stage itself, at the best rate."""
        found = [(f, r) for f, r in zip(self._forecasts, self._rates, strict=True) if f is not None]
        evidence = {"tau": self._tau, "stage": self._stage, "lost": EXPLORED - len(found)}
        self._until = observation.spent + self._tau
        self._stage += 1
        self._forget()
        if not found:
            return ()
        forecast, best = min(found)
        if best == float(rate.value):
            return ()
        reason = f"of {EXPLORED} rates it promises the lowest loss in {self._tau} steps"
        return (Set(rate.name, best, reason=reason, evidence={**evidence, "forecast": forecast}),)

    def _forget(self) -> None:
        """What was tried from an earlier state."""
        self._rates, self._forecasts, self._trial = [], [], None


def _choose(rates: tuple[float, ...], forecasts: tuple[float | None, ...], low: float, high: float) -> float:
    """The rate with the lowest confidence bound; rates without a forecast yet are taken as expected."""
    places = (np.log(rates)[:, None] - math.log(low)) / math.log(high / low)
    scores = [math.inf if forecast is None else forecast for forecast in forecasts]
    surrogate = Surrogate(places[: len(scores)], scores).believing(places[len(scores) :])
    grid = np.linspace(0, 1, GRID)[:, None]
    mean, deviation = surrogate.predict(grid)
    place = float(grid[int(np.argmin(mean - KAPPA * deviation)), 0])
    return float(min(max(low * (high / low) ** place, low), high))
