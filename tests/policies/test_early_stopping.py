import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from autotune import AutoTuner, Limits
from autotune.hyperparameters import FloatHyperparameter
from autotune.policies.early_stopping import EarlyStopping
from autotune.records import Checkpoint, Policy, Rewind, Set, Stop, TuneError
from autotune.testing import Simulation


class Curve:
    """A validation loss as a function of the step, and of the evaluation's number."""

    signals = ("loss", "validation/loss")
    cost = 0.0

    def __init__(self, validation):
        self.hyperparameters = [FloatHyperparameter("lr", 0.1, low=1e-6, high=10.0, log=True)]
        self.validation, self.at, self.evaluated = validation, 0, 0

    def step(self, batch):
        self.at += 1
        return {"loss": 1.0}

    def evaluate(self):
        self.evaluated += 1
        return {"validation/loss": float(self.validation(self.at, self.evaluated))}

    def capture(self):
        return self.at

    def restore(self, state):
        self.at = state


def rising(step, number):
    return 1 + ((step - 300) / 100) ** 2 + 0.01 * (-1) ** number


def run(validation, policy=None, budget=1000, **arguments):
    policies = [policy or EarlyStopping()]
    return Simulation(Curve(validation), policies, budget=budget, evaluate_every=20, **arguments).run()


def of(sim, *kinds):
    return [d for d in sim.decisions if isinstance(d.action, kinds)]


def test_it_is_a_policy():
    stopping = EarlyStopping("validation/error", patience=3, name="stop")
    assert isinstance(stopping, Policy)
    assert (stopping.name, stopping.requires, stopping.controls) == ("stop", ("validation/error",), ())


def test_a_loss_that_rises_ends_the_run_in_its_best_state():
    sim = run(rising)
    rewind, stop = of(sim, Rewind, Stop)
    assert rewind.applied
    assert stop.applied
    assert sim.clock.step == sim.plant.at == 300
    assert sim.clock.spent <= 460
    assert rewind.action.to == "step-300-spent-300"


def test_each_new_best_is_saved_once_at_the_step_that_was_evaluated():
    saved = of(run(rising), Checkpoint)
    assert [d.step for d in saved] == list(range(0, 301, 20))


def test_differences_below_min_delta_are_not_saved():
    sim = run(lambda step, _: 1 - 1e-4 * step, EarlyStopping(min_delta=0.01))
    assert [d.step for d in of(sim, Checkpoint)] == list(range(0, 1000, 120))
    assert not of(sim, Rewind, Stop)


def test_a_noisy_plateau_uses_the_whole_budget_and_ends_at_its_best():
    early = 0
    for seed in range(30):
        noise = 0.1 * np.random.default_rng(seed).standard_normal(51)
        noise[50] = 1.0  # the last evaluation
        sim = run(lambda step, _, noise=noise: 1 + noise[step // 20])
        (rewind,) = of(sim, Rewind)
        early += sim.clock.spent < 1000
        if sim.clock.spent == 1000:
            assert "budget" in rewind.action.reason
            assert sim.plant.at == 20 * np.argmin(noise)
    assert early <= 4


def test_when_the_last_state_is_the_best_it_stays():
    sim = run(lambda step, _: 1 / (1 + step))
    assert not of(sim, Rewind, Stop)
    assert sim.plant.at == 1000


def test_slow_progress_under_noise_is_no_end():
    noise = 0.05 * np.random.default_rng(0).standard_normal(1000)
    assert run(lambda step, n: 1 - step / 2000 + noise[n]).clock.spent == 1000


def test_what_can_be_lost_for_good_ends_in_the_best_state():
    sim = run(lambda step, _: np.nan if step > 200 else 1 - step / 1000)
    assert sim.plant.at == 200
    assert sim.clock.spent == 320


def test_a_change_by_a_person_is_given_its_time():
    sim = Simulation(Curve(rising), [EarlyStopping()], budget=1000, evaluate_every=20)
    sim.run(380)
    sim.submit(Set("lr", 0.05, reason=""), "human:ann")
    assert run(rising).clock.spent < 440
    assert sim.run().clock.spent == 500


def test_without_rewinds_it_stops_and_says_so():
    sim = run(rising, limits=Limits(max_rewinds=0))
    (stop,) = of(sim, Rewind, Stop)
    assert "no rewinds are left" in stop.action.reason
    assert sim.plant.at == sim.clock.spent < 500


@pytest.mark.parametrize("capacity", [0, 100])
def test_when_the_disk_is_full_memory_serves(capacity):
    sim = Simulation(Curve(rising), [EarlyStopping()], budget=1000, evaluate_every=20, capacity=100)

    def full(name):
        raise OSError("no space left")

    sim.engine.save = full
    if not capacity:
        sim._memory.infos = list
    sim.run()
    assert not sim.benched
    if capacity:
        assert sim.plant.at == 300
    else:
        (stop,) = of(sim, Rewind, Stop)
        assert "no better state is kept" in stop.action.reason


def test_the_best_of_a_branch_that_was_left_is_gone_back_to():
    sim = Simulation(
        Curve(lambda at, n: 0.5 if n == 11 else rising(at, n)), [EarlyStopping()], evaluate_every=20
    )
    sim.run(250)
    sim.submit(Rewind(100, reason=""), "human:anna")
    sim.run()
    assert of(sim, Rewind)[-1].action.to == "step-200-spent-200"
    assert sim.plant.at == 200


def test_suggestions_move_nothing():
    sim = run(rising, suggest=True)
    assert sim.clock.spent == 1000
    assert len(of(sim, Stop)) == 1


@pytest.mark.parametrize("at", [150, 310, 410])
def test_a_resumed_one_decides_as_if_nothing_had_happened(at):
    def fresh():
        return Simulation(Curve(rising), [EarlyStopping()], budget=1000, evaluate_every=20)

    whole, part, resumed = fresh().run(at), fresh().run(at), fresh()
    resumed.load_state_dict({**part.state_dict(), "panel": json.loads(json.dumps(part.panel.state_dict()))})
    resumed.plant.evaluated = part.plant.evaluated
    whole.run()
    resumed.run()
    assert (resumed.plant.at, resumed.clock.spent) == (whole.plant.at, whole.clock.spent)


def test_without_patience_it_goes_on_to_the_end_and_back_to_the_best():
    sim = run(rising, EarlyStopping(patience=None))
    (rewind,) = of(sim, Rewind, Stop)
    assert sim.clock.spent == 1000
    assert "budget" in rewind.action.reason
    assert sim.plant.at == 300


def test_without_patience_a_loss_that_is_lost_goes_on_to_the_end_too():
    sim = run(lambda step, _: np.nan if step > 200 else 1 - step / 1000, EarlyStopping(patience=None))
    assert sim.clock.spent == 1000
    assert sim.plant.at == 200


class Uncertain(Curve):
    """Its evaluation knows its standard error."""

    signals = ("loss", "validation/loss", "validation/loss_error")

    def __init__(self, validation, error):
        super().__init__(validation)
        self.error = error

    def evaluate(self):
        return {**super().evaluate(), "validation/loss_error": self.error}


def by_ten_percent(step, number):
    """The best, at step 500, is better than the last by 0.1."""
    return 0.9 if step == 500 else 1.0


@pytest.mark.parametrize(("error", "ends"), [(0.0, 500), (0.09, 500), (0.11, 1000), (np.nan, 500)])
def test_at_the_end_the_best_has_to_be_better_by_a_standard_error(error, ends):
    plant = Uncertain(by_ten_percent, error)
    Simulation(plant, [EarlyStopping(patience=None)], budget=1000, evaluate_every=20).run()
    assert plant.at == ends


def test_a_rise_ends_the_run_in_its_best_state_whatever_the_error():
    plant = Uncertain(rising, 10.0)
    sim = Simulation(plant, [EarlyStopping()], budget=1000, evaluate_every=20).run()
    assert sim.clock.spent < 500
    assert plant.at in (300, sim.clock.spent)


@pytest.mark.parametrize("arguments", [{"patience": 0}, {"patience": 2.5}, {"min_delta": -1.0}])
def test_bad_input_is_refused_at_once(arguments):
    with pytest.raises(TuneError):
        EarlyStopping(**arguments)


def test_the_final_weights_of_a_real_run_are_those_of_its_best_evaluation(tmp_path):
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images = images.float() / 16
    torch.manual_seed(0)
    wrong = torch.where(torch.rand(100) < 0.4, torch.randint(10, (100,)), labels[:100])
    loader = DataLoader(TensorDataset(images[:100], wrong), 20, shuffle=True)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(100, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    evaluated = []

    @torch.no_grad()
    def validate():
        model.eval()
        loss = cross_entropy(model(images[1000:]), labels[1000:]).item()
        evaluated.append((loss, [p.clone() for p in model.parameters()]))
        return loss

    with AutoTuner(
        model,
        optimizer,
        policies=[EarlyStopping()],
        total_steps=600,
        evaluate=validate,
        evaluate_every=15,  # every other one lies between two ticks of its own
        folder=tmp_path / "run",
        mlflow=False,
    ) as tuner:
        for inputs, targets in tuner.batches(loader):
            loss = cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tuner.report(loss=loss)
    best, weights = min(evaluated, key=lambda pair: pair[0])
    assert tuner.spent < 600
    assert best < evaluated[-1][0]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))
    assert [d.status for d in tuner.decisions if isinstance(d.action, Rewind | Stop)] == ["applied"] * 2
