"""What every policy has to hold to, as checks to run on a policy of one's own.

    import pytest
    from autotune.testing import conformance

    @pytest.mark.parametrize("check", conformance.CHECKS)
    def test_my_policy(check):
        check(lambda: MyPolicy("lr"))

Each check runs fresh policies on simulated plants (see `scenarios.plants` and `scenarios.Fitted` for what
those are, and what stands in for a name that they lack) and raises `Violation`, which says the rule, what was
seen, and the remedy. A check judges its own rule alone and passes over what another one catches: a policy is
trusted when all of them pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .checks_acting import bounds, declared, explained, held, once, patient, settles, steady
from .checks_memory import acts, plain_memory, repeats, resume, runs, undisturbing
from .checks_reading import hands_off, no_budget, nonfinite, required, rewound, unmeasured
from .checks_speed import fast
from .scenarios import MakePlant, MakePolicy
from .subject import Violation, protocol

__all__ = ["CHECKS", "Violation", "check"]

CHECKS: Sequence[Callable[..., None]] = (
    protocol,
    runs,
    acts,
    plain_memory,
    resume,
    repeats,
    undisturbing,
    required,
    unmeasured,
    nonfinite,
    no_budget,
    rewound,
    hands_off,
    bounds,
    declared,
    explained,
    held,
    patient,
    settles,
    steady,
    once,
    fast,
)
"""Every rule; each is called as `check(make)` or `check(make, plant)`."""


def check(make: MakePolicy, plant: MakePlant | None = None) -> None:
    """Run every check.

    Args:
        make: makes a fresh policy, with the same arguments each time.
        plant: makes the plant on which it has something to do; None: plants of five kinds.

    Raises:
        Violation: at the first rule that it does not hold to.
    """
    for rule in CHECKS:
        rule(make, plant)
