"""What came of each decision: some steps later, the loss against a forecast of the run without it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .records import Decision, Outcome, Rewind, Signal, TuneError
from .trends import Array, Line, Scale, finite

WINDOW = 4  # horizons before the decision that the trend is fitted to
BEND = 0.2  # standard error of the slope from here on, as a part of it
LEVEL = 5  # values whose median is the present level
SURE = 3.0  # standard errors
MATERIAL = 0.01  # smallest change that counts, as a part of the loss
NEAR = 0.2  # how far above the level before the anomaly a rescued loss may be, as a part of it

Verdict = Literal["better", "worse", "unclear"]
Measures = dict[str, float | None]


class Outcomes:
    """Watches decisions and says, one horizon later, whether they did good.

    *Scale.* y, the log of the loss, or the loss in units of its usual size where losses are not all positive.
    *Forecast without the decision.* The Theil–Sen line through 16 averages of y over the last 4 horizons,
    at the middle of the second half of the horizon. For a rewind, the level just before it.
    *Standard error.* Of the line there and of the measured mean, from the averages' scatter and their
    correlation. That a trend which bends is not taken for an effect: the error that the same law made one
    horizon earlier, and a fifth of the expected fall.
    *Verdict.* Better or worse when the mean of y over the second half of the horizon is 3 standard errors and
    1 % off the forecast. A loss that is lost (most values are not finite) is worse; one that is found again
    is better, after a rewind only when it is back near the level before the anomaly.

    The measures are in units of the loss and of the loss per step (geometric means where y is a log); those
    that are unknown are None.

    Source: Sen 1968 for the line; Kendall 1954 for the bias of the correlation.

    Args:
        horizon: steps between a decision and its outcome, at least 2.

    Raises:
        TuneError: for a horizon below 2.
    """

    def __init__(self, horizon: int) -> None:
        if horizon < 2:
            raise TuneError(f"an outcome needs at least 2 steps, got horizon={horizon}")
        self._horizon = horizon
        self._pending: list[_Watched] = []

    def watch(self, decision: Decision, signals: Mapping[str, Signal]) -> None:
        """Remember what the run would do without `decision`.

        Args:
            decision: a change of hyperparameters or a rewind.
            signals: the histories right before it was applied.
        """
        with np.errstate(all="ignore"):
            self._pending.append(_watched(decision, signals, self._horizon))

    def due(self, step: int, spent: int, signals: Mapping[str, Signal], branch: int) -> list[Outcome]:
        """The outcomes of decisions whose horizon has passed, or whose branch was left before.

        Args:
            step: of the plant, now.
            spent: all steps ever taken, now.
            signals: the histories as they stand now.
            branch: the live one. A decision of another one is `superseded`, and its verdict unclear.
        """
        if not self._pending:
            return []
        outcomes, pending = [], []
        for watched in self._pending:
            if watched.branch != branch:
                measures = {**watched.measures(), "superseded": 1.0}
                outcomes.append(Outcome(watched.decision, spent, watched.horizon, "unclear", measures))
            elif spent >= watched.spent + watched.horizon:
                with np.errstate(all="ignore"):
                    verdict, measures = _judged(watched, signals)
                outcomes.append(Outcome(watched.decision, spent, watched.horizon, verdict, measures))
            else:
                pending.append(watched)
        self._pending = pending
        return outcomes

    def state_dict(self) -> dict[str, Any]:
        """The decisions that wait for their outcome, as plain JSON values."""
        return {"pending": [dataclasses.asdict(watched) for watched in self._pending]}

    def load_state_dict(self, state: Mapping[str, Any], known: Container[int] = ()) -> None:
        """Replace everything by what `state_dict` returned, but for decisions whose outcome is `known`."""
        watched = [_Watched(**fields) for fields in state["pending"]]
        self._pending = [w for w in watched if w.decision not in known]


# --- before ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Watched:
    """A decision that waits for its outcome, and what was known before it; y where no unit is named."""

    decision: int
    spent: int
    horizon: int
    branch: int
    """The one on which its outcome will show."""
    rewind: bool
    lost: bool
    """The loss was not finite."""
    log: bool
    unit: float | None
    """Usual size of the loss; None when there was none."""
    loss_slope: float | None
    forecast: float | None
    error: float | None
    """Standard error of the forecast without `noise`; None when it is not known."""
    noise: float | None
    """Long-run variance of single values."""
    validation: float | None
    gradient_norm: float | None

    def measures(self) -> Measures:
        """All names, with what is known before the outcome."""
        scale = Scale(self.log, self.unit or 1.0)
        return {
            "loss_slope_before": self.loss_slope,
            "loss_slope_after": None,
            "loss_forecast": scale.loss(self.forecast),
            "loss_measured": None,
            "loss_standard_error": None,
            "delta_loss": None,
            "validation_before": self.validation,
            "validation_after": None,
            "gradient_norm_before": self.gradient_norm,
            "gradient_norm_after": None,
        }


def _watched(decision: Decision, signals: Mapping[str, Signal], horizon: int) -> _Watched:
    rewind = isinstance(decision.action, Rewind)
    slope = forecast = error = noise = None
    loss = _between(signals.get("loss"), "step", decision.step - (WINDOW + 1) * horizon, decision.step)
    scale = Scale.of(loss.value)
    x, y = (loss.step - decision.step).astype(np.float64), scale.y(loss.value)
    sound = np.isfinite(y)
    lost = len(y) > 0 and _lost(y[-LEVEL:])
    x, y = x[sound], y[sound]
    line = Line.fit(x, y, -WINDOW * horizon)
    if line is not None:
        slope = scale.change(line.slope, line.at(0))
    if rewind:
        if len(y) and not lost:
            forecast = _level(y)
            error, noise = 0.0, float(np.var(y[-LEVEL:], ddof=1)) if len(y) > 1 else None
    elif line is not None:
        forecast, noise = line.at(0.75 * horizon), line.noise
        miss = _hindsight(x, y, horizon)
        bend = BEND * line.slope * 0.75 * horizon
        error = None if miss is None else math.hypot(line.error(0.75 * horizon), miss, bend)
    known = scale if sound.any() else None
    return _Watched(
        decision=decision.id,
        spent=decision.spent,
        horizon=horizon,
        branch=decision.branch + rewind,
        rewind=rewind,
        lost=lost,
        log=scale.log,
        unit=known and known.unit,
        loss_slope=slope,
        forecast=finite(forecast),
        error=finite(error),
        noise=finite(noise),
        validation=_recent(signals.get("validation/loss"), "step", decision.step, horizon),
        gradient_norm=_recent(signals.get("gradient_norm"), "step", decision.step, horizon),
    )


def _hindsight(x: Array, y: Array, horizon: int) -> float | None:
    """The error of the law one horizon ago; where the history is too short, half of it ago, scaled up.

    A bend's part of the error grows with the square of the lead.
    """
    lead = min(float(horizon), -float(x[0]) / 2)
    before = x <= -lead
    line = Line.fit(x[before], y[before], -lead - WINDOW * horizon)
    late = y[x > -lead / 2]
    if line is None or not len(late):
        return None
    return abs(float(late.mean()) - line.at(-lead / 4)) * (horizon / lead) ** 2


# --- after -------------------------------------------------------------------------------------------------


def _judged(watched: _Watched, signals: Mapping[str, Signal]) -> tuple[Verdict, Measures]:
    horizon, end = watched.horizon, watched.spent + watched.horizon
    measures = watched.measures()
    for name, signal in (("validation", "validation/loss"), ("gradient_norm", "gradient_norm")):
        after = _between(signals.get(signal), "spent", watched.spent, end)
        measures[f"{name}_after"] = _recent(after, "spent", end, horizon)

    since = _between(signals.get("loss"), "spent", watched.spent, end)
    late = _between(since, "spent", end - horizon / 2, end)
    scale = Scale.of(since.value) if watched.unit is None else Scale(watched.log, watched.unit)
    y = scale.y(late.value)
    if not len(y):
        return "unclear", measures
    if _lost(y):
        return ("unclear" if watched.lost or watched.unit is None else "worse"), measures
    finite = np.isfinite(y)
    x, y = late.spent[finite].astype(np.float64), y[finite]
    measured = float(y.mean())
    measures["loss_measured"] = scale.loss(measured)
    noises = [] if watched.noise is None else [watched.noise]
    line = Line.fit(x, y)
    if line is not None:
        noises.append(line.noise)
        measures["loss_slope_after"] = scale.change(line.slope, measured)

    near = math.inf
    if watched.rewind:
        before = scale.y(_between(signals.get("loss"), "spent", -1, watched.spent).value)
        level = _level(before)
        measures["loss_before_anomaly"] = scale.loss(level)
        if level is None:
            level = _level(scale.y(since.value[:1]))  # of the restored weights
        near = -math.inf if level is None else level + NEAR
    if watched.lost:
        return ("better" if measured <= near else "unclear"), measures
    if watched.forecast is None:
        return "unclear", measures
    measures["delta_loss"] = _difference(measures["loss_measured"], measures["loss_forecast"])
    if watched.error is None or not noises:
        return "unclear", measures
    weight = 1 / len(y) + (math.pi / 2 / LEVEL if watched.rewind else 0.0)  # of the mean, and of the median
    error = math.hypot(watched.error, math.sqrt(max(noises) * weight))
    measures["loss_standard_error"] = scale.change(error, watched.forecast)
    delta = measured - watched.forecast
    if abs(delta) > max(MATERIAL, SURE * error):
        return ("better" if delta < 0 else "worse"), measures
    return "unclear", measures


# --- parts of a history ------------------------------------------------------------------------------------


def _level(y: Array) -> float | None:
    """Median of the newest finite values; None for none."""
    y = y[np.isfinite(y)][-LEVEL:]
    return float(np.median(y)) if len(y) else None


def _lost(y: Array) -> bool:
    """Whether most values are not finite."""
    return 2 * int(np.isfinite(y).sum()) < len(y)


_EMPTY = Signal(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def _between(signal: Signal | None, clock: Literal["step", "spent"], after: float, until: float) -> Signal:
    """The part measured later than `after`, up to and with `until`."""
    if signal is None:
        return _EMPTY
    clocks = signal.step if clock == "step" else signal.spent
    start, stop = clocks.searchsorted([after, until], "right")
    return Signal(signal.step[start:stop], signal.spent[start:stop], signal.value[start:stop])


def _recent(
    signal: Signal | None, clock: Literal["step", "spent"], until: float, horizon: int
) -> float | None:
    """Median over the half horizon that ends at `until`, else the newest finite value before; None: none."""
    for start in (until - horizon / 2, -math.inf):
        values = _between(signal, clock, start, until).value
        values = values[np.isfinite(values)]
        if len(values):
            return finite(float(values[-1] if start == -math.inf else np.median(values)))
    return None


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else finite(a - b)
