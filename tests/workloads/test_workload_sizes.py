"""Every workload of the GPU suite, tiny and on CPU: in bfloat16 and compiled, as there."""

import math

import pytest
import torch
from torch._dynamo.utils import counters

from autotune.benchmarks.suites.arms import Static, Tuned
from autotune.benchmarks.suites.results import Config
from autotune.benchmarks.suites.run import execute
from autotune.benchmarks.workloads.sizes import GPU, tiny
from autotune.policies import DivergenceGuard

CPU = torch.device("cpu")


@pytest.mark.parametrize("workload", [tiny(workload) for workload in GPU], ids=lambda workload: workload.name)
def test_each_runs_under_a_schedule_and_with_a_policy(workload):
    assert workload.fast
    static = execute(workload, Static("cosine"), Config(workload.rate), 0, 1.0, CPU)
    assert static.steps == workload.steps
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    guarded = Tuned("guard", lambda: [DivergenceGuard()])
    outcome = execute(workload, guarded, Config(workload.rate), 0, 1.0, CPU)
    assert counters["stats"]["unique_graphs"] == graphs  # a second run compiles nothing
    for loss in (static.initial, static.final, outcome.final):
        assert 0 < loss < math.inf


@pytest.mark.parametrize("workload", [tiny(workload) for workload in GPU], ids=lambda workload: workload.name)
def test_they_compute_in_bfloat16_and_keep_float32_weights(workload):
    training = workload.begin(0, CPU)
    heads = [m for m in training.model.modules() if isinstance(m, torch.nn.Linear)]
    seen = []
    heads[-1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    training.evaluate("probe")
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}
