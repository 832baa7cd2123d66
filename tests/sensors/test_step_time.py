import pytest
import torch
from torch import nn

from autotune.sensors import StepTime


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def run(bench, clock, steps, seconds=0.5, b=None, examples=None, micro_batches=1):
    if b is None:
        model = nn.Linear(2, 2)
        b = bench(model, torch.optim.SGD(model.parameters(), lr=0.0), [StepTime(clock)], every=5)
    for _ in range(steps):
        for _ in range(micro_batches):
            b.next(examples)
        clock.now += seconds
        b._before()
        b._after()
    return b


def test_mean_over_the_steps_since_the_last_sample(bench):
    clock = Clock()
    b = run(bench, clock, 10, seconds=0.5)
    run(bench, clock, 5, seconds=2.0, b=b)
    assert b.values("step_time") == pytest.approx([0.5, 0.5, 2.0])  # the first step warms up
    assert b.values("samples_per_second") == []


def test_throughput_counts_the_examples_of_all_micro_batches(bench):
    b = run(bench, Clock(), 20, seconds=0.5, examples=32, micro_batches=2)
    assert b.values("samples_per_second") == pytest.approx([128] * 4)


def test_excluded_time_and_rewinds_do_not_count(bench):
    clock = Clock()
    b = run(bench, clock, 7)
    clock.now += 60
    b.instruments.exclude(60)
    run(bench, clock, 3, b=b)
    assert b.values("step_time") == pytest.approx([0.5, 0.5])
    state = b.instruments.state_dict()
    run(bench, clock, 4, b=b)
    b.collect()
    b.instruments.load_state_dict(state)
    b.step = 10
    clock.now += 1000
    run(bench, clock, 10, b=b)
    assert b.values("step_time") == pytest.approx([0.5, 0.5, 0.5])
