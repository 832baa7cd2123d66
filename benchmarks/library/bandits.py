"""Proofs of the policies that move the rate by a Gaussian process of what the loss does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from autotune.policies.auto_lrs import AutoLRS
from autotune.policies.time_varying_bandit import TimeVaryingBandit

from .proof import Plants, Proof
from .rates import LOW_RATES, digits, own_and_rates, peer, rate_off

TOO_LOW = Plants(partial(rate_off, low=-2.0, high=0.0))
"""The rate is right, or up to 100 times too low."""
OFF = Plants(partial(rate_off, low=-1.5, high=1.5))
"""The rate is up to 30 times too low or too high: as far as AutoLRS looks in its first stage."""
LOW_DIGITS = digits(LOW_RATES, rate=1e-4)

PROOFS: Sequence[Proof] = (
    Proof(
        "time_varying_bandit",
        lambda: [TimeVaryingBandit()],
        TOO_LOW,
        own_and_rates,
        LOW_DIGITS,
        note="doubling the rate whenever its gates allow gains more on such plants, and harms healthy ones",
    ),
    peer(
        AutoLRS,
        OFF,
        LOW_DIGITS,
        "half of the steps go into its search, and no rate is decayed at the end: it harms healthy runs",
    ),
)
