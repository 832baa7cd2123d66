"""Any policies of the library run together without a fight: nobody undoes, repeats or drowns another's work.

Random lists of two to six policies on random plants, with all that they need. What protects the run comes
first and schedules come last, as the documentation says; in between the order is random.
"""

import itertools
import math
from collections import Counter
from inspect import isclass
from types import SimpleNamespace

import numpy as np
import pytest
from test_library_conformance import LIBRARY, MADE, accumulating

from autotune.policies.wrappers import Wrapper
from autotune.records import Ramp, Release, Rewind, Set
from autotune.supervisor import Limits
from autotune.testing import Simulation, Task, TrainingPlant
from autotune.testing.scenarios import Fitted

STEPS = 600
COOLDOWN = Limits().cooldown
REFUSALS = STEPS // 40  # of one policy in a run; who asks again every 20 steps has twice as many
FIRST = ("DivergenceGuard", "EarlyStopping", "RangeTest")
SEEDS = range(1000, 1040)


MAKERS = {
    name: MADE.get(name, thing)
    for name, thing in LIBRARY.items()
    if not (isclass(thing) and issubclass(thing, Wrapper))  # they go round others
}


def precedence(name):
    return 0 if name in FIRST else 2 if name == "Schedule" or name.islower() else 1


def together(seed):
    """A random list of policies on a random plant, run to its end."""
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.choice(sorted(MAKERS), size=rng.integers(2, 7), replace=False), key=precedence)
    policies = [MAKERS[name]() for name in chosen]
    task = Task.random(
        seed,
        pretrained=0.3 if rng.random() < 0.3 else None,
        long=256 if rng.random() < 0.3 else 0,
    )
    needs = SimpleNamespace(
        requires=list(dict.fromkeys(itertools.chain(*(policy.requires for policy in policies)))),
        controls=list(dict.fromkeys(itertools.chain(*(policy.controls for policy in policies)))),
    )
    plant = Fitted(accumulating(TrainingPlant(task)), needs)
    return Simulation(plant, policies, budget=STEPS).run()


def moves(simulation, name):
    """(spent, source, upwards) of every applied change of a hyperparameter; a rewind's is one change.

    Upwards is meant against where the change before was to end: a ramp back up to where a rescue has left
    the rate undoes nothing, and a rewind to where a decay had not come yet raises nothing either.
    """
    out, left = [], None
    for decision in simulation.decisions:
        action = decision.action
        changes = action.then if isinstance(action, Rewind) else (action,)
        ends = [c.value for c in changes if isinstance(c, Set | Ramp) and c.name == name]
        if decision.applied and ends:
            left = decision.before[name] if left is None else left
            gone_back = isinstance(action, Rewind) and ends[-1] > left
            if not (math.isclose(ends[-1], left) or gone_back):
                out.append((decision.spent, decision.source, ends[-1] > left))
            left = ends[-1]
    return out


def turns(moves):
    """How often the direction changes."""
    return sum(a != b for (_, _, a), (_, _, b) in itertools.pairwise(moves))


@pytest.fixture(scope="module", params=range(4), ids="part {}".format)
def runs(request):
    return {seed: together(seed) for seed in SEEDS[request.param :: 4]}


def test_nobody_breaks_a_rule(runs):
    for seed, run in runs.items():
        assert not run.benched, seed


def test_together_they_turn_no_more_often_than_each_by_itself(runs):
    """One more turn a policy, where it takes over; a release hands over as well."""
    for seed, run in runs.items():
        for name in run.controls:
            made = moves(run, name)
            sources = {source for _, source, _ in made}
            alone = sum(turns([move for move in made if move[1] == source]) for source in sources)
            released = sum(
                d.applied and isinstance(d.action, Release) and d.action.name == name for d in run.decisions
            )
            assert turns(made) <= alone + max(0, len(sources) - 1) + released, (seed, name, made)


def test_nothing_is_decided_twice_for_one_cause(runs):
    """No two policies change one hyperparameter within a cooldown, but after a release or a rewind."""
    for seed, run in runs.items():
        last = {}
        for decision in run.decisions:
            action = decision.action
            if not decision.applied:
                continue
            if isinstance(action, Rewind):
                last.clear()
            elif isinstance(action, Release):
                last.pop(action.name, None)
            elif isinstance(action, Set | Ramp):
                source, spent = last.get(action.name, (decision.source, 0))
                assert source == decision.source or decision.spent - spent >= COOLDOWN, (seed, decision)
                last[action.name] = decision.source, decision.spent


def test_refusals_are_few(runs):
    for seed, run in runs.items():
        refused = Counter(d.source for d in run.decisions if d.status in ("refused", "failed"))
        assert max(refused.values(), default=0) <= REFUSALS, (seed, refused)


def test_something_happened(runs):
    """Else the rest would prove nothing."""
    shared = [
        name
        for run in runs.values()
        for name in run.controls
        if len({source for _, source, _ in moves(run, name)}) > 1
    ]
    assert shared
