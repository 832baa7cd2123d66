"""The data stream: whatever the loader, a rewound run goes on exactly as the one that was not."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from autotune.data import Position, ReplayingLoader
from autotune.encoding import decode, encode
from autotune.generators import Generators
from autotune.records import TuneError

BATCHES = 6  # in an epoch
pytestmark = pytest.mark.filterwarnings("ignore:.*naively fast-forwarding.*")


def augmented(index):
    """The sample, disturbed by each of the global generators; rounded, it is its index again."""
    noise = torch.rand(()).item() + random.random() + np.random.normal() / 10
    return torch.tensor([index + noise / 10], dtype=torch.float64)


class Indexed(Dataset):
    def __len__(self):
        return 2 * BATCHES

    def __getitem__(self, index):
        return augmented(index)


class Streamed(IterableDataset):
    def __iter__(self):
        worker = get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in range(first, 2 * BATCHES, every):
            yield augmented(index)


def build(loader=DataLoader, data=Indexed, workers=0, own=False, persistent=False):
    """A loader of six batches, shuffled where that is possible; the random generators are seeded."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    return loader(
        data(),
        batch_size=2,
        shuffle=True if data is Indexed else None,
        num_workers=workers,
        persistent_workers=persistent,
        generator=torch.Generator().manual_seed(5) if own else None,
    )


def train(batch):
    """A training step that draws, as dropout does: what it saw and drew."""
    return torch.cat([batch.flatten(), torch.rand(3), torch.tensor([random.random(), np.random.normal()])])


def steps(stream, count):
    return [train(batch) for batch in islice(stream, count)]


def plain(loader, epochs):
    """The same training without any of our code."""
    return [train(batch) for _ in range(epochs) for batch in loader]


def equal(got, want):
    return len(got) == len(want) and all(map(torch.equal, got, want))


def indices(seen):
    return [torch.floor(step[:2]).tolist() for step in seen]


class Run:
    """A stream and the random generators, as the tuner holds them."""

    def __init__(self, **options):
        self.generators = Generators()
        self.data = ReplayingLoader(self.generators, **options)

    def save(self):
        return self.data.position, self.generators.capture()

    def rewind(self, saved, data="replay"):
        position, state = saved
        grade = self.data.rewind(position, data)
        self.generators.restore(state)
        return grade


SETUPS = [
    {"loader": loader, "data": data, "workers": workers, "own": own, "persistent": persistent}
    for loader in (DataLoader, StatefulDataLoader)
    for data in (Indexed, Streamed)
    for own in (False, True)
    for workers, persistent in ((0, False), (2, False), (2, True))
]


def name(setup):
    parts = [setup["loader"].__name__, setup["data"].__name__, f"{setup['workers']}workers"]
    return "-".join(parts + [flag for flag in ("own", "persistent") if setup[flag]])


@pytest.mark.parametrize("setup", SETUPS, ids=name)
def test_replay_is_bitwise(setup):
    """Step 0, within an epoch, at its end, in the next; three times from one position; then on, live."""
    want = plain(build(**setup), 4)
    run = Run()
    stream = run.data.epochs(build(**setup), 4)
    saved, got = {}, []
    for step in range(2 * BATCHES + 2):
        saved[step] = run.save()
        if step == 0:
            run.data.keep_from(saved[0][0])
        got += steps(stream, 1)
    assert equal(got, want[: len(got)])
    for at in (8, 6, 3, 3, 3, 5, 0):
        grade, _ = run.rewind(saved[at])
        assert grade == "bitwise"
        assert equal(steps(stream, 9), want[at : at + 9])
    run.rewind(saved[3])
    assert equal(steps(stream, 100), want[3:])


@pytest.mark.parametrize("keeping", [False, True])
def test_an_unmoved_stream_is_the_plain_loop(keeping):
    want = plain(build(own=True), 2)
    run = Run()
    loader = build(own=True)
    if keeping:
        run.data.keep_from(run.data.position)
    assert equal(steps(run.data.epochs(loader, 2), 100), want)
    assert (run.data.nbytes > 0) is keeping


def fit(model, optimizer, batches):
    for batch in batches:
        optimizer.zero_grad()
        model(batch.float()).square().mean().backward()
        optimizer.step()


def test_weights_after_a_rewind_are_those_of_the_original_run():
    run = Run()
    loader = build()
    model = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    stream = run.data.epochs(loader, None)
    fit(model, optimizer, islice(stream, 4))
    start = [p.detach().clone() for p in model.parameters()]
    saved = run.save()
    run.data.keep_from(saved[0])
    fit(model, optimizer, islice(stream, 7))
    end = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        run.rewind(saved)
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), start, strict=True):
                parameter.copy_(value)
        fit(model, optimizer, islice(stream, 7))
        assert all(map(torch.equal, model.parameters(), end))


# --- left behind ---------------------------------------------------------------------------------------


def test_skipped_batches_never_come_back():
    run = Run()
    stream = run.data.epochs(range(10), 1)
    first = run.save()
    run.data.keep_from(first[0])
    assert list(islice(stream, 3)) == [0, 1, 2]
    poisoned = run.save()
    assert list(islice(stream, 4)) == [3, 4, 5, 6]
    grade, why = run.rewind(poisoned, "skip")
    assert grade == "bitwise"
    assert "left behind" in why
    assert list(islice(stream, 1)) == [7]
    run.rewind(poisoned)
    assert list(islice(stream, 1)) == [7]
    run.rewind(first)
    assert list(stream) == [0, 1, 2, 7, 8, 9]


def test_skipped_batches_do_not_come_back_when_the_loader_draws_anew():
    run = Run(max_bytes=0)
    stream = run.data.epochs(range(10), 1)
    first = run.save()
    list(islice(stream, 3))
    poisoned = run.save()
    list(islice(stream, 4))
    run.rewind(poisoned, "skip")
    assert list(islice(stream, 1)) == [7]
    grade, _ = run.rewind(first)
    assert grade == "state-exact"
    assert list(stream) == [0, 1, 2, 7, 8, 9]


@pytest.mark.parametrize("max_bytes", [0, 10**8])
def test_a_skip_across_the_end_of_an_epoch_keeps_the_count(max_bytes):
    run = Run(max_bytes=max_bytes)
    stream = run.data.epochs(range(5), 3)
    list(islice(stream, 4))
    saved = run.save()
    run.data.keep_from(saved[0])
    assert list(islice(stream, 3)) == [4, 0, 1]
    run.rewind(saved, "skip")
    assert (run.data.position.epoch, run.data.position.batch) == (1, 2)
    assert list(stream) == [2, 3, 4, 0, 1, 2, 3, 4]


def test_a_skip_does_not_draw_the_loaders_order_twice():
    run = Run()
    loader = DataLoader(range(64), shuffle=True, batch_size=64, generator=torch.Generator().manual_seed(0))
    stream = run.data.epochs(loader, None)
    saved = run.save()
    first = next(stream)
    run.rewind(saved, "skip")
    assert not torch.equal(next(stream), first)


# --- when memory does not reach ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setup", "at"),
    [(s, at) for s in SETUPS if not s["persistent"] for at in ((6, 8) if s["workers"] else (3, 6, 8))],
    ids=lambda value: name(value) if isinstance(value, dict) else value,
)
def test_a_loader_draws_anew_what_is_not_kept(setup, at):
    run = Run(max_bytes=0)
    stream = run.data.epochs(build(**setup), 4)
    steps(stream, at)
    saved = run.save()
    run.data.keep_from(saved[0])
    want = steps(stream, 10)
    grade, why = run.rewind(saved)
    got = steps(stream, 10)
    if setup["loader"] is StatefulDataLoader and setup["workers"]:
        assert grade == "approximate"
        assert "augmentation" in why
        assert indices(got) == indices(want)
    else:
        assert grade == "state-exact"
        assert equal(got, want)


def test_persistent_workers_are_declared():
    run = Run(max_bytes=0)
    stream = run.data.epochs(build(workers=2, persistent=True), 3)
    steps(stream, 8)
    saved = run.save()
    want = steps(stream, 6)
    grade, why = run.rewind(saved)
    assert grade == "approximate"
    assert "persistent workers" in why
    assert indices(steps(stream, 6)) == indices(want)


def test_beyond_the_byte_limit_the_oldest_go_and_the_newest_stay():
    run = Run(max_bytes=1_000_000)
    data = list(torch.zeros(16, 25_000).unbind())  # 100 kB each
    stream = run.data.epochs(data, 1)
    saved = [run.save()]
    run.data.keep_from(saved[0][0])
    for _ in range(12):
        next(stream)
        saved.append(run.save())
        assert run.data.nbytes <= 1_000_000
    assert run.rewind(saved[9])[0] == "bitwise"
    assert sum(1 for _ in islice(stream, 3)) == 3
    assert run.rewind(saved[1])[0] == "state-exact"
    assert sum(1 for _ in stream) == 15


def test_keeping_moves_on_and_ends():
    run = Run()
    stream = run.data.epochs(range(10), 1)
    saved = [run.save()]
    run.data.keep_from(saved[0][0])
    for _ in range(6):
        next(stream)
        saved.append(run.save())
    kept = run.data.nbytes
    run.data.keep_from(saved[4][0])
    assert 0 < run.data.nbytes < kept
    assert run.rewind(saved[4])[0] == "bitwise"
    run.data.keep_from(None)
    assert list(stream) == [4, 5, 6, 7, 8, 9]
    assert run.data.nbytes == 0


def refused(run, saved, text):
    before = run.data.position
    with pytest.raises(TuneError, match=text):
        run.data.rewind(saved[0], "replay")
    assert run.data.position.key == before.key


def test_what_cannot_be_rewound_is_refused_before_anything_is_touched():
    run = Run()
    stream = run.data.epochs(iter(range(10)), 1)
    next(stream)
    saved = run.save()
    next(stream)
    refused(
        run, saved, "got a position in epoch 0 after 1 batches, no longer kept, and a one-shot .* keep more"
    )
    assert run.rewind(saved, "skip")[0] == "bitwise"
    assert list(stream) == [2, 3, 4, 5, 6, 7, 8, 9]
    list(run.data.epochs(range(3), 1))
    refused(run, saved, "another loader has taken over in epoch 1")
    with pytest.raises(TuneError, match="data is one of replay, skip, got 'forget'"):
        run.data.check(saved[0], "forget")


def test_a_batch_modified_in_place_is_declared():
    run = Run()
    stream = run.data.epochs(list(torch.ones(4, 3).unbind()), 1)
    saved = run.save()
    run.data.keep_from(saved[0])
    for batch in islice(stream, 3):
        batch.mul_(2)
    later = run.save()
    next(stream)
    assert run.rewind(later)[0] == "bitwise"
    grade, why = run.rewind(saved)
    assert grade == "approximate"
    assert "modified 3 of the batches in place" in why


@settings(deadline=None)
@given(st.data(), st.sampled_from([0, 10**8]))
def test_any_sequence_of_moves_follows_a_list(data, max_bytes):
    """The stream against a plain list: what has come, with what is left behind cut out, and then the rest."""
    run = Run(max_bytes=max_bytes)
    stream = run.data.epochs(range(5), None)
    future = iter([(epoch, item) for epoch in range(200) for item in range(5)])
    known, here = [], 0
    saved = [(run.save(), 0)]
    run.data.keep_from(saved[0][0][0])
    for _ in range(data.draw(st.integers(1, 25))):
        move = data.draw(st.sampled_from(["step", "save", "replay", "skip"]))
        if move == "step":
            for _ in range(data.draw(st.integers(1, 7))):
                item = next(stream)
                if here == len(known):
                    known.append(next(future))
                assert item == known[here][1]
                here += 1
        elif move == "save":
            saved.append((run.save(), here))
        else:
            target, then = data.draw(st.sampled_from(saved))
            if then > here:
                continue
            run.rewind(target, move)
            saved = [(s, h) for s, h in saved if h <= then]
            if move == "skip":
                del known[then:here]
            here = then


# --- another process -----------------------------------------------------------------------------------


def stored(position):
    """The position as a checkpoint holds it."""
    tensors = {}
    text = json.dumps(encode(asdict(position), tensors))
    return Position(**decode(json.loads(text), {k: v.clone() for k, v in tensors.items()}))


@pytest.mark.parametrize("at", [0, 3, 6, 8])
@pytest.mark.parametrize(
    "setup",
    [
        {},
        {"own": True},
        {"own": True, "loader": StatefulDataLoader},
        {"workers": 2, "own": True},
        {"workers": 2, "data": Streamed},
    ],
    ids=str,
)
def test_a_resumed_stream_goes_on_as_the_first(setup, at):
    run = Run()
    stream = run.data.epochs(build(**setup), 3)
    steps(stream, at)
    position = stored(run.data.position)
    want = steps(stream, 100)
    assert len(want) == 3 * BATCHES - at

    again = Run()
    again.data.resume(position)
    assert again.data.position.key == position.key
    assert again.data.resumed is None
    stream = again.data.epochs(build(**setup), 3)
    assert equal(steps(stream, 100), want)
    grade, _ = again.data.resumed
    assert grade == "state-exact"


@pytest.mark.parametrize("at", [3, 6, 8])
def test_persistent_workers_resume_in_the_same_order(at):
    run = Run()
    stream = run.data.epochs(build(workers=2, persistent=True), 3)
    steps(stream, at)
    position = stored(run.data.position)
    want = steps(stream, 100)
    again = Run()
    again.data.resume(position)
    got = steps(again.data.epochs(build(workers=2, persistent=True), 3), 100)
    assert indices(got) == indices(want)
    assert again.data.resumed[0] == "approximate"


def test_a_rewind_before_the_loop_starts_is_a_resume():
    run = Run()
    stream = run.data.epochs(range(5), 2)
    list(islice(stream, 7))
    position = stored(run.data.position)
    again = Run()
    again.data.resume(stored(run.data.position))
    assert again.data.rewind(position, "replay")[0] == "state-exact"
    assert list(again.data.epochs(range(5), 2)) == [2, 3, 4]


def test_a_new_process_goes_on_bitwise(tmp_path):
    run = Run()
    stream = run.data.epochs(build(own=True), 3)
    steps(stream, 8)
    tensors = {}
    position = encode(asdict(run.data.position), tensors)
    torch.save((position, tensors), tmp_path / "position.pt")
    want = steps(stream, 100)
    script = """
import sys, torch
from test_data import Position, Run, build, decode, steps
position, tensors = torch.load(sys.argv[1] + "/position.pt")
loader = build(own=True)
torch.manual_seed(99)
run = Run()
run.data.resume(Position(**decode(position, tensors)))
torch.save(steps(run.data.epochs(loader, 3), 100), sys.argv[1] + "/seen.pt")
"""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert equal(torch.load(tmp_path / "seen.pt"), want)


def test_a_loader_that_has_become_shorter_is_refused():
    run = Run()
    stream = run.data.epochs(range(10), 1)
    list(islice(stream, 6))
    again = Run()
    again.data.resume(run.data.position)
    with pytest.raises(TuneError, match="got 4 in epoch 0 where 6 had come; pass the loader"):
        next(again.data.epochs(range(4), 1))


# --- epochs --------------------------------------------------------------------------------------------


def test_calls_follow_one_another():
    run = Run()
    assert [list(run.data.epochs(range(3), 1)) for _ in range(3)] == [[0, 1, 2]] * 3
    assert run.data.position.key == (3, 0)
    assert list(islice(run.data.epochs(range(3), None), 8)) == [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_rewind_into_an_earlier_call_ends_where_that_one_did():
    """So that a scheduler stepped by an outer loop at each end is stepped at the replayed end again."""
    run = Run()
    saved, calls, rewound = None, [], False
    for _ in range(5):
        calls.append([])
        for batch in run.data.epochs(range(4), 1):
            calls[-1].append(batch)
            if len(calls) == 1 and batch == 1:
                saved = run.save()
                run.data.keep_from(saved[0])
            if len(calls) == 2 and batch == 2 and not rewound:
                run.rewind(saved)
                rewound = True
    assert calls == [[0, 1, 2, 3], [0, 1, 2, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert run.data.position.key == (4, 0)


def test_leaving_a_pass_by_break_ends_it():
    run = Run()
    run.data.keep_from(run.data.position)
    saved = None
    for batch in run.data.epochs(range(5), 2):
        if batch == 1:
            saved = run.save()
        if batch == 2:
            break
    assert run.data.position.key == (1, 0)
    stream = run.data.epochs(range(5), 1)
    assert list(islice(stream, 2)) == [0, 1]
    run.rewind(saved)
    assert list(stream) == [2]
    assert list(run.data.epochs(range(5), 1)) == [0, 1, 2, 3, 4]


def test_another_loader_takes_over():
    run = Run()
    run.data.keep_from(run.data.position)
    saved = run.save()
    assert list(run.data.epochs(range(3), 1)) == [0, 1, 2]
    stream = run.data.epochs("abc", 1)
    assert next(stream) == "a"
    run.rewind(saved)
    assert list(stream) == [0, 1, 2]
    assert list(run.data.epochs("abc", 1)) == ["a", "b", "c"]


def test_a_one_shot_iterator_ends_when_it_is_exhausted():
    run = Run()
    assert list(run.data.epochs((i for i in range(3)), None)) == [0, 1, 2]
    assert list(run.data.epochs((i for i in range(3)), 5)) == [0, 1, 2]


def test_a_one_shot_iterator_replays_from_memory():
    run = Run()
    stream = run.data.epochs((i for i in range(5)), None)
    next(stream)
    saved = run.save()
    run.data.keep_from(saved[0])
    assert list(islice(stream, 2)) == [1, 2]
    assert run.rewind(saved)[0] == "bitwise"
    assert list(stream) == [1, 2, 3, 4]


class Restarting:
    """Its own iterator, as some loaders are, but `iter` starts it again."""

    def __iter__(self):
        self.left = 3
        return self

    def __next__(self):
        if self.left == 0:
            raise StopIteration
        self.left -= 1
        return self.left


def test_an_iterator_that_starts_again_has_several_epochs():
    assert list(Run().data.epochs(Restarting(), 2)) == [2, 1, 0, 2, 1, 0]


@pytest.mark.parametrize("empty", [[], iter(())])
def test_an_empty_loader_is_an_error_and_not_an_endless_loop(empty):
    with pytest.raises(TuneError, match="at least one batch, got none from"):
        next(Run().data.epochs(empty, None))


def test_bad_input_is_refused_at_once():
    data = Run().data
    with pytest.raises(TuneError, match="a loader is iterable, got int"):
        data.epochs(3, 1)
    with pytest.raises(TuneError, match="at least 1, got 0"):
        data.epochs([1], 0)
    with pytest.raises(TuneError, match="max_bytes is at least 0, got -1"):
        Run(max_bytes=-1)


def test_one_loop_at_a_time():
    run = Run()
    first = run.data.epochs(range(5), 1)
    next(first)
    second = run.data.epochs(range(5), 1)
    assert next(second) == 0
    with pytest.raises(TuneError, match="one loop at a time"):
        next(first)
    assert list(second) == [1, 2, 3, 4]
    assert run.data.position.key == (2, 0)


def test_a_loader_that_fails_ends_the_pass():
    def failing():
        yield 1
        raise OSError("disk")

    run = Run()
    stream = run.data.epochs(failing(), 1)
    next(stream)
    with pytest.raises(OSError, match="disk"):
        next(stream)
    assert list(run.data.epochs([7], 1)) == [7]


# --- workers -------------------------------------------------------------------------------------------


def test_workers_end_with_the_loop():
    run = Run()
    others = {*multiprocessing.active_children()}
    stream = run.data.epochs(build(workers=2), None)
    run.data.keep_from(run.data.position)
    next(stream)
    workers = {*multiprocessing.active_children()} - others
    assert len(workers) == 2
    stream.close()
    end = time.monotonic() + 60
    while workers & {*multiprocessing.active_children()}:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_batches_from_workers_do_not_use_up_the_files_a_process_may_open():
    run = Run()
    loader = DataLoader(torch.arange(600.0), batch_size=1, num_workers=2)
    run.data.keep_from(run.data.position)
    saved = run.save()
    before = len(os.listdir("/proc/self/fd"))
    stream = run.data.epochs(loader, None)
    assert [batch.item() for batch in islice(stream, 600)] == list(range(600))
    assert len(os.listdir("/proc/self/fd")) < before + 300
    assert run.rewind(saved)[0] == "bitwise"
    assert [batch.item() for batch in islice(stream, 600)] == list(range(600))


def test_a_sampler_that_draws_within_the_epoch():
    """From its own generator, a few indices ahead of the batches."""
    generator = torch.Generator().manual_seed(0)
    sampler = RandomSampler(range(100), replacement=True, num_samples=100, generator=generator)
    run = Run()
    stream = run.data.epochs(DataLoader(range(100), sampler=sampler, batch_size=3), None)
    list(islice(stream, 5))
    saved = run.save()
    run.data.keep_from(saved[0])
    want = list(islice(stream, 60))
    run.rewind(saved)
    assert equal(list(islice(stream, 60)), want)


def test_kept_bytes_count_tensors_wherever_they_are_in_a_batch():
    class Graph:
        def __init__(self):
            self.nodes = torch.zeros(1000, dtype=torch.float64)
            self.edges = {"index": [np.zeros(1000)], "sparse": torch.eye(3).to_sparse()}

    run = Run()
    run.data.keep_from(run.data.position)
    stream = run.data.epochs([(Graph(), "label", 3)], None)
    next(stream)
    first = run.data.nbytes
    next(stream)  # the end of the epoch and the same batch again
    assert 16_000 < first < 16_200 + 50_000
    assert run.data.nbytes > 2 * first
