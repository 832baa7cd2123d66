"""Trials: stretches of training that are tried out from one state, one after another, and come back to it."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .controls import Controls, Held
from .memory import Restored, Target
from .records import Probe, Ramp, Signal, Trial, TuneError, Value
from .slots import NoRoom, Room

log = logging.getLogger("autotune")

KEPT = 4
"""States of trials that are kept at a time, the best ones, where there is memory for as many."""
BESIDE = 2
"""States beside those: the one that they all began from, and that of the trial that is being scored."""


class Bench(Protocol):
    """What trials need of the run."""

    def room(self, least: int, most: int, known: Room | None) -> Room:
        """How many states could be held, and where; see `slots.find_room`."""
        ...

    def hold(self, room: Room | None) -> Target:
        """Keep the present state there, with its history; `NoRoom` when there is no memory for it."""
        ...

    def release(self, target: Target) -> None:
        """Let it go."""
        ...

    def trim(self) -> None:
        """Give back the memory of states that were let go."""
        ...

    def restore(self, target: Target, held: Held) -> Restored:
        """Go there, with what people hold."""
        ...

    def measured(self) -> Mapping[str, Signal]:
        """The signals of the live branch."""
        ...

    def judge(self, since: int, evaluate: bool) -> tuple[float, float, tuple[float, ...]]:
        """Score the present state: a loss, its standard error, single losses.

        Args:
            since: the step at which the branch, or without one the trial, began.
            evaluate: see `Probe`.
        """
        ...

    def tried(self, trial: Trial, why: str) -> None:
        """Put a finished trial on record; `why` it was lost, or empty."""
        ...


@dataclass(slots=True)
class _Running:
    """The trial under way, until `until`, and what its own training has ended in."""

    id: int
    source: str
    probe: Probe
    start: int
    spent: int
    until: int
    trained: int | None = None
    """The step at which its own training ended; None while it goes on."""
    values: dict[str, Value] = field(default_factory=dict)
    skipped: int = 0
    """Batches after which a GradScaler has skipped the step."""
    lost: str = ""
    """Why it is lost, if those say so."""
    not_kept: str = ""
    """Why its state is not kept, if there was no memory for it."""


class Trials:
    """Runs trials and keeps what came of them.

    Their states take memory: that which they all began from, that of the one being scored, and the best, four
    of them, or fewer where there is less room, but at least one. How many, and where, is settled when the
    first trial is asked for, and told; all is given back when nobody goes on from them.

    Args:
        bench: the run.
        controls: its hyperparameters.
    """

    def __init__(self, bench: Bench, controls: Controls) -> None:
        self.results: dict[int, Trial] = {}
        self._bench, self._controls = bench, controls
        self._room: Room | None = None  # None: no trials are on
        self._told: Room | None = None
        self._asked: deque[tuple[int, str, Probe]] = deque()
        self._sources: dict[int, str] = {}
        self._states: dict[int, Target] = {}
        self._origin: Target | None = None
        self._held: Held = {}  # by people, there
        self._now: _Running | None = None

    @property
    def running(self) -> bool:
        """Whether the run is in a trial."""
        return self._now is not None

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """What was kept with the state that the trials began from; None when none is on."""
        return None if self._origin is None else self._origin.kept

    @property
    def begun(self) -> int:
        """The `spent` at which the trials that are on began."""
        assert self._origin is not None
        return self._origin.info.spent

    @property
    def waiting(self) -> bool:
        """Whether trials have been asked for that are still to begin."""
        return bool(self._asked)

    @property
    def moved(self) -> set[str]:
        """The hyperparameters that the trials are about."""
        probes = [probe for _, _, probe in self._asked] + ([self._now.probe] if self._now else [])
        return {change.name for probe in probes for change in (*probe.then, *probe.branch)}

    @property
    def until(self) -> int:
        """The step at which the trial under way goes on to something else."""
        assert self._now is not None
        return self._now.until

    @property
    def most(self) -> int:
        """Steps that all trials asked for may still take."""
        return sum(probe.most for _, _, probe in self._asked)

    def make_room(self) -> None:
        """Settle where the states of the trials lie that are about to be asked for.

        Raises:
            NoRoom: when there is no memory for the fewest.
        """
        if not self.waiting:  # with the first one
            self._room = self._bench.room(1 + BESIDE, KEPT + BESIDE, self._room)

    def ask(self, id: int, source: str, probe: Probe) -> str:
        """Run this trial when those before it are finished.

        Returns:
            What memory their states take, where that is news; else nothing.
        """
        self._asked.append((id, source, probe))
        self._sources[id] = source
        if self._room is self._told:
            return ""
        self._told = self._room
        assert self._room is not None
        if self._room.note:
            log.warning("trials keep %s", self._room)
        return f"trials keep {self._room}"

    def state(self, id: int, source: str) -> Target:
        """The state that a trial of `source` is kept in.

        Raises:
            TuneError: when it is not, or no longer, or the run cannot go there with its data.
        """
        mine = [other for other in self._states if self._sources[other] == source]
        if id not in mine:
            there = ", ".join(map(str, mine)) or "none"
            raise TuneError(
                f"a trial is continued or adopted while it is kept, by who asked for it, got {id}; "
                f"those of {source} that are kept: {there}"
            )
        if why := _unreachable(self._states[id]):
            raise TuneError(why)
        return self._states[id]

    def begin(self, step: int, spent: int) -> None:
        """Start the first trial that waits, from where the run stands, by the clock.

        All are lost when there is no memory any more to come back from.
        """
        try:
            self._origin = self._bench.hold(self._room)
        except NoRoom as error:
            log.warning("step %d: no trials: %s", step, error)
            while self._asked:
                now = _Running(*self._asked.popleft(), start=step, spent=spent, until=step)
                self._finish(now, step, spent, math.inf, math.nan, (), {}, f"failed: {error}")
            return
        self._held = self._controls.held(self._origin.info.step)
        self._next(spent)

    def skipped(self, batches: int, losses: Sequence[float]) -> None:
        """A GradScaler has skipped the steps of so many batches; see `boundary` for what follows.

        Args:
            batches: since this was last called.
            losses: that were reported about them.
        """
        now = self._now
        assert now is not None
        now.skipped += batches
        if now.skipped >= now.probe.most or not all(map(math.isfinite, losses)):
            now.lost = f"lost: a GradScaler skipped {now.skipped} batches"

    def boundary(self, step: int, spent: int, over: bool) -> bool:
        """A step of a trial is over, or was skipped; returns whether the trials are over.

        Args:
            step: the clock's.
            spent: the clock's.
            over: the loop ends here, whatever the trial still needs.
        """
        now = self._now
        assert now is not None
        loss = self._bench.measured().get("loss")
        why = self._left_behind() or now.lost or ("" if loss is None else _given_up(loss, now))
        lost = bool(why)
        if not (lost or over or step >= now.until):
            return False
        if over:
            self._asked.clear()
            self._back()
            self.forget()
            return True
        if now.trained is None and not lost:
            now.trained = step
            self._keep(now)
            if now.probe.branch:
                for ramp in now.probe.branch:
                    self._controls.ramp(ramp, now.source, step)
                now.until = step + max(ramp.steps for ramp in now.probe.branch)
                return False
        score, error = math.inf, math.nan
        losses: tuple[float, ...] = ()
        if not lost:
            branch = now.trained if now.probe.branch and now.trained is not None else now.start
            score, error, losses = self._bench.judge(branch, now.probe.evaluate)
            score = score if math.isfinite(score) else math.inf
        signals = {n: part for n, s in self._bench.measured().items() if len(part := s.since(now.start + 1))}
        self._finish(now, step, spent, score, error, losses, signals, why)
        return self._next(spent)

    def forget(self) -> None:
        """Let go of all states and results: nobody goes on from them."""
        for target in self._states.values():
            self._bench.release(target)
        self._states.clear()
        self._sources.clear()
        self.results = {}
        if self._room is not None:
            self._room = self._told = None
            self._bench.trim()

    def _next(self, spent: int) -> bool:
        """Start the next trial; returns whether there was none, and the run is back."""
        while self._asked:
            id, source, probe = self._asked.popleft()
            assert self._origin is not None
            target = self._origin if probe.after is None else self._states[probe.after]
            step = target.info.step
            self._now = _Running(id, source, probe, step, spent, step + probe.steps)
            if why := self._left_behind() or _unreachable(target):
                self._finish(self._now, step, spent, math.inf, math.nan, (), {}, why)
                continue
            self._bench.restore(target, self._held)
            try:
                for change in probe.then:
                    if isinstance(change, Ramp):
                        self._controls.ramp(change, source, step)
                    else:
                        self._controls.write(change.name, change.value)
            except Exception as error:
                log.warning("step %d: %s failed: %s", step, probe.describe(), error)
                self._finish(self._now, step, spent, math.inf, math.nan, (), {}, f"failed: {error}")
                continue
            return False
        return self._back()

    def _keep(self, now: _Running) -> None:
        try:
            self._states[now.id] = self._bench.hold(self._room)
        except NoRoom as error:
            log.warning("step %d: the state of a trial is not kept: %s", now.until, error)
            now.not_kept = f"its state is not kept: {error}"
        names = {change.name for change in now.probe.then}
        now.values = {name: self._controls[name]() for name in names}

    def _finish(
        self,
        now: _Running,
        step: int,
        spent: int,
        score: float,
        error: float,
        losses: Sequence[float],
        signals: Mapping[str, Signal],
        why: str,
    ) -> None:
        trained = step if now.trained is None else now.trained
        if math.isinf(score) and now.id in self._states:
            self._forget(now.id)
        self.results[now.id] = Trial(
            id=now.id,
            start=now.start,
            step=trained,
            spent=spent - now.spent,
            score=score,
            error=error,
            losses=tuple(losses),
            values=now.values,
            signals=signals,
            kept=now.id in self._states,
        )
        needed = {probe.after for _, _, probe in self._asked}
        assert self._room is not None
        while len(self._states) > self._room.count - BESIDE:
            if not (spare := self._states.keys() - needed):
                break
            self._forget(max(spare, key=lambda id: (self.results[id].score, id)))
        self._bench.tried(self.results[now.id], "; ".join(filter(None, (why, now.not_kept))))

    def _forget(self, id: int) -> None:
        self._bench.release(self._states.pop(id))
        if id in self.results:
            self.results[id] = dataclasses.replace(self.results[id], kept=False)

    def _back(self) -> bool:
        assert self._origin is not None
        self._now = None
        origin, why = self._origin, self._left_behind()
        if why:
            log.warning("trials ended: %s", why)
            origin = dataclasses.replace(origin, data="skip")
        self._bench.restore(origin, self._held)
        self._bench.release(self._origin)
        self._origin = None
        return True

    def _left_behind(self) -> str:
        """What happens when the batches since the trials began cannot come again; empty: they can."""
        assert self._origin is not None
        why = _unreachable(self._origin)
        return why and f"{why}; the run goes on from there, approximate, with those that come next"


def _unreachable(target: Target) -> str:
    """Why the run cannot go there with its data; empty: it can."""
    try:
        target.check()
    except TuneError:
        return (
            f"the batches since step {target.info.step} are more than are kept, and the loader cannot draw "
            "them anew; raise Rewinding.replay_bytes, or pass a loader that begins anew"
        )
    return ""


def _given_up(loss: Signal, now: _Running) -> str:
    """Why the trial is given up: its loss is not finite, or above what it may be; empty: it is not."""
    values = loss.since(now.start + 1).value
    if not len(values) or (values.max() <= now.probe.give_up and math.isfinite(values.sum())):
        return ""
    return f"given up at a loss of {values[-1]:.3g}"
