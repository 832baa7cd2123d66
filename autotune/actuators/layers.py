"""The layers of a model in order, as far as its module tree tells, and a learning rate for each of them."""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from ..records import TuneError
from ..sensors.groups import distinct, unwrapped

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layers_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The model's parameters by layer, in the order of its module tree, each parameter once.

    That order is the forward one in all but unusual models: embedding or stem in front, the head last. The
    tree is walked down from the model; wrappers round it (one child, no parameters) are looked through.

    - Opened into their children are `nn.Sequential`, `nn.ModuleList` and `nn.ModuleDict` themselves, modules
      in which a single child has parameters, and modules that have blocks somewhere inside. A *block* is a
      module with children of its own whose class stands twice or more in such a list: a transformer layer, a
      residual block. It is one layer, whatever is in it, and so is every other module.
    - What has no matrix of its own (a norm, a scale) joins the layer in front, and so do parameters that sit
      directly on an opened module (a class token, positions). Where there is none, they join the next.
    - Embeddings in a row are one layer.
    - A tied weight belongs to the first layer that holds it.

    Args:
        model: any module; a compiled or distributed one too.

    Returns:
        Parameters by the name that their layer has in the tree below the wrappers.

    Raises:
        TuneError: for a model without parameters.
    """
    root = unwrapped(model)
    parts = list(_parts(root, "", _blocks(root)))
    layers: dict[str, list[nn.Parameter]] = {}
    last: list[nn.Parameter] = []  # of the newest layer; before the first, what is to join it
    after_embedding = False
    for part, (name, parameters) in zip(parts, distinct((p.name, p.parameters) for p in parts), strict=True):
        if not parameters:
            continue
        embedding = isinstance(part.module, nn.Embedding)
        joins = part.direct or all(p.ndim < 2 for p in parameters) or (embedding and after_embedding)
        if joins:
            last += parameters
        else:
            last = layers[name] = [*parameters, *([] if layers else last)]
            after_embedding = embedding
    if not last:
        raise TuneError(f"layers are found by their parameters, but {type(root).__name__} has none")
    return layers or {type(root).__name__: last}


def discriminative_groups(
    groups: nn.Module | Sequence[nn.Module | Iterable[nn.Parameter]],
    lr: float,
    factor: float = 2.6,
    **options: Any,
) -> list[dict[str, Any]]:
    """Param groups for any torch optimizer whose learning rates fall from the head downwards.

    The head gets `lr` and the k-th group below it `lr / factor**k`. It stands first in the list, so that
    `learning_rate(optimizer)` reads and writes its rate and keeps the others' ratios to it.

    Args:
        groups: a model, whose `layers_of` are taken; or modules or collections of parameters, the head last.
        lr: the head's learning rate, above 0.
        factor: from one group to the one below it, at least 1.
        **options: further entries of every group, such as `weight_decay`.

    Raises:
        TuneError: for a rate or factor out of range, an option `params`, a group without parameters, or a
            parameter in two groups.

    Source: Howard & Ruder 2018, "Universal language model fine-tuning", arXiv:1801.06146, section 3.2.
    """
    if not (_is_number(lr) and 0 < lr < math.inf):
        raise TuneError(f"lr is the head's learning rate, a finite number above 0, got {lr!r}")
    if not (_is_number(factor) and 1 <= factor < math.inf):
        raise TuneError(f"factor is a finite number of at least 1, got {factor!r}; 1 gives all one rate")
    if "params" in options:
        raise TuneError(
            "the groups' parameters come from the first argument, got params=... as well; drop it"
        )
    layers = list(named_layers(groups).values())
    return [{"params": layer, "lr": lr / factor**k, **options} for k, layer in enumerate(reversed(layers))]


def named_layers(
    groups: nn.Module | Sequence[nn.Module | Iterable[nn.Parameter]],
) -> dict[str, list[nn.Parameter]]:
    """The parameters of each group by its name: `layers_of` a model, `groups[0]` and so on of a list.

    Raises:
        TuneError: for a group without parameters, or a parameter in two groups.
    """
    if isinstance(groups, nn.ModuleList):
        groups = list(groups)
    if isinstance(groups, nn.Module):
        return layers_of(groups)
    layers = {
        f"groups[{i}]": list(dict.fromkeys(group.parameters() if isinstance(group, nn.Module) else group))
        for i, group in enumerate(groups)
    }
    for name, layer in layers.items():
        if not layer:
            raise TuneError(f"each group has parameters, but {name} has none; leave it out")
    shared = [p for p, count in Counter(p for layer in layers.values() for p in layer).items() if count > 1]
    if shared:
        where = [name for name, layer in layers.items() if any(p is shared[0] for p in layer)]
        raise TuneError(
            f"a parameter belongs to one group, but one of shape {tuple(shared[0].shape)} is in "
            f"{' and '.join(where)} (tied weights?); leave it out of all but one"
        )
    return layers


class _Part(NamedTuple):
    name: str
    module: nn.Module
    direct: bool
    """Only what sits on the module itself, whose children are parts of their own."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.module.parameters(recurse=not self.direct))


def _parts(module: nn.Module, path: str, blocks: frozenset[type]) -> Iterator[_Part]:
    """The modules that are not opened, and those that are without their children, in the tree's order."""
    opened = _is_opened(module, blocks) if path else any(module.children())
    yield _Part(path or type(module).__name__, module, direct=opened)
    if opened:
        for name, child in module.named_children():
            yield from _parts(child, f"{path}.{name}" if path else name, blocks)


def _is_opened(module: nn.Module, blocks: frozenset[type]) -> bool:
    if type(module) in CONTAINERS:
        return True
    if type(module) in blocks:
        return False
    own = any(True for _ in module.parameters(recurse=False))
    wraps = not own and sum(_has_parameters(child) for child in module.children()) == 1
    return wraps or any(type(inner) in blocks for inner in module.modules())


def _blocks(root: nn.Module) -> frozenset[type]:
    """Classes of modules with children that stand twice or more in one of the containers below `root`."""
    found = set()
    for container in root.modules():
        if type(container) in CONTAINERS:
            kinds = Counter(type(c) for c in container.children() if any(c.children()) and _has_parameters(c))
            found |= {kind for kind, count in kinds.items() if count > 1 and kind not in CONTAINERS}
    return frozenset(found)


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
