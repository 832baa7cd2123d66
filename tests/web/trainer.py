"""A training in a process of its own that a person steers: `python trainer.py ROOT`.

Real layers and data, slow enough to be looked at, and a policy that has something to suggest. A short run,
`first`, is trained before it, to be compared with.
"""

import os
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from autotune import AutoTuner
from autotune.actuators import VariableBatchSampler, batch_size, dropout, learning_rate
from autotune.policies import DivergenceGuard, Plateau
from autotune.records import Approve, Reject, Set, Suggest

SEED = torch.Generator().manual_seed(1)
INPUTS = torch.randn(1024, 20, generator=SEED)
LABELS = INPUTS[:, :4].argmax(1)
VALIDATION = slice(768, None)


class Adviser:
    """Has one suggestion for each of two hyperparameters; a new one when it was answered."""

    name = "adviser"
    requires = ("loss",)
    controls = ("dropout", "batch_size")

    def __init__(self):
        self.open = {}  # id of the suggestion → hyperparameter
        self.asked = []

    def decide(self, observation):
        for decision in observation.decisions:
            if decision.source == self.name and decision.status == "suggested":
                self.open[decision.id] = decision.action.action.name
            elif decision.applied and isinstance(decision.action, Approve | Reject):
                self.asked = [name for name in self.asked if name != self.open.get(decision.action.decision)]
        if "loss" not in observation.signals:
            return []
        wanted = [name for name in self.controls if name not in self.asked]
        self.asked += wanted
        loss = {"loss": observation.signals["loss"].last}
        return [self.suggestion(observation.hyperparameters[name], loss) for name in wanted]

    def suggestion(self, state, evidence):
        value = {"dropout": 0.3, "batch_size": 64}[state.name]
        other = {"dropout": 0.15, "batch_size": 32}[state.name]
        change = Set(state.name, other if state.value == value else value, reason="it generalises better so")
        return Suggest(change, reason="the gap between training and validation widens", evidence=evidence)

    def state_dict(self):
        return {"open": list(self.open.items()), "asked": list(self.asked)}

    def load_state_dict(self, state):
        self.open = dict(state["open"])
        self.asked = list(state["asked"])


def train(folder, steps, milliseconds):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    data = TensorDataset(INPUTS[: VALIDATION.start], LABELS[: VALIDATION.start])
    loader = DataLoader(data, batch_sampler=VariableBatchSampler(RandomSampler(data), 32, drop_last=True))

    def validate():
        model.eval()
        with torch.no_grad():
            return cross_entropy(model(INPUTS[VALIDATION]), LABELS[VALIDATION]).item()

    with AutoTuner(
        model,
        optimizer,
        hyperparameters=[learning_rate(optimizer), dropout(model), batch_size(loader, high=256)],
        policies=[DivergenceGuard(), Plateau(), Adviser()],
        total_steps=steps,
        evaluate=validate,
        evaluate_every=50,
        folder=folder,
        mlflow=False,
    ) as tuner:
        for inputs, labels in tuner.batches(loader):
            loss = cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tuner.report(loss=loss)
            time.sleep(milliseconds / 1000)
            if os.getppid() == 1:  # who has started it is gone
                break


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]) / "first", 300, 0)
    train(Path(sys.argv[1]) / "steered", 100_000, 2)
