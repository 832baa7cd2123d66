"""The suites that there are, and how a user's workloads and policies join them."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from autotune.policies import DivergenceGuard, Hypergradient, Plateau, RangeTest, recommended
from autotune.records import Policy, TuneError

from ..workloads import sizes
from ..workloads.digits_mlp import DigitsMLP
from ..workloads.faults import FAULTS
from ..workloads.reinforcement import Breakout, Control
from ..workloads.teacher_student import TeacherStudent
from .arms import Static, Tuned
from .peers import PEERS
from .remedies import Remedy
from .results import Method
from .suite import Suite
from .workload import Workload

PARTS = ("name", "steps", "epoch", "rate", "target", "begin")
"""Of a workload."""
TRIALS = 8
"""That a rate search evaluates, beside what each arm evaluates regularly."""
POLICIES = (
    Tuned("guard", lambda: [DivergenceGuard()]),
    Tuned("plateau", lambda: [Plateau()]),
    Tuned("guard + plateau", lambda: [DivergenceGuard(), Plateau()]),
    Tuned("recommended", recommended, trials=TRIALS),
    Tuned("range test + guard + plateau", lambda: [RangeTest(), DivergenceGuard(), Plateau()]),
    Tuned("hypergradient", lambda: [Hypergradient()]),
)
SCHEDULES = tuple(map(Static, ("constant", "cosine", "wsd")))


def smoke() -> Suite:
    """Under two minutes."""
    return Suite(
        name="smoke",
        about="two small workloads: does it all work?",
        workloads=(DigitsMLP(steps=200), TeacherStudent(steps=200)),
        arms=(Static("constant"), *POLICIES[:3]),
        factors=(1e-2, 1.0, 1e2),
        seeds=2,
        methods=("random",),
        trials=8,
    )


def cpu() -> Suite:
    """An hour and a half on two cores."""
    return Suite(
        name="cpu",
        about="small workloads of many kinds: policies and peers from any rate, against tuned baselines",
        workloads=sizes.CPU,
        arms=(*SCHEDULES, *POLICIES, *PEERS),
    )


def wide() -> Suite:
    """The workloads that `cpu` has no time for."""
    return replace(
        cpu(),
        name="wide",
        about="as cpu, on the rest of the workloads",
        workloads=(*sizes.WIDE, Control("CartPole-v1"), Control("Acrobot-v1")),
    )


def gpu() -> Suite:
    """Real sizes in bfloat16, compiled."""
    return Suite(
        name="gpu",
        about="real sizes on a data-centre GPU: policies and peers against tuned baselines",
        workloads=(*sizes.GPU, Breakout()),
        arms=(Static("constant"), Static("cosine"), *POLICIES, *PEERS),
        factors=(1e-2, 1.0, 1e2),
        budgets=(1.0,),
        seeds=1,
        methods=("random",),
        device="cuda",
    )


def no_harm() -> Suite:
    """Runs that need no help."""
    return Suite(
        name="no-harm",
        about="policies on top of the tuned schedule, at the tuned rate: is a healthy run left alone?",
        workloads=sizes.CPU,
        arms=tuple(replace(arm, on_schedule=True) for arm in POLICIES),
        factors=(1.0,),
        budgets=(1.0,),
    )


def rescue() -> Suite:
    """Runs in which something goes wrong."""
    return Suite(
        name="rescue",
        about="recorded failures of large runs rebuilt small, against the healthy run and what people did",
        workloads=FAULTS,
        arms=(Static("constant"), Remedy(), *POLICIES),
        factors=(1.0,),
        budgets=(1.0,),
    )


SUITES: Mapping[str, Callable[[], Suite]] = {
    "smoke": smoke, "cpu": cpu, "wide": wide, "gpu": gpu, "no-harm": no_harm, "rescue": rescue
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks to be run; plain values, so that every process can make the suite from it.

    Args:
        suite: a key of `SUITES`.
        workloads: import paths of workloads that join, as `package.module:Name`.
        policies: import paths of policies that join, or of functions that return lists of them.
        only: names of workloads; empty: all.
        quick: a tenth of it.
        seeds: how many; None: as many as the suite has.
        methods: of the searches; empty: the suite's.
    """

    suite: str
    workloads: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    quick: bool = False
    seeds: int | None = None
    methods: tuple[Method, ...] = ()

    def make(self) -> Suite:
        """The suite.

        Raises:
            TuneError: for a name that is not there.
        """
        if self.suite not in SUITES:
            raise TuneError(f"a suite is one of {', '.join([*SUITES, 'core'])}, got {self.suite!r}")
        suite = SUITES[self.suite]()
        workloads = (*suite.workloads, *map(users_workload, self.workloads))
        known = [workload.name for workload in workloads]
        if missing := [name for name in self.only if name not in known]:
            raise TuneError(f"{self.suite} has the workloads {', '.join(known)}, got {', '.join(missing)}")
        suite = replace(
            suite,
            workloads=tuple(w for w in workloads if not self.only or w.name in self.only),
            arms=(*suite.arms, *map(policy_arm, self.policies)),
        )
        if unknown := set(self.methods) - set(get_args(Method)):
            raise TuneError(f"a search is one of {', '.join(get_args(Method))}, got {', '.join(unknown)}")
        suite = suite.quick() if self.quick else suite
        seeds = suite.seeds if self.seeds is None else self.seeds
        return replace(suite, seeds=seeds, methods=self.methods or suite.methods)


def users_workload(path: str) -> Workload:
    """The workload that an import path names, or that what is there returns when it is called."""
    found = imported(path)
    made: Workload = called(path, found) if callable(found) else found
    if missing := [name for name in PARTS if not hasattr(made, name)]:
        raise TuneError(f"{path} is a workload, or makes one, got {made!r} without {', '.join(missing)}")
    return made


def policy_arm(path: str) -> Tuned:
    """The arm of a policy that an import path names, or of a list of them that a function there returns."""
    made = imported(path)

    def policies() -> Sequence[Policy]:
        found = called(path, made)
        return found if isinstance(found, list | tuple) else [found]

    first = policies() if callable(made) else ()
    if not first or not all(hasattr(policy, "decide") for policy in first):
        raise TuneError(f"{path} is a policy's class, or a function that returns policies, got {made!r}")
    return Tuned(path.rpartition(":")[2], policies)


def called(path: str, found: Callable[[], Any]) -> Any:
    """What the object that an import path names makes.

    Raises:
        TuneError: when it cannot be called without arguments, or raises.
    """
    try:
        return found()
    except Exception as error:
        raise TuneError(
            f"{path} is called without arguments, got {type(error).__name__}: {error}; name a function that "
            "makes what you want"
        ) from error


def imported(path: str) -> Any:
    """The object that `package.module:Name` names; the current folder is looked into as well.

    Raises:
        TuneError: when there is no such thing.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise TuneError(f"an import path is package.module:Name, got {path!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise TuneError(
            f"{path} is imported as package.module:Name, got {error}; it is looked for in the current folder "
            "and where Python looks, and a module's name goes without .py"
        ) from error
