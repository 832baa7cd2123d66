import math

import pytest
import torch
from loops import INPUTS, LABELS, Loop
from torch.nn.functional import cross_entropy

from autotune.actuators import gradient_clip, learning_rate, weight_decay
from autotune.policies import Plateau, RateSearch, recommended
from autotune.records import Adopt, Policy, Probe, Ramp, Rewind, Set
from autotune.testing import Simulation, Task, TrainingPlant

PARTS = {
    "weight_decay": lambda loop: weight_decay(loop.optimizer),
    "gradient_clip": lambda loop: gradient_clip(loop.optimizer, 1.0),
}


def trained(
    folder, rate=1e-2, optimizer="sgd", parts=(), policies=None, evaluate=True, steps=400, **settings
):
    loop = Loop(optimizer)
    loop.optimizer.param_groups[0]["lr"] = rate
    rated = learning_rate(loop.optimizer, low=1e-9, high=1e9)
    tuner = loop.tuner(
        folder,
        policies=recommended() if policies is None else policies,
        hyperparameters=[rated, *(PARTS[part](loop) for part in parts)],
        total_steps=steps,
        evaluate=loop.validate if evaluate else None,
        **settings,
    )
    with tuner:
        for batch in tuner.batches(loop.loader, epochs=None if steps else 40):
            tuner.report(loss=loop.step(batch))
    assert not tuner._engine.panel.benched
    return loop, tuner


@torch.no_grad()
def loss_of(loop):
    loop.model.eval()
    return cross_entropy(loop.model(INPUTS), LABELS).item()


def test_they_are_policies_with_names_of_their_own():
    policies = recommended()
    assert all(isinstance(policy, Policy) for policy in policies)
    assert len({policy.name for policy in policies}) == len(policies)
    assert recommended()[1] is not policies[1]


@pytest.mark.parametrize(
    ("rate", "parts"),
    [(1e-6, ()), (1e-2, ("weight_decay",)), (1e4, ("weight_decay", "gradient_clip"))],
)
def test_a_real_run_from_three_rates_with_what_is_there(tmp_path, rate, parts):
    loop, tuner = trained(tmp_path, rate, parts=parts)
    assert tuner.spent == 400
    assert any(isinstance(d.action, Adopt) and d.applied for d in tuner.decisions)
    assert loss_of(loop) < 0.45, "of 1.4 at the start"


@pytest.mark.parametrize("rate", [1e-6, 1e3])
def test_with_another_optimizer(tmp_path, rate):
    loop, _ = trained(tmp_path, rate, "adamw-foreach", ("weight_decay",))
    assert loss_of(loop) < 0.45


@pytest.mark.parametrize("rate", [1e-6, 1e4])
def test_without_evaluation(tmp_path, rate):
    loop, tuner = trained(tmp_path, rate, parts=("weight_decay",), evaluate=False)
    assert tuner.spent == 400
    assert loss_of(loop) < 0.45
    assert {d.source for d in tuner.decisions} >= {"rate_search", "hold_and_tail"}


@pytest.mark.parametrize("evaluate", [True, False])
def test_without_a_number_of_steps_it_trains_as_without_it(tmp_path, evaluate):
    loop, tuner = trained(tmp_path, 3e-2, steps=None, evaluate=evaluate, parts=("gradient_clip",))
    assert tuner.step == 320
    assert tuner.hyperparameters["lr"]() == 3e-2
    assert not any(isinstance(d.action, Probe | Adopt | Rewind) for d in tuner.decisions)
    assert loss_of(loop) < 0.45


def test_the_run_is_searched_decays_and_ends_in_its_best_state(tmp_path):
    _, tuner = trained(tmp_path)
    evaluated = tuner.signals["validation/loss"]
    assert evaluated.value[-1] == evaluated.value.min()
    adopted = next(d for d in tuner.decisions if isinstance(d.action, Adopt))
    tails = [d for d in tuner.decisions if d.source == "hold_and_tail"]
    assert tails
    assert all(isinstance(d.action, Ramp) and d.applied and d.spent > adopted.spent for d in tails)


def test_a_policy_of_ones_own_stands_beside_them(tmp_path):
    class Halving:
        """Halves the rate in the middle of the run."""

        name, requires, controls = "halving", (), ("lr",)

        def __init__(self):
            self.done = False

        def decide(self, observation):
            if self.done or observation.step < 100:
                return []
            self.done = True
            return [Set("lr", observation.hyperparameters["lr"].value / 2, reason="half of it")]

        def state_dict(self):
            return {"done": self.done}

        def load_state_dict(self, state):
            self.done = state["done"]

    _, tuner = trained(tmp_path, policies=[Halving(), *recommended(), Plateau()])
    (halved,) = (d for d in tuner.decisions if d.source == "halving")
    assert halved.applied
    assert math.isfinite(tuner.signals["loss"].last)


@pytest.mark.parametrize("seed", range(1000, 1004))
def test_no_policy_is_benched_and_the_run_gets_better(seed):
    plant = TrainingPlant(Task.random(seed))
    start = plant.evaluate()["validation/loss"]
    sim = Simulation(plant, recommended(), budget=1000).run()
    assert not sim.benched
    assert sim.clock.spent == 1000
    assert plant.evaluate()["validation/loss"] < start


def test_the_order_is_that_of_precedence():
    names = [policy.name for policy in recommended()]
    assert names[0] == "divergence_guard"
    assert names.index(RateSearch().name) < names.index("hold_and_tail")
    assert names[-1] == "early_stopping"


def test_where_the_steps_are_not_known_a_plateau_lowers_the_rate():
    plant = TrainingPlant(Task(rate=0.3, noise=0.3, seed=1001))
    sim = Simulation(plant, recommended(), budget=None).run(3000)
    lowered = [d for d in sim.decisions if d.source == "plateau_without_budget" and d.applied]
    assert lowered
    assert sim["lr"] < 0.3
    assert not sim.benched
