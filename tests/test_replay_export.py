"""The exported schedule is what the plant truly had at each step of the line that the run ended on."""

import dataclasses
import itertools
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loops import Loop, Scripted, Told, same
from typer.testing import CliRunner

from autotune.actuators import learning_rate
from autotune.cli import app
from autotune.export import export_schedule, live_schedule, schedule_to_json
from autotune.hyperparameters import CategoricalHyperparameter, FloatHyperparameter, IntHyperparameter
from autotune.policies import DivergenceGuard, Plateau
from autotune.policies.replay import Replay
from autotune.records import (
    SHAPES,
    Adopt,
    Approve,
    Checkpoint,
    Pin,
    Point,
    Probe,
    Ramp,
    Release,
    Rewind,
    Schedule,
    Set,
    Suggest,
    Undo,
)
from autotune.supervisor import Limits
from autotune.testing import Simulation

ANN = "human:ann"
NAMES = ("lr", "noise", "size", "flip")
FREE = Limits(cooldown=0, max_factor=1e9, max_fraction=1.0, max_rewinds=1000, max_trials=1000)


class Noting:
    """A plant that does nothing but note what it is given at each step."""

    signals = ("loss", "validation/loss")
    cost = 0.0

    def __init__(self):
        self.hyperparameters = [
            FloatHyperparameter("lr", 0.01, low=1e-5, high=1.0, log=True),
            FloatHyperparameter("noise", 0.3, low=-1.0, high=1.0),
            IntHyperparameter("size", 32, low=1, high=512),
            CategoricalHyperparameter("flip", True, choices=(True, False)),
        ]
        self.given = {}

    def step(self, batch):
        clock = self.simulation.clock
        self.given[clock.step + 1, clock.spent + 1] = {p.name: p() for p in self.hyperparameters}
        return {"loss": 1.0 + batch % 7}

    def evaluate(self):
        return {"validation/loss": 1.0 + self.simulation.clock.step % 5}

    def capture(self):
        return None

    def restore(self, state):
        pass


def simulated(*policies):
    plant = Noting()
    simulation = Simulation(plant, policies, budget=None, capacity=12, limits=FREE)
    simulation.engine.every = dataclasses.replace(simulation.engine.every, snapshot=10)
    plant.simulation = simulation
    return simulation


def lived(clock, given):
    """What the plant was given at each step of the live line."""
    ends = [*(step for step, _ in clock.stretches[1:]), clock.step]
    return [
        given[k, spent + k - step]
        for (step, spent), end in zip(clock.stretches, ends, strict=True)
        for k in range(step + 1, end + 1)
    ]


def exported(simulation):
    facts = {
        p.name: {"kind": p.kind, "choices": getattr(p, "choices", ())}
        for p in simulation.plant.hyperparameters
    }
    measured = {name: simulation.values[f"hp/{name}"] for name in facts}
    return live_schedule(facts, simulation.decisions, measured, simulation.clock.spent)


def values(schedule):
    """What a schedule says for each step."""
    out = []
    changes = Replay(schedule)._changes
    for step in range(schedule["steps"]):
        now = {name: [c for c in of if c.step <= step][-1].at(step) for name, of in changes.items()}
        out.append({**now, "size": round(now["size"])})
    return out


def agrees(simulation):
    clock = simulation.clock
    while simulation.engine.trials.running or not clock.step or clock.step % 10:
        simulation.run(1)
    schedule = json.loads(schedule_to_json(exported(simulation)))
    truth, said = lived(clock, simulation.plant.given), values(schedule)
    assert len(said) == len(truth) == schedule["steps"]
    for step, (a, b) in enumerate(zip(said, truth, strict=True)):
        assert a == pytest.approx(b, rel=1e-9), step
    return schedule


# --- any sequence ------------------------------------------------------------------------------------------

part = st.integers(0, 20).map(lambda n: n / 20)
NUMBERS = {
    "lr": lambda u: 10 ** (-5 + 5 * u),
    "noise": lambda u: 2 * u - 1,
    "size": lambda u: 1 + round(511 * u),
}


def to_set(name, u):
    return Set(name, u > 0.5 if name == "flip" else NUMBERS[name](u), reason="")


def to_ramp(name, u, steps, shape):
    shape = shape if name != "noise" else "cosine"
    return Ramp(name, NUMBERS[name](u), steps, shape, reason="")


sets = st.builds(to_set, st.sampled_from(NAMES), part)
ramps = st.builds(to_ramp, st.sampled_from(list(NUMBERS)), part, st.integers(1, 60), st.sampled_from(SHAPES))
changes = sets | ramps
releases = st.builds(lambda name: Release(name, reason=""), st.sampled_from(NAMES))
pins = st.builds(
    lambda name, n: Pin(name, n, reason=""), st.sampled_from(NAMES), st.none() | st.integers(1, 40)
)
corners = st.lists(
    st.tuples(st.integers(1, 30), part, st.sampled_from(["linear", "cosine"])), min_size=1, max_size=3
)
rewinds = st.tuples(
    st.just("rewind"), st.integers(0, 90), st.sampled_from(["replay", "skip"]), st.lists(changes, max_size=2)
)
probes = st.tuples(
    st.just("probe"),
    st.integers(1, 25),
    st.lists(changes, max_size=2),
    st.lists(ramps, max_size=1),
    st.booleans(),
)
ops = (
    changes
    | changes
    | releases
    | rewinds
    | probes
    | st.tuples(st.just("adopt"), st.integers(0, 3))
    | st.tuples(st.just("save"), st.booleans())
    | st.tuples(st.just("schedule"), st.sampled_from(list(NUMBERS)), corners)
    | pins
    | st.tuples(st.just("undo"), st.integers(0, 3))
    | st.builds(lambda change: Suggest(change, reason=""), changes)
    | st.tuples(st.just("approve"), st.integers(0, 2))
    | st.tuples(st.just("back"), st.integers(0, 5), st.lists(changes, max_size=2))
)


def either(asked):
    """Trials, or one of them adopted: a trial cannot go on from another that is let go of."""
    kinds = [op[0] for op in asked if isinstance(op, tuple)]
    return not ("probe" in kinds and "adopt" in kinds)


turns = st.tuples(
    st.sampled_from(["one", "two", ANN, ANN]),
    st.lists(ops, min_size=1, max_size=3).filter(either),
    st.integers(1, 30),
)


def personal(op):
    return isinstance(op, Pin) or (isinstance(op, tuple) and op[0] in ("schedule", "undo", "approve"))


def made(op, observation, simulation, saved):
    """The actions that an operation stands for."""
    if not isinstance(op, tuple):
        return [op]
    kind, *rest = op
    if kind == "rewind":
        back, data, then = rest
        return [Rewind(max(0, observation.step - back), data, tuple(then), reason="")]
    if kind == "probe":
        steps, then, branch, on = rest
        after = max((i for i, t in observation.trials.items() if t.kept), default=None) if on else None
        return [Probe(steps, tuple(then), tuple(branch), after, reason="")]
    if kind == "adopt":
        kept = sorted(i for i, trial in observation.trials.items() if trial.kept)
        if not kept or simulation.engine.trials.waiting:  # one may go on from what would be let go of
            return []
        return [Adopt(kept[rest[0] % len(kept)], reason="")]
    if kind == "schedule":
        name, points = rest
        steps = itertools.accumulate((ahead for ahead, _, _ in points), initial=observation.step)
        corners = [
            Point(step, NUMBERS[name](u), shape)
            for step, (_, u, shape) in zip(list(steps)[1:], points, strict=True)
        ]
        return [Schedule(name, tuple(corners), reason="")]
    if kind == "undo":
        return [Undo(None if rest[0] == 0 else simulation.engine.executor.last_id - rest[0] + 1, reason="")]
    if kind == "approve":
        asked = [d.id for d in simulation.decisions if d.status == "suggested"]
        return [Approve(asked[-1 - rest[0]], reason="")] if len(asked) > rest[0] else []
    if kind == "save":
        saved.append(f"saved-{len(saved)}")
        return [Checkpoint(saved[-1] if rest[0] else None, reason="")]
    where, then = rest
    return [Rewind(saved[where % len(saved)], "skip", tuple(then), reason="")] if saved else []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(turns, max_size=14))
def test_the_schedule_is_what_the_plant_was_given_on_the_live_line(turns):
    policies = {name: Told(name, NAMES) for name in ("one", "two")}
    simulation, saved = simulated(*policies.values()), []
    simulation.run(7)
    for who, asked, steps in turns:
        if who == ANN:
            for op in asked:
                for action in made(op, simulation.engine._observe(()), simulation, saved):
                    simulation.submit(action, ANN)
        else:
            own = [op for op in asked if not personal(op)]
            policies[who].next = [lambda seen, op=op: made(op, seen, simulation, saved) for op in own]
        simulation.run(steps)
    agrees(simulation)


# --- one thing at a time -----------------------------------------------------------------------------------


def lr_of(simulation):
    return agrees(simulation)["hyperparameters"]["lr"]


def scripted(**plan):
    """One policy, told at each of these steps what to ask for; and the simulation."""
    policy = Told("one", NAMES)
    simulation = simulated(policy)
    for at, asked in sorted(plan.items(), key=lambda item: int(item[0][1:])):
        simulation.run(int(at[1:]) - simulation.clock.spent - 1)
        policy.next = [
            lambda seen, action=action: [action(seen) if callable(action) else action] for action in asked
        ]
        simulation.run(1)
    return simulation


def test_a_ramp_is_one_change_and_a_rewind_leaves_out_what_it_undid():
    ramp = Ramp("lr", 0.1, 50, "cosine", reason="")
    simulation = scripted(
        s20=[ramp],
        s40=[Set("lr", 0.5, reason="")],
        s60=[Rewind(30, then=(Set("noise", 0.0, reason=""),), reason="")],
    )
    simulation.run(100)
    assert lr_of(simulation) == [
        {"step": 0, "value": 0.01},
        {"step": 20, "from": 0.01, "to": 0.1, "steps": 50, "shape": "cosine"},
    ]
    assert exported(simulation)["hyperparameters"]["noise"] == [
        {"step": 0, "value": 0.3},
        {"step": 30, "value": 0.0},
    ]


def test_what_is_adopted_is_on_the_line_from_the_trials_start_and_the_rest_is_not():
    warm_up = (Set("lr", 1e-4, reason=""), Ramp("lr", 0.05, 8, reason=""))
    simulation = scripted(
        s20=[
            Probe(15, (Set("lr", 0.9, reason=""),), reason=""),
            Probe(15, warm_up, (Ramp("lr", 1e-5, 6, reason=""),), reason=""),
        ]
    )
    policy = simulation.panel.policies[0]._policy
    policy.next = [lambda seen: [Adopt(2, reason=""), Ramp("lr", 1e-3, 40, reason="")]]
    simulation.run(100)
    assert lr_of(simulation) == [
        {"step": 0, "value": 0.01},
        {"step": 20, "from": 1e-4, "to": 0.05, "steps": 8, "shape": "linear"},
        {"step": 35, "from": 0.05, "to": 1e-3, "steps": 40, "shape": "linear"},
    ]


def test_what_was_clamped_counts_as_what_was_applied():
    simulation = scripted(s20=[Set("size", 9999, reason="")])
    assert simulation.decisions[-1].status == "clamped"
    assert agrees(simulation)["hyperparameters"]["size"] == [
        {"step": 0, "value": 32},
        {"step": 20, "value": 512},
    ]


def test_what_a_person_ramps_goes_on_while_the_run_is_rewound():
    simulation = scripted(s30=[])
    simulation.submit(Ramp("lr", 0.1, 60, "cosine", reason=""), ANN)
    simulation.run(20)
    simulation.submit(Rewind(40, "skip", reason=""), ANN)
    simulation.run(80)
    (_, ramp, moved) = lr_of(simulation)
    assert ramp == {"step": 30, "from": 0.01, "to": 0.1, "steps": 60, "shape": "cosine"}
    assert moved == {**ramp, "step": 40, "began": 20}


def test_a_change_that_no_decision_made_is_taken_from_what_was_measured():
    simulation = scripted(s20=[Ramp("lr", 0.1, 100, reason="")])
    simulation.run(20)
    simulation.controls["lr"].write(0.2)
    simulation.controls._ramps.clear()  # as where a policy is benched
    simulation.run(30)
    schedule = exported(simulation)["hyperparameters"]["lr"]
    assert schedule[-1] == {"step": 40, "value": 0.2}


def test_in_the_middle_of_trials_the_line_ends_where_they_began():
    simulation = scripted(s20=[Probe(15, (Set("lr", 0.9, reason=""),), reason="")])
    simulation.run(7)
    schedule = exported(simulation)
    assert schedule["steps"] == 20
    assert schedule["hyperparameters"]["lr"] == [{"step": 0, "value": 0.01}]
    with pytest.raises(ValueError, match="in a trial"):
        raise ValueError(simulation.submit(Set("lr", 0.5, reason=""), ANN).note)
    assert exported(simulation)["hyperparameters"]["lr"] == [{"step": 0, "value": 0.01}]
    simulation.run(60)
    agrees(simulation)


# --- a real loop -------------------------------------------------------------------------------------------


class Searcher:
    """Tries three rates at step 20 and goes on from the best; the reckless one then breaks the run."""

    name = "searcher"
    requires = ()
    controls = ("lr", "noise")

    def __init__(self, reckless=False):
        self.adopted, self.reckless, self.rewinds = False, reckless, 0

    def decide(self, observation):
        if observation.trials:
            self.adopted = True
            best = min(observation.trials.values(), key=lambda trial: trial.score)
            return [Adopt(best.id, reason="best"), Ramp("noise", 1.0, 43, reason="more, slowly")]
        if observation.step == 20 and not self.adopted:
            return [self.trial(rate) for rate in (0.9, 0.1, 1e-3)]
        if observation.step == 190 and self.rewinds < 2:
            self.rewinds += 1
            ramp = Ramp("lr", 0.06 / self.rewinds, 25, reason="")
            return [Rewind(140, "replay", (ramp,), reason="gentler")]
        if self.reckless and observation.step == 330:
            self.reckless = False
            return [Set("lr", 90.0, reason="reckless"), Release("lr", reason="")]
        return []

    def trial(self, rate):
        warm_up = (Set("lr", rate / 3, reason=""), Ramp("lr", rate, 9, reason=""))
        return Probe(17, warm_up, (Ramp("lr", 1e-4, 7, reason="cool"),), reason="which rate?")

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class NoisyLoop(Loop):
    """Its inputs are disturbed by a hyperparameter that no optimizer holds; it notes what each step used."""

    def __init__(self):
        super().__init__("sgd")
        self.noise = FloatHyperparameter("noise", 0.3, low=0.0, high=1.0)
        self.used = {}

    def train(self, folder, policies, rates=(), then=None, **arguments):
        knobs = [learning_rate(self.optimizer), self.noise]
        arguments = {"total_steps": 900, "evaluate": self.validate, **arguments}
        with self.tuner(folder, hyperparameters=knobs, policies=policies, **arguments) as tuner:
            self.clock = tuner._engine.clock
            for inputs, labels in tuner.batches(self.loader):
                rate = self.optimizer.param_groups[0]["lr"]
                self.used[tuner.step + 1, tuner.spent + 1] = (rate, self.noise())
                loss = self.step((inputs + self.noise() * torch.randn_like(inputs), labels))
                tuner.report(loss=loss)
                if then is not None:
                    then(tuner)
        return tuner

    def by_hand(self, values):
        """Train without a tuner, with these rates and noises."""
        batches = itertools.chain.from_iterable(self.loader for _ in itertools.count())
        for (inputs, labels), (rate, noise) in zip(batches, values, strict=False):
            self.optimizer.param_groups[0]["lr"] = rate
            self.step((inputs + noise * torch.randn_like(inputs), labels))
        return self


def by_a_person(tuner):
    if tuner.spent == 413:
        tuner.set("noise", 0.9, by="ann")
    if tuner.spent == 427:
        tuner.ramp("lr", 0.02, 30, "cosine", by="ann")
    if tuner.spent == 445:
        tuner.release("lr", by="ann")


@pytest.mark.parametrize("reckless", [False, True])
def test_a_replayed_run_ends_as_the_run_did_to_the_bit(tmp_path, reckless):
    """Where a guard has skipped data, it ends as a run by hand with the values of the live line does."""
    first = NoisyLoop()
    policies = [DivergenceGuard(), Searcher(reckless), Plateau()]
    tuner = first.train(tmp_path / "a", policies, then=by_a_person)
    kinds = {(d.source, d.action.kind) for d in tuner.decisions if d.applied}
    assert {("searcher", "adopt"), ("searcher", "rewind"), ("plateau", "set"), ("human:ann", "set")} <= kinds
    assert (("divergence_guard", "rewind") in kinds) == reckless
    schedule = export_schedule(tmp_path / "a")
    line = lived(first.clock, first.used)
    assert schedule["steps"] == len(line) == tuner.step

    again = NoisyLoop()
    again.train(tmp_path / "b", [Replay(schedule)], total_steps=len(line), sample_every=1)
    assert [again.used[k, k] for k in range(1, len(line) + 1)] == line
    by_hand = NoisyLoop().by_hand(line)
    assert same(again.state(), by_hand.state())
    assert same(again.state(), first.state()) != reckless


def test_a_resumed_run_goes_on_from_the_checkpoint_and_with_what_people_had_done(tmp_path):
    loop = NoisyLoop()

    def crash(tuner):
        if tuner.spent == 100:
            tuner.checkpoint("half")
        if tuner.spent == 110:
            tuner.ramp("noise", 0.1, 10)
        if tuner.spent == 130:
            raise KeyboardInterrupt

    scripted = Scripted({50: [Ramp("lr", 0.02, 80, reason="")], 120: [Set("lr", 0.7, reason="lost")]})
    with pytest.raises(KeyboardInterrupt):
        loop.train(tmp_path / "run", [scripted], total_steps=200, then=crash)
    loop = NoisyLoop()
    knobs = [learning_rate(loop.optimizer), loop.noise]
    arguments = {
        "hyperparameters": knobs,
        "policies": [Scripted({50: [], 120: []})],
        "evaluate": loop.validate,
    }
    with loop.resume(tmp_path / "run", **arguments) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    assert export_schedule(tmp_path / "run") == {
        "version": 1,
        "steps": 200,
        "hyperparameters": {
            "lr": [
                {"step": 0, "value": 0.1},
                {"step": 50, "from": 0.1, "to": 0.02, "steps": 80, "shape": "linear"},
            ],
            "noise": [
                {"step": 0, "value": 0.3},
                {"step": 100, "from": 0.3, "to": 0.1, "steps": 10, "shape": "linear"},
            ],
        },
    }


def test_a_schedulers_factor_is_exported_as_the_hyperparameter_that_it_is(tmp_path):
    loop = Loop()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(loop.optimizer, 60)
    rate = learning_rate(loop.optimizer, schedule="multiply")
    scripted = Scripted({30: [Set(rate.name, 0.5, reason="")]}, controls=(rate.name,))
    arguments = {"hyperparameters": [rate], "policies": [scripted], "stateful": {"scheduler": scheduler}}
    with loop.tuner(tmp_path / "run", total_steps=60, **arguments) as tuner:
        for batch in tuner.batches(loop.loader):
            loop.step(batch)
            scheduler.step()
    assert export_schedule(tmp_path / "run")["hyperparameters"] == {
        rate.name: [{"step": 0, "value": 1.0}, {"step": 30, "value": 0.5}]
    }


# --- the command -------------------------------------------------------------------------------------------


def test_the_command_writes_what_replay_reads(tmp_path):
    loop = NoisyLoop()
    loop.train(tmp_path / "run", [Scripted({50: [Ramp("lr", 0.02, 80, reason="")]})], total_steps=100)
    run, path = str(tmp_path / "run"), tmp_path / "schedule.json"
    shown = CliRunner().invoke(app, ["export", run])
    assert (shown.exit_code, json.loads(shown.stdout)) == (0, export_schedule(run))
    assert str(tmp_path) not in shown.stdout
    written = CliRunner().invoke(app, ["export", run, "--to", str(path)])
    assert (written.exit_code, written.stdout.split()) == (0, [str(path)])
    assert path.read_text() == shown.stdout
    assert Replay(path).controls == ("lr", "noise")
    missing = CliRunner().invoke(app, ["export", run, "--to", str(tmp_path / "no" / "schedule.json")])
    assert missing.exit_code == 1
    assert "No such file" in missing.stderr
