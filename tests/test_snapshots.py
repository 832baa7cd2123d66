import copy
import itertools
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from autotune.generators import Generators
from autotune.plant import Plant
from autotune.records import TuneError
from autotune.snapshots import SnapshotRing, least_missed

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "adamw-amsgrad": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True),
    "adamw-tensor-lr": lambda p: torch.optim.AdamW(p, torch.tensor(0.01), fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01),
    "radam": lambda p: torch.optim.RAdam(p, 0.01),
    "adamax": lambda p: torch.optim.Adamax(p, 0.01),
    "asgd": lambda p: torch.optim.ASGD(p, 0.05, t0=2),
    "rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, 0.05),
    "muon": lambda p: torch.optim.Muon([x for x in p if x.ndim == 2], 0.02),
}
"""`lbfgs`, which keeps lists of tensors, has a test of its own."""


class Everything(nn.Module):
    """Dropout, batch normalisation, tied weights and a buffer that `state_dict` does not show."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.hidden = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen += 1
        hidden = torch.relu(self.hidden(self.embed(x))) / (1 + 0.01 * self.seen)
        return self.head(self.drop(self.norm(hidden)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.lstm = nn.LSTM(8, 8, num_layers=2, dropout=0.2)
        self.head = nn.Linear(8, 16)

    def forward(self, x):
        return self.head(self.lstm(self.embed(x)[:, None])[0][:, 0])


class Run:
    """An ordinary loop; it draws its batches from the global generators and private ones."""

    def __init__(self, model=Everything, optimizer=OPTIMIZERS["adam"], schedule=None):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        self.model = model()
        self.optimizer = optimizer(self.model.parameters())
        self.scheduler = schedule(self.optimizer) if schedule else lr_scheduler.StepLR(self.optimizer, 3, 0.7)
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
        self.noise = torch.Generator().manual_seed(1)
        self.generators = Generators({"numpy": np.random.default_rng(2)})
        self.numpy = self.generators._private["numpy"]
        parts = {"scheduler": self.scheduler, "ema": self.ema, "noise": self.noise}
        self.plant = Plant(self.model, self.optimizer, parts, self.generators)

    def step(self):
        shift = random.randrange(16) + np.random.randint(16) + int(self.numpy.integers(16))
        x = (torch.randint(16, (32,), generator=self.noise) + shift) % 16
        loss = nn.functional.cross_entropy(self.model(x), (3 * x + 1) % 16)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step(*[loss.item()] * isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau))
        self.ema.update_parameters(self.model)
        return loss.item()

    def steps(self, count):
        return [self.step() for _ in range(count)]

    def bits(self):
        """Everything a rewind promises, as a copy that `torch.equal` can compare."""
        return copy.deepcopy((self.plant.state(), self.generators.capture()))

    def restore(self, ring, snapshot):
        ring.restore(snapshot)
        assert not ring.restore_generators(snapshot)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b or a != a


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rewinds_bitwise(run, at, after=5):
    """Restore the snapshot of step `at` three times; each continuation equals the first run, to the bit."""
    run.steps(at)
    before = run.bits()
    ring = SnapshotRing(run.plant, capacity=2)
    snapshot = ring.capture(at, {})
    assert_same(run.bits(), before)  # capturing has disturbed nothing
    losses = run.steps(after)
    final = run.bits()
    for _ in range(3):
        run.restore(ring, snapshot)
        assert_same(run.bits(), before)
        assert run.steps(after) == losses
        assert_same(run.bits(), final)


@pytest.mark.parametrize("at", [0, 1, 7])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rewind_is_bitwise_three_times_with(name, at):
    rewinds_bitwise(Run(optimizer=OPTIMIZERS[name]), at)


@pytest.mark.parametrize("at", [0, 1, 7])
def test_a_rewind_is_bitwise_with_an_lstm(at):
    rewinds_bitwise(Run(Recurrent), at)


SCHEDULES = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "step": lambda o: lr_scheduler.StepLR(o, 3),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [2, 4, 9]),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=9),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 20),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(o, 0.9), lr_scheduler.ConstantLR(o, 0.5, 4)]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, threshold=0.1),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=3),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=40),
    "swa": lambda o: SWALR(o, 0.05, anneal_epochs=4),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rewind_is_bitwise_with_the_scheduler(name):
    momentum = OPTIMIZERS["momentum"]
    rewinds_bitwise(Run(optimizer=momentum, schedule=SCHEDULES[name]), 2, after=7)


def test_lists_of_tensors_in_the_optimizer_are_rewound():
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=4, history_size=3)
    x, y = torch.randn(8, 4), torch.randn(8, 4)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    def steps(count):
        return [optimizer.step(closure).item() for _ in range(count)]

    ring = SnapshotRing(Plant(model, optimizer, {}, Generators()), 4)
    start = ring.capture(0, {})
    early = steps(2)
    middle = ring.capture(2, {})
    late = steps(4)
    for _ in range(3):
        ring.restore(middle)
        assert steps(4) == late
    ring.restore(start)
    assert steps(2) == early


def test_flags_gradients_and_groups_are_rewound():
    run = Run(optimizer=lambda p: torch.optim.AdamW(list(p)[:3], 0.01))
    run.model.norm.eval()
    run.model.hidden.requires_grad_(False)
    ring = SnapshotRing(run.plant, 1)
    before = run.bits()
    snapshot = ring.capture(0, {})
    run.steps(2)
    run.model.eval()
    run.model.requires_grad_(True)
    run.optimizer.add_param_group({"params": list(run.model.norm.parameters()), "lr": 1.0})
    run.steps(2)
    run.restore(ring, snapshot)
    assert_same(run.bits(), before)
    assert run.model.training
    assert not run.model.norm.training
    assert not run.model.hidden.weight.requires_grad
    assert len(run.optimizer.param_groups) == 1
    assert all(p.grad is None for p in run.model.parameters())


def test_half_accumulated_gradients_do_not_leak_into_the_next_step():
    run = Run()
    run.steps(1)
    ring = SnapshotRing(run.plant, 1)
    snapshot = ring.capture(1, {})
    run.model(torch.arange(8)).sum().backward()
    run.restore(ring, snapshot)
    assert all(p.grad is None or not p.grad.any() for p in run.model.parameters())


def test_a_module_with_extra_state_of_its_own_is_rewound():
    class Counting(nn.Linear):
        count = 0

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    model = nn.Sequential(Counting(2, 2))
    ring = SnapshotRing(Plant(model, torch.optim.SGD(model.parameters(), 0.1), {}, Generators()), 1)
    snapshot = ring.capture(0, {})
    model[0].count = 5
    ring.restore(snapshot)
    assert model[0].count == 0


class Buffers(nn.Module):
    """Buffers that are made late, grow, are reassigned, shared, or have no memory of their own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("late", None)
        self.register_buffer("grows", torch.zeros(1))
        self.register_buffer("wide", torch.arange(3.0).expand(2, 3))
        self.register_buffer("graph", torch.eye(3).to_sparse())
        self.shared = nn.BatchNorm1d(3)
        self.shared.register_buffer("again", self.shared.running_mean)

    def step(self):
        self.late = torch.ones(3) if self.late is None else self.late * 2
        self.grows = torch.cat([self.grows, self.grows[-1:] + 1])
        self.graph = self.graph * 2
        self.wide = self.wide + 1
        self.shared.running_mean += 1
        if not hasattr(self, "added"):
            self.register_buffer("added", torch.zeros(2))


def test_buffers_of_every_sort_are_rewound():
    model = Buffers()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ring = SnapshotRing(Plant(model, optimizer, {}, Generators()), 4)
    wide = model.wide

    def look():
        return {key: None if b is None else b.to_dense().tolist() for key, b in model.named_buffers()}

    looks, snapshots = [], []
    for step in range(3):
        looks.append(look())
        snapshots.append(ring.capture(step, {}))
        if step < 2:
            model.step()
    for _ in range(2):
        for at in (0, 2, 1):
            ring.restore(snapshots[at])
            assert look() == looks[at]
    ring.restore(snapshots[0])
    assert model.late is None
    assert model.shared.again is model.shared.running_mean
    assert torch.equal(model.wide, wide)


def test_parameters_that_only_the_optimizer_holds_are_rewound():
    model, temperature = nn.Linear(2, 2), nn.Parameter(torch.ones(()))
    optimizer = torch.optim.Adam([*model.parameters(), temperature], 0.1)
    ring = SnapshotRing(Plant(model, optimizer, {}, Generators()), 1)
    snapshot = ring.capture(0, {})
    (model(torch.ones(1, 2)).sum() * temperature).backward()
    optimizer.step()
    assert temperature.item() != 1
    ring.restore(snapshot)
    assert temperature.item() == 1
    assert not optimizer.state


def test_the_state_lost_since_a_snapshot_is_made_again_on_a_later_one():
    run = Run()
    ring = SnapshotRing(run.plant, 2)
    run.steps(3)
    third = ring.capture(3, {})
    final = run.steps(4)
    run.optimizer.state.clear()
    run.restore(ring, third)
    assert run.steps(4) == final


def test_a_grad_scaler_is_rewound():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    ring = SnapshotRing(Plant(model, optimizer, {"scaler": scaler}, Generators()), 1)

    def step():
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(1, 2)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        return model.weight.detach().clone()

    snapshot = ring.capture(0, {})
    first = [step() for _ in range(3)]
    assert scaler.get_scale() == 64
    for _ in range(3):
        ring.restore(snapshot)
        assert scaler.get_scale() == 8
        assert_same([step() for _ in range(3)], first)


def test_distributed_tensors_are_rewound_by_their_local_part():
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = nn.Linear(4, 4, bias=False)
        model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [Shard(0)]))
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        ring = SnapshotRing(Plant(model, optimizer, {}, Generators()), 1)

        def step():
            optimizer.zero_grad()
            model.weight.square().sum().backward()
            optimizer.step()
            return model.weight.full_tensor().detach().clone()

        step()
        snapshot = ring.capture(1, {})
        after = [step() for _ in range(3)]
        for _ in range(3):
            ring.restore(snapshot)
            assert isinstance(model.weight, DTensor)
            assert isinstance(optimizer.state[model.weight]["exp_avg"], DTensor)
            assert_same([step() for _ in range(3)], after)
    finally:
        distributed.destroy_process_group()


def addresses(run):
    found = {}
    for name, p in run.model.named_parameters():
        found[name] = p.data_ptr()
        for key, value in run.optimizer.state[p].items():
            found[f"{name}.{key}"] = value.data_ptr()
    return found


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_restore_moves_no_tensor(device):
    run = Run()
    run.steps(2)
    ring = SnapshotRing(run.plant, 2, device)
    snapshot = ring.capture(2, {})
    run.steps(2)
    before = addresses(run)
    for _ in range(3):
        run.restore(ring, snapshot)
        assert addresses(run) == before
    slot = {tensor.data_ptr() for tensor in snapshot.slot.tensors}
    assert slot.isdisjoint(addresses(run).values())


@pytest.mark.parametrize("compiled", ["model", "optimizer"])
def test_a_restore_recompiles_nothing(compiled):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), torch.tensor(0.01), capturable=False, fused=True)
    x = torch.randn(8, 4)
    forward, update = model, optimizer.step
    if compiled == "model":
        forward = torch.compile(model, backend="aot_eager")
    else:
        optimizer = torch.optim.AdamW(model.parameters(), torch.tensor(0.01), foreach=False)
        update = torch.compile(optimizer.step, backend="eager")
    ring = SnapshotRing(Plant(forward, optimizer, {}, Generators()), 2)

    def steps(count):
        losses = []
        for _ in range(count):
            loss = forward(x).square().sum()
            optimizer.zero_grad()
            loss.backward()
            update()
            losses.append(loss.item())
        return losses

    steps(3)
    snapshot = ring.capture(3, {})
    losses = steps(3)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            ring.restore(snapshot)
            assert steps(3) == losses
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


def test_snapshots_of_an_abandoned_branch_go_and_cannot_be_restored():
    run = Run()
    ring = SnapshotRing(run.plant, 8)
    taken = [ring.capture(step, {}) for step in (0, 10, 20, 30)]
    ring.keep(lambda snapshot: snapshot.step <= 10)
    assert ring.snapshots == taken[:2]
    with pytest.raises(TuneError, match="that of step 20; kept are those of 0, 10"):
        ring.restore(taken[2])
    again = ring.capture(10, {})
    assert ring.snapshots == [taken[0], again]


def test_slots_are_reused():
    run = Run()
    run.steps(4)
    ring = SnapshotRing(run.plant, 2)
    first, _ = [ring.capture(step, {}) for step in (1, 2)]
    third = ring.capture(3, {})
    assert third.slot is first.slot
    assert third.nbytes == first.nbytes > 0


def test_extra_is_a_copy():
    ring = SnapshotRing(Run().plant, 1)
    extra = {"lr": torch.ones(1), "ramps": [{"to": 3}]}
    snapshot = ring.capture(0, extra)
    extra["lr"].zero_()
    extra["ramps"][0]["to"] = 4
    assert snapshot.extra == {"lr": torch.ones(1), "ramps": [{"to": 3}]}


@pytest.mark.parametrize("capacity", [1, 2, 3, 6, 10])
def test_ages_stay_log_spaced(capacity):
    steps = []
    for now in range(0, 5000, 10):
        if len(steps) == capacity:
            del steps[least_missed(steps, now)]
        steps.append(now)
        assert len(steps) == min(capacity, now // 10 + 1)
        ages = [now - step for step in steps]
        assert ages[-1] == 0
        if capacity > 1 and now:
            assert ages[-2] == 10  # the last but one is always there
        reach = 10 * 2 ** (len(steps) - 2)
        if capacity > 2 and now > 2 * reach:
            assert reach / 2 <= ages[0] <= 4 * reach
            assert all(older / younger <= 4 for older, younger in itertools.pairwise(ages[:-1]))


def test_a_ring_too_large_for_the_memory_shrinks_and_says_so():
    ring = SnapshotRing(Run().plant, 10**12)
    with pytest.warns(UserWarning, match="more than half of the free memory of cpu: keeping"):
        ring.capture(0, {})
    assert 1 < ring.capacity < 10**12


@pytest.mark.parametrize("missing", ["/proc/self/limits", "/proc/self/cgroup", "memory.stat"])
def test_a_kernel_that_says_less_about_its_memory_ends_no_run(monkeypatch, missing):
    read = Path.read_text

    def read_text(path, *arguments):
        if str(path).endswith(missing):
            raise FileNotFoundError(path)
        return read(path, *arguments)

    monkeypatch.setattr(Path, "read_text", read_text)
    SnapshotRing(Run().plant, 1).capture(0, {})


def test_a_ring_that_fits_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SnapshotRing(Run().plant, 4).capture(0, {})


def test_a_ring_of_nothing_is_refused():
    with pytest.raises(TuneError, match="capacity=0"):
        SnapshotRing(Run().plant, 0)


def test_an_optimizer_of_another_model_is_refused():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
    with pytest.raises(TuneError, match=r"must hold parameters of the model, got one with 2 others; make it"):
        Plant(nn.Linear(2, 2), optimizer, {}, Generators())


def test_a_model_without_shapes_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2))
    with pytest.raises(TuneError, match=r"uninitialised model\.1\.weight; run one batch first"):
        Plant(model, torch.optim.SGD(model.parameters(), 0.1), {}, Generators())


@pytest.mark.parametrize(
    ("stateful", "message"),
    [
        ({"ema": object()}, "got object for 'ema'"),
        ({"model": nn.Linear(1, 1)}, "got 'model'; choose another"),
    ],
)
def test_a_part_without_state_or_name_is_refused(stateful, message):
    model = nn.Linear(2, 2)
    with pytest.raises(TuneError, match=message):
        Plant(model, torch.optim.SGD(model.parameters(), 0.1), stateful, Generators())


def plant_of(*sizes, optimizer=torch.optim.SGD, **stateful):
    """Of a chain of linear layers of these widths."""
    model = nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(sizes)])
    return Plant(model, optimizer(model.parameters(), 0.1), stateful, Generators())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            plant_of(2, 3, 2),
            r"3 parts differ: model\.0\.weight is float32\[2, 2\] in the run, float32\[3, 2\] in the",
        ),
        (plant_of(2, 2), r"model\.1\.weight is float32\[2, 2\] in the run, missing in the state"),
        (plant_of(2, 2, 2, optimizer=torch.optim.Adam), "optimizer is SGD in the run, Adam in the state"),
        (plant_of(2, 2, 2, scaler=torch.amp.GradScaler("cpu")), "scaler is missing in the run"),
    ],
)
def test_the_state_of_another_run_is_refused_and_nothing_touched(other, message):
    plant = plant_of(2, 2, 2)
    before = copy.deepcopy(plant.state())
    with pytest.raises(TuneError, match=message):
        plant.load(other.state())
    assert_same(plant.state(), before)
