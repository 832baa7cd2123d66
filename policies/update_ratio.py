"""Update ratio: corrects a learning rate that is off by orders of magnitude."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.records import Action, HyperparameterState, Observation, Set, TuneError

from .memory import Remembering, disturbed, free

HIGH = 0.1  # ‖Δw‖/‖w‖ of a step, above which no rate is kept
PATH = 0.3  # of the weights' size, that the steps of a budget in a straight line have to exceed
LOW, LOW_UNKNOWN = 1e-3, 1e-5  # the low edge at most, and where no budget is known
WINDOW = 10  # newest ratios whose median counts
FEWEST, FEWEST_LOW = 2, 5  # ratios without which no rate is lowered, and none raised
MARGIN = 1.5  # by which the log of one ratio has to be outside; of the median of n, 1/√n of it
FURTHEST = 10.0  # factor of one move


class UpdateRatio(Remembering):
    """Keeps ‖Δw‖/‖w‖ inside a wide band, for the whole model or by layer group.

    *Law.* m is the median of the logs of the n ≤ 10 newest ratios since the rate last changed. Where it is
    outside the band by more than 1.5/√n, the rate moves by the factor that brings it to the edge, by 10 at
    most, and is measured anew. The high edge is 0.1. The low edge is 0.3 / budget (1e-3 at most, and 1e-5
    without a budget): below it the weights could not move by 0.3 of their size in the whole run even if all
    steps pointed one way. It exists only for ratios that have been below from the start: once they have been
    inside, or anyone else has moved the rate or rewound the run, the rate is never raised. So no schedule is
    fought, and a gradient that vanishes at the end is no reason to act. Ratios that are zero, infinite
    (weights that leave zero) or NaN are left out.

    The band is two to three orders wide: the ratio is a unit to anchor a rate by, not a target.

    *When it harms.* During a warm-up that the tuner cannot see (a scheduler that the rate multiplies), where
    the first ratios are small on purpose; in fine-tuning that is meant to leave the weights where they are.

    Source: a ratio of about 1e-3 as a check on the rate is practitioners' lore (CS231n notes, "ratio of
    weights:updates"). The edges were set once, on synthetic runs and on digits with MLP, CNN, transformer.

    Args:
        hyperparameter: the rate of the whole model, or the rate of each layer group by the group's name.
        name: unique within a run.

    Raises:
        TuneError: for no rate, or one rate for two groups.
    """

    MEMORY = ("_since", "_started")

    def __init__(self, hyperparameter: str | Mapping[str, str] = "lr", name: str = "update_ratio") -> None:
        if not hyperparameter:
            raise TuneError(
                f"hyperparameter is a rate, or layer groups with the rate of each, got {hyperparameter!r}; "
                "give 'lr', or {'head': 'lr/1'}"
            )
        if isinstance(hyperparameter, str):
            rates = {"update_ratio": hyperparameter}
        else:
            rates = {f"update_ratio/{group}": rate for group, rate in hyperparameter.items()}
        if len(set(rates.values())) < len(rates):
            raise TuneError(
                f"each layer group has a rate of its own, got {hyperparameter!r}; make one hyperparameter a "
                "group, such as learning_rate(optimizer, group=1)"
            )
        self.name = name
        self.requires: Sequence[str] = tuple(rates)
        self.controls: Sequence[str] = tuple(rates.values())
        self._since = dict.fromkeys(self.controls, 0)  # spent at which each rate was last moved, or asked for
        self._started = dict.fromkeys(self.controls, False)  # whether the low edge is gone

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        actions: list[Action] = []
        for signal, name in zip(self.requires, self.controls, strict=True):
            if disturbed(observation, self.name, name):
                self._since[name], self._started[name] = observation.spent, True
            rate = observation.hyperparameters[name]
            if rate.ramp_until is not None:
                self._since[name] = observation.spent
            elif free(rate):
                actions += self._judge(rate, signal, observation)
        return actions

    def _judge(self, rate: HyperparameterState, name: str, observation: Observation) -> Sequence[Action]:
        signal = observation.signals.get(name)
        if signal is None:
            return ()
        ratios = signal.value[signal.spent > self._since[rate.name]]
        ratios = ratios[np.isfinite(ratios) & (ratios > 0)][-WINDOW:]
        if len(ratios) < FEWEST:
            return ()
        level, margin = float(np.median(np.log(ratios))), MARGIN / math.sqrt(len(ratios))
        low = LOW_UNKNOWN if observation.budget is None else min(LOW, PATH / observation.budget)
        if level > math.log(HIGH) + margin:
            return self._move(rate, level, HIGH, observation, len(ratios))
        if self._started[rate.name] or len(ratios) < FEWEST_LOW:
            return ()
        if level < math.log(low) - margin:
            return self._move(rate, level, low, observation, len(ratios))
        self._started[rate.name] = level >= math.log(low) or len(ratios) == WINDOW
        return ()

    def _move(
        self, rate: HyperparameterState, level: float, edge: float, observation: Observation, count: int
    ) -> Sequence[Action]:
        factor = min(max(edge / math.exp(level), 1 / FURTHEST), FURTHEST)
        value = min(max(factor * float(rate.value), rate.low or 0.0), rate.high or math.inf)
        if value == rate.value:
            return ()
        self._since[rate.name] = observation.spent
        reason = f"the steps are too {'long' if factor < 1 else 'short'} for the size of the weights"
        evidence: dict[str, Any] = {"ratio": math.exp(level), "edge": edge, "measurements": count}
        return (Set(rate.name, value, reason=reason, evidence=evidence),)
