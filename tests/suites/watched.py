"""A workload that keeps books of its own, to be compared with those of `Run`; and arms of every kind."""

from collections import Counter
from functools import cache

import torch
from loops import Scripted

from autotune.benchmarks.suites.arms import Baseline, Static, Tuned
from autotune.benchmarks.suites.peers import PEERS
from autotune.benchmarks.suites.results import Config
from autotune.benchmarks.suites.run import execute
from autotune.benchmarks.workloads.digits_mlp import DigitsMLP
from autotune.policies import DivergenceGuard, Hypergradient, ReduceOnPlateau
from autotune.records import Rewind, Set

STEPS = 100


class Watched:
    """DigitsMLP, watched, with a probe so small that 16 of them fit into a run.

    Args:
        change: of these parts the labels are wrong.
    """

    name = "watched"
    rate = 3e-3

    def __init__(self, change=()):
        self.workload, self.steps, self.change = DigitsMLP(steps=STEPS), STEPS, change

    def begin(self, seed, device):
        training = self.training = self.workload.begin(seed, device)
        few = tuple(tensor[:48].clone() for tensor in training.parts["probe"])
        training.parts["probe"], training.probe_cost = few, 48 / (3 * 64)
        for part in self.change:
            inputs, targets = training.parts[part]
            training.parts[part] = inputs, (targets + 1) % 10
        self.batches, self.updates, self.evaluated, self.beginning = [], 0, Counter(), None
        loss, update, evaluate = training.loss, training.update, training.evaluate
        losses = training.losses

        def watched_loss(batch):
            if self.beginning is None:
                self.beginning = self.weights(), torch.get_rng_state()
            self.batches.append(hash(batch[0].numpy().tobytes()))
            return loss(batch)

        def watched_update(value, optimizer):
            self.updates += 1
            update(value, optimizer)

        def watched_evaluate(part):
            self.evaluated[part] += 1
            return evaluate(part)

        def watched_losses(part):
            self.evaluated[part] += 1
            return losses(part)

        training.loss, training.update, training.evaluate = watched_loss, watched_update, watched_evaluate
        training.losses = watched_losses
        return training

    def weights(self):
        return torch.cat([p.detach().flatten().clone() for p in self.training.model.parameters()])


@cache
def watch(arm, factor=1.0, seed=0, budget=1.0, change=()):
    """The outcome of a run of an arm, and the workload that watched it."""
    watched = Watched(change)
    start = Config(watched.rate * factor, "linear")
    return execute(watched, arm, start, seed, budget, torch.device("cpu")), watched


REWINDS = {30: 10, 60: 20, 80: 20}
"""At which `spent` the arm `rewinding` goes back to which step: by 20 steps each time."""


def rewinding():
    def back(to):
        return lambda seen: [
            Rewind(to, then=(Set("lr", seen.hyperparameters["lr"].value / 2, reason=""),), reason="")
        ]  # one that changes nothing is refused

    return [Scripted({spent: back(to) for spent, to in REWINDS.items()})]


ARMS = (
    Baseline(),
    Static("linear"),
    Tuned("patience", lambda: [ReduceOnPlateau(patience=1)]),
    Tuned("guard", lambda: [DivergenceGuard()]),
    Tuned("hypergradient", lambda: [Hypergradient()]),
    Tuned("on schedule", lambda: [ReduceOnPlateau(patience=1)], on_schedule=True),
    Tuned("rewinding", rewinding),
    *PEERS,
)


def named(name):
    return next(arm for arm in ARMS if arm.name == name)
