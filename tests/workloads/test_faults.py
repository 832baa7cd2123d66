import functools
import pickle
from itertools import islice

import pytest
import torch

from autotune import AutoTuner
from autotune.benchmarks.suites.arms import Static, Tuned
from autotune.benchmarks.suites.remedies import Remedy
from autotune.benchmarks.suites.results import Config
from autotune.benchmarks.suites.run import execute
from autotune.benchmarks.suites.workload import healthy
from autotune.benchmarks.workloads.corruption import Creeping, Quiet, Weighted
from autotune.benchmarks.workloads.digits_mlp import DigitsMLP
from autotune.benchmarks.workloads.faults import (
    BETA2,
    BURST,
    FAULTS,
    IDEFICS,
    LOSS_SCALE,
    OPT,
    PALM,
    SPIKE,
)
from autotune.benchmarks.workloads.wrapped import Stream
from autotune.data import ReplayingLoader
from autotune.generators import Generators
from autotune.policies import DivergenceGuard

CPU = torch.device("cpu")
WINDOWS = {
    SPIKE: {500},
    BURST: set(range(500, 520)),
    PALM: {90, 91, 130, 131, 190, 191},
    LOSS_SCALE: set(range(60, 100)),
}


def named(workload):
    return workload.name


@functools.cache
def final(workload, arm):
    return execute(workload, arm, Config(workload.rate), 0, 1.0, CPU)


def endless(training):
    while True:
        yield from training.batches


def same(one, other):
    return all(map(torch.equal, one, other))


# --- what goes wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", WINDOWS, ids=named)
def test_all_batches_but_the_faulty_ones_are_those_of_the_healthy_twin(workload):
    count = max(WINDOWS[workload]) + 20
    sound = islice(endless(healthy(workload).begin(1, CPU)), count)
    met = islice(workload.begin(1, CPU).batches, count)
    faulty = {
        number
        for number, (a, b) in enumerate(zip(sound, met, strict=True))
        if b.weight != 1 or not same(a, b.batch)
    }
    assert faulty == WINDOWS[workload]


@pytest.mark.parametrize("workload", FAULTS, ids=named)
def test_model_evaluations_and_search_are_those_of_the_healthy_twin(workload):
    twin = healthy(workload)
    assert twin is not workload
    assert healthy(twin) is twin
    for field in ("steps", "epoch", "rate", "target"):
        assert getattr(workload, field) == getattr(twin, field)
    one, other = workload.begin(2, CPU), twin.begin(2, CPU)
    assert one.probe_cost == other.probe_cost
    assert [one.evaluate(p) for p in ("probe", "test")] == [other.evaluate(p) for p in ("probe", "test")]
    names = [parameter.name for parameter in one.hyperparameters(one.optimizer(1e-3))]
    assert names.count("gradient_clip") == 1
    assert ("beta2" in names) == (workload is BETA2)


def test_the_cases_have_names_of_their_own_and_travel_to_other_processes():
    assert len({workload.name for workload in FAULTS}) == len(FAULTS)
    assert pickle.loads(pickle.dumps(FAULTS)) == FAULTS


@pytest.mark.parametrize("workload", FAULTS, ids=named)
def test_unattended_each_ends_clearly_worse_than_its_healthy_twin(workload):
    lost, sound = (final(w, Static("constant")).final for w in (workload, healthy(workload)))
    assert lost > 1.2 * sound


def test_weights_reach_the_gradients_and_not_the_loss():
    training = OPT.begin(0, CPU)
    optimizer = torch.optim.SGD(training.model.parameters(), lr=0.0)
    norms, losses = [], []
    batch = next(iter(training.batches)).batch
    for weight in (1.0, 10.0):
        loss = training.loss(Weighted(batch, weight))
        training.update(loss, optimizer)
        losses.append(loss.item())
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in training.model.parameters()])))
    assert losses[0] == losses[1]
    assert norms[1] == pytest.approx(10 * norms[0], rel=1e-5)


def test_gradients_creep_and_are_quiet_by_the_number_of_their_batch():
    random = torch.Generator()
    creeping, quiet = Creeping(10, 30, 100.0), Quiet(5, 2, 0.01)
    weights = [creeping(None, number, random).weight for number in (0, 10, 20, 30, 99)]
    assert weights == pytest.approx([1, 1, 10, 100, 100])
    assert [quiet(None, n, random).weight for n in range(7)] == [1, 1, 0.01, 0.01, 0.01, 1, 1]


# --- rewinds ----------------------------------------------------------------------------------------------


def numbered(batch, number, random):
    return Weighted((number, batch, torch.rand(3, generator=random)))


@pytest.mark.parametrize("kept", [2**26, 0], ids=["from memory", "drawn anew"])
def test_a_replay_meets_the_faults_again_and_a_skip_leaves_them_behind(kept):
    stream = Stream(DigitsMLP().begin(0, CPU).batches, numbered, 0)
    data = ReplayingLoader(Generators(), kept)
    batches = data.epochs(stream, None)
    list(islice(batches, 30))  # in the second pass over the digits
    position = data.position
    data.keep_from(position)
    first = list(islice(batches, 10))
    data.rewind(position, "replay")
    again = list(islice(batches, 10))
    assert [item.batch[0] for item in again] == list(range(30, 40))
    for one, other in zip(first, again, strict=True):
        assert same(one.batch[1], other.batch[1])
        assert torch.equal(one.batch[2], other.batch[2])
    data.rewind(position, "skip")
    assert [item.batch[0] for item in islice(batches, 3)] == [40, 41, 42]


@pytest.mark.parametrize("workload", [BURST, IDEFICS], ids=named)
def test_the_guard_leaves_a_poisoned_window_behind(workload):
    guarded = final(workload, Tuned("guard", lambda: [DivergenceGuard()]))
    rewinds = [e for e in guarded.events if e.status == "applied" and e.text.startswith("rewind")]
    assert rewinds
    assert guarded.steps <= workload.steps
    assert guarded.final < 0.5 * final(workload, Static("constant")).final


def test_a_rewind_brings_the_loss_scale_back(tmp_path):
    training = LOSS_SCALE.begin(0, CPU)
    optimizer = training.optimizer(1e-3)
    (scaler,) = training.stateful().values()
    with AutoTuner(
        training.model,
        optimizer,
        hyperparameters=training.hyperparameters(optimizer),
        total_steps=80,
        stateful=training.stateful(),
        folder=tmp_path / "run",
        mlflow=False,
    ) as tuner:
        scales = []
        for batch in tuner.batches(training.batches):
            loss = training.loss(batch)
            training.update(loss, optimizer)
            tuner.report(loss=loss)
            scales.append(scaler.get_scale())
            if len(scales) == 101:  # the window, and a step
                tuner.rewind(50, "skip")
    assert scales[50] == scales[59] > 1
    assert scales[100] == scales[59] * 0.5**40
    assert set(scales[101:]) == {scales[59]}


# --- what people did --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", [SPIKE, OPT, LOSS_SCALE, BETA2], ids=named)
def test_the_remedy_rescues_and_pays_for_its_restarts(workload):
    rescued, lost = final(workload, Remedy()), final(workload, Static("constant"))
    sound = final(healthy(workload), Static("constant"))
    assert rescued.steps == rescued.spent == workload.steps
    assert rescued.final < lost.final
    assert rescued.final < 1.1 * sound.final or workload is BETA2


def test_where_nothing_goes_wrong_the_remedy_is_a_constant_rate():
    workload = DigitsMLP(steps=60)
    assert final(workload, Remedy()).final == final(workload, Static("constant")).final
