"""What a sensor is, and what it is given to read."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..records import Signal, TuneError
from .norms import norms
from .subset import Subset


class Readings(NamedTuple):
    """Values with their signals' names, in the same order: a 1-D tensor on the device, or host numbers."""

    names: Sequence[str]
    values: Tensor | Sequence[float]


class Sensor(abc.ABC):
    """Measures one quantity without synchronising host and device and without changing the training.

    `Instruments` calls `prepare` once and then the other methods, those of a step only on the steps that
    are sampled, with autograd switched off. All tensors go back as `Readings` on `Parameters.device`.
    Sensors never draw random numbers, and NaN or infinity in what they read is no error.
    """

    listens: tuple[str, ...] = ()
    """Reported signals that `reported` is called with."""
    looks_back = False
    """Whether `step_before` is called."""
    derives = False
    """Whether `derive` is called."""

    @property
    @abc.abstractmethod
    def signals(self) -> tuple[str, ...]:
        """Names that it can emit, known after `prepare`; one may come late or never (`reported`)."""

    @abc.abstractmethod
    def prepare(self, parameters: Parameters) -> None:
        """Allocate what is needed to measure these parameters."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a rewind has to restore: plain values and tensors of its own; may be empty."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state back, by copy: the same state may be loaded again."""

    def reported(self, name: str, value: Tensor, due: bool) -> Readings | None:
        """A value of a signal in `listens` was reported (0-dim, the sensor may keep it, never write it)."""
        return None

    def micro_batch(self, gradients: Gradients) -> None:  # noqa: B027 most sensors have no use for it
        """Gradients are being accumulated: a backward pass has ended and no step follows it yet."""

    def step_before(self, gradients: Gradients) -> None:  # noqa: B027 as above
        """The optimizer is about to take the step before one that is sampled; where it `looks_back`."""

    def before_step(self, gradients: Gradients) -> Readings | None:
        """The optimizer is about to step."""
        return None

    def after_step(self, step: int, examples: int) -> Readings | None:
        """The optimizer has stepped; `examples` counts those handed out so far, 0 if nobody counts."""
        return None

    def derive(self, signals: Mapping[str, Signal], every: int) -> Iterable[tuple[int, int, Readings]]:
        """What follows from values that the host has by now, where the sensor `derives`; asked at every tick.

        On CUDA they come a tick late, and a state that was taken meanwhile is behind: what is derived
        depends on the values and their steps, never on when they came.

        Args:
            signals: all that was measured on the live branch.
            every: steps from one sample to the next.

        Returns:
            Step, spent and host numbers, oldest first; none twice and none before its signal's newest.
        """
        return ()


class Parameters:
    """The tensors that are measured, by layer group.

    Args:
        groups: tensors by group name; of any floating or complex type, on any devices.

    Raises:
        TuneError: for a name that MLflow would refuse, a tensor in two groups, or no tensor at all.
    """

    def __init__(self, groups: Mapping[str, Sequence[Tensor]]) -> None:
        self.groups = tuple(groups)
        self.tensors: list[Tensor] = []
        self._group_of: list[int] = []
        first: dict[int, str] = {}
        for number, (name, tensors) in enumerate(groups.items()):
            if not name or not all(c.isalnum() or c in "_-./ " for c in name):
                raise TuneError(
                    "a layer group's name has letters, digits, spaces and _ - . / only (MLflow's rule), "
                    f"got {name!r}"
                )
            for tensor in tensors:
                if id(tensor) in first:
                    raise TuneError(
                        "a tensor stands once, in one layer group, got one of shape "
                        f"{tuple(tensor.shape)} in {first[id(tensor)]!r} and again in {name!r}; take one out"
                    )
                first[id(tensor)] = name
            self.tensors += tensors
            self._group_of += [number] * len(tensors)
        if not self.tensors:
            raise TuneError(
                "sensors need at least one parameter to measure, got none; give sensors=[] instead"
            )
        devices = [tensor.device for tensor in self.tensors]
        self.device = next((device for device in devices if device.type != "cpu"), torch.device("cpu"))
        self._totals = functools.lru_cache(maxsize=8)(self._layout)

    @functools.cached_property
    def subset(self) -> Subset:
        """The coordinates of all tensors that stand for the whole."""
        return Subset(self.tensors, self.device)

    def totals(self, signal: str, which: tuple[int, ...]) -> tuple[list[str], Tensor]:
        """How to sum values of the parameters `which` over all of them and over each group.

        Returns:
            The names `signal`, `signal/<group>` (n of them, of groups that are represented) and an index
            (n, len(which)) for `sum_by`.
        """
        groups, index = self._totals(which)
        return [signal, *(f"{signal}/{group}" for group in groups)], index

    def _layout(self, which: tuple[int, ...]) -> tuple[list[str], Tensor]:
        members: dict[int, list[int]] = {}
        for position, parameter in enumerate(which):
            members.setdefault(self._group_of[parameter], []).append(position)
        rows = [list(range(len(which))), *members.values()]
        blank = len(which)  # the place of the zero that `sum_by` appends
        index = torch.tensor([row + [blank] * (blank - len(row)) for row in rows])
        return [self.groups[group] for group in members], index.to(self.device, non_blocking=True)


class Gradients:
    """The gradients of the parameters at one moment, as the optimizer will apply them.

    Args:
        parameters: what is measured.
        held: ids of the tensors that the optimizer holds; others are not its business.
        scale: the factor that the gradients still carry (automatic mixed precision), as a 0-dim tensor.
        examples: examples in the newest batch; None when it is not known.
    """

    def __init__(
        self,
        parameters: Parameters,
        held: Iterable[int],
        scale: Tensor | None = None,
        examples: int | None = None,
    ) -> None:
        self.parameters = parameters
        self.examples = examples
        self.scale = None if scale is None else scale.to(parameters.device, torch.float32, non_blocking=True)
        held = frozenset(held)
        present = [
            (i, gradient)
            for i, tensor in enumerate(parameters.tensors)
            if id(tensor) in held and (gradient := tensor.grad) is not None
        ]
        self.which = tuple(i for i, _ in present)
        """Positions, in `parameters.tensors`, of those that have a gradient."""
        self.tensors = [gradient for _, gradient in present]
        """Their gradients, still scaled, of any layout."""

    def __len__(self) -> int:
        return len(self.which)

    @functools.cached_property
    def norms(self) -> Tensor:
        """The Euclidean norm of each gradient, unscaled: float32, (len(which),)."""
        result = norms([_values(gradient) for gradient in self.tensors], self.parameters.device)
        return result if self.scale is None else result / self.scale

    @functools.cached_property
    def square(self) -> Tensor:
        """The squared norm of all gradients together, unscaled: float32, 0-dim."""
        return self.norms.square().sum()

    @functools.cached_property
    def coordinates(self) -> Tensor:
        """The gradient at `parameters.subset`, unscaled: float32; 0 where there is none or a sparse one."""
        dense: list[Tensor | None] = [None] * len(self.parameters.tensors)
        for i, gradient in zip(self.which, self.tensors, strict=True):
            if gradient.layout == torch.strided:
                dense[i] = gradient
        result = self.parameters.subset.take(dense).float()
        return result if self.scale is None else result / self.scale

    @functools.cached_property
    def weights(self) -> Tensor:
        """The weights at `parameters.subset` at this moment: float32 or wider, never written to."""
        return self.parameters.subset.take(self.parameters.tensors)


def sum_by(index: Tensor, values: Tensor) -> Tensor:
    """Sums of `values` over the rows of an index from `Parameters.totals`; deterministic on every device.

    A matrix product would spread a NaN over all groups, and atomic additions would round in any order.
    """
    return torch.cat([values, values.new_zeros(1)])[index].sum(1)


def _values(gradient: Tensor) -> Tensor:
    if gradient.layout == torch.sparse_coo:
        gradient = gradient.coalesce().values()  # sync: how many distinct rows; the optimizer does the same
    return torch.view_as_real(gradient.resolve_conj()) if gradient.is_complex() else gradient
