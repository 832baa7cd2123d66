"""Hyperparameters that an optimizer holds."""

from __future__ import annotations

from typing import Any, Literal

from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import SGD, Optimizer
from torch.utils.hooks import RemovableHandle

from ..hyperparameters import FloatHyperparameter, Held, IntHyperparameter
from ..records import FACTOR, TuneError
from .param_groups import ParamGroups, Schedule, step_hooks, unwrap


def learning_rate(
    optimizer: Optimizer,
    *,
    group: int | None = None,
    schedule: Schedule | None = None,
    low: float | None = None,
    high: float | None = None,
    name: str | None = None,
) -> FloatHyperparameter:
    """The learning rate of an optimizer, or of one of its param groups, on a log scale.

    Without `group` the value is the rate of the first param group whose rate is not zero; the other groups
    keep their ratio to it, and those at zero stay there. Bounds hold for the value, not for the other groups.

    When a scheduler drives the rate, `schedule` says who owns it: with `multiply` the hyperparameter is a
    factor on the schedule, 1.0 at first; with `override` it takes the rate over, from where the schedule
    stands. Either way the scheduler never sees the written rate: it is in the param groups only while a step
    runs. Make the scheduler before the tuner starts, so that two owners are noticed.

    Args:
        optimizer: any torch optimizer whose param groups have `lr`; tensor rates are filled in place.
        group: index of one param group; None for all.
        schedule: None, `multiply` or `override`.
        low: smallest value; 1e-8, or 1e-4 for a factor.
        high: largest value; 10, or 1e4 for a factor.
        name: `lr` unless given, `lr/<group>` for one group.

    Raises:
        TuneError: for two owners (a scheduler, and no `schedule`), an unknown group, or invalid bounds.
    """
    factor = schedule == "multiply"
    return FloatHyperparameter(
        name or _name("lr", group),
        low=(1e-4 if factor else 1e-8) if low is None else low,
        high=(1e4 if factor else 10.0) if high is None else high,
        log=True,
        unit=FACTOR if factor else "",
        actuator=ParamGroups(optimizer, "lr", group=group, schedule=schedule),
    )


def weight_decay(
    optimizer: Optimizer,
    *,
    group: int | None = None,
    low: float = 0.0,
    high: float = 1.0,
    name: str | None = None,
) -> FloatHyperparameter:
    """The weight decay of an optimizer, or of one of its param groups.

    Without `group`, groups whose decay is zero (biases and norms, as a rule) stay at zero and the others keep
    their ratios; where all are zero, all are written alike.

    In AdamW and SGD alike, weights shrink by rate × decay in a step; in SGD with momentum by that over
    (1 - momentum), which is its `gain`. This hyperparameter does not hold the product: when the learning rate
    falls, so does the shrinkage, unless the decay is raised with it.

    Args:
        optimizer: any torch optimizer whose param groups have `weight_decay`.
        group: index of one param group; None for all.
        low: smallest value.
        high: largest value.
        name: `weight_decay` unless given, `weight_decay/<group>` for one group.

    Raises:
        TuneError: for an optimizer without weight decay, an unknown group, or invalid bounds.
    """
    actuator = _Decay(optimizer, "weight_decay", group=group)
    return FloatHyperparameter(name or _name("weight_decay", group), low=low, high=high, actuator=actuator)


class _Decay(ParamGroups):
    """Where the optimizer is SGD, a decay goes through the momentum, as a part of the gradient."""

    @property
    def gain(self) -> float:
        """That of the momentum, for what stays as it is: (1 - dampening) / (1 - momentum)."""
        if not isinstance(self.optimizer, SGD):
            return 1.0
        group = self.optimizer.param_groups[self._chosen()[0]]
        momentum = float(group["momentum"])
        return (1 - float(group["dampening"])) / (1 - momentum) if 0 < momentum < 1 else 1.0


def momentum(
    optimizer: Optimizer,
    *,
    group: int | None = None,
    schedule: Literal["override"] | None = None,
    low: float = 0.0,
    high: float = 0.999,
    name: str | None = None,
) -> FloatHyperparameter:
    """The momentum of SGD, RMSprop or Muon; for the Adam family see `beta1`.

    Args:
        optimizer: its param groups have `momentum`.
        group: index of one param group; None for all, which must then hold the same value.
        schedule: `override` takes it over from CyclicLR or OneCycleLR, which cycle it.
        low: smallest value.
        high: largest value, below 1.
        name: `momentum` unless given, `momentum/<group>` for one group.

    Raises:
        TuneError: for two owners, no such entry or group, groups that differ, or invalid bounds.
    """
    return _decay_rate("momentum", optimizer, "momentum", None, group, schedule, low, high, name)


def beta1(
    optimizer: Optimizer,
    *,
    group: int | None = None,
    schedule: Literal["override"] | None = None,
    low: float = 0.0,
    high: float = 0.999,
    name: str | None = None,
) -> FloatHyperparameter:
    """The decay rate of the Adam family's mean of gradients. For arguments see `momentum`."""
    return _decay_rate("beta1", optimizer, "betas", 0, group, schedule, low, high, name)


def beta2(
    optimizer: Optimizer,
    *,
    group: int | None = None,
    low: float = 0.0,
    high: float = 0.99999,
    name: str | None = None,
) -> FloatHyperparameter:
    """The decay rate of the Adam family's mean of squared gradients. For arguments see `momentum`."""
    return _decay_rate("beta2", optimizer, "betas", 1, group, None, low, high, name)


def gradient_clip(
    optimizer: Optimizer,
    max_norm: float,
    *,
    low: float = 1e-4,
    high: float = 1e4,
    name: str = "gradient_clip",
) -> FloatHyperparameter:
    """Clip the global L2 norm of the optimizer's gradients just before each step, on a log scale.

    It replaces `clip_grad_norm_` in the loop and gives the same result, also after `GradScaler`, fused
    optimizers included. Sensors measure the gradients before they are clipped. As in torch, a norm that is
    infinite or NaN makes the gradients NaN.

    Args:
        optimizer: all gradients of its parameters are clipped together.
        max_norm: the norm above which they are scaled down to it, at the start.
        low: smallest `max_norm`.
        high: largest `max_norm`.
        name: unique within a run.

    Raises:
        TuneError: for something that is no optimizer, or invalid bounds or start.
    """
    clip = GradientClip(optimizer, max_norm)
    return FloatHyperparameter(name, low=low, high=high, log=True, unit="L2 norm", actuator=clip)


class GradientClip(Held[float]):
    """Holds the largest gradient norm and applies it in the optimizer's step hook."""

    def __init__(self, optimizer: Optimizer, max_norm: float) -> None:
        super().__init__(max_norm)
        self.optimizer = unwrap(optimizer)
        self._handles: list[RemovableHandle] = []

    @property
    def targets(self) -> frozenset[tuple[str, int]]:
        """One norm an optimizer."""
        return frozenset({("gradient_clip", id(self.optimizer))})

    def attach(self) -> None:
        """Clip from the next step on."""
        self.detach()
        self._handles = step_hooks(self.optimizer, self._clip)

    def detach(self) -> None:
        """Clip no more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _clip(self, *_: Any) -> None:
        parameters = [p for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters])
        scale = getattr(self.optimizer, "grad_scale", None)
        if scale is not None:  # GradScaler leaves the division to a fused kernel: these are still multiplied
            norm = norm / scale.to(norm.device, non_blocking=True)
        clip_grads_with_norm_(parameters, self.read(), norm)


def gradient_accumulation(
    value: int, *, low: int = 1, high: int = 1024, name: str = "gradient_accumulation"
) -> IntHyperparameter:
    """How many micro-batches make one step; the loop reads it by calling.

    Args:
        value: where it starts.
        low: smallest value.
        high: largest value.
        name: unique within a run.

    Raises:
        TuneError: for invalid bounds or a start outside them.
    """
    return IntHyperparameter(name, value, low=low, high=high, unit="micro-batches")


def _decay_rate(
    kind: str,
    optimizer: Optimizer,
    key: str,
    element: int | None,
    group: int | None,
    schedule: Schedule | None,
    low: float,
    high: float,
    name: str | None,
) -> FloatHyperparameter:
    if schedule == "multiply":
        raise TuneError(
            f"{kind} cannot multiply a schedule, for it must stay below 1; use schedule='override'"
        )
    actuator = ParamGroups(optimizer, key, element=element, group=group, schedule=schedule, equal=True)
    return FloatHyperparameter(name or _name(kind, group), low=low, high=high, actuator=actuator)


def _name(kind: str, group: int | None) -> str:
    return kind if group is None else f"{kind}/{group}"
