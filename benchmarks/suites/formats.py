"""How figures are written in reports."""

from __future__ import annotations

import math

from .scores import Scores


def number(value: float) -> str:
    """Two or three figures; `never` for infinity, a dash for what is not defined."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "never"
    if abs(value) < 0.095 or abs(value) >= 1e6:
        return f"{value:.2g}"
    return f"{value:,.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"


def thousandths(value: float) -> str:
    """Three figures after the point; a dash for what is not finite."""
    return f"{value:.3f}" if abs(value) < 1e6 else "–"


def share(value: float) -> str:
    """In percent; not 0 or 100 unless it is all or nothing."""
    if math.isnan(value):
        return "–"
    percent = f"{100 * value:.0f}"
    if percent in ("0", "100") and value not in (0.0, 1.0):
        percent = f"{100 * value:.1f}"
    return f"{percent} %"


def factor(value: float | None) -> str:
    """An initial rate over the tuned one."""
    return "any rate" if value is None else f"×{value:g}"


def p_value(scores: Scores) -> str:
    """Of the likelier direction, which is named when it is significant."""
    p = min(scores.p_better, scores.p_worse)
    if math.isnan(p):
        return "–"
    if p >= 0.05:
        return f"{p:.2f}"
    word = "better" if scores.p_better < scores.p_worse else "worse"
    return f"{word}, {'<0.001' if p < 0.001 else f'{p:.3f}'}"
