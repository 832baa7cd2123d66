"""Goes into tests/test_generators.py."""

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune.generators import Generators

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


def draw():
    return random.random(), random.gauss(0, 1), np.random.random(), np.random.normal(), float(torch.rand(1))


@given(st.lists(st.lists(st.sampled_from(sorted(DRAWS)), max_size=4), max_size=8))
def test_a_state_that_shares_with_an_earlier_one_is_the_same_state(moments):
    generators, last = Generators(), None
    for names in moments:
        for name in names:
            DRAWS[name]()
        last = generators.capture(last)
        drawn = draw()
        draw()
        generators.restore(last)
        assert draw() == drawn
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
