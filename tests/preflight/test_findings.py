"""Each check finds what is sick; test_healthy.py says that it finds nothing else."""

import enum
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from setups import DIGITS, HEALTHY, IMAGES, batches_of, made, mlp, preflight, regression
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autotune import AutoTuner


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def look(tmp_path):
    """The findings of one check, on a set-up."""
    runs = itertools.count()

    def findings(setup, check, **arguments):
        report = preflight(setup, tmp_path / f"run{next(runs)}", **arguments)
        return [f for f in report.findings if f.check == check]

    return findings


def classifier(model, loss=F.cross_entropy, rate=1e-3, inputs=IMAGES, labels=DIGITS):
    return made(
        model,
        torch.optim.AdamW(model.parameters(), lr=rate),
        batches_of(inputs, labels),
        lambda batch: loss(model(batch[0]), batch[1]),
    )


# --- initial loss ------------------------------------------------------------------------------------------


def test_a_loss_far_above_chance(look):
    setup = mlp()
    with torch.no_grad():
        setup.model[3].weight.mul_(100)
    (finding,) = look(setup, "initial loss")
    assert finding.severity == "warning"
    assert finding.figures["loss"] > 5
    assert finding.figures["chance"] == pytest.approx(np.log(10))
    assert "last layer's initial weights down" in finding.remedy


def test_a_loss_below_chance_before_the_first_step(look):
    setup = mlp()
    for _, batch in zip(range(150), itertools.cycle(setup.loader), strict=False):
        setup.optimizer.zero_grad()
        setup.loss(batch).backward()
        setup.optimizer.step()
    setup.optimizer.zero_grad()
    (finding,) = look(setup, "initial loss")
    assert finding.severity == "note"
    assert "leaks" in finding.means


def test_a_loss_below_chance_is_what_training_is_for(tmp_path):
    setup = mlp()
    with AutoTuner(setup.model, setup.optimizer, folder=tmp_path / "run", mlflow=False) as tuner:
        for batch in tuner.batches(setup.loader, epochs=3):
            setup.optimizer.zero_grad()
            setup.loss(batch).backward()
            setup.optimizer.step()
        report = tuner.preflight(setup.loader, setup.loss, seconds=60)
    assert report.step == tuner.step > 0
    (finding,) = (f for f in report.findings if f.check == "initial loss")
    assert finding.severity == "ok"
    assert finding.figures["loss"] < 0.65 * finding.figures["chance"]


def test_rare_classes_and_biases_that_hold_their_frequency_are_no_leak(look):
    labels = (torch.rand(1000) < 0.02).long()
    model = nn.Linear(20, 2)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([0.98, 0.02]).log())
    setup = classifier(model, inputs=0.1 * torch.randn(1000, 20), labels=labels)
    (finding,) = look(setup, "initial loss")
    assert finding.severity == "ok"
    assert finding.figures["loss"] < 0.3


@pytest.mark.parametrize(
    ("layers", "loss", "severity", "word"),
    [
        ([nn.Softmax(1)], F.cross_entropy, "warning", "probabilities"),
        ([], F.nll_loss, "error", "log-probabilities"),
        ([nn.Softmax(1)], F.nll_loss, "error", "log-probabilities"),
    ],
    ids=["softmax twice", "scores", "probabilities"],
)
def test_scores_and_probabilities_that_are_mixed_up(look, layers, loss, severity, word):
    setup = classifier(nn.Sequential(nn.Linear(64, 10), *layers), loss)
    findings = look(setup, "initial loss")
    assert [f.severity for f in findings if word in f.found] == [severity]


def test_shapes_that_are_broadcast(look):
    setup = regression()
    loss = setup.loss
    setup.loss = lambda batch: loss((batch[0], batch[1].squeeze(-1)))
    with pytest.warns(UserWarning, match="target size"):
        findings = look(setup, "initial loss")
    assert [f.severity for f in findings] == ["error", "ok"]
    assert "shapes" in findings[0].found


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda y: 500 + y, "far from 0"),
        (lambda y: 1e-3 * y, "far larger"),
        (lambda y: torch.full_like(y, 3.0), "one constant"),
    ],
    ids=["offset", "small", "constant"],
)
def test_targets_of_a_regression(look, change, word):
    setup = regression()
    inputs, targets = setup.loader.dataset.tensors
    setup.loader = batches_of(inputs, change(targets))
    (finding,) = look(setup, "initial loss")
    assert finding.severity == "warning"
    assert word in finding.means


def test_a_loss_of_its_own_is_judged_by_the_chance_that_is_given(look):
    setup = mlp()
    setup.loss = lambda batch: -setup.model(batch[0]).log_softmax(1)[range(len(batch[1])), batch[1]].mean()
    (unknown,) = look(setup, "initial loss")
    assert unknown.severity == "note"
    assert "chance=" in unknown.remedy
    severities = [look(setup, "initial loss", chance=c)[0].severity for c in (2.3, 1.0, 20.0)]
    assert severities == ["ok", "warning", "note"]


def test_a_loss_that_is_not_finite_and_where_it_comes_from(look):
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    model = nn.Sequential(nn.Linear(64, 32), Root(), nn.Linear(32, 10))
    (finding,) = look(classifier(model), "initial loss")
    assert finding.severity == "error"
    assert "first module with such an output is 1" in finding.found


def test_contrastive_losses_begin_below_chance(look):
    setup = mlp()
    setup.model[2].p = 0

    def loss(batch):
        one, other = (F.normalize(setup.model(batch[0] + 0.1 * torch.randn(64))) for _ in range(2))
        return F.cross_entropy(one @ other.T / 0.1, torch.arange(len(one)))

    setup.loss = loss
    (finding,) = look(setup, "initial loss")
    assert finding.severity == "ok"
    assert finding.figures["loss"] < 0.8 * finding.figures["chance"]


# --- overfitting -------------------------------------------------------------------------------------------


def test_outputs_that_cannot_reach_the_targets(look):
    setup = regression()
    setup.model.append(nn.ReLU())
    inputs, targets = setup.loader.dataset.tensors
    setup.loader = batches_of(inputs, -targets.abs() - 1)
    (finding,) = look(setup, "overfitting")
    assert finding.severity == "warning"
    assert finding.figures["steps"] == 150
    assert finding.figures["best"] > 0.8 * finding.figures["first"]


def test_a_constant_in_the_loss_is_no_obstacle(look):
    setup = mlp()
    loss = setup.loss
    setup.loss = lambda batch: loss(batch) + 100
    (finding,) = look(setup, "overfitting")
    assert finding.severity == "note"


def test_dropout_and_noise_are_no_obstacle(look):
    setup = mlp()
    setup.model[2].p = 0.8
    (finding,) = look(setup, "overfitting")
    assert finding.severity == "ok"


def test_too_little_time_is_said(look):
    setup = mlp()
    assert "no time" in look(setup, "overfitting", seconds=1e-6)[0].found
    assert [look(setup, check, seconds=1e-6)[0].severity for check in ("overfitting", "differences")] == [
        "note",
        "note",
    ]


def test_a_batch_that_cannot_be_cut_is_taken_whole(look):
    setup = mlp()
    loss = setup.loss
    setup.loss = lambda batch: loss((batch[0].view(64, 64), batch[1]))
    setup.loader = batches_of(IMAGES, DIGITS, drop_last=True)
    (finding,) = look(setup, "overfitting")
    assert (finding.severity, finding.figures["samples"]) == ("ok", 64)


# --- centred differences -----------------------------------------------------------------------------------


class Doubled(torch.autograd.Function):
    """The identity, with a gradient that is twice what it should be."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Wrong(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        if self.how == "function":
            return Doubled.apply(x)
        return x * x.detach().tanh()


def test_a_detach_elsewhere_excuses_no_wrong_function(look):
    """As for a metric."""
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), Wrong("function"), nn.Linear(32, 10))
    setup = classifier(model)

    def loss(batch):
        outputs = model(batch[0])
        outputs.detach().numpy().argmax(1)
        return F.cross_entropy(outputs, batch[1])

    setup.loss = loss
    (finding,) = look(setup, "differences")
    assert finding.severity == "warning"


def test_weights_that_do_not_lie_in_rows_are_compared_in_double_precision(look):
    setup = HEALTHY["convolutional"]()
    setup.model.to(memory_format=torch.channels_last)
    (finding,) = look(setup, "differences")
    assert (finding.severity, finding.figures["bits"]) == ("ok", 64)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(("how", "severity"), [("function", "warning"), ("detach", "note")])
def test_a_backward_pass_that_is_wrong(look, how, severity, single):
    """Where detach() is called it is named, since it may be meant."""
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), Wrong(how), nn.Linear(32, 10))
    setup = classifier(model)
    if single:
        setup.loss = lambda batch: F.cross_entropy(model(batch[0].float()), batch[1])
    (finding,) = look(setup, "differences")
    assert finding.severity == severity
    assert ("no_grad() in 2" in finding.means) == (how == "detach")
    assert finding.figures["bits"] == (32 if single else 64)
    assert "0.weight" in finding.found
    assert "3.weight" not in finding.found


def test_a_target_from_the_model_itself_is_no_alarm(look):
    """Semi-gradients, as in Q-learning."""
    setup = mlp()

    def loss(batch):
        with torch.no_grad():
            target = setup.model(batch[0].flip(0))
        return F.smooth_l1_loss(setup.model(batch[0]), target)

    setup.loss = loss
    (finding,) = look(setup, "differences")
    assert finding.severity == "note"
    assert finding.figures["differ"] > 0


def test_kinks_are_no_alarm(look):
    """Ten layers of ReLU on 64 samples: every difference crosses some kink, if the step is long enough."""
    layers = [part for _ in range(10) for part in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    for part in model[::2]:
        nn.init.kaiming_normal_(part.weight)
    (finding,) = look(classifier(model), "differences")
    assert finding.severity == "ok"
    assert finding.figures["differ"] == 0


def test_a_loss_that_is_another_one_each_time_is_not_decided(look):
    setup = mlp()
    loss, hidden = setup.loss, np.random.default_rng(0)
    setup.loss = lambda batch: loss(batch) * (1 + 0.1 * float(hidden.random()))
    (finding,) = look(setup, "differences")
    assert finding.severity == "note"
    assert "differs between two calls" in finding.means


# --- units and gradients -----------------------------------------------------------------------------------


def test_dead_units(look):
    setup = mlp()
    with torch.no_grad():
        setup.model[0].bias[:96] = -100
    (finding,) = look(setup, "units")
    assert finding.severity == "warning"
    assert finding.figures["1: relu"] >= 0.75
    with torch.no_grad():
        setup.model[0].bias.fill_(-100)
    (finding,) = look(setup, "units")
    assert finding.severity == "error"
    gradients = look(setup, "gradients")
    assert any(f.found.startswith("0.bias, 0.weight, 3.weight: the gradient is exactly 0") for f in gradients)


def test_dead_channels_of_a_convolution(look):
    setup = HEALTHY["convolutional"]()
    with torch.no_grad():
        setup.model[1].bias[:12] = -100
    (finding,) = look(setup, "units")
    assert finding.figures == {"2: relu": 0.75}


@pytest.mark.parametrize("kind", [nn.Tanh, nn.Sigmoid])
def test_saturated_units(look, kind):
    model = nn.Sequential(nn.Linear(64, 32), kind(), nn.Linear(32, 10))
    with torch.no_grad():
        model[0].weight.mul_(200)
    (finding,) = look(classifier(model), "units")
    assert finding.severity == "warning"
    assert next(iter(finding.figures.values())) > 0.8


def test_attention_that_is_not_divided_by_the_root_of_the_width(look):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.Linear(8, 3 * 256)
            self.head = nn.Linear(8 * 256, 10)
            nn.init.normal_(self.parts.weight)

        def forward(self, x):
            q, k, v = self.parts(x.view(-1, 8, 8)).chunk(3, -1)
            return self.head((F.softmax(q @ k.mT, dim=-1) @ v).flatten(1))

    (finding,) = look(classifier(Attention()), "units")
    assert finding.severity == "warning"
    assert "softmax" in finding.found


class Parts(nn.Module):
    """A part that is used, one that is not, and one that is multiplied by 0."""

    def __init__(self):
        super().__init__()
        self.used = nn.Linear(64, 10)
        self.unused = nn.Linear(64, 10)
        self.muted = nn.Linear(64, 10)

    def forward(self, x):
        return self.used(x) + 0 * self.muted(x)


def test_parameters_without_gradient_and_beside_the_optimizer(look):
    model = Parts()
    setup = classifier(model)
    model.extra = nn.Linear(10, 10)
    model.used.bias.requires_grad_(False)
    idle = "extra.bias, extra.weight, unused.bias, unused.weight"
    found = {f.found: f.severity for f in look(setup, "gradients")}
    assert found == {
        f"{idle}: no gradient, though it is required.": "warning",
        "muted.bias, muted.weight: the gradient is exactly 0.": "warning",
        "extra.bias, extra.weight: requires a gradient, but is in no optimizer.": "warning",
        "used.bias: in the optimizer, but frozen.": "note",
    }


@pytest.mark.parametrize("cut", ["detach", "no_grad", "frozen"])
def test_a_graph_that_is_cut(look, cut):
    setup = mlp()
    loss = setup.loss
    if cut == "detach":
        setup.loss = lambda batch: loss(batch).detach()
    elif cut == "no_grad":
        setup.loss = torch.no_grad()(loss)
    else:
        setup.model.requires_grad_(False)
    findings = look(setup, "gradients")
    assert findings[0].severity == "error"
    assert "Nothing will be trained." in findings[0].means


def test_weights_and_gradients_that_are_not_finite(look):
    setup = mlp()
    with torch.no_grad():
        setup.model[3].bias[2] = float("inf")
    assert [f.found for f in look(setup, "gradients") if f.severity == "error"] == [
        "3.bias: weights are not finite."
    ]
    model = nn.Linear(64, 10)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    setup = classifier(model)
    setup.loss = lambda batch: (
        F.cross_entropy(model(batch[0]), batch[1]) + model(batch[0]).square().sum().sqrt()
    )
    assert [f.found for f in look(setup, "gradients") if f.severity == "error"] == [
        "bias, weight: gradients are not finite."
    ]


# --- updates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "severity", "word"),
    [
        (1.0, "error", "Lower the rate to"),
        (1e-3, "ok", ""),
        (1e-8, "warning", "Raise the rate"),
        (0, "note", "warm-up"),
    ],
)
def test_rates_that_are_off_by_orders(look, rate, severity, word):
    (finding,) = look(classifier(mlp().model, rate=rate), "update ratio")
    assert finding.severity == severity
    assert word in finding.remedy


def test_one_layer_that_moves_too_fast(look):
    setup = mlp()
    with torch.no_grad():
        setup.model[3].weight.mul_(1e-3)
        setup.model[3].bias.mul_(1e-3)
    (finding,) = look(setup, "update ratio")
    assert finding.severity == "warning"
    assert "for 3 alone" in finding.remedy


def test_an_optimizer_that_wants_a_closure(look):
    setup = mlp()
    setup.optimizer = torch.optim.LBFGS(setup.model.parameters())
    (finding,) = look(setup, "update ratio")
    assert finding.severity == "note"
    assert "closure" in finding.found


@pytest.mark.parametrize(
    ("error", "severity"), [(TypeError("1 + 'a'"), "warning"), (AssertionError("requires closure"), "note")]
)
def test_an_optimizer_whose_step_raises(look, error, severity):
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            raise error

    setup = mlp()
    setup.optimizer = Own(setup.model.parameters(), lr=0.1)
    (finding,) = look(setup, "update ratio")
    assert finding.severity == severity
    assert severity == "note" or str(error) in finding.found


def test_a_low_rate_is_a_warning_only_without_a_scheduler(look):
    setup = classifier(mlp().model, rate=1e-6)
    assert look(setup, "update ratio")[0].severity == "warning"
    torch.optim.lr_scheduler.LinearLR(setup.optimizer, start_factor=1.0)
    (finding,) = look(setup, "update ratio")
    assert finding.severity == "note"
    assert "warm-up begins here" in finding.means


def test_a_gain_near_0_may_move_far(look):
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(1e-4))

        def forward(self, x):
            return (1 + self.gain) * x

    assert look(classifier(nn.Sequential(*mlp().model, Gain())), "update ratio")[0].severity == "ok"


def test_what_another_optimizer_trains_is_a_note(look):
    model = Parts()
    model.muted.requires_grad_(False)
    setup = classifier(model)
    setup.optimizer = torch.optim.AdamW(model.used.parameters())
    setup.tuner_arguments = {"stateful": {"other": torch.optim.AdamW(model.unused.parameters())}}
    (finding,) = look(setup, "gradients")
    assert finding.severity == "note"
    assert finding.found == "unused.bias, unused.weight: no gradient from this loss."


# --- forms that only have to be survived -------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Implicit dimension", "ignore:.*torch.jit")
@pytest.mark.parametrize("how", ["softmax", "sparse", "script", "one probability row"])
def test_looking_on_stops_no_run(look, how):
    setup = mlp()
    if how == "softmax":
        loss = setup.loss
        setup.loss = lambda batch: loss(batch) + 0 * nn.Softmax()(setup.model(batch[0])).sum()
    elif how == "sparse":
        model = nn.Sequential(nn.Embedding(17, 4, sparse=True), nn.Flatten(), nn.Linear(256, 10))
        setup = classifier(model, inputs=(16 * IMAGES).long())
        setup.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    elif how == "script":
        setup = classifier(torch.jit.script(mlp().model))
    else:
        setup.loss = lambda batch: torch.stack(
            [
                F.cross_entropy(row, F.one_hot(digit, 10).to(row.dtype))
                for row, digit in zip(setup.model(batch[0]), batch[1], strict=True)
            ]
        ).mean()
    for check in ("units", "differences", "overfitting"):
        assert {f.severity for f in look(setup, check, seconds=5)} <= {"ok", "note"}
    assert not any("Looking on failed" in f.found for f in look(setup, "initial loss", seconds=5))


def test_a_function_that_cannot_be_looked_at_is_a_note(look):
    setup = mlp()
    loss = setup.loss
    names = SimpleNamespace(scores=torch.ones(2))

    class Odd:
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return names.scores.sum()

    setup.loss = lambda batch: loss(batch) + 0 * F.mse_loss(Odd(), torch.ones(2))
    findings = look(setup, "initial loss")
    assert [f.severity for f in findings if "Looking on failed at mse_loss in" in f.found] == ["note"]


# --- data --------------------------------------------------------------------------------------------------


def test_the_same_batch_again_and_again(look):
    setup = mlp()
    batch = next(iter(setup.loader))
    setup.loader = DataLoader([batch] * 5, batch_size=None)
    (finding,) = look(setup, "loader")
    assert finding.severity == "error"
    assert finding.figures == {"repeats": 4, "in_a_row": 4, "batches": 5}
    setup.loader = [batch] * 5  # as full-batch training is written
    (finding,) = look(setup, "loader")
    assert finding.severity == "note"


def test_two_batches_in_the_same_order_are_luck(look):
    setup = mlp()
    setup.loader = DataLoader(TensorDataset(IMAGES[:2], DIGITS[:2]), 1)
    (finding,) = look(setup, "loader")
    assert finding.severity == "ok"


class Slotted:
    __slots__ = ("digits", "images")

    def __init__(self, items):
        self.images, self.digits = (torch.stack(part) for part in zip(*items, strict=True))


class Split(enum.Enum):
    TRAIN = 1


def strings(items):
    return [" ".join(map(str, image.tolist())) for image, _ in items], [str(int(d)) for _, d in items]


@pytest.mark.parametrize(
    ("collate", "parts", "severity"),
    [
        (
            strings,
            lambda b: (
                torch.tensor([[float(v) for v in text.split()] for text in b[0]]),
                torch.tensor([int(digit) for digit in b[1]]),
            ),
            "note",
        ),
        (Slotted, lambda b: (b.images, b.digits), "ok"),
        (
            lambda items: {"of": Split.TRAIN, "it": Slotted(items)},
            lambda b: (b["it"].images, b["it"].digits),
            "ok",
        ),
        (
            lambda items: [Slotted(items).images.to_sparse(), Slotted(items).digits],
            lambda b: (b[0].to_dense(), b[1]),
            "note",
        ),
        (
            lambda items: (Slotted(items).images.numpy()[:, ::-1], Slotted(items).digits),
            lambda b: (torch.from_numpy(b[0].copy()), b[1]),
            "ok",
        ),
    ],
    ids=["strings", "slots", "enum", "sparse", "negative strides"],
)
def test_batches_of_any_kind(tmp_path, collate, parts, severity):
    setup = mlp()
    loss = setup.loss
    setup.loss = lambda batch: loss(parts(batch))
    setup.loader = DataLoader(TensorDataset(IMAGES, DIGITS), 64, shuffle=True, collate_fn=collate)
    setup.arguments = {}
    report = preflight(setup, tmp_path / "run", seconds=5)
    assert report.ok, str(report)
    assert [f.severity for f in report.findings if f.check == "loader"] == [severity]


def test_data_in_the_order_of_their_classes(look):
    setup = mlp()
    order = DIGITS[:1400].argsort()
    setup.loader = DataLoader(TensorDataset(IMAGES[order], DIGITS[order]), 64)
    (order_finding,) = look(setup, "loader")
    assert "same order" in order_finding.found
    (finding,) = look(setup, "labels")
    assert finding.severity == "warning"
    assert finding.figures["neighbours_alike"] > 0.9
    assert finding.figures["single_class_batches"] > 5
    only = DIGITS == 3
    setup.loader = batches_of(IMAGES[only], DIGITS[only])
    (finding,) = look(setup, "labels")
    assert "All 183 labels that were read are 3" in finding.found


def test_samples_of_the_validation_among_the_training(look):
    setup = mlp()
    validation = TensorDataset(
        torch.cat([IMAGES[1400:], IMAGES[7:9]]), torch.cat([DIGITS[1400:], DIGITS[7:9]])
    )
    setup.loader = DataLoader(TensorDataset(IMAGES[:1400], DIGITS[:1400]), 64)
    (finding,) = look(setup, "leak", validation=DataLoader(validation, 100))
    assert finding.severity == "warning"
    assert finding.figures == {"training": 1400, "validation": 399, "shared": 2}
    assert "7 = 397, 8 = 398" in finding.found
    (finding,) = look(setup, "leak", validation=setup.loader)
    assert finding.severity == "error"


def test_masks_and_labels_that_are_alike_are_no_leak(look):
    """Each of them is larger than the input."""
    setup = mlp()
    masks = torch.ones(len(IMAGES), 300)
    setup.loader = batches_of(IMAGES[:1400], DIGITS[:1400], masks[:1400])
    (finding,) = look(setup, "leak", validation=batches_of(IMAGES[1400:], DIGITS[1400:], masks[1400:]))
    assert finding.severity == "ok"


def test_values_that_are_missing(look):
    setup = mlp()
    images = IMAGES.clone()
    images[100, 3] = float("nan")
    setup.loader = DataLoader(TensorDataset(images, DIGITS), 64)
    findings = look(setup, "loader")
    assert any(f.severity == "error" and "[0] in 1 batches" in f.found for f in findings)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x: 255 * x, "mean"),
        (lambda x: torch.cat([x, 1e4 * x[:, 20:21]], 1)[:, 1:], "mean"),
        (lambda x: torch.cat([x[:, 1:], 5e-5 * torch.randn(len(x), 1)], 1), "differ in scale"),
        (torch.zeros_like, "same"),
    ],
    ids=["bytes", "one large", "one small", "nothing"],
)
def test_inputs_that_are_not_normalised(look, change, word):
    (finding,) = look(classifier(mlp().model, inputs=change(IMAGES)), "inputs")
    assert finding.severity in ("warning", "error")
    assert word in finding.found + finding.means


def test_a_normalisation_in_front_forgives_any_scale(look):
    model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    assert look(classifier(model, inputs=255 * IMAGES), "inputs") == []


def test_a_loader_without_batches(look):
    setup = mlp()
    setup.loader = DataLoader(TensorDataset(IMAGES[:10], DIGITS[:10]), 64, drop_last=True)
    (finding,) = look(setup, "loader")
    assert finding.severity == "error"
