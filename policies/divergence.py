"""When a run has diverged: the law of the divergence guard, without its actions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from autotune.records import Observation, Signal

from .robust import LEVEL, OF_MEDIAN, Array, Band, noise, running_median, y_of

# Lengths, in steps.
WINDOW = 200  # healthy losses that a new one is compared with
ENOUGH = 30  # losses without which there is no level
PATIENCE = 50  # how long a finite anomaly may take to recover
LOST = 3  # non-finite losses in a row that do not recover any more
SHORT = 20  # losses whose median is the best level
RISE = 200  # the newest losses, among which a rise at the start is looked for
SETTLED = 100  # age at which a loss that still falls from its rise has to be below the first one
PROBATION = 300  # age of a branch that was begun anew, up to which it is watched more closely
GROWN = 1000  # age of a branch that is past its beginning, learned or not
# Thresholds.
ANOMALY = 8.0  # deviations of the level above the healthy one
UNDONE = (
    (0.5, 8.0),
    (0.9, 6.0),
)  # part of the progress since the first loss, and deviations of the best level
PROBATION_PART, PROBATION_ERRORS = 0.5, 3.0  # the same on probation, and standard errors
EXPLODED, EXPLODED_BY = 8.0, math.log(4)  # standard deviations of single losses, and y
ROSE, ROSE_BY = 5.0, math.log(1.1)
LEARNED, LEARNED_BY = 2.0, math.log(1.1)
FIRST_UPDATE = 0.3  # update-to-weight ratio of a first step; beyond it no rate is worth trying
OVERSHOT_BY = math.log(1.5)  # y, by which the first losses may rise after such a step
MOVED = 0.3  # path of the weights over their size, without which nothing can have broken


@dataclass(frozen=True, slots=True)
class Alarm:
    """A confirmed divergence."""

    first: int
    """Step of the first anomaly."""
    what: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    start: bool = False
    """It has to begin anew: what it had learned, if anything, is no good."""


class Divergence:
    """Watches the loss for divergence; `judge` is called at every tick.

    y is the log of the loss (`y_of`), its level the median of 10.

    *Anomaly*: the level is 8 deviations above that of the last 200 healthy losses (`Band`), and still is 50
    steps after the first loss that was so high; or three losses in a row are not finite. Spikes that recover
    are left alone, however high. Gradient norms by the same rule and non-finite gradients only date the
    beginning, for healthy gradients grow, too.
    *Undone*: 90 % of the last 50 losses are above the best level yet by half of all progress since the first
    loss and 8 deviations, or by nine tenths of it and 6 deviations. It finds what goes wrong too slowly to
    be an anomaly, and what is lost where losses near zero vary by orders of magnitude.
    *Overshot*: the first step moved the weights by more than 0.3 of their size, and 3 losses in a row among
    the first 10 have a median half as high again as the first. Adam's losses soon come down again after
    that, but the initialisation is gone.
    *At the start* there is no healthy level until the median of the later half is clearly below the first
    loss. The run has exploded when 5 losses in a row have a median 4 times the first and 8 standard
    deviations above it; it is dead when after 30 steps it had risen (3 in a row by 10 % and 5 standard
    deviations), is not below the first loss and falls no more. Neither is possible before the weights have
    moved by 0.3 of their size (median update ratio × steps); where that is not measured, nothing is called
    dead. A rate that is too low moves and raises nothing, so it is left alone.
    *On probation*, the first 300 steps of a run that was begun anew, half of the progress and 3 standard
    errors above the best level are enough: the rate is of the order of the highest that is possible.
    """

    def __init__(self) -> None:
        self.suspect: int | None = None  # step of the first anomaly that has not recovered
        self._offset: int | None = None  # spent - step, which grows with every rewind, whoever asked for it
        self._seen = 0  # step of the newest loss that was judged
        self._initial: list[float] = []  # losses of the initial weights; one more with each return to them
        self._learned: int | None = None  # step at which the loss was below them
        self._best: list[float] | None = None  # a loss at the best level yet, and the level's deviation there

    def judge(self, observation: Observation, probation: bool) -> Alarm | None:
        """What is confirmed at this tick."""
        loss = observation.signals["loss"]
        begin = self._follow(loss)
        live = loss.value[begin:]
        start, newest = int(loss.step[begin]), int(loss.step[-1])
        initial = np.array(self._initial)
        lost = len(live) >= LOST and not np.isfinite(live[-LOST:]).any()
        if self._learned is None:
            if lost:
                return Alarm(start, "the loss is not finite", start=True)
            alarm = self._beginning(live, start, initial, observation) if self._initial else None
            if alarm is not None:
                return alarm

        end = int(loss.step.searchsorted(self._seen if self.suspect is None else self.suspect - 1, "right"))
        self._seen = newest
        healthy = loss.value[max(0, end - WINDOW) : end]
        healthy = healthy[np.isfinite(healthy)]
        usual = np.concatenate([healthy, initial])
        band = Band.of(y_of(healthy, usual)) if len(healthy) >= ENOUGH else None
        limit = math.inf if band is None else band.above(ANOMALY)
        y = y_of(loss.value[end:], usual)
        if self.suspect is None:
            above = np.flatnonzero((y > limit) | np.isposinf(y))
            if len(above):
                self.suspect = _dated(int(loss.step[end + above[0]]), start, observation.signals)
        if self.suspect is not None:
            level = float(np.median(y[-LEVEL:]))
            if lost:
                return Alarm(self.suspect, "the loss is not finite")
            if newest - self.suspect >= LEVEL and level <= limit and math.isfinite(level):
                self.suspect = None
            elif newest - self.suspect >= PATIENCE and band is not None:
                evidence = {"level": level, "healthy_level": band.level, "deviation": band.deviation}
                return Alarm(self.suspect, f"the loss has not recovered for {PATIENCE} steps", evidence)
        if self.suspect is None and band is not None and self._initial and self._learned is not None:
            return self._undone(loss, begin, initial, band.deviation, probation)
        return None

    def back(self, loss: Signal) -> int:
        """The step that the present branch began with."""
        return int(loss.step[self._begin(loss)]) - 1

    def state_dict(self) -> dict[str, Any]:
        """The memory, as plain JSON values."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the memory back."""
        vars(self).update(state)

    def _begin(self, loss: Signal) -> int:
        """Index of the first loss of the present branch."""
        offset = loss.spent - loss.step
        return int(offset.searchsorted(offset[-1]))

    def _follow(self, loss: Signal) -> int:
        """`_begin`; forgets what a rewind has undone since the last call."""
        begin, offset = self._begin(loss), int(loss.spent[-1] - loss.step[-1])
        if offset != self._offset:
            back = int(loss.step[begin]) - 1
            self._offset, self._seen, self.suspect, self._best = offset, back, None, None
            if not begin and math.isfinite(loss.value[0]):
                self._initial = [*self._initial, float(loss.value[0])]
            if self._learned is not None and self._learned > back:
                self._learned = None
        return begin

    def _beginning(self, live: Array, start: int, initial: Array, observation: Observation) -> Alarm | None:
        usual = np.concatenate([initial, live[:WINDOW]])
        first = float(np.median(y_of(initial, usual)))
        y = y_of(live, usual)
        update = first_update(observation, start)
        rise = float(running_median(y[:LEVEL], 3).max()) - first
        if update is not None and update > FIRST_UPDATE and len(y) >= 3 and rise > OVERSHOT_BY:
            evidence = {"first": first, "rise": rise, "first_update": update}
            return Alarm(start, "the first steps overshot", evidence, start=True)
        state, peak = beginning(y, first)
        if state == "learned" or len(live) >= GROWN:
            self._learned = start + len(live) - 1
        path = _path(observation, start)
        evidence = {"first": first, "peak": peak}
        if path is not None:
            evidence["path"] = path
        if state == "exploded" and not (path is not None and path < MOVED):
            return Alarm(start, "the loss exploded at the start", evidence, start=True)
        if state == "dead" and path is not None and not path < MOVED:
            return Alarm(start, "nothing is learned at this rate", evidence, start=True)
        return None

    def _undone(
        self, loss: Signal, begin: int, initial: Array, deviation: float, probation: bool
    ) -> Alarm | None:
        median = float(np.median(loss.value[-SHORT:]))
        if self._best is None or median < self._best[0]:
            self._best = [median, deviation]
        usual = np.concatenate([loss.value[-WINDOW:], initial])
        level, best, *firsts = y_of(np.array([median, self._best[0], *self._initial]), usual).tolist()
        progress, deviation = float(np.median(firsts)) - best, self._best[1]
        recent = y_of(loss.value[-PATIENCE:], usual)
        evidence = {"level": level, "best_level": best, "progress": progress}
        age = len(loss.value) - begin
        if probation and age < PROBATION:
            error = OF_MEDIAN / math.sqrt(SHORT) * noise(recent)
            if level > best + max(PROBATION_PART * progress, PROBATION_ERRORS * error):
                what = "the lowered rate is still too high"
                return Alarm(int(loss.step[begin]), what, evidence, start=True)
        elif age >= PATIENCE:
            limit = best + min(max(part * progress, times * deviation) for part, times in UNDONE)
            if np.sort(recent)[PATIENCE // 10] > limit:
                levels = running_median(y_of(loss.value[begin:], usual), SHORT)
                good = np.flatnonzero(levels <= limit)
                first = int(loss.step[begin + (int(good[-1]) + SHORT if len(good) else 0)])
                return Alarm(first, "the progress is undone", evidence)
        return None


def beginning(y: Array, first: float) -> tuple[Literal["open", "learned", "exploded", "dead"], float]:
    """What the values since the initial weights say, and how far they rose above the `first` one.

    Args:
        y: values, oldest first, one a step.
        first: y of the initial weights.
    """
    n = len(y)
    late = y[-max(SHORT, n // 2) :]
    deviation = noise(late)
    peak = float(running_median(y[-RISE:], 5).max()) - first
    if n >= 5 and peak > max(EXPLODED_BY, EXPLODED * deviation):
        return "exploded", peak
    if n < ENOUGH:
        return "open", peak
    level, error = float(np.median(late)), OF_MEDIAN * deviation / math.sqrt(len(late))
    if level < first - max(LEARNED_BY, LEARNED * deviation):
        return "learned", peak
    peak = float(running_median(y[-RISE:], 3).max()) - first
    half = len(late) // 2
    falling = n < SETTLED and float(np.median(late[:half]) - np.median(late[half:])) > 4 * error
    if peak <= max(ROSE_BY, ROSE * deviation) or falling or level < first - error:
        return "open", peak
    return "dead", peak


def first_update(observation: Observation, start: int) -> float | None:
    """The update-to-weight ratio of step `start`; None where it is not measured, or not a number."""
    ratio = observation.signals.get("update_ratio")
    if ratio is None or not len(ratio) or ratio.step[0] != start or math.isnan(ratio.value[0]):
        return None
    return float(ratio.value[0])


def _path(observation: Observation, start: int) -> float | None:
    """How far the weights have moved since step `start`, over their size; None where it is not measured."""
    ratio = observation.signals.get("update_ratio")
    if ratio is None:
        return None
    values = ratio.since(start).value
    return float(np.median(values)) * (observation.step - start + 1) if len(values) else 0.0


def _dated(first: int, start: int, signals: Mapping[str, Signal]) -> int:
    """The step since which gradients were anomalous, too, up to the `first` such loss; not before `start`."""
    for name in ("gradient_norm", "nonfinite"):
        signal = signals.get(name)
        if signal is None:
            continue
        begin, end = signal.step.searchsorted([max(start, first - PATIENCE), first])
        healthy, recent = signal.value[max(0, begin - ENOUGH) : begin], signal.value[begin:end]
        healthy = healthy[np.isfinite(healthy)]
        if name == "nonfinite":
            anomalous = recent > 0
        elif len(healthy) >= 2 * LEVEL:
            anomalous = y_of(recent, healthy) > Band.of(y_of(healthy, healthy)).above(ANOMALY)
        else:
            continue
        sound = np.flatnonzero(~anomalous)
        since = int(sound[-1]) + 1 if len(sound) else 0
        if since < len(recent):
            first = int(signal.step[begin + since])
    return first
