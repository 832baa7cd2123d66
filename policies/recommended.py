"""The composition that is left on for every run."""

from __future__ import annotations

from autotune.records import Observation, Policy

from .divergence_guard import DivergenceGuard
from .early_stopping import EarlyStopping
from .generalization_gap import GeneralizationGap
from .gradient_clipping import GradientClipping
from .plateau import Plateau
from .search import RateSearch
from .tail import HoldAndTail
from .wrappers import IfThere, Wrapper


def recommended() -> list[Policy]:
    """Policies that find the learning rate, hold it, decay it, and guard the run.

    They know nothing of the workload, and have no constants to tune: all they need is the run's
    `total_steps`. Without it the rate is not searched for, and goes down only at plateaus. `lr` has to be
    registered; `weight_decay` and `gradient_clip` are moved where they are, and validation is followed where
    there is one.

    Returns:
        In order of precedence: `DivergenceGuard`; `RateSearch`; `HoldAndTail`, or `Plateau` where the steps
        are not known; `GeneralizationGap`, for the weight decay; `GradientClipping`; `EarlyStopping`, which
        ends the run in its best state.
    """
    return [
        DivergenceGuard(),
        RateSearch(),
        HoldAndTail(),
        _Unbudgeted(Plateau(name="plateau_without_budget")),
        IfThere(GeneralizationGap(dropout=None)),
        IfThere(GradientClipping()),
        IfThere(EarlyStopping(patience=None)),
    ]


class _Unbudgeted(Wrapper):
    """Asks the policy only in runs whose number of steps is not known."""

    def due(self, observation: Observation) -> bool:
        """Whether there is no budget."""
        return observation.budget is None
