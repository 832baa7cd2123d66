"""Training in stages: when the progress of one has slowed, and the policy that then begins the next."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

from autotune.records import Action, HyperparameterState, Observation, Set, TuneError

from .memory import RETRY, Remembering, free, moves
from .robust import OF_MEDIAN, Array, noise

BLOCKS = 20  # medians that are tested
FEWEST = 16  # values without which nothing is tested
FLAT = 0.5  # p at and above which there is no sign of a fall
SLOW = 1 / 3  # late fall over early fall, at and below which progress has slowed
CLEAR = 2.0  # standard errors by which there has to be an early fall for the two to be compared
FIRST, FIRST_STEPS = (
    0.05,
    100,
)  # age of a stage at its first test, as a part of the budget; without one, in steps
LATER = 1.5  # a stage's age at a test over that at the test before


class Staged(Remembering, abc.ABC):
    """Moves a whole number by one rung whenever a loss falls but slowly since the last move.

    A subclass says what the rungs are. Losses of different stages are never compared. A stage is tested at
    ages that grow by half each time, so that there are few tests and a slow stage gets the values it needs.
    With a budget every stage has its share of the time up to `finished`, and ends with it at the latest.

    Args:
        hyperparameter: a whole number.
        signal: the loss that is tested.
        finished: part of the budget after which the last rung has been reached, in (0, 1].
        name: unique within a run.

    Raises:
        TuneError: for `finished` outside (0, 1].
    """

    MEMORY = ("_begun", "_tests", "_wait", "_refusals")

    def __init__(self, hyperparameter: str, signal: str, finished: float, name: str) -> None:
        if not 0.0 < finished <= 1.0:
            raise TuneError(
                f"finished is a part of the budget in (0, 1], got {finished!r}; 0.3 leaves the larger part "
                "to the last stage"
            )
        self.name = name
        self.requires: Sequence[str] = (signal,)
        self.controls: Sequence[str] = (hyperparameter,)
        self._finished = finished
        self._begun = 0  # spent when the stage began
        self._tests = 0  # of this stage
        self._wait = 0  # spent before which nothing is asked for
        self._refusals = 0  # in a row

    @abc.abstractmethod
    def rungs(self, state: HyperparameterState) -> list[int]:
        """The values that are still to come, in order."""

    @abc.abstractmethod
    def because(self, how: str) -> str:
        """The reason for the next rung, given how this stage ended."""

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        self._follow(observation)
        state = observation.hyperparameters[self.controls[0]]
        if state.ramp_until is not None:
            self._begin(observation.spent)
        rungs = self.rungs(state)
        if not rungs or not free(state) or observation.spent < self._wait:
            return ()
        age = observation.spent - self._begun
        share = math.inf
        if observation.budget is not None:
            share = (self._finished * observation.budget - self._begun) / len(rungs)
        if age >= share:
            evidence = {"steps": age, "share": share}
            return (self._set(rungs[0], "its share of the budget is spent", evidence),)
        first = FIRST_STEPS if observation.budget is None else FIRST * observation.budget
        if age < first * LATER**self._tests:
            return ()
        self._tests += 1
        signal = observation.signals.get(self.requires[0])
        found = None if signal is None else slowing(signal.value[signal.spent > self._begun])
        if found is None:
            return ()
        return (self._set(rungs[0], f"{self.requires[0]} falls but slowly", {"steps": age, **found}),)

    def _set(self, value: int, how: str, evidence: dict[str, float]) -> Set:
        return Set(self.controls[0], value, reason=self.because(how), evidence=evidence)

    def _follow(self, observation: Observation) -> None:
        """A stage begins with every move, whoever made it; what is refused is asked for ever less often."""
        for decision in observation.decisions:
            if decision.applied and moves(decision, self.controls[0]):
                self._begin(decision.spent)
                self._refusals = 0
            elif decision.source == self.name and not decision.applied:
                self._wait = observation.spent + RETRY * 2**self._refusals
                self._refusals += 1

    def _begin(self, spent: int) -> None:
        self._begun, self._tests = spent, 0


def slowing(values: Array) -> dict[str, float] | None:
    """The statistics by which a loss has stopped falling, or falls but slowly; None while it is not so.

    *Stopped*: Mann–Kendall, one-sided, on 20 medians over the newer half finds no sign of a fall (p ≥ 0.5).
    *Slowed*: from the third quarter to the last it fell by at most a third, standard error included, of what
    it fell from the first to the second, and that fall was clear of the noise.

    Args:
        values: of one stage, oldest first; what is not finite is left out.
    """
    values = values[np.isfinite(values)]
    if len(values) < FEWEST:
        return None
    newer = values[len(values) // 2 :]
    blocks = [float(np.median(part)) for part in np.array_split(newer, min(BLOCKS, len(newer)))]
    p = falling(np.array(blocks))
    first, second, third, last = (float(np.median(part)) for part in np.array_split(values, 4))
    early, late = first - second, third - last
    error = OF_MEDIAN * noise(newer) * math.sqrt(2 / (len(values) // 4))
    slowed = early > CLEAR * error and late + error <= SLOW * early
    if not slowed and p < FLAT:
        return None
    return {"p_falling": p, "early_fall": early, "late_fall": late, "error": error, "values": len(values)}


def falling(values: Array) -> float:
    """p of Mann–Kendall's test for a falling trend, one-sided, by the normal approximation without ties.

    Args:
        values: oldest first, 8 or more for the approximation to hold.
    """
    n = len(values)
    later = np.sign(values[None, :] - values[:, None])[np.triu_indices(n, 1)]
    score = float(later.sum())
    score -= math.copysign(min(1.0, abs(score)), score)  # for continuity
    return float(ndtr(score / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)))
