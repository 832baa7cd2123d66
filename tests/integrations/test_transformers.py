"""The tuner inside a real `Trainer.train`: a tiny GPT-2 on random tokens."""

import math
import os

import pytest
import torch
from frameworks import framework
from loops import Scripted, same

from autotune import Rewinding, TuneError
from autotune.actuators import learning_rate
from autotune.journal import Journal
from autotune.records import Rewind, Set, Stop

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is made here
T = framework("transformers")
from autotune.integrations.transformers import AutoTunerCallback  # noqa: E402

TOKENS = torch.randint(0, 32, (64, 12), generator=torch.Generator().manual_seed(0))
DATA = [{"input_ids": row, "labels": row} for row in TOKENS]


class Losses(T.TrainerCallback):
    """The loss and the rate that the Trainer itself logs at each step."""

    def __init__(self):
        self.training, self.validation, self.rates = [], [], []

    def on_train_begin(self, args, state, control, optimizer=None, **_):
        optimizer.optimizer.register_step_pre_hook(lambda o, *_: self.rates.append(o.param_groups[0]["lr"]))

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.training.append(float(logs["loss"]))

    def on_evaluate(self, args, state, control, metrics=None, **_):
        self.validation.append(metrics["eval_loss"])


def trainer(folder, callback=None, steps=40, model=None, **arguments):
    torch.manual_seed(0)
    config = T.GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=16, pad_token_id=0)
    settings = {"report_to": [], "save_strategy": "no", "logging_steps": 1, **arguments}
    made = T.Trainer(
        (model or T.GPT2LMHeadModel)(config),
        T.TrainingArguments(
            str(folder / "trainer"),
            use_cpu=True,
            max_steps=steps,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            disable_tqdm=True,
            **settings,
        ),
        train_dataset=DATA,
        eval_dataset=DATA[:16],
        callbacks=[callback] if callback else None,
    )
    made.seen = Losses()  # after the tuner, so that its hook sees what the step sees
    made.add_callback(made.seen)
    return made


def tuned(folder, schedule="override", **arguments):
    return AutoTunerCallback(
        lambda _, o: [learning_rate(o, schedule=schedule)], folder=folder, **{"mlflow": False, **arguments}
    )


def state(trained):
    tensors = dict(trained.model.state_dict())
    for i, slots in enumerate(trained.optimizer.state.values()):
        tensors |= {f"{i}/{k}": v for k, v in slots.items() if isinstance(v, torch.Tensor)}
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "arguments", [{}, {"gradient_accumulation_steps": 3, "eval_strategy": "steps", "eval_steps": 10}]
)
def test_a_tuner_that_does_not_act_changes_nothing(tmp_path, arguments):
    bare = trainer(tmp_path, **arguments)
    bare.train()
    callback = tuned(tmp_path / "run", "multiply", policies=[Scripted({})])
    ours = trainer(tmp_path, callback, **arguments)
    ours.train()
    assert same(state(bare), state(ours))
    assert (ours.seen.training, ours.seen.rates) == (bare.seen.training, bare.seen.rates)
    assert callback.tuner.step == 40
    assert not ours.optimizer.optimizer._optimizer_step_post_hooks
    assert not ours.model._forward_hooks
    assert Journal.open(tmp_path / "run").status() == "finished"


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_losses_are_the_trainers(tmp_path, accumulation):
    callback = tuned(tmp_path / "run")
    ours = trainer(
        tmp_path,
        callback,
        gradient_accumulation_steps=accumulation,
        eval_strategy="steps",
        eval_steps=10,
    )
    ours.train()
    signals = callback.tuner.signals
    assert signals["loss"].value.tolist() == pytest.approx(ours.seen.training, abs=1e-4)
    assert signals["loss"].step.tolist() == list(range(1, 41))
    assert signals["validation/loss"].value.tolist() == pytest.approx(ours.seen.validation)
    assert signals["validation/loss"].step.tolist() == [10, 20, 30, 40]
    assert ("gradient_noise_scale" in signals) == (accumulation > 1)


def test_evaluations_that_were_not_planned_are_no_business_of_the_tuners(tmp_path):
    class Asks(T.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_evaluate = state.global_step == 5

    callback = tuned(tmp_path / "run")
    ours = trainer(tmp_path, callback, steps=10)
    ours.add_callback(Asks())
    ours.train()
    ours.evaluate()
    assert len(ours.seen.validation) == 2
    assert "validation/loss" not in callback.tuner.signals


def test_a_model_without_loss_kwargs_is_averaged_over_its_micro_batches(tmp_path):
    class Own(T.GPT2LMHeadModel):
        accepts_loss_kwargs = False

    callback = tuned(tmp_path / "run")
    ours = trainer(tmp_path, callback, steps=10, model=Own, gradient_accumulation_steps=2)
    ours.train()
    assert callback.tuner.signals["loss"].value.tolist() == pytest.approx(ours.seen.training, abs=1e-4)


def test_outputs_without_a_loss_are_pointed_out(tmp_path):
    ours = trainer(tmp_path, tuned(tmp_path / "run"), steps=3, label_smoothing_factor=0.1)
    with pytest.warns(UserWarning, match="no training loss"):
        ours.train()


def test_the_rate_needs_a_schedule_and_the_error_says_so(tmp_path):
    with pytest.raises(TuneError, match="schedule='multiply'"):
        trainer(tmp_path, tuned(tmp_path / "run", schedule=None)).train()
    assert not (tmp_path / "run").exists()


def test_a_policys_rate_is_what_the_optimizer_steps_with_and_a_stop_stops(tmp_path):
    policy = Scripted({10: [Set("lr", 0.123, reason="")], 30: [Stop(reason="enough")]})
    callback = tuned(tmp_path / "run", policies=[policy])
    ours = trainer(tmp_path, callback)
    ours.train()
    assert ours.state.global_step == callback.tuner.step == 30
    assert ours.seen.rates == [0.01] * 10 + [0.123] * 20
    assert ours.lr_scheduler.get_last_lr()[0] == pytest.approx(0.01 * 10 / 40)


def test_the_budget_ends_the_training(tmp_path):
    callback = tuned(tmp_path / "run", total_steps=23)
    ours = trainer(tmp_path, callback)
    ours.train()
    assert ours.state.global_step == callback.tuner.spent == 23


def test_a_rewind_takes_model_optimizer_and_scheduler_and_leaves_the_loop(tmp_path):
    states = {}

    class Watch(T.TrainerCallback):
        def on_step_begin(self, *_, **__):
            states.setdefault(callback.tuner.spent, state(ours))

    policy = Scripted({30: [Rewind(20, "skip", reason="")]})
    callback = tuned(tmp_path / "run", "multiply", policies=[policy], rewinding=Rewinding(every=10))
    ours = trainer(tmp_path, callback)
    ours.add_callback(Watch())
    ours.train()
    assert [d.status for d in callback.tuner.decisions] == ["applied"]
    assert same(states[30], states[20])
    assert not same(states[29], states[20])
    assert (ours.state.global_step, callback.tuner.spent, callback.tuner.step) == (40, 40, 30)
    assert ours.lr_scheduler.last_epoch == 30
    assert ours.seen.rates[30:] == ours.seen.rates[20:30]


def test_training_that_broke_off_is_closed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_RUNS", str(tmp_path / "runs"))

    class Fails(T.TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 5:
                raise RuntimeError("out of memory")

    callback = tuned(None)
    broken = trainer(tmp_path, callback)
    broken.add_callback(Fails())
    with pytest.raises(RuntimeError, match="out of memory"):
        broken.train()
    folder = callback.tuner.folder
    broken.remove_callback(Fails)
    broken.train()
    assert Journal.open(folder).status() == "failed"
    assert Journal.open(callback.tuner.folder).status() == "finished"
    assert callback.tuner.step == 40
    assert not broken.model._forward_hooks
    assert math.isfinite(broken.seen.training[-1])


def test_the_run_of_transformers_own_mlflow_callback_is_joined(tmp_path, monkeypatch, mlflow_store):
    import mlflow

    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    try:
        mlflow.set_tracking_uri(mlflow_store)
        callback = tuned(tmp_path / "run", mlflow=True)
        trainer(tmp_path, callback, report_to=["mlflow"], steps=20).train()
        run = mlflow.last_active_run()
        mlflow.end_run()
        data = mlflow.get_run(run.info.run_id).data
    finally:
        mlflow.set_tracking_uri(before)
    assert data.metrics["hp/lr"] == pytest.approx(1e-2)  # ours
    assert "learning_rate" in data.metrics  # transformers'
