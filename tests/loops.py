"""A small training loop that the tests of the whole share: real layers, a few milliseconds."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from autotune import AutoTuner
from autotune.actuators import learning_rate
from autotune.hyperparameters import Held

torch.set_num_threads(1)
DATA = torch.Generator().manual_seed(1)
INPUTS = torch.randn(256, 20, generator=DATA)
LABELS = INPUTS[:, :4].argmax(1)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
}


class Loop:
    """Model, optimizer, loader and the losses so far."""

    def __init__(self, optimizer="adamw-foreach", workers=0, seed=0):
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4)
        )
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.loader = DataLoader(
            TensorDataset(INPUTS, LABELS),
            32,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        self.losses = []

    def step(self, batch):
        inputs, labels = batch
        loss = cross_entropy(self.model(inputs), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())
        return loss

    def bare(self, steps):
        """Train without a tuner."""
        done = 0
        while True:
            for batch in self.loader:
                self.step(batch)
                done += 1
                if done == steps:
                    return self

    def tuner(self, folder, **arguments):
        """A tuner for this loop; no MLflow unless it is asked for."""
        return AutoTuner(self.model, self.optimizer, folder=folder, **self._completed(arguments))

    def resume(self, folder, **arguments):
        """The tuner of an earlier process, taken up again."""
        return AutoTuner.resume(folder, self.model, self.optimizer, **self._completed(arguments))

    def _completed(self, arguments):
        if "hyperparameters" not in arguments:
            arguments["hyperparameters"] = [learning_rate(self.optimizer)]
        return {"mlflow": False, **arguments}

    def validate(self):
        """Draws random numbers and leaves the model in eval mode, as a careless user's does."""
        self.model.eval()
        noise = torch.randn_like(INPUTS)
        with torch.no_grad():
            return cross_entropy(self.model(INPUTS + 0.01 * noise), LABELS).item()

    def state(self):
        """Copies of all that training changes."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        for i, slots in enumerate(self.optimizer.state.values()):
            tensors |= {f"optimizer/{i}/{k}": v for k, v in slots.items() if isinstance(v, torch.Tensor)}
        return {name: tensor.clone() for name, tensor in tensors.items()}


class Scripted:
    """A policy that does what it is told at the steps it is told."""

    requires = ()

    def __init__(self, script, name="scripted", controls=("lr",)):
        self.name = name
        self.controls = controls
        self.script = dict(script)
        self.seen = []

    def decide(self, observation):
        self.seen.append(observation)
        action = self.script.pop(observation.spent, [])
        return action(observation) if callable(action) else action

    def state_dict(self):
        return {"left": sorted(self.script)}

    def load_state_dict(self, state):
        self.script = {spent: self.script[spent] for spent in state["left"]}


class Told:
    """A policy that asks for what lies there for it."""

    requires = ()

    def __init__(self, name, controls):
        self.name = name
        self.controls = controls
        self.next = []

    def decide(self, observation):
        asked, self.next = self.next, []
        return [action for make in asked for action in make(observation)]

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Stuck(Held):
    """An actuator whose plant refuses everything above 0.5, after it has half written it."""

    def write(self, value):
        super().write(value)
        if value > 0.5:
            raise RuntimeError("valve stuck")
        return value


def same(a, b):
    """Whether two states are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
