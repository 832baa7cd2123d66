"""`AutoTuner`: the closed loop round an ordinary training loop."""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import platform
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .actuators import BatchTransform
from .actuators.param_groups import unwrap
from .checkpoints import CheckpointInfo
from .clock import Clock
from .commands import check_author, mailbox
from .controls import Controls
from .data import ReplayingLoader
from .delivery import Delivery, target
from .engine import Engine, Every
from .evaluation import Evaluated, Evaluation
from .executor import Submitted
from .generators import Generators
from .hyperparameters import Hyperparameter
from .inbox import Inbox
from .journal import Journal, JournalError, RunStatus
from .memory import Memory, Restored, Rewinding
from .outcomes import Outcomes
from .panel import Panel
from .plant import Plant
from .preflight.examination import examine
from .preflight.report import Report, record
from .records import (
    HUMAN,
    Action,
    Approve,
    Checkpoint,
    Data,
    Decision,
    Policy,
    Rewind,
    Signal,
    SnapshotInfo,
    TuneError,
    Undo,
)
from .sensors import Instruments, Sensor
from .supervisor import Limits, Supervisor
from .verbs import Verbs

log = logging.getLogger("autotune")

VERSION = version("autotune-torch")

NEVER_STEPPED = 10_000
"""Batches without an optimizer step after which the loop is taken to step another optimizer."""
SELDOM_STEPPED = 200
"""Batches without an optimizer step after which that is said."""
EVALUATED = ("validation/", "train/")
"""How the signals begin that are of the model as it is, not of the step that is under way."""


class AutoTuner(Verbs[Decision]):
    """Watches a training loop and adjusts its hyperparameters; see the README for the loop.

    Args:
        model: the model that is trained.
        optimizer: its optimizer; one that accelerate has wrapped is looked through.
        hyperparameters: what may be adjusted; see `autotune.actuators`.
        policies: asked in this order at every tick.
        total_steps: optimizer steps that the run may spend, rewound ones included; None: no limit.
        evaluate: returns the validation loss, or a mapping of metrics with `loss` among them. They become the
            signals `validation/loss` and so on; those that begin with `train/`, of training data measured in
            the same way, keep their names, and `train/loss` is what the generalisation gap is taken from.
            Losses of single examples (a tensor or a sequence) count as their mean, with its standard error.
            Called at step boundaries; it disturbs neither the random generators nor the train/eval flags.
        evaluate_every: steps between evaluations; None: 25 evaluations a run, or every 100 steps.
        stateful: further parts of the run that a rewind must restore, by name: schedulers, a GradScaler,
            an EMA model, other optimizers, `torch.Generator`s.
        sensors: what is measured; None: everything.
        groups: parameters by layer group, which gradient norms and update ratios are given for; None: the
            model's children.
        sample_every: steps between two ticks: sensors are sampled and policies asked.
        reports: names that the loop passes to `report` beside `loss`.
        rewinding: snapshots, checkpoints and replayed data.
        limits: what the supervisor lets policies do.
        suggest: record what the policies would do, and do none of it.
        store: a database for the run's record, such as `postgresql://user@host/db`, that several machines can
            reach; None: `$AUTOTUNE_STORE`, or without it a file in the run's folder.
        folder: the run's folder, not yet used; None: a new one in `autotune-runs` (or `$AUTOTUNE_RUNS`).
        mlflow: whether decisions and metrics go to MLflow too; a string: to the run with this id.

    Raises:
        TuneError: for input that cannot work; nothing has been trained or written then.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        hyperparameters: Sequence[Hyperparameter[Any]] = (),
        policies: Sequence[Policy] = (),
        total_steps: int | None = None,
        evaluate: Callable[[], Evaluated] | None = None,
        evaluate_every: int | None = None,
        stateful: Mapping[str, object] | None = None,
        sensors: Sequence[Sensor] | None = None,
        groups: Mapping[str, Sequence[Tensor]] | None = None,
        sample_every: int = 10,
        reports: Sequence[str] = (),
        rewinding: Rewinding | None = None,
        limits: Limits | None = None,
        suggest: bool = False,
        store: str | None = None,
        folder: str | Path | None = None,
        mlflow: bool | str = True,
        _journal: Journal | None = None,
    ) -> None:
        for name, number in (
            ("total_steps", total_steps),
            ("evaluate_every", evaluate_every),
            ("sample_every", sample_every),
        ):
            if number is not None and number < 1:
                raise TuneError(f"{name} is at least 1 step, got {number}")
        optimizer = unwrap(optimizer)
        if evaluate is not None and not callable(evaluate):
            raise TuneError(f"evaluate is a function that returns the validation loss, got {evaluate!r}")
        if optimizer in _tuned:
            raise TuneError("an optimizer has one tuner, got a second one for it; close the first")
        settings = rewinding or Rewinding()
        folder = new_folder() if folder is None else Path(folder)
        generators = Generators()
        plant = Plant(model, optimizer, stateful or {}, generators)
        controls = Controls(hyperparameters)
        _check_optimizers(controls, [optimizer, *(stateful or {}).values()])
        evaluation = Evaluation(evaluate, model, generators) if evaluate else None
        scaler = next((s for s in (stateful or {}).values() if isinstance(s, torch.amp.GradScaler)), None)
        instruments = Instruments(model, optimizer, sensors, sample_every, scaler, groups)
        measured = _measured(instruments, evaluation, policies, reports)
        panel = Panel(policies, measured, frozenset(controls))
        order = [policy.name for policy in policies]
        clock = Clock(total_steps)
        every = Every(
            sample=sample_every,
            evaluate=(evaluate_every or max(1, (total_steps or 2500) // 25)) if evaluation else None,
            snapshot=settings.every or min(max((total_steps or 4000) // 40, 10), 100),
            checkpoint=settings.checkpoint_every,
        )
        self._reports = frozenset(reports)
        self._loader = ReplayingLoader(generators, settings.replay_bytes)
        self._loops: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()  # so `break` ends one
        self._runner: threading.Thread | None = None  # of the loop that is open
        self._closing: RunStatus | None = None  # it is to close the run when it ends

        # From here on there are side effects.
        if _journal is None:
            store = store or os.environ.get("AUTOTUNE_STORE") or None
            _journal = Journal.create(folder, _meta(folder, total_steps, panel, controls), store)
        else:
            _journal.begin()
        self._journal = _journal
        self._engine = Engine(
            clock=clock,
            every=every,
            controls=controls,
            instruments=instruments,
            evaluation=evaluation,
            panel=panel,
            supervisor=Supervisor(controls, limits or Limits(), suggest, order),
            outcomes=Outcomes(max(5 * sample_every, (total_steps or 0) // 40)),
            memory=Memory(plant, clock, generators, self._loader, settings, folder / "checkpoints"),
            journal=self._journal,
        )
        self._begun = False
        self._inside = False  # the loop's body runs
        self._taken = 0  # `spent` when the batch was handed out, or since its boundary is behind it
        self._settled = False  # that is so: the body has saved or rewound
        self._rewound = False  # what the body still reports is of a branch that it has left
        self._unstepped = 0  # batches in a row without a step
        self._scaler = scaler
        self._updates = self._skips = 0  # of the scaler; of them, in a row, those without a step
        if scaler is not None:
            scaler.update = self._counted(scaler.update)  # type: ignore[method-assign]
        self._closed, self._pid = False, os.getpid()
        # Compiled optimizer steps must not trace into the hooks.
        self._hooks = [
            optimizer.register_step_post_hook(torch.compiler.disable(self._engine.after_step)),
        ]
        if instruments.signals:
            before_step = torch.compiler.disable(self._engine.before_step)
            self._hooks.append(optimizer.register_step_pre_hook(before_step))
        controls.attach()  # after the sensors' hooks, so that those see gradients before they are clipped
        to = target(run_id=mlflow if isinstance(mlflow, str) else None)
        self._delivery = Delivery(self._journal, to) if mlflow else None
        _tuned.add(optimizer)
        self._model, self._optimizer, self._plant = model, optimizer, plant
        atexit.register(self._at_exit)

    @classmethod
    def resume(cls, folder: str | Path, model: nn.Module, optimizer: Optimizer, **arguments: Any) -> Self:
        """Go on with a run after its process has ended, from the newest whole checkpoint.

        Everything comes back: plant, data position, generators, histories and the policies' memory. Steps
        that were lost with the process count as spent, and the budget grows by as many.

        Args:
            folder: the run's folder.
            model: as in the run; its values are overwritten.
            optimizer: as in the run.
            **arguments: as for `AutoTuner`, as in the run; `total_steps` is known, and may be raised.

        Raises:
            TuneError: when there is no run, no whole checkpoint, or it comes from another model.
        """
        journal = Journal.open(folder)
        status = journal.status()
        arguments.setdefault("total_steps", journal.meta().get("total_steps"))
        try:
            tuner = cls(model, optimizer, **arguments, folder=folder, _journal=journal)
        except BaseException:
            journal.close()
            raise
        try:
            tuner._engine.resume()
        except BaseException:
            tuner.close(status)
            raise
        return tuner

    # --- the loop ------------------------------------------------------------------------------------------

    def batches(self, loader: Iterable[Any], epochs: int | None = None) -> Iterator[Any]:
        """Iterate over `loader`; asking for the next batch is the step boundary, where the tuner works.

        Args:
            loader: any iterable of batches.
            epochs: passes over it; None: until `total_steps` are spent, or one pass if that was not given.

        Raises:
            TuneError: for a loader that cannot be iterated over, or a loop that never steps the optimizer.
        """
        if self._closed:
            raise TuneError("a closed tuner trains no more; make a new one, or go on by AutoTuner.resume")
        if epochs is None and self._engine.clock.total_steps is None:
            epochs = 1
        loop = self._iterate(self._loader.epochs(loader, epochs), epochs)
        self._loops.add(loop)
        return loop

    def boundary(self) -> bool:
        """The step boundary of a loop that a framework runs; with `batches` there is no need to call it.

        Call it once before the first batch and then after each. The framework's data cannot be moved, so a
        rewind has to leave the batches behind (`data="skip"`).

        Returns:
            Whether to go on: False when the budget is spent, or the run was told to stop or is closed.
        """
        if self._closed:
            return False
        if self._inside:
            self._after_batch()
        else:
            self._engine.memory.movable = False
            self._begin()
        self._hand_out()
        return self._going_on()

    def preflight(
        self,
        loader: Iterable[Any],
        loss: Callable[[Any], Tensor],
        *,
        validation: Iterable[Any] | None = None,
        chance: float | None = None,
        seconds: float = 5.0,
        pictures: bool = False,
    ) -> Report:
        """Look for what commonly goes wrong before it costs a run, which it leaves as it was, to the bit.

        The table is written to `preflight.md` in the run's folder, and goes to MLflow from there.

        Args:
            loader: the training data; anything that begins anew each time it is iterated over.
            loss: the loss of a batch, as the loop computes it: the scalar that `backward()` is called on.
            validation: validation data, to look for training samples in; None: that is not looked for.
            chance: the loss of an answer that knows nothing of the input, where it cannot be inferred.
            seconds: about how long it may take; checks that have no time left say so.
            pictures: write histograms of activations and gradients to `preflight.png` there too.

        Raises:
            TuneError: between `next()` and `optimizer.step()`, or for arguments that cannot work. What
                `loss` raises goes through; the run is as it was then too.
        """
        if self._closed:
            raise TuneError("a closed tuner looks at nothing any more; call preflight before the loop")
        self._at_boundary("preflight")
        engine = self._engine
        engine.collect(wait=True)  # what comes after it is undone
        rewound, self._rewound = self._rewound, True  # what `loss` may report is not of the run
        try:
            report = examine(
                self._model,
                self._optimizer,
                self._plant,
                engine.clock,
                engine.instruments,
                loader,
                loss,
                validation=validation,
                chance=chance,
                seconds=seconds,
            )
        finally:
            self._rewound = rewound
        record(report, self.folder, pictures)
        return report

    def report(self, loss: Tensor | float | None = None, **values: Tensor | float) -> None:
        """Hand over the step's training loss, and whatever else was named in `reports`.

        Device tensors are taken without synchronisation.

        Raises:
            TuneError: for a name that was not announced.
        """
        if self._closed and not self._inside:
            raise TuneError("a closed tuner takes no reports; close it after the loop")
        if self._closed or self._rewound:
            return
        clock, instruments = self._engine.clock, self._engine.instruments
        # Before optimizer.step(), it is about the coming step.
        ahead = 1 if clock.spent == self._taken and not self._settled else 0
        if loss is not None:
            instruments.report("loss", loss, clock.step + ahead, clock.spent + ahead)
        for name, value in sorted(values.items()):  # train/loss before validation/loss, which waits for it
            if name not in self._reports:
                raise TuneError(
                    f"report takes `loss` and the names in reports=(...), got {name!r}; add it there"
                )
            coming = 0 if name.startswith(EVALUATED) else ahead
            instruments.report(name, value, clock.step + coming, clock.spent + coming)

    def close(self, status: RunStatus | None = None) -> None:
        """End the run: detach from optimizer and model, write and deliver what is left. Once is enough.

        A loop over the batches that is still open ends, and the loader and its workers are let go of. While
        the loop is at work itself (in `evaluate`, a policy or the loader, where a signal's handler may run),
        and from another thread, that is done at its next step boundary. Called by itself at the end of a
        `with` block and at the exit of the process.

        Args:
            status: how the run ended; None: finished.
        """
        if self._at_work():
            self._closing = self._closing or status or "finished"
        else:
            self._close(status or "finished")

    def _at_work(self) -> bool:
        """Whether a loop has to end itself: it holds the journal, or trains in another thread."""
        runner, running = self._runner, inspect.GEN_RUNNING
        elsewhere = runner is not None and runner is not threading.current_thread() and runner.is_alive()
        return elsewhere or any(inspect.getgeneratorstate(loop) == running for loop in self._loops)

    def _close(self, status: RunStatus) -> None:
        if self._closed or os.getpid() != self._pid:  # a forked child has no part in the run
            return
        self._closed = True
        _tuned.discard(self._optimizer)
        atexit.unregister(self._at_exit)
        self._let_go()
        for hook in self._hooks:
            hook.remove()
        if self._scaler is not None:
            del self._scaler.update
        self._engine.controls.detach()
        try:
            self._engine.collect(wait=True)
        except Exception as error:  # a device that has died; the record is closed all the same
            log.error("the last values of the sensors are lost: %s", error)
        try:
            self._journal.end(status)
        except JournalError as error:
            log.error("the end of the run is not on record: %s", error)
        try:  # who sends a command from now on sees that the run is over
            self._inbox().close(f"the run was over, at step {self._engine.clock.step}, before this was done")
        except JournalError as error:
            log.error("what people have sent last stays unanswered: %s", error)
        if self._delivery and not self._delivery.close():
            log.warning("MLflow lacks a part of this run; deliver it by: autotune sync %s", self.folder)
        try:
            self._journal.close()
        except JournalError as error:
            log.error("the last metrics are lost: %s", error)

    def _let_go(self) -> None:
        """End open loops, and drop what would keep a loader's workers until the garbage collector comes.

        Workers of an iterator that only the collector finds miss their last signal, and torch waits 5 s for
        each of them.
        """
        for loop in [*self._loops]:
            try:
                loop.close()
            except Exception as error:
                log.error("the loop's end failed: %s", error)
        self._loader.close()
        self._engine.evaluation = None

    def _at_exit(self) -> None:
        uncaught = getattr(sys, "last_value", None) is not None  # what has ended the process
        self._close("failed" if uncaught else self._closing or "finished")

    def __repr__(self) -> str:
        clock = self._engine.clock
        return f"AutoTuner({str(self.folder)!r}, step={clock.step}, spent={clock.spent} of {clock.budget})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.close("killed" if interrupted else "failed" if kind else None)

    # --- what a person does --------------------------------------------------------------------------------

    def rewind(self, to: int | str, data: Data = "replay", *, by: str = "user", reason: str = "") -> Restored:
        """Go back to an earlier state, bitwise where the data allow it.

        In the loop's body it is the last statement: what comes after it belongs to the state gone back to.

        Args:
            to: a checkpoint's name, or a step: the newest state at or before it is taken.
            data: `replay`: the same batches come again; `skip`: they are left behind.
            by: who wants it.
            reason: why, for the record.

        Raises:
            TuneError: between `next()` and `optimizer.step()`, or when the state or its data cannot be had.
        """
        result = self._command(Rewind(to, data, reason=reason), by).result
        assert isinstance(result, Restored)
        return result

    def checkpoint(self, name: str | None = None, *, by: str = "user", reason: str = "") -> CheckpointInfo:
        """Save the run to disk; a named checkpoint is kept for ever.

        In the loop's body it is the last statement, after all that the next step needs (a scheduler's step).

        Raises:
            TuneError: between `next()` and `optimizer.step()`, or when it cannot be written.
        """
        self._at_boundary("checkpoint")
        if self._inside and not self._settled:
            branch = self._engine.clock.branch
            self._engine.boundary()  # what is saved has the step's decisions behind it
            self._taken, self._settled = self._engine.clock.spent, True
            self._rewound = self._engine.clock.branch != branch
            if self._rewound:
                raise TuneError(
                    "a policy has just rewound the run, so that nothing was saved; save again later"
                )
        if self._unstepped:
            log.warning("gradients of %d batches that no step has used yet are not saved", self._unstepped)
        result = self._command(Checkpoint(name, reason=reason), by).result
        assert isinstance(result, CheckpointInfo)
        return result

    # --- what can be looked at -----------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._journal.folder

    @property
    def step(self) -> int:
        """Optimizer steps on the live branch."""
        return self._engine.clock.step

    @property
    def spent(self) -> int:
        """Every optimizer step ever taken."""
        return self._engine.clock.spent

    @property
    def signals(self) -> Mapping[str, Signal]:
        """What was measured on the live branch."""
        return self._engine.history.signals()

    @property
    def hyperparameters(self) -> Mapping[str, Hyperparameter[Any]]:
        """The hyperparameters by name."""
        return self._engine.controls

    @property
    def decisions(self) -> Sequence[Decision]:
        """What this process has decided, applied or not."""
        return tuple(self._engine.executor.decisions)

    @property
    def snapshots(self) -> Sequence[SnapshotInfo]:
        """The states of the live branch that can be rewound to; other checkpoints by their names."""
        return self._engine.memory.infos()

    # --- within --------------------------------------------------------------------------------------------

    def _iterate(self, stream: Iterator[Any], epochs: int | None) -> Generator[Any, None, None]:
        engine = self._engine
        transforms = [p.actuator for p in engine.controls.values() if isinstance(p.actuator, BatchTransform)]
        counting = bool(engine.instruments.signals)
        self._runner = threading.current_thread()
        try:
            self._begin()
            while self._going_on():
                batch = next(stream, _END)
                if batch is _END:
                    self._ended(epochs)
                    break
                for transform in transforms:
                    batch = transform.apply(batch)
                if counting:
                    engine.instruments.batch(_examples(batch))
                if engine.resuming:
                    engine.data_resumed()
                self._hand_out()
                yield batch
                self._after_batch()
        finally:
            self._inside, self._rewound = self._inside and self._closed, False  # its body may still report
            self._runner = None
            engine.leave_trials()
            stream.close()  # type: ignore[attr-defined]
            if self._closing is not None:
                self._loops.clear()  # this one is over
                self._close(self._closing)

    def _ended(self, epochs: int | None) -> None:
        if epochs is None:
            clock = self._engine.clock
            log.warning(
                "the loader ended after %d of %s steps: it can be iterated over only once; "
                "pass one that begins anew, a DataLoader or a list",
                clock.spent,
                clock.budget,
            )

    def _begin(self) -> None:
        """Keep the state before the first step, or before the first after a resume."""
        if not self._begun:
            self._begun = True
            self._engine.intake.inbox = self._inbox()
            self._engine.begin()

    def _inbox(self) -> Inbox:
        """The inbox, open; there is none before the loop begins."""
        journal = self._journal
        return self._engine.intake.inbox or Inbox(partial(mailbox, journal.place), journal.decisions())

    def _hand_out(self) -> None:
        self._inside, self._taken = True, self._engine.clock.spent
        self._settled = self._rewound = False

    def _going_on(self) -> bool:
        ended = self._closed or self._closing is not None
        return not (ended or self._engine.clock.over or self._engine.stopping)

    def _after_batch(self) -> None:
        self._inside = False
        updated, self._updates = self._updates > 0, 0
        if self._engine.clock.spent > self._taken:
            self._unstepped = self._skips = 0
            self._engine.boundary()
        elif updated and not self._settled:  # the scaler has skipped the step
            self._unstepped = 0
            self._skips += 1
            self._engine.obey()
            if self._skips % self._engine.every.sample == 0:
                self._engine.skipped()
            if self._skips == SELDOM_STEPPED:
                log.warning("the GradScaler has skipped %d steps in a row", self._skips)
            if self._skips == NEVER_STEPPED:
                raise TuneError(
                    f"a GradScaler skips a step now and then, got {self._skips} in a row; "
                    "the weights or the data are not finite: rewind to a sound state"
                )
        elif not self._settled:
            self._engine.instruments.micro_batch()
            self._unstepped += 1
            if self._unstepped == SELDOM_STEPPED:
                log.warning("%d batches without optimizer.step(); is it called?", self._unstepped)
            if self._unstepped == NEVER_STEPPED and not self._engine.clock.spent:
                raise TuneError(
                    "the loop steps the optimizer that the tuner was given, got "
                    f"{self._unstepped} batches without a step; pass the one that is stepped"
                )

    def _counted(self, update: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self._updates += 1
            return update(*arguments, **named)

        return counted

    def _do(self, action: Action, by: str | None) -> Decision:
        return self._command(action, by or "user").decision

    def _command(self, action: Action, by: str) -> Submitted:
        if self._closed:
            raise TuneError("a closed tuner changes nothing any more; go on by AutoTuner.resume")
        if isinstance(action, Rewind | Undo | Approve):
            self._at_boundary(action.kind)
        check_author(by)
        submitted = self._engine.executor.submit(action, HUMAN + by)
        if not submitted.decision.applied:
            raise TuneError(submitted.decision.note) from submitted.error
        if isinstance(submitted.result, Restored):
            self._taken, self._settled, self._rewound = self._engine.clock.spent, True, self._inside
        return submitted

    def _at_boundary(self, what: str) -> None:
        if self._inside and self._taken == self._engine.clock.spent and not self._settled:
            raise TuneError(
                f"a {what} needs a step boundary, got a call between next() and optimizer.step(); "
                "call it after optimizer.step(), or outside the loop"
            )


def new_folder() -> Path:
    """A folder for a new run: `autotune-runs/DATE-TIME-XXXX`, or under `$AUTOTUNE_RUNS`."""
    root = Path(os.environ.get("AUTOTUNE_RUNS", "autotune-runs"))
    return root / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"


def _measured(
    instruments: Instruments,
    evaluation: Evaluation | None,
    policies: Sequence[Policy],
    reports: Sequence[str],
) -> frozenset[str]:
    """Every signal that there will be."""
    names = {"loss", "loss_mean", "loss_variance", *instruments.signals, *reports}
    if evaluation is not None or "validation/loss" in reports:
        names |= {"validation/loss", "generalization_gap"}
    if evaluation is not None and any(
        n.startswith(EVALUATED) and n not in names for p in policies for n in p.requires
    ):
        names |= evaluation().keys()  # the only way to know what it returns
    return frozenset(names)


def _check_optimizers(controls: Controls, known: Sequence[object]) -> None:
    """Raise when a hyperparameter writes to an optimizer that is no part of the run."""
    for name, parameter in controls.items():
        other = getattr(parameter.actuator, "optimizer", None)
        if isinstance(other, Optimizer) and all(other is not part for part in known):
            raise TuneError(
                f"a hyperparameter writes to an optimizer of the run, got {name!r} of another; make it from "
                "the optimizer that the tuner is given, or name that other one in stateful"
            )


def _meta(folder: Path, total_steps: int | None, panel: Panel, controls: Controls) -> dict[str, Any]:
    return {
        "name": folder.name,
        "created": time.time(),
        "total_steps": total_steps,
        "policies": [policy.name for policy in panel.policies],
        "hyperparameters": {
            name: {key: getattr(s, key) for key in ("kind", "low", "high", "choices", "unit", "gain")}
            for name, s in controls.states().items()
        },
        "versions": {"autotune": VERSION, "torch": torch.__version__, "python": platform.python_version()},
    }


def _examples(batch: Any) -> int:
    """Examples in a batch: the leading dimension of its first tensor; 0 where there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((n for n in map(_examples, parts) if n), 0)


_END = object()
_tuned: weakref.WeakSet[Optimizer] = weakref.WeakSet()
"""Optimizers that have a tuner."""
