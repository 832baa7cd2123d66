import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from autotune import AutoTuner
from autotune.actuators import gradient_accumulation, learning_rate
from autotune.policies.noise_scale import NoiseScale
from autotune.records import HyperparameterState, Observation, Policy, Set, Signal, TuneError
from autotune.testing import Simulation, Task, TrainingPlant, conformance

EXAMPLES = "gradient_noise_scale/examples"


def noisy(seed=1000):
    task = Task.random(seed, optimizer="sgd", noise=1.0, overfit=0.0, poison=0.0)
    return TrainingPlant(task, rate=task.usual_rate)


def in_batches(**arguments):
    return NoiseScale("batch_size", EXAMPLES, **arguments)


def observed(scales, loss, step=200, batch=4, owner="policy", **more):
    """An observation with these noise scales, one every 10 steps, and these losses, one a step."""
    ticks, steps = np.arange(1, len(scales) + 1) * 10, np.arange(1, len(loss) + 1)
    states = [
        HyperparameterState("gradient_accumulation", "int", batch, owner, 1, 64),
        HyperparameterState("lr", "log", 0.1, "policy", 1e-8, 10.0, **more),
    ]
    signals = {
        "gradient_noise_scale": Signal(ticks, ticks, np.array(scales, float)),
        "loss": Signal(steps, steps, np.array(loss, float)),
    }
    return Observation(step, step, None, {s.name: s for s in states}, signals)


FLAT = np.exp(0.1 * np.random.default_rng(0).standard_normal(200) + np.arange(200) / 2000)
MUCH = [100.0] * 20


def test_it_is_a_policy():
    policy = in_batches(scaling="sqrt", rate="rate", name="grow")
    assert isinstance(policy, Policy)
    assert (policy.name, policy.requires, policy.controls) == (
        "grow",
        (EXAMPLES, "loss"),
        ("batch_size", "rate"),
    )


@pytest.mark.parametrize("arguments", [{"scaling": "cubic"}, {"micro_batches": 0}])
def test_nonsense_is_refused(arguments):
    with pytest.raises(TuneError, match="got"):
        NoiseScale(**arguments)


@pytest.mark.parametrize(
    ("scaling", "factor"), [("none", None), ("sqrt", pytest.approx(2**0.5)), ("linear", pytest.approx(2.0))]
)
def test_batch_and_rate_grow_by_the_stated_rule(scaling, factor):
    actions = NoiseScale(scaling=scaling).decide(observed(MUCH, FLAT))
    assert [(a.name, a.value) for a in actions[:1]] == [("gradient_accumulation", 8)]
    assert [a.value / 0.1 for a in actions[1:]] == ([] if factor is None else [factor])


@pytest.mark.parametrize(
    "observation",
    [
        observed([11.0] * 20, FLAT),  # noise does not dominate: 3 × 4 = 12
        observed([100.0] * 18 + [np.nan, 5.0], FLAT),
        observed([100.0] * 5, FLAT),
        observed(MUCH, FLAT * np.exp(-np.arange(200) / 100)),  # the loss falls
        observed(MUCH, FLAT[:80], step=80),
        observed(MUCH, FLAT, batch=40),  # beyond the bound
        observed(MUCH, FLAT, owner="human:ada"),
        observed(MUCH, FLAT, ramp_until=400),  # a cool-down takes the noise out
    ],
)
def test_it_does_not_grow_without_need_or_right(observation):
    assert NoiseScale().decide(observation) == ()


def test_no_signal_in_the_noise_counts_as_much_noise():
    assert NoiseScale().decide(observed([np.inf] * 20, FLAT))


def test_micro_batches_count_as_one_batch():
    assert NoiseScale(micro_batches=8).decide(observed([100.0] * 20, FLAT)) != ()
    assert NoiseScale(micro_batches=9).decide(observed([100.0] * 20, FLAT)) == ()


def test_at_equal_examples_it_beats_a_batch_that_stays_small():
    gains = []
    for seed in range(1000, 1008):
        ends = []
        for policies in ([], [in_batches()]):
            simulation = Simulation(noisy(seed), policies, budget=None).run(cost=1000)
            ends.append(simulation.plant.evaluate()["validation/loss"])
        batch = [d.after["batch_size"] for d in simulation.decisions]
        assert batch == sorted(batch)
        gains.append(ends[1] / ends[0])
    assert np.median(gains) < 0.9


def test_a_plateau_that_another_answered_begins_anew():
    simulation = Simulation(noisy(), [in_batches()], budget=None).run(cost=1000)
    first = simulation.decisions[0].spent
    simulation = Simulation(noisy(), [in_batches()], budget=None).run(first - 10)
    simulation.submit(Set("lr", simulation["lr"] / 2, reason="by hand"), "human:ada")
    simulation.run(100)
    assert [d for d in simulation.decisions if d.source == "noise_scale"] == []


def test_it_conforms_where_noise_dominates():
    conformance.check(in_batches, noisy)


def test_accumulation_grows_in_a_real_loop(tmp_path):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(512, 64, generator=generator), torch.randn(512, 1, generator=generator))
    loader = DataLoader(data, batch_size=2, shuffle=True, generator=generator)
    model = torch.nn.Linear(64, 1)
    torch.nn.init.zeros_(model.weight)  # there is nothing to learn but noise
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    accumulation = gradient_accumulation(2, low=2, high=16)
    gathered = 0
    with AutoTuner(
        model,
        optimizer,
        hyperparameters=[learning_rate(optimizer), accumulation],
        policies=[NoiseScale()],
        folder=tmp_path / "run",
        total_steps=200,
        mlflow=False,
    ) as tuner:
        for inputs, targets in tuner.batches(loader):
            loss = (model(inputs) - targets).square().mean()
            (loss / accumulation()).backward()
            gathered += 1
            tuner.report(loss=loss)
            if gathered >= accumulation():
                optimizer.step()
                optimizer.zero_grad()
                gathered = 0
    assert accumulation() > 2
    assert {d.action.name for d in tuner.decisions} == {"gradient_accumulation"}
