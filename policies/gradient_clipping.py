"""Gradient clipping at a threshold that follows the gradient's own norm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autotune.records import Action, Observation, Rewind, Set

from .memory import RETRY, Remembering, free
from .robust import noise

LEVEL = 9  # norms whose median is the level
SPREAD = 30  # norms whose noise is the deviation
FEWEST = 5  # norms without which there is no threshold
DEVIATIONS = 4.0  # above the level, in z
FACTOR = 4.0  # above the level, at least
CHANGE = math.log(1.5)  # smaller moves of the threshold are not worth a decision


class GradientClipping(Remembering):
    """Sets the norm that gradients are clipped at from the z-score of the log norm.

    *Law.* With the median m of the last 9 norms and the robust deviation s of the last 30 log norms, the
    threshold is m × max(4, exp(4 s)): healthy norms pass, at heavy tails too. It is moved when it is off by a
    factor of 1.5. Norms are measured before they are clipped, so a norm that has really grown lifts it once 5
    of 9 samples show that (50 steps at the usual tick), while spikes and short bursts do not. What the
    hyperparameter was when the policy got it, at the start or from another source, is a ceiling: the policy
    clips more than that, never less.

    *When it harms.* Where rare large gradients are the signal (rare classes, seldom rewards). Infinite and
    NaN gradients are not helped by any clipping.

    Source: ZClip (Kumar et al. 2025, arXiv:2504.02507), with medians in place of the moving averages that
    leave spikes out, since only every tenth norm is seen here. AGC (Brock et al. 2021, arXiv:2102.06171)
    clips each unit by the norm of its weights instead.

    Args:
        hyperparameter: the largest norm, on a log scale.
        signal: the norm, before clipping.
        name: unique within a run.
    """

    MEMORY = ("_ceiling", "_seen", "_wait")

    def __init__(
        self,
        hyperparameter: str = "gradient_clip",
        signal: str = "gradient_norm",
        name: str = "gradient_clipping",
    ) -> None:
        self.name = name
        self.requires: Sequence[str] = (signal,)
        self.controls: Sequence[str] = (hyperparameter,)
        self._ceiling: float | None = None  # what others have set; None: to be read
        self._seen = 0  # spent at the newest norm that was looked at
        self._wait = 0  # spent before which nothing is asked for

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        clip = observation.hyperparameters[self.controls[0]]
        if self._set_by_others(observation):
            self._ceiling = None
        norms = observation.signals.get(self.requires[0])
        if not free(clip) or norms is None or not len(norms) or norms.spent[-1] <= self._seen:
            return ()
        value = float(clip.value)
        if self._ceiling is None:
            self._ceiling = value
        self._seen = int(norms.spent[-1])
        recent = norms.value[-SPREAD:]
        recent = np.log(recent[np.isfinite(recent) & (recent > 0)])
        if len(recent) < FEWEST or observation.spent < self._wait:
            return ()
        level, deviation = float(np.median(recent[-LEVEL:])), noise(recent)
        threshold = math.exp(level) * max(FACTOR, math.exp(DEVIATIONS * deviation))
        target = max(min(threshold, self._ceiling), clip.low or 0.0)
        if abs(math.log(target / value)) < CHANGE:
            return ()
        self._wait = observation.spent + RETRY
        evidence = {"level": math.exp(level), "deviation": deviation, "threshold": threshold}
        return (Set(clip.name, target, reason="the usual gradient norm has changed", evidence=evidence),)

    def _set_by_others(self, observation: Observation) -> bool:
        """A rewind does not count: what it brings back is our own threshold of that time."""
        others = [d.action for d in observation.decisions if d.applied and d.source != self.name]
        changes = [a for action in others for a in (action.then if isinstance(action, Rewind) else (action,))]
        return any(getattr(a, "name", None) == self.controls[0] for a in changes)
