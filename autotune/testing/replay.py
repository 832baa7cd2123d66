"""What would another policy have done? The observations of a recorded run, shown to it one by one."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..clock import Clock
from ..history import History
from ..journal import Journal, MetricRow
from ..memory import Rewinding
from ..panel import Panel
from ..places import Place
from ..records import (
    HUMAN,
    Action,
    Checkpoint,
    Decision,
    Escalate,
    HyperparameterState,
    Observation,
    Policy,
    Ramp,
    Release,
    Rewind,
    Set,
    SnapshotInfo,
    Stop,
    TuneError,
    Value,
)
from ..snapshots import least_missed
from ..supervisor import TUNER, Limits

HP = "hp/"
AT_ONCE = 50_000  # rows that are read from the journal at a time


@dataclass(slots=True)
class Moment:
    """A tick at which something was proposed or done."""

    step: int
    spent: int
    proposed: list[Action] = field(default_factory=list)
    """What the policy would have done."""
    recorded: list[Decision] = field(default_factory=list)
    """What the run did, from every source."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A policy's view of a recorded run. Its text is a table, a line for each proposal or decision."""

    policy: str
    ticks: int
    """How often it was asked."""
    moments: Sequence[Moment]

    @property
    def actions(self) -> list[tuple[int, int, Action]]:
        """(step, spent, action) of all that it would have done."""
        return [(m.step, m.spent, action) for m in self.moments for action in m.proposed]

    def __str__(self) -> str:
        lines = [f"{self.policy}: {len(self.actions)} actions at {self.ticks} ticks"]
        for m in self.moments:
            at = f"step {m.step:>6}  spent {m.spent:>6}"
            lines += [f"{at}  would: {a.describe()} ({a.reason})" for a in m.proposed]
            lines += [f"{at}  {d.source}: {d.action.describe()} ({d.status})" for d in m.recorded]
        return "\n".join(lines)


def replay(
    run: str | Place, policy: Policy, *, rewinding: Rewinding | None = None, limits: Limits | None = None
) -> Replayed:
    """Show a policy what a recorded run has seen. Nothing is applied: the run takes the course that it took.

    At each tick the policy sees the signals as they had arrived by then, cut back where the run was rewound,
    the hyperparameters with owners and ramps, the clocks, and the decisions since it was last asked. A policy
    of the run stands in its place in the list, and takes the recorded decisions under its name for its own.
    Another one stands last, and its proposals come back to it as `suggested`. After a resume the memory is
    that of the checkpoint.

    Approximate are the snapshots (those that `rewinding` would keep, and of the checkpoints the last two and
    the named), `rewinds_left`, and text values that no decision has changed yet (the first choice).

    Args:
        run: its folder, or its name in a database.
        policy: a fresh one; it is left with the memory that it has at the end of the run.
        rewinding: as the run had it; None: the default.
        limits: likewise.

    Raises:
        TuneError: where there is no run, a run in which nothing could have been decided, or a policy
            that needs a signal or a hyperparameter that the run did not have.
    """
    journal = Journal.open(run)
    try:
        names = journal.metric_names()
        hyperparameters = journal.meta()["hyperparameters"]
        measured = frozenset(name for name in names if not name.startswith(HP))
        Panel([policy], measured, frozenset(hyperparameters))
        if not any(name.startswith(HP) for name in names):
            raise TuneError(
                "a run is replayed by the ticks at which its hyperparameters were noted, got none in "
                f"{run}; register a hyperparameter that is a number"
            )
        return _Replay(journal, policy, rewinding or Rewinding(), limits or Limits()).run()
    finally:
        journal.close()


@dataclass(frozen=True, slots=True)
class _Saved:
    """What a checkpoint brings back."""

    info: SnapshotInfo
    pinned: bool
    stretches: list[tuple[int, int]]
    budget: int | None
    history: dict[str, Any]
    states: dict[str, HyperparameterState]
    memory: dict[str, Any]
    unread: list[Decision]


class _Replay:
    """The run as it stands at one moment of its record."""

    def __init__(self, journal: Journal, policy: Policy, rewinding: Rewinding, limits: Limits) -> None:
        meta = journal.meta()
        self._journal, self._policy, self._limits = journal, policy, limits
        self._policies: list[str] = meta["policies"]
        self._decided = journal.decisions()
        self._member = policy.name in self._policies
        self._before = self._policies[: self._policies.index(policy.name)] if self._member else self._policies
        total = meta["total_steps"]
        self._clock, self._budget = Clock(None), total
        self._every = rewinding.every or min(max((total or 4000) // 40, 10), 100)
        self._capacity = rewinding.capacity
        self._history = History()
        self._states = {
            name: HyperparameterState(
                name,
                m["kind"],
                self._first(name, m),
                "policy",
                m["low"],
                m["high"],
                tuple(m["choices"]),
                m["unit"],
                gain=m.get("gain", 1.0),  # as it was at the start
            )
            for name, m in meta["hyperparameters"].items()
        }
        self._ramps: list[
            tuple[str, int, int | None]
        ] = []  # hyperparameter, spent, the step at which it ends
        self._ring = [SnapshotInfo(0, 0)] if self._capacity else []
        self._saved: dict[str, _Saved] = {}
        self._unread: list[Decision] = []
        self._kept_until = 0  # the step up to which snapshots have been kept
        self._offsets = _offsets(journal, self._decided)
        self._rewinds = 0
        self._moments: dict[tuple[int, int], Moment] = {}
        self._ticks = 0

    def run(self) -> Replayed:
        tick: MetricRow | None = None  # the policies are being asked
        noted: set[str] = set()
        for item in _merged(self._journal, self._decided):
            if isinstance(item, Decision):
                if tick is not None and not self._comes_before(item, tick):
                    self._ask(tick)
                    tick = None
                moved = item.applied and isinstance(item.action, Rewind | Stop)
                if tick is not None and moved and item.source in self._policies:
                    tick = None  # those further down the list are not asked
                self._moment(item.step, item.spent, item.branch).recorded.append(item)
                self._unread.append(item)
                if item.applied:
                    self._apply(item)
                continue
            name = item.name.removeprefix(HP)
            here = item.name.startswith(HP) and tick is not None and item.spent == tick.spent
            if tick is not None and not (here and name not in noted):
                self._ask(tick)
                tick = None
            if item.name.startswith(HP):
                if tick is None:
                    tick, noted = item, set()
                    self._go_to(item.step, item.spent)
                noted.add(name)
                self._note(name, item)
            else:
                self._history.append(item.name, item.step, item.spent, item.value)
        if tick is not None:
            self._ask(tick)
        moments = [m for m in self._moments.values() if m.proposed or m.recorded]
        return Replayed(self._policy.name, self._ticks, moments)

    # --- the policy ----------------------------------------------------------------------------------------

    def _comes_before(self, decision: Decision, tick: MetricRow) -> bool:
        """Whether it was made at the tick before it was this policy's turn."""
        earlier = decision.source in self._before
        earlier = earlier or (decision.source == TUNER and isinstance(decision.action, Escalate))
        return earlier and (decision.spent, decision.branch) == (tick.spent, tick.branch)

    def _ask(self, tick: MetricRow) -> None:
        observation = Observation(
            step=tick.step,
            spent=tick.spent,
            budget=self._budget,
            hyperparameters=dict(self._states),
            signals=self._history.signals(),
            snapshots=self._snapshots(),
            decisions=tuple(self._unread),
            rewinds_left=max(0, self._limits.max_rewinds - self._rewinds),
        )
        self._unread.clear()
        self._ticks += 1
        for action in self._policy.decide(observation):
            self._moment(tick.step, tick.spent, tick.branch).proposed.append(action)
            if not self._member:
                self._unread.append(
                    Decision(
                        id=0,
                        time=tick.time,
                        step=tick.step,
                        spent=tick.spent,
                        branch=tick.branch,
                        source=self._policy.name,
                        action=action,
                        status="suggested",
                    )
                )

    def _moment(self, step: int, spent: int, branch: int) -> Moment:
        return self._moments.setdefault((spent, branch), Moment(step, spent))

    # --- the run -------------------------------------------------------------------------------------------

    def _go_to(self, step: int, spent: int) -> None:
        """The run has trained on; the snapshot that is due at this very step comes after the tick."""
        self._clock.step, self._clock.spent = step, spent
        for due in range((self._kept_until // self._every + 1) * self._every, step, self._every):
            self._keep(SnapshotInfo(due, spent - (step - due)))
        self._kept_until = max(self._kept_until, step - 1)

    def _keep(self, info: SnapshotInfo) -> None:
        if len(self._ring) >= self._capacity and self._ring:
            del self._ring[least_missed([kept.step for kept in self._ring], info.step)]
        if self._capacity:
            self._ring.append(info)

    def _snapshots(self) -> list[SnapshotInfo]:
        unnamed = [saved for saved in self._saved.values() if not saved.pinned][-2:]
        kept = [saved.info for saved in self._saved.values() if saved.pinned or saved in unnamed]
        live = [info for info in [*self._ring, *kept] if self._clock.live(info.step, info.spent)]
        return sorted(live, key=lambda info: (info.step, info.spent, info.name is None))

    def _note(self, name: str, row: MetricRow) -> None:
        """A value as it was at a tick."""
        state = self._states[name]
        value: Value = row.value
        if state.kind == "int":
            value = int(row.value)
        elif state.kind == "categorical":
            value = next(choice for choice in state.choices if choice == row.value)
        over = state.ramp_until is not None and row.step >= state.ramp_until
        self._states[name] = replace(state, value=value, ramp_until=None if over else state.ramp_until)

    def _apply(self, decision: Decision) -> None:
        self._go_to(decision.step, decision.spent)
        match decision.action:
            case Set() | Ramp() as change:
                self._change(change, decision)
            case Release(name=name):
                if decision.source.startswith(HUMAN):
                    self._ramp(name, None)
                    self._states[name] = replace(self._states[name], owner="policy")
            case Checkpoint(name=name):
                self._save(name)
            case Rewind() as rewind:
                if decision.source == TUNER:
                    self._resume(rewind, decision)
                else:
                    self._rewind(rewind, decision)
                for change in rewind.then:
                    self._change(change, decision)

    def _change(self, change: Set | Ramp, decision: Decision) -> None:
        name, step = change.name, self._clock.step
        owner = decision.source if decision.source.startswith(HUMAN) else self._states[name].owner
        value = decision.after.get(name, self._states[name].value)
        self._states[name] = replace(self._states[name], value=value, owner=owner)
        self._ramp(name, step + change.steps if isinstance(change, Ramp) else None)

    def _ramp(self, name: str, until: int | None) -> None:
        self._ramps.append((name, self._clock.spent, until))
        self._states[name] = replace(self._states[name], ramp_until=until)

    def _rewind(self, rewind: Rewind, decision: Decision) -> None:
        """Values follow at the next tick; ramps are those of the time, but what people hold stays."""
        self._rewinds += decision.source in self._policies
        clock, saved = self._clock, self._saved.get(str(rewind.to))
        to = self._went_to(decision)
        if saved is None or clock.live(saved.info.step, saved.info.spent):
            spent = next(
                begun + to - first
                for (first, begun), end in zip(
                    clock.stretches, [*(start for start, _ in clock.stretches[1:]), clock.step], strict=True
                )
                if first <= to <= end
            )
            self._history.truncate(to)
            clock.rewind(to, spent, clock.stretches)
        else:  # of another branch
            spent = saved.info.spent
            self._history.load_state_dict(saved.history)
            clock.rewind(to, spent, saved.stretches)
        self._kept_until = to
        self._ring = [info for info in self._ring if clock.live(info.step, info.spent)]
        self._ramps = [ramp for ramp in self._ramps if ramp[1] <= spent]
        running = {name: until for name, _, until in self._ramps if until is None or until > to}
        for name, state in self._states.items():
            until = running.get(name)
            if state.owner != "policy" and state.ramp_until is not None:
                until = state.ramp_until - (decision.step - to)  # a person's ramp goes on from where it is
            self._states[name] = replace(state, ramp_until=until)

    def _went_to(self, decision: Decision) -> int:
        """The step that a rewind went to: `step` and `spent` advance together in the branch that began."""
        assert isinstance(decision.action, Rewind)
        offset = self._offsets.get(decision.branch + 1)
        if offset is not None:
            return decision.spent - offset
        return decision.action.to if isinstance(decision.action.to, int) else decision.step

    def _save(self, name: str | None) -> None:
        clock = self._clock
        label = name if name is not None else f"step-{clock.step}-spent-{clock.spent}"
        self._saved.pop(label, None)
        self._saved[label] = _Saved(
            SnapshotInfo(clock.step, clock.spent, label),
            name is not None,
            list(clock.stretches),
            self._budget,
            copy.deepcopy(self._history.state_dict()),
            dict(self._states),
            copy.deepcopy(self._policy.state_dict()),
            list(self._unread),
        )

    def _resume(self, rewind: Rewind, decision: Decision) -> None:
        """A new process has gone on from a checkpoint; the steps that were lost are added to the budget."""
        saved, clock = self._saved[str(rewind.to)], self._clock
        self._history.load_state_dict(saved.history)
        self._policy.load_state_dict(copy.deepcopy(saved.memory))
        self._states, self._ramps = dict(saved.states), []
        clock.step, clock.stretches = saved.info.step, list(saved.stretches)
        if clock.spent > saved.info.spent:
            clock.rewind(saved.info.step, saved.info.spent, saved.stretches)
        if saved.budget is not None:
            self._budget = saved.budget + clock.spent - saved.info.spent
        self._ring, self._kept_until = [], saved.info.step
        self._keep(SnapshotInfo(clock.step, clock.spent))
        self._unread = list(saved.unread)

    def _first(self, name: str, meta: Mapping[str, Any]) -> Value:
        """A value before it is noted: a decision tells of it, where it is text."""
        told = [d.before[name] for d in self._decided if name in d.before]
        choices: list[Value] = meta["choices"]
        return (told or choices or [math.nan])[0]


def _offsets(journal: Journal, decided: Sequence[Decision]) -> dict[int, int]:
    """By how much `spent` is ahead of `step`, by branch."""
    known = {d.branch: d.spent - d.step for d in decided}
    for row in _rows(journal):
        known.setdefault(row.branch, row.spent - row.step)
    return known


def _rows(journal: Journal) -> Iterator[MetricRow]:
    last = 0
    while rows := journal.metric_rows(last, AT_ONCE):
        yield from rows
        last = rows[-1].id


def _merged(journal: Journal, decided: Sequence[Decision]) -> Iterator[MetricRow | Decision]:
    """Everything in the order in which it happened; either kind is in order by itself."""
    waiting = list(decided)[::-1]
    for row in _rows(journal):
        while waiting and not _earlier(row, waiting[-1]):
            yield waiting.pop()
        yield row
    yield from waiting[::-1]


def _earlier(row: MetricRow, decision: Decision) -> bool:
    if row.spent > decision.spent or row.branch > decision.branch:
        return False
    # A rewind and a checkpoint first collect all that has been measured.
    return row.time <= decision.time or isinstance(decision.action, Rewind | Checkpoint)
