"""`AutoTuner` as a user meets it: what it accepts, what it refuses, and what it leaves behind."""

import gc
import logging
import math
import multiprocessing
import threading

import pytest
import sqlalchemy
import torch
from loops import INPUTS, LABELS, Loop, Scripted, Stuck, same
from torch import nn
from torch.nn.functional import cross_entropy

from autotune import (
    AutoTuner,
    FloatHyperparameter,
    IntHyperparameter,
    Rewinding,
    TuneError,
    journal_tables,
)
from autotune.actuators import (
    VariableBatchSampler,
    batch_size,
    gradient_clip,
    learning_rate,
    sequence_length,
    weight_decay,
)
from autotune.journal import Journal
from autotune.records import Probe, Ramp, Rewind, Set, Stop


def trained(loop, tuner, batches=None):
    for batch in batches or tuner.batches(loop.loader):
        tuner.report(loss=loop.step(batch))


# --- bad input -----------------------------------------------------------------------------------------


def other_model():
    return nn.Linear(20, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"total_steps": 0}, "total_steps is at least 1 step, got 0"),
        ({"sample_every": 0}, "sample_every is at least 1 step, got 0"),
        ({"policies": [Scripted({}, controls=("momentum",))]}, "needs the hyperparameter 'momentum'"),
        ({"policies": [Scripted({}), Scripted({})]}, "names of their own, got 'scripted' twice"),
        ({"policies": [Scripted({}, name="supervisor")]}, "are reserved, got 'supervisor'"),
        ({"policies": [object()]}, "a policy has name, requires"),
        ({"hyperparameters": ["lr"]}, "are Hyperparameter objects, got 'lr'"),
        ({"stateful": {"what": 3}}, "got int for 'what'"),
    ],
)
def test_arguments_that_cannot_work_are_refused_before_anything_is_written(tmp_path, arguments, words):
    with pytest.raises(TuneError, match=words):
        Loop().tuner(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_policy_that_needs_a_signal_nobody_measures_is_refused_naming_both(tmp_path):
    policy = Scripted({})
    policy.requires = ("loss", "validation/loss")
    with pytest.raises(TuneError, match=r"'scripted' needs the signal 'validation/loss'.*evaluate="):
        Loop().tuner(tmp_path / "run", policies=[policy])


def test_signals_of_evaluate_and_of_reports_are_known_beforehand(tmp_path):
    policy = Scripted({})
    policy.requires = ("validation/accuracy", "reward")
    loop = Loop()

    def evaluate():
        return {"loss": loop.validate(), "accuracy": 0.5}

    with loop.tuner(
        tmp_path / "run", policies=[policy], evaluate=evaluate, reports=["reward"], total_steps=20
    ) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch), reward=1.5)
            with pytest.raises(TuneError, match="got 'rewrad'"):
                tuner.report(rewrad=2.0)
    last = policy.seen[-1].signals
    assert (last["validation/accuracy"].last, last["reward"].last) == (0.5, 1.5)


@pytest.mark.parametrize("by", ["evaluate", "report"])
def test_the_generalization_gap_is_between_two_losses_of_one_evaluation(tmp_path, by):
    policy = Scripted({})
    policy.requires = ("train/loss", "generalization_gap") + ("train/accuracy",) * (by == "evaluate")
    loop = Loop()

    def evaluate():
        return {"loss": 3.0 + len(loop.losses), "accuracy": 0.5, "train/loss": 1.0, "train/accuracy": 0.75}

    how = {"evaluate": evaluate, "evaluate_every": 10}
    if by == "report":
        how = {"reports": ["validation/loss", "train/loss"]}
    with loop.tuner(tmp_path / "run", policies=[policy], total_steps=20, **how) as tuner:
        for batch in tuner.batches(loop.loader):
            loss = loop.step(batch)
            if by == "report":
                tuner.report(**{"validation/loss": 3.0 + tuner.step, "train/loss": 1.0})
            tuner.report(loss=loss)
    signals = policy.seen[-1].signals
    gap = signals["generalization_gap"]
    assert gap.value.tolist() == [2.0 + step for step in gap.step]
    assert gap.step.tolist() == ([0, 10, 20] if by == "evaluate" else list(range(1, 21)))
    assert "validation/train/loss" not in signals
    assert by == "report" or signals["train/accuracy"].last == 0.75


@pytest.mark.parametrize(
    "second", [lambda o: learning_rate(o, group=0), lambda o: learning_rate(o, name="rate")]
)
def test_two_owners_of_one_place_are_refused(tmp_path, second):
    loop = Loop()
    with pytest.raises(TuneError, match="one owner"):
        loop.tuner(tmp_path / "run", hyperparameters=[learning_rate(loop.optimizer), second(loop.optimizer)])
    with pytest.raises(TuneError, match="two hyperparameters are called 'lr'"):
        loop.tuner(
            tmp_path / "run",
            hyperparameters=[learning_rate(loop.optimizer), FloatHyperparameter("lr", 0.5, low=0, high=1)],
        )


def test_an_optimizer_of_another_model_is_refused(tmp_path):
    loop = Loop()
    with pytest.raises(TuneError, match="optimizer must hold parameters of the model"):
        AutoTuner(other_model(), loop.optimizer, folder=tmp_path / "run", mlflow=False)


def test_a_loop_that_steps_another_optimizer_is_found_out(tmp_path):
    loop = Loop()
    another = torch.optim.SGD(loop.model.parameters(), lr=0.1)
    with loop.tuner(tmp_path / "run", total_steps=10) as tuner:

        def forgetful():
            for _ in tuner.batches(loop.loader):
                another.step()

        with pytest.raises(TuneError, match="10000 batches without a step"):
            forgetful()


def test_a_rewind_between_next_and_step_is_refused(tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=30, rewinding=Rewinding(every=5)) as tuner:
        for batch in tuner.batches(loop.loader):
            if tuner.step == 20:
                with pytest.raises(TuneError, match=r"between next\(\) and optimizer.step\(\)"):
                    tuner.rewind(10)
                with pytest.raises(TuneError, match=r"a checkpoint needs a step boundary"):
                    tuner.checkpoint()
            loop.step(batch)


def test_a_loader_that_cannot_replay_is_refused_with_the_way_out(tmp_path):
    loop = Loop()
    once = ((INPUTS[i : i + 8], LABELS[i : i + 8]) for i in range(200))
    settings = Rewinding(every=10, replay_bytes=4000)
    with loop.tuner(tmp_path / "run", total_steps=60, rewinding=settings) as tuner:
        for batch in tuner.batches(once):
            loop.step(batch)
            if tuner.spent == 40:
                before = loop.state()
                with pytest.raises(TuneError, match="data='skip'"):
                    tuner.rewind(10)
                assert same(loop.state(), before)
                assert tuner.rewind(10, data="skip").step == 10
    assert tuner.decisions[0].status == "refused"


@pytest.mark.parametrize("data", ["redo", None])
def test_an_unknown_way_with_the_data_is_refused(tmp_path, data):
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=20) as tuner:
        trained(loop, tuner)
        with pytest.raises(TuneError, match="data is one of replay, skip"):
            tuner.rewind(0, data=data)


def test_unknown_names_and_values_of_a_person_are_refused_with_the_reason(tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=20) as tuner:
        with pytest.raises(TuneError, match="no hyperparameter is called 'rate'; registered: lr"):
            tuner.set("rate", 0.1)
        with pytest.raises(TuneError, match="must lie in"):
            tuner.set("lr", 1e9)
        with pytest.raises(TuneError, match="must be finite, got nan"):
            tuner.set("lr", math.nan)
        with pytest.raises(TuneError, match="at least 1 step"):
            tuner.ramp("lr", 0.1, 0)
        with pytest.raises(TuneError, match="nothing to release"):
            tuner.release("lr")
        with pytest.raises(TuneError, match="'best'"):
            tuner.rewind("best")


@pytest.mark.parametrize("result", [None, "good", {"accuracy": 0.5}, {"loss": None}])
def test_an_evaluation_that_returns_no_loss_is_refused(tmp_path, result):
    loop = Loop()
    with (
        loop.tuner(tmp_path / "run", total_steps=20, evaluate=lambda: result, evaluate_every=5) as tuner,
        pytest.raises(TuneError, match="evaluate returns"),
    ):
        trained(loop, tuner)
    assert loop.losses == []  # found out before the first step


def test_a_used_folder_is_refused_and_a_resume_needs_a_run_with_a_checkpoint(tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=10) as tuner:
        trained(loop, tuner)
    with pytest.raises(TuneError, match=r"AutoTuner\.resume"):
        Loop().tuner(tmp_path / "run")
    with pytest.raises(TuneError, match="checkpoint"):
        Loop().resume(tmp_path / "run")
    with pytest.raises(TuneError, match="nowhere"):
        Loop().resume(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "another model"])
def test_a_checkpoint_that_is_not_what_it_should_be_is_refused_and_named(tmp_path, damage):
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=30) as tuner:
        batches = tuner.batches(loop.loader)
        for batch in batches:
            loop.step(batch)
            if tuner.step == 10:
                tuner.checkpoint("ten")
            if tuner.step == 20:
                break
        file = tmp_path / "run" / "checkpoints" / "ten" / "tensors.safetensors"
        content = bytearray(file.read_bytes())
        if damage == "truncated":
            file.write_bytes(content[:-100])
        elif damage == "flipped":
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        else:
            tuner.close()
            stranger = Loop()
            stranger.model = nn.Sequential(nn.Linear(20, 16), nn.Linear(16, 4))
            stranger.optimizer = torch.optim.AdamW(stranger.model.parameters())
            with pytest.raises(TuneError, match=r"model.*differ"):
                stranger.resume(tmp_path / "run")
            return
        before = loop.state()
        with pytest.raises(TuneError, match=r"ten|tensors\.safetensors"):
            tuner.rewind("ten")
        assert same(loop.state(), before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policies": Scripted({})}, "policies is a list"),
        ({"evaluate": {"loss": 1.0}}, "evaluate is a function"),
        ({"hyperparameters": [learning_rate(Loop().optimizer)]}, "got 'lr' of another"),
    ],
)
def test_what_newcomers_mistake_is_refused_at_once(tmp_path, arguments, words):
    with pytest.raises(TuneError, match=words):
        Loop().tuner(tmp_path / "run", **arguments)


def test_an_optimizer_has_one_tuner_at_a_time(tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path / "first"), pytest.raises(TuneError, match="close the first"):
        loop.tuner(tmp_path / "second")
    loop.tuner(tmp_path / "second").close()


def test_a_loss_that_is_never_reported_is_noticed(tmp_path):
    loop = Loop()
    policy = Scripted({})
    policy.requires = ("loss",)
    with loop.tuner(tmp_path / "run", policies=[policy], total_steps=100) as tuner:
        with pytest.raises(TuneError, match=r"call tuner\.report\(loss=loss\)"):
            list(map(loop.step, tuner.batches(loop.loader)))
        assert tuner.step == 20


def test_a_closed_tuner_changes_and_trains_nothing(tmp_path):
    loop = Loop()
    tuner = loop.tuner(tmp_path / "run", total_steps=10)
    trained(loop, tuner)
    tuner.close()
    for call in (
        lambda: tuner.set("lr", 0.1),
        lambda: tuner.rewind(0),
        lambda: tuner.report(loss=1.0),
        lambda: tuner.batches(loop.loader),
    ):
        with pytest.raises(TuneError, match="closed"):
            call()


def test_a_loader_that_ends_early_and_a_loop_without_steps_are_said_aloud(tmp_path, caplog):
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=600) as tuner:
        for i, batch in enumerate(tuner.batches(batch for _ in range(60) for batch in loop.loader)):
            if i < 250:
                continue
            loop.step(batch)
    assert "200 batches without optimizer.step()" in caplog.text
    assert "the loader ended after 230 of 600 steps" in caplog.text


# --- what a loop may do --------------------------------------------------------------------------------


def test_epochs_of_the_users_own_work_without_a_total(tmp_path):
    bare = Loop().bare(24)
    loop = Loop()
    with loop.tuner(tmp_path / "run") as tuner:
        for _ in range(3):
            trained(loop, tuner)
    assert (tuner.step, loop.losses) == (24, bare.losses)


def test_a_rewind_from_disk_across_epochs_is_bitwise(tmp_path):
    loop = Loop()
    runs = []
    with loop.tuner(tmp_path / "run", total_steps=100, rewinding=Rewinding(capacity=0)) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.step == 5:
                tuner.checkpoint("five")
            if tuner.step == 21:
                runs.append((loop.losses[-16:], loop.state()))
                if len(runs) == 3:
                    break
                restored = tuner.rewind("five")
                assert (restored.grade, restored.source) == (
                    "state-exact",
                    "disk",
                )  # the batches are drawn anew
    assert runs[0][0] == runs[1][0] == runs[2][0]
    assert same(runs[0][1], runs[2][1])


def test_skip_leaves_the_batches_behind(tmp_path):
    loop = Loop()
    stream = [(INPUTS[8 * i : 8 * i + 8] + 0, LABELS[8 * i : 8 * i + 8]) for i in range(30)]
    seen = []
    with loop.tuner(tmp_path / "run", total_steps=25, rewinding=Rewinding(every=5)) as tuner:
        for batch in tuner.batches(stream):
            seen.append(next(i for i, b in enumerate(stream) if b[0] is batch[0]))
            loop.step(batch)
            if tuner.spent == 13:
                tuner.rewind(10, data="skip")
            if tuner.spent == 18:
                tuner.rewind(5)
    assert seen == [*range(13), *range(13, 18), *range(5, 10), *range(13, 15)]


def test_a_loop_that_somebody_else_runs_calls_the_boundary(tmp_path):
    bare = Loop().bare(20)
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=40, rewinding=Rewinding(every=5)) as tuner:
        assert tuner.boundary()
        for i, batch in enumerate(batch for _ in range(10) for batch in loop.loader):
            if i == 20:
                assert same(loop.state(), bare.state())
            tuner.report(loss=loop.step(batch))
            if i == 24:
                with pytest.raises(TuneError, match="data='skip'"):
                    tuner.rewind(10)
                assert tuner.rewind(10, data="skip").step == 10
            if not tuner.boundary():
                break
    assert (i, tuner.spent, tuner.step) == (39, 40, 25)
    assert len(tuner.signals["loss"]) == 25


def test_accumulation_counts_steps_and_measures_the_noise_scale(tmp_path):
    loop = Loop()
    accumulation = IntHyperparameter("accumulation", 4, low=1, high=8)
    with loop.tuner(tmp_path / "run", hyperparameters=[accumulation], total_steps=40) as tuner:
        for i, (inputs, labels) in enumerate(tuner.batches(loop.loader)):
            loss = cross_entropy(loop.model(inputs), labels) / accumulation()
            loss.backward()
            tuner.report(loss=loss * accumulation())
            if (i + 1) % accumulation() == 0:
                loop.optimizer.step()
                loop.optimizer.zero_grad()
    assert (i + 1, tuner.step) == (160, 40)
    assert "gradient_noise_scale" in tuner.signals
    assert tuner.signals["loss"].step.tolist() == [1 + j // 4 for j in range(160)]


def test_a_run_whose_loss_is_lost_under_a_scaler_is_seen_by_policies(tmp_path):
    """Every step is skipped from then on, and so there is no step boundary."""
    loop = Loop("sgd")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def back(observation):
        if "loss" in observation.signals and not math.isfinite(observation.signals["loss"].last):
            return [Rewind(10, "skip", (Set("lr", 0.01, reason=""),), reason="lost")]
        return []

    policy = Scripted(dict.fromkeys(range(10, 60, 10), back))
    policy.script |= {25: back}
    settings = Rewinding(every=5)
    with loop.tuner(
        tmp_path / "run", policies=[policy], stateful={"s": scaler}, total_steps=60, rewinding=settings
    ) as tuner:
        for inputs, labels in tuner.batches(loop.loader):
            loss = cross_entropy(loop.model(inputs), labels)
            loop.optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(loop.optimizer)
            scaler.update()
            tuner.report(loss=loss)
            if tuner.spent == 25 and tuner.step == 25:
                torch.nn.init.constant_(loop.model[0].weight, math.nan)
    assert [d.status for d in tuner.decisions] == ["applied"]
    assert tuner.spent == 60
    assert all(p.isfinite().all() for p in loop.model.parameters())


def test_states_of_a_left_branch_are_found_by_name_and_not_by_step(tmp_path):
    loop = Loop()
    settings = Rewinding(every=5, checkpoint_every=5)
    with loop.tuner(tmp_path / "run", total_steps=100, rewinding=settings) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if tuner.spent == 30:
                tuner.checkpoint("left")
                left = loop.state()
            if tuner.spent == 31:
                tuner.rewind(20, data="skip")
            if tuner.spent == 41:  # step 30 of the other branch
                assert tuner.step == 30
                assert not same(loop.state(), left)
                assert "left" not in [s.name for s in tuner.snapshots]
                restored = tuner.rewind("left", data="skip")
                assert restored.step == 30
                assert same(loop.state(), left)
                signal = tuner.signals["loss"]
                assert signal.spent.tolist() == list(range(1, 31))
                assert all(s.spent <= 30 for s in tuner.snapshots)
                assert tuner.rewind(27, data="skip").step == 20
                break


def test_what_a_person_did_after_the_checkpoint_survives_a_crash(tmp_path):
    loop = Loop()
    tuner = loop.tuner(tmp_path / "run", total_steps=60)
    for batch in tuner.batches(loop.loader):
        loop.step(batch)
        if tuner.step == 20:
            tuner.checkpoint("twenty")
        if tuner.step == 30:
            tuner.set("lr", 3e-4, by="ada")
            break
    tuner._journal.flush()
    again = Loop()
    tuner._journal.end("killed")  # the process is still there, so say that it is not
    with again.resume(tmp_path / "run") as resumed:
        assert (resumed.step, resumed.hyperparameters["lr"]()) == (20, 3e-4)
        assert resumed.hyperparameters["lr"].owner == "human:ada"
        trained(again, resumed)
        assert resumed.spent == 70  # the ten that were lost came again


def test_a_resume_with_other_hyperparameters_is_refused_and_leaves_the_run_as_it_was(tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=60) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.step == 20:
                tuner.checkpoint("twenty")
                break
    other = Loop()
    before = other.state()
    with pytest.raises(TuneError, match="resumes with the hyperparameters it had"):
        other.resume(tmp_path / "run", hyperparameters=[])
    assert same(other.state(), before)
    assert Journal.open(tmp_path / "run").status() == "finished"
    with other.resume(tmp_path / "run") as resumed:
        trained(other, resumed)
        assert resumed.spent == 60


def test_a_ramp_whose_write_fails_ends_and_benches_who_started_it(tmp_path):
    loop = Loop()
    valve = FloatHyperparameter("valve", low=0, high=1, actuator=Stuck(0.2))
    policy = Scripted({10: [Ramp("valve", 0.9, 10, reason="")], 30: [Stop(reason="")]}, controls=("valve",))
    with loop.tuner(tmp_path / "run", hyperparameters=[valve], policies=[policy], total_steps=40) as tuner:
        trained(loop, tuner)
    assert tuner.step == 40
    assert valve() < 0.5
    assert "its ramp of valve failed: RuntimeError: valve stuck" in tuner.decisions[-1].action.reason


def test_accumulation_under_a_scaler_is_not_taken_for_skipped_steps(tmp_path):
    loop = Loop("sgd")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    policy = Scripted({})
    with loop.tuner(tmp_path / "run", policies=[policy], stateful={"s": scaler}, total_steps=30) as tuner:
        for i, (inputs, labels) in enumerate(tuner.batches(loop.loader)):
            scaler.scale(cross_entropy(loop.model(inputs), labels) / 16).backward()
            if (i + 1) % 16 == 0:
                scaler.step(loop.optimizer)
                scaler.update()
                loop.optimizer.zero_grad()
    assert [o.spent for o in policy.seen] == [0, 10, 20, 30]
    assert "update" not in vars(scaler)


def test_a_persons_command_is_done_again_once_however_often_the_run_is_resumed(tmp_path):
    loop = Loop()
    tuner = loop.tuner(tmp_path / "run", total_steps=60)
    for batch in tuner.batches(loop.loader):
        loop.step(batch)
        if tuner.step == 20:
            tuner.checkpoint("twenty")
            tuner.set("lr", 3e-4, by="ada")
            break
    tuner.close("killed")
    counts = []
    for _ in range(3):
        again = Loop()
        with again.resume(tmp_path / "run") as resumed:
            assert resumed.hyperparameters["lr"]() == 3e-4
        counts.append(len(Journal.open(tmp_path / "run").decisions()))
    assert counts == [4, 6, 8]


def test_a_state_saved_right_after_a_rewind_is_found_by_step(tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=60, rewinding=Rewinding(every=10)) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.spent == 30:
                tuner.rewind(20)
                tuner.set("lr", 1e-4)
                tuner.release("lr")
                tuner.checkpoint("mended")
            if tuner.spent == 35:
                tuner.rewind("mended")
                assert "mended" in [s.name for s in tuner.snapshots]
            if tuner.spent == 40:
                tuner.rewind(24)
                assert tuner.hyperparameters["lr"]() == 1e-4
                break


def test_an_actuator_that_is_dead_for_good_ends_its_ramp_and_not_the_training(tmp_path):
    class Dead(Stuck):
        dead = False

        def write(self, value):
            if self.dead:
                raise RuntimeError("valve unreachable")
            return super().write(value)

    loop = Loop()
    valve = FloatHyperparameter("valve", low=0, high=1, actuator=Dead(0.2))
    valve.actuator.dead = True
    policy = Scripted({10: [Ramp("valve", 0.4, 10, reason="")]}, controls=("valve",))
    with loop.tuner(tmp_path / "run", hyperparameters=[valve], policies=[policy], total_steps=40) as tuner:
        trained(loop, tuner)
    assert tuner.step == 40
    assert "valve unreachable" in tuner.decisions[-1].action.reason


def test_a_rewind_that_breaks_half_way_stops_the_training_for_good(tmp_path):
    class Broken:
        def state_dict(self):
            return {"x": 1}

        def load_state_dict(self, state):
            raise RuntimeError("bad part")

    loop = Loop()
    policy = Scripted({20: [Rewind(0, "skip", reason="")]})
    with loop.tuner(
        tmp_path / "run", policies=[policy], stateful={"part": Broken()}, total_steps=60
    ) as tuner:
        with pytest.raises(RuntimeError, match=r"broke half-way .*bad part"):
            list(map(loop.step, tuner.batches(loop.loader)))
        assert tuner.step == 20
        with pytest.raises(RuntimeError, match="broke half-way"):
            tuner.checkpoint("ruin")


def test_a_release_ends_the_persons_ramp(tmp_path):
    loop = Loop("sgd")
    values = []
    with loop.tuner(tmp_path / "run", total_steps=40, rewinding=Rewinding(every=5)) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            if tuner.spent == 5:
                tuner.ramp("lr", 1e-3, steps=30)
            if tuner.spent == 15:
                tuner.release("lr")
            values.append(tuner.hyperparameters["lr"]())
    assert len(set(values[14:])) == 1


def test_a_named_checkpoint_is_not_overwritten(tmp_path):
    loop = Loop()
    with loop.tuner(tmp_path / "run", total_steps=10) as tuner:
        trained(loop, tuner)
        tuner.checkpoint("end")
        with pytest.raises(TuneError, match="choose another name"):
            tuner.checkpoint("end")


@pytest.mark.parametrize(
    "action",
    [
        lambda o: [Set("lr", torch.tensor(5e-3), reason="")],
        lambda o: [Set("lr", 1e-3, reason="", evidence=None)],
        lambda o: [Set("lr", 1e-3, reason="", evidence={"x": object()})],
        lambda o: [Set(["lr"], 1.0, reason="")],
        lambda o: [Rewind(None, reason="")],
        lambda o: [Rewind(0, "skip", ("x",), reason="")],
        lambda o: Set("lr", 1e-3, reason=""),
        lambda o: None,
    ],
)
def test_a_malformed_action_benches_its_policy_and_training_goes_on(tmp_path, action):
    bare = Loop().bare(30)
    loop = Loop()
    with loop.tuner(tmp_path / "run", policies=[Scripted({10: action})], total_steps=30) as tuner:
        trained(loop, tuner)
    assert same(loop.state(), bare.state())
    assert "scripted is benched" in tuner.decisions[-1].action.reason


def test_suggest_mode_still_saves_periodic_checkpoints(tmp_path):
    loop = Loop()
    with loop.tuner(
        tmp_path / "run", total_steps=30, suggest=True, rewinding=Rewinding(checkpoint_every=10)
    ) as tuner:
        trained(loop, tuner)
        assert [s.name for s in tuner.snapshots if s.name] == ["step-20-spent-20", "step-30-spent-30"]


def test_a_person_who_holds_the_rate_does_not_get_the_guard_benched(tmp_path):
    loop = Loop()
    lower = (Set("lr", 1e-3, reason=""),)
    script = {s: [Rewind(s - 5, "skip", lower, reason="again")] for s in range(10, 60, 10)}
    with loop.tuner(
        tmp_path / "run", policies=[Scripted(script)], total_steps=60, rewinding=Rewinding(every=5)
    ) as tuner:
        tuner.set("lr", 5e-3)
        trained(loop, tuner)
    assert not any("benched" in d.action.reason for d in tuner.decisions)
    assert tuner.hyperparameters["lr"]() == 5e-3


def test_a_scaler_that_skips_steps_is_no_step(tmp_path):
    loop = Loop("sgd")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    with loop.tuner(tmp_path / "run", stateful={"scaler": scaler}, total_steps=30) as tuner:
        for i, (inputs, labels) in enumerate(tuner.batches(loop.loader)):
            loss = cross_entropy(loop.model(inputs * (math.inf if i == 10 else 1.0)), labels)
            loop.optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(loop.optimizer)
            scaler.update()
            tuner.report(loss=loss)
    assert (i + 1, tuner.step) == (31, 30)
    assert tuner.signals["loss_scale"].value.tolist()[0] == 2.0**10
    assert tuner.signals["loss_scale"].last == 2.0**9
    assert math.isnan(tuner.signals["loss"].value[10])


def test_hyperparameters_of_every_sort_are_moved_in_a_live_run(tmp_path):
    loop = Loop("sgd")
    sampler = VariableBatchSampler(torch.utils.data.RandomSampler(range(256)), 32, drop_last=True)
    loop.loader = torch.utils.data.DataLoader(loop.loader.dataset, batch_sampler=sampler)
    parameters = [
        learning_rate(loop.optimizer),
        weight_decay(loop.optimizer),
        gradient_clip(loop.optimizer, 1.0),
        batch_size(loop.loader),
        sequence_length(20, low=4, high=20, dim=1),
    ]
    names = [p.name for p in parameters]
    goals = {"lr": 0.05, "weight_decay": 1e-3, "batch_size": 16}
    policy = Scripted({10: [Set(n, v, reason="") for n, v in goals.items()]}, controls=tuple(names))
    shapes = []
    with loop.tuner(tmp_path / "run", hyperparameters=parameters, policies=[policy], total_steps=30) as tuner:
        for batch in tuner.batches(loop.loader):
            shapes.append(tuple(batch[0].shape))
            loop.step(batch)
            assert math.sqrt(sum(p.grad.square().sum() for p in loop.model.parameters())) < 1.0 + 1e-5
    assert {name: tuner.hyperparameters[name]() for name in goals} == goals
    assert (shapes[0], shapes[-1]) == ((32, 20), (16, 20))


def test_suggest_mode_records_and_changes_nothing(tmp_path):
    bare = Loop().bare(40)
    loop = Loop()
    policy = Scripted(
        {
            10: [Set("lr", 0.5, reason="")],
            20: [Rewind(0, "skip", reason=""), Stop(reason="")],
        }
    )
    with loop.tuner(tmp_path / "run", policies=[policy], suggest=True, total_steps=40) as tuner:
        trained(loop, tuner)
    assert same(loop.state(), bare.state())
    assert [d.status for d in tuner.decisions] == ["suggested"] * 3


def test_stop_ends_the_loop_at_the_boundary(tmp_path):
    loop = Loop()
    policy = Scripted({20: [Stop(reason="enough")]})
    with loop.tuner(tmp_path / "run", policies=[policy], total_steps=40) as tuner:
        trained(loop, tuner)
    assert tuner.step == 20


def test_a_break_and_an_exception_leave_a_journal_that_says_so(tmp_path):
    loop = Loop()

    def broken():
        with loop.tuner(tmp_path / "failed") as tuner:
            for batch in tuner.batches(loop.loader):
                loop.step(batch)
                raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        broken()
    assert Journal.open(tmp_path / "failed").status() == "failed"
    with loop.tuner(tmp_path / "left", hyperparameters=[learning_rate(loop.optimizer)]) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            break
    assert Journal.open(tmp_path / "left").status() == "finished"


def test_a_closed_tuner_leaves_no_hook_behind(tmp_path):
    loop = Loop()
    hooks = loop.optimizer._optimizer_step_pre_hooks, loop.optimizer._optimizer_step_post_hooks
    clip = gradient_clip(loop.optimizer, 1.0)
    with loop.tuner(tmp_path / "run", hyperparameters=[clip], total_steps=5) as tuner:
        assert all(hooks)
        trained(loop, tuner)
    tuner.close()
    assert not any(hooks)
    assert not tuner._journal._thread.is_alive()


@pytest.fixture
def no_collector():
    """What goes, goes because nobody refers to it any more."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("left", ["at its end", "by break", "by an exception", "open"])
@pytest.mark.usefixtures("no_collector")
def test_the_workers_of_a_closed_tuners_loaders_end_with_the_loaders(tmp_path, left):
    others = {*multiprocessing.active_children()}

    def train():
        loop = Loop(workers=1)
        steps = 12 if left == "at its end" else 40
        with loop.tuner(tmp_path / "run", evaluate=loop.validate, total_steps=steps) as tuner:
            batches = tuner.batches(loop.loader)
            if left == "open":
                for _ in range(12):
                    loop.step(next(batches))
                return tuner, batches
            for batch in batches:
                loop.step(batch)
                if tuner.step == 12 and left == "by break":
                    break
                if tuner.step == 12 and left == "by an exception":
                    assert {*multiprocessing.active_children()} - others
                    raise RuntimeError("out of memory")
        return tuner, batches

    if left == "by an exception":
        with pytest.raises(RuntimeError, match="out of memory"):
            train()
    else:
        tuner, batches = train()
        assert list(batches) == []
        assert (tuner.step, len(tuner.signals["validation/loss"].value) > 0) == (12, True)
        assert tuner.snapshots
    assert not {*multiprocessing.active_children()} - others


def test_a_tuner_that_is_closed_in_the_loop_ends_it(tmp_path):
    loop = Loop()
    tuner = loop.tuner(tmp_path / "run")
    for batch in tuner.batches(loop.loader):
        loss = loop.step(batch)
        if tuner.step == 3:
            tuner.close()
        tuner.report(loss=loss)
    assert len(loop.losses) == 3
    assert not tuner.boundary()


def test_a_tuner_that_is_closed_while_a_decision_is_written_is_closed_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_tables, "BUSY_SECONDS", 0.2)  # no one waits for a lock of his own
    loop = Loop()
    policy = Scripted({10: [Set("lr", 0.02, reason="")]})
    tuner = loop.tuner(tmp_path / "run", policies=[policy], total_steps=100, evaluate=loop.validate)

    def written(connection, cursor, statement, *_):
        if statement.startswith("INSERT INTO decisions"):
            tuner.close("killed")  # as a signal's handler may, which runs in the same thread

    sqlalchemy.event.listen(tuner._journal._engine, "after_cursor_execute", written)
    for batch in tuner.batches(loop.loader):
        tuner.report(loss=loop.step(batch))
    journal = Journal.open(tmp_path / "run")
    assert (len(loop.losses), journal.status()) == (10, "killed")
    assert [(d.action.kind, d.status) for d in journal.decisions()] == [("set", "applied")]
    assert tuner._loader._loader is tuner._engine.evaluation is None


def test_a_tuner_that_another_thread_closes_in_a_trial_leaves_the_step_alone(tmp_path):
    loop = Loop()
    policy = Scripted({20: [Probe(10, (Set("lr", 0.5, reason=""),), reason="")]})
    tuner = loop.tuner(tmp_path / "run", policies=[policy], total_steps=100)
    for inputs, labels in tuner.batches(loop.loader):
        loss = cross_entropy(loop.model(inputs), labels)
        if tuner.spent == 25:
            other = threading.Thread(target=tuner.close)
            other.start()
            other.join()
        loss.backward()
        loop.optimizer.step()
        tuner.report(loss=loss)
    assert (tuner.step, tuner.spent) == (20, 26)
    assert Journal.open(tmp_path / "run").status() == "finished"


def test_a_tuner_that_is_closed_while_its_loop_fetches_ends_it_with_the_next_batch(tmp_path):
    loop = Loop()
    tuner = loop.tuner(tmp_path / "run", total_steps=1000)

    def loader():
        yield from [batch for batch, _ in zip(loop.loader, range(3), strict=False)]
        tuner.close()  # as a signal's handler may
        yield from loop.loader

    for batch in tuner.batches(loader()):
        loop.step(batch)
    assert len(loop.losses) == 4
    assert Journal.open(tmp_path / "run").status() == "finished"


def test_nan_is_a_signal_and_no_crash(tmp_path):
    loop = Loop("sgd")
    loop.optimizer.param_groups[0]["lr"] = 1e6
    policy = Scripted({})
    with loop.tuner(tmp_path / "run", hyperparameters=[], policies=[], total_steps=60) as tuner:
        trained(loop, tuner)
    loss = tuner.signals["loss"].value
    assert len(loss) == 60
    assert not math.isfinite(loss[-1])
    assert tuner.signals["nonfinite"].last > 0
    assert policy.seen == []


def test_a_journal_that_cannot_be_written_stops_decisions_and_not_the_training(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(journal_tables, "BUSY_SECONDS", 0.2)  # waited for the lock that is held below
    bare = Loop().bare(40)
    loop = Loop()
    policy = Scripted({20: [Set("lr", 0.5, reason="")]})
    with (
        caplog.at_level(logging.ERROR, "autotune"),
        loop.tuner(tmp_path / "run", policies=[policy], total_steps=40) as tuner,
    ):
        for batch in tuner.batches(loop.loader):
            if tuner.step == 15:
                lock = Journal.open(tmp_path / "run")._engine.connect()
                lock.exec_driver_sql("BEGIN EXCLUSIVE")
            if tuner.step == 25:
                lock.rollback()
                lock.close()
            tuner.report(loss=loop.step(batch))
    assert same(loop.state(), bare.state())
    assert tuner.decisions == ()
    assert "cannot be written" in caplog.text
    assert len(Journal.open(tmp_path / "run").metrics("loss").step) == 40


def test_a_resumed_policy_is_told_what_was_decided_at_the_checkpoint(tmp_path):
    set_ = Set("lr", 0.05, reason="")
    loop = Loop()
    rewinding = Rewinding(checkpoint_every=20)
    with loop.tuner(
        tmp_path / "run", policies=[Scripted({10: [set_], 20: [set_]})], total_steps=30, rewinding=rewinding
    ) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if tuner.step == 25:
                break
    again = Loop()
    policy = Scripted({})
    with again.resume(tmp_path / "run", policies=[policy]) as tuner:
        for batch in tuner.batches(again.loader):
            tuner.report(loss=again.step(batch))
    first = policy.seen[0]
    assert first.step == 30
    assert [(d.step, d.source, d.action.kind, d.status) for d in first.decisions] == [
        (20, "scripted", "set", "refused"),
        (20, "supervisor", "checkpoint", "applied"),
    ]


def test_the_start_can_be_gone_back_to_with_what_was_decided_there(tmp_path):
    loop = Loop()
    script = {0: [Set("lr", 1e-3, reason=""), Ramp("lr", 1e-2, 10, reason="")]}
    used = []
    loop.optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    with loop.tuner(tmp_path / "run", policies=[Scripted(script)], total_steps=20) as tuner:
        for n, batch in enumerate(tuner.batches(loop.loader), 1):
            tuner.report(loss=loop.step(batch))
            if n == 8:
                tuner.rewind(0)
    assert used[:8] == used[8:16]
    assert used[0] == pytest.approx(1e-3)


def test_a_policy_that_is_benched_lets_go_of_its_ramp(tmp_path):
    loop = Loop()
    script = {10: [Ramp("lr", 1e-4, 1000, reason="")], 20: lambda observation: 1 / 0}
    other = Scripted({50: [Set("lr", 0.02, reason="")]}, "other")
    with loop.tuner(tmp_path / "run", policies=[Scripted(script), other], total_steps=60) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    assert tuner.decisions[-1].source == "other"
    assert tuner.decisions[-1].applied
    assert tuner.hyperparameters["lr"]() == 0.02
