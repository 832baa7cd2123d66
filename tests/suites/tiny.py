"""Workloads of a user, small enough for tests of what runs them; each is its import path's `tiny:Name`."""

import time
from pathlib import Path

from autotune.benchmarks.suites.catalogue import Request
from autotune.benchmarks.workloads.teacher_student import TeacherStudent


class Tiny(TeacherStudent):
    name = "tiny"

    def __init__(self):
        super().__init__(steps=5)


class Slow(Tiny):
    """Long enough to be killed in."""

    name = "slow"

    def begin(self, seed, device):
        time.sleep(0.1)
        return super().begin(seed, device)


class Broken(Tiny):
    """Every run raises, but those of its healthy twin."""

    name = "broken"
    healthy = Tiny()

    def begin(self, seed, device):
        if Path("repaired").exists():
            return super().begin(seed, device)
        raise ArithmeticError("the data are broken")


class Unsearchable(Broken):
    """Not even its baseline can be run."""

    name = "unsearchable"
    healthy = property(lambda self: self)


class Exits(Tiny):
    """Not an error, by Python's book."""

    name = "exits"

    def begin(self, seed, device):
        raise SystemExit


class Away(Tiny):
    name = "away"
    needs = "no-such-data"


def request(*workloads, **options):
    """The smoke suite's arms on these of this module's workloads."""
    made = [f"tiny:{one.__name__}" for one in workloads]
    defaults = {"only": tuple(one.name for one in workloads), "quick": True, "seeds": 1}
    return Request("smoke", workloads=tuple(made), **{**defaults, **options})
