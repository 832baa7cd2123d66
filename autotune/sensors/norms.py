"""Euclidean norms of many tensors at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def norms(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """The Euclidean norm of each tensor, accumulated in float32 or wider: float32, (len(tensors),)."""
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        kinds.setdefault((tensor.device, tensor.dtype), []).append(i)
    parts, order = [], []
    for (_, dtype), members in kinds.items():
        wide = torch.promote_types(dtype, torch.float32)
        result = torch._foreach_norm([tensors[i] for i in members], 2, dtype=wide)
        parts.append(torch.stack(result).to(device, torch.float32, non_blocking=True))
        order += members
    if len(parts) == 1:
        return parts[0]
    mixed: list[Tensor] = list(torch.cat(parts).unbind())
    return torch.stack(
        [value for _, value in sorted(zip(order, mixed, strict=True), key=lambda pair: pair[0])]
    )
