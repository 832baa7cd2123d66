"""accelerate leaves the loop to the user: what `prepare` returns is given to the tuner as it is."""

import pytest
import torch
from frameworks import framework
from loops import Loop, Scripted, same
from torch.nn.functional import cross_entropy

from autotune import Rewinding
from autotune.actuators import gradient_clip, learning_rate
from autotune.records import Set

A = framework("accelerate")


class Accelerated(Loop):
    """The loop of the other tests, in accelerate's words."""

    def __init__(self, accumulation=1, scheduled=False):
        super().__init__()
        self.accelerator = A.Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
        scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 10, 0.5) if scheduled else None
        parts = self.accelerator.prepare(self.model, self.optimizer, self.loader)
        self.model, self.optimizer, self.loader = parts
        self.scheduler = self.accelerator.prepare(scheduler) if scheduled else None

    def step(self, batch):
        with self.accelerator.accumulate(self.model):
            loss = cross_entropy(self.model(batch[0]), batch[1])
            self.accelerator.backward(loss)
            self.optimizer.step()
            if self.scheduler:
                self.scheduler.step()
            self.optimizer.zero_grad()
        self.losses.append(loss.item())
        return loss


@pytest.mark.parametrize("arguments", [{}, {"accumulation": 2, "scheduled": True}])
def test_a_tuner_that_does_not_act_changes_nothing(tmp_path, arguments):
    bare = Accelerated(**arguments).bare(40)
    loop = Accelerated(**arguments)
    steps = 40 // arguments.get("accumulation", 1)
    rate = learning_rate(loop.optimizer, schedule="multiply" if loop.scheduler else None)
    with loop.tuner(tmp_path / "run", hyperparameters=[rate], total_steps=steps) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    assert tuner.step == steps
    assert loop.losses == bare.losses
    assert same(loop.state(), bare.state())


@pytest.mark.parametrize("capacity", [6, 0])
def test_a_rewind_replays_prepared_batches_three_times_alike(tmp_path, capacity):
    loop = Accelerated(scheduled=True)
    runs = []
    with loop.tuner(
        tmp_path / "run",
        hyperparameters=[learning_rate(loop.optimizer, schedule="override")],
        stateful={"scheduler": loop.scheduler},
        total_steps=100,
        rewinding=Rewinding(every=5, capacity=capacity),
    ) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if tuner.spent == 5:
                tuner.checkpoint("five")
            if tuner.step == 25:  # three epochs on
                runs.append((loop.losses[-20:], loop.state()))
                if len(runs) == 3:
                    break
                restored = tuner.rewind(5 if capacity else "five")
                assert restored.grade == ("bitwise" if capacity else "state-exact")
                assert loop.scheduler.scheduler.last_epoch == 5
    assert runs[0][0] == runs[1][0] == runs[2][0]
    assert same(runs[0][1], runs[2][1])


def test_what_is_set_reaches_the_optimizer_inside(tmp_path):
    loop = Accelerated()
    rates = []
    policy = Scripted({10: [Set("lr", 0.05, reason="")]})
    parameters = [learning_rate(loop.optimizer), gradient_clip(loop.optimizer, 1e-3)]
    inside = loop.optimizer.optimizer
    with loop.tuner(tmp_path / "run", hyperparameters=parameters, policies=[policy], total_steps=20) as tuner:
        inside.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        norms = []
        inside.register_step_post_hook(
            lambda o, *_: norms.append(
                torch.nn.utils.get_total_norm([p.grad for p in loop.model.parameters()])
            )
        )
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    assert rates == [1e-2] * 10 + [0.05] * 10
    assert [n.item() for n in norms] == pytest.approx([1e-3] * 20, rel=1e-3)
