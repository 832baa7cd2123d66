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
from .controls import POLICY, Controls, Held
from .evaluation import Evaluation, standard_error
from .executor import Executor
from .history import History
from .intake import Intake
from .journal import Journal, JournalError
from .memory import Memory, Restored, Target
from .outcomes import Outcomes
from .panel import Panel
from .records import (
    HUMAN,
    Approve,
    Arrange,
    Checkpoint,
    Decision,
    Escalate,
    Observation,
    Pin,
    Ramp,
    Release,
    Rewind,
    Schedule,
    Set,
    Signal,
    Trial,
    TuneError,
    Undo,
)
from .sensors import Instruments, Sample
from .slots import Room
from .supervisor import TUNER, Supervisor
from .trials import Trials

log = logging.getLogger("autotune")


AGAIN = (Set, Ramp, Schedule, Pin, Release, Arrange, Approve)
"""What people have done that is done again where a crash has taken it away."""
LONG_WITHOUT = 20
"""Ticks after which it is said that a policy still waits for a signal."""


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
        self.trials = Trials(self, controls)
        self.executor = Executor(
            clock, controls, supervisor, memory, journal, outcomes, self.history.signals, self
        )
        self.intake = Intake(self)
        self.stopping = self.remembers = self.paused = False
        self._early: list[Sample] = []  # of a step that is still to come
        self._resumption: Decision | None = None  # whose note still lacks how true the data are
        self._last = self._next = 0  # the last boundary at which something was due, and the next one

    # --- a step ------------------------------------------------------------------------------------------

    def before_step(self, *_: object) -> None:
        """The optimizer's pre-step hook."""
        self.instruments.before_step(self.clock.step + 1)

    def after_step(self, *_: object) -> None:
        """The optimizer's post-step hook."""
        self.clock.advance()
        self.instruments.after_step(self.clock.step, self.clock.spent)

    def begin(self) -> None:
        """Before the first batch: keep the state. Before the very first, evaluate and let policies decide.

        So a bad `evaluate` costs no step, and a warm-up begins where it should.
        """
        self.snapshot()
        self.tell()
        if self.clock.step == 0:
            self._tick(evaluating=self.evaluation is not None)
            if not self.trials.running:
                self.snapshot()

    def boundary(self) -> None:
        """Between two batches, when the optimizer has stepped. Almost always there is nothing to do."""
        idle = not (self.controls.ramps or self.controls.pins or self.intake.due)
        if self.clock.step < self._next and idle:
            return
        step, last = self.clock.step, self._last
        # First of all: what is saved, or left by a rewind, has the ramps where the next step needs them.
        for name, source, error in self.controls.advance(step) if self.controls.ramps else ():
            self._safely(lambda n=name, s=source, e=error: self._ramp_failed(n, s, e))  # type: ignore[misc]
        if self._people():
            return
        self._stand_at(step)

        def due(every: int | None) -> bool:  # a loop may step more than once between two batches
            return every is not None and step // every > last // every

        if self.trials.running:
            if due(self.every.sample) or step >= self.trials.until or self.clock.over or self.stopping:
                self._try_on()
            if step >= 2 * self.every.sample:
                self._check_loss()
            return
        evaluating = due(self.every.evaluate) or (self.clock.over and self.every.evaluate is not None)
        if evaluating or due(self.every.sample) or self.clock.over:
            self._tick(evaluating)
            if step >= 2 * self.every.sample:
                self._check_loss()
            if step // self.every.sample == LONG_WITHOUT and step % self.every.sample == 0:
                for waiting in self.panel.waiting(self.history.signals()):
                    log.warning("step %d: %s, which has not been measured yet", step, waiting)
            if self.clock.step != step and (self.clock.over or self.stopping):
                self._log_end()
            if self.clock.step != step or self.trials.running:
                return  # rewound, or in a trial
        if due(self.every.snapshot):
            self.snapshot()
        if due(self.every.checkpoint):
            reason = f"every {self.every.checkpoint} steps"
            self._safely(lambda: self.executor.submit(Checkpoint(reason=reason), TUNER))

    def obey(self) -> None:
        """Do what people want, where a GradScaler has skipped the step: else they could not help a run that
        skips them all."""
        if self.intake.due:
            self._people()

    def _people(self) -> bool:
        """What people want comes first; returns whether the run is elsewhere now."""
        branch = self.clock.branch
        self._safely(self.intake.end_pins)
        start = time.perf_counter()
        self.intake.obey()
        self.instruments.exclude(time.perf_counter() - start)
        return self.clock.branch != branch

    def _log_end(self) -> None:
        """The run ends in an earlier state: what was measured of that is its last word."""
        for name, signal in self.history.signals().items():
            if name.startswith(("validation/", "train/")) and signal.step[-1] == self.clock.step:
                self._log(name, signal.last, self.clock.step, self.clock.spent)

    def _check_loss(self) -> None:
        """See that the loop reports the loss, where policies need it."""
        if self.panel.without_loss(self.history.signals()) is None:
            return
        self.collect(wait=True)  # sync: a device that is far behind may have it
        policy = self.panel.without_loss(self.history.signals())
        if policy is not None:
            raise TuneError(
                f"policy {policy!r} needs `loss`, got none from the loop so far; "
                "call tuner.report(loss=loss) in each step"
            )

    def _stand_at(self, step: int) -> None:
        every = (self.every.sample, self.every.evaluate, self.every.snapshot, self.every.checkpoint)
        ends = [(step // n + 1) * n for n in every if n is not None]
        if self.trials.running:
            ends.append(self.trials.until)
        if self.clock.budget is not None:
            ends.append(step + self.clock.budget - self.clock.spent)
        self._last, self._next = step, min(ends)

    def skipped(self) -> None:
        """`every.sample` batches in a row after which a GradScaler has skipped the step.

        Policies still look at what they say, and a trial may be lost by it.
        """
        self.collect(wait=False)
        early, self._early = self._early, []  # what was reported about the steps that were skipped
        if self.trials.running:
            losses = [sample.value for sample in early if sample.name == "loss"]
            self.trials.skipped(self.every.sample, losses)
            self._try_on()
            return
        for sample in early:
            self._keep(sample._replace(step=self.clock.step, spent=self.clock.spent))
        self._tick(evaluating=False)

    def collect(self, wait: bool) -> None:
        """Take over what the sensors have; `wait` for the device, so that nothing stays behind."""
        collected, self._early = self._early + self.instruments.collect(wait), []
        for sample in collected:
            if sample.spent > self.clock.spent:  # reported before its step was taken
                self._early.append(sample)
            else:
                self._keep(sample)
        if self.instruments.derives:
            for sample in self.instruments.derive(self.history.signals()):
                self._keep(sample)

    def _keep(self, sample: Sample) -> None:
        self.history.append(sample.name, sample.step, sample.spent, sample.value)
        self._log(sample.name, sample.value, sample.step, sample.spent)

    def _tick(self, evaluating: bool) -> None:
        clock, branch = self.clock, self.clock.branch
        self.intake.catch_up()
        if clock.branch != branch:
            self.trials.forget()  # what they found out is of another state
            return
        if evaluating:
            self._evaluate()
        self.collect(wait=False)
        for name, parameter in self.controls.items():
            value = parameter()
            if not isinstance(value, str):
                self._log(f"hp/{name}", float(value), clock.step, clock.spent)
        self._safely(self._decide)
        if not self.trials.waiting:
            self.trials.forget()  # they were shown once, and nothing was made of them
        elif not (self.stopping or clock.over):
            self.trials.begin(clock.step, clock.spent)
            self._stand_at(clock.step)
            self.tell()

    def _try_on(self) -> None:
        """Go on with the trials; when they are over, the policies are asked what follows from them."""
        clock = self.clock
        self.collect(wait=clock.step >= self.trials.until)  # sync: at the end of a trial, which is judged
        over = clock.over or self.stopping
        if self.trials.boundary(clock.step, clock.spent, over):
            self.tell()
            self._tick(evaluating=False)
            if not self.trials.running:
                self.snapshot()  # of what was adopted: nothing else holds that state
        else:
            self._stand_at(clock.step)

    def _evaluate(self) -> None:
        assert self.evaluation is not None
        start = time.perf_counter()
        for name, value in self.evaluation().items():
            self.instruments.report(name, value, self.clock.step, self.clock.spent)
        self.instruments.exclude(time.perf_counter() - start)

    def _decide(self) -> None:
        clock, signals = self.clock, self.history.signals()
        for outcome in self.outcomes.due(clock.step, clock.spent, signals, clock.branch):
            self.journal.outcome(outcome)
        self.panel.ask(self._observe, self.executor)

    def _ramp_failed(self, name: str, source: str, error: Exception) -> None:
        why = f"its ramp of {name} failed: {type(error).__name__}: {error}"
        if source.startswith(HUMAN):
            self.executor.submit(Escalate(reason=f"{source}: {why}"), TUNER)
        else:
            self.panel.bench(source, why, self.executor)

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
            trials=dict(self.trials.results),
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
        self.executor.passed(self.clock.step)
        self.memory.snapshot(self._kept())
        self.remembers = bool(self.memory.snapshots)

    def restore(self, target: Target, held: Held | None = None) -> Restored:
        """Go back to `target`, with what people hold: `held`, or without it what they hold now."""
        self.collect(wait=True)
        persons = self.controls.held(self.clock.step) if held is None else held

        def rest(kept: Mapping[str, Any]) -> None:
            self.controls.rewind(kept["controls"], persons, target.info.step)
            for policy in self.panel.benched:  # since then, maybe
                self.executor.dismiss(policy)
            self.instruments.load_state_dict(kept["instruments"])

        restored = self.memory.restore(target, rest)
        self._early = []
        if self.clock.live(target.info.step, target.info.spent):
            self.history.truncate(target.info.step)
            self.clock.rewind(target.info.step, target.info.spent, self.clock.stretches)
        else:  # a checkpoint of another branch
            self.history.load_state_dict(target.kept["history"])
            stretches = [(s, n) for s, n in target.kept["clock"]["stretches"]]
            self.clock.rewind(target.info.step, target.info.spent, stretches)
        self.memory.forget_abandoned()
        self._stand_at(target.info.step)
        return restored

    def save(self, name: str | None) -> CheckpointInfo:
        """Save a checkpoint, pinned when it has a name."""
        self.collect(wait=True)
        clock = self.clock
        state = {
            **self._kept(),
            "clock": dataclasses.asdict(clock),
            "history": self.history.state_dict(),
            "panel": self.panel.state_dict(),
            "supervisor": self.supervisor.state_dict(),
            "outcomes": self.outcomes.state_dict(),
            "decisions": self.executor.last_id,
        }
        if name is not None and self.memory.has(name):
            raise TuneError(f"a named checkpoint is kept for ever, got {name!r} again; choose another name")
        validation = self.history.signals().get("validation/loss")
        measured_here = validation is not None and len(validation) and validation.spent[-1] == clock.spent
        label = name if name is not None else f"step-{clock.step}-spent-{clock.spent}"
        score = validation.last if validation is not None and measured_here else None
        return self.memory.checkpoint(label, state, pinned=name is not None, score=score)

    def end(self) -> None:
        """End the loop at this boundary."""
        self.stopping, self.paused = True, False

    def arrange(self, policies: Sequence[str], why: str) -> None:
        """Ask these policies, in this order, and bench the others."""
        self.panel.arrange(policies, why, self.executor)

    def live(self) -> dict[str, Any]:
        """How the run stands, for those who look at it from outside: plain JSON values.

        In a trial it stands where the trials began.
        """
        origin = self.trials.origin
        stretches = self.clock.stretches if origin is None else origin["clock"]["stretches"]
        return {
            **(self.controls.state_dict() if origin is None else origin["controls"]),
            "time": time.time(),
            "trying": origin is not None,
            "paused": self.paused,
            "policies": [policy.name for policy in self.panel.policies],
            "benched": dict(self.panel.benched),
            "stretches": [list(stretch) for stretch in stretches],
        }

    def tell(self) -> None:
        """Put on record how the run stands."""
        self._safely(lambda: self.journal.set_meta("live", self.live()))

    # --- trials ------------------------------------------------------------------------------------------

    def room(self, least: int, most: int, known: Room | None) -> Room:
        """How many states could be held, and where; see `slots.find_room`."""
        return self.memory.room(least, most, known)

    def hold(self, room: Room | None = None) -> Target:
        """Keep the present state, with its history, until `release`; see `Memory.hold`."""
        return self.memory.hold(
            {**self._kept(), "history": self.history.state_dict(), "clock": dataclasses.asdict(self.clock)},
            room,
        )

    def release(self, target: Target) -> None:
        """Let a state go that was held."""
        self.memory.release(target)

    def trim(self) -> None:
        """Give back the memory of states that were let go."""
        self.memory.trim()

    def measured(self) -> Mapping[str, Signal]:
        """The signals of the live branch."""
        return self.history.signals()

    def judge(self, since: int, evaluate: bool) -> tuple[float, float, tuple[float, ...]]:
        """Score the present state: see `trials.Bench`."""
        signals = self.history.signals()
        if evaluate and self.evaluation is not None:
            self._evaluate()
            self.collect(wait=True)  # sync: evaluated
            signals = self.history.signals()
            if "validation/loss" in signals:
                losses = tuple(getattr(self.evaluation, "losses", ()))
                return signals["validation/loss"].last, standard_error(losses), losses
        measured = signals.get("loss")
        values = measured.since(since + 1).value.tolist() if measured is not None else []
        return (sum(values) / len(values) if values else math.nan), standard_error(values), ()

    def leave_trials(self) -> None:
        """The loop ends: what is in a trial goes back to where the trials began."""
        if self.trials.running:
            self.trials.boundary(self.clock.step, self.clock.spent, over=True)
            self._stand_at(self.clock.step)
            self.tell()

    def tried(self, trial: Trial, why: str) -> None:
        """Put a finished trial on record, in words and numbers; `why` it was lost, or empty."""
        score = f"{trial.score:.4g}" + ("" if math.isnan(trial.error) else f" ± {trial.error:.2g}")
        note = "; ".join(filter(None, (f"score {score} after {trial.spent} steps", why)))
        numbers = {"score": trial.score, "standard_error": trial.error, "steps": trial.spent}
        evidence = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._safely(lambda: self.executor.note(trial.id, note, evidence))

    def resume(self) -> None:
        """Take all back from the newest whole checkpoint, and settle what the old process left open.

        Raises:
            TuneError: when there is none, or it does not fit; nothing is changed then.
        """
        live = self.journal.meta().get("live", {})
        target = self.memory.newest([(step, spent) for step, spent in live.get("stretches", [])])
        kept, clock, decisions = target.kept, self.clock, self.journal.decisions()
        saved, here = set(kept["controls"]["values"]), set(self.controls)
        if saved != here:
            raise TuneError(
                f"a run resumes with the hyperparameters it had ({', '.join(sorted(saved)) or 'none'}), "
                f"got {', '.join(sorted(here)) or 'none'}; pass the same ones"
            )
        self.panel.load_state_dict(kept["panel"])

        def rest(_: Mapping[str, Any]) -> None:
            self.controls.load_state_dict(kept["controls"])
            self.instruments.load_state_dict(kept["instruments"])

        restored = self.memory.resume(target, rest)
        self.history.load_state_dict(kept["history"])
        self.supervisor.load_state_dict(kept["supervisor"])
        self.executor.recalled = [d for d in decisions if d.id <= kept["decisions"]]
        self.executor.last_id = kept["decisions"]
        self.outcomes.load_state_dict(kept["outcomes"], {o.decision for o in self.journal.outcomes()})

        before = kept["clock"]
        clock.step = before["step"]
        clock.spent = max(before["spent"], self.journal.last_spent())
        lost = clock.spent - before["spent"]
        clock.lost = before["lost"] + lost
        self._stand_at(clock.step)
        clock.branch = max([before["branch"], *(d.branch for d in decisions)])
        clock.stretches = [(s, n) for s, n in before["stretches"]]
        if lost:
            clock.rewind(clock.step, before["spent"], clock.stretches)
        self._settle_old(decisions, kept["decisions"])
        self.paused = bool(live.get("paused"))
        if self.paused:
            log.warning("the run was paused, and is: autotune resume %s", self.journal.place.name)
        self._resumption = self.journal.decide(
            step=clock.step,
            spent=clock.spent,
            branch=clock.branch,
            source=TUNER,
            action=Rewind(
                target.info.name or clock.step, reason=f"resumed; {lost} steps were lost with the old process"
            ),
            before={},
            status="applied",
            note=str(restored),
        )

    @property
    def resuming(self) -> bool:
        """Whether a resumed run has not got its data yet."""
        return self._resumption is not None

    def data_resumed(self) -> None:
        """The loop of a resumed run has started: note how true its data are."""
        if self._resumption is not None and self.memory.resumed is not None:
            grade, why = self.memory.resumed
            note = f"{self._resumption.note}; then {grade}: {why}"
            self.journal.settle(dataclasses.replace(self._resumption, note=note))
            self._resumption = None

    def _settle_old(self, decisions: Sequence[Decision], known: int) -> None:
        """What the old process left open has failed; what people did since the checkpoint is done again."""
        policies = {policy.name for policy in self.panel.policies}
        applied = [d for d in decisions if d.applied]
        owners = self.journal.meta().get("live", {}).get("owners", {})
        self.supervisor.rewinds = sum(d.action.kind == "rewind" and d.source in policies for d in applied)
        for decision in decisions:
            if decision.status == "pending":
                note = "the process ended before this was known to be applied"
                self.journal.settle(dataclasses.replace(decision, status="failed", note=note))
        sources = {d.id: d.source for d in applied}
        undone = {d.action.decision for d in applied if isinstance(d.action, Undo)}
        for decision in applied:
            human, action = decision.source.startswith(HUMAN), decision.action
            again = "again" in action.evidence  # done by an earlier resume; the original stands as well
            if not human or decision.id <= known or decision.id in undone or again:
                continue
            why: dict[str, Any] = {
                "reason": f"as decision {decision.id}, which the checkpoint did not know",
                "evidence": {"again": decision.id},
            }
            source = decision.source
            if isinstance(action, Pin):  # of the value that it had then, for the steps that are left of it
                self.executor.submit(Set(action.name, decision.after[action.name], **why), source)
                if action.steps is not None:
                    left = decision.spent + action.steps - self.clock.spent
                    action = dataclasses.replace(action, steps=max(1, left))
            for change in action.then if isinstance(action, Rewind) else (action,):
                if isinstance(change, AGAIN):
                    self.executor.submit(dataclasses.replace(change, **why), source)
            if isinstance(action, Undo) and action.decision is not None:
                of_person = sources[action.decision].startswith(HUMAN)
                if of_person and action.decision > known:
                    continue  # neither is done
                for name, value in decision.after.items():
                    owner = owners.get(name, POLICY) if of_person else source
                    self.executor.submit(Set(name, value, **why), source if owner == POLICY else owner)
                    if owner == POLICY:
                        self.executor.submit(Release(name, **why), source)

    def _kept(self) -> dict[str, Any]:
        """What a snapshot keeps beside plant and data."""
        return {"controls": self.controls.state_dict(), "instruments": self.instruments.state_dict()}
