"""The composition that is left on for every run."""

from __future__ import annotations

from autotune.records import Policy

from .divergence_guard import DivergenceGuard
from .early_stopping import EarlyStopping
from .generalization_gap import GeneralizationGap
from .gradient_clipping import GradientClipping
from .search import RateSearch
from .tail import HoldAndTail
from .wrappers import IfThere


def recommended() -> list[Policy]:
    """Policies that find the learning rate, hold it, decay it, and guard the run.

    They know nothing of the workload, and have no constants to tune: all they need is the run's
    `total_steps`. Without it the rate is neither searched for nor decayed, and the others work alone. `lr`
    has to be registered; `weight_decay` and `gradient_clip` are moved where they are, and validation is
    followed where there is one.

    Returns:
        In order of precedence: `DivergenceGuard`; `RateSearch`; `HoldAndTail`; `GeneralizationGap`, for the
        weight decay; `GradientClipping`; `EarlyStopping`, which ends the run in its best state.
    """
    return [
        DivergenceGuard(),
        RateSearch(),
        HoldAndTail(),
        IfThere(GeneralizationGap(dropout=None)),
        IfThere(GradientClipping()),
        IfThere(EarlyStopping(patience=None)),
    ]
