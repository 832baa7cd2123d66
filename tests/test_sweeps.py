import numpy as np
import pytest
import torch
from loops import Loop, Scripted
from recorded import Recorder

from autotune.actuators import learning_rate
from autotune.journal import Journal
from autotune.records import Ramp, Release, Rewind, Set
from autotune.sweeps import sweeps


def found(folder, name="lr"):
    journal = Journal.open(folder)
    try:
        return sweeps(name, journal.metrics("loss"), journal.decisions())
    finally:
        journal.close()


def ramp(value, steps, shape="exponential"):
    return Ramp("lr", value, steps, shape, reason="")


def run(folder, script, steps, person=None):
    """A real run that reports `spent` as its loss; the rate that each step was really taken with."""
    loop = Loop("sgd")
    policy = Scripted({spent: [action] for spent, action in script.items()}, name="tester")
    rates = {}
    lr = learning_rate(loop.optimizer, high=100.0)
    with loop.tuner(folder, policies=[policy], hyperparameters=[lr], total_steps=steps) as tuner:
        for batch in tuner.batches(loop.loader):
            rates[tuner.spent + 1] = loop.optimizer.param_groups[0]["lr"]
            loop.step(batch)
            tuner.report(loss=torch.tensor(float(tuner.spent)))
            if person:
                person(tuner)
    assert all(d.applied for d in tuner.decisions), [d for d in tuner.decisions if not d.applied]
    return rates


def spent(sweep):
    return sweep.loss.astype(int).tolist()


def test_a_range_test_that_is_taken_back(tmp_path):
    rates = run(
        tmp_path / "run",
        {40: ramp(10.0, 30), 70: Rewind(40, then=(Set("lr", 0.5, reason=""),), reason="")},
        120,
    )
    [test] = found(tmp_path / "run")
    assert (test.source, test.step, test.set_to, test.taken_back) == ("tester", 40, 0.5, True)
    assert spent(test) == list(range(41, 71))
    assert test.value.tolist() == [rates[s] for s in spent(test)]
    assert set(test.branch) == {0}


def test_every_step_that_a_ramp_took_is_found_whatever_else_happened(tmp_path):
    def person(tuner):
        if tuner.spent == 145:
            tuner.ramp("lr", 0.3, 60, "linear", by="ada")
        if tuner.spent == 220:
            tuner.release("lr", by="ada")

    script = {
        20: ramp(1e-3, 50, "cosine"),
        50: Rewind(40, "skip", reason=""),  # into the middle of the ramp, which goes on from there
        100: ramp(0.05, 20, "linear"),
        110: Set("lr", 0.01, reason=""),  # and ends here
        180: Rewind(130, "skip", reason=""),  # a person's ramp goes on from where it is
        230: ramp(0.2, 40),
        250: ramp(0.001, 500),  # takes over, and the budget ends it
    }
    rates = run(tmp_path / "run", script, 300, person)
    curves = found(tmp_path / "run")
    assert [(c.source, c.set_to, c.taken_back) for c in curves] == [
        ("tester", None, False), ("tester", 0.01, False), ("human:ada", None, False),
        ("tester", None, False), ("tester", None, False),
    ]  # fmt: skip
    for curve in curves:
        assert curve.value.tolist() == [rates[s] for s in spent(curve)]
    assert len(set(curves[0].branch)) == 2
    everything = sorted(s for curve in curves for s in spent(curve))
    assert len(everything) == len(set(everything))
    moved = [s for s in rates if s - 1 in rates and rates[s] != rates[s - 1]]
    jumps = {51, 111}  # by the first rewind and the Set
    assert set(moved) - jumps <= set(everything)


def test_only_its_own_source_makes_a_ramp_a_test(tmp_path):
    record = Recorder(tmp_path / "run")
    record.train(50, loss=float)
    record.decide("decay", ramp(0.1, 40), after={"lr": 1.0})
    record.train(20, loss=float)
    record.rewind("guard", 40)
    record.train(20, loss=float)
    record.end()
    [curve] = found(tmp_path / "run")
    assert (curve.taken_back, curve.set_to, len(curve.loss)) == (False, None, 20)


@pytest.mark.parametrize("status", ["refused", "suggested", "failed"])
def test_what_was_not_applied_moved_nothing(tmp_path, status):
    record = Recorder(tmp_path / "run")
    record.decide("tester", ramp(0.1, 40), status=status, after={"lr": 1.0})
    record.decide("tester", Ramp("dropout", 0.1, 40, reason=""), after={"dropout": 0.5})
    record.train(20, loss=float)
    record.end()
    assert found(tmp_path / "run") == []
    assert len(found(tmp_path / "run", "dropout")) == 1


def test_a_ramp_that_follows_a_rewind_starts_from_what_was_restored(tmp_path):
    rates = run(tmp_path / "run", {60: Rewind(30, then=(ramp(0.001, 20),), reason="")}, 90)
    [curve] = found(tmp_path / "run")
    assert curve.step < 60
    assert spent(curve) == list(range(61, 82))  # its last value is held for one step more, then it is over
    assert curve.value.tolist() == [rates[s] for s in spent(curve)]


def test_a_release_ends_it_and_losses_may_be_sparse(tmp_path):
    record = Recorder(tmp_path / "run")
    record.decide("human:ada", ramp(0.1, 40), after={"lr": 1.0})
    record.train(20, every=3, loss=float)
    record.decide("human:ada", Release("lr", reason=""))
    record.train(20, loss=float)
    record.end()
    [curve] = found(tmp_path / "run")
    assert spent(curve) == [3, 6, 9, 12, 15, 18]
    np.testing.assert_allclose(curve.value, 0.1 ** ((curve.loss - 1) / 40))
