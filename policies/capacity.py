"""Capacity advisor: which hyperparameter should move which way, from both errors and the user's target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from autotune.records import Action, Evidence, HyperparameterState, Observation, Set, Suggest, TuneError

from .evaluations import Evaluations, Trend, binding_decay, noise
from .memory import Remembering, moves

WINDOW, NOISE = 5, 9  # evaluations that advice rests on, and that the noise is measured on
ERRORS = 2.0  # standard errors by which a target is missed or met
STALLED = 0.005  # relative change an evaluation, below which a loss stands
CRAWLS = 0.02  # part of that, which is progress still where it is clear of the noise
RATE, LESS, MORE, DROPOUT = 3.0, 10.0, 3.0, 0.1  # factors for the rate and the decay; steps of dropout
HIGHEST = 4.0  # the highest decay, over the one for which rate × decay × steps of the run is 1
MOST = 8  # suggestions in a run

Situation = Literal["met", "waiting", "unstable", "slow", "stalled", "gap"]


class Advice(NamedTuple):
    """A change, or None for words alone, and why."""

    name: str | None
    value: float
    why: str


class CapacityAdvisor(Remembering):
    """Suggests, from training and validation error against a target, what should move which way; never acts.

    *Situations*, from the last 5 evaluations with their noise (a value misses or meets the target, rises or
    falls, when it does so beyond its standard errors):

    | training misses the target | and its error | advice, one at a time |
    | --- | --- | --- |
    | yes | rises, or is higher than before the rate was raised | unstable: a third of the rate |
    | yes | falls, but not to the target in time | slow: three times the rate; train longer |
    | yes | stands | stalled: dropout −0.1; a tenth of the decay; a third of the rate; more units |
    | no, validation does | | gap: three times the decay; dropout +0.1; more data, or fewer units |

    Nothing is said while the training error falls to the target in time, or the validation error falls. A new
    suggestion comes 5 evaluations after the last one or after a change of these hyperparameters; the same
    one comes again only when the hyperparameter's value is another; there are at most 8 in a run, and none
    when fewer than 5 evaluations are left.

    Source: Goodfellow, Bengio & Courville 2016, sections 11.2 to 11.4.1 and table 11.1.

    Args:
        target: the error (or accuracy) that is good enough, for training and validation alike.
        train: signal, in eval mode.
        validation: signal.
        larger_is_better: for accuracies.
        rate: name of the hyperparameter; None: none is registered, and advice on it is in words.
        weight_decay: likewise.
        dropout: likewise.
        name: unique within a run.

    Raises:
        TuneError: for a target that is not finite.
    """

    MEMORY = ("_since", "_seen", "_given", "_count", "_raised")

    def __init__(
        self,
        target: float,
        *,
        train: str = "train/loss",
        validation: str = "validation/loss",
        larger_is_better: bool = False,
        rate: str | None = "lr",
        weight_decay: str | None = "weight_decay",
        dropout: str | None = "dropout",
        name: str = "capacity_advisor",
    ) -> None:
        if not np.isfinite(target):
            raise TuneError(
                f"the target is a finite number, got {target!r}; give the error that is good enough"
            )
        self.name = name
        self.requires: Sequence[str] = (validation, train)
        self.controls: Sequence[str] = tuple(n for n in (rate, weight_decay, dropout) if n is not None)
        self._target, self._sign = target, -1.0 if larger_is_better else 1.0
        self._rate, self._decay, self._dropout = rate, weight_decay, dropout
        self._since = -1  # spent after which evaluations count
        self._seen = -1  # spent at the newest evaluation that was looked at
        self._given: list[str] = []  # what was suggested
        self._count = 0
        self._raised: float | None = None  # excess of the training error when a higher rate was suggested

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        if any(d.applied and moves(d, n) for d in observation.decisions for n in self.controls):
            self._since = observation.spent
        found = Evaluations.of(observation, self.requires[0], self.requires[1], self._since)
        if len(found.spent) < WINDOW or found.spent[-1] <= self._seen or self._count >= MOST:
            return ()
        self._seen = int(found.spent[-1])
        excess = [self._sign * (x - self._target) for x in (found.train, found.validation)]
        errors = [noise(x[-NOISE:]) for x in excess]
        train, validation = (Trend.of(x[-WINDOW:], e) for x, e in zip(excess, errors, strict=True))
        left = None if observation.remaining is None else observation.remaining / max(found.every, 1.0)
        if left is not None and left < WINDOW:
            return ()  # too late to see what comes of it
        situation = _situation(train, validation, errors, abs(self._target), left)
        if situation == "slow" and self._raised is not None and train.mean > self._raised:
            situation = "unstable"
        for advice in self._advice(situation, observation):
            state = None if advice.name is None else observation.hyperparameters[advice.name]
            key = f"{situation} {advice.why} {'' if state is None else f'{state.value:.6g}'}"
            if key in self._given or (state is not None and advice.value == state.value):
                continue
            self._given = [*self._given, key]
            self._count, self._since = self._count + 1, observation.spent
            self._raised = train.mean if situation == "slow" else None
            evidence = {
                "situation": situation,
                "target": self._target,
                "train": self._target + self._sign * train.mean,
                "train_slope": self._sign * train.slope,
                "validation": self._target + self._sign * validation.mean,
                "validation_slope": self._sign * validation.slope,
            }
            return (_suggestion(advice, state, evidence),)
        return ()

    def _advice(self, situation: Situation, observation: Observation) -> Sequence[Advice]:
        """What helps in a situation, first things first."""
        rate = _value(observation, self._rate)
        decay, dropout = _value(observation, self._decay), _value(observation, self._dropout)
        binds = binding_decay(observation, self._rate, self._decay)
        if situation == "unstable":
            return [
                self._moved(self._rate, observation, rate / RATE, "the training error rises: lower the rate")
            ]
        if situation == "slow":
            return [
                self._moved(self._rate, observation, rate * RATE, "training is too slow: raise the rate"),
                Advice(None, 0.0, "training is too slow for the target: train longer"),
            ]
        if situation == "stalled":
            why = "the training error stands above the target"
            out = []
            if dropout > 0:
                out.append(self._moved(self._dropout, observation, dropout - DROPOUT, f"{why}: less dropout"))
            if decay > binds:
                out.append(self._moved(self._decay, observation, decay / LESS, f"{why}: less weight decay"))
            out.append(self._moved(self._rate, observation, rate / RATE, f"{why}: lower the rate"))
            return [*out, Advice(None, 0.0, f"{why}: more layers or units, or better inputs")]
        if situation == "gap":
            why = "training meets the target, validation does not"
            more = max(decay, min(max(MORE * decay, binds), HIGHEST * binds))
            return [
                self._moved(self._decay, observation, more, f"{why}: more weight decay"),
                self._moved(self._dropout, observation, dropout + DROPOUT, f"{why}: more dropout"),
                Advice(None, 0.0, f"{why}: more data or augmentation, else fewer units"),
            ]
        return []

    def _moved(self, name: str | None, observation: Observation, value: float, why: str) -> Advice:
        if name is None:
            return Advice(None, 0.0, why)
        state = observation.hyperparameters[name]
        low = value if state.low is None else state.low
        high = value if state.high is None else state.high
        return Advice(name, min(max(value, low), high), why)


def _situation(
    train: Trend, validation: Trend, errors: Sequence[float], scale: float, left: float | None
) -> Situation:
    """From excesses over the target; `left` is evaluations, and `scale` the target's size."""
    clear_train, clear_validation = (ERRORS * e / WINDOW**0.5 for e in errors)
    least = STALLED * max(scale, abs(train.mean))
    if train.mean > clear_train:
        if train.slope > max(ERRORS * train.error, least):
            return "unstable"
        crawl = max(ERRORS * train.error, least * CRAWLS)
        if train.slope < -min(max(train.error, least), crawl):
            in_time = left is None or train.mean + train.slope * left <= 0
            return "waiting" if in_time else "slow"
        return "stalled"
    if validation.mean <= clear_validation:
        return "met"
    return "waiting" if validation.falls(STALLED) else "gap"


def _suggestion(advice: Advice, state: HyperparameterState | None, evidence: Evidence) -> Suggest:
    """A change to apply; in words alone where a person holds the hyperparameter."""
    if advice.name is None or state is None:
        return Suggest(reason=advice.why, evidence=evidence)
    if state.owner != "policy":
        reason = f"{advice.why}, from {state.value:.4g} to {advice.value:.4g}"
        return Suggest(reason=reason, evidence=evidence)
    return Suggest(Set(advice.name, advice.value, reason=advice.why), reason=advice.why, evidence=evidence)


def _value(observation: Observation, name: str | None) -> float:
    return 0.0 if name is None else float(observation.hyperparameters[name].value)
