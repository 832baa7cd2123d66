"""The proofs of the policy library, and what its table must not hide."""

import numpy as np
import pytest

from autotune import policies
from autotune.benchmarks.library.pictures import draw
from autotune.benchmarks.library.proof import Plants, Proof, Real, on_healthy, on_plants, on_real, rates
from autotune.benchmarks.library.table import Row, markdown, proofs
from autotune.policies import CapacityAdvisor, Plateau, UpdateRatio
from autotune.testing import Task, TrainingPlant

WRAPPERS = {"Patience", "Cooldown", "WarmUp", "OnlyBetween", "EveryN", "Limit", "IfThere"}


def proof(make=lambda: [Plateau()], real=None):
    plants = Plants(lambda seed: TrainingPlant(Task.random(seed)), budget=200)
    return Proof("some", make, plants, rates, real or Real("nothing", lambda *_: 1.0, [{"lr": 1.0}], seeds=3))


def test_every_policy_has_a_proof():
    given = {"Piece", "Schedule", "schedules", "Replay"}  # do what the user says
    wanted = set(policies.__all__) - WRAPPERS - given - {p.name for p in proofs()}
    policies_proved = {type(policy).__name__ for p in proofs() for policy in p.make()}
    policies_proved |= {
        type(getattr(policy, "policy", None)).__name__ for p in proofs() for policy in p.make()
    }
    missing = {name for name in wanted if not any(name in proved for proved in policies_proved)}
    assert not missing or missing == {"CapacityAdvisor"}  # proved inside one that follows its advice


def test_arms_are_paired_and_the_best_fixed_one_is_at_least_nothing():
    scores = on_plants(proof(make=lambda: [CapacityAdvisor(0.0)]), range(1000, 1004))
    assert scores.policy == scores.nothing
    assert all(f <= n for f, n in zip(scores.fixed, scores.nothing, strict=True))
    assert (on_healthy(proof(make=lambda: [CapacityAdvisor(0.0)]), range(1000, 1002)) == 1).all()


@pytest.mark.parametrize("failure", [np.nan, np.inf])
def test_a_policy_that_destroys_real_runs_is_a_fault(failure):
    def run(seed, policies, settings):
        return failure if policies else 2.0 if settings else 1.0

    destroyed = proof(real=Real("a run", run, [{"lr": 1.0}], seeds=3))
    scores = on_real(destroyed)
    assert scores.policy == [np.inf] * 3
    assert scores.fixed == [1.0] * 3  # doing nothing is a fixed setting, too
    row = Row(destroyed, on_plants(destroyed, [1000]), np.ones(1), scores)
    assert any("a run" in fault for fault in row.faults)
    assert "does not beat doing nothing on a run" in markdown([row])


def test_harm_to_one_healthy_plant_is_a_fault():
    scores = on_plants(proof(), [1000])
    row = Row(proof(), scores, np.array([1.0, 1.02, 0.9]), scores)
    assert "harms 1 of 3 healthy plants" in row.faults


def test_a_picture_is_drawn(tmp_path):
    plants = Plants(lambda seed: TrainingPlant(Task.random(seed, rate=1e4, scale=1.0)), budget=100)
    real = Real("nothing", lambda *_: 1.0, [{}])
    draw(Proof("ratio", lambda: [UpdateRatio()], plants, rates, real), tmp_path / "ratio.png")
    assert (tmp_path / "ratio.png").read_bytes().startswith(b"\x89PNG")
