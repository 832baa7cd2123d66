"""Which cells a suite has."""

from collections import Counter
from dataclasses import dataclass

import pytest

from autotune.benchmarks.suites.arms import Baseline, Static, Tuned
from autotune.benchmarks.suites.peers import PEERS, Peer
from autotune.benchmarks.suites.suite import FACTORS, Suite
from autotune.benchmarks.workloads.digits_mlp import DigitsMLP
from autotune.policies import Plateau
from autotune.records import TuneError

POLICY = Tuned("plateau", lambda: [Plateau()])
RATE_FREE = next(peer for peer in PEERS if not peer.uses_rate)


def suite(**settings):
    given = {"workloads": (DigitsMLP(),), "arms": (Static(), POLICY, RATE_FREE), "seeds": 3, **settings}
    return Suite("mine", "a suite", **given)


def test_initial_rates_are_seven_over_six_decades():
    assert FACTORS == (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


def test_an_arm_that_ignores_the_rate_is_run_once_and_not_seven_times():
    cells = suite().cells("digits-mlp-adamw")
    times = Counter((cell.arm, cell.budget) for cell in cells if cell.seed == 0)
    assert times == {
        ("tuned baseline", 1.0): 1,
        ("tuned baseline", 1.15): 1,
        ("constant", 1.0): 7,
        ("plateau", 1.0): 7,
        ("plateau", 1.15): 3,
        (RATE_FREE.name, 1.0): 1,
        (RATE_FREE.name, 1.15): 1,
    }
    assert {cell.factor for cell in cells if cell.arm in ("tuned baseline", RATE_FREE.name)} == {None}


def test_every_arm_has_the_same_seeds_and_every_rate_has_them_all():
    cells = suite().cells("digits-mlp-adamw")
    seeds = {}
    for cell in cells:
        seeds.setdefault((cell.arm, cell.factor, cell.budget), []).append(cell.seed)
    assert all(found == [0, 1, 2] for found in seeds.values())
    assert len({cell.key for cell in cells}) == len(cells)


def test_the_tuned_baseline_is_in_every_suite_once_and_comes_first():
    for arms in ((), (Baseline(),), (Static(), Baseline())):
        names = [arm.name for arm in suite(arms=arms).arms]
        assert names[0] == "tuned baseline"
        assert Counter(names)["tuned baseline"] == 1


@dataclass(frozen=True)
class Imposter:
    name: str = "tuned baseline"
    uses_rate: bool = False
    decides: bool = False

    def train(self, run, start):
        raise NotImplementedError


def test_names_are_unique():
    with pytest.raises(TuneError, match="constant"):
        suite(arms=(Static(), Peer("constant", PEERS[0].begin)))
    with pytest.raises(TuneError, match="tuned baseline"):
        suite(arms=(Imposter(),))
    with pytest.raises(TuneError, match="digits-mlp-adamw"):
        suite(workloads=(DigitsMLP(), DigitsMLP(rate=0.1)))
    assert len({peer.name for peer in PEERS}) == len(PEERS)


@pytest.mark.parametrize("setting", ["seeds", "trials"])
def test_at_least_one(setting):
    with pytest.raises(TuneError, match=f"at least 1 of its {setting}, got 0"):
        suite(**{setting: 0})


def test_quick_is_about_a_tenth_and_the_same_runs():
    whole = suite(seeds=5)
    quick = whole.quick()
    cells, some = whole.cells("digits-mlp-adamw"), quick.cells("digits-mlp-adamw")
    assert {cell.factor for cell in some} == {1e-3, 1.0, 1e3, None}
    assert {cell.seed for cell in some} == {0, 1}
    assert {cell.budget for cell in some} == {1.0}
    assert {cell.arm for cell in some} == {cell.arm for cell in cells}
    assert set(some) < set(cells)
    assert len(some) / len(cells) < 0.16
    assert quick.methods == ("random",)
    assert (quick.trials, quick.workloads) == (whole.trials, whole.workloads)


def test_quick_takes_no_rate_that_was_not_asked_for():
    assert suite(factors=(0.1, 10.0)).quick().factors == (0.1, 10.0)


def test_workloads_and_arms_are_found_by_name():
    mine = suite(workloads=(DigitsMLP(), DigitsMLP("sgd", 0.1)))
    assert mine.workload("digits-mlp-sgd").rate == 0.1
    assert mine.arm("plateau") is POLICY
