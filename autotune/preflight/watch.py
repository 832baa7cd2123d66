"""Looks on while the loss is computed: terms of the loss, activations, what the first layer sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .terms import TERMS, Term

SAMPLE = 2000
"""Values of a layer that are kept for its histogram."""
ENDS = 0.01
"""An activation whose slope is below this part of the steepest one is at its end."""
LAST, SECOND = -1, 1
_CUT = {"relu", "relu_", "relu6", "hardswish"}
_ENDED = {"tanh", "tanh_", "sigmoid", "sigmoid_", "softmax"}
_STOPS = {"detach", "detach_"}
_NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"}
_BY_CHANNEL = {"batch_norm", "group_norm", "instance_norm"}
_CONVOLUTIONS = {f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)}
_PRODUCTS = {"linear", "matmul", "__matmul__", "addmm", "bilinear", "lstm", "gru", "rnn_tanh", "rnn_relu"}
_PRODUCTS |= {"multi_head_attention_forward"}
_FIRST = _CONVOLUTIONS | _PRODUCTS | _NORMS | {"embedding", "embedding_bag"}


@dataclass(slots=True)
class Site:
    """One activation function at one place of the model, over all the batches that were watched."""

    zero: Tensor | None = None
    """Of a function that cuts off at 0: which units were 0 on every sample; bool, (units,)."""
    ended: int = 0
    """Of one that saturates: values at its ends."""
    count: int = 0
    """Values, or rows of a softmax."""


@dataclass(slots=True)
class Seen:
    """What was seen, over all the batches that were watched."""

    terms: dict[str, Term] = field(default_factory=dict)
    """Terms of the loss that torch has a function for, by its name and the number of classes."""
    sites: dict[str, Site] = field(default_factory=dict)
    outputs: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """A sample of what each layer puts out, by its name."""
    first: str = ""
    """The first function with weights; empty when none was met."""
    inputs: list[Tensor] = field(default_factory=list)
    """What it was given, one tensor a batch."""
    broken: str = ""
    """The first module with an output that is not finite."""
    stops: dict[str, None] = field(default_factory=dict)
    """Where gradients are stopped: by `detach`, or a module with trained parameters under `no_grad`."""
    failed: str = ""
    """The first function that could not be looked at, and why."""


class Watch(TorchFunctionMode):
    """Within `with`, sees torch's functions and the model's modules at work; changes nothing.

    Args:
        model: whose modules give the places their names.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.seen = Seen()
        self._model = model
        self._path: list[str] = []
        self._axis = LAST
        self._met = False
        self._times: Counter[str] = Counter()
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        self._path, self._axis, self._met = [], LAST, False
        self._times.clear()
        for name, module in self._model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no such hooks
                continue
            own = name or type(module).__name__
            self._hooks += [
                module.register_forward_pre_hook(lambda m, a, own=own: self._path.append(own)),
                module.register_forward_hook(self._left, always_call=True),
            ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        result = func(*args, **kwargs)
        try:
            with torch.no_grad():
                self._look(name, result, args, kwargs)
        except Exception as error:  # whatever forms arguments may have: looking on stops no run
            self.seen.failed = self.seen.failed or f"{name} in {self._where()}: {error!r}"
        return result

    def _look(self, name: str, result: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if name in _FIRST:
            self._enters(name, args)
        elif name in TERMS:
            term = TERMS[name](*args, **kwargs)
            self.seen.terms[term.name] = term.after(self.seen.terms.get(term.name))
        elif name in _CUT or name in _ENDED:
            self._activation(name, result, args, kwargs)
        elif name in _STOPS and isinstance(args[0], Tensor) and args[0].requires_grad:
            self.seen.stops[self._where()] = None

    def _where(self) -> str:
        return self._path[-1] if self._path else "loss"

    def _left(self, module: nn.Module, args: Any, output: Any) -> None:
        name = self._path.pop()
        if not torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters(recurse=False)):
            self.seen.stops[name] = None
        tensor = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.numel():
            return
        if tensor.layout is not torch.strided:
            return
        values = tensor.data  # not detach(), which is watched
        if not self.seen.broken and not values.isfinite().all():  # sync: a preflight may wait
            self.seen.broken = name
        if name not in self.seen.outputs and not any(module.children()):
            self.seen.outputs[name] = sample(values)

    def _enters(self, name: str, args: Sequence[Any]) -> None:
        if name in _CONVOLUTIONS or name in _BY_CHANNEL:
            self._axis = SECOND
        elif name in _PRODUCTS or name in _NORMS:
            self._axis = LAST
        if self._met or not args or not isinstance(args[0], Tensor):
            return
        self._met = True
        self.seen.first = self.seen.first or name
        if args[0].is_floating_point():
            self.seen.inputs.append(args[0].detach().clone())

    def _activation(self, name: str, result: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        name = name.rstrip("_")
        key = f"{self._where()}: {name}"
        self._times[key] += 1
        key += f" ({self._times[key]})" if self._times[key] > 1 else ""
        site = self.seen.sites.setdefault(key, Site())
        if name in _CUT:
            axis = self._axis if result.ndim > 2 else LAST
            zero = (result == 0).movedim(axis, -1).flatten(0, -2).all(0) if result.ndim > 1 else result == 0
            if site.zero is None or site.zero.shape == zero.shape:
                site.zero = zero if site.zero is None else site.zero & zero
                site.count += result.numel()
        elif name == "softmax":
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if dim is None:  # as torch chooses it then
                dim = 0 if result.ndim in (0, 1, 3) else 1
            # A row with one entry that is not 0 has no choice: the first of a causal mask.
            top = result.amax(dim)[(result > 0).sum(dim) > 1]
            site.ended += int((top > 1 - ENDS).sum())  # sync: a preflight may wait
            site.count += top.numel()
        else:
            slope = 1 - result * result if name == "tanh" else 4 * result * (1 - result)
            site.ended += int((slope < ENDS).sum())  # sync: a preflight may wait
            site.count += result.numel()


def sample(values: Tensor) -> NDArray[np.float32]:
    """The values, or `SAMPLE` of them drawn at random, on the host."""
    flat = values.reshape(-1)
    if len(flat) > SAMPLE:
        draws = torch.Generator().manual_seed(0)
        flat = flat[torch.randint(len(flat), (SAMPLE,), generator=draws).to(flat.device)]
    return flat.float().cpu().numpy()  # sync: a preflight may wait
