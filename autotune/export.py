"""The schedule that a run ended up with, read from its journal: what each hyperparameter was, and when.

The journal's decisions are done once more, on values alone. Only the way that the run ended on is left: what
was rewound, or tried out and not adopted, is not in it. A schedule is plain JSON:

    {
      "version": 1,
      "steps": 800,
      "hyperparameters": {
        "lr": [
          {"step": 0, "value": 0.01},
          {"step": 200, "from": 0.01, "to": 0.001, "steps": 600, "shape": "linear"}
        ]
      }
    }

`steps` is how far the run came. Each hyperparameter has its changes, by ascending step, the first at step 0.
A value stands from that step on, so that step + 1 is the first to use it; a ramp goes from one value to
another over so many steps, and stays there. The next change ends it. A ramp that `began` at another step than
the one from which it stands (a person's, that went on while the run was rewound) says so.
"""

from __future__ import annotations

import heapq
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from .journal import Journal
from .live_line import LiveLine
from .places import Place
from .records import (
    HUMAN,
    Action,
    Adopt,
    Approve,
    Arrange,
    Checkpoint,
    Comment,
    Decision,
    Escalate,
    Pause,
    Pin,
    Probe,
    Ramp,
    Reject,
    Release,
    Resume,
    Rewind,
    Schedule,
    Set,
    Stop,
    Suggest,
    Undo,
    Value,
)
from .supervisor import TUNER

VERSION = 1
RESTORED = re.compile(r"\bat step (\d+), (?:bitwise|state-exact|approximate):")
"""Where a rewind went, as its decision's note says."""
BENCHED = re.compile(r"^(.+?) is benched: ")
"""Which policy is benched, as the tuner's word to a person says."""
TRIED = re.compile(r"\bafter (\d+) steps")
"""What a trial took, as its decision's note says."""

BESIDE = (Stop, Suggest, Escalate, Pause, Resume, Reject, Comment, Arrange)
"""What is done in the middle of a trial; anything else ends it."""

SEEN, DONE = 0, 1  # what was logged at a tick, and what was decided then, in that order
Event: TypeAlias = tuple[int, int, tuple[int, str, Value] | Decision]
"""What happened, with the `spent` at which it did; what was logged with step, hyperparameter and value."""


def export_schedule(run: str | Place) -> dict[str, Any]:
    """The schedule that a run ended up with; for `autotune.policies.Replay`, or to be stored as JSON.

    Of a run that still trains, it is what it would be if it ended now. A hyperparameter of strings that
    nothing has ever changed is left out, for no record has its value. Changes that no decision has made (by
    the loop itself, say) are seen at ticks only, and are taken to have come right after the tick before.

    Args:
        run: its folder, or its name in a database.

    Returns:
        Plain JSON values; see the module.

    Raises:
        TuneError: when there is no journal, or one that cannot be read.
    """
    journal = Journal.open(run)
    try:
        facts = journal.meta()["hyperparameters"]
        measured = {}
        for name in facts:
            series = journal.metrics(f"hp/{name}")
            rows = zip(series.step.tolist(), series.spent.tolist(), series.value.tolist(), strict=True)
            measured[name] = list(rows)
        return live_schedule(facts, journal.decisions(), measured, journal.last_spent())
    finally:
        journal.close()


def schedule_to_json(schedule: Mapping[str, Any]) -> str:
    """A schedule as JSON with a line for each change."""
    parts = []
    for name, changes in schedule["hyperparameters"].items():
        lines = ",\n".join(f"      {json.dumps(c, ensure_ascii=False, allow_nan=False)}" for c in changes)
        parts.append(f"    {json.dumps(name, ensure_ascii=False)}: [\n{lines}\n    ]")
    inner = ",\n".join(parts)
    return (
        f'{{\n  "version": {schedule["version"]},\n  "steps": {schedule["steps"]},\n'
        f'  "hyperparameters": {{\n{inner}\n  }}\n}}\n'
    )


def live_schedule(
    facts: Mapping[str, Mapping[str, Any]],
    decisions: Sequence[Decision],
    measured: Mapping[str, Sequence[tuple[int, int, float]]],
    spent: int,
) -> dict[str, Any]:
    """The schedule of the way that a run ended on; see `export_schedule`.

    Args:
        facts: `kind` and `choices` of each hyperparameter.
        decisions: all, by id.
        measured: step, spent and value of each hyperparameter, as logged at ticks.
        spent: the largest on record.
    """
    line = LiveLine({name: fact["kind"] for name, fact in facts.items()})
    told: dict[tuple[str, int], list[Value]] = {}
    for decision in decisions:
        for name, value in (*decision.before.items(), *decision.after.items()):
            told.setdefault((name, decision.spent), []).append(value)
    seen: list[Event] = [
        (at, SEEN, (step, name, known))
        for name, rows in measured.items()
        for step, at, number in rows
        if (known := _typed(facts[name], number)) is not None
    ]
    done: list[Event] = [(decision.spent, DONE, decision) for decision in _in_order(decisions)]
    reader = _Reader(line, decisions)
    for at, _, event in heapq.merge(sorted(seen, key=_when), done, key=_when):
        if isinstance(event, Decision):
            reader.read(event)
        else:
            step, name, value = event
            reader.arrive(step, at)
            line.see(name, value, told.get((name, at), ()))
    return {
        "version": VERSION,
        "steps": line.clock.step if reader.trying else max(line.clock.step, spent - line.offset),
        "hyperparameters": {name: line.document(name) for name in facts if line.changes[name]},
    }


class _Trial(NamedTuple):
    """A trial that was made: from which line, and when."""

    origin: LiveLine
    spent: int
    source: str
    probe: Probe


class _Reader:
    """Reads decisions in their order; `trying` while trials are on that nothing is known to have come of."""

    def __init__(self, line: LiveLine, decisions: Sequence[Decision]) -> None:
        self.line = line
        self._decisions = {decision.id: decision for decision in decisions}
        undone = (d.action.decision for d in decisions if isinstance(d.action, Undo) and d.applied)
        self._before: dict[int, LiveLine | None] = dict.fromkeys(id for id in undone if id is not None)
        self.trying: list[Decision] = []
        self._branch = 0  # of the line
        self._saved: dict[str, LiveLine] = {}
        self._returned = False  # from trials, here; what is then decided is kept with the state that is saved
        self._trials: dict[int, _Trial] = {}
        sources = {decision.source for decision in decisions}
        self._policies = {name for name in sources if name != TUNER and not name.startswith(HUMAN)}

    def arrive(self, step: int, spent: int) -> None:
        """The run has come to this step."""
        if spent > self.line.clock.spent:
            if self._returned:
                self._saved[f"after trials, spent {self.line.clock.spent}"] = self.line.copy()
            self._returned = bool(self.trying)
            if self.trying:
                self._tried()
        self.line.arrive(step, spent)

    def read(self, decision: Decision) -> None:
        """Do it once more."""
        line, action = self.line, decision.action
        if isinstance(action, Rewind) and decision.applied and _resumed(decision):
            line.clock.spent = decision.spent
            line.restore(self._saved.get(str(action.to)) or line.cut(decision.step), resumed=True)
            self.trying, self._trials, self._branch = [], {}, decision.branch
            return
        beside = not decision.applied or isinstance(action, BESIDE)
        if self.trying and beside and 0 < decision.branch - self._branch <= len(self.trying):
            self._bench(decision)
            return  # made during a trial, where nothing is changed
        moved = isinstance(action, Rewind | Adopt | Undo | Approve) and _restored(decision) is not None
        self._branch = decision.branch + (decision.applied and moved)
        self.arrive(decision.step, decision.spent)
        for name, value in decision.before.items():
            line.see(name, value)
        if isinstance(action, Checkpoint) and decision.status != "refused":  # one that was not settled, too
            label = action.name or f"step-{decision.step}-spent-{decision.spent}"
            self._saved[label] = line.copy()
        self._bench(decision)
        if decision.applied:
            if decision.id in self._before:
                self._before[decision.id] = line.copy()
            self._do(decision, *self._meant(decision))

    def _bench(self, decision: Decision) -> None:
        """The ramps of a policy that is benched end where they are."""
        action = decision.action
        if isinstance(action, Arrange) and decision.applied:
            self.line.bench(frozenset(self._policies.difference(action.policies)))
        elif isinstance(action, Escalate) and decision.source == TUNER:
            self.line.bench(self.line.benched.union(BENCHED.findall(action.reason)))

    def _meant(self, decision: Decision) -> tuple[Action, str]:
        """What is done, and in whose name: an approval does what was suggested."""
        if not isinstance(decision.action, Approve):
            return decision.action, decision.source
        suggested = self._decisions[decision.action.decision]
        action = suggested.action
        if isinstance(action, Suggest) and action.action is not None:
            action = action.action
        free = isinstance(action, Set | Ramp) and self.line.owners[action.name] == "policy"
        return action, suggested.source if free else decision.source

    def _do(self, decision: Decision, action: Action, source: str) -> None:
        line = self.line
        match action:
            case Set() | Ramp() | Schedule():
                line.change(action, source, decision.after[action.name])
            case Pin(name=name):
                line.stop(name, decision.after[name])
                line.owners[name] = source
            case Release(name=name):
                tail = line.changes[name][-1] if line.changes[name] else None
                if source.startswith(HUMAN) or (tail and tail.ramp and tail.ramp.source == source):
                    line.owners[name] = "policy"
                    line.stop(name, decision.before[name])
            case Probe():
                self.trying.append(decision)
            case Adopt(trial=trial) if trial in self._trials:
                line.restore(self._ended(trial, _restored(decision)))
                self._trials = {}
            case Rewind(to=to, then=then):
                line.restore(self._target(to, _restored(decision)))
                for change in then:
                    line.change(change, source, decision.after[change.name])
            case Undo(decision=int() as id):
                self._undo(decision, self._decisions[id], self._before[id])
        if isinstance(action, Adopt):
            for name, value in decision.after.items():
                line.see(name, value)

    def _undo(self, decision: Decision, undone: Decision, before: LiveLine | None) -> None:
        assert before is not None
        line = self.line
        if _restored(decision) is not None:
            line.restore(before)
        for name, value in decision.after.items():
            tail = before.changes[name][-1] if before.changes[name] else None
            if before.owners[name] == "policy" and not undone.source.startswith(HUMAN):
                tail, line.owners[name] = None, decision.source
            else:
                line.owners[name] = before.owners[name]
            line.put(name, value, tail.ramp if tail and tail.running(line.clock.step) else None)

    def _target(self, to: int | str, step: int | None) -> LiveLine:
        """The line that a rewind went back to."""
        if isinstance(to, str) and to in self._saved:
            return self._saved[to]
        step = step if step is not None else to if isinstance(to, int) else self.line.clock.step
        live = self.line.clock.live
        # A checkpoint that was saved where a rewind had led, and what that had set with it.
        here = [s for s in self._saved.values() if s.clock.step == step and live(step, s.clock.spent)]
        cut = self.line.cut(step)
        return max([cut, *here], key=lambda line: line.clock.spent)

    def _tried(self) -> None:
        """The trials that were asked for have begun, from here."""
        origin, spent = self.line.copy(), self.line.clock.spent
        for decision in self.trying:
            assert isinstance(decision.action, Probe)
            self._trials[decision.id] = _Trial(origin, spent, decision.source, decision.action)
            took = TRIED.search(decision.note)
            spent += int(took[1]) if took else decision.action.most
        self.trying = []

    def _ended(self, id: int, step: int | None) -> LiveLine:
        """The line at the end of a trial's own steps; `step`, where that is known."""
        origin, spent, source, probe = self._trials[id]
        line = origin.copy()
        line.arrive(line.clock.step, spent)
        if probe.after is not None:
            line.restore(self._ended(probe.after, None))
        start = line.clock.step
        for change in probe.then:
            line.change(change, source, change.value if isinstance(change, Set) else line.value(change.name))
        line.clock.step = start + probe.steps if step is None else step
        line.clock.spent = spent + line.clock.step - start
        return line


def _in_order(decisions: Sequence[Decision]) -> Iterator[Decision]:
    """As they were done: after a resume what people had done is done again, but written down before it."""
    again: list[Decision] = []
    for decision in decisions:
        if "again" in decision.action.evidence:
            again.append(decision)
            continue
        if _resumed(decision):
            yield decision
            yield from again
        else:
            yield from again
            yield decision
        again = []
    yield from again


def _resumed(decision: Decision) -> bool:
    """Whether a new process has taken the run up; only then the tuner itself goes back."""
    return isinstance(decision.action, Rewind) and decision.source == TUNER


def _restored(decision: Decision) -> int | None:
    found = RESTORED.search(decision.note)
    return int(found[1]) if found else None


def _when(event: Event) -> tuple[int, int]:
    return event[:2]


def _typed(fact: Mapping[str, Any], number: float) -> Value | None:
    """A logged number as a value of its hyperparameter; None where it is none."""
    if not math.isfinite(number):
        return None
    if fact["kind"] == "categorical":
        choices: Sequence[Value] = fact["choices"]
        return next((c for c in choices if not isinstance(c, str) and float(c) == number), None)
    return round(number) if fact["kind"] == "int" else number
