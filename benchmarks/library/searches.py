"""Proofs of the searches that make trials inside the run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from autotune.policies.bayesian_search import BayesianSearch
from autotune.policies.recommended import recommended
from autotune.policies.search import RateSearch
from autotune.policies.tail import HoldAndTail

from .proof import Plants, Proof
from .rates import LOW_RATES, digits, own_and_rates, rate_off

FAR_OFF = Plants(partial(rate_off, low=-3.0, high=3.0))
"""A rate that is 1e-3 to 1e3 times one that is about right."""

PROOFS: Sequence[Proof] = (
    Proof(
        "rate_search",
        lambda: [RateSearch(), HoldAndTail()],
        FAR_OFF,
        own_and_rates,
        digits(LOW_RATES, rate=1.0),
        note="followed by `HoldAndTail`; where the rate was right, its trials cost more than they find",
    ),
    Proof(
        "recommended",
        recommended,
        FAR_OFF,
        own_and_rates,
        digits(LOW_RATES, rate=1.0),
        note="all of it together",
    ),
    Proof(
        "bayesian_search",
        lambda: [BayesianSearch(), HoldAndTail()],
        FAR_OFF,
        own_and_rates,
        digits(LOW_RATES, rate=1.0),
        peer=True,
        note="followed by `HoldAndTail`; for several hyperparameters at once. For the rate alone "
        "`RateSearch` finds more, and where the rate was right from the start both cost more than they find",
    ),
)
