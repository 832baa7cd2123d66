"""What came of a decision: the signals some steps later, against a forecast of the run without it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import theilslopes, ttest_ind

from .records import Decision, Outcome, Rewind, Signal, TuneError

BLOCKS = 10  # averages of a window; they take the correlation between steps away
FEWEST = 10  # values without which a window says nothing
SIGNIFICANT = 0.01  # two-sided p
SIGNALS = {"loss": "loss", "validation/loss": "validation_loss", "gradient_norm": "gradient_norm"}

Array = NDArray[np.float64]
Verdict = Literal["better", "worse", "unclear"]


class Outcomes:
    """The decisions of a run whose outcome is not yet known.

    A change is judged by the training loss: its mean over the `horizon` steps after it, against the
    continuation of its trend over twice as many before it (Theil–Sen on block averages, of the log where
    values are positive). The standard error has the scatter of the averages, the extrapolation, and half the
    difference between the slopes of the two halves, since curves bend. A rewind is judged by the loss in
    the second half of the horizon against that just before it, and has to win back half of the way to
    the level before the first anomaly. Differences with p < 0.01 make a verdict, others are unclear, as
    is what a later rewind has undone.

    Args:
        horizon: steps, at least 10.

    Raises:
        TuneError: for a shorter horizon.
    """

    def __init__(self, horizon: int = 50) -> None:
        if horizon < FEWEST:
            raise TuneError(f"an outcome needs a horizon of at least {FEWEST} steps, got {horizon}")
        self._horizon = horizon
        self._pending: list[dict[str, Any]] = []

    def watch(self, decision: Decision, signals: Mapping[str, Signal]) -> None:
        """Keep what is needed to judge `decision`; call it just before it is applied."""
        pending: dict[str, Any] = {"id": decision.id, "spent": decision.spent, "horizon": self._horizon}
        if isinstance(decision.action, Rewind):
            loss = signals.get("loss")
            first = decision.action.evidence.get("first_anomaly", decision.action.to)
            pending["diverged"] = _tail(loss, self._horizon // 2)
            sound = None if loss is None or isinstance(first, str) else _before(loss, int(first or 0))
            pending["sound"] = _tail(sound, self._horizon)
        else:
            pending["forecasts"] = {
                name: _Forecast.of(signals[name], decision.spent, self._horizon)
                for name in SIGNALS
                if name in signals
            }
        self._pending.append(pending)

    def due(self, step: int, spent: int, signals: Mapping[str, Signal], branch: int) -> list[Outcome]:
        """Outcomes of the decisions whose horizon has passed; call it at ticks.

        Args:
            step: the present step.
            spent: the present `spent`.
            signals: the histories of the live branch.
            branch: the present branch.
        """
        return []
