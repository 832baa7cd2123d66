"""Records of runs as the tuner writes them, without the training."""

import dataclasses
import math

import numpy as np

from autotune.journal import Journal
from autotune.records import Checkpoint, Escalate, Outcome, Ramp, Release, Rewind, Set

META = {
    "total_steps": 400,
    "policies": ["divergence guard", "plateau"],
    "hyperparameters": {
        "lr": {"kind": "log", "low": 1e-6, "high": 10.0, "choices": [], "unit": ""},
        "dropout": {"kind": "float", "low": 0.0, "high": 0.9, "choices": [], "unit": ""},
        "noise": {"kind": "categorical", "low": None, "high": None, "choices": ["none", "white"], "unit": ""},
    },
    "versions": {"autotune": "0"},
}


class Recorder:
    """A run's clock beside its journal."""

    def __init__(self, folder, store=None, **meta):
        self.journal = Journal.create(folder, {"name": folder.name, **META}, store)
        for key, value in meta.items():
            self.journal.set_meta(key, value)
        self.step = self.spent = self.branch = 0
        self.owners = dict.fromkeys(META["hyperparameters"], "policy")

    def train(self, steps, every=1, **metrics):
        """Take steps; each metric is a function of the step, recorded on every `every`-th."""
        for _ in range(steps):
            self.step += 1
            self.spent += 1
            if self.step % every == 0:
                for name, value in metrics.items():
                    self.metric(name.replace("__", "/"), value(self.step))

    def metric(self, name, value):
        self.journal.metric(name, value, self.step, self.spent, self.branch)

    def decide(self, source, action, status="applied", after=(), note=""):
        decision = self.journal.decide(
            step=self.step, spent=self.spent, branch=self.branch, source=source, action=action, before={}
        )
        decision = dataclasses.replace(decision, status=status, after=dict(after), note=note)
        for change in (action, *getattr(action, "then", ())):
            person = status == "applied" and source.startswith("human:")
            if person and getattr(change, "name", None) in self.owners:
                self.owners[change.name] = "policy" if isinstance(change, Release) else source
        self.journal.settle(decision, {"owners": self.owners})
        return decision

    def rewind(self, source, to, reached=None, **fields):
        """`reached`: the state that was found, where it is older than the one asked for."""
        decision = self.decide(source, Rewind(to, reason="", **fields))
        self.step = to if reached is None else reached
        self.branch += 1
        return decision

    def end(self, status="finished"):
        self.journal.flush()
        self.journal.end(status)
        self.journal.close()


def rescued(folder, **meta):
    """A run that diverges from a rate that is too high, is rewound and then trains on: 400 steps spent."""
    rng = np.random.default_rng(0)
    run = Recorder(folder, **meta)

    def tick(lr, dropout=0.1):
        run.metric("hp/lr", lr)
        run.metric("hp/dropout", dropout)

    tick(3.0)
    run.train(40, loss=lambda step: math.inf if step > 35 else 2.3 * 1.2**step)
    lower = Set("lr", 0.03, reason="")
    run.rewind("divergence guard", 10, data="replay", then=(lower,))
    tick(0.03)
    for part in range(6):
        run.train(60, loss=lambda step: 2.3 * math.exp(-step / 80) * (1 + 0.2 * rng.normal()))
        run.metric("validation/loss", 2.5 * math.exp(-run.step / 80))
        run.metric("validation/accuracy", 1 - math.exp(-run.step / 80))
        tick(0.03, 0.1 if part < 3 else 0.2)
        if part == 2:
            by_hand = run.decide(
                "human:ada", Set("dropout", 0.2, reason="it overfits"), after={"dropout": 0.2}
            )
            measures = {"loss_measured": 0.5, "loss_forecast": math.nan}
            run.journal.outcome(Outcome(by_hand.id, run.spent, 20, "better", measures))
            run.decide("plateau", Set("lr", 0.3, reason="too\nsoon"), "refused", note="cooldown of 200 steps")
            run.decide("human:ada", Checkpoint("good", reason="before the cool-down"))
        if part == 3:
            run.decide("plateau", Ramp("lr", 0.0, 120, reason="flat", evidence={"p": 0.8, "z": math.inf}))
            run.decide("supervisor", Escalate(reason="a person is needed"))
    run.end()
    return folder


def range_tested(folder, **meta):
    """A run that ramps its learning rate from 1e-4 to 10 in its steps 11 to 110, goes back and sets 0.1."""
    run = Recorder(folder, **meta)
    run.train(10, loss=lambda step: 2.3)
    run.decide(
        "range test", Ramp("lr", 10.0, 100, "exponential", reason="to find a rate"), after={"lr": 1e-4}
    )

    def loss(step):  # falls up to a rate of 0.1, which the ramp has after 60 steps, then explodes
        past = step - 11 - 60
        return 2.3 * math.exp(-(step - 11) / 60) if past <= 0 else 0.8461 * 1.2**past

    run.train(100, loss=loss)
    chosen = Set("lr", 0.1, reason="")
    run.rewind("range test", 10, then=(chosen,))
    run.train(40, loss=lambda step: 2 / step)
    run.decide("decay", Ramp("lr", 0.01, 40, reason="the tail"), after={"lr": 0.1})
    run.train(50, loss=lambda step: 2 / step)
    run.end()
    return folder
