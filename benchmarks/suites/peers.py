"""Other people's methods, from their own packages and with the settings that these recommend.

Each has the workload's usual weight decay, and its momenta where the method has them. None is tuned to a
workload.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import update_bn

from autotune.records import TuneError

from .arms import loop
from .results import Config
from .run import Run

BATCHES = 20
"""Whose mean is as exact as BatchNorm's usual moving average, (2 - 0.1) / 0.1 batches."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A method of somebody else.

    Args:
        name: of its class or its package.
        begin: starts the optimizer of a run from an initial rate, and returns what is done after each step,
            called with the number of steps taken.
        uses_rate: see `Arm`.
        decides: see `Arm`.
    """

    name: str
    begin: Callable[[Run, float], Callable[[int], object]]
    uses_rate: bool = True
    decides: bool = False

    def train(self, run: Run, start: Config) -> None:
        """See `Arm.train`."""
        loop(run, self.begin(run, start.rate))


def one_cycle(run: Run, rate: float) -> Callable[[int], object]:
    """torch's OneCycleLR up to the cell's rate; momentum is cycled as well where the optimizer has one."""
    optimizer = run.start(rate)
    momentum = "betas" in optimizer.defaults or optimizer.defaults.get("momentum", 0) > 0
    scheduler = OneCycleLR(optimizer, rate, total_steps=run.steps_beside(0), cycle_momentum=momentum)
    return lambda step: scheduler.step()


def plateau(run: Run, rate: float) -> Callable[[int], object]:
    """torch's ReduceLROnPlateau on the probe loss, by default: a tenth after 10 looks without progress."""
    scheduler = ReduceLROnPlateau(run.start(rate))
    return _at_probes(run, scheduler.step)


def greedy(run: Run, rate: float) -> Callable[[int], object]:
    """transformers' GreedyLR on the probe loss, with the settings of its Trainer example.

    These are for 20 evaluations a run: patience 2, factor 0.9, and a `min_lr` of 1e-7 at a rate of 5e-5, so
    a 500th. The default, 1e-3, is above the usual rates of Adam. No `max_lr`: the default of 1 is below some
    rates of SGD. No `eps`: the default stops every change of a rate below 1e-7.

    Source: Subramanian et al., arXiv:2512.14527; transformers' `examples/scheduler/README.md`.
    """
    scheduler = _package("transformers.optimization").GreedyLR(
        run.start(rate), patience=2, factor=0.9, min_lr=rate / 500, max_lr=math.inf, eps=0.0
    )
    return _at_probes(run, scheduler.step)


def schedule_free(run: Run, rate: float) -> Callable[[int], object]:
    """schedulefree's SGD for SGD, and its AdamW for the others: without a first moment it is RMSprop's.

    As its README recommends: a warm-up (of 2 %, as in its AlgoPerf entry), 10 times the classical rate for
    SGD and just that for AdamW, and with BatchNorm the statistics measured again, which costs 20 forward
    passes, once: at the looks from outside they are not the arm's.

    Source: Defazio et al. 2024, arXiv:2405.15682.
    """
    package = _package("schedulefree")
    usual, warmup = run.start(rate), math.ceil(0.02 * run.steps_beside(0))
    groups = _groups(usual)
    if isinstance(usual, SGD):
        momentum = usual.defaults["momentum"] or 0.9  # it has no meaning without
        optimizer = package.SGDScheduleFree(groups, 10 * rate, momentum, warmup_steps=warmup)
    else:
        optimizer = package.AdamWScheduleFree(groups, rate, _betas(usual), warmup_steps=warmup)
    optimizer.train()
    run.use(optimizer, _batchnorm(run))
    return lambda step: None


def prodigy(run: Run, rate: float) -> Callable[[int], object]:
    """prodigyopt's Prodigy with cosine annealing, as its README recommends; no rate.

    Source: Mishchenko & Defazio 2024, arXiv:2306.06101.
    """
    usual = run.start(rate)
    make, decouple = _package("prodigyopt").Prodigy, isinstance(usual, AdamW)
    return _annealed(run, lambda groups: make(groups, betas=_betas(usual), decouple=decouple))


def d_adaptation(run: Run, rate: float) -> Callable[[int], object]:
    """dadaptation's SGD for SGD, and its Adam for the others, with cosine annealing; no rate.

    "The same learning rate scheduler you would normally use", its README says.

    Source: Defazio & Mishchenko 2023, arXiv:2301.07733.
    """
    package, usual = _package("dadaptation"), run.start(rate)
    if isinstance(usual, SGD):
        momentum = usual.defaults["momentum"]
        return _annealed(run, lambda groups: package.DAdaptSGD(groups, momentum=momentum))
    decouple = isinstance(usual, AdamW)
    return _annealed(run, lambda groups: package.DAdaptAdam(groups, betas=_betas(usual), decouple=decouple))


PEERS = (
    Peer("OneCycleLR", one_cycle),
    Peer("ReduceLROnPlateau", plateau, decides=True),
    Peer("GreedyLR", greedy, decides=True),
    Peer("schedule-free", schedule_free),
    Peer("Prodigy", prodigy, uses_rate=False, decides=True),
    Peer("D-Adaptation", d_adaptation, uses_rate=False, decides=True),
)
"""Those of the packages of the extra `bench`, and torch's."""


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TuneError(
            f"a peer comes from {name}, got {error}; pip install 'autotune-torch[bench]'"
        ) from error


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{key: group[key] for key in ("params", "weight_decay")} for group in optimizer.param_groups]


def _betas(optimizer: Optimizer) -> tuple[float, float]:
    found: tuple[float, float] = optimizer.defaults.get("betas", (0.9, 0.999))
    return found


def _annealed(run: Run, make: Callable[[list[dict[str, Any]]], Optimizer]) -> Callable[[int], object]:
    assert run.optimizer is not None
    with contextlib.redirect_stdout(io.StringIO()):  # both packages print that weight decay is decoupled
        optimizer = run.use(make(_groups(run.optimizer)))
    scheduler = CosineAnnealingLR(optimizer, T_max=run.steps_beside(0))
    return lambda step: scheduler.step()


def _at_probes(run: Run, tell: Callable[[float], object]) -> Callable[[int], object]:
    """At most `run.probes` evaluations, evenly; what they leave of their budget goes into steps."""
    every = math.ceil(run.steps_beside(run.probes) / run.probes)
    return lambda step: tell(run.probe()) if step % every == 0 else None


def _batchnorm(run: Run) -> Callable[[], object]:
    """What measures BatchNorm's statistics again, on the inputs of the last steps; it is paid for here."""
    model, inputs = run.model, deque[tuple[Any, ...]](maxlen=BATCHES)
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return lambda: None
    run.pay(BATCHES / 3)

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        if module.training and torch.is_grad_enabled():
            inputs.append(args)

    @torch.no_grad()
    def measure() -> None:
        if inputs:
            with torch.random.fork_rng():  # dropout must not draw from the training's numbers
                update_bn(list(inputs), model)

    model.register_forward_pre_hook(torch.compiler.disable(keep))
    return measure
