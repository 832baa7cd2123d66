from collections import OrderedDict, UserDict, namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset

from autotune.actuators import BatchTransform, VariableBatchSampler, batch_size, sequence_length
from autotune.records import TuneError

Pair = namedtuple("Pair", "inputs targets")


def loader(count=20, size=4, drop_last=False, **options):
    dataset = TensorDataset(torch.arange(count))
    sampler = VariableBatchSampler(SequentialSampler(dataset), size, drop_last)
    return DataLoader(dataset, batch_sampler=sampler, **options)


# --- batch size --------------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(1, 12), st.booleans())
def test_an_untouched_sampler_is_torchs(count, size, drop_last):
    ours = VariableBatchSampler(range(count), size, drop_last)
    theirs = torch.utils.data.BatchSampler(range(count), size, drop_last)
    assert list(ours) == list(theirs)
    assert len(ours) == len(theirs)


@given(st.integers(0, 60), st.lists(st.integers(1, 9), min_size=1), st.booleans())
def test_no_sample_is_lost_or_repeated_however_the_size_moves(count, sizes, drop_last):
    sampler = VariableBatchSampler(range(count), sizes[0], drop_last)
    batches = []
    for k, batch in enumerate(sampler):
        assert len(batch) == sampler.batch_size or not drop_last
        batches.append(batch)
        sampler.batch_size = sizes[k % len(sizes)]
    drawn = [i for batch in batches for i in batch]
    assert drawn == list(range(len(drawn)))
    assert len(drawn) == count or (drop_last and count - len(drawn) < sampler.batch_size)


def test_the_size_changes_in_mid_epoch():
    data = loader()
    size = batch_size(data)
    assert (size(), size.low, size.high, size.unit) == (4, 1, 32, "samples")
    lengths = []
    for (x,) in data:
        lengths.append(len(x))
        assert size.write(7) == 7 == size()
    assert lengths == [4, 7, 7, 2]
    assert len(data) == 3


def test_with_workers_batches_in_flight_come_first():
    data = loader(40, num_workers=2, prefetch_factor=1)
    size = batch_size(data)
    batches = []
    for (x,) in data:
        batches.append(x.tolist())
        size.write(8)
    lengths = [len(batch) for batch in batches]
    assert lengths[:2] == [4, 4]  # drawn before the first was yielded
    assert 8 in lengths[2:4]
    assert [i for batch in batches for i in batch] == list(range(40))


def test_a_loader_with_torchs_sampler_is_refused_with_the_way_to_build_one():
    dataset = TensorDataset(torch.arange(8))
    with pytest.raises(TuneError, match=r"got DataLoader with BatchSampler; build it as DataLoader\(dataset"):
        batch_size(DataLoader(dataset, batch_size=4))
    with pytest.raises(TuneError, match="got list with NoneType"):
        batch_size([1, 2])
    random = DataLoader(dataset, batch_sampler=VariableBatchSampler(RandomSampler(dataset), 4, False))
    assert batch_size(random).actuator.targets == batch_size(random).actuator.targets


# --- sequence length ---------------------------------------------------------------------------------------


def test_every_long_tensor_is_cropped_wherever_it_is_nested():
    length = sequence_length(6)
    assert isinstance(length.actuator, BatchTransform)
    length.write(3)
    x, label, short = torch.arange(24).view(2, 6, 2), torch.arange(2), torch.ones(2, 3)
    batch = Pair([x, label], {"mask": x[..., 0], "deep": (short, "text", None)})
    out = length.actuator.apply(batch)
    assert type(out) is Pair
    assert torch.equal(out.inputs[0], x[:, :3])
    assert out.inputs[1] is label
    assert torch.equal(out.targets["mask"], x[:, :3, 0])
    assert out.targets["deep"][0] is short
    assert out.targets["deep"][1:] == ("text", None)
    out.inputs[0].view(-1)  # contiguous, as it came


def test_the_batch_itself_is_left_as_it_is():
    length = sequence_length(4)
    x = torch.arange(8).view(2, 4)
    batch = {"x": [x]}
    assert length.actuator.apply(batch)["x"][0] is x  # the full length changes nothing
    length.write(2)
    out = length.actuator.apply(batch)
    out["x"][0].zero_()
    assert batch["x"][0] is x
    assert torch.equal(x, torch.arange(8).view(2, 4))


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
def test_mappings_keep_their_type(kind):
    length = sequence_length(4)
    length.write(2)
    out = length.actuator.apply(kind(a=torch.ones(2, 4)))
    assert type(out) is kind
    assert out["a"].shape == (2, 2)


def test_another_dimension():
    length = sequence_length(4, dim=0)
    length.write(2)
    assert length.actuator.apply(torch.ones(4, 8)).shape == (2, 8)
    assert length.actuator.targets != sequence_length(4).actuator.targets
    with pytest.raises(TuneError, match="dim counts from the front, 0 or more, got -1"):
        sequence_length(4, dim=-1)
    with pytest.raises(TuneError, match=r"sequence_length must lie in \[1, 4\], got 5"):
        length.write(5)
