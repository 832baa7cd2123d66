"""All checks, in their order, on a run that is left as it was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..clock import Clock
from ..plant import Plant
from ..records import TuneError
from ..sensors import Instruments, layer_groups
from .bench import Bench, examples, late
from .data import inputs, labels, leak
from .data import loader as loader_check
from .differences import differences
from .gradients import CHECK, gradients, missing, untrained
from .initial_loss import initial_loss
from .overfitting import handful, overfitting
from .reading import WATCHED, read
from .report import SEVERITIES, Finding, Layer, Report
from .undo import Undo
from .units import units
from .updates import updates
from .watch import Seen, Watch, sample

READING, WATCHING = 0.15, 0.1
"""Parts of the time for each loader, and for watching the forward pass; with gradients that comes thrice."""
DIFFERENCES = 0.4
"""Part of what is then left for centred differences; overfitting has the rest."""


def examine(
    model: nn.Module,
    optimizer: Optimizer,
    plant: Plant,
    clock: Clock,
    instruments: Instruments,
    loader: Iterable[Any],
    loss: Callable[[Any], Tensor],
    *,
    validation: Iterable[Any] | None = None,
    chance: float | None = None,
    seconds: float = 5.0,
) -> Report:
    """Run every check and put everything back; see `AutoTuner.preflight` for the arguments.

    Raises:
        TuneError: for arguments that cannot work. What the user's loss raises goes through.
    """
    if not callable(loss):
        raise TuneError(f"loss is a function of a batch, got {type(loss).__name__}; pass lambda batch: ...")
    if not seconds > 0:
        raise TuneError(f"a preflight takes a positive number of seconds, got {seconds}; 5 is usual")
    if chance is not None and not math.isfinite(chance):
        raise TuneError(f"chance is a finite loss, got {chance}; leave it out where it is not known")
    start = time.perf_counter()
    loaders = [loader] if validation is None else [loader, validation]
    undo = Undo(plant, model, optimizer, clock, instruments, loaders)
    # Compiled code runs eagerly here, since it would hide its layers and compile anew.
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"), undo:
        bench = Bench(model, optimizer, plant, loss, undo)
        first = read(loader, time.perf_counter() + READING * seconds)
        findings = loader_check(first, read(loader, 0.0, most=WATCHED), isinstance(loader, list | tuple))
        if validation is not None:
            held_out = read(validation, time.perf_counter() + READING * seconds)
            findings.append(leak(first, held_out))
        layers: tuple[Layer, ...] = ()
        if first.batches:
            seen, losses, layers = _watched(bench, first.batches, time.perf_counter() + WATCHING * seconds)
            batches = first.batches[: len(losses)]
            findings += initial_loss(losses, seen, batches, chance, clock.step)
            findings += labels(first, seen, batches[-1]) + inputs(seen)
            findings += units(seen, sum(map(examples, batches)))
            findings += _gradients(bench, batches, losses)
            if all(map(math.isfinite, losses)) and bench.gradients:
                left = start + seconds - time.perf_counter()
                few = handful(bench, batches[0])
                until = time.perf_counter() + DIFFERENCES * left
                findings.append(differences(bench, few, until, list(seen.stops)))
                findings.append(overfitting(bench, few, start + seconds, clock.step))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(
        findings=tuple(findings),
        step=clock.step,
        batches=first.count,
        losses=bench.losses,
        gradients=bench.gradients,
        seconds=time.perf_counter() - start,
        layers=layers,
    )


def _watched(
    bench: Bench, batches: list[Any], deadline: float
) -> tuple[Seen, list[float], tuple[Layer, ...]]:
    """The losses of the batches (at least of one), what was seen meanwhile, and the layers of the first."""
    bench.undo.back()
    watch = Watch(bench.model)
    losses = []
    for batch in batches:
        with watch:
            value = bench.loss(batch)
        losses.append(float(value.detach()))  # sync: a preflight may wait
        if late(deadline):
            break
    bench.undo.back()
    bench.gradient(batches[0])
    layers = []
    modules = {name or type(module).__name__: module for name, module in bench.model.named_modules()}
    for name, activations in watch.seen.outputs.items():
        found = [p.grad for p in modules[name].parameters() if p.grad is not None]
        dense = [gradient.flatten() for gradient in found if not gradient.is_sparse]
        flat = sample(torch.cat(dense)) if dense else np.zeros(0, np.float32)
        kind = type(modules[name]).__name__
        layers.append(Layer(name if name == kind else f"{name} {kind}", activations, flat))
    return watch.seen, losses, tuple(layers)


def _gradients(bench: Bench, batches: list[Any], losses: list[float]) -> list[Finding]:
    """What has a gradient, and how far one step of the run's own optimizer goes with it."""
    bench.undo.back()
    none, zero = missing(bench, batches)
    findings = gradients(bench, losses)
    findings += untrained(bench, none, zero, batches)
    if not findings:
        wanted = sum(p.requires_grad for p in bench.parameters.values())
        found = f"All {wanted} trained parameters have a finite gradient and are in an optimizer."
        findings.append(Finding(CHECK, "ok", found))
    bench.undo.back()
    if bench.gradients and all(map(math.isfinite, losses)):
        findings += updates(bench, batches[0], layer_groups(bench.model))
        bench.undo.back()
    return findings
