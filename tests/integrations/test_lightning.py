"""The tuner inside a real `Trainer.fit`."""

import math
import signal

import pytest
import torch
from frameworks import framework
from loops import INPUTS, LABELS, Scripted, same
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from autotune import Rewinding, TuneError
from autotune.actuators import gradient_clip, learning_rate
from autotune.journal import Journal
from autotune.policies import DivergenceGuard
from autotune.records import Rewind, Set, Stop

L = framework("lightning.pytorch")
from autotune.integrations.lightning import AutoTunerCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec")


class Module(L.LightningModule):
    def __init__(self, optimizer=torch.optim.AdamW, lr=1e-2, scheduled=False, fails=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4)
        )
        self.make, self.lr, self.scheduled, self.fails = optimizer, lr, scheduled, fails
        self.losses, self.rates, self.norms, self.validations = [], [], [], []

    def training_step(self, batch, batch_idx):
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        if self.fails is not None and len(self.losses) == 12:
            raise self.fails
        return loss

    def validation_step(self, batch, batch_idx):
        loss = cross_entropy(self.net(batch[0] + 0.1 * torch.randn_like(batch[0])), batch[1])
        self.log("val_loss", loss)

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.validations.append(self.trainer.callback_metrics["val_loss"].item())

    def on_before_optimizer_step(self, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.norms.append(nn.utils.get_total_norm([p.grad for p in self.parameters()]).item())

    def configure_optimizers(self):
        optimizer = self.make(self.parameters(), lr=self.lr)
        if not self.scheduled:
            return optimizer
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def fit(module, callbacks=None, steps=60, rows=(INPUTS, LABELS), shuffle=True, **arguments):
    """Train, and return the trainer."""
    torch.manual_seed(1)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=callbacks,
        check_val_every_n_epoch=2,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, **arguments},
    )
    training = DataLoader(TensorDataset(*rows), 32, shuffle=shuffle)
    trainer.fit(module, training, DataLoader(TensorDataset(INPUTS[:64], LABELS[:64]), 32))
    return trainer


def tuned(folder, hyperparameters=lambda _, o: [learning_rate(o, schedule="override")], **arguments):
    return AutoTunerCallback(hyperparameters, folder=folder, **{"mlflow": False, **arguments})


def state(module, trainer):
    tensors = dict(module.state_dict())
    for i, slots in enumerate(trainer.optimizers[0].state.values()):
        tensors |= {f"{i}/{k}": v for k, v in slots.items() if isinstance(v, torch.Tensor)}
    return tensors


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({}, {}),
        ({"scheduled": True}, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5}),
        ({"optimizer": torch.optim.LBFGS, "lr": 0.1}, {"steps": 10}),  # calls its closure many times a step
    ],
)
def test_a_tuner_that_does_not_act_changes_nothing(tmp_path, settings, arguments):
    bare, module = Module(**settings), Module(**settings)
    before = state(bare, fit(bare, **arguments))
    callback = tuned(
        tmp_path / "run",
        lambda _, o: [learning_rate(o, schedule="multiply")],
        policies=[Scripted({})],
    )
    trainer = fit(module, callback, **arguments)
    assert same(before, state(module, trainer))
    assert (module.losses, module.validations) == (bare.losses, bare.validations)
    assert callback.tuner.step == trainer.global_step == arguments.get("steps", 60)
    assert not callback.tuner.decisions
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks
    assert Journal.open(tmp_path / "run").status() == "finished"


def test_the_hooks_find_this_steps_gradients_although_lightning_steps_with_a_closure(tmp_path):
    module = Module(torch.optim.SGD, lr=1.0)
    callback = tuned(
        tmp_path / "run", lambda _, o: [learning_rate(o), gradient_clip(o, 1e-3)], sample_every=1
    )
    moved = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.before = nn.utils.parameters_to_vector(module.parameters()).detach()

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            moved.append((nn.utils.parameters_to_vector(module.parameters()) - self.before).norm().item())

    fit(module, [Watch(), callback], steps=10)
    assert callback.tuner.signals["gradient_norm"].value.tolist() == pytest.approx(module.norms, rel=1e-5)
    assert moved == pytest.approx([1e-3] * 10, rel=1e-2)


def test_a_grad_scaler_is_found_and_its_skipped_steps_are_none(tmp_path):
    def half():
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)
        return L.plugins.MixedPrecision("16-mixed", "cpu", scaler)

    bare, module = Module(torch.optim.SGD, lr=0.1), Module(torch.optim.SGD, lr=0.1)
    before = state(bare, fit(bare, plugins=half()))
    callback = tuned(tmp_path / "run", lambda _, o: [learning_rate(o)])
    trainer = fit(module, callback, plugins=half())
    assert same(before, state(module, trainer))
    assert module.losses == bare.losses
    scales = callback.tuner.signals["loss_scale"].value
    skipped = 40 - math.log2(scales[-1])
    assert skipped > 1
    assert callback.tuner.step == trainer.global_step - skipped


def test_a_policy_sets_the_rate_under_a_scheduler_and_stops_the_fit(tmp_path):
    policy = Scripted({20: [Set("lr", 0.123, reason="")], 40: [Stop(reason="enough")]})
    callback = tuned(tmp_path / "run", policies=[policy])
    rates = []

    class Watch(L.Callback):
        def on_train_start(self, trainer, module):
            trainer.optimizers[0].register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))

    module = Module(scheduled=True)
    trainer = fit(module, [callback, Watch()])
    assert (trainer.global_step, callback.tuner.step) == (40, 40)
    assert rates == [0.01] * 20 + [0.123] * 20
    assert trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[0] == pytest.approx(0.0025)


def test_the_budget_ends_the_fit(tmp_path):
    callback = tuned(tmp_path / "run", total_steps=23)
    assert fit(Module(), callback).global_step == callback.tuner.spent == 23


def test_a_scheduler_that_nobody_was_told_of_is_refused_at_the_start(tmp_path):
    with pytest.raises(TuneError, match="schedule='override'"):
        fit(Module(scheduled=True), tuned(tmp_path / "run", lambda _, o: [learning_rate(o)]))


def test_the_guard_takes_a_fit_past_a_burst_of_nan(tmp_path):
    inputs, labels = INPUTS.repeat(25, 1), LABELS.repeat(25)  # 200 batches
    inputs[80 * 32 : 95 * 32] = math.nan

    lost, module = Module(scheduled=True), Module(scheduled=True)
    fit(lost, steps=200, rows=(inputs, labels), shuffle=False)
    assert math.isnan(lost.losses[-1])
    callback = tuned(tmp_path / "run", policies=[DivergenceGuard()], rewinding=Rewinding(every=10))
    trainer = fit(module, callback, steps=200, rows=(inputs, labels), shuffle=False)
    tuner = callback.tuner
    rewinds = [d for d in tuner.decisions if isinstance(d.action, Rewind) and d.applied]
    assert rewinds
    assert all(d.action.data == "skip" for d in rewinds)
    assert all(p.isfinite().all() for p in module.parameters())
    assert module.losses[-1] < 0.7
    assert (trainer.global_step, tuner.spent) == (200, 200)  # Lightning's count is not rewound
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == tuner.step < 200  # the scheduler is


def test_the_validation_loss_is_lightnings(tmp_path):
    module = Module()
    policy = Scripted({})
    policy.requires = ("validation/loss", "generalization_gap")
    callback = tuned(tmp_path / "run", policies=[policy])
    fit(module, callback)  # 8 steps an epoch, validated every second epoch, and not at the start
    validation = callback.tuner.signals["validation/loss"]
    assert validation.step.tolist() == [16, 32, 48]
    assert validation.value.tolist() == pytest.approx(module.validations)
    assert len(callback.tuner.signals["loss"]) == 60
    assert callback.tuner.signals["loss"].value.tolist() == pytest.approx(module.losses)


def test_or_the_users_own(tmp_path):
    callback = tuned(tmp_path / "run", evaluate=lambda: 0.25, evaluate_every=10)
    module = Module()
    trainer = fit(module, callback)
    trainer.validate(module, DataLoader(TensorDataset(INPUTS, LABELS), 32), verbose=False)
    validation = callback.tuner.signals["validation/loss"]
    assert set(validation.value) == {0.25}
    assert set(validation.step) >= {10, 20, 30, 40, 50, 60}


@pytest.mark.parametrize(
    ("raised", "ends", "status"),
    [(RuntimeError("out of memory"), RuntimeError, "failed"), (KeyboardInterrupt(), SystemExit, "killed")],
)
def test_an_exception_ends_the_run_and_removes_every_hook(tmp_path, raised, ends, status):
    callback = tuned(tmp_path / "run")
    module = Module(fails=raised)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(ends):
            fit(module, callback)
    finally:
        signal.signal(signal.SIGINT, interrupt)  # Lightning has it ignored
    assert Journal.open(tmp_path / "run").status() == status
    optimizer = callback.tuner.hyperparameters["lr"].actuator.optimizer
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_the_run_of_lightnings_own_mlflow_logger_is_joined(tmp_path, monkeypatch, mlflow_store):
    monkeypatch.chdir(tmp_path)
    logger = L.loggers.MLFlowLogger("ours", tracking_uri=mlflow_store)
    callback = AutoTunerCallback(lambda _, o: [learning_rate(o)], folder=tmp_path / "run")
    fit(Module(), callback, steps=20, logger=logger)
    run = logger.experiment.get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["hp/lr"] == pytest.approx(1e-2)
    assert len(logger.experiment.search_runs([logger.experiment_id])) == 1
