"""Divergence guard: notices that a run has broken, goes back to before it broke, and goes on more carefully."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.records import (
    Action,
    Escalate,
    HyperparameterState,
    Observation,
    Ramp,
    Rewind,
    Set,
    Signal,
    TuneError,
)

from .divergence import DEAD_AFTER, LEVEL, Array, Band, beginning, noise, running_median, y_of

# Steps.
WINDOW = 200  # healthy losses that a new one is compared with
ENOUGH = 30  # losses without which there is no healthy level
PATIENCE = 50  # how long a finite anomaly may take to recover
LOST = 3  # non-finite losses in a row that do not recover any more
ANOMALY = 8.0  # deviations of the level
UNDONE = 4.0
PART = 0.5  # of the progress
SHORT = 20
PROBATION = 300
MARGIN = 2  # states younger than this before the first anomaly may be damaged already
GROWN = 1000  # what has lived as long is past its beginning
WARM_UP, START_WARM_UP = 50, 20  # from a tenth of the lowered rate up to it
HEALED = 500  # healthy steps after which earlier attempts are forgotten
# Factors for the rate.
LOWER, LOWER_AGAIN = 1 / 2, 1 / 4
START_LOWER, START_LOWER_FAR, FAR = 1 / 10, 1 / 10, math.log(100)
MOVED = 0.3  # path of the weights over their size, without which nothing can have broken
FIRST_UPDATE = 0.3  # update-to-weight ratio of a first step; beyond it no rate is worth trying
OVERSHOT_BY = math.log(1.5)  # a rise of y among the first 10 that such a step is held against


@dataclass(frozen=True, slots=True)
class Alarm:
    """A confirmed divergence."""

    first: int
    """Step of the first anomaly."""
    what: str
    evidence: dict[str, float]
    start: bool = False
    """Nothing had been learned yet."""
    factor: float = 1.0
    """For the rate, at the start."""


class DivergenceGuard:
    """Rewinds to before the first anomaly, skips the data since, lowers the rate and warms it up again.

    *Anomaly.* A log loss that is 6 robust standard deviations above the level of the last 200 healthy ones
    (`divergence.Band`), or a loss that is not finite. Gradient norms by the same rule and non-finite
    gradients only date the beginning, since healthy gradients grow too.
    *Confirmed* when three losses in a row are not finite, or when 50 steps after the first anomaly the
    median of 10 losses is still as high (3 deviations, where it is back at the run's first loss). A spike
    that recovers is left alone, however high.
    *At the start* the first steps have overshot when the first one moved the weights by more than 0.3 ‖w‖ and
    3 losses in a row among the first 10 have a median half as high again as the first: Adam's losses come
    down again after that, but the initialisation is gone. Until the median of 20 losses is clearly below the
    first one, the run has exploded when
    5 losses in a row have a median 4 times the first and 8 deviations above it; it is dead when after 30
    steps it had risen (3 in a row by 10 % and 5 deviations), is not below the first loss and falls no more.
    A rate that is too low never raises the loss, so it is left alone.

    *Action.* One rewind to the newest state before the first anomaly, and to an older one when it comes
    again within 100 steps. The rate is halved, from the second time on quartered; at the start it is a third
    (a tenth where the loss was lost or rose a hundredfold) or what gives a first step of 0.3 ‖w‖, whichever
    is less. When already the first loss after a rewind is anomalous, neither weights nor rate are to blame:
    the bad data are read on for 50 steps (then 100, ...), and skipped at the same rate. After
    `attempts` without 500 healthy steps between it escalates, once.

    Source: PaLM (Chowdhery et al. 2022, section 5.1) rewound 100 steps and skipped 200 to 500 batches at a
    spike; modified z-score as in Iglewicz & Hoaglin 1993; 0.3 ‖w‖ was measured on seven workloads.

    Args:
        hyperparameter: the rate that is lowered.
        attempts: rewinds in one episode, at least 1.
        name: unique within a run.
    """

    requires: Sequence[str] = ("loss",)

    def __init__(self, hyperparameter: str = "lr", attempts: int = 6, name: str = "divergence_guard") -> None:
        if attempts < 1:
            raise TuneError(f"attempts is at least 1, got {attempts}; leave the guard out to have none")
        self.name = name
        self.controls: Sequence[str] = (hyperparameter,)
        self._attempts = attempts
        self._branch: int | None = None  # spent - step, which grows with every rewind, whoever asked
        self._seen = 0  # step of the newest loss that was judged
        self._first: int | None = None  # step of the first anomaly that has not recovered
        self._initial: list[float] = []  # losses of the initial weights; one more with each return to them
        self._best: list[float] | None = None  # a loss at the best level yet, and the level's deviation there
        self._learned: int | None = None  # step at which the loss was below them
        self._probation = False  # the last rewind was one of the start
        self._tries = 0
        self._acted = 0  # spent at the last try
        self._wait = 0  # spent before which a refused try is not repeated
        self._target: list[float] | None = None  # what the last rewind warms up to, in how many steps
        self._escalated = False

    def decide(self, observation: Observation) -> Sequence[Action]:
        """See `Policy.decide`."""
        loss = observation.signals.get("loss")
        if loss is None or not len(loss):
            return ()
        for decision in observation.decisions:
            if decision.source == self.name and isinstance(decision.action, Rewind) and not decision.applied:
                self._wait = observation.spent + self._tries * PATIENCE
                self._target = None
        begin = self._begin_of_branch(loss)
        alarm = self._judge(loss, begin, observation)
        self._seen = int(loss.step[-1])
        if alarm is not None and observation.spent >= self._wait:
            back = int(loss.step[begin - 1]) if begin else int(loss.step[0]) - 1
            return self._act(alarm, back, observation)
        if (
            self._tries
            and self._first is None
            and alarm is None
            and observation.spent >= self._acted + HEALED
        ):
            self._tries, self._escalated = 0, False
        return ()

    def _begin_of_branch(self, loss: Signal) -> int:
        """Index of the first loss of the present branch; forgets what a rewind has undone."""
        offset = loss.spent - loss.step
        begin = int(offset.searchsorted(offset[-1]))
        if offset[-1] != self._branch:
            self._branch = int(offset[-1])
            back = int(loss.step[begin - 1]) if begin else int(loss.step[0]) - 1
            self._seen, self._first, self._best = back, None, None
            if not begin and math.isfinite(loss.value[0]):
                self._initial.append(float(loss.value[0]))
            if self._learned is not None and self._learned > back:
                self._learned = None
        return begin

    # --- the law -------------------------------------------------------------------------------------------

    def _judge(self, loss: Signal, begin: int, observation: Observation) -> Alarm | None:
        lost = not np.isfinite(loss.value[begin:][-LOST:]).any() and len(loss.value[begin:]) >= LOST
        initial = np.array([v for v in self._initial if math.isfinite(v)])
        if self._learned is None:
            if lost:
                start = int(loss.step[begin])
                return Alarm(start, "the loss is not finite", {}, True, START_LOWER_FAR)
            if len(initial) and _moved(observation, int(loss.step[begin])):
                alarm = self._beginning(loss.since(int(loss.step[begin])), initial, observation)
                if alarm is not None:
                    return alarm
        end = int(loss.step.searchsorted(self._seen if self._first is None else self._first - 1, "right"))
        healthy = loss.value[max(0, end - WINDOW) : end]
        healthy = healthy[np.isfinite(healthy)]
        usual = np.concatenate([healthy, initial])
        y = y_of(loss.value[end:], usual)
        limit, band = math.inf, None
        if len(healthy) >= ENOUGH:
            band = Band.of(y_of(healthy, usual))
            limit = band.level + ANOMALY * band.deviation
        if self._first is None:
            above = np.flatnonzero((y > limit) | np.isposinf(y))
            if len(above):
                self._first = self._dated(int(loss.step[end + above[0]]), observation)
        if lost and self._first is not None:
            return Alarm(self._first, "the loss is not finite", {})
        level = float(np.median(y[-LEVEL:]))
        if self._first is not None:
            since = int(loss.step[-1]) - self._first
            if since >= LEVEL and math.isfinite(level) and level <= limit:
                self._first = None
            elif since >= PATIENCE and band is not None:
                evidence = {"level": level, "healthy_level": band.level, "deviation": band.deviation}
                return Alarm(self._first, f"the loss has not recovered for {PATIENCE} steps", evidence)
        if self._first is None and band is not None and len(initial):
            return self._undone(loss, begin, band, initial)
        return None

    def _undone(self, loss: Signal, begin: int, band: Band, initial: Array) -> Alarm | None:
        """Whether a good part of what had been learned is lost again, however slowly."""
        usual = np.concatenate([loss.value[-WINDOW:], initial])
        recent = y_of(loss.value[-PATIENCE:], usual)
        level = float(np.median(recent[-SHORT:]))
        if self._best is None or level < y_of(np.array(self._best[:1]), usual)[0]:
            self._best = [float(np.median(loss.value[-SHORT:])), band.deviation]
        best, deviation = float(y_of(np.array(self._best[:1]), usual)[0]), self._best[1]
        lost = PART * (float(np.median(y_of(initial, usual))) - best)
        age = len(loss.value) - begin
        if self._probation and age < PROBATION:
            error = 1.2533 / math.sqrt(SHORT) * noise(recent)
            if age > DEAD_AFTER and level > best + max(lost, 3 * error):
                evidence = {"best_level": best, "level": level, "error": error}
                return Alarm(int(loss.step[begin]), "the lowered rate is still too high", evidence, True, START_LOWER)
        elif age >= PATIENCE and np.quantile(recent, 0.1) > best + max(lost, UNDONE * deviation):
            levels = running_median(y_of(loss.value[begin:], usual), SHORT)
            good = np.flatnonzero(levels <= best + UNDONE * deviation)
            first = int(loss.step[begin + (good[-1] + SHORT if len(good) else 0)])
            evidence = {"best_level": best, "level": level, "deviation": deviation}
            return Alarm(first, "half of the progress is undone", evidence)
        return None

    def _beginning(self, loss: Signal, initial: Array, observation: Observation) -> Alarm | None:
        usual = np.concatenate([initial, loss.value[:WINDOW]])
        first = float(np.median(y_of(initial, usual)))
        y = y_of(loss.value, usual)
        factor = self._first_update(int(loss.step[0]) - 1, observation)
        rise = float(running_median(y[:LEVEL], 3).max()) - first
        if factor < 1.0 and len(y) >= 3 and rise > OVERSHOT_BY:
            evidence = {"rise": rise, "first": first, "first_update": FIRST_UPDATE / factor}
            return Alarm(int(loss.step[0]), "the first steps overshot", evidence, True, factor)
        state, rose = beginning(y, first)
        if state == "learned" or len(loss) >= GROWN:
            self._learned = int(loss.step[-1])
        if state in ("open", "learned"):
            return None
        what = "the loss exploded at the start" if state == "exploded" else "nothing is learned at this rate"
        factor = START_LOWER_FAR if rose > FAR else START_LOWER
        return Alarm(int(loss.step[0]), what, {"rise": rose, "first": first}, True, factor)

    def _dated(self, first: int, observation: Observation) -> int:
        """The step from which on gradients were anomalous too, up to the `first` such loss."""
        for name in ("gradient_norm", "nonfinite"):
            signal = observation.signals.get(name)
            if signal is None:
                continue
            begin, end = signal.step.searchsorted([first - PATIENCE, first])
            healthy, recent = signal.value[max(0, begin - ENOUGH) : begin], signal.value[begin:end]
            healthy = healthy[np.isfinite(healthy)]
            if name == "nonfinite":
                bad = recent > 0
            elif len(healthy) >= 2 * LEVEL:
                band = Band.of(y_of(healthy, healthy))
                bad = y_of(recent, healthy) > band.level + ANOMALY * band.deviation
            else:
                continue
            sound = np.flatnonzero(~bad)
            run = int(sound[-1]) + 1 if len(sound) else 0
            if run < len(recent):
                first = int(signal.step[begin + run])
        return first

    # --- the action ----------------------------------------------------------------------------------------

    def _act(self, alarm: Alarm, back: int, observation: Observation) -> Sequence[Action]:
        poisoned = self._tries > 0 and not alarm.start and alarm.first == back + 1
        if poisoned and observation.spent < self._acted + PATIENCE * 2 ** (self._tries - 1):
            return ()
        rate = observation.hyperparameters[self.controls[0]]
        ours = rate.owner == "policy"
        hopeless = (
            f"{self._tries} rewinds did not help" if self._tries >= self._attempts
            else "no rewinds are left" if observation.rewinds_left < 1
            else "there is no state to go back to" if not observation.snapshots
            else f"{rate.name} is held by {rate.owner}" if alarm.start and not ours
            else ""
        )  # fmt: skip
        evidence = {"first_anomaly": alarm.first, "attempt": self._tries + 1, **alarm.evidence}
        evidence = {name: value for name, value in evidence.items() if math.isfinite(value)}
        if hopeless:
            if self._escalated:
                return ()
            self._escalated = True
            return (Escalate(reason=f"{alarm.what}, and {hopeless}", evidence=evidence),)
        steps = [snapshot.step for snapshot in observation.snapshots]
        limit = alarm.first - MARGIN
        if poisoned and self._tries < 3:
            limit = back
        elif self._tries and alarm.first - back <= 2 * PATIENCE:
            limit = min(limit, back - 1)
        to = max((step for step in steps if step <= limit), default=min(steps))
        if alarm.start:
            factor = min(alarm.factor, self._first_update(back, observation))
        else:
            factor = 1.0 if poisoned else LOWER_AGAIN if self._tries else LOWER
        warm_up = START_WARM_UP if alarm.start else WARM_UP
        then = self._lowered(rate, back, factor, warm_up, alarm.what) if ours else ()
        self._probation = alarm.start
        self._tries += 1
        self._acted = observation.spent
        evidence["factor"] = factor
        return (Rewind(to, "skip", then, reason=alarm.what, evidence=evidence),)

    def _lowered(
        self, rate: HyperparameterState, back: int, factor: float, warm_up: int, reason: str
    ) -> tuple[Set, Ramp]:
        value = float(rate.value)
        if self._target is not None and rate.ramp_until == back + self._target[1]:
            value = self._target[0]  # still warming up towards it
        low = rate.low if rate.low is not None else 0.0
        target = max(low, factor * value)
        self._target = [target, warm_up]
        start = Set(rate.name, max(low, target / 10), reason=reason)
        return start, Ramp(rate.name, target, warm_up, reason=reason)

    def _first_update(self, back: int, observation: Observation) -> float:
        """The factor that makes the first step, where it was measured, 0.3 times as long as the weights."""
        ratio = observation.signals.get("update_ratio")
        if self._tries or ratio is None or not len(ratio) or ratio.step[0] != back + 1:
            return 1.0
        first = float(ratio.value[0])
        return min(1.0, max(1e-3, FIRST_UPDATE / first)) if first > 0 else 1.0

    # --- memory --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See `Policy.state_dict`."""
        return {name[1:]: getattr(self, name) for name in _MEMORY}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Policy.load_state_dict`."""
        for name in _MEMORY:
            setattr(self, name, state[name[1:]])


def _moved(observation: Observation, start: int) -> bool:
    """Whether the weights have moved enough since step `start` for anything to have broken."""
    ratio = observation.signals.get("update_ratio")
    if ratio is None:
        return True
    values = ratio.since(start).value
    if not len(values):
        return False
    path = np.median(values) * (observation.step - start + 1)
    return not path < MOVED  # NaN and infinity have moved


_MEMORY = (
    "_branch", "_seen", "_first", "_initial", "_best", "_learned", "_probation", "_tries", "_acted", "_wait", "_target", "_escalated",
)  # fmt: skip
