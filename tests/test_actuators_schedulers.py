"""Every torch scheduler beside a hyperparameter: neither sees the other."""

import warnings

import pytest
import torch
from torch.optim import lr_scheduler as S

from autotune.actuators import learning_rate, momentum
from autotune.actuators.param_groups import driven_by
from autotune.records import TuneError

STEPS = 24
SCHEDULERS = {
    "LambdaLR": lambda o: S.LambdaLR(o, lambda k: min(1.0, k / 5)),  # a warm-up from zero
    "MultiplicativeLR": lambda o: S.MultiplicativeLR(o, lambda k: 0.95),
    "StepLR": lambda o: S.StepLR(o, 5),
    "MultiStepLR": lambda o: S.MultiStepLR(o, [3, 9]),
    "ConstantLR": lambda o: S.ConstantLR(o, 0.3, 6),
    "LinearLR": lambda o: S.LinearLR(o, 0.1, 1.0, 8),
    "ExponentialLR": lambda o: S.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: S.PolynomialLR(o, 20, 2.0),
    "CosineAnnealingLR": lambda o: S.CosineAnnealingLR(o, 10, 1e-3),
    "CosineAnnealingWarmRestarts": lambda o: S.CosineAnnealingWarmRestarts(o, 4, 2),
    "CyclicLR": lambda o: S.CyclicLR(o, 0.01, 0.1, 4),
    "OneCycleLR": lambda o: S.OneCycleLR(o, 0.1, STEPS + 1),
    "ReduceLROnPlateau": lambda o: S.ReduceLROnPlateau(o, patience=2),
    "SequentialLR": lambda o: S.SequentialLR(
        o, [S.LinearLR(o, 0.1, 1.0, 5), S.CosineAnnealingLR(o, 15)], [5]
    ),
    "ChainedScheduler": lambda o: S.ChainedScheduler([S.ConstantLR(o, 0.2, 4), S.ExponentialLR(o, 0.9)]),
}
every_scheduler = pytest.mark.parametrize("name", SCHEDULERS)


def plant(tensor_rate=False):
    """Two groups whose parameters are put to 0 with gradient 1 before a step: then minus them is the rate."""
    weights = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2)]
    rates = [0.1, 0.02]
    if tensor_rate:
        rates = [torch.tensor(rate, dtype=torch.float64) for rate in rates]
    groups = [{"params": [w], "lr": rate} for w, rate in zip(weights, rates, strict=True)]
    return weights, torch.optim.SGD(groups, momentum=0.9, foreach=False)


def run(weights, optimizer, scheduler, before_step=lambda k: None):
    """The rates used in each step, the rates that the scheduler shows before each, and its end state."""
    used, shown = [], []
    for k in range(STEPS):
        before_step(k)
        shown.append([float(group["lr"]) for group in optimizer.param_groups])
        for w in weights:
            w.data.zero_()
            w.grad = torch.ones_like(w)
            optimizer.state[w].clear()  # no momentum buffer yet: the update is rate × gradient
        optimizer.step()
        used.append([-w.item() for w in weights])
        scheduler.step(1.0) if isinstance(scheduler, S.ReduceLROnPlateau) else scheduler.step()
    return used, shown, scheduler.get_last_lr()


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # SequentialLR and ChainedScheduler warn of themselves
        yield


@every_scheduler
@pytest.mark.parametrize("tensor_rate", [False, True])
def test_multiply_scales_each_step_and_leaves_the_schedule_alone(name, tensor_rate):
    weights, optimizer = plant(tensor_rate)
    reference, schedule, end = run(weights, optimizer, SCHEDULERS[name](optimizer))
    assert reference == schedule

    weights, optimizer = plant(tensor_rate)
    scheduler = SCHEDULERS[name](optimizer)
    factor = learning_rate(optimizer, schedule="multiply")
    assert (factor(), factor.unit, factor.kind) == (1.0, "× schedule", "log")
    factor.actuator.attach()
    wanted = [1.0] * 4 + [0.25 + 0.1 * k for k in range(STEPS - 4)]
    used, shown, last = run(weights, optimizer, scheduler, lambda k: factor.write(wanted[k]))

    assert shown == schedule
    assert last == end
    assert used == [[m * rate for rate in rates] for m, rates in zip(wanted, schedule, strict=True)]
    assert used[:4] == reference[:4]


@every_scheduler
@pytest.mark.parametrize("tensor_rate", [False, True])
def test_override_replaces_the_rate_and_leaves_the_schedule_alone(name, tensor_rate):
    weights, optimizer = plant(tensor_rate)
    _, schedule, end = run(weights, optimizer, SCHEDULERS[name](optimizer))

    weights, optimizer = plant(tensor_rate)
    scheduler = SCHEDULERS[name](optimizer)
    rate = learning_rate(optimizer, schedule="override")
    start = schedule[0] if any(schedule[0]) else [0.1, 0.02]
    assert rate() == start[0]
    rate.actuator.attach()
    wanted = [0.5 / (k + 1) for k in range(STEPS)]
    used, shown, last = run(weights, optimizer, scheduler, lambda k: rate.write(wanted[k]))

    assert shown == schedule
    assert last == end
    assert used == [[value * (s / start[0]) for s in start] for value in wanted]


@every_scheduler
def test_a_scheduled_rate_without_a_mode_has_two_owners(name):
    _, optimizer = plant()
    scheduler = SCHEDULERS[name](optimizer)
    with pytest.raises(TuneError, match=r"one owner, but \w+ drives .*'lr'.*schedule='multiply'.*'override'"):
        learning_rate(optimizer)
    with pytest.raises(TuneError, match="one owner"):
        learning_rate(optimizer, group=1)
    assert driven_by(optimizer, "lr") is not None
    del scheduler


@every_scheduler
def test_a_scheduler_made_later_is_found_when_the_tuner_starts(name):
    _, optimizer = plant()
    rate = learning_rate(optimizer)
    scheduler = SCHEDULERS[name](optimizer)
    with pytest.raises(TuneError, match="one owner"):
        rate.actuator.attach()
    del scheduler


def test_a_scheduler_without_a_mark_is_found_whoever_has_looked_at_it():
    _, optimizer = plant()
    scheduler = S.ReduceLROnPlateau(optimizer)
    assert driven_by(optimizer, "lr") == "ReduceLROnPlateau"
    vars(scheduler)  # from now on its attributes are in a dictionary
    assert driven_by(optimizer, "lr") == "ReduceLROnPlateau"


def test_another_optimizers_scheduler_is_no_owner():
    _, optimizer = plant()
    _, other = plant()
    scheduler = S.ReduceLROnPlateau(other)
    assert driven_by(optimizer, "lr") is None
    assert learning_rate(optimizer)() == 0.1
    del scheduler
    assert driven_by(other, "lr") is None  # gone without a trace


def test_a_scheduler_that_left_its_mark_is_named_as_such():
    _, optimizer = plant()
    S.StepLR(optimizer, 5)
    with pytest.raises(TuneError, match="it left 'initial_lr' in the param groups"):
        learning_rate(optimizer)


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_a_cycled_momentum_can_be_taken_over(name):
    def used_momentum(weights, optimizer, scheduler):
        used, shown = [], []
        for _ in range(STEPS):
            shown.append([group["momentum"] for group in optimizer.param_groups])
            for w in weights:
                w.data.zero_()
                w.grad = torch.zeros_like(w)
                optimizer.state[w]["momentum_buffer"] = torch.ones_like(w)
            optimizer.step()  # with gradient 0 the buffer becomes momentum × 1
            used.append([optimizer.state[w]["momentum_buffer"].item() for w in weights])
            scheduler.step()
        return used, shown

    weights, optimizer = plant()
    used, schedule = used_momentum(weights, optimizer, SCHEDULERS[name](optimizer))
    assert used == schedule
    assert len({tuple(row) for row in schedule}) > 3

    weights, optimizer = plant()
    scheduler = SCHEDULERS[name](optimizer)
    with pytest.raises(TuneError, match=r"cycles the momentum drives .*'momentum'.*schedule='override'"):
        momentum(optimizer)
    held = momentum(optimizer, schedule="override")
    held.actuator.attach()
    held.write(0.5)
    used, shown = used_momentum(weights, optimizer, scheduler)
    assert used == [[0.5, 0.5]] * STEPS
    assert shown == schedule


def test_no_one_cycles_the_momentum_where_the_scheduler_was_told_not_to():
    _, optimizer = plant()
    scheduler = S.OneCycleLR(optimizer, 0.1, 10, cycle_momentum=False)
    assert momentum(optimizer)() == 0.9
    del scheduler


def test_a_momentum_does_not_multiply():
    _, optimizer = plant()
    with pytest.raises(TuneError, match="must stay below 1; use schedule='override'"):
        momentum(optimizer, schedule="multiply")


@pytest.mark.parametrize("first", [0, 1])
def test_a_group_whose_schedule_starts_at_zero_is_ruled_as_well(first):
    def schedules(optimizer):
        ramps = [lambda k: k / 4, lambda k: 1.0]
        return S.LambdaLR(optimizer, ramps if first == 0 else ramps[::-1])

    weights, optimizer = plant()
    scheduler = schedules(optimizer)
    factor = learning_rate(optimizer, schedule="multiply")
    factor.actuator.attach()
    factor.write(3.0)
    used, shown, _ = run(weights, optimizer, scheduler)
    assert used == [[3.0 * rate for rate in rates] for rates in shown]

    weights, optimizer = plant()
    scheduler = schedules(optimizer)
    rate = learning_rate(optimizer, schedule="override")
    rate.actuator.attach()
    assert rate() == 0.1
    assert run(weights, optimizer, scheduler)[0] == [[0.1, 0.1 * (0.02 / 0.1)]] * STEPS


def test_two_groups_can_be_ruled_in_two_ways():
    weights, optimizer = plant()
    scheduler = S.ExponentialLR(optimizer, 0.5)
    first = learning_rate(optimizer, group=0, schedule="multiply")
    second = learning_rate(optimizer, group=1, schedule="override")
    assert not first.actuator.targets & second.actuator.targets
    for each in (first, second):
        each.actuator.attach()
    first.write(2.0)
    second.write(0.3)
    used, shown, _ = run(weights, optimizer, scheduler)
    assert used == [[2.0 * rates[0], 0.3] for rates in shown]


def test_a_scheduler_that_steps_in_the_optimizers_own_hook_finds_its_own_rate():
    weights, optimizer = plant()
    scheduler = S.ExponentialLR(optimizer, 0.5)
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    factor = learning_rate(optimizer, schedule="multiply")
    factor.actuator.attach()
    factor.write(3.0)
    used, shown = [], []
    for _ in range(5):
        shown.append(optimizer.param_groups[0]["lr"])
        weights[0].grad = torch.ones_like(weights[0])
        weights[0].data.zero_()
        optimizer.state.clear()
        optimizer.step()
        used.append(-weights[0].item())
    assert shown == [0.1 * 0.5**k for k in range(5)]
    assert used == [3.0 * rate for rate in shown]


def test_detach_hands_the_rate_back_and_attaching_twice_lends_once():
    weights, optimizer = plant()
    scheduler = S.StepLR(optimizer, 100)
    factor = learning_rate(optimizer, schedule="multiply")
    factor.write(2.0)
    assert run(weights, optimizer, scheduler)[0][0] == [0.1, 0.02]
    factor.actuator.attach()
    factor.actuator.attach()
    assert run(weights, optimizer, scheduler)[0][0] == [0.2, 0.04]
    factor.actuator.detach()
    assert run(weights, optimizer, scheduler)[0][0] == [0.1, 0.02]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("tensor_rate", [False, True])
@pytest.mark.parametrize("rewound", [False, True])
def test_a_step_that_raises_does_not_compound_the_factor(tensor_rate, rewound):
    weights, optimizer = plant(tensor_rate)
    scheduler = S.StepLR(optimizer, 100)
    factor = learning_rate(optimizer, schedule="multiply")
    factor.actuator.attach()
    factor.write(2.0)
    weights[0].grad = torch.ones_like(weights[0])

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(fail)
    rates = [0.1, 0.02]
    if rewound:  # a snapshot of another moment came back in between
        rates = [0.05, 0.01]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = torch.tensor(rate, dtype=torch.float64) if tensor_rate else rate
    used, shown, _ = run(weights, optimizer, scheduler)
    assert used == [[2 * rate for rate in rates]] * STEPS
    assert shown[1:] == [rates] * (STEPS - 1)


def test_an_unknown_mode_is_refused():
    _, optimizer = plant()
    with pytest.raises(TuneError, match="schedule is None, 'multiply' or 'override', got 'add'"):
        learning_rate(optimizer, schedule="add")
