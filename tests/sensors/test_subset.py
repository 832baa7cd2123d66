import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.sensors.subset import LIMIT, Subset

CPU = torch.device("cpu")


def squares(*tensors):
    which = tuple(range(len(tensors)))
    subset = Subset(tensors, CPU)
    return subset.squares(subset.take(tensors), which)


def places(*shape):
    """The positions that are taken of a tensor of this shape."""
    n = math.prod(shape)
    subset = Subset([torch.empty(shape)], CPU)
    return subset.take([torch.arange(n, dtype=torch.float64).view(shape)]).long()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
def test_small_tensors_are_exact(dtype):
    torch.manual_seed(0)
    tensors = [torch.randn(30, 30).to(dtype), torch.randn(1).to(dtype), torch.randn(5, 0).to(dtype)]
    exact = torch.stack([t.to(torch.complex128).norm().real ** 2 for t in tensors]).float()
    torch.testing.assert_close(squares(*tensors), exact)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 300), min_size=1, max_size=3).filter(lambda s: 1 < math.prod(s) < 10**6),
    power=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**31),
)
def test_the_error_of_a_norm_is_the_one_that_the_docstring_states(shape, power, seed):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).pow(power)
    kurtosis = float(x.pow(4).mean() / x.square().mean() ** 2)
    error = abs(float(squares(x).sqrt() / x.norm()) - 1)
    taken = len(places(*shape))
    # 5 standard errors, and the tail of a skewed estimate
    assert error <= (1e-6 if x.numel() <= LIMIT else 5.5 * math.sqrt((kurtosis - 1) / (4 * taken)))


@pytest.mark.parametrize(
    "shape", [(446, 446), (4096, 4096), (64, 1000), (50_000, 8), (128, 128, 3, 3), (10**6,)]
)
def test_no_row_column_channel_or_kernel_position_is_singled_out(shape):
    taken = places(*shape)
    assert LIMIT / 2 <= len(taken) <= LIMIT
    for axis, index in enumerate(torch.unravel_index(taken, shape)):
        visits = torch.bincount(index, minlength=shape[axis])
        assert visits.max() - visits.min() <= max(1, 0.1 * len(taken) / shape[axis]), f"axis {axis}"


@pytest.mark.parametrize("side", [256, 1000, 2048, 4096])
def test_the_diagonal_is_not_singled_out(side):
    on_diagonal = int((places(side, side) % (side + 1) == 0).sum())
    assert on_diagonal <= 2 + 2 * LIMIT / side


def test_memory_order_is_followed_without_a_copy():
    x = torch.randn(64, 32, 3, 3).to(memory_format=torch.channels_last)
    subset = Subset([x], CPU)
    before = subset.take([x])
    x.mul_(2)
    torch.testing.assert_close(subset.take([x]), 2 * before)
    matrix = torch.randn(300, 500)
    taken = Subset([matrix], CPU).take([matrix])
    across = matrix.t()
    torch.testing.assert_close(Subset([across], CPU).take([across]), taken)


def test_a_missing_tensor_gives_zeros_in_its_place():
    tensors = [torch.ones(3), torch.ones(5000), torch.ones(2)]
    subset = Subset(tensors, CPU)
    taken = subset.take([tensors[0], None, tensors[2]])
    assert len(taken) == sum(subset.sizes)
    assert float(taken.sum()) == 5
    assert float(taken[3:-2].abs().max()) == 0
