"""Dead and saturated units."""

from __future__ import annotations

from .report import Finding
from .watch import Seen

CHECK = "units"
MANY, SOME = 0.5, 0.25
"""Parts of a layer's units (or values) from which a warning is given, and a note."""
SHOWN = 3


def units(seen: Seen, samples: int) -> list[Finding]:
    """Units that cut off at 0 and are 0 on every sample; values at the ends of tanh, sigmoid and softmax.

    Attention weights within torch's fused functions are not seen.

    Args:
        seen: what was seen.
        samples: how many samples that were.

    Source: Glorot and Bengio (2010) for saturation; Lu et al., Dying ReLU and Initialization (2020).
    """
    dead = {name: float(s.zero.double().mean()) for name, s in seen.sites.items() if s.zero is not None}
    ended = {name: s.ended / s.count for name, s in seen.sites.items() if s.zero is None and s.count}
    findings = [
        *_judged(
            dead,
            f"of the units are 0 on all {samples} samples",
            "They pass no gradient back, and do not learn.",
            "Look at the layer before: a bias far below 0, weights or inputs too large, inputs all of one "
            "sign. Initialise after He, normalise, or use a leaky activation.",
        ),
        *_judged(
            ended,
            "of the values are at an end of their range",
            "There the slope is below a hundredth of the steepest: little gradient passes.",
            "Scale the weights before it down, or normalise its input; for attention divide by the root of "
            "the width.",
        ),
    ]
    if not seen.sites:
        return [Finding(CHECK, "ok", "No activation function was met that can die or saturate.")]
    count = len(seen.sites)
    fine = f"{count} activation{'s' * (count > 1)} looked at; none is dead or saturated in large part."
    return findings or [Finding(CHECK, "ok", fine, figures={**dead, **ended})]


def _judged(parts: dict[str, float], what: str, means: str, remedy: str) -> list[Finding]:
    bad = {name: part for name, part in parts.items() if part >= SOME}
    if not bad:
        return []
    worst = sorted(bad, key=lambda name: -bad[name])
    shown = "; ".join(f"{name}: {bad[name]:.0%} {what}" for name in worst[:SHOWN])
    more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    severity = "error" if bad[worst[0]] == 1 else "warning" if bad[worst[0]] >= MANY else "note"
    return [Finding(CHECK, severity, f"{shown}{more}.", means, remedy, bad)]  # type: ignore[arg-type]
