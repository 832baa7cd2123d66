"""A preflight leaves the run as it was, to the bit."""

import random

import numpy as np
import pytest
import torch
from loops import INPUTS, LABELS, OPTIMIZERS, Loop, same
from setups import HEALTHY
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autotune import AutoTuner, TuneError
from autotune.actuators import gradient_clip, learning_rate

STEPS = 20


def look(tuner, loop, **arguments):
    def loss(batch):
        return cross_entropy(loop.model(batch[0]), batch[1])

    return tuner.preflight(loop.loader, loss, **{"seconds": 60, **arguments})


def trained(loop, folder, at=(), **arguments):
    """Losses and state after some steps, with a preflight before the loop or at some of its steps."""
    with loop.tuner(folder, total_steps=STEPS, evaluate=loop.validate, **arguments) as tuner:
        if 0 in at:
            look(tuner, loop)
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if tuner.step in at:
                look(tuner, loop)
        draws = torch.rand(1).item(), random.random(), np.random.random()
        timed = ("step_time", "samples_per_second")
        signals = {n: s.value.tolist() for n, s in tuner.signals.items() if n not in timed}
        clock = tuner.step, tuner.spent
    return loop.losses, loop.state(), draws, signals, clock


def equal(one, other):
    assert one[0] == other[0]
    assert same(one[1], other[1])
    assert one[2:] == other[2:]


@pytest.mark.parametrize("own", [False, True], ids=["global generator", "generator of its own"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_run_that_follows_is_the_same(tmp_path, optimizer, workers, own):
    runs = []
    for at in ((), (0,)):
        loop = Loop(optimizer, workers)
        if own:
            loop.loader = DataLoader(
                TensorDataset(INPUTS, LABELS),
                32,
                shuffle=True,
                num_workers=workers,
                persistent_workers=workers > 0,
                generator=torch.Generator().manual_seed(5),
            )
        random.seed(3)
        np.random.seed(3)
        runs.append(trained(loop, tmp_path / f"run{len(at)}", at))
    equal(*runs)


@pytest.mark.parametrize("workers", [0, 2])
def test_so_it_is_in_the_middle_of_the_loop(tmp_path, workers):
    runs = []
    for at in ((), (0, 3, 8, 13)):
        loop = Loop("sgd", workers)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(loop.optimizer, STEPS)
        rate = learning_rate(loop.optimizer, schedule="multiply")
        hyperparameters = [rate, gradient_clip(loop.optimizer, 1.0)]
        folder = tmp_path / f"run{len(at)}"
        random.seed(3)
        np.random.seed(3)
        runs.append(
            trained(loop, folder, at, hyperparameters=hyperparameters, stateful={"scheduler": scheduler})
        )
    equal(*runs)


def test_gradients_flags_attributes_and_addresses_stay(tmp_path):
    loop = Loop("adamw-fused")
    for batch in loop.loader:
        loop.step(batch)
        break
    loop.model[1].eval()
    loop.model.calls = 7
    parameters = list(loop.model.parameters())
    parameters[1].grad = None
    tensors = [
        *parameters,
        *loop.model.buffers(),
        *(t for s in loop.optimizer.state.values() for t in s.values()),
    ]
    before = [t.data_ptr() for t in tensors], [t.clone() for t in tensors]
    gradients = [p.grad for p in parameters]
    values = [None if g is None else g.clone() for g in gradients]
    with loop.tuner(tmp_path / "run") as tuner:

        def loss(batch):
            loop.model.calls += 1
            loop.model.cache = torch.ones(3)
            tuner.report(loss=1e9)
            return cross_entropy(loop.model(batch[0]), batch[1])

        tuner.preflight(loop.loader, loss, seconds=60)
        assert (tuner.step, tuner.spent, tuner.decisions, dict(tuner.signals)) == (0, 0, (), {})
    assert loop.model.calls == 7
    assert not hasattr(loop.model, "cache")
    assert [m.training for m in loop.model.modules()] == [True, True, False, True, True, True]
    assert all(p.grad is g for p, g in zip(parameters, gradients, strict=True))
    assert all(g is None or torch.equal(g, v) for g, v in zip(gradients, values, strict=True))
    assert [t.data_ptr() for t in tensors] == before[0]
    assert all(torch.equal(a, b) for a, b in zip(tensors, before[1], strict=True))


def test_a_loss_that_raises_leaves_the_run_as_it_was(tmp_path):
    loop = Loop()
    calls = []

    def loss(batch):
        calls.append(1)
        if len(calls) == 6:
            raise ZeroDivisionError("of the user's own")
        return cross_entropy(loop.model(batch[0]), batch[1])

    before, draws = loop.state(), torch.get_rng_state()
    with loop.tuner(tmp_path / "run") as tuner:
        with pytest.raises(ZeroDivisionError, match="own"):
            tuner.preflight(loop.loader, loss, seconds=60)
        assert not list(tuner.folder.glob("preflight*"))
    assert same(loop.state(), before)
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(p.grad is None for p in loop.model.parameters())
    assert loop.optimizer.state == {}


class Noisy(Dataset):
    """Augments with generators of its own, counts what it hands out, and reshuffles a list in place."""

    def __init__(self):
        self.noise = np.random.default_rng(1)
        self.parts = {"flip": random.Random(2)}
        self.handed_out = 0
        self.order = list(range(len(INPUTS)))

    def __len__(self):
        return len(INPUTS)

    def __getitem__(self, index):
        self.handed_out += 1
        if index == 0:
            self.parts["flip"].shuffle(self.order)
        index = self.order[index]
        sign = 1 if self.parts["flip"].random() < 0.5 else -1
        return sign * INPUTS[index] + float(self.noise.normal()), LABELS[index]


class Streamed(IterableDataset):
    """Begins each pass where a counter stands."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        yield from zip(INPUTS.roll(self.passes, 0), LABELS.roll(self.passes, 0), strict=True)


class Wrapped:
    """A loader round a loader, with a state of its own."""

    def __init__(self):
        self.inner = DataLoader(
            TensorDataset(INPUTS, LABELS), 32, shuffle=True, num_workers=1, persistent_workers=True
        )
        self.scale = 1.0

    def __iter__(self):
        for inputs, labels in self.inner:
            self.scale *= 0.99
            yield self.scale * inputs, labels


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Noisy(), 32, shuffle=True),
        lambda: DataLoader(Streamed(), 32),
        Wrapped,
        lambda: [(INPUTS[i : i + 32], LABELS[i : i + 32]) for i in range(0, 256, 32)],
    ],
    ids=["generators of a data set", "iterable", "wrapped", "list"],
)
def test_what_a_loader_is_made_of_is_put_back(tmp_path, make):
    runs = []
    for at in ((), (0,)):
        loop = Loop()
        loop.loader = make()
        random.seed(3)
        np.random.seed(3)
        runs.append(trained(loop, tmp_path / f"run{len(at)}", at))
    equal(*runs)


def test_a_running_pool_of_workers_is_not_disturbed(tmp_path):
    """In the middle of a pass of persistent workers."""
    loop = Loop(workers=2)
    with loop.tuner(tmp_path / "run", total_steps=6) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            running = loop.loader._iterator
            assert running is not None
            if tuner.step == 3:
                look(tuner, loop)
                assert loop.loader._iterator is running
                assert loop.loader.num_workers == 2


@pytest.mark.parametrize("name", HEALTHY)
def test_every_kind_of_run_is_left_as_it_was(tmp_path, name):
    torch.manual_seed(0)
    setup = HEALTHY[name]()
    batch = next(iter(setup.loader))
    with AutoTuner(
        setup.model, setup.optimizer, folder=tmp_path / "run", mlflow=False, **setup.tuner_arguments
    ) as tuner:
        state = {k: v.clone() for k, v in setup.model.state_dict().items()}
        draws = torch.get_rng_state()
        tuner.preflight(setup.loader, setup.loss, **setup.arguments, seconds=60)
        assert torch.equal(torch.get_rng_state(), draws)
    assert same(dict(setup.model.state_dict()), state)
    assert setup.optimizer.state == {}
    assert setup.loss(dict(batch) if isinstance(batch, dict) else batch).dtype == torch.float32


def test_compiled_models_are_looked_at_eagerly_and_compile_nothing_more(tmp_path):
    torch._dynamo.reset()
    loop = Loop()
    compiled = torch.compile(loop.model, backend="aot_eager")

    def step(batch):
        loss = cross_entropy(compiled(batch[0]), batch[1])
        loop.optimizer.zero_grad()
        loss.backward()
        loop.optimizer.step()

    batches = list(loop.loader)
    step(batches[0])
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with AutoTuner(compiled, loop.optimizer, folder=tmp_path / "run", mlflow=False) as tuner:
        report = tuner.preflight(batches, lambda b: cross_entropy(compiled(b[0]), b[1]), seconds=60)
    step(batches[1])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert [layer.name for layer in report.layers] == [
        "0 Linear",
        "1 BatchNorm1d",
        "2 ReLU",
        "3 Dropout",
        "4 Linear",
    ]


def test_it_needs_a_step_boundary_a_living_tuner_and_arguments_that_work(tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=3) as tuner:
        for bad in (
            lambda: look(tuner, loop, seconds=0),
            lambda: look(tuner, loop, chance=float("nan")),
            lambda: tuner.preflight(iter(loop.loader), lambda b: b),
            lambda: tuner.preflight(3, lambda b: b),
            lambda: tuner.preflight(loop.loader, 3),
            lambda: tuner.preflight(loop.loader, lambda b: loop.model(b[0])),
            lambda: tuner.preflight(loop.loader, lambda b: cross_entropy(loop.model(b[0]), b[1]).item()),
        ):
            with pytest.raises(TuneError, match="; "):
                bad()
        for _ in tuner.batches(loop.loader):
            with pytest.raises(TuneError, match="boundary"):
                look(tuner, loop)
            break
    with pytest.raises(TuneError, match="closed"):
        look(tuner, loop)


def test_a_generator_that_only_a_function_knows_is_put_back_when_it_is_named(tmp_path):
    runs = []
    for at in ((), (0,)):
        noise = np.random.default_rng(4)

        def disturbed(items, noise=noise):
            inputs, labels = zip(*items, strict=True)
            return torch.stack(inputs) + float(noise.normal()), torch.stack(labels)

        loop = Loop()
        loop.loader = DataLoader(TensorDataset(INPUTS, LABELS), 32, shuffle=True, collate_fn=disturbed)
        random.seed(3)
        np.random.seed(3)
        runs.append(trained(loop, tmp_path / f"run{len(at)}", at, stateful={"noise": noise}))
    equal(*runs)


class Order:
    """Shuffles its indices in place, and counts its passes in a slot."""

    __slots__ = ("__passes", "draws", "indices")

    def __init__(self, indices):
        self.__passes = 0
        self.draws = np.random.default_rng(0)
        self.indices = indices

    def __iter__(self):
        self.__passes += 1
        self.indices[:] = self.indices[self.draws.permutation(len(self.indices))]
        for start in range(0, 256, 32):
            rows = self.indices[start : start + 32]
            yield INPUTS[rows] * self.__passes, LABELS[rows]


@pytest.mark.parametrize("make", [np.arange, torch.arange], ids=["numpy", "torch"])
def test_indices_that_are_shuffled_in_place_and_slots_are_put_back(tmp_path, make):
    runs = []
    for at in ((), (0,)):
        loop = Loop()
        loop.loader = Order(make(256))
        random.seed(3)
        np.random.seed(3)
        runs.append(trained(loop, tmp_path / f"run{len(at)}", at))
    equal(*runs)


class Counter:
    calls = 0


class Moving(torch.nn.Module):
    """Has state that no snapshot knows of."""

    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(INPUTS.shape[1])
        self.noise = torch.Generator().manual_seed(4)
        self.counter = Counter()
        self.nested = {"a": {"calls": 0}}
        self.array = np.zeros(1)

    def forward(self, x):
        self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        self.counter.calls += 1
        self.nested["a"]["calls"] += 1
        self.array += 1
        scale = 1 + 0.01 * (self.counter.calls + self.nested["a"]["calls"] + float(self.array[0]))
        return (x - self.mean) / scale + 0.1 * torch.randn(x.shape, generator=self.noise)


def test_what_a_model_is_made_of_is_put_back(tmp_path):
    runs = []
    for at in ((), (0,)):
        loop = Loop()
        moving = Moving()
        loop.model.insert(0, moving)
        random.seed(3)
        np.random.seed(3)
        losses = trained(loop, tmp_path / f"run{len(at)}", at)[0]
        own = moving.mean, moving.array, moving.noise.get_state()
        runs.append((losses, [t.tolist() for t in own], moving.counter.calls, moving.nested))
    assert runs[0] == runs[1]


def test_the_gradients_of_a_net_outside_stay(tmp_path):
    loop = Loop()
    (batch, *_) = loop.loader
    with loop.tuner(tmp_path / "run") as tuner:
        outputs = loop.model(batch[0]).shape[1]
        critic = torch.nn.Linear(outputs, 1)
        critic.weight.grad = kept = torch.ones_like(critic.weight)
        tuner.preflight(loop.loader, lambda b: critic(loop.model(b[0])).square().mean(), seconds=60)
    assert critic.weight.grad is kept
    assert bool((kept == 1).all())
    assert critic.bias.grad is None
