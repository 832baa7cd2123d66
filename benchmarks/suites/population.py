"""Populations by Ray Tune: members that are behind copy one that leads and try other settings (PBT, PB2)."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotune.records import TuneError

from .baseline import DECADES, DECAYS
from .member import Member
from .results import Config, Method, Trial
from .tried import SEARCH_SEED
from .workload import Workload

SMALLEST, LARGEST = 4, 8
"""Populations."""
GENERATIONS = 10
"""After each but the last, the last quarter of the members copies the first."""
PROCESSES = 2
"""Members that train at the same time, when Ray is started here."""


def search(
    workload: Workload,
    method: Method,
    trials: int,
    device: torch.device,
    known: Sequence[Trial] = (),
    keep: Callable[[Trial], object] = lambda trial: None,
) -> tuple[Trial, ...]:
    """Train a population; each member takes the steps of one whole run.

    A member's configuration is its line of descent: the rates and weight decays under which the steps that
    led to its weights were taken, as `Config.pieces`, which can be replayed from any seed. There are
    `trials` members, but at most 8, so that a population costs at most as much as `trials` whole runs; the
    9 changes of a quarter of 8 bring 18 further settings. The first rates are the middles of equal parts of
    the bracket of the other searches.

    Ray is started here, with two processes, and ended, unless it runs already. Members stay on the node of
    this process, on whose disk they pass on their states.

    Args:
        workload: what is trained.
        method: `pbt` multiplies a copied rate by 0.8 or 1.2 and moves the weight decay to a neighbour, or
            draws anew; `pb2` asks a Gaussian process over the logarithms of both.
        trials: at least 4.
        device: to train on.
        known: what an earlier call kept; what comes after the members is not looked at. Members cannot be
            trained one by one: unless all are there, the population is trained again, and those that `known`
            lacks come from the second one.
        keep: called with each new member, at the end.

    Returns:
        The members, with the curves of their lines of descent.

    Raises:
        TuneError: when there are too few trials, Ray is missing, or a member fails.

    Source: Jaderberg et al. 2017 (pbt), Parker-Holder et al. 2020 (pb2; Ray's weighs the variance where the
    paper has the standard deviation).
    """
    if trials < SMALLEST:
        raise TuneError(f"a population has at least {SMALLEST} members, got {trials} trials")
    members = min(trials, LARGEST)
    if len(known) < members:
        with _aside(), _ray(method), tempfile.TemporaryDirectory() as folder:
            found = _evolve(workload, method, members, device, folder)
        for trial in found[len(known) :]:
            keep(trial)
        return (*known, *found[len(known) :])
    return tuple(known[:members])


@contextlib.contextmanager
def _ray(method: Method) -> Iterator[None]:
    try:
        import ray
        import ray.tune
    except ImportError as error:
        raise TuneError(
            f"the search {method!r} needs Ray Tune, got {error}; pip install 'autotune-torch[ray]'"
        ) from error
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    # Ray reads them when it starts: no callbacks that write logs, paths stay relative to where we are, a GPU
    # is seen by members although none is set aside for each of them, and a population that Ctrl-C cuts off
    # is not taken for a whole one.
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    ray.init(
        "local",
        num_cpus=PROCESSES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """Ray draws from the global generators, and the bandit's Gaussian process warns a lot."""
    before = random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _evolve(
    workload: Workload, method: Method, members: int, device: torch.device, folder: str
) -> list[Trial]:
    import ray
    from ray import tune
    from ray.tune.schedulers import PopulationBasedTraining
    from ray.tune.schedulers.pb2 import PB2

    generations = min(GENERATIONS, workload.steps)

    class Trainable(tune.Trainable):
        """A member, in the hands of Ray; its configuration holds logarithms where PB2 chooses."""

        def setup(self, config: dict[str, Any]) -> None:
            torch.set_num_threads(1)
            self.member = Member(workload, device)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True  # the member that comes next begins, or loads its state

        def step(self) -> dict[str, Any]:
            if self.iteration == 0:
                self.member.begin()  # another one may have been trained in this process before
            until = workload.steps * (self.iteration + 1) // generations
            if method == "pbt":
                self.member.advance(until, self.config["rate"], self.config["weight_decay"])
            else:
                self.member.advance(until, 10 ** self.config["rate"], 10 ** self.config["weight_decay"])
            return {
                "loss": self.member.curve[-1][1],
                "pieces": list(self.member.pieces),
                "curve": list(self.member.curve),
            }

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            self.member.save(Path(checkpoint_dir, "member.pt"))

        def load_checkpoint(self, checkpoint: Any) -> None:
            self.member.load(Path(checkpoint, "member.pt"))

    centre = math.log10(workload.rate)
    exponents = [centre + DECADES * (2 * (i + 0.5) / members - 1) for i in range(members)]
    decays = [decay for decay in DECAYS if decay is not None]
    settings: dict[str, Any] = {
        "time_attr": "training_iteration",
        "perturbation_interval": 1,
        "synch": True,
        "log_config": False,
    }
    if method == "pbt":
        first = [10**exponent for exponent in exponents]
        low, high = workload.rate * 10**-DECADES, workload.rate * 10**DECADES
        space = {"rate": tune.loguniform(low, high), "weight_decay": decays}
        scheduler = PopulationBasedTraining(hyperparam_mutations=space, **settings)
    else:
        first = exponents
        bounds: dict[str, Any] = {"rate": [centre - DECADES, centre + DECADES], "weight_decay": [-5.0, -1.0]}
        scheduler = PB2(hyperparam_bounds=bounds, **settings)
    here = "node:" + str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    random.seed(SEARCH_SEED)
    np.random.seed(SEARCH_SEED)
    results = tune.Tuner(
        tune.with_resources(Trainable, tune.PlacementGroupFactory([{"CPU": 1, here: 0.001}])),
        param_space={"rate": tune.grid_search(first)},
        tune_config=tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=folder,
            verbose=0,
            failure_config=tune.FailureConfig(fail_fast=True),
            stop={"training_iteration": generations},
            checkpoint_config=tune.CheckpointConfig(num_to_keep=3),
        ),
    ).fit()
    if results.errors:
        raise TuneError(f"all members of a population reach its end, got {results.errors[0]}")
    return [_trial(results[i].metrics or {}) for i in range(len(results))]


def _trial(metrics: dict[str, Any]) -> Trial:
    pieces = tuple((float(part), float(rate), float(decay)) for part, rate, decay in metrics["pieces"])
    curve = tuple((float(spent), float(loss)) for spent, loss in metrics["curve"])
    peak = max(rate for _, rate, _ in pieces)
    return Trial(Config(peak, "pieces", None, pieces), curve[-1][1], curve[-1][0], curve=curve)
