import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune.encoding import decode, encode
from autotune.generators import Generators
from autotune.records import TuneError

PRIVATE = {
    "torch": lambda: torch.Generator().manual_seed(1),
    "numpy": lambda: np.random.default_rng(1),
    "legacy": lambda: np.random.RandomState(1),
    "python": lambda: random.Random(1),
}


def draw(private):
    """A few numbers of each generator; an odd count of normals, so that a cached second one matters."""
    return [
        random.random(),
        random.gauss(0, 1),
        *np.random.randn(3).tolist(),
        *torch.randn(3).tolist(),
        *torch.randn(3, generator=private["torch"]).tolist(),
        *private["numpy"].normal(size=3).tolist(),
        *private["numpy"].integers(9, size=3, dtype=np.int32).tolist(),
        *private["legacy"].randn(3).tolist(),
        private["python"].gauss(0, 1),
    ]


@pytest.mark.parametrize("stored", [False, True])
def test_a_state_is_restored_three_times(stored):
    private = {name: make() for name, make in PRIVATE.items()}
    generators = Generators(private)
    draw(private)
    state = generators.capture()
    if stored:
        tensors = {}
        state = decode(json.loads(json.dumps(encode(state, tensors))), tensors)
    expected = [draw(private) for _ in range(2)]
    assert expected[0] != expected[1]
    for _ in range(3):
        assert generators.restore(state) == frozenset()
        assert [draw(private) for _ in range(2)] == expected


def test_capturing_draws_nothing():
    private = {name: make() for name, make in PRIVATE.items()}
    generators = Generators(private)
    state = generators.capture()
    expected = draw(private)
    generators.restore(state)
    for _ in range(5):
        generators.capture()
    assert draw(private) == expected


@pytest.mark.parametrize(
    "change",
    [
        random.random,
        lambda: random.gauss(0, 1),
        lambda: random.seed(5),
        np.random.rand,
        np.random.randn,
        lambda: np.random.rand(700),
        lambda: np.random.seed(5),
        lambda: torch.rand(1),
        lambda: None,
    ],
)
@pytest.mark.parametrize("normal_held_back", [False, True])
def test_a_state_that_shares_with_an_earlier_one_is_as_good(change, normal_held_back):
    private = {name: make() for name, make in PRIVATE.items()}
    generators = Generators(private)
    np.random.seed(1)
    if normal_held_back:
        np.random.randn()
    last = generators.capture()
    change()
    state = generators.capture(last)
    expected = draw(private)
    generators.restore(last)
    generators.restore(state)
    assert draw(private) == expected


def test_registering_a_generator_again_changes_nothing():
    generator = torch.Generator()
    generators = Generators({"loader": generator})
    generators.register("loader", generator)
    generators.register("sampler", generator)
    generators.register("default", torch.default_generator)
    assert [name for name in generators.capture() if "/" in name] == ["private/loader"]


def test_what_could_not_be_restored_is_named():
    generators = Generators()
    before = generators.capture()
    late = torch.Generator().manual_seed(3)
    generators.register("late", late)
    position = late.get_state()
    assert generators.restore(before) == {"private/late"}
    assert torch.equal(late.get_state(), position)
    assert Generators().restore(generators.capture()) == {"private/late"}


def test_two_generators_of_one_name_are_refused():
    generators = Generators({"loader": torch.Generator()})
    with pytest.raises(TuneError, match="used once, got 'loader' for two; give one of them another name"):
        generators.register("loader", torch.Generator())


def test_a_seed_is_refused():
    with pytest.raises(TuneError, match="got int for 'seed'; pass the generator itself, not a seed"):
        Generators({"seed": 0})


DRAWS = {
    "python": random.random,
    "python_gauss": lambda: random.gauss(0, 1),
    "numpy": np.random.random,
    "numpy_normal": np.random.normal,  # makes two, and holds one back
    "torch": lambda: torch.rand(1),
    "numpy_seed": lambda: np.random.seed(random.getrandbits(32)),
    "python_seed": lambda: random.seed(3),
    "many": lambda: [random.random() for _ in range(312)],  # all 624 words
}


def drawn_now():
    return random.random(), random.gauss(0, 1), np.random.random(), np.random.normal(), float(torch.rand(1))


@given(st.lists(st.lists(st.sampled_from(sorted(DRAWS)), max_size=4), max_size=8))
def test_a_state_that_shares_with_an_earlier_one_is_the_same_state(moments):
    generators, last = Generators(), None
    for names in moments:
        for name in names:
            DRAWS[name]()
        last = generators.capture(last)
        drawn = drawn_now()
        drawn_now()
        generators.restore(last)
        assert drawn_now() == drawn
        generators.restore(last)


def test_what_has_not_moved_is_shared():
    np.random.seed(0)  # holds no normal variate back
    generators = Generators()
    first = generators.capture()
    torch.rand(1)
    second = generators.capture(first)
    assert second["numpy"] is first["numpy"]
    assert second["python"] is first["python"]
    assert not torch.equal(second["torch"], first["torch"])
