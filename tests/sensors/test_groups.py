import torch
from torch import nn

from autotune.sensors import layer_groups


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        self.relu = nn.ReLU()
        self.head = nn.Linear(3, 3)
        self.head.weight = self.body[0].weight


def same(tensors, expected):
    return [id(t) for t in tensors] == [id(t) for t in expected]


def test_one_group_a_child_with_each_tensor_once():
    model = Model()
    groups = layer_groups(model)
    assert list(groups) == ["Model", "body", "head"]
    assert same(groups["Model"], [model.scale])
    assert same(groups["body"], model.body.parameters())
    assert same(groups["head"], [model.head.bias])  # its weight is tied to the body's


def test_wrappers_are_looked_through():
    assert list(layer_groups(nn.Sequential(nn.Sequential(Model())))) == ["Model", "body", "head"]
    assert list(layer_groups(nn.Sequential(nn.Linear(2, 2)))) == ["Linear"]


def test_many_children_are_merged_and_none_is_lost():
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(40)))
    groups = layer_groups(model)
    assert list(groups) == [*map(str, range(31)), "rest"]
    assert same([t for tensors in groups.values() for t in tensors], model.parameters())
    assert len(layer_groups(nn.Sequential(*(nn.Linear(1, 1) for _ in range(32))))) == 32
