"""What a user brings, tried out for some steps before hours are spent on it."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from autotune.records import TuneError

from .arms import Static
from .catalogue import Request, policy_arm, users_workload
from .plan import present
from .results import Config, Outcome
from .run import Arm, execute
from .workload import Training, Workload, healthy

STEPS = 40
"""Of a rehearsal, at most: policies are asked every ten."""


def rehearse(request: Request, device: torch.device) -> None:
    """See that the same seed gives the same training, and that policies are asked and keep to the rules.

    Policies are tried on the user's first workload, or on the suite's.

    Args:
        request: what is to be run.
        device: to train on.

    Raises:
        TuneError: for what would fail, or could not be compared, in each run.
    """
    workloads = [users_workload(path) for path in request.workloads]
    for workload in workloads:
        for one in {healthy(workload).name: healthy(workload), workload.name: workload}.values():
            _tried(one.name, lambda one=one: _workload(one, device))  # type: ignore[misc]
    for path in request.policies:
        arm, there = policy_arm(path), workloads or present(request.make()).workloads
        _tried(arm.name, lambda arm=arm, on=there[0]: _arm(arm, on, device))  # type: ignore[misc]


def brief(error: BaseException) -> str:
    """What an error says, and where it was raised, in a line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    last = traceback.format_exception_only(error)[-1].strip()
    return f"{last} ({Path(place.filename).name}:{place.lineno}, {place.name})"


def _tried(name: str, work: Callable[[], object]) -> None:
    try:
        work()
    except TuneError as error:
        raise TuneError(f"{name} does not run: {error}") from error
    except Exception as error:
        raise TuneError(f"{name} does not run: {brief(error)}") from error


def _workload(workload: Workload, device: torch.device) -> None:
    if not workload.steps >= 1:
        raise TuneError(f"a run has at least 1 step, got steps={workload.steps}")
    training = workload.begin(0, device)
    if not isinstance(training, Training):
        raise TuneError(f"begin returns a Training of benchmarks.suites.workload, got {training!r}")
    cost = getattr(training, "probe_cost", None)
    if not isinstance(cost, int | float) or not cost > 0:
        raise TuneError(
            "probe_cost says what an evaluation of the probe data costs, in optimizer steps: its examples "
            f"over those of a batch, by 3; got {cost!r}"
        )
    first, again = (training.evaluate("selection") for _ in range(2))
    if not isinstance(first, float):
        raise TuneError(f"evaluate returns a float, got {first!r}; call .item()")
    if first != again and not math.isnan(first):
        raise TuneError(
            f"evaluate returns the same for the same weights, got {first} and then {again}; "
            "evaluate in eval mode, on the same data, with generators of its own"
        )
    one = _run(workload, Static(), device)
    torch.rand(1)  # what was drawn before must not matter
    other = _run(workload, Static(), device)
    if (one.initial, one.final) != (other.initial, other.final):
        raise TuneError(
            f"the same seed gives the same training, got test losses {one.initial} → {one.final} and then "
            f"{other.initial} → {other.final}; take weights, order and noise from the seed"
        )


def _arm(arm: Arm, workload: Workload, device: torch.device) -> None:
    outcome = _run(workload, arm, device)
    for event in outcome.events:
        if "is benched" in event.text:
            raise TuneError(f"{arm.name} breaks the rules at step {event.step}: {event.text}")


def _run(workload: Workload, arm: Arm, device: torch.device) -> Outcome:
    start = Config(workload.rate)
    return execute(workload, arm, start, 0, min(1.0, STEPS / workload.steps), device)
