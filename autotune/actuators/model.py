"""Hyperparameters that a model holds: dropout and frozen layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from ..hyperparameters import FLOAT32_ROUNDING, Actuator, FloatHyperparameter, IntHyperparameter
from ..records import TuneError
from .generic import Attribute
from .layers import named_layers
from .param_groups import driven_by, unwrap


def dropout(
    model: nn.Module,
    pattern: str | None = None,
    *,
    low: float = 0.0,
    high: float = 0.9,
    name: str = "dropout",
) -> FloatHyperparameter:
    """The dropout probability of one module, of those whose name matches a pattern, or of all in a model.

    Found are torch's dropout layers, `nn.MultiheadAttention`, recurrent layers of two layers or more, and
    `TunableDropout`. For rates held elsewhere (`F.dropout(x, self.p)`, drop path) use `attribute`.

    A compiled model is compiled again at each change of a torch dropout layer and gives up at the eighth:
    build it with `TunableDropout`.

    Args:
        model: a model, or one such module.
        pattern: shell-style, matched with the names of `model.named_modules()`: `encoder.*`.
        low: smallest probability.
        high: largest probability.
        name: unique within a run.

    Raises:
        TuneError: when no module is found, or the modules found hold different values.
    """
    places: dict[str, Attribute[float]] = {
        path: Attribute(module, attribute)
        for path, module in model.named_modules()
        if (attribute := _dropout_attribute(module)) and (pattern is None or fnmatchcase(path, pattern))
    }
    if not places:
        matched = "" if pattern is None else f" whose name matches {pattern!r}"
        raise TuneError(
            f"dropout needs a module that has it, but {type(model).__name__} has none{matched}; "
            "use attribute(module, name) for a probability that a module of your own holds"
        )
    values = {path: float(place.read()) for path, place in places.items()}
    first = next(iter(values.values()))
    if not all(math.isclose(value, first, rel_tol=FLOAT32_ROUNDING) for value in values.values()):
        held = ", ".join(f"{path or 'itself'}={value:g}" for path, value in values.items())
        raise TuneError(
            f"one dropout hyperparameter needs modules that hold the same probability, got {held}; "
            "make one for each with pattern=..., or set them equal first"
        )
    return FloatHyperparameter(
        name, low=low, high=high, unit="probability", actuator=Several(list(places.values()))
    )


class Several(Actuator[float]):
    """One value written to several attributes alike."""

    def __init__(self, places: Sequence[Attribute[float]]) -> None:
        self.places = tuple(places)

    @property
    def targets(self) -> frozenset[Hashable]:
        """All of the places'."""
        return frozenset().union(*(place.targets for place in self.places))

    def read(self) -> float:
        """What the first place holds."""
        return float(self.places[0].read())

    def write(self, value: float) -> float:
        """Write to all."""
        for place in self.places:
            place.write(value)
        return self.read()


class TunableDropout(nn.Module):
    """`nn.Dropout` whose probability is a buffer, so that changing it never makes torch.compile start again.

    The buffer is not persistent: a `state_dict` fits a model with `nn.Dropout` in its place and the other way
    round, and the value is kept with the other hyperparameters. It stays in float32 when the model is cast.

    Args:
        p: probability of an element to be zeroed, in [0, 1].

    Raises:
        TuneError: for a probability outside [0, 1].
    """

    p: Tensor

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise TuneError(f"a dropout probability lies in [0, 1], got {p!r}; 0 turns it off")
        self.register_buffer("p", torch.tensor(p, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Zero elements at random and scale the rest by 1 / (1 - p); in evaluation mode return `x` itself."""
        if not self.training:
            return x
        kept = torch.rand_like(x, dtype=torch.float32) >= self.p
        return x * kept / (1.0 - self.p).clamp_min(torch.finfo(torch.float32).tiny)

    def extra_repr(self) -> str:
        """`p=0.1`."""
        return f"p={self.p.item():g}"  # sync: only when printed

    def _apply(self, fn: Any, recurse: bool = True) -> TunableDropout:
        p = self.p
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own has no annotations
        if not p.is_meta:
            self.p = p.to(self.p.device)
        return self


def frozen_layers(
    groups: nn.Module | Sequence[nn.Module | Iterable[nn.Parameter]],
    optimizer: Optimizer,
    *,
    low: int = 0,
    high: int | None = None,
    name: str = "frozen_layers",
) -> IntHyperparameter:
    """How many of the ordered groups are frozen: 0 trains all, 2 freezes the first two.

    A frozen parameter has `requires_grad` off and no gradient, so neither momentum nor weight decay moves it;
    it takes its optimizer state up again when it is unfrozen. Buffers, such as a BatchNorm's running mean,
    are not frozen. A compiled model is compiled again at each change.

    Parameters that the optimizer does not hold are added to it here, in one param group for each group, with
    the optimizer's defaults. Unfreezing then adds nothing. Make this before schedulers, and before other
    hyperparameters of the optimizer, whose groups they are meant to include.

    Args:
        groups: a model: its `layers_of` but the last, the head, which is never frozen; what is frozen now in
            a layer that is otherwise trainable stays so. Or modules or collections of parameters (a
            `ModuleList` is such a list), the one to freeze first in front; each is wholly frozen or wholly
            trainable now, the frozen ones first.
        optimizer: trains the parameters.
        low: smallest number of frozen groups.
        high: largest; all of them, or one less where nothing else would be left to train.
        name: unique within a run.

    Raises:
        TuneError: for a group without parameters, a parameter in two groups, a group that is partly frozen or
            frozen after a trainable one, parameters to add while a scheduler exists, or nothing to freeze.
    """
    optimizer = unwrap(optimizer)
    named = named_layers(groups)
    if isinstance(groups, nn.Module) and not isinstance(groups, nn.ModuleList):
        *below, head = named
        if not below:
            raise TuneError(
                f"a model keeps its last layer trainable, and {type(groups).__name__} has only {head!r}; "
                "give groups instead"
            )
        named = {name: _at_issue(named[name]) for name in below}
    _check_layers(named)
    layers = list(named.values())
    held = {p for g in optimizer.param_groups for p in g["params"]}
    trains_more = not held <= {p for layer in layers for p in layer}
    most = len(layers) if trains_more else len(layers) - 1
    if most < 1:
        raise TuneError(
            "something must stay trainable, but the optimizer holds nothing outside the one group given; "
            "give more groups, in the order in which they are to be frozen"
        )
    _add_missing(layers, held, optimizer)
    return IntHyperparameter(
        name, low=low, high=most if high is None else high, unit="groups", actuator=FrozenLayers(layers)
    )


class FrozenLayers(Actuator[int]):
    """Holds the number of leading groups of parameters whose `requires_grad` is off."""

    def __init__(self, layers: Sequence[Sequence[nn.Parameter]]) -> None:
        self.layers = layers

    @property
    def targets(self) -> frozenset[Hashable]:
        """One for each parameter."""
        return frozenset(("requires_grad", id(p)) for layer in self.layers for p in layer)

    def read(self) -> int:
        """How many are frozen."""
        return sum(1 for _ in itertools.takewhile(_is_frozen, self.layers))

    def write(self, value: int) -> int:
        """Freeze the first `value` groups and unfreeze the others."""
        for i, layer in enumerate(self.layers):
            for p in layer:
                p.requires_grad_(i >= value)
                if i < value:
                    p.grad = None
        return self.read()


def _dropout_attribute(module: nn.Module) -> str | None:
    if isinstance(module, _DropoutNd | TunableDropout):
        return "p"
    if isinstance(module, nn.MultiheadAttention) or (
        isinstance(module, nn.RNNBase) and module.num_layers > 1
    ):
        return "dropout"
    return None


def _is_frozen(layer: Sequence[nn.Parameter]) -> bool:
    return not any(p.requires_grad for p in layer)


def _at_issue(layer: list[nn.Parameter]) -> list[nn.Parameter]:
    """All of a layer that is wholly frozen or trainable, else what of it is trainable."""
    return layer if _is_frozen(layer) else [p for p in layer if p.requires_grad]


def _check_layers(layers: Mapping[str, Sequence[nn.Parameter]]) -> None:
    for name, layer in layers.items():
        if not _is_frozen(layer) and not all(p.requires_grad for p in layer):
            raise TuneError(
                f"a group is wholly frozen or wholly trainable, but {name} is partly frozen; "
                "leave out the parameters that are to stay as they are"
            )
    for (before, upper), (name, layer) in itertools.pairwise(layers.items()):
        if _is_frozen(layer) and not _is_frozen(upper):
            raise TuneError(
                f"frozen groups come first, but {name} is frozen and {before} is not; reorder them"
            )


def _add_missing(
    layers: Sequence[Sequence[nn.Parameter]], held: set[nn.Parameter], optimizer: Optimizer
) -> None:
    missing = [[p for p in layer if p not in held] for layer in layers]
    scheduler = driven_by(optimizer, "lr") if any(missing) else None
    if scheduler is not None:
        raise TuneError(
            f"{sum(map(len, missing))} parameters of the groups are not in the optimizer, and "
            f"{scheduler} was made for the param groups that it has; give all parameters to the optimizer, "
            "or make the scheduler after frozen_layers"
        )
    for parameters in missing:
        if parameters:
            optimizer.add_param_group({"params": parameters})
