"""Gradient noise scale: grows the batch where noise, and no longer the signal, is what the gradient holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from scipy.stats import kendalltau

from autotune.records import Action, Observation, Set, TuneError

from .memory import RETRY, Remembering, disturbed, free
from .robust import y_of

Scaling: TypeAlias = Literal["none", "sqrt", "linear"]

EXCESS = 3.0  # noise scale over batch, from which noise dominates
MEASURED, ABOVE = 10, 9  # newest measurements, and how many of them have to be above
GROWTH = 2  # factor for the batch
WINDOW, WINDOW_PART = 100, 0.4  # length of the first window: steps, and part of all steps so far
BLOCKS = 20  # averages of the loss that are tested
FALLS, FLAT = 0.05, 0.5  # p below which the loss still falls, and above which it does not
EXPONENTS: dict[Scaling, float] = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}  # of the rate, in the batch


class NoiseScale(Remembering):
    """Doubles batch or accumulation when the noise scale is above it and the loss falls no more.

    *Law.* B doubles when both hold. Noise dominates: 9 of the last 10 noise scales are above 3 B (where their
    median is not, the chance of that is 1 %). And it pays: a larger batch costs steps, and while the loss
    falls a step is worth more than a steadier one. So the log loss is tested for a fall as in `Plateau`
    (Mann–Kendall on 20 averages over at least 100 steps and 40 % of all steps so far; p ≤ 0.05 begins a fresh
    window, p ≥ 0.5 is no fall, between the two the window doubles). After a move both windows begin anew. The
    batch never shrinks: once noise holds the loss up, a smaller batch would only raise it.

    *The rate*, by `scaling`: `none` leaves it, so that growth takes noise out as a decay of the rate does
    (Smith et al. 2018), which lowers the loss of a run whose cost is counted in examples. `sqrt` (Adam;
    Malladi et al. 2022) keeps part of the noise and `linear` (SGD; Goyal et al. 2017) all of it: the loss
    stays where it is and is got in fewer steps.

    *When it harms.* Where the budget counts steps, every step costs more and the run takes longer. A plateau
    before a further descent is answered with a batch that makes the descent dearer. Beside `Plateau` it
    stands later in the list, so that one plateau is answered once.

    Source: McCandlish, Kaplan, Amodei et al. 2018, arXiv:1812.06162, section 2; Smith, Kindermans, Ying, Le
    2018, arXiv:1711.00489; Mann 1945, Kendall 1975.

    Args:
        hyperparameter: `gradient_accumulation`, or `batch_size`.
        signal: the noise scale in the unit of the hyperparameter: `gradient_noise_scale` in micro-batches,
            or `gradient_noise_scale/examples`.
        scaling: what happens to the rate: `none`, `sqrt` or `linear`.
        rate: the rate that is scaled. While anyone else moves it, nothing grows.
        micro_batches: batches of this size in a step, at least 1; for `batch_size` under accumulation.
        name: unique within a run.

    Raises:
        TuneError: for an unknown scaling, or no micro-batch.
    """

    MEMORY = ("_since", "_tested", "_longer", "_wait")

    def __init__(
        self,
        hyperparameter: str = "gradient_accumulation",
        signal: str = "gradient_noise_scale",
        *,
        scaling: Scaling = "none",
        rate: str = "lr",
        micro_batches: int = 1,
        name: str = "noise_scale",
    ) -> None:
        if scaling not in EXPONENTS:
            raise TuneError(f"scaling is one of {', '.join(EXPONENTS)}, got {scaling!r}; see NoiseScale")
        if micro_batches < 1:
            raise TuneError(f"micro_batches is at least 1, got {micro_batches}; 1 without accumulation")
        self.name = name
        self.requires: Sequence[str] = (signal, "loss")
        self.controls: Sequence[str] = (hyperparameter,) if scaling == "none" else (hyperparameter, rate)
        self._rate, self._exponent, self._micro_batches = rate, EXPONENTS[scaling], micro_batches
        self._since = 0  # spent since which noise scales count
        self._tested = 0  # spent since which losses count
        self._longer = 0  # steps that the next window has to have, where the last one left it open
        self._wait = 0  # spent before which nothing is asked for

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        batch = observation.hyperparameters[self.controls[0]]
        rate = observation.hyperparameters.get(self._rate)
        if any(d.source == self.name and not d.applied for d in observation.decisions):
            self._wait = observation.spent + RETRY
        moving = rate is not None and rate.ramp_until is not None
        if moving or any(disturbed(observation, self.name, n) for n in (batch.name, self._rate)):
            self._restart(observation.spent)
        value = float(batch.value)
        size = GROWTH * value
        if not free(batch) or size > (batch.high or math.inf) or observation.spent < self._wait:
            return ()
        if self._exponent and (rate is None or not free(rate)):
            return ()
        scale = self._noise_scale(observation)
        if scale is None:
            return ()
        p = self._flat(observation)
        if p is None:
            return ()
        self._restart(observation.spent)
        evidence = {"noise_scale": scale, "batch": value * self._micro_batches, "p_falling": p}
        reason = "the gradient is mostly noise, and the loss falls no more"
        whole = batch.kind == "int"
        actions = [Set(batch.name, int(size) if whole else size, reason=reason, evidence=evidence)]
        if self._exponent and rate is not None:
            scaled = min(GROWTH**self._exponent * float(rate.value), rate.high or math.inf)
            actions += [Set(rate.name, scaled, reason="it follows the batch", evidence=evidence)]
        return actions

    def _noise_scale(self, observation: Observation) -> float | None:
        """The median noise scale where noise dominates; infinity counts, NaN does not."""
        signal = observation.signals.get(self.requires[0])
        if signal is None:
            return None
        scales = signal.value[signal.spent > self._since][-MEASURED:]
        limit = EXCESS * float(observation.hyperparameters[self.controls[0]].value) * self._micro_batches
        if np.count_nonzero(scales > limit) < ABOVE:
            return None
        return float(np.minimum(np.nanmedian(scales), np.finfo(float).max))

    def _flat(self, observation: Observation) -> float | None:
        """p of a falling loss where there is no sign of a fall, once a window is full."""
        steps = observation.spent - self._tested
        if steps < max(WINDOW, WINDOW_PART * observation.spent, self._longer):
            return None
        loss = observation.signals["loss"]
        values = loss.value[loss.spent > self._tested]
        values = values[np.isfinite(values)]
        if len(values) < BLOCKS:
            return None
        averages = [part.mean() for part in np.array_split(y_of(values, values), BLOCKS)]
        p = kendalltau(np.arange(BLOCKS), averages, alternative="less").pvalue
        p = float(p) if math.isfinite(p) else 1.0  # a constant does not fall
        if p <= FALLS:
            self._tested, self._longer = observation.spent, 0
        elif p < FLAT:
            self._longer = 2 * steps
        else:
            return p
        return None

    def _restart(self, spent: int) -> None:
        self._since, self._tested, self._longer = spent, spent, 0
