import math
from itertools import pairwise

import pytest

from autotune.hyperparameters import FloatHyperparameter, Held
from autotune.policies.generalization_gap import GeneralizationGap
from autotune.records import HUMAN, Policy, Set, TuneError
from autotune.testing import Simulation, Task, TrainingPlant

RATE, BUDGET = 0.1, 1000
BINDS = 1 / (RATE * BUDGET)


class ThroughMomentum(Held):
    """A decay that goes through a momentum of 0.9."""

    gain = 10.0


class Curves:
    """Losses that are functions of weight decay and dropout alone, and follow at once."""

    signals = ("loss", "validation/loss", "train/loss")
    cost = 0.0

    def __init__(self, validation, train, decay=0.0, dropout=0.0, actuator=Held):
        self.validation, self.train, self.steps = validation, train, 0
        self.hyperparameters = [
            FloatHyperparameter("lr", RATE, low=1e-3, high=10.0, log=True),
            FloatHyperparameter("weight_decay", low=0.0, high=10.0, actuator=actuator(decay)),
            FloatHyperparameter("dropout", dropout, low=0.0, high=0.9),
        ]

    def step(self, batch):
        self.steps += 1
        return {"loss": 1.0}

    def evaluate(self):
        at = [p() for p in self.hyperparameters[1:]]
        return {
            "validation/loss": self.validation(self.steps, *at),
            "train/loss": self.train(self.steps, *at),
        }

    def capture(self):
        return self.steps

    def restore(self, state):
        self.steps = state


def run(validation, train, steps=BUDGET, **start):
    return Simulation(Curves(validation, train, **start), [GeneralizationGap()], budget=BUDGET).run(steps)


def moves(simulation, name):
    return [d.after[name] for d in simulation.decisions if d.applied and d.action.name == name]


def low(*_):
    return 0.1


def test_it_is_a_policy():
    policy = GeneralizationGap("wd", None, name="gap")
    assert isinstance(policy, Policy)
    assert (policy.name, policy.controls) == ("gap", ("wd",))
    with pytest.raises(TuneError, match="got None and None"):
        GeneralizationGap(None, None)


def test_a_high_gap_raises_the_decay_until_it_no_longer_helps():
    simulation = run(lambda _, decay, p: 1 + abs(math.log2(max(decay, BINDS / 2) / (2 * BINDS))) + p, low)
    decays = moves(simulation, "weight_decay")
    assert decays[:2] == pytest.approx([BINDS, 2 * BINDS])  # from none to what binds, then doubled
    assert decays[2:4] == pytest.approx([4 * BINDS, 2 * BINDS])  # harm, taken back
    assert simulation["weight_decay"] == pytest.approx(2 * BINDS)
    assert moves(simulation, "dropout")[:2] == pytest.approx([0.1, 0.0])


def test_what_momentum_adds_to_a_decay_counts():
    loss = {"validation": lambda _, decay, p: 1 + abs(decay - BINDS / 10) / BINDS + p, "train": low}
    simulation = run(**loss, actuator=ThroughMomentum)
    assert moves(simulation, "weight_decay")[0] == pytest.approx(BINDS / 10)


def test_what_did_harm_is_not_tried_again_soon():
    simulation = run(lambda _, decay, p: 1 + decay + p, low)
    assert simulation["weight_decay"] == simulation["dropout"] == 0.0
    raised = [d.spent for d in simulation.decisions if d.action.name == "weight_decay" and d.action.value > 0]
    every = BUDGET // 25
    assert raised
    assert all(b - a >= 10 * every for a, b in pairwise(raised))


def test_great_harm_is_taken_back_at_the_next_evaluation():
    simulation = run(lambda _, decay, p: 1 + 100 * decay + p, low)
    up, back = [d for d in simulation.decisions if d.action.name == "weight_decay"][:2]
    assert back.spent - up.spent == BUDGET // 25
    assert back.after == {"weight_decay": 0.0}


def test_too_much_regularisation_is_taken_away():
    def loss(_, decay, p):
        return 1 + decay / BINDS + p

    simulation = run(loss, loss, decay=32 * BINDS, dropout=0.3)
    decays = moves(simulation, "weight_decay")
    assert decays == sorted(decays, reverse=True)
    assert simulation["weight_decay"] <= 2 * BINDS


def test_a_healthy_run_is_left_alone():
    falling = run(lambda step, *_: math.exp(-step / 300) + 0.5, lambda step, *_: math.exp(-step / 300), 600)
    assert falling.decisions == ()  # a high gap, but the validation falls
    nothing = run(low, low)
    assert nothing.decisions == ()  # no gap, and nothing to take away
    plain = Simulation(TrainingPlant(Task(rate=0.1)), budget=BUDGET).run()
    watched = Simulation(TrainingPlant(Task(rate=0.1)), [GeneralizationGap()], budget=BUDGET).run()
    assert watched.plant.evaluate() == plain.plant.evaluate()


def test_it_gains_on_a_plant_that_over_fits():
    task = Task(rate=0.1, overfit=1.0, condition=100.0, noise=0.1)
    scores = []
    for policies in ([], [GeneralizationGap()]):
        plant = TrainingPlant(task)
        Simulation(plant, policies, budget=BUDGET).run()
        scores.append(plant.evaluate()["validation/loss"])
    assert scores[1] < 0.9 * scores[0]


def test_nothing_is_moved_that_could_not_be_judged_any_more():
    simulation = run(lambda step, *_: 1.0 if step < 800 else 2.0, lambda step, *_: 1.0 if step < 800 else 0.1)
    assert simulation.decisions == ()


def test_the_window_begins_anew_when_someone_else_moves_the_decay():
    plant = Curves(lambda *_: 1.0, low)
    simulation = Simulation(plant, [GeneralizationGap(dropout=None)], budget=BUDGET).run(100)
    simulation.submit(Set("weight_decay", 0.5 * BINDS, reason="mine"), f"{HUMAN}ada")
    simulation.controls.release("weight_decay")
    simulation.run(170)  # without the change it would have moved at 160
    assert len(simulation.decisions) == 1
    simulation.run(20)
    assert simulation.decisions[-1].source == "generalization_gap"


def test_what_a_person_holds_is_left_alone():
    simulation = Simulation(Curves(lambda *_: 1.0, low), [GeneralizationGap(dropout=None)], budget=BUDGET)
    simulation.run(20)
    simulation.submit(Set("weight_decay", 0.5, reason="mine"), f"{HUMAN}ada")
    simulation.run()
    assert [d.source for d in simulation.decisions] == [f"{HUMAN}ada"]
