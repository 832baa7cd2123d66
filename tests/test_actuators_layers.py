import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from autotune.actuators import discriminative_groups, frozen_layers, layers_of, learning_rate
from autotune.records import TuneError


class Residual(nn.Module):
    """A block with a shortcut of its own, as in a ResNet."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Residual(4, 4), Residual(4, 4))
        self.layer2 = nn.Sequential(Residual(4, 8))
        self.fc = nn.Linear(8, 2)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.tokens, self.positions = nn.Embedding(9, 8), nn.Embedding(5, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16)
        self.encoder = nn.TransformerEncoder(layer, 12, nn.LayerNorm(8), enable_nested_tensor=False)
        self.head = nn.Linear(8, 9)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def cnn():
    def stage(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU())

    return nn.Sequential(stage(1, 4), stage(4, 8), nn.Flatten(), nn.Linear(8, 2))


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(vocab_size=20, **SMALL))


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=2, n_head=2))


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **SMALL))


SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
FOUND = {
    mlp: ["0", "2", "4"],
    cnn: ["0.0", "1.0", "3"],
    ResNet: ["conv1", "layer1.0", "layer1.1", "layer2.0", "fc"],
    Transformer: ["tokens", *(f"encoder.layers.{i}" for i in range(12)), "head"],
    bert: [
        "bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler.dense", "classifier",
    ],
    gpt2: ["transformer.wte", "transformer.h.0", "transformer.h.1"],  # its head is tied to the embedding
    vit: ["vit.embeddings", "vit.layers.0", "vit.layers.1", "classifier"],
}  # fmt: skip


@pytest.mark.parametrize("make", FOUND, ids=lambda make: make.__name__)
def test_layers_are_found_in_order_and_hold_every_parameter_once(make):
    model = make()
    layers = layers_of(model)
    assert list(layers) == FOUND[make]
    held = [id(p) for layer in layers.values() for p in layer]
    assert sorted(held) == sorted(map(id, model.parameters()))
    for name, layer in layers.items():
        assert {id(p) for p in model.get_submodule(name).parameters()} <= {id(p) for p in layer}


def test_what_has_no_matrix_joins_the_layer_in_front_and_the_first_the_next():
    model = Transformer()
    layers = layers_of(model)
    ids = {name: set(map(id, layer)) for name, layer in layers.items()}
    assert ids["tokens"] == {id(model.class_token), id(model.tokens.weight), id(model.positions.weight)}
    assert id(model.encoder.norm.weight) in ids["encoder.layers.11"]
    layers = layers_of(nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3), nn.PReLU()))
    assert {name: len(layer) for name, layer in layers.items()} == {"1": 5}


def test_wrappers_are_looked_through_and_blocks_are_not():
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.dropout = inner, nn.Dropout()

    assert list(layers_of(torch.compile(mlp()))) == ["0", "2", "4"]
    assert list(layers_of(nn.Sequential(Wrapper(mlp()), nn.Linear(2, 2)))) == [
        "0.inner.0", "0.inner.2", "0.inner.4", "1",
    ]  # fmt: skip
    assert list(layers_of(nn.Sequential(Wrapper(mlp()), Wrapper(mlp())))) == ["0", "1"]


def test_a_model_of_one_layer_and_one_without():
    assert list(layers_of(nn.Linear(2, 2))) == ["Linear"]
    assert list(layers_of(nn.LayerNorm(2))) == ["LayerNorm"]
    with pytest.raises(TuneError, match="found by their parameters, but ReLU has none"):
        layers_of(nn.ReLU())


# --- frozen layers of a model ------------------------------------------------------------------------------


def test_a_model_is_frozen_layer_by_layer_and_its_head_never():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    frozen = frozen_layers(model, optimizer)
    assert (frozen(), frozen.low, frozen.high) == (0, 0, 2)
    frozen.write(2)
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 2
    frozen.write(1)
    assert [p.requires_grad for p in model.parameters()] == [False] * 2 + [True] * 4


def test_a_module_list_is_a_list_of_groups():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    frozen = frozen_layers(nn.ModuleList([model[0], model[2], model[4]]), optimizer)
    assert frozen.high == 2
    assert frozen_layers(nn.ModuleList([model[0], model[2]]), optimizer).high == 2  # the last may freeze too


def test_what_is_fixed_for_good_in_a_layer_of_a_model_stays_so():
    model = mlp()
    model[0].bias.requires_grad_(False)
    frozen = frozen_layers(model, torch.optim.SGD(model.parameters(), lr=0.1))
    frozen.write(1)
    frozen.write(0)
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["0.bias"]


def test_a_model_that_cannot_be_frozen_in_order_is_named():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[2].requires_grad_(False)
    with pytest.raises(TuneError, match="but 2 is frozen and 0 is not; reorder"):
        frozen_layers(model, optimizer)
    with pytest.raises(TuneError, match="last layer trainable, and Linear has only 'Linear'"):
        frozen_layers(nn.Linear(2, 2), optimizer)


# --- discriminative rates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["model", "groups"])
def test_rates_fall_by_a_factor_from_the_head_downwards_and_keep_their_ratios(given):
    model = mlp()
    groups = model if given == "model" else [model[0], model[2].parameters(), [*model[4].parameters()]]
    optimizer = torch.optim.AdamW(discriminative_groups(groups, lr=0.26, weight_decay=0.1))
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.26, 0.1, 0.1 / 2.6])
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1] * 3
    assert optimizer.param_groups[0]["params"][0] is model[4].weight
    lr = learning_rate(optimizer)
    assert lr() == 0.26
    lr.write(0.026)
    rates = [g["lr"] for g in optimizer.param_groups]
    assert [a / b for a, b in pairwise(rates)] == pytest.approx([2.6, 2.6])
    frozen = frozen_layers(model, optimizer)  # nothing is missing that it would add
    assert (len(optimizer.param_groups), frozen.high) == (3, 2)


@pytest.mark.parametrize("lr", [0, -1.0, math.nan, math.inf, "0.1", True])
def test_a_rate_out_of_range_is_refused(lr):
    with pytest.raises(TuneError, match="a finite number above 0, got"):
        discriminative_groups(mlp(), lr)


def test_bad_groups_and_options_are_refused():
    model = mlp()
    with pytest.raises(TuneError, match=r"factor is a finite number of at least 1, got 0\.5"):
        discriminative_groups(model, 0.1, factor=0.5)
    with pytest.raises(TuneError, match="got params="):
        discriminative_groups(model, 0.1, params=[])
    with pytest.raises(TuneError, match=r"groups\[1\] has none"):
        discriminative_groups([model[0], nn.ReLU()], 0.1)
    with pytest.raises(TuneError, match=r"is in groups\[0\] and groups\[1\]"):
        discriminative_groups([model, model[0]], 0.1)
    assert discriminative_groups(model, 0.1, factor=1)[2]["lr"] == 0.1
