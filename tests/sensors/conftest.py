import pytest
import torch

from autotune.sensors import Instruments


class Bench:
    """The wiring of a tuner and nothing else: hooks, clocks, and everything collected by signal."""

    def __init__(self, model, optimizer, sensors=None, **arguments):
        self.instruments = Instruments(model, optimizer, sensors, **arguments)
        self.step = self.spent = 0
        self.stepped = True
        self.samples = []
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    def _before(self, *_):
        self.instruments.before_step(self.step + 1)

    def _after(self, *_):
        self.step += 1
        self.spent += 1
        self.stepped = True
        self.instruments.after_step(self.step, self.spent)

    def next(self, examples=None):
        if not self.stepped:
            self.instruments.micro_batch()
        self.stepped = False
        if examples is not None:
            self.instruments.batch(examples)

    def report(self, name, value):
        self.instruments.report(name, value, self.step, self.spent)

    def collect(self):
        self.samples += self.instruments.collect()
        return {sample.name: sample.value for sample in self.samples}

    def values(self, name):
        self.collect()
        return [sample.value for sample in self.samples if sample.name == name]


@pytest.fixture
def bench():
    torch.manual_seed(0)
    return Bench
