import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from autotune.actuators import (
    beta1,
    beta2,
    gradient_accumulation,
    gradient_clip,
    learning_rate,
    momentum,
    weight_decay,
)
from autotune.records import TuneError


def weights(count=3):
    return [nn.Parameter(torch.full((4,), float(i + 1))) for i in range(count)]


def sgd(*groups, **defaults):
    made = [{"params": [w], **group} for w, group in zip(weights(len(groups)), groups, strict=True)]
    return torch.optim.SGD(made, **{"lr": 0.1, **defaults})


def held(optimizer, key):
    return [group[key] for group in optimizer.param_groups]


# --- rates and decays --------------------------------------------------------------------------------------


@settings(max_examples=25)  # making one searches all live objects for a scheduler: 0.1 s
@given(st.lists(st.floats(1e-6, 1e2), min_size=1, max_size=4), st.lists(st.floats(1e-8, 10), min_size=1))
def test_ratios_between_groups_survive_any_number_of_writes(rates, values):
    optimizer = sgd(*({"lr": rate} for rate in rates))
    lr = learning_rate(optimizer, high=100.0, low=1e-8)
    assert lr() == rates[0]
    for value in values:
        assert lr.write(value) == value == lr()
        assert held(optimizer, "lr") == [value * (rate / rates[0]) for rate in rates]


def test_one_group_has_its_own_name_and_leaves_the_others():
    optimizer = sgd({}, {"lr": 0.01})
    lr = learning_rate(optimizer, group=1)
    assert (lr.name, lr(), lr.kind) == ("lr/1", 0.01, "log")
    assert lr.write(0.5) == 0.5
    assert held(optimizer, "lr") == [0.1, 0.5]
    assert weight_decay(optimizer, group=0).name == "weight_decay/0"
    assert learning_rate(optimizer, name="rate").name == "rate"


@pytest.mark.parametrize(
    ("make", "gain"),
    [
        (lambda w: torch.optim.SGD(w, 1e-3, weight_decay=0.1), 1.0),
        (lambda w: torch.optim.SGD(w, 1e-3, weight_decay=0.1, momentum=0.9), 10.0),
        (lambda w: torch.optim.SGD(w, 1e-3, weight_decay=0.1, momentum=0.9, nesterov=True), 10.0),
        (lambda w: torch.optim.SGD(w, 1e-3, weight_decay=0.1, momentum=0.8, dampening=0.5), 2.5),
        (lambda w: torch.optim.AdamW(w, 1e-3, weight_decay=0.1), 1.0),
    ],
)
def test_the_gain_of_a_decay_is_that_of_the_shrinkage(make, gain):
    (w,) = weights(1)
    optimizer = make([w])
    decay = weight_decay(optimizer)
    w.grad = torch.zeros_like(w)
    for step in range(2000):
        optimizer.step()
        if step == 999:  # the momentum has settled
            before = w[0].item()
    shrinkage = math.log(before / w[0].item()) / 1000
    assert decay.state().gain == pytest.approx(gain)
    assert shrinkage == pytest.approx(1e-3 * 0.1 * gain, rel=0.01)


def test_overlapping_hyperparameters_share_a_target():
    optimizer, other = sgd({}, {}), sgd({}, {})
    both, first, second = (learning_rate(optimizer, group=g).actuator.targets for g in (None, 0, 1))
    assert first < both
    assert second < both
    assert not first & second
    assert not both & weight_decay(optimizer).actuator.targets
    assert not both & learning_rate(other).actuator.targets
    adam = torch.optim.Adam(weights())
    assert not beta1(adam).actuator.targets & beta2(adam).actuator.targets


def test_replaced_groups_are_found():
    optimizer = sgd({}, {"lr": 0.01})
    lr = learning_rate(optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)  # every group is a new dict now
    lr.write(0.2)
    assert held(optimizer, "lr") == [0.2, 0.02]
    optimizer.load_state_dict(saved)
    assert lr() == 0.1


def test_a_group_that_is_added_later_joins_at_its_ratio():
    optimizer = sgd({})
    lr = learning_rate(optimizer)
    lr.write(0.2)
    optimizer.add_param_group({"params": weights(1), "lr": 0.1})
    assert lr.actuator.targets == learning_rate(optimizer).actuator.targets
    lr.write(0.4)
    assert held(optimizer, "lr") == [0.4, 0.2]


def test_a_rate_of_zero_keeps_a_group_out():
    optimizer = sgd({"lr": 0.0}, {"lr": 0.1}, {"lr": 0.05})
    lr = learning_rate(optimizer)
    assert lr() == 0.1
    lr.write(0.2)
    assert held(optimizer, "lr") == [0.0, 0.2, 0.1]
    assert not lr.actuator.targets & weight_decay(optimizer).actuator.targets
    assert len(lr.actuator.targets) == 2


def test_a_start_outside_the_bounds_is_refused_and_the_user_can_widen_them():
    optimizer = sgd({"lr": 50.0})
    with pytest.raises(TuneError, match=r"lr must lie in \[1e-08, 10\], got 50.0; widen low/high"):
        learning_rate(optimizer)
    assert learning_rate(optimizer, high=100)() == 50.0


def test_decay_skips_the_groups_without_it():
    optimizer = sgd({"weight_decay": 0.1}, {"weight_decay": 0.0}, {"weight_decay": 0.05})
    decay = weight_decay(optimizer)
    assert decay.write(0.2) == 0.2
    assert held(optimizer, "weight_decay") == [0.2, 0.0, 0.1]
    assert decay.write(0.0) == 0.0
    assert decay.write(0.4) == 0.4  # zero was a value, not a loss of the ratios
    assert held(optimizer, "weight_decay") == [0.4, 0.0, 0.2]
    assert not decay.actuator.targets & weight_decay(optimizer, group=1).actuator.targets


def test_decay_is_written_everywhere_where_no_group_has_it():
    optimizer = sgd({}, {})
    decay = weight_decay(optimizer)
    assert decay() == 0.0
    decay.write(0.3)
    assert held(optimizer, "weight_decay") == [0.3, 0.3]


@pytest.mark.parametrize(
    ("make", "optimizer", "key"),
    [
        (momentum, torch.optim.SGD, "momentum"),
        (momentum, torch.optim.RMSprop, "momentum"),
    ],
)
def test_momentum(make, optimizer, key):
    optimizer = optimizer(weights(), lr=0.1, momentum=0.9)
    hyperparameter = make(optimizer)
    assert hyperparameter.write(0.5) == 0.5
    assert held(optimizer, key) == [0.5]


@pytest.mark.parametrize(
    "family", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax]
)
def test_betas_are_written_apart(family):
    optimizer = family(weights())
    first, second = beta1(optimizer), beta2(optimizer)
    assert (first(), second()) == (0.9, 0.999)
    assert first.write(0.8) == 0.8
    assert second.write(0.95) == 0.95
    assert held(optimizer, "betas") == [(0.8, 0.95)]
    (w,) = optimizer.param_groups[0]["params"][:1]
    w.grad = torch.ones_like(w)
    optimizer.step()
    assert torch.isfinite(w).all()


def test_groups_with_different_momenta_need_one_hyperparameter_each():
    optimizer = sgd({"momentum": 0.9}, {"momentum": 0.5})
    with pytest.raises(TuneError, match=r"hold the same, got 0.9, 0.5; .*group=0, group=1"):
        momentum(optimizer)
    momentum(optimizer, group=1).write(0.7)
    assert held(optimizer, "momentum") == [0.9, 0.7]


@pytest.mark.parametrize("group", [2, -1])
def test_an_unknown_group_is_refused(group):
    with pytest.raises(TuneError, match=f"index of a param group, 0 to 1, got {group}"):
        learning_rate(sgd({}, {}), group=group)


def test_an_optimizer_without_the_entry_is_refused():
    with pytest.raises(TuneError, match=r"Adam has no 'momentum' in its param groups, which hold lr, betas"):
        momentum(torch.optim.Adam(weights()))


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TuneError, match=r"optimizer is a torch.optim.Optimizer, got"):
        learning_rate(nn.Linear(1, 1))


class Wrapper(torch.optim.Optimizer):
    """As accelerate's: a subclass that passes on to `.optimizer` and has no hooks of its own."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self, closure=None):
        return self.optimizer.step(closure)


def test_a_wrapper_is_looked_through():
    inner = sgd({})
    ExponentialLR(inner, 0.5)
    factor = learning_rate(Wrapper(inner), schedule="multiply")
    factor.actuator.attach()
    factor.write(3.0)
    w = inner.param_groups[0]["params"][0]
    w.data.zero_()
    w.grad = torch.ones_like(w)
    Wrapper(inner).step()
    assert torch.equal(w, torch.full((4,), -(3.0 * 0.1)))


def test_a_scheduler_of_a_wrapper_is_an_owner_too():
    wrapper = Wrapper(Wrapper(sgd({})))
    learning_rate(wrapper)
    scheduler = ReduceLROnPlateau(wrapper)
    with pytest.raises(TuneError, match="one owner, but ReduceLROnPlateau"):
        learning_rate(wrapper)
    del scheduler


# --- tensor rates and compiled steps -----------------------------------------------------------------------


def test_a_tensor_rate_is_filled_in_place_and_never_shared():
    default = torch.tensor(0.1)
    optimizer = torch.optim.Adam([{"params": [w]} for w in weights(2)], lr=default, foreach=False)
    assert optimizer.param_groups[0]["lr"] is optimizer.param_groups[1]["lr"]  # torch shares the default
    lr = learning_rate(optimizer, group=1)
    tensors = held(optimizer, "lr")
    assert lr.write(0.3) == float(tensors[1]) == lr()
    assert [float(t) for t in tensors] == [float(default), float(torch.tensor(0.3))]
    assert all(a is b for a, b in zip(held(optimizer, "lr"), tensors, strict=True))
    optimizer.add_param_group({"params": weights(1)})
    learning_rate(optimizer, group=2).write(0.5)
    assert float(tensors[0]) == float(torch.tensor(0.1))


def test_a_rate_written_at_its_bound_in_float32_can_be_written_again():
    lr = learning_rate(torch.optim.Adam(weights(), lr=torch.tensor(0.01), foreach=False), high=0.1)
    back = lr.write(0.1)
    assert back > 0.1
    assert lr.write(back) == back


def test_tensor_betas_are_filled_in_place():
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    optimizer = torch.optim.Adam(
        weights(), lr=torch.tensor(0.1), betas=betas, foreach=False, capturable=False
    )
    first = beta1(optimizer)
    mine = optimizer.param_groups[0]["betas"][0]
    first.write(0.5)
    assert optimizer.param_groups[0]["betas"][0] is mine
    assert float(mine) == 0.5


@pytest.mark.parametrize("schedule", [None, "multiply", "override"])
def test_a_compiled_step_with_a_tensor_rate_is_compiled_once(schedule):
    torch._dynamo.reset()
    parameters = weights()
    optimizer = torch.optim.Adam(parameters, lr=torch.tensor(0.1), capturable=False, foreach=False)
    lr = learning_rate(optimizer, schedule=schedule)
    lr.actuator.attach()
    clip = gradient_clip(optimizer, 1.0)
    clip.actuator.attach()
    counter = CompileCounter()
    step = torch.compile(optimizer.step, backend=counter)
    for k in range(12):
        for w in parameters:
            w.grad = torch.ones_like(w)
        lr.write(0.1 / (k + 1))
        clip.write(1.0 + k)
        step()
    assert counter.frame_count == 1  # the hooks add no graph of their own either


def test_a_compiled_step_takes_the_written_rate():
    torch._dynamo.reset()
    rates = []
    for compiled in (False, True):
        w = nn.Parameter(torch.zeros(4))
        optimizer = torch.optim.SGD([w], lr=torch.tensor(0.1), foreach=False)
        lr = learning_rate(optimizer, schedule="override")
        lr.actuator.attach()
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for k in range(4):
            w.grad = torch.ones_like(w)
            lr.write(0.5 / (k + 1))
            step()
        rates.append(w.detach().clone())
        assert float(optimizer.param_groups[0]["lr"]) == float(torch.tensor(0.1))
    assert torch.equal(*rates)


# --- gradients ---------------------------------------------------------------------------------------------


def gradients(scale=1.0):
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), ())]
    for p in parameters[:2]:
        p.grad = scale * torch.randn(p.shape, generator=generator)
    return parameters  # the last one has no gradient


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 100.0])
def test_clipping_is_that_of_torch(max_norm):
    expected = gradients()
    torch.nn.utils.clip_grad_norm_(expected, max_norm)
    parameters = gradients()
    optimizer = torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=1.0)
    clip = gradient_clip(optimizer, max_norm)
    clip.actuator.attach()
    optimizer.step()
    assert all(torch.equal(p.grad, e.grad) for p, e in zip(parameters[:2], expected[:2], strict=True))
    assert all(torch.equal(p, -e.grad) for p, e in zip(parameters[:2], expected[:2], strict=True))


def test_clipping_follows_the_value_comes_after_earlier_hooks_and_ends():
    parameters = gradients()
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(parameters[0].grad.norm().item()))
    clip = gradient_clip(optimizer, 100.0)
    clip.actuator.attach()
    clip.write(0.5)
    before = parameters[0].grad.norm().item()
    optimizer.step()
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters[:2]])
    assert norm.item() == pytest.approx(0.5, rel=1e-5)
    assert seen == [before]
    clip.actuator.detach()
    clip.write(0.1)
    optimizer.step()
    assert torch.nn.utils.get_total_norm([p.grad for p in parameters[:2]]) == norm


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_under_amp_is_that_of_unscaled_gradients(fused):
    expected = gradients()
    torch.nn.utils.clip_grad_norm_(expected, 0.5)
    parameters = gradients()
    optimizer = torch.optim.SGD(parameters, lr=1.0, fused=fused)
    clip = gradient_clip(optimizer, 0.5)
    clip.actuator.attach()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for p in parameters[:2]:
        g = p.grad
        p.grad = None
        scaler.scale((p * g).sum()).backward()
    scaler.step(optimizer)
    for p, e in zip(parameters[:2], expected[:2], strict=True):
        torch.testing.assert_close(p.detach(), -e.grad)


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_lets_the_scaler_skip_an_overflow(fused):
    parameters = gradients()
    optimizer = torch.optim.SGD(parameters, lr=1.0, fused=fused)
    clip = gradient_clip(optimizer, 0.5)
    clip.actuator.attach()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    p = parameters[0]
    p.grad = None
    scaler.scale((p * torch.inf).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all((p == 0).all() for p in parameters)
    assert scaler.get_scale() == 512.0


def test_clipping_nothing_does_nothing():
    optimizer = torch.optim.SGD(weights(), lr=1.0)
    gradient_clip(optimizer, 1.0).actuator.attach()
    optimizer.step()


def test_one_clip_an_optimizer():
    optimizer = torch.optim.SGD(weights(), lr=1.0)
    assert gradient_clip(optimizer, 1.0).actuator.targets == gradient_clip(optimizer, 2.0).actuator.targets
    with pytest.raises(TuneError, match="gradient_clip must lie in"):
        gradient_clip(optimizer, 0.0)


def test_accumulation_is_read_by_the_loop():
    accumulation = gradient_accumulation(4)
    accumulation.write(8)
    assert (accumulation(), accumulation.name, accumulation.unit) == (
        8,
        "gradient_accumulation",
        "micro-batches",
    )
    with pytest.raises(TuneError, match=r"must lie in \[1, 1024\], got 0"):
        gradient_accumulation(0)
