import json
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autotune.encoding import DTYPES, decode, encode
from autotune.records import TuneError


def round_trip(value):
    tensors = {}
    text = json.dumps(encode(value, tensors), allow_nan=False)
    return decode(json.loads(text), tensors)


def same(a, b):
    """Equality that minds types, the order of dicts, NaN and the sign of zero."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


hashable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
arrays = st.sampled_from(
    ["b1", "<i2", ">i4", "<u8", "<f2", ">f8", "<c16", "S3", "<U2", "<M8[s]", "<m8[ns]"]
).flatmap(
    lambda dtype: hnp.arrays(
        np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    )
)
values = st.recursive(
    hashable | st.floats() | st.complex_numbers() | arrays | arrays.filter(np.size).map(lambda a: a.flat[0]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$", "a", "b"]), inner)
        | st.dictionaries(st.text(), inner, max_size=4).map(OrderedDict)
        | st.lists(inner, max_size=4).map(lambda items: deque(items, maxlen=4))
        | st.sets(hashable, max_size=4)
        | st.lists(hashable, max_size=4).map(Counter)
        | st.dictionaries(st.text(), st.lists(inner, max_size=2), max_size=3).map(
            lambda d: defaultdict(list, d)
        )
    ),
    max_leaves=12,
)


@given(values)
def test_values_round_trip(value):
    assert same(round_trip(value), value)


@pytest.mark.parametrize(
    "value",
    [
        deque([1], maxlen=2),
        deque([1]),
        defaultdict(None, {1: 2}),
        defaultdict(int, {"a": 1}),
        torch.Size([2, 3]),
    ],
)
def test_what_equality_does_not_show_round_trips(value):
    back = round_trip(value)
    assert same(back, value)
    assert getattr(back, "maxlen", None) == getattr(value, "maxlen", None)
    assert getattr(back, "default_factory", None) is getattr(value, "default_factory", None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 2), (2, 3)])
def test_tensors_round_trip(dtype, shape):
    tensor = torch.ones(shape).to(dtype)
    tensors = {}
    data = encode({"a": [tensor]}, tensors)
    assert list(tensors) == ["a/0"]
    assert decode(data, tensors)["a"][0] is tensor


def test_a_tensor_is_stored_once_and_names_do_not_clash():
    one, two = torch.ones(1), torch.zeros(1)
    tensors = {}
    value = {"a/b": one, "a": {"b": two}, "c": one}
    back = decode(encode(value, tensors), tensors)
    assert len(tensors) == 2
    assert back["a/b"] is back["c"] is one
    assert back["a"]["b"] is two


Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (object(), "a builtins.object"),
        (lambda: 0, "a builtins.function"),
        (Pair(1, 2), "a test_encoding.Pair"),
        (defaultdict(lambda: 0), "a collections.defaultdict"),
        (np.array([object()]), "a NumPy value of dtype object"),
        (np.zeros(1, [("a", "i4")]), "a NumPy value of dtype"),
        (torch.eye(2).to_sparse(), "a tensor of torch.sparse_coo, torch.float32"),
        (torch.zeros(1, dtype=torch.complex128), "a tensor of torch.strided, torch.complex128"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_place(value, what):
    with pytest.raises(TuneError, match=rf"got {what}.* at sensors/2/x; leave it out"):
        encode({"sensors": [0, 1, {"x": value}]}, {})


def test_a_state_of_a_later_version_is_refused():
    with pytest.raises(TuneError, match="got the tag 'quaternion'; upgrade"):
        decode({"$": "quaternion"}, {})


def test_a_missing_tensor_is_named():
    data = encode({"a": torch.ones(1)}, {})
    with pytest.raises(TuneError, match="'a' is not; take an older state"):
        decode(data, {})
