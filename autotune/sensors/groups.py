"""Layer groups: the parts of a model that are measured one by one."""

from __future__ import annotations

from torch import Tensor, nn

LIMIT = 32
REST = "rest"


def layer_groups(model: nn.Module) -> dict[str, list[Tensor]]:
    """The model's parameters by top-level child, each tensor once, in the model's own order.

    A module that is nothing but a wrapper (one child, no parameters of its own) is looked through.
    Parameters that sit directly on the root form a group with the name of the root's class. Beyond 32
    groups, the last ones are merged into `rest`.
    """
    root = model
    while not any(True for _ in root.parameters(recurse=False)) and len(list(root.children())) == 1:
        root = next(root.children())
    candidates = [(type(root).__name__, list(root.parameters(recurse=False)))]
    candidates += [(name, list(child.parameters())) for name, child in root.named_children()]
    groups: dict[str, list[Tensor]] = {}
    seen: set[int] = set()
    filled = [(name, tensors) for name, tensors in candidates if tensors]
    for position, (name, tensors) in enumerate(filled):
        merged = len(filled) > LIMIT and position >= LIMIT - 1
        own = groups.setdefault(REST if merged else name, [])
        for tensor in tensors:
            if id(tensor) not in seen:  # a tied weight belongs to the first group that holds it
                seen.add(id(tensor))
                own.append(tensor)
    return {name: tensors for name, tensors in groups.items() if tensors}
