"""Progressive unfreezing: trains the head first, then one group of layers after the other."""

from __future__ import annotations

from autotune.records import HyperparameterState

from .stages import Staged


class ProgressiveUnfreezing(Staged):
    """Unfreezes one more group, from the top down, each time that the loss has slowed.

    *Law.* While the head is untrained, its gradients distort the features below it; so the backbone stays
    frozen until what is trainable has learned what it can (`slowing`). Then `frozen_layers` goes down by 1,
    and a new stage begins. It freezes nothing: start with as many groups frozen as there are below the head.
    *Constants.* With a budget each group gets an equal share of the time up to `finished` at most, so
    all of them are trained for the rest of it. Without one only the test decides.
    *Rates.* Discriminative ones are the optimizer's param groups, lower rates for lower groups; see
    `autotune.actuators.discriminative_groups`.
    *Harms* where the features do not suit the task and the data are many: the frozen time is lost then.

    Source: Howard & Ruder 2018 (ULMFiT, section 3.3, which unfreezes one group an epoch); Kumar et al. 2022
    (why features are distorted, and that training the head first helps); the test instead of epochs is ours.

    Args:
        hyperparameter: how many leading groups are frozen; see `autotune.actuators.frozen_layers`.
        signal: the loss that is tested: `loss`, or `validation/loss` where it is evaluated often.
        finished: part of the budget after which nothing is frozen, in (0, 1].
        name: unique within a run.

    Raises:
        TuneError: for `finished` outside (0, 1].
    """

    def __init__(
        self,
        hyperparameter: str = "frozen_layers",
        signal: str = "loss",
        finished: float = 0.5,
        name: str = "progressive_unfreezing",
    ) -> None:
        super().__init__(hyperparameter, signal, finished, name)

    def rungs(self, state: HyperparameterState) -> list[int]:
        """One group fewer each time, down to the low bound."""
        return list(range(int(state.value) - 1, int(state.low or 0) - 1, -1))

    def because(self, how: str) -> str:
        """See `Staged.because`."""
        return f"unfreeze one more group: {how}"
