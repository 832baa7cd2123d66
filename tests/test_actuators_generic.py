from types import SimpleNamespace

import pytest
import torch
from torch import nn

import autotune.actuators
from autotune.actuators import attribute, call
from autotune.records import TuneError


@pytest.mark.parametrize(
    ("start", "options", "value"),
    [
        (0.5, {"low": 0.0, "high": 1.0}, 0.25),
        (0.5, {"kind": "log", "low": 0.01, "high": 1.0}, 0.25),
        (5, {"kind": "int", "low": 0, "high": 9}, 7),
        ("relu", {"kind": "categorical", "choices": ["relu", "gelu"]}, "gelu"),
        (False, {"kind": "categorical", "choices": [True, False]}, True),
    ],
)
def test_an_attribute_of_each_kind(start, options, value):
    thing = SimpleNamespace(knob=start)
    knob = attribute(thing, "knob", unit="m", **options)
    assert (knob.name, knob.kind, knob.unit, knob()) == ("knob", options.get("kind", "float"), "m", start)
    assert knob.write(value) == value == thing.knob
    thing.knob = start
    assert knob() == start  # always what the plant holds


def test_write_reads_back_what_a_property_made_of_it():
    class Even:
        _n = 2

        @property
        def n(self):
            return self._n

        @n.setter
        def n(self, value):
            self._n = value - value % 2

    assert attribute(Even(), "n", kind="int", low=0, high=9).write(5) == 4


def test_a_buffer_is_filled_in_place():
    module = nn.BatchNorm1d(1)
    module.register_buffer("scale", torch.tensor(1.0))
    scale, tensor = attribute(module, "scale", low=0.0, high=2.0, name="bn/scale"), module.scale
    assert scale.write(0.5) == 0.5 == float(tensor)
    assert module.scale is tensor
    assert scale.name == "bn/scale"


def test_attributes_that_are_missing_or_cannot_be_set_are_refused():
    with pytest.raises(TuneError, match="SimpleNamespace has no attribute 'x'; set it before"):
        attribute(SimpleNamespace(), "x", low=0.0, high=1.0)
    with pytest.raises(TuneError, match=r"must be one that can be set.*use call\(\)"):
        attribute(1.5, "real", low=0.0, high=2.0)


def test_attributes_share_a_target_only_when_they_are_the_same():
    a, b = SimpleNamespace(x=0.5, y=0.5), SimpleNamespace(x=0.5)

    def targets(obj, key):
        return attribute(obj, key, low=0.0, high=1.0).actuator.targets

    assert targets(a, "x") == targets(a, "x")
    assert len({targets(a, "x"), targets(a, "y"), targets(b, "x")}) == 3


class Plant:
    def __init__(self):
        self.held = 3

    def get(self):
        return self.held

    def set(self, value):
        self.held = min(value, 8)  # the plant has limits of its own


def test_a_call_writes_through_one_function_and_reads_through_the_other():
    plant = Plant()
    n = call("n", write=plant.set, read=plant.get, kind="int", low=0, high=10)
    assert n() == 3
    assert n.write(10) == 8 == plant.held == n()
    again = call("m", write=plant.set, read=plant.get, kind="int", low=0, high=10)
    assert n.actuator.targets == again.actuator.targets
    assert n.actuator.targets != call("n", write=Plant().set, read=plant.get, low=0, high=10).actuator.targets


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "kind 'float' needs low= and high= and no choices, got low=None"),
        ({"low": 0.0}, "needs low= and high="),
        ({"kind": "categorical"}, "kind 'categorical' needs choices=.* and no bounds"),
        ({"kind": "categorical", "choices": [1, 2], "low": 0, "high": 1}, "needs choices"),
        ({"low": 0.0, "high": 1.0, "choices": [1, 2]}, "no choices"),
        ({"kind": "bool", "low": 0.0, "high": 1.0}, "kind is float, log, int or categorical, got 'bool'"),
        ({"low": 2.0, "high": 1.0}, "low must be below high"),
        ({"low": 0.0, "high": 1.0}, r"x must lie in \[0, 1\], got 3"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(TuneError, match=message):
        call("x", write=Plant().set, read=Plant().get, **options)


def test_all_is_exported_and_documented():
    for name in autotune.actuators.__all__:
        assert getattr(autotune.actuators, name).__doc__, name
