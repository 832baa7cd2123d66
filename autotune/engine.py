"""The engine: what happens at a step boundary, and how the run goes back, is saved and is resumed."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .checkpoints import CheckpointInfo
from .clock import Clock
from .controls import Controls
from .evaluation import Evaluation
from .executor import Executor
from .history import History
from .journal import Journal, JournalError
from .memory import Memory, Restored, Target
from .outcomes import Outcomes
from .panel import Panel
from .records import Checkpoint, Decision, Observation, Rewind
from .sensors import Instruments
from .supervisor import Supervisor

log = logging.getLogger("autotune")


@dataclass(frozen=True, slots=True)
class Every:
    """Steps between two of each; None: never."""

    sample: int
    evaluate: int | None
    snapshot: int
    checkpoint: int | None


class Engine:
    """The parts of a run and the order in which they work. `AutoTuner` is its public face."""

    def __init__(
        self,
        *,
        clock: Clock,
        every: Every,
        controls: Controls,
        instruments: Instruments,
        evaluation: Evaluation | None,
        panel: Panel,
        supervisor: Supervisor,
        outcomes: Outcomes,
        memory: Memory,
        journal: Journal,
    ) -> None:
        self.clock = clock
        self.every = every
        self.controls = controls
        self.instruments = instruments
        self.evaluation = evaluation
        self.panel = panel
        self.supervisor = supervisor
        self.outcomes = outcomes
        self.memory = memory
        self.journal = journal
        self.history = History()
        self.executor = Executor(
            clock, controls, supervisor, memory, journal, outcomes, self.history.signals, self
        )
        self.restored: Restored | None = None
        self.saved: CheckpointInfo | None = None
        self.stopping = False
        self._last = 0  # the step of the boundary before

    # --- a step ------------------------------------------------------------------------------------------

    def before_step(self, *_: object) -> None:
        """The optimizer's pre-step hook."""
        self.instruments.before_step(self.clock.step + 1)

    def after_step(self, *_: object) -> None:
        """The optimizer's post-step hook."""
        self.clock.step += 1
        self.clock.spent += 1
        self.instruments.after_step(self.clock.step, self.clock.spent)

    def boundary(self) -> None:
        """Between two batches, when the optimizer has stepped. Almost always there is nothing to do."""
        step, last = self.clock.step, self._last
        self._last = step

        def due(every: int | None) -> bool:  # a loop may step more than once between two batches
            return every is not None and step // every > last // every

        if self.controls.ramps:
            self.controls.advance(step)
        evaluating = due(self.every.evaluate) or (self.clock.over and self.every.evaluate is not None)
        if evaluating or due(self.every.sample) or self.clock.over:
            self._tick(evaluating)
            if self.clock.step != step:
                return  # rewound
        if due(self.every.snapshot):
            self.snapshot()
        if due(self.every.checkpoint):
            reason = f"every {self.every.checkpoint} steps"
            self._safely(lambda: self.executor.submit(Checkpoint(reason=reason), "supervisor"))

    def collect(self, wait: bool) -> None:
        """Take over what the sensors have; `wait` for the device, so that nothing stays behind."""
        for sample in self.instruments.collect(wait):
            self.history.append(sample.name, sample.step, sample.spent, sample.value)
            self._log(sample.name, sample.value, sample.step, sample.spent)

    def _tick(self, evaluating: bool) -> None:
        clock = self.clock
        if evaluating:
            assert self.evaluation is not None
            start = time.perf_counter()
            for name, value in self.evaluation().items():
                self.instruments.report(name, value, clock.step, clock.spent)
            self.instruments.exclude(time.perf_counter() - start)
        self.collect(wait=False)
        for name, parameter in self.controls.items():
            value = parameter()
            if not isinstance(value, str):
                self._log(f"hp/{name}", float(value), clock.step, clock.spent)
        self._safely(self._decide)

    def _decide(self) -> None:
        clock, signals = self.clock, self.history.signals()
        for outcome in self.outcomes.due(clock.step, clock.spent, signals, clock.branch):
            self.journal.outcome(outcome)
        self.panel.ask(self._observe, self.executor)

    def _observe(self, decisions: Sequence[Decision]) -> Observation:
        return Observation(
            step=self.clock.step,
            spent=self.clock.spent,
            budget=self.clock.budget,
            hyperparameters=self.controls.states(),
            signals=self.history.signals(),
            snapshots=self.memory.infos(),
            decisions=tuple(decisions),
            rewinds_left=self.supervisor.rewinds_left,
        )

    def _log(self, name: str, value: float, step: int, spent: int) -> None:
        self._safely(lambda: self.journal.metric(name, value, step, spent, self.clock.branch))

    def _safely(self, work: Callable[[], object]) -> None:
        """Decisions are on record or do not happen: a journal that fails stops them, but not the training."""
        try:
            work()
        except JournalError as error:
            log.error("step %d: %s", self.clock.step, error)

    # --- going back and going on -------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Keep the present state in memory."""
        self.memory.snapshot(self.clock.step, self._kept())

    def restore(self, target: Target) -> str:
        """Go back to `target`; returns what it took, for the record."""
        self.collect(wait=True)
        held = self.controls.held()
        back = self.clock.step - target.step

        def rest(kept: Mapping[str, Any]) -> None:
            self.controls.rewind(kept["controls"], held, back)
            self.instruments.load_state_dict(kept["instruments"])

        self.restored = self.memory.restore(target, rest)
        self.history.truncate(target.step)
        self.clock.step = self._last = target.step
        self.clock.branch += 1
        return str(self.restored)

    def save(self, name: str | None) -> str:
        """Save a checkpoint, pinned when it has a name; returns what it took, for the record."""
        self.collect(wait=True)
        clock = self.clock
        state = {
            **self._kept(),
            "clock": dataclasses.asdict(clock),
            "history": self.history.state_dict(),
            "panel": self.panel.state_dict(),
            "supervisor": self.supervisor.state_dict(),
            "outcomes": self.outcomes.state_dict(),
        }
        validation = self.history.signals().get("validation/loss")
        score = validation.last if validation is not None and math.isfinite(validation.last) else None
        label = name or f"step-{clock.step}-spent-{clock.spent}"
        self.saved = self.memory.checkpoint(label, clock.step, state, pinned=name is not None, score=score)
        return f"{self.saved.nbytes / 1e6:.1f} MB in {1e3 * self.saved.seconds:.0f} ms"

    def end(self) -> str:
        """End the loop at this boundary."""
        self.stopping = True
        return ""

    def resume(self) -> None:
        """Take all back from the newest whole checkpoint, and settle what the old process left open."""
        target = self.memory.newest()
        kept = target.kept

        def rest(_: Mapping[str, Any]) -> None:
            self.controls.load_state_dict(kept["controls"])
            self.instruments.load_state_dict(kept["instruments"])

        self.restored = self.memory.resume(target, rest)
        self.history.load_state_dict(kept["history"])
        self.panel.load_state_dict(kept["panel"])
        self.supervisor.load_state_dict(kept["supervisor"])
        self.outcomes.load_state_dict(kept["outcomes"], {o.decision for o in self.journal.outcomes()})

        decisions = self.journal.decisions()
        clock, saved = self.clock, kept["clock"]
        clock.step = self._last = saved["step"]
        clock.spent = max(saved["spent"], self.journal.last_spent())
        lost = clock.spent - saved["spent"]
        clock.lost = saved["lost"] + lost
        clock.branch = max([saved["branch"], *(d.branch for d in decisions)]) + (lost > 0)
        for decision in decisions:
            if decision.status == "pending":
                note = "the process ended before this was known to be applied"
                self.journal.settle(dataclasses.replace(decision, status="failed", note=note))
        self.journal.decide(
            step=clock.step,
            spent=clock.spent,
            branch=clock.branch,
            source="supervisor",
            action=Rewind(
                target.name or clock.step, reason=f"resumed; {lost} steps were lost with the old process"
            ),
            before={},
            status="applied",
            note=str(self.restored),
        )

    def _kept(self) -> dict[str, Any]:
        """What a snapshot keeps beside plant and data."""
        return {"controls": self.controls.state_dict(), "instruments": self.instruments.state_dict()}
