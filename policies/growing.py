"""Growing: short sequences, or small images, first; longer ones when they have taught what they can."""

from __future__ import annotations

from autotune.records import HyperparameterState

from .stages import Staged

GROWTH = 1.5  # factor from one length to the next


class GrowSequence(Staged):
    """Grows a length by half, up to its high bound, each time that the loss at that length has slowed.

    *Law.* A short sequence costs less a step, and what reaches no further is learned from it as well. When
    the loss slows (`slowing`), it grows by half, and a new stage begins: losses at different lengths are
    not comparable. It never shrinks. It serves any whole number in which the cost of a step grows: sequence
    length, the length of back-propagation through time, image size.
    *Constants.* With a budget each length gets an equal share of the time up to `finished` at most.
    *Harms* where short sequences teach nothing, and where the cost of a step does not depend on the length.

    Source: Press et al. 2021 (Shortformer, section 4, staged training); Li et al. 2022 (sequence length
    warm-up); the test instead of a fixed pace is ours.

    Args:
        hyperparameter: the length, a whole number; where it starts is the user's.
        signal: the loss that is tested, at the present length.
        finished: part of the budget after which the length is at its high bound, in (0, 1].
        name: unique within a run.

    Raises:
        TuneError: for `finished` outside (0, 1].
    """

    def __init__(
        self,
        hyperparameter: str = "sequence_length",
        signal: str = "loss",
        finished: float = 0.5,
        name: str = "grow_sequence",
    ) -> None:
        super().__init__(hyperparameter, signal, finished, name)

    def rungs(self, state: HyperparameterState) -> list[int]:
        """Each half as long again as the one before; the last is the high bound."""
        assert state.high is not None  # every whole number has bounds
        value, high, out = int(state.value), int(state.high), []
        while value < high:
            value = min(high, max(value + 1, round(GROWTH * value)))
            out.append(value)
        return out

    def because(self, how: str) -> str:
        """See `Staged.because`."""
        return f"a longer one: {how}"
