import math
from dataclasses import replace

import numpy as np
import pytest

from autotune.policies.hypergradient import Hypergradient
from autotune.records import Rewind, Set, TuneError
from autotune.testing import Simulation, Task, TrainingPlant


class Aligned(TrainingPlant):
    """Its alignment is what `of` says, at each step."""

    def __init__(self, of):
        super().__init__(Task(rate=0.1))
        self._of, self._at = of, 0

    def step(self, batch):
        self._at += 1
        return {**super().step(batch), "update_alignment": self._of(self._at)}


def run(of, steps=1000, **arguments):
    return Simulation(Aligned(of), [Hypergradient(**arguments)], budget=1000).run(steps)


@pytest.mark.parametrize("cosine", [-0.3, -0.05, 0.3])
def test_the_rate_is_the_exponential_of_the_summed_cosines(cosine):
    simulation = run(lambda step: cosine, gain=0.2)
    ticks = 101  # every tenth step, and the first
    off = math.log(simulation["lr"] / 0.1) + 0.2 * cosine * ticks
    assert abs(off) < math.log(1.1)  # what has not been written yet
    assert all(abs(d.action.evidence["exponent"]) >= math.log(1.1) for d in simulation.decisions)


def test_cosines_that_cancel_move_nothing():
    assert run(lambda step: 0.9 * (-1) ** (step // 10)).decisions == ()


def test_what_is_not_measured_moves_nothing():
    assert run(lambda step: math.nan).decisions == ()


def test_it_helps_from_below():
    gains = []
    for seed in range(2000, 2010):
        task = Task.random(seed, overfit=0.0, poison=0.0)
        task = replace(task, rate=0.01 * task.usual_rate)
        alone, steered = TrainingPlant(task), TrainingPlant(task)
        Simulation(alone, budget=1000).run()
        Simulation(steered, [Hypergradient()], budget=1000).run()
        gains.append(steered.evaluate()["validation/loss"] / alone.evaluate()["validation/loss"])
    assert np.median(gains) < 0.7


def test_the_sum_begins_anew_after_a_rewind_and_nothing_is_done_for_a_person():
    simulation = run(lambda step: -0.1, 80, gain=0.1)  # ten values of 0.01 are a little more than log 1.1
    assert simulation.decisions == ()
    simulation.submit(Rewind(0, reason="a test"), "human:ada")
    simulation.run(80)
    assert [d.source for d in simulation.decisions] == ["human:ada"]
    simulation.run(40)
    assert [d.source for d in simulation.decisions] == ["human:ada", "hypergradient"]
    simulation.submit(Set("lr", 0.3, reason="mine"), "human:ada")
    simulation.run(500)
    assert simulation["lr"] == 0.3


@pytest.mark.parametrize("gain", [0.0, -1.0, math.nan, math.inf])
def test_a_gain_is_a_number_above_0(gain):
    with pytest.raises(TuneError, match="gain is a number above 0"):
        Hypergradient(gain=gain)
