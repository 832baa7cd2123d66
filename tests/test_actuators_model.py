import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from autotune.actuators import TunableDropout, attribute, dropout, frozen_layers, learning_rate
from autotune.records import TuneError


def parts(p=0.1):
    return nn.ModuleDict(
        {
            "plain": nn.Dropout(p),
            "image": nn.Dropout2d(p),
            "alpha": nn.AlphaDropout(p),
            "attention": nn.MultiheadAttention(4, 2, dropout=p),
            "lstm": nn.LSTM(4, 4, num_layers=2, dropout=p),
            "gru1": nn.GRU(4, 4),
            "tunable": TunableDropout(p),
        }
    )


# --- dropout -----------------------------------------------------------------------------------------------


def test_dropout_is_written_to_every_module_that_has_it():
    model = parts()
    hyperparameter = dropout(model)
    assert hyperparameter() == pytest.approx(0.1)
    assert hyperparameter.write(0.25) == 0.25
    assert [model[name].p for name in ("plain", "image", "alpha")] == [0.25] * 3
    assert model["attention"].dropout == model["lstm"].dropout == 0.25
    assert float(model["tunable"].p) == 0.25
    assert model["gru1"].dropout == 0.0  # one layer: torch applies none


def test_dropout_by_pattern_and_of_one_module():
    model = nn.ModuleDict({"encoder": parts(0.1), "decoder": parts(0.5)})
    dropout(model, "encoder.*").write(0.2)
    assert model["encoder"]["plain"].p == 0.2
    assert model["decoder"]["plain"].p == 0.5
    one = dropout(model["decoder"]["plain"], name="decoder/dropout")
    one.write(0.3)
    assert model["decoder"]["plain"].p == 0.3
    assert model["decoder"]["image"].p == 0.5
    assert one.name == "decoder/dropout"


def test_dropout_shares_targets_with_whatever_writes_the_same_module():
    model = nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.1))
    everything = dropout(model).actuator.targets
    assert dropout(model, "1").actuator.targets < everything
    assert attribute(model[0], "p", low=0.0, high=1.0).actuator.targets < everything
    assert not dropout(model, "0").actuator.targets & dropout(model, "1").actuator.targets


def test_dropout_refuses_different_values_and_none_at_all():
    model = nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.2))
    with pytest.raises(TuneError, match=r"same probability, got 0=0.1, 1=0.2; make one for each"):
        dropout(model)
    with pytest.raises(TuneError, match=r"Sequential has none whose name matches 'x\*'; use attribute"):
        dropout(model, "x*")
    with pytest.raises(TuneError, match="Linear has none"):
        dropout(nn.Linear(1, 1))


def test_dropout_changes_what_the_model_computes():
    torch.manual_seed(0)
    model = nn.Dropout(0.5)
    hyperparameter = dropout(model)
    for p in (0.0, 0.2, 0.8):
        hyperparameter.write(p)
        assert (model(torch.ones(20_000)) == 0).float().mean().item() == pytest.approx(p, abs=0.02)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tunable_dropout_is_dropout(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(20_000, dtype=dtype, requires_grad=True)
    layer = TunableDropout(p)
    y = layer(x)
    assert y.dtype == dtype
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.02)
    if p < 1:
        assert torch.equal(y[y != 0], (x[:1] / (1 - layer.p)).expand(int((y != 0).sum())))
    y.sum().backward()
    assert torch.equal(x.grad, y)
    layer.eval()
    assert layer(x) is x


def test_tunable_dropout_keeps_its_precision_and_stays_out_of_the_state_dict():
    layer = TunableDropout(0.1).to(torch.bfloat16)
    assert layer.p.dtype == torch.float32
    assert layer.p.item() == torch.tensor(0.1).item()
    assert "p" in dict(layer.named_buffers())
    plain, tunable = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), nn.Sequential(nn.Linear(2, 2), layer)
    tunable.load_state_dict(plain.state_dict())
    plain.load_state_dict(tunable.state_dict())
    assert repr(layer) == "TunableDropout(p=0.1)"
    with torch.device("meta"):
        ghost = TunableDropout(0.1)
    assert ghost.to_empty(device="cpu").p.shape == ()
    with pytest.raises(TuneError, match=r"lies in \[0, 1\], got 1.5"):
        TunableDropout(1.5)


def compilations(layer):
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 4), layer)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    hyperparameter = dropout(model)
    for k in range(5):
        hyperparameter.write(0.1 * k)
        compiled(torch.ones(2, 4))
    return counter.frame_count


def test_changing_tunable_dropout_compiles_nothing_again():
    assert compilations(TunableDropout(0.2)) == 1
    assert compilations(nn.Dropout(0.2)) > 1  # what it is there to avoid


# --- frozen layers -----------------------------------------------------------------------------------------


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))


def train(model, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()


def moved(model, before):
    return [not torch.equal(layer.weight, w) for layer, w in zip(model, before, strict=True)]


@pytest.mark.parametrize("family", ["SGD", "AdamW"])
def test_only_what_is_not_frozen_moves(family):
    model = net()
    kwargs = {"momentum": 0.9} if family == "SGD" else {}
    optimizer = getattr(torch.optim, family)(model.parameters(), lr=0.01, weight_decay=0.1, **kwargs)
    frozen = frozen_layers([model[0], model[1], model[2]], optimizer)
    assert (frozen(), frozen.low, frozen.high) == (0, 0, 2)  # one is always left to train
    for count, expected in ((0, [True] * 3), (2, [False, False, True]), (1, [False, True, True])):
        train(model, optimizer)  # gradients and momentum exist when the layers are frozen
        assert frozen.write(count) == count == frozen()
        before = [layer.weight.detach().clone() for layer in model]
        for layer in model[:count]:
            assert all(p.grad is None and not p.requires_grad for p in layer.parameters())
        train(model, optimizer)
        assert moved(model, before) == expected


def test_gradients_that_wait_for_the_step_are_dropped_when_a_layer_is_frozen():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    frozen = frozen_layers([model[0]], optimizer)
    model(torch.ones(2, 4)).sum().backward()
    frozen.write(1)
    before = [layer.weight.detach().clone() for layer in model]
    optimizer.step()
    assert moved(model, before) == [False, True, True]


def test_what_starts_frozen_is_counted_and_thawed():
    model = net()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    frozen = frozen_layers([model[0], list(model[1].parameters())], optimizer)
    assert (frozen(), frozen.high) == (1, 2)
    frozen.write(0)
    before = [layer.weight.detach().clone() for layer in model]
    train(model, optimizer)
    assert moved(model, before) == [True, True, True]


def test_missing_parameters_are_added_to_the_optimizer_once():
    model = net()
    model[:2].requires_grad_(False)
    optimizer = torch.optim.AdamW(model[2].parameters(), lr=0.01, weight_decay=0.2)
    frozen = frozen_layers([model[0], model[1]], optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2, 2]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2] * 3
    lr = learning_rate(optimizer)
    for count in (2, 1, 0, 2, 0):
        frozen.write(count)
        train(model, optimizer)
    frozen_layers([model[0], model[1]], optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2, 2]
    lr.write(0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5] * 3


@pytest.mark.parametrize("make", [lambda o: StepLR(o, 3), ReduceLROnPlateau])
def test_nothing_is_added_behind_a_schedulers_back(make):
    model = net()
    optimizer = torch.optim.SGD(model[1:].parameters(), lr=0.1)
    scheduler = make(optimizer)
    with pytest.raises(TuneError, match=r"2 parameters .* make the scheduler after frozen_layers"):
        frozen_layers([model[0]], optimizer)
    assert len(optimizer.param_groups) == 1
    assert frozen_layers([model[1]], optimizer)() == 0  # nothing to add
    del scheduler


def test_groups_that_make_no_sense_are_refused():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TuneError, match=r"groups\[1\] has none; leave it out"):
        frozen_layers([model[0], nn.ReLU()], optimizer)
    with pytest.raises(TuneError, match=r"one of shape \(4, 4\) is in groups\[0\] and groups\[1\]"):
        frozen_layers([model[0], [model[0].weight]], optimizer)
    with pytest.raises(TuneError, match="something must stay trainable"):
        frozen_layers([model], optimizer)
    with pytest.raises(TuneError, match="something must stay trainable"):
        frozen_layers([], torch.optim.SGD(net().parameters(), lr=0.1))
    model[1].requires_grad_(False)
    with pytest.raises(TuneError, match=r"groups\[1\] is frozen and groups\[0\] is not; reorder"):
        frozen_layers([model[0], model[1]], optimizer)
    model[0].weight.requires_grad_(False)
    with pytest.raises(TuneError, match=r"groups\[0\] is partly frozen"):
        frozen_layers([model[0]], optimizer)


def test_frozen_layers_that_overlap_share_a_target():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = frozen_layers([model[0], model[1]], optimizer).actuator.targets
    assert first & frozen_layers([model[1]], optimizer).actuator.targets
    assert not first & frozen_layers([model[2]], optimizer).actuator.targets
