"""What trials of one length say about places on a grid of rates."""

from __future__ import annotations

import math
from collections.abc import Mapping

TIE = 0.01  # of what was gained: a difference that does not count
CLOSE = 0.1  # of what was gained: a place as good as that may still win in longer trials


def best(scores: Mapping[int, float], start: float) -> int | None:
    """The lowest place whose score is as good as the best; None when no score is below `start`."""
    alive = {place: score for place, score in scores.items() if score < start}
    if not alive:
        return None
    least = min(alive.values())
    within = TIE * (start - least) if math.isfinite(start) else 0.0
    return min(place for place, score in alive.items() if score <= least + within)


def close(scores: Mapping[int, float], start: float, place: int) -> bool:
    """Whether the place above was about as good as this one, or was not tried."""
    if place + 1 not in scores or not math.isfinite(start):
        return place + 1 not in scores
    return scores[place + 1] <= scores[place] + CLOSE * (start - scores[place])


def minimum(scores: Mapping[int, float], start: float, place: int) -> float:
    """How far from the best place the minimum of a parabola through its neighbours lies, from -0.5 to 0.5."""
    below, above = (min(scores.get(p, math.inf), start) for p in (place - 1, place + 1))
    tried = place - 1 in scores and place + 1 in scores
    if not (tried and math.isfinite(below) and math.isfinite(above)):
        return 0.0
    bend = below - 2 * scores[place] + above
    return max(-0.5, min(0.5, 0.5 * (below - above) / bend)) if bend > 0 else 0.0
