import math
import multiprocessing
import random
import time
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from saving_processes import TOO_LARGE, save_over_and_over, save_where_it_does_not_fit
from test_snapshots import OPTIMIZERS, SCHEDULES, Recurrent, Run, assert_same, plant_of
from torch import nn

from autotune import manifest
from autotune.checkpoints import STATE, TENSORS, CheckpointStore
from autotune.generators import Generators
from autotune.manifest import MANIFEST
from autotune.plant import Plant
from autotune.records import TuneError

FILES = [TENSORS, STATE, MANIFEST]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["autotune.checkpoints"])  # the import of torch, once


def small(step):
    return {"weight": torch.full((3, 2), float(step)), "step": step, "history": [1.0, math.inf]}


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints")


def names(store):
    return [info.name for info in store.infos()]


# --- what is saved comes back ------------------------------------------------------------------------------


def continues(store, make):
    """0 → 9 equals 0 → 5, save, new objects, load, → 9: to the bit."""
    run = make()
    run.steps(5)
    store.save("five", 5, {"plant": run.plant.state(), "generators": run.generators.capture()})
    losses = run.steps(4)

    other = make()
    other.steps(1)
    state = store.load("five").state
    for _ in range(2):  # loading leaves what was loaded as it was
        other.plant.load(state["plant"])
        assert not other.generators.restore(state["generators"])
        assert other.steps(4) == losses
        assert_same(other.bits(), run.bits())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_continues_from_a_checkpoint_with(name, store):
    continues(store, lambda: Run(optimizer=OPTIMIZERS[name]))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_continues_from_a_checkpoint_with_the_scheduler(name, store):
    continues(store, lambda: Run(optimizer=OPTIMIZERS["momentum"], schedule=SCHEDULES[name]))


def test_a_run_continues_from_a_checkpoint_with_an_lstm(store):
    continues(store, lambda: Run(Recurrent))


def test_optimizer_state_and_groups_are_made_in_a_new_process(store):
    def make():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        optimizer = torch.optim.Adam(model[1].parameters(), 0.1)
        return Plant(model, optimizer, {}, Generators()), model, optimizer

    plant, model, optimizer = make()
    optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.5})
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    store.save("one", 1, plant.state())
    other, *_ = make()
    other.load(store.load().state)
    assert_same(other.state(), plant.state())


def test_the_info_says_what_was_saved(store):
    info = store.save("one", 7, small(1), pinned=True, score=0.5)
    assert (info.name, info.step, info.pinned, info.score) == ("one", 7, True, 0.5)
    assert info.path == store.folder / "one"
    assert info.nbytes == sum((info.path / name).stat().st_size for name in (TENSORS, STATE))
    assert info.seconds > 0
    [found] = store.infos()
    assert math.isnan(found.seconds)
    assert store.load("one").info.step == found.step == 7


def test_tensors_of_every_sort_of_memory_are_saved_and_other_tools_read_them(store):
    base = torch.arange(12.0).reshape(3, 4)
    state = {
        "base": base,
        "tied": base,
        "row": base[1],
        "transposed": base.T,
        "strided": base[:, ::2],
        "expanded": torch.ones(1).expand(5),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3, dtype=torch.int16),
        "odd": torch.ones(3, dtype=torch.bool),
        "half": torch.ones(5, dtype=torch.bfloat16),
        "channels": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    info = store.save("all", 0, state)
    back = store.load("all").state
    assert back["tied"] is back["base"]
    for name, tensor in state.items():
        assert_same(back[name], tensor.detach())
    read = load_file(info.path / TENSORS)
    assert read.keys() == state.keys() - {"tied"}
    for name, tensor in read.items():
        assert_same(tensor, back[name])


def test_a_state_without_tensors_is_saved(store):
    store.save("none", 0, {"a": 1})
    assert store.load("none").state == {"a": 1}


def test_writing_to_what_was_loaded_alters_no_file(store):
    store.save("one", 1, small(1))
    store.load("one").state["weight"].zero_()
    assert_same(store.load("one").state, small(1))


# --- what is kept ------------------------------------------------------------------------------------------


def test_the_last_two_the_best_and_the_pinned_are_kept(store):
    scores = [0.5, 0.1, 0.3, math.nan, -math.inf, None, 0.2]
    for step, score in enumerate(scores):
        store.save(f"s{step}", step, small(step), score=score, pinned=step == 2)
    assert names(store) == ["s1", "s2", "s5", "s6"]
    assert sorted(path.name for path in store.folder.iterdir()) == ["s1", "s2", "s5", "s6"]
    store.save("s7", 7, small(7), score=0.05)
    assert names(store) == ["s2", "s6", "s7"]


def test_order_is_that_of_saving_though_steps_repeat_after_a_rewind(store):
    for name, step in (("a", 10), ("b", 20), ("c", 10), ("b", 20)):
        store.save(name, step, small(step))
    assert names(store) == ["c", "b"]
    assert store.load().info.name == "b"


def test_a_checkpoint_of_the_same_name_is_replaced(store):
    for step in range(3):
        store.save("latest", step, small(step))
        assert_same(store.load("latest").state, small(step))
    assert [path.name for path in store.folder.iterdir()] == ["latest"]


def test_a_crash_between_the_two_renames_of_a_replacement_loses_nothing(store):
    store.save("best", 1, small(1), pinned=True)
    (store.folder / "best").rename(store.folder / ".replaced-best")
    assert names(store) == ["best"]
    assert_same(store.load("best").state, small(1))
    store.save("other", 2, small(2))
    assert names(store) == ["best", "other"]
    assert sorted(path.name for path in store.folder.iterdir()) == ["best", "other"]


def test_what_a_crash_left_is_cleared_away_by_the_next_save(store):
    store.save("one", 1, small(1))
    for left in (".saving-two", ".dropped-zero", ".replaced-one"):
        (store.folder / left).mkdir()
        (store.folder / left / TENSORS).write_bytes(b"half")
    store.save("two", 2, small(2))
    assert sorted(path.name for path in store.folder.iterdir()) == ["one", "two"]


# --- damage ------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b" ")


def empty(path):
    path.write_bytes(b"")


def lose(path):
    path.unlink()


def flip(path, bit=77):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, lengthen, empty, lose, flip])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_refused_and_an_older_one_taken(file, damage, store):
    store.save("old", 1, small(1))
    damage(store.save("new", 2, small(2)).path / file)
    with pytest.raises(
        TuneError, match=f"must be as it was written, but in .*new.* {file} .*; load another one"
    ):
        store.load("new")
    with pytest.warns(UserWarning, match=f"{file} ") as caught:
        loaded = store.load()
    assert len(caught) == 1
    assert loaded.info.name == "old"
    assert_same(loaded.state, small(1))


@pytest.mark.parametrize("file", FILES)
def test_every_single_bit_counts(file, store):
    path = store.save("one", 1, {"w": torch.ones(1)}).path / file
    for bit in range(8 * path.stat().st_size):
        flip(path, bit)
        with pytest.raises(TuneError, match=f"{file} does not have the checksum"):
            store.load("one")
        flip(path, bit)
    store.load("one")


def test_a_flipped_bit_in_any_chunk_of_a_large_file_is_found(store):
    path = store.save("big", 1, {"w": torch.zeros(10 * 2**20)}).path / TENSORS
    size = path.stat().st_size
    assert size > 2 * manifest._CHUNK
    for byte in (size // 6, size // 2, size - 1):
        flip(path, 8 * byte)
        with pytest.raises(TuneError, match="checksum"):
            store.load("big")
        flip(path, 8 * byte)
    store.load("big")


def test_nothing_whole_to_resume_from_is_said(store):
    with pytest.raises(TuneError, match="a whole checkpoint is needed to go on from, got none"):
        store.load()
    lose(store.save("one", 1, small(1)).path / STATE)
    with pytest.warns(UserWarning, match=f"{STATE} is missing"), pytest.raises(TuneError, match="got none"):
        store.load()


def test_a_checkpoint_of_a_later_version_is_refused(store, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(manifest, "_FORMAT", 2)
        store.save("one", 1, small(1))
    with pytest.raises(TuneError, match=r"got format 2 in .*, known is 1; upgrade"):
        store.load("one")


def test_an_unknown_name_lists_those_there_are(store):
    store.save("one", 1, small(1))
    with pytest.raises(TuneError, match=r"got 'two'; in .*checkpoints: one$"):
        store.load("two")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", ".hidden", "a\\b", "a b", "a\n", "ä", "x" * 101, 3]
)
def test_a_name_that_is_no_folder_is_refused(name, store):
    for use in (lambda: store.save(name, 1, small(1)), lambda: store.load(name)):
        with pytest.raises(TuneError, match="give another name"):
            use()
    assert not store.folder.exists()


def test_a_state_that_cannot_be_stored_writes_nothing(store):
    with pytest.raises(TuneError, match=r"got a builtins\.function at scheduler/anneal"):
        store.save("one", 1, {"scheduler": {"anneal": lambda: 0}})
    assert not store.folder.exists()


def test_a_store_that_keeps_nothing_is_refused(tmp_path):
    with pytest.raises(TuneError, match="keep_last=0"):
        CheckpointStore(tmp_path, keep_last=0)


def test_the_checkpoint_of_another_model_is_refused_and_nothing_touched(store):
    store.save("other", 1, plant_of(2, 3, 2).state())
    plant = plant_of(2, 2, 2)
    weight = plant.state()["parameters"]["model.0.weight"]
    before = weight.clone()
    with pytest.raises(
        TuneError, match=r"model\.0\.weight is float32\[2, 2\] in the run, float32\[3, 2\] in the"
    ):
        plant.load(store.load("other").state)
    assert torch.equal(weight, before)


# --- disk full, kill -9 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", TOO_LARGE)
def test_a_full_disk_costs_only_the_checkpoint_that_did_not_fit(file, store):
    state, _ = TOO_LARGE[file]
    store.save("one", 1, small(1))
    here, there = FORKS.Pipe()
    process = FORKS.Process(target=save_where_it_does_not_fit, args=(store.folder, file, there))
    process.start()
    there.close()
    message, left = here.recv()
    process.join()
    assert "'two' was not saved, earlier ones are untouched" in message
    assert "too large" in message
    assert left == ["one"]
    assert_same(store.load().state, small(1))
    store.save("two", 2, state)
    assert_same(store.load().state, state)


def test_kill_9_at_any_moment_leaves_the_newest_checkpoint_whole(store):
    chance = random.Random(0)
    last = 0
    moments = set()
    for _ in range(20):
        here, there = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=save_over_and_over, args=(store.folder, last, there))
        process.start()
        there.close()
        assert here.poll(60)
        time.sleep(chance.uniform(0, 0.06))
        process.kill()
        process.join()
        assert process.exitcode == -9
        acknowledged = last
        while here.poll():
            try:
                acknowledged = here.recv()
            except EOFError:
                break
        moments |= {path.name.split("-")[0] for path in store.folder.iterdir() if path.name[0] == "."}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = store.load()
        last = loaded.info.step
        assert acknowledged <= last <= acknowledged + 1
        assert loaded.state["step"] == last
        for tensor in loaded.state["tensors"].values():
            assert np.all(tensor.numpy() == last)
        for name in names(store):
            store.load(name)
    assert ".saving" in moments  # some did hit a save
