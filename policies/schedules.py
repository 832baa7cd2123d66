"""Schedules that practitioners use by hand, as lists of pieces; each function returns a `Schedule`.

Values are relative to the hyperparameter's value when the schedule begins, or to `peak`. Lengths are steps
(whole numbers) or parts of the total (floats in (0, 1]).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict, Unpack

from autotune.records import Shape, TuneError

from .pieces import Piece
from .schedule import Schedule

LAST = 0.01  # part of the peak at which an inverse square root decay ends


class Common(TypedDict, total=False):
    """What every schedule takes; see `Schedule`."""

    hyperparameter: str
    peak: float
    steps: int
    begin: int
    name: str


def constant(warm_up: int | float = 0, start: float = 0.0, **common: Unpack[Common]) -> Schedule:
    """The value as it is; with a warm-up, linear up to it.

    Args:
        warm_up: length of the linear rise.
        start: relative value that it rises from.
        **common: see `Schedule`.
    """
    return _schedule("constant", [*_rise(warm_up, start), Piece(0, 1.0, "step")], common)


def linear(
    to: float = 0.0, warm_up: int | float = 0, start: float = 0.0, **common: Unpack[Common]
) -> Schedule:
    """Linear decay over the total, after a linear warm-up.

    Source: Goyal et al. 2017 (the warm-up); torch's LinearLR.

    Args:
        to: relative value at the end.
        warm_up: length of the linear rise.
        start: relative value that it rises from.
        **common: see `Schedule`.
    """
    return _schedule("linear", [*_rise(warm_up, start), Piece(None, to)], common)


def cosine(
    to: float = 0.0, warm_up: int | float = 0, start: float = 0.0, **common: Unpack[Common]
) -> Schedule:
    """Half a cosine over the total, after a linear warm-up.

    Source: Loshchilov & Hutter 2017, equation 5, without restarts; torch's CosineAnnealingLR.

    Args:
        to: relative value at the end.
        warm_up: length of the linear rise.
        start: relative value that it rises from.
        **common: see `Schedule`.
    """
    return _schedule("cosine", [*_rise(warm_up, start), Piece(None, to, "cosine")], common)


def step(
    milestones: Sequence[int] | Sequence[float] = (0.5, 0.75), factor: float = 0.1, **common: Unpack[Common]
) -> Schedule:
    """Times `factor` at each milestone.

    Source: He et al. 2016, section 4.2 (a tenth at 50 and 75 % of the steps); torch's MultiStepLR.

    Args:
        milestones: all in steps, or all as parts of the total; rising.
        factor: for the value, positive.
        **common: see `Schedule`.

    Raises:
        TuneError: for milestones that do not rise.
    """
    points = [0, *milestones]
    if len(points) < 2 or any(b <= a for a, b in pairwise(points)):
        raise TuneError(f"milestones rise from above 0, got {milestones!r}; sort them, each once")
    holds = [Piece(b - a, factor**i, "step") for i, (a, b) in enumerate(pairwise(points))]
    return _schedule("step", [*holds, Piece(0, factor ** (len(points) - 1), "step")], common)


def inverse_sqrt(
    warm_up: int, timescale: int | None = None, start: float = 0.0, **common: Unpack[Common]
) -> Schedule:
    """1/√t after a linear warm-up, without an end: it needs neither a total nor a budget.

    The value is √(τ / (τ + t)), t steps after the warm-up, down to a hundredth. After a rewind it goes on by
    the step.

    Source: Vaswani et al. 2017, equation 3; with another timescale, Zhai et al. 2022, section 3.5.

    Args:
        warm_up: steps of the linear rise.
        timescale: τ, in steps, at least 1; None: the warm-up.
        start: relative value that it rises from.
        **common: see `Schedule`.

    Raises:
        TuneError: for a timescale below 1.
    """
    timescale = warm_up if timescale is None else timescale
    if isinstance(timescale, bool) or not isinstance(timescale, int) or timescale < 1:
        raise TuneError(f"a timescale is a whole number of steps, at least 1, got {timescale!r}; name one")
    length = round(timescale * (LAST**-2 - 1))
    return _schedule("inverse_sqrt", [*_rise(warm_up, start), Piece(length, LAST, "inverse_sqrt")], common)


def wsd(
    warm_up: int | float = 0.01,
    decay: int | float = 0.2,
    to: float = 0.0,
    shape: Shape = "linear",
    start: float = 0.0,
    **common: Unpack[Common],
) -> Schedule:
    """Warm-up, stable, decay: constant for most of the run, with a short decay to its end.

    Source: Hu et al. 2024 (MiniCPM), section 4; 20 % linear decay: Hägele et al. 2024.

    Args:
        warm_up: length of the linear rise.
        decay: length of the decay.
        to: relative value at the end.
        shape: of the decay.
        start: relative value that it rises from.
        **common: see `Schedule`.
    """
    pieces = [*_rise(warm_up, start), Piece(None, 1.0, "step"), Piece(decay, to, shape)]
    return _schedule("wsd", pieces, common)


def one_cycle(
    warm_up: int | float = 0.3,
    start: float = 1 / 25,
    to: float = 1 / 25e4,
    shape: Shape = "cosine",
    momentum: str | None = "momentum",
    low: float = 0.85,
    high: float = 0.95,
    **common: Unpack[Common],
) -> list[Schedule]:
    """1cycle: the rate up to its peak and down to almost nothing, momentum the other way round.

    Source: Smith & Topin 2018, section 3, with one decay in place of two, as in torch's OneCycleLR. There
    the peak is reached a step earlier than at `warm_up`, and the end one before the last step.

    Args:
        warm_up: length of the rise.
        start: relative rate at the start.
        to: relative rate at the end.
        shape: of rise and fall.
        momentum: the hyperparameter that cycles inversely (`beta1` with Adam); None: none does.
        low: momentum at the rate's peak.
        high: momentum at start and end.
        **common: see `Schedule`; `hyperparameter`, `peak` and `name` are of the rate.

    Returns:
        One schedule for the rate, and one for the momentum: `policies=[*one_cycle(peak=0.1)]`.
    """
    pieces = [Piece(0, start, "step"), Piece(warm_up, 1.0, shape), Piece(None, to, shape)]
    rate = _schedule("one_cycle", pieces, common)
    if momentum is None:
        return [rate]
    inverse = [Piece(0, 1.0, "step"), Piece(warm_up, low / high, shape), Piece(None, 1.0, shape)]
    its: Common = {**common, "hyperparameter": momentum, "peak": high, "name": f"{rate.name}_momentum"}
    return [rate, _schedule("", inverse, its)]


def cyclical(cycles: int = 4, low: float = 0.1, shrink: float = 1.0, **common: Unpack[Common]) -> Schedule:
    """Triangles between `low` and the whole value, from low to low.

    Source: Smith 2017, section 3 (triangular; triangular2 with `shrink=0.5`); torch's CyclicLR.

    Args:
        cycles: how many in the total.
        low: relative value between the triangles.
        shrink: factor for the height of each triangle over that of the one before.
        **common: see `Schedule`.

    Raises:
        TuneError: for fewer than one cycle.
    """
    if isinstance(cycles, bool) or not isinstance(cycles, int) or cycles < 1:
        raise TuneError(f"a cyclical schedule has one cycle or more, got {cycles!r}")
    half = 1 / (2 * cycles)
    pieces = [Piece(0, low, "step")]
    for cycle in range(cycles):
        pieces += [Piece(half, low + (1 - low) * shrink**cycle), Piece(half, low)]
    return _schedule("cyclical", pieces, common)


def _rise(warm_up: int | float, start: float) -> list[Piece]:
    return [Piece(0, start, "step"), Piece(warm_up, 1.0)] if warm_up else []


def _schedule(name: str, pieces: list[Piece], common: Common) -> Schedule:
    named: Common = {"name": name, **common}
    return Schedule(pieces, **named)
