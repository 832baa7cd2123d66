"""How a suite is asked for, and how what a user brings joins it."""

import textwrap

import pytest

from autotune.benchmarks.suites.catalogue import SUITES, Request, imported
from autotune.benchmarks.suites.plan import present
from autotune.benchmarks.suites.workload import healthy
from autotune.records import TuneError


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of a user's in the current folder."""
    (tmp_path / "mine_in_catalogue.py").write_text(
        textwrap.dedent("""
        from dataclasses import dataclass
        from autotune.benchmarks.workloads.digits_mlp import DigitsMLP
        from autotune.policies import DivergenceGuard, Plateau

        @dataclass(frozen=True)
        class Task:
            name: str = "task"
            steps: int = 10
            epoch: int = 5
            rate: float = 0.1
            target: float = 1.0

            def begin(self, seed, device):
                return DigitsMLP().begin(seed, device)

        READY = Task("ready")

        def both():
            return [DivergenceGuard(), Plateau()]

        def nothing():
            return []

        NUMBER = 3
        """)
    )
    monkeypatch.chdir(tmp_path)
    return "mine_in_catalogue:{}".format


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_can_be_made_and_is_called_by_its_name(name):
    suite = Request(name).make()
    assert suite.name == name
    assert suite.about
    for workload in present(suite).workloads:
        assert workload.steps >= 10
        assert workload.epoch >= 1
        assert workload.rate > 0
        assert workload.target > 0


def test_there_are_eight_kinds_on_a_core_and_claims_rest_on_enough():
    cpu = Request("cpu").make()
    assert len(cpu.workloads) >= 8
    assert cpu.seeds >= 5
    assert cpu.trials >= 20
    assert len(cpu.factors) == 7
    assert cpu.budgets == (1.0, 1.15)
    assert not {w.name for w in Request("wide").make().workloads} & {w.name for w in cpu.workloads}


def test_what_goes_wrong_has_a_healthy_twin():
    for workload in Request("rescue").make().workloads:
        assert healthy(workload).name != workload.name
        assert healthy(workload).steps == workload.steps
    for workload in Request("cpu").make().workloads:
        assert healthy(workload) is workload


def test_a_users_workloads_and_policies_join(mine):
    request = Request(
        "smoke",
        workloads=(mine("Task"), mine("READY")),
        policies=("autotune.policies:Plateau", mine("both")),
    )
    suite = request.make()
    assert [workload.name for workload in suite.workloads[-2:]] == ["task", "ready"]
    assert [arm.name for arm in suite.arms[-2:]] == ["Plateau", "both"]
    assert [policy.name for policy in suite.arms[-1].policies()] == ["divergence_guard", "plateau"]
    assert suite.arms[-1].policies()[0] is not suite.arms[-1].policies()[0], "each run has fresh ones"


def test_fewer_workloads_seeds_and_searches():
    request = Request("smoke", only=("digits-mlp-adamw",), seeds=1, methods=("grid", "tpe"))
    suite = request.make()
    assert [workload.name for workload in suite.workloads] == ["digits-mlp-adamw"]
    assert (suite.seeds, suite.methods) == (1, ("grid", "tpe"))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("cpus"), "a suite is one of smoke, cpu"),
        (Request("smoke", only=("digits",)), "got digits"),
        (Request("smoke", methods=("sweep",)), "got sweep"),
        (Request("smoke", workloads=("nothing_there:Task",)), "No module named 'nothing_there'"),
        (Request("smoke", workloads=("math:pi",)), r"a workload, or makes one, got 3\.14.* without name"),
        (Request("smoke", policies=("autotune.policies:Nothing",)), "Nothing"),
        (Request("smoke", policies=("autotune.policies",)), r"package\.module:Name"),
    ],
)
def test_what_is_not_there_is_said(request_, words):
    with pytest.raises(TuneError, match=words):
        request_.make()


@pytest.mark.parametrize("name", ["nothing", "NUMBER"])
def test_what_is_no_policy_is_said(mine, name):
    with pytest.raises(TuneError, match="a policy's class, or a function that returns policies"):
        Request("smoke", policies=(mine(name),)).make()


def test_an_import_path_names_an_object():
    assert imported("math:pi") == 3.141592653589793
