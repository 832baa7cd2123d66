import numpy as np
import pytest

from autotune.records import TuneError
from autotune.testing.policy_gradient import ACTIONS, CONTEXTS, Bandit, PolicyGradientPlant


def train(plant, steps, first=0):
    return [dict(plant.step(batch)) for batch in range(first, first + steps)]


def regret(steps=600, **changes):
    plant = PolicyGradientPlant(**changes)
    train(plant, steps)
    return plant.evaluate()["validation/loss"]


def test_a_seed_is_a_run():
    one, two = (train(PolicyGradientPlant(Bandit.random(7, rate=0.01)), 50) for _ in range(2))
    assert one == two
    assert one != train(PolicyGradientPlant(Bandit.random(8, rate=0.01)), 50)


def test_a_restored_state_goes_on_exactly_as_before_any_number_of_times():
    plant = PolicyGradientPlant(rate=0.01)
    train(plant, 30)
    state = plant.capture()
    first = train(plant, 40, 30)
    for _ in range(2):
        plant.restore(state)
        assert train(plant, 40, 30) == first


def test_fixed_fields_are_not_drawn_and_move_no_other():
    free, fixed = Bandit.random(3), Bandit.random(3, rate=0.5)
    assert fixed.rate == 0.5
    assert (free.samples, free.noise, free.distance) == (fixed.samples, fixed.noise, fixed.distance)


def test_a_bandit_that_cannot_be_is_refused():
    with pytest.raises(TuneError, match="rate"):
        PolicyGradientPlant(rate=0.0)


def test_too_high_a_rate_destroys_for_good_and_too_low_a_one_wastes_time():
    assert regret(rate=0.01) < 0.05
    assert regret(rate=0.0003) > 0.2
    lost = PolicyGradientPlant(rate=1.0)
    train(lost, 100)
    lost.lr = 0.01
    train(lost, 600, 100)
    assert lost.evaluate()["validation/loss"] > 0.5


def test_without_entropy_it_stays_on_the_lower_hill():
    trap = {"rate": 0.01, "distance": 3.5, "noise": 0.1, "samples": 8}
    assert np.median([regret(800, seed=s, **trap) for s in range(3)]) > 0.4
    assert np.median([regret(800, seed=s, entropy_coef=0.3, **trap) for s in range(3)]) < 0.1


def test_the_kl_is_that_of_the_samples_ratio_on_average():
    plant = PolicyGradientPlant(rate=0.01, samples=8)
    for batch in range(5):
        mean, log_sigma = (part.copy() for part in plant._policy())
        kl = plant.step(batch)["kl"]
        new, log_new = plant._policy()
        z = np.random.default_rng(batch).standard_normal((ACTIONS, 20_000, CONTEXTS))
        actions = mean[:, None] + np.exp(log_sigma)[:, None, None] * z
        z_new = (actions - new[:, None]) / np.exp(log_new)[:, None, None]
        ratio = 0.5 * (z_new**2 - z**2).sum(0) + (log_new - log_sigma).sum()
        assert kl == pytest.approx(ratio.mean(), abs=4 * ratio.std() / np.sqrt(ratio.size))


def test_the_expected_return_is_exact():
    plant = PolicyGradientPlant(rate=0.01)
    train(plant, 20)
    mean, log_sigma = plant._policy()
    z = np.random.default_rng(0).standard_normal((ACTIONS, 20_000, CONTEXTS))
    rewards = plant._reward(mean[:, None] + np.exp(log_sigma)[:, None, None] * z, np.zeros(ACTIONS))
    expected = plant._best - plant.evaluate()["validation/loss"]
    assert expected == pytest.approx(rewards.mean(), abs=4 * rewards.std() / np.sqrt(rewards.size))


@pytest.mark.parametrize(
    "coefficients", [{}, {"kl_coef": 0.7}, {"entropy_coef": 0.2}, {"kl_coef": 0.7, "entropy_coef": 0.2}]
)
def test_the_gradient_is_that_of_the_objective(coefficients, monkeypatch):
    """The second Adam step's gradient, when old and new policy differ, by centred differences."""
    plant = PolicyGradientPlant(rate=0.01, clipped=False, **coefficients)
    train(plant, 3)
    old = plant._policy()
    gradients, weights = [], []
    update = PolicyGradientPlant._update

    def watched(self, gradient):
        gradients.append(gradient.copy())
        weights.append(self._state.weights.copy())
        update(self, gradient)

    monkeypatch.setattr(PolicyGradientPlant, "_update", watched)
    plant.step(3)

    normal = plant._noise(3)
    actions = old[0][:, None] + np.exp(old[1])[:, None, None] * normal[:ACTIONS]
    rewards = plant._reward(actions, np.zeros(ACTIONS)) + plant.task.noise * normal[ACTIONS]
    advantage = (rewards - rewards.mean()) / rewards.std()

    def objective(w):
        mean, log_sigma = w[:, :-1] @ plant._x, w[:, -1]
        z = (actions - mean[:, None]) / np.exp(log_sigma)[:, None, None]
        log_ratio = (old[1] - log_sigma).sum() + 0.5 * (normal[:ACTIONS] ** 2 - z**2).sum(0)
        spread = (np.exp(2 * old[1])[:, None] + (mean - old[0]) ** 2) / np.exp(2 * log_sigma)[:, None]
        kl = (log_sigma - old[1]).sum() + 0.5 * (spread - 1).sum(0).mean()
        surrogate = (np.exp(log_ratio) * advantage).mean()
        return -surrogate + plant.kl_coef * kl - plant.entropy_coef * log_sigma.sum()

    numeric = np.zeros_like(weights[1])
    for index in np.ndindex(*numeric.shape):
        away = np.zeros_like(numeric)
        away[index] = 1e-5
        numeric[index] = (objective(weights[1] + away) - objective(weights[1] - away)) / 2e-5
    assert gradients[1] == pytest.approx(numeric, rel=1e-3, abs=1e-6)
