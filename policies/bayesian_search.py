"""Bayesian search: a Gaussian process of the scores of trials says which trial is next, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from autotune.records import Action, Adopt, Observation, Release, Set, Suggest, Trial, TuneError, Value

from .background import Background
from .bayesian_plan import Lengths, Plan, Proposal, Tried, choose, fit, paired_errors, propose
from .gaussian_process import Encoder, Surrogate
from .memory import free
from .trying import COOLED, VALIDATION, Searching, Steps, finite

BELOW, ABOVE = 1e-4, 1e2  # where the rates lie that may be tried, times that one
LOWER = 10.0  # by which the rate is lowered until two trials are better than the start
SHORT, LONG = 0.03, 0.06  # length of a trial, parts of the run
FEWEST = 300  # steps of a run in which trials are long enough to tell rates apart
LOST = 3.0  # times the loss at the start, at which a trial is given up


class BayesianSearch(Searching):
    """Finds hyperparameters by trials from one state: a Gaussian process proposes each next one.

    *Anchor.* See `Searching`; rates reach from 1e-4 to 100 times it, however far off the present one is. What
    else is searched lies between its bounds, or in `ranges`.

    *Trials.* Short ones take 3 % of the run, long ones 6 %, which go on from a short one's state where it is
    kept. Until two are finite and one is better than the start, each is at a tenth of the lowest
    rate. Without a rate, the first two are at the present values and half-way.

    *Law.* A Gaussian process models log score (score, where one is not positive) over the hyperparameters and
    the length, with the standard errors of the scores, paired, as noise. The gain of a trial is by how much
    it is expected to lower the least mean at full length, of the points tried and of its own. What gains most
    per step is next: a new point, short, or one that was tried, long. The search ends when no trial gains
    more than the part of the run that it takes, or when the share is used up; two points are tried at full
    length in any case.

    *End.* Of the long trials the one with the lowest mean is adopted, or the lowest rate of those within a
    standard deviation of it; then the hyperparameters are released. What follows, a hold and a decay, is
    another policy's: `[BayesianSearch(), HoldAndTail()]`.

    *Never waiting.* Kernels are fitted in a thread during trials; a result is then added to the process in a
    few milliseconds, without a fit.

    *Fall-backs.* Without a budget, or below 300 steps, it only advises in words. What a person holds, or a
    ramp moves, is left out; the search is over when anyone else moves what is searched. A trial that was lost
    with its process is made again, and what others have scored stays; where no state is kept, the best values
    are set. What stands in for a surrogate that cannot be fitted, see `Surrogate`; the evidence says it.

    *When it harms.* A trial of 6 % of the run prefers higher rates than the run needs where the gradient's
    noise decides what is reached; and where the rate was right, the trials take up to a quarter of the run.

    Source: Frazier, Powell & Dayanik 2009 and Scott, Frazier & Powell 2011 (the knowledge gradient: expected
    improvement under noise); Swersky, Snoek & Adams 2013 (length as an input, gain per cost).

    Args:
        names: hyperparameters to search over.
        rate: which of them is the learning rate, if any is.
        ranges: (low, high) by name, instead of the bounds; on a log scale from high / low = 100 on.
        share: largest part of the steps that are left which trials may take; 0.2 holds five of them.
        name: unique within a run.

    Raises:
        TuneError: for no names, or a share out of range.
    """

    MEMORY = (
        *Searching.MEMORY, "_names", "_present", "_ranges", "_whole", "_began", "_done", "_coming",
    )  # fmt: skip

    def __init__(
        self,
        names: Sequence[str] = ("lr",),
        *,
        rate: str = "lr",
        ranges: Mapping[str, tuple[float, float]] | None = None,
        share: float = 0.25,
        name: str = "bayesian_search",
    ) -> None:
        if not names or isinstance(names, str):
            raise TuneError(f"a search has one or more names, got {names!r}; give a tuple of them")
        if not 0.2 <= share < 1:
            raise TuneError(f"share lies in [0.2, 1), got {share!r}; 0.25 is usual")
        super().__init__(names, rate, LOST, name)
        self._given, self._share = dict(ranges or {}), share
        self._background = Background()
        self._names: list[str] = []  # that nobody else moves
        self._present: dict[str, Value] = {}  # values at the beginning
        self._ranges: dict[str, list[float]] = {}
        self._whole = self._began = 0  # steps that were left at the beginning, and `spent` then
        self._done: list[Tried] = []
        self._coming: Tried | None = None
        self._fresh = self.state_dict()

    def search(self, observation: Observation) -> Sequence[Action]:
        """See `Searching`."""
        states = observation.hyperparameters
        if self._phase == "begin":
            return self._begin(observation)
        if taken := [name for name in self._names if not free(states[name])]:
            return self._end(f"the search is over: someone else moves {', '.join(taken)}")
        ids, made = self._asked(observation)
        if not made:
            return self._finish(observation, None)
        # A policy is asked when its trials are over: one that is not there was lost with the old process.
        trial = observation.trials.get(ids[-1]) if ids else None
        if self._phase == "anchor":
            return self._anchor(observation) if trial is None else self._anchored(observation, trial)
        assert self._coming is not None
        if trial is None:
            if observation.step != self._step:  # scores from here and there do not compare
                self._step, self._done = observation.step, []
            self._compare(observation.trials)
            again = Proposal(self._coming["values"], self._coming["long"], {"again": True})
            return self._try(observation, again, None)
        return self._search(observation, trial)

    def _begin(self, observation: Observation) -> Sequence[Action]:
        states, self._phase = observation.hyperparameters, "over"
        self._names = [name for name in self.controls if free(states[name])]
        if not self._names:
            return ()
        if observation.remaining is None or observation.remaining < FEWEST:
            return (Suggest(reason=f"no search: it needs a budget (total_steps), and {FEWEST} steps of it"),)
        self._whole, self._began = observation.remaining, observation.spent
        validation = observation.signals.get(VALIDATION)
        self._starts[0] = None if validation is None else finite(validation.last)
        self._present = {name: states[name].value for name in self._names}
        others = [name for name in self._names if name != self._rate]
        encoder = Encoder.of([states[name] for name in others], self._given)
        self._ranges = {axis.name: [axis.low, axis.high] for axis in encoder.axes}
        self._phase = "search"
        return self._anchor(observation) if self._rate in self._names else self._next(observation, None)

    def _anchored(self, observation: Observation, trial: Trial) -> Sequence[Action]:
        rate, state = float(self._present[self._rate]), observation.hyperparameters[self._rate]
        top = self._top(observation, trial)
        low, high = self._given.get(self._rate, (BELOW * top, ABOVE * top))
        low, high = max(low, state.low or 0.0), min(high, state.high or math.inf)
        if not low < high:  # the anchor lies outside of the bounds: they are what is left
            low, high = state.low or BELOW * rate, state.high or ABOVE * rate
        self._ranges[self._rate] = [low, high]
        self._present[self._rate] = min(max(top, low), high)
        self._phase = "search"
        return self._next(observation, None)

    def _search(self, observation: Observation, trial: Trial) -> Sequence[Action]:
        assert self._coming is not None
        fitted = self._background.answer(fit, self._plan(observation)) if self._scores else None
        self._done.append({**self._coming, "id": trial.id, "score": finite(trial.score)})
        self._compare(observation.trials)
        return self._next(observation, fitted)

    def _compare(self, trials: Mapping[int, Trial]) -> None:
        """Which trials are kept, and the errors of their scores: paired with those of the same length."""
        for tried in self._done:
            tried["kept"] = tried["id"] in trials and trials[tried["id"]].kept
        for long in (False, True):
            scored = [t for t in self._done if t["long"] == long and t["score"] is not None]
            there = [t for t in scored if t["id"] in trials]
            for tried, error in zip(there, paired_errors([trials[t["id"]] for t in there]), strict=True):
                tried["error"] = finite(error)

    def _next(self, observation: Observation, fitted: Surrogate | None) -> Sequence[Action]:
        proposal = self._designed(observation)
        if proposal is None and self._scores:
            proposal = propose(self._plan(observation), fitted, self._left(observation))
        if proposal is None:
            return self._finish(observation, fitted)
        return self._try(observation, proposal, fitted)

    def _designed(self, observation: Observation) -> Proposal | None:
        """A trial that needs no surrogate; None, where there is enough to go by, or no lower rate."""
        values = self._present
        if self._rate in self._names and self._done:
            lowest = min(float(tried["values"][self._rate]) for tried in self._done)
            rate = max(self._ranges[self._rate][0], lowest / LOWER)
            if (self._better and len(self._scores) > 1) or rate == lowest:
                return None
            values = {**values, self._rate: rate}
        elif len(self._done) == 1:
            encoder = self._encoder(observation)
            values = encoder.decode([0.5] * encoder.columns)
        elif self._done:
            return None
        return Proposal(values, False, {"trials": len(self._done)})

    def _try(self, observation: Observation, trial: Proposal, fitted: Surrogate | None) -> Sequence[Action]:
        values = {name: trial.values[name] for name in self._names}  # in this order, after a resume too
        steps, after = self._steps(trial.long), self._shorter(trial)
        earlier = None if after is None else (after, self._lengths.shared)
        named = (f"{n} = {v:.3g}" if isinstance(v, float) else f"{n} = {v}" for n, v in values.items())
        reason = f"how good is {', '.join(named)}?"
        probe = self._trial(observation, values, steps, earlier, reason, evidence=trial.evidence)
        if probe.most > self._left(observation):
            return self._finish(observation, fitted)
        values, long = trial.values, trial.long
        self._coming = Tried(values=values, long=long, id=0, score=None, error=None, kept=False)
        if self._scores:
            self._background.begin(fit, self._plan(observation))
        return (probe,)

    def _finish(self, observation: Observation, fitted: Surrogate | None) -> Sequence[Action]:
        self._phase = "over"
        if not self._better:
            return (Suggest(reason="no values were found at which the loss falls"),) if self._done else ()
        self._compare(observation.trials)
        best = choose(self._plan(observation), fitted)
        reason = "the best of what was tried"
        released = [Release(name, reason="the search is over") for name in self._names]
        if not best["kept"]:
            return [*(Set(n, best["values"][n], reason=reason) for n in self._names), *released]
        spent = observation.spent - self._began
        evidence = {"trials": len(self._done), "steps": spent, "score": best["score"]}
        return [Adopt(best["id"], reason=reason, evidence=evidence), *released]

    # --- what follows from the memory --------------------------------------------------------------------

    @property
    def _scores(self) -> list[float]:
        return [tried["score"] for tried in self._done if tried["score"] is not None]

    @property
    def _better(self) -> bool:
        """Whether a trial has a score that is better than the start."""
        return bool(self._scores) and (self._starts[0] is None or min(self._scores) < self._starts[0])

    def _left(self, observation: Observation) -> int:
        """Steps that trials may still take."""
        return int(self._share * self._whole) - (observation.spent - self._began)

    def _plan(self, observation: Observation) -> Plan:
        rate = self._rate if self._rate in self._names else None
        done = tuple(Tried(**tried) for tried in self._done)
        return Plan(self._encoder(observation), rate, done, self._starts[0], self._lengths, self._whole)

    def _encoder(self, observation: Observation) -> Encoder:
        ranges = {name: (low, high) for name, (low, high) in self._ranges.items()}
        return Encoder.of([observation.hyperparameters[name] for name in self._names], ranges)

    def _steps(self, long: bool) -> Steps:
        cooled = COOLED if self._rate in self._names else 0.0
        return Steps.of(LONG if long else SHORT, self._whole, cooled=cooled)

    @property
    def _lengths(self) -> Lengths:
        short, long = self._steps(False), self._steps(True)
        return Lengths(short.own + short.cool, long.own + long.cool, short.own)

    def _shorter(self, trial: Proposal) -> int | None:
        """The short trial that a long one goes on from; None: its state is not kept."""
        there = (t for t in self._done if t["kept"] and not t["long"] and t["values"] == trial.values)
        return next((t["id"] for t in there), None) if trial.long else None
