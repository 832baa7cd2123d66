"""Divergence guard: notices that a run has broken, returns to before it broke, and goes on more carefully."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.records import Action, Escalate, Evidence, HyperparameterState, Observation, Ramp, Rewind, Set

# Lengths, in steps.
WINDOW = 200  # healthy losses that a new one is compared with
ENOUGH = 30  # losses without which nothing is said about the level
LEVEL = 10  # losses whose median is the present level
PATIENCE = 50  # how long a finite anomaly may take to recover
MARGIN = 5  # a state younger than this before the first anomaly may be damaged already
LOST = 3  # non-finite losses in a row that no longer recover
START = 100  # the beginning: an early explosion lies within it
WARM_UP = 50  # from a tenth of the lowered rate back to it; fewer at the start
START_WARM_UP = 20
HEALED = 500  # healthy steps after which earlier attempts are forgotten
# Thresholds, in robust standard deviations of the (log) loss, and in the (log) loss itself.
ANOMALY = 6.0
UNDONE = 3.0  # enough where all that had been learned is lost
FLOOR = 0.05  # smallest standard deviation believed in
EXPLODED, EXPLODED_BY = 8.0, math.log(4)
ROSE, ROSE_BY = 5.0, math.log(1.1)
# Factors for the rate.
LOWER, LOWER_AGAIN = 1 / 2, 1 / 4
START_LOWER, START_LOWER_FAR, FAR = 1 / 3, 1 / 10, math.log(100)
HIGHEST_UPDATE = 0.3  # update-to-weight ratio of a first step beyond which no rate is worth trying

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A confirmed divergence."""

    first: int
    """Step of the first anomaly."""
    start: bool
    """The run had not learned anything yet."""
    factor: float
    what: str
    evidence: Evidence


class DivergenceGuard:
    """Rewinds to before the first anomaly, skips the data since, lowers the rate and warms it up again.

    y is the log of the loss (the loss over its usual size, where losses are not all positive).

    *Anomaly.* The last 200 healthy y give a level (median of the newest 25) and a standard deviation: the
    largest of 1.4826 MAD and (90 % quantile − median) / 1.2816 about their Brown–Mood line, so that neither
    the trend of a falling loss nor a minority of harder batches counts, and 0.05. A loss that is not finite
    or lies 6 standard deviations above the level is suspicious; so is a gradient norm by the same rule, or
    a non-finite gradient, but those only date the beginning, since healthy gradients grow.
    *Confirmed* when three losses in a row are not finite, or when 50 steps after the first anomaly the
    median of the last 10 is still 6 standard deviations high (3, where it is back above the run's very
    first loss). Single spikes, however high, recover and are left alone.
    *At the start*, before the median of 20 losses is clearly below the first loss, there is no healthy
    level. The run has exploded when 5 losses in succession have a median 4 times the first and 8 standard
    deviations (of successive differences) above it; it is dead when after 30 steps it had risen
    (3 in succession, 10 % and 5 standard deviations), is not below the first loss and no longer falling.
    A rate that is too low never raises the loss, so it is never touched.

    *Action.* One rewind: to the newest state before the first anomaly; on a second try soon after to an older
    one. The rate is halved, then quartered. At the start: a third (a tenth where the loss rose a
    hundredfold or was lost), and not more than gives a first step of 0.3 ‖w‖. When the very first loss after a
    rewind is anomalous, the restored weights are not to blame and neither is the rate: the bad stretch of
    data is read to its end (50 steps, then twice that), and skipped with the rate as it is. After
    `attempts` without 500 healthy steps between, it escalates, once.

    Source: rewinding and skipping some hundred batches as in PaLM (Chowdhery et al. 2022, section 5.1);
    level and MAD as in Iglewicz & Hoaglin 1993 (modified z-score); the resistant line of Brown & Mood 1951;
    0.3 ‖w‖ was measured (docs/policies.md).

    Args:
        hyperparameter: the rate that is lowered.
        attempts: rewinds in one episode, at least 1.
        name: unique within a run.
    """

    requires: Sequence[str] = ("loss",)

    def __init__(
        self, hyperparameter: str = "lr", attempts: int = 6, name: str = "divergence_guard"
    ) -> None:
        self.name = name
        self.controls: Sequence[str] = (hyperparameter,)
        self._rate = hyperparameter
        self._attempts = attempts
        self._seen = 0  # step of the newest loss that was judged
        self._rewound = 0  # spent - step: grows with every rewind, whoever asks for it
        self._first: int | None = None  # step of the first anomaly of those not yet recovered from
        self._first_losses: list[float] = []  # of the initial weights; one more with each return to them
        self._learned: int | None = None  # step at which the loss was clearly below them
        self._tries = 0
        self._back_to = 0  # step of the last rewind
        self._acted = 0  # spent at the last rewind
        self._target: float | None = None  # the rate that the last rewind aimed at, while it warms up
        self._escalated = False

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        raise NotImplementedError
