"""All sensors of a run: when they measure, and how their values reach the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from ..records import Signal, TuneError
from .generalization_gap import GeneralizationGap
from .gradient_noise_scale import GradientNoiseScale
from .gradient_norm import GradientNorm
from .gradient_snr import GradientSNR
from .groups import layer_groups
from .loss import LossStatistics
from .loss_scale import LossScale, scale_of
from .nonfinite import NonFinite
from .sensor import Gradients, Parameters, Readings, Sensor
from .step_time import StepTime
from .transfer import Sample, Transfer
from .update_alignment import UpdateAlignment
from .update_ratio import UpdateRatio


def default_sensors(scaler: GradScaler | None = None) -> list[Sensor]:
    """One of each kind; the loss scale where there is a scaler."""
    sensors: list[Sensor] = [
        LossStatistics(),
        GeneralizationGap(),
        GradientNorm(),
        NonFinite(),
        UpdateRatio(),
        UpdateAlignment(),
        GradientSNR(),
        GradientNoiseScale(),
        StepTime(),
    ]
    return sensors if scaler is None else [*sensors, LossScale(scaler)]


class Instruments:
    """Calls the sensors on step 1 and every `every`-th, and brings their values to the host one tick late.

    Nothing here waits for the device but `collect(wait=True)`, nothing draws random numbers, and nothing
    that the training reads is written. The optimizer's hooks call `before_step` and `after_step` (outside
    of a compiled step: wrap the hooks in `torch.compiler.disable`); steps that a GradScaler skips have no
    hooks, so they are not measured. A step with a closure is measured by the gradients of the step before.

    Args:
        model: its parameters are measured, as far as the optimizer holds them.
        optimizer: the one whose hooks call; what it holds beside the model's parameters is the group `other`.
        sensors: what to measure; None for `default_sensors`.
        every: steps from one sample to the next, at least 1; reported values are all kept.
        scaler: the loop's GradScaler, if it has one; needed for the gradients of micro-batches.
        groups: tensors by layer group; None for the model's top-level children (`layer_groups`).

    Raises:
        TuneError: for `every` below 1, two sensors of one signal, or invalid groups.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        sensors: Sequence[Sensor] | None = None,
        every: int = 10,
        scaler: GradScaler | None = None,
        groups: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise TuneError(
                f"sensors sample every n steps, a whole number of at least 1, got every={every!r}"
            )
        self._optimizer = optimizer
        self._every = every
        self._scaler = scaler
        if groups is None:
            groups = layer_groups(model)
            inside = {id(tensor) for tensors in groups.values() for tensor in tensors}
            other = [tensor for tensor in self._held() if id(tensor) not in inside]
            groups = {**groups, "other": other} if other else groups
        self._parameters = Parameters(groups)
        self._sensors = list(default_sensors(scaler) if sensors is None else sensors)
        self._by_name: dict[str, Sensor] = {}
        names: set[str] = set()
        for sensor in self._sensors:
            sensor.prepare(self._parameters)
            if twice := names.intersection(sensor.signals):
                raise TuneError(
                    f"a signal has one sensor, got two for {', '.join(sorted(twice))}; leave one out"
                )
            names.update(sensor.signals)
            self._by_name[type(sensor).__name__] = sensor
        reported = {name for s in self._sensors if not set(s.listens) <= {"loss"} for name in s.signals}
        self.signals = frozenset(names - reported)
        """What may come in a loop that reports its loss; what needs other reports (validation) is extra."""
        self._looking_back = [sensor for sensor in self._sensors if sensor.looks_back]
        self._deriving = [sensor for sensor in self._sensors if sensor.derives]
        self._listeners: dict[str, list[Sensor]] = {}
        for sensor in self._sensors:
            for name in sensor.listens:
                self._listeners.setdefault(name, []).append(sensor)
        self._transfer = Transfer()
        self._readings: list[Readings] = []
        self._step = 0
        self._due = False
        self._examples = 0
        self._batch: int | None = None

    def batch(self, examples: int) -> None:
        """A batch of so many examples (0: not known) is handed to the loop."""
        self._batch = examples or None
        self._examples += examples

    @torch.no_grad()
    def micro_batch(self) -> None:
        """A batch has been trained on and no step was taken; call before the next one is handed out."""
        if not self._sensors or not self._samples(self._step + 1):
            return
        gradients = self._gradients(scale_of(self._scaler))
        if len(gradients):
            for sensor in self._sensors:
                sensor.micro_batch(gradients)

    def before_step(self, step: int) -> None:
        """The optimizer is about to take the step of this number."""
        self._step = step
        self._due = self._samples(step) and bool(self._sensors)
        before = self._looking_back if self._samples(step + 1) else ()
        if self._due or before:
            self._measure(before)

    def after_step(self, step: int, spent: int) -> None:
        """The optimizer has taken it; its values are labelled with these clocks."""
        if not self._due:
            return
        self._due = False
        with torch.no_grad():
            for sensor in self._sensors:
                self._keep(sensor.after_step(step, self._examples))
        for readings in self._readings:
            self._transfer.add(step, spent, readings)
        self._readings.clear()

    def report(self, name: str, value: Tensor | float, step: int, spent: int) -> None:
        """Keep a value that the loop has computed; every one is kept, whatever `every` is.

        Args:
            name: the signal's name.
            value: a number, or a tensor with one element. A tensor on the device is copied there, since the
                output of a CUDA graph is overwritten by the next replay.
            step: of the step that it belongs to.
            spent: likewise.

        Raises:
            TuneError: for a value that is no single number.
        """
        if isinstance(value, Tensor) and not value.is_cpu and value.numel() == 1 and not value.is_complex():
            kept = value.detach().to(self._parameters.device, copy=True, non_blocking=True).reshape(1)
            self._transfer.add(step, spent, Readings((name,), kept))
            if name in self._listeners:
                self._tell(name, kept[0], step, spent)
            return
        try:
            number = float(value.item() if isinstance(value, Tensor) else value)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = (
                f"{value.dtype} tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else value
            )
            raise TuneError(
                f"a reported value is one real number, got {name} = {kind!s}; reduce it first (.mean())"
            ) from error
        self._transfer.put(Sample(step, spent, name, number))
        if name in self._listeners:
            self._tell(name, torch.full((), number, device=self._parameters.device), step, spent)

    def exclude(self, seconds: float) -> None:
        """Time spent on something else than steps (validation, a checkpoint) is no step time."""
        for sensor in self._sensors:
            if isinstance(sensor, StepTime):
                sensor.exclude(seconds)

    def collect(self, wait: bool = False) -> list[Sample]:
        """What has arrived since the last call, oldest first; call it once a tick.

        On a CPU that is everything; on CUDA what was sent at the last tick. With `wait`, everything, after
        waiting for the device: do so before a rewind and at the end.
        """
        return self._transfer.receive(wait)

    @property
    def derives(self) -> bool:
        """Whether anything is derived from values on the host."""
        return bool(self._deriving)

    def derive(self, signals: Mapping[str, Signal]) -> Iterator[Sample]:
        """What follows from `signals`, those of the live branch with what was collected among them."""
        for sensor in self._deriving:
            for step, spent, (names, values) in sensor.derive(signals, self._every):
                for name, value in zip(names, values, strict=True):
                    yield Sample(step, spent, name, float(value))

    def state_dict(self) -> dict[str, Any]:
        """Each sensor's state by class name, and the step; copies, made without waiting for the device."""
        return {
            "step": self._step,
            "sensors": {name: sensor.state_dict() for name, sensor in self._by_name.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state of `state_dict`; values not collected are dropped (`collect(wait=True)` first).

        A sensor that the state does not know stays as it is.
        """
        self._transfer.discard()
        self._readings.clear()
        self._due = False
        self._step = state["step"]
        for name, sensor in self._by_name.items():
            if name in state["sensors"]:
                sensor.load_state_dict(state["sensors"][name])

    def _tell(self, name: str, value: Tensor, step: int, spent: int) -> None:
        due = step % self._every == 0
        for sensor in self._listeners[name]:
            readings = sensor.reported(name, value, due)
            if readings is not None:
                self._transfer.add(step, spent, readings)

    def _samples(self, step: int) -> bool:
        # The first step too: how far it moves the weights tells the scale of the learning rate.
        return step % self._every == 0 or step == 1

    @torch.no_grad()
    def _measure(self, before: Sequence[Sensor]) -> None:
        """Measure where this step is `_due`; `before`: the sensors that look back to it from the next one."""
        self._readings.clear()
        # A fused optimizer unscales inside its kernel and is given the factor here.
        gradients = self._gradients(getattr(self._optimizer, "grad_scale", None))
        if self._due and len(gradients):
            for sensor in self._sensors:
                self._keep(sensor.before_step(gradients))
        for sensor in before:
            sensor.step_before(gradients)

    def _gradients(self, scale: Tensor | None) -> Gradients:
        return Gradients(self._parameters, map(id, self._held()), scale, self._batch)

    def _held(self) -> list[Tensor]:
        return [tensor for group in self._optimizer.param_groups for tensor in group["params"]]

    def _keep(self, readings: Readings | None) -> None:
        if readings is None:
            return
        if len(readings.names) != len(readings.values):
            raise TuneError(
                f"a sensor returns one value a name, got {len(readings.values)} values for "
                f"{', '.join(readings.names)}; return a 1-D tensor as long as its names"
            )
        self._readings.append(readings)
