"""transformers: the tuner as a callback of `transformers.Trainer`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..actuators.param_groups import unwrap
from ..hyperparameters import Hyperparameter
from ..journal import RunStatus
from ..tuner import AutoTuner


class AutoTunerCallback(TrainerCallback):
    """Runs an `AutoTuner` round model and optimizer while `Trainer.train` trains.

    The loss is read from the model's outputs by a forward hook, without synchronisation. Scheduler and
    GradScaler are rewound with the model; the Trainer's loop and its data are not, so a rewind leaves the
    batches behind. One callback serves one training.

    Args:
        hyperparameters: called with the model and the optimizer when training starts; returns what may be
            adjusted. The Trainer always has a scheduler, so the learning rate needs `schedule=`.
        monitor: the metric that is taken for the validation loss after each of the Trainer's evaluations,
            where it is there; not used when `evaluate` is given.
        **arguments: as for `AutoTuner`. `total_steps` is the Trainer's `max_steps` unless given.

    Raises:
        TuneError: when training starts, for what `AutoTuner` refuses.
    """

    def __init__(
        self,
        hyperparameters: Callable[[nn.Module, Optimizer], Sequence[Hyperparameter[Any]]],
        *,
        monitor: str = "eval_loss",
        **arguments: Any,
    ) -> None:
        self.tuner: AutoTuner | None = None
        """From the start of training on, also after its end."""
        self._hyperparameters = hyperparameters
        self._monitor = monitor
        self._arguments = arguments
        self._validated = False  # whether the Trainer's evaluations are the tuner's
        self._hook: RemovableHandle | None = None
        self._losses: list[Tensor] = []  # of the micro-batches since the last step
        self._shares = False  # whether these add up to the step's loss

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **parts: Any) -> None:
        """Make the tuner: all is set up now, and restored where training resumes."""
        self._close("failed")  # there is no hook for an exception; this is the next training, or a retry
        arguments = dict(self._arguments)
        model, optimizer = parts["model"], unwrap(parts["optimizer"])
        stateful = {"scheduler": parts["lr_scheduler"]}
        if (scaler := getattr(parts["optimizer"], "scaler", None)) is not None:  # of accelerate's wrapper
            stateful["scaler"] = scaler
        arguments["stateful"] = stateful | (arguments.get("stateful") or {})
        self._validated = args.eval_strategy != "no" and arguments.get("evaluate") is None
        if self._validated:
            arguments["reports"] = [*arguments.get("reports", ()), "validation/loss"]
        arguments.setdefault("total_steps", state.max_steps - state.global_step)
        self.tuner = AutoTuner(
            model,
            optimizer,
            hyperparameters=self._hyperparameters(model, optimizer),
            **arguments,
        )
        self._losses.clear()
        self._hook = model.register_forward_hook(self._keep_loss, with_kwargs=True)
        self.tuner.boundary()

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """A micro-batch whose gradients are accumulated."""
        assert self.tuner is not None
        self.tuner.boundary()

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        """Report the step's loss and let the tuner work."""
        assert self.tuner is not None
        if self._losses:
            losses = torch.stack(self._losses)
            self._losses.clear()
            self.tuner.report(loss=losses.sum() if self._shares else losses.mean())
        else:
            warnings.warn(
                "the model's outputs hold no training loss (label smoothing, compute_loss_func?); "
                "where it is computed, hand it to callback.tuner.report(loss=...)",
                stacklevel=2,
            )
        if not self.tuner.boundary():
            control.should_training_stop = True

    def on_evaluate(self, *_: Any, **parts: Any) -> None:
        """Report the validation loss of an evaluation in training."""
        loss = parts["metrics"].get(self._monitor)
        if self._validated and self.tuner is not None and loss is not None:
            values = {"validation/loss": loss}
            self.tuner.report(**values)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """End the tuner's run."""
        self._close("finished")

    def _close(self, status: RunStatus) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._validated = False
        if self.tuner is not None:
            self.tuner.close(status)

    def _keep_loss(self, model: nn.Module, _: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        if model.training and loss is not None:
            self._shares = kwargs.get("num_items_in_batch") is not None
            self._losses.append(loss.detach())
