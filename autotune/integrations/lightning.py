"""Lightning: the tuner as a callback of `lightning.pytorch.Trainer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ..hyperparameters import Hyperparameter
from ..journal import RunStatus
from ..tuner import AutoTuner


class AutoTunerCallback(Callback):
    """Runs an `AutoTuner` round the module and its first optimizer while `Trainer.fit` trains.

    The loss is what `training_step` returns. Schedulers, further optimizers and the GradScaler are rewound
    with the module; Lightning's loop and its data are not, so a rewind leaves the batches behind. One
    callback serves one fit.

    Args:
        hyperparameters: called with the module and the optimizer when training starts; returns what may be
            adjusted. Where a scheduler drives the learning rate, it needs `schedule=`.
        monitor: the logged metric that is taken for the validation loss after each of Lightning's
            validations, where it is there; not used when `evaluate` is given.
        **arguments: as for `AutoTuner`. `total_steps` is what Lightning estimates unless given, and a
            run of an `MLFlowLogger` is joined unless `mlflow` is given.

    Raises:
        TuneError: when training starts, for what `AutoTuner` refuses.
    """

    def __init__(
        self,
        hyperparameters: Callable[[LightningModule, Optimizer], Sequence[Hyperparameter[Any]]],
        *,
        monitor: str = "val_loss",
        **arguments: Any,
    ) -> None:
        self.tuner: AutoTuner | None = None
        """From the start of training on, also after its end."""
        self._hyperparameters = hyperparameters
        self._monitor = monitor
        self._arguments = arguments
        self._validated = False  # whether Lightning's validations are the tuner's
        self._first: RemovableHandle | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the tuner: all is set up now, and restored where a fit resumes."""
        arguments = dict(self._arguments)
        optimizer, *others = trainer.optimizers
        parts: dict[str, Any] = {f"optimizer {i}": other for i, other in enumerate(others, 1)}
        parts |= {f"scheduler {i}": c.scheduler for i, c in enumerate(trainer.lr_scheduler_configs)}
        if (scaler := getattr(trainer.precision_plugin, "scaler", None)) is not None:
            parts["scaler"] = scaler
        arguments["stateful"] = parts | (arguments.get("stateful") or {})
        self._validated = trainer.enable_validation and arguments.get("evaluate") is None
        if self._validated:
            arguments["reports"] = [*arguments.get("reports", ()), "validation/loss"]
        logger = next((one for one in trainer.loggers if isinstance(one, MLFlowLogger)), None)
        if logger is not None:
            arguments.setdefault("mlflow", logger.run_id)
        end = _end(trainer)
        arguments.setdefault("total_steps", None if math.isinf(end) else int(end) - trainer.global_step)
        self._first = optimizer.register_step_pre_hook(torch.compiler.disable(_closure_first))
        self.tuner = AutoTuner(
            trainer.model or pl_module,
            optimizer,
            hyperparameters=self._hyperparameters(pl_module, optimizer),
            **arguments,
        )
        if not self.tuner.boundary():
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Report the loss and let the tuner work."""
        assert self.tuner is not None
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self.tuner.report(loss=loss.detach())
        # At its own end Lightning is left alone: `should_stop` would make it validate once more.
        if not self.tuner.boundary() and trainer.global_step < _end(trainer):
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Report the validation loss of a validation in training."""
        loss = trainer.callback_metrics.get(self._monitor)
        if self._validated and self.tuner is not None and loss is not None:
            values = {"validation/loss": loss}
            self.tuner.report(**values)

    def on_train_end(self, *_: Any) -> None:
        """End the tuner's run."""
        self._close("finished")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End it as a run that failed or was interrupted."""
        self._close("killed" if isinstance(exception, KeyboardInterrupt) else "failed")

    def _close(self, status: RunStatus) -> None:
        if self._first is not None:
            self._first.remove()
        self._validated = False
        if self.tuner is not None:
            self.tuner.close(status)


def _closure_first(optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """Run the step's closure before the tuner's hooks, which are to find, and clip, this step's gradients.

    Lightning hands the forward and backward pass to `step` as a closure, which torch's optimizers run first
    of all: here it runs a moment earlier, and the optimizer gets its result.
    """
    closure = kwargs.get("closure")
    if closure is None:
        return None
    with torch.enable_grad():
        losses = [closure()]
    return args, {**kwargs, "closure": lambda: losses.pop() if losses else closure()}


def _end(trainer: Trainer) -> float:
    """The optimizer step at which Lightning ends the fit by itself."""
    steps = trainer.estimated_stepping_batches
    return steps if steps >= 0 else math.inf
