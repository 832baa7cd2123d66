"""Do gradients agree with centred differences of the loss?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..inplace import copied
from .bench import Bench, late
from .report import Finding

CHECK = "differences"
TENSORS = 12
"""Parameter tensors that are sampled, evenly spaced over the model."""
COORDINATES = 2
"""Of each of them: the one with the largest gradient, and one at random."""
AGREE = 0.01
"""Difference up to which they agree, relative to the largest slope of the tensor."""
STEPS = {torch.float64: (1e-4, 1e-5, 1e-6, 1e-7), torch.float32: (3e-2, 1e-2, 3e-3, 1e-3)}
"""Steps, relative to the root mean square of the tensor. Across a kink (ReLU) a smaller one agrees."""
ROUNDING = 16
"""Rounding error of a loss in units in its last place."""
LARGE = 20_000_000
"""Parameters above which no copy in double precision is made."""
SHOWN = 3

Verdict = Literal["agree", "differ", "unknown"]


def differences(bench: Bench, batch: Any, deadline: float, stops: Sequence[str]) -> Finding:
    """Compare gradients with (f(w + h·e) − f(w − h·e)) / 2h on sampled coordinates.

    In double precision where the loss can be computed so (parameters, buffers and inputs are exchanged for
    copies meanwhile); else in the run's own, along each tensor's gradient, where the signal is the
    strongest. Draws and buffers are put back before each evaluation. A coordinate agrees when one of the
    steps does; it differs when none does though two steps agree with each other; where rounding hides the
    answer it is undecided.

    Args:
        bench: what it changes is put back.
        batch: a handful of samples.
        deadline: `time.perf_counter()` at which to end.
        stops: where gradients are stopped, which makes them differ, mostly on purpose.

    Source: Gill, Murray and Wright, Practical Optimization (1981), section 4.6, for the steps.
    """
    if late(deadline):
        return _undecided("There was no time for it; give more seconds.")
    bench.undo.back()
    size = sum(p.numel() for p in bench.parameters.values())
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in bench.model.modules())
    if size <= LARGE and not scripted:
        with _double(bench.model) as parameters:
            wide = copied(batch, lambda t: t.double() if t.is_floating_point() else t.clone())
            if _computes(bench, wide):
                return _compare(bench, parameters, wide, deadline, stops)
        bench.undo.back()
    named: dict[str, Tensor] = {n: p for n, p in bench.model.named_parameters() if p.requires_grad}
    return _compare(bench, named, batch, deadline, stops)


def _computes(bench: Bench, batch: Any) -> bool:
    """Whether loss and gradient can be had of it."""
    try:
        value = bench.loss(batch)
        if value.requires_grad:
            bench.gradients += 1
            value.backward()
    except Exception:  # the user's code, or a kernel, insists on single precision, in whatever words
        return False
    return True


def _compare(
    bench: Bench, named: dict[str, Tensor], batch: Any, deadline: float, stops: Sequence[str]
) -> Finding:
    buffers = [(b, b.clone()) for b in bench.model.buffers()]

    def value(backward: bool = False) -> Tensor:
        for live, kept in buffers:
            live.copy_(kept)  # what a forward pass moves (running means, power iterations)
        bench.undo.redraw()
        for p in named.values():
            p.grad = None
        loss = bench.loss(batch)
        if backward and loss.requires_grad:
            bench.gradients += 1
            loss.backward()
        return loss.detach()

    def slopes() -> tuple[Tensor, dict[str, Tensor]]:
        with torch.enable_grad():
            loss = value(backward=True)
        found = {n: p.grad.detach() for n, p in named.items() if p.grad is not None}
        return loss, {n: g.to_dense() if g.is_sparse else g.clone() for n, g in found.items()}

    first, gradients = slopes()
    with torch.no_grad():
        if not math.isfinite(first) or not gradients:
            return _undecided("There is no finite loss with a gradient.")
        if value() != first:
            return _undecided(
                "The loss differs between two calls with the same weights and draws: a generator that is "
                "not known draws in it, or an operation is not deterministic."
            )
        counts = {"agree": 0, "differ": 0, "unknown": 0}
        bad: dict[str, tuple[float, float]] = {}
        directions: list[tuple[str, Tensor]] = []
        for name, direction in _directions(gradients, first.dtype):
            if late(deadline):
                break
            verdict, slope, difference = _judge(value, named[name].data, direction, gradients[name], first)
            counts[verdict] += 1
            if verdict == "differ":
                bad.setdefault(name, (slope, difference))
                directions.append((name, direction))
        if bad and stops:
            try:
                with torch.enable_grad(), _Flowing():
                    whole = slopes()[1]
            except Exception:  # what relied on a stop, as a change in place: nothing is known
                whole = {}
            if any(
                name in whole and _judge(value, named[name].data, way, whole[name], first)[0] == "differ"
                for name, way in directions
            ):
                stops = ()
    return _told(counts, bad, first.dtype, stops)


class _Flowing(TorchFunctionMode):
    """Within `with`, detach() and no_grad() stop no gradients."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("detach", "detach_"):
            return args[0]
        if name == "_set_grad_enabled":
            return None
        if name in ("numpy", "__array__"):  # for which a gradient has to be stopped
            args = (args[0].detach(), *args[1:])
        return func(*args, **(kwargs or {}))


def _directions(gradients: dict[str, Tensor], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Directions to look along, by parameter: single coordinates, or in low precision the gradient."""
    names = list(gradients)
    names = [names[i * len(names) // TENSORS] for i in range(TENSORS)] if len(names) > TENSORS else names
    draws = torch.Generator().manual_seed(0)
    for name in names:
        gradient = gradients[name]
        norm = float(gradient.norm())
        if dtype != torch.float64:
            if norm:
                yield name, gradient / norm
            continue
        random = torch.randint(gradient.numel(), (COORDINATES - 1,), generator=draws).tolist()
        for index in dict.fromkeys([int(gradient.abs().argmax()), *random]):
            direction = torch.zeros_like(gradient)
            direction[torch.unravel_index(torch.tensor(index), direction.shape)] = 1
            yield name, direction


def _judge(
    value: Callable[[], Tensor], weights: Tensor, direction: Tensor, gradient: Tensor, first: Tensor
) -> tuple[Verdict, float, float]:
    """Whether the slope is that of the loss; the slope; that of the loss. The weights are put back."""
    kept, slope, largest = weights.clone(), float((gradient * direction).sum()), float(gradient.abs().max())
    scale = float(kept.double().square().mean().sqrt()) or 1.0
    scale /= float(direction.abs().max())
    rounding = ROUNDING * torch.finfo(first.dtype).eps * abs(float(first))
    last = (math.nan, 0.0)
    difference, settled = math.nan, False
    for step in STEPS.get(first.dtype, STEPS[torch.float32]):  # half precision mostly ends undecided
        h = step * scale
        weights.copy_(kept).add_(direction, alpha=h)
        up = float(value())  # sync: a preflight may wait
        weights.copy_(kept).sub_(direction, alpha=h)
        difference, noise = (up - float(value())) / (2 * h), rounding / h
        weights.copy_(kept)
        size = max(abs(slope), abs(difference))
        if noise > 0.1 * size:
            if size <= noise:
                return "agree", slope, difference  # both are 0
            break
        if abs(difference - slope) <= AGREE * max(size, largest) + noise:
            return "agree", slope, difference
        settled |= abs(difference - last[0]) <= 0.5 * AGREE * size + noise + last[1]
        last = (difference, noise)
    return ("differ" if settled else "unknown"), slope, last[0]


@contextmanager
def _double(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The model with parameters and buffers exchanged for copies in double precision; yields the trained."""
    copies: dict[int, nn.Parameter] = {}
    places: list[tuple[nn.Module, str, Any]] = []
    buffers: list[tuple[dict[str, Any], str, Any]] = []
    default = torch.get_default_dtype()
    names = {id(p): name for name, p in model.named_parameters()}
    try:
        for module in model.modules():
            for key, p in list(module._parameters.items()):
                if p is not None and p.is_floating_point():
                    places.append((module, key, p))
                    copies.setdefault(id(p), nn.Parameter(p.detach().double(), p.requires_grad))
                    setattr(module, key, copies[id(p)])  # setattr, because an LSTM keeps a list of them too
            for key, b in list(module._buffers.items()):
                if b is not None and b.is_floating_point():
                    buffers.append((module._buffers, key, b))
                    module._buffers[key] = b.double()
        torch.set_default_dtype(torch.float64)
        yield {names[i]: p for i, p in copies.items() if p.requires_grad}
    finally:
        torch.set_default_dtype(default)
        for module, key, p in places:
            setattr(module, key, p)
        for held, key, b in buffers:
            held[key] = b


def _told(
    counts: dict[str, int], bad: dict[str, tuple[float, float]], dtype: torch.dtype, stops: Sequence[str]
) -> Finding:
    figures: dict[str, float] = {**counts, "bits": torch.finfo(dtype).bits}
    if bad:
        some = list(bad.items())[:SHOWN]
        shown = "; ".join(f"{name}: gradient {g:.3g}, difference {d:.3g}" for name, (g, d) in some)
        found = f"{counts['differ']} of {sum(counts.values())} slopes differ from the loss's own. {shown}."
        if stops:
            where = ", ".join(stops[:SHOWN])
            means = f"Gradients are stopped by detach() or no_grad() in {where}."
            return Finding(CHECK, "note", found, means, "Fine if that is meant.", figures)
        return Finding(
            CHECK,
            "warning",
            found,
            "The backward pass is not that of the loss: an error in an autograd.Function, or an operation in "
            "place. Straight-through estimators differ on purpose.",
            "Compare with torch.autograd.gradcheck, function by function.",
            figures,
        )
    if not counts["agree"]:
        return _undecided("Rounding hides the slopes, or there was no time; give more seconds.", figures)
    unknown = f"; {counts['unknown']} could not be decided" if counts["unknown"] else ""
    found = f"{counts['agree']} slopes agree with the loss's own{unknown} (in {figures['bits']} bits)."
    return Finding(CHECK, "ok", found, figures=figures)


def _undecided(why: str, figures: dict[str, float] | None = None) -> Finding:
    return Finding(CHECK, "note", "Gradients could not be compared.", why, figures=figures or {})
