"""The static baseline, properly tuned: rate × schedule × weight decay, by several ways of searching."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast, get_args

import torch

from autotune.records import TuneError

from .arms import SCHEDULES
from .results import Config, Method, Trial
from .run import LOOKS
from .tried import SEARCH_SEED, Tried
from .workload import Workload

if TYPE_CHECKING:
    import optuna

DECADES = 2.0
"""The bracket: how far, to each side of the workload's rate, is searched."""
DECAYS = (None, 0.0, 1e-4, 1e-3, 1e-2, 1e-1)
"""None: the workload's usual one."""
GRID = ("linear", "cosine", "wsd")
"""The schedules of the factorial: those that end at nothing, by different ways; the others see them all."""
FIRST_RUNG, REDUCTION = 2, 3
"""Trials are compared at looks 2, 6 and 18 of 25; about a third of them goes on."""
FINER = 10**0.25
STRIDE, STRIDES = math.sqrt(10), 4
"""A winner at an edge is followed outwards, by so many strides at most."""
FINALISTS, REPEATS = 3, 2
"""The best of a search are run again so often, each time with another seed: the least of many losses with one
seed is mostly luck."""


def search(
    workload: Workload,
    method: Method,
    trials: int,
    device: torch.device,
    known: Sequence[Trial] = (),
    keep: Callable[[Trial], object] = lambda trial: None,
) -> tuple[Trial, ...]:
    """Look for the workload's best static configuration; the selection loss decides.

    - `grid`: a factorial of rates and the schedules `GRID`, with the usual weight decay; then a finer one
      about its winner, the rates next to it by a quarter of a decade: 6 trials on top.
    - `random`, `tpe`: over rate, all schedules and `DECAYS`; so are all others.
    - `asha`, `hyperband`: random, and trials that are behind are stopped early.
    - `top_of_k`: random; each trial is the first epoch of the whole run, at most a tenth of it, under the
      part of the schedule that falls into it; the best one is then run whole.
    - `pbt`, `pb2`: see `population.search`.

    A winner at an edge (its rate is the highest or lowest that was tried, or within a stride of the bracket's
    end) is run with rates further out, by factors of √10, until they are no better: up to 4 trials on top.
    At last the 3 best are run again with two further seeds, and `winner` goes by the mean: 6 on top.

    Args:
        workload: what is trained.
        method: how.
        trials: configurations, at least 1; 20 or more make a baseline that may be compared with. The grid
            has the next multiple of its schedules.
        device: to train on.
        known: what an earlier, interrupted call of the same search kept; it is replayed and not run again.
        keep: called with each new trial, to store it.

    Returns:
        All trials, in order, the pruned ones too.

    Raises:
        TuneError: when Optuna is missing; when `known` comes from another search.

    Source: Bergstra & Bengio 2012 (random), Bergstra et al. 2011 (tpe), Li et al. 2020 (asha), Li et al.
    2018 (hyperband), as in Optuna.
    """
    if method not in get_args(Method):
        raise TuneError(f"a search is one of {', '.join(get_args(Method))}, got {method!r}")
    if trials < 1:
        raise TuneError(f"a search has at least 1 trial, got {trials}")
    if method in ("pbt", "pb2"):
        from . import population

        members = population.search(workload, method, trials, device, known, keep)
        tried = Tried(workload, device, known[len(members) :], keep, members)
        _again(tried)
        return tried.finished()
    tried = Tried(workload, device, known, keep)
    _propose(tried, method, trials)
    if method == "top_of_k":
        tried.run(best(tried.done).config)
    _outwards(tried)
    if method == "grid":
        _finer(tried)
    _again(tried)
    return tried.finished()


def best(trials: Iterable[Trial]) -> Trial:
    """The least loss; on a tie the one that was low first, then the lower rate."""
    return min(trials, key=_rank)


def winner(trials: Iterable[Trial]) -> Config:
    """The configuration of the least mean loss among those that were run whole, and again if any was.

    On a tie the one that was low first, then the lower rate: where a loss has a least value that many reach,
    the lowest rate is the one that only just did.

    Raises:
        TuneError: when no trial was run whole.
    """
    runs: dict[Config, list[Trial]] = {}
    for trial in trials:
        if not trial.pruned:
            runs.setdefault(trial.config, []).append(trial)
    if not runs:
        raise TuneError("a search has a trial that was run whole, got none; finish it first")
    found = [each for each in runs.values() if len(each) > 1] or [*runs.values()]
    ranks = [tuple(map(statistics.fmean, zip(*map(_rank, each), strict=True))) for each in found]
    return found[ranks.index(min(ranks))][0].config


def _rank(trial: Trial) -> tuple[float, float, float]:
    """The loss, the mean over the run, the rate: the less the better, in this order."""
    losses = [loss for _, loss in trial.curve] or [trial.loss]
    return trial.loss, statistics.fmean(losses), trial.config.rate


def _propose(tried: Tried, method: Method, trials: int) -> None:
    """Let Optuna ask for configurations, and tell it what came of them."""
    try:
        from optuna.trial import Trial as Asked
        from optuna.trial import TrialState
    except ImportError as error:
        raise TuneError(
            f"the search {method!r} needs Optuna, got {error}; pip install 'autotune-torch[bench]'"
        ) from error
    workload, study = tried.workload, _study(method)
    low, high = workload.rate * 10**-DECADES, workload.rate * 10**DECADES
    first = max(1, min(workload.epoch, workload.steps // 10)) if method == "top_of_k" else None
    if method == "grid":
        rates = math.ceil(trials / len(GRID))
        trials = rates * len(GRID)
        for number, name in itertools.product(range(rates), GRID):
            rate = low * (high / low) ** ((number + 0.5) / rates)  # the middles of equal parts
            study.enqueue_trial({"rate": rate, "schedule": name, "weight_decay": None})
    for _ in range(trials):
        asked = study.ask()
        config = Config(
            asked.suggest_float("rate", low, high, log=True),
            asked.suggest_categorical("schedule", tuple(SCHEDULES)),
            cast("float | None", asked.suggest_categorical("weight_decay", DECAYS)),
        )

        def behind(look: int, loss: float, asked: Asked = asked) -> bool:
            asked.report(loss, look)
            return bool(asked.should_prune())

        trial = tried.run(config, first, behind)
        if trial.pruned:
            study.tell(asked, state=TrialState.PRUNED)
        else:
            study.tell(asked, trial.loss)


def _study(method: Method) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = get_args(Method).index(method)  # each its own: together they see more of the space
    tpe, random = optuna.samplers.TPESampler(seed=seed), optuna.samplers.RandomSampler(seed)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if method == "asha":
        pruner = optuna.pruners.SuccessiveHalvingPruner(FIRST_RUNG, REDUCTION)
    elif method == "hyperband":
        pruner = optuna.pruners.HyperbandPruner(FIRST_RUNG, LOOKS, REDUCTION)
    # Hyperband puts a trial into a bracket by a hash of the study's name.
    return optuna.create_study(
        sampler=tpe if method == "tpe" else random, pruner=pruner, study_name="baseline"
    )


def _finer(tried: Tried) -> None:
    """The schedules of the factorial at the rates next to the winner's."""
    config = winner(tried.done)
    for step, name in itertools.product((1 / FINER, FINER), GRID):
        tried.run(dataclasses.replace(config, rate=config.rate * step, schedule=name))


def _again(tried: Tried) -> None:
    """Run the best ones with further seeds."""
    whole = sorted((trial for trial in tried.done if not trial.pruned), key=_rank)
    for trial, i in itertools.product(whole[:FINALISTS], range(REPEATS)):
        tried.run(trial.config, seed=SEARCH_SEED + 1 + i)


def _outwards(tried: Tried) -> None:
    """Follow a winner at an edge to rates beyond, until they are no better."""
    low, high = tried.workload.rate * 10**-DECADES, tried.workload.rate * 10**DECADES
    for _ in range(STRIDES):
        config, rates = winner(tried.done), [trial.config.rate for trial in tried.done]
        if config.rate * STRIDE > high or config.rate == max(rates):
            rate = config.rate * STRIDE
        elif config.rate / STRIDE < low or config.rate == min(rates):
            rate = config.rate / STRIDE
        else:
            return
        further = tried.run(dataclasses.replace(config, rate=rate))
        if winner(tried.done) != further.config:
            return
