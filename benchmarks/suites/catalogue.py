"""The suites that there are, and how a user's workloads and policies join them."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autotune.policies import DivergenceGuard, Hypergradient, Plateau
from autotune.records import Policy, TuneError

from ..workloads.digits_mlp import DigitsMLP
from ..workloads.teacher_student import TeacherStudent
from .arms import Static, Tuned
from .suite import Suite


def smoke() -> Suite:
    """Under two minutes."""
    return Suite(
        name="smoke",
        about="two small workloads: does it all work?",
        workloads=(DigitsMLP(steps=100), TeacherStudent(steps=100)),
        arms=(
            Static("constant"),
            Tuned("plateau", lambda: [Plateau()]),
            Tuned("guard", lambda: [DivergenceGuard()]),
            Tuned("hypergradient", lambda: [Hypergradient()]),
        ),
        factors=(1e-2, 1.0, 1e2),
        seeds=2,
        methods=("random",),
        trials=8,
    )


SUITES: Mapping[str, Callable[[], Suite]] = {"smoke": smoke}


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks to be run; plain values, so that every process can make the suite from it.

    Args:
        suite: a key of `SUITES`.
        workloads: import paths of workloads that join, as `package.module:Name`.
        policies: import paths of policies that join, or of functions that return lists of them.
        only: names of workloads; empty: all.
        quick: a tenth of it.
    """

    suite: str
    workloads: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    quick: bool = False

    def make(self) -> Suite:
        """The suite.

        Raises:
            TuneError: for a name that is not there.
        """
        if self.suite not in SUITES:
            raise TuneError(f"a suite is one of {', '.join(SUITES)}, got {self.suite!r}")
        suite = SUITES[self.suite]()
        workloads = (*suite.workloads, *(_made(imported(path)) for path in self.workloads))
        known = [workload.name for workload in workloads]
        if missing := [name for name in self.only if name not in known]:
            raise TuneError(f"{self.suite} has the workloads {', '.join(known)}, got {', '.join(missing)}")
        suite = replace(
            suite,
            workloads=tuple(w for w in workloads if not self.only or w.name in self.only),
            arms=(*suite.arms, *map(policy_arm, self.policies)),
        )
        return suite.quick() if self.quick else suite


def policy_arm(path: str) -> Tuned:
    """The arm of a policy that an import path names, or of a list of them that a function there returns."""
    made = imported(path)

    def policies() -> Sequence[Policy]:
        found = made()
        return found if isinstance(found, list | tuple) else [found]

    first = policies()
    if not first or not all(hasattr(policy, "decide") for policy in first):
        raise TuneError(f"{path} is a policy's class, or a function that returns policies, got {made!r}")
    return Tuned(path.rpartition(":")[2], policies)


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
        raise TuneError(f"{path} is imported as package.module:Name, got {error}") from error


def _made(found: Any) -> Any:
    return found() if callable(found) else found
