"""Trials: from one state, on the same batches, and back, to the bit."""

import contextlib
import gc
import math
import os
import re
import resource
from pathlib import Path

import pytest
import torch
from loops import Loop

from autotune.actuators import beta1, learning_rate
from autotune.journal import Journal
from autotune.memory import Rewinding
from autotune.records import Adopt, Probe, Ramp, Rewind, Set


class Searcher:
    """Asks for what it is told at the step it is told, and keeps what it sees."""

    name = "searcher"
    requires = ()
    controls = ("lr",)

    def __init__(self, **plan):
        self.plan = {int(step.lstrip("at")): actions for step, actions in plan.items()}
        self.then = []
        self.seen = []

    def decide(self, observation):
        self.seen.append(observation)
        if observation.trials and self.then:
            return [action(observation) for action in self.then.pop(0)]
        return self.plan.pop(observation.step, [])

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def probe(rate, steps=15, cool=0, **fields):
    branch = (Ramp("lr", 1e-6, cool, reason="cool"),) if cool else ()
    return Probe(steps, (Set("lr", rate, reason="try"),), branch, reason="which rate?", **fields)


def run(tmp_path, policy, steps=60, **settings):
    loop = Loop()
    losses = []
    with loop.tuner(tmp_path, policies=[policy], total_steps=steps, **settings) as tuner:
        for batch in tuner.batches(loop.loader):
            loss = loop.step(batch)
            tuner.report(loss=loss)
            losses.append((tuner.step, tuner.spent, loss.item()))
    return loop, tuner, losses


def test_the_run_after_trials_is_the_one_without_them(tmp_path):
    bare, _, plain = run(tmp_path / "bare", Searcher(), steps=60)
    searcher = Searcher(at20=[probe(1e-1), probe(1e-3, cool=7), probe(1.0)])
    loop, tuner, losses = run(tmp_path / "run", searcher, steps=60 + 15 + 22 + 15)
    lived = [loss for step, spent, loss in losses if not 20 < spent <= 72]
    assert lived == [loss for _, _, loss in plain]
    for a, b in zip(loop.model.parameters(), bare.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert tuner.spent == 112
    assert tuner.step == 60


def test_all_trials_see_the_same_batches_and_differ_by_what_they_set(tmp_path):
    _, _, losses = run(tmp_path, Searcher(at20=[probe(1e-2), probe(1e-2), probe(1e-1)]), steps=100)
    first, again, other = ([loss for _, s, loss in losses if low < s <= low + 15] for low in (20, 35, 50))
    assert first == again
    assert first[0] == other[0]
    assert first[1:] != other[1:]


def test_results_are_told_when_the_run_is_back(tmp_path):
    searcher = Searcher(at20=[probe(1e-2), probe(1e-1, cool=5)])
    _, tuner, _ = run(tmp_path, searcher, steps=100)
    told = next(o for o in searcher.seen if o.trials)
    assert (told.step, told.spent) == (20, 20 + 15 + 20)
    one, two = told.trials.values()
    assert (one.start, one.step, one.spent) == (20, 35, 15)
    assert (two.start, two.step, two.spent) == (20, 35, 20)
    assert one.kept
    assert two.kept
    assert two.values == {"lr": 0.1}
    assert math.isfinite(one.score)
    assert one.error > 0, "of the training losses, where there is no evaluation"
    assert [d.id for d in tuner.decisions if isinstance(d.action, Probe)] == [one.id, two.id]
    assert all("score" in d.note for d in tuner.decisions if isinstance(d.action, Probe))
    assert told.hyperparameters["lr"].value == 1e-2
    assert not any(20 < o.step < 30 for o in searcher.seen), "nobody is asked during a trial"


def test_an_adopted_trial_goes_on_as_if_it_had_been_the_run(tmp_path):
    plain, _, _ = run(tmp_path / "plain", Searcher(at20=[Set("lr", 3e-2, reason="by hand")]), steps=60)
    searcher = Searcher(at20=[probe(1e-3), probe(3e-2, cool=6), probe(1e-1)])
    searcher.then = [[lambda o: Adopt(sorted(o.trials)[1], reason="best")]]
    loop, tuner, _ = run(tmp_path / "run", searcher, steps=60 + 15 + 6 + 15)
    assert tuner.step == 60
    for a, b in zip(loop.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b)
    (adopted,) = (d for d in tuner.decisions if isinstance(d.action, Adopt))
    assert adopted.status == "applied"
    assert adopted.before == {"lr": 1e-2}
    assert adopted.after == {"lr": 3e-2}
    assert not searcher.seen[-1].trials, "the others are forgotten"


def test_a_trial_goes_on_from_anothers_state(tmp_path):
    searcher = Searcher(at20=[probe(1e-2, cool=5), probe(1e-1)])
    searcher.then = [
        [lambda o: Probe(10, reason="on", after=min(o.trials))],
        [lambda o: Adopt(max(o.trials), reason="best")],
    ]
    loop, tuner, _ = run(tmp_path / "run", searcher, steps=60 + 5 + 15)
    bare, _, _ = run(tmp_path / "bare", Searcher(), steps=60)
    assert tuner.step == 60
    for a, b in zip(loop.model.parameters(), bare.model.parameters(), strict=True):
        assert torch.equal(a, b)
    signal = tuner.signals["loss"]
    assert list(signal.step) == sorted(set(signal.step)), "the history is that of the live branch"


def test_a_lost_trial_ends_early_and_is_not_kept(tmp_path):
    searcher = Searcher(at20=[probe(1e3, steps=40, give_up=50.0), probe(1e-2)])
    run(tmp_path, searcher, steps=100)
    told = next(o for o in searcher.seen if o.trials)
    lost, sound = told.trials.values()
    assert lost.score == math.inf
    assert lost.spent < 40
    assert not lost.kept
    assert sound.kept


RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 3e-2)


@pytest.mark.parametrize(("capacity", "kept"), [(6, 4), (100, 4), (4, 2), (1, 1)])
def test_at_most_four_states_are_kept_the_best_ones_and_no_more_than_are_granted(tmp_path, capacity, kept):
    searcher = Searcher(at20=[probe(rate, cool=2) for rate in RATES])
    run(tmp_path, searcher, steps=200, rewinding=Rewinding(capacity=capacity))
    trials = next(o for o in searcher.seen if o.trials).trials.values()
    scores = sorted(trial.score for trial in trials)
    assert sorted(trial.score for trial in trials if trial.kept) == scores[:kept]


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (probe(1e-2, steps=90), "does not fit into the 80"),
        (probe(1e-2, after=99), "got 99; those of searcher that are kept: none"),
        (Adopt(7, reason="?"), "got 7"),
        (Probe(5, (Set("dropout", 0.1, reason=""),), reason=""), "no hyperparameter is called 'dropout'"),
    ],
)
def test_what_cannot_be_tried_is_refused(tmp_path, action, words):
    _, tuner, _ = run(tmp_path, Searcher(at20=[action]), steps=100)
    (decision,) = (d for d in tuner.decisions if d.action.kind == action.kind)
    assert decision.status == "refused"
    assert words in decision.note
    assert tuner.step == 100


def test_the_loop_that_ends_in_a_trial_ends_where_it_began(tmp_path):
    loop = Loop()
    searcher = Searcher(at20=[probe(1e-1, steps=40)])
    with loop.tuner(tmp_path / "run", policies=[searcher], total_steps=100) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if tuner.spent == 30:
                tuner.stop()
    assert (tuner.step, tuner.spent) == (20, 30)
    assert tuner.hyperparameters["lr"]() == 1e-2


def test_people_wait_until_the_run_is_back(tmp_path):
    loop = Loop()
    searcher = Searcher(at20=[probe(1e-1, steps=20)])
    with loop.tuner(tmp_path / "run", policies=[searcher], total_steps=100) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if tuner.spent == 30:
                with pytest.raises(ValueError, match="the run is in a trial"):
                    tuner.set("lr", 1e-4)
    assert tuner.step == 80


def test_nothing_is_saved_in_a_trial_and_a_rewind_finds_none_of_it(tmp_path):
    searcher = Searcher(at40=[probe(1e-1, steps=40)])
    searcher.then = [[lambda o: Rewind(40, "skip", (Set("lr", 1e-3, reason=""),), reason="back")]]
    _, tuner, _ = run(tmp_path, searcher, steps=100)
    told = next(o for o in searcher.seen if o.trials)
    assert all(info.step <= 40 and info.spent <= 40 for info in told.snapshots)
    assert tuner.step == 50, "from the snapshot of step 30, since that of 40 was not taken yet"


def test_a_trial_that_is_not_evaluated_is_scored_by_its_training_loss(tmp_path):
    calls = []
    searcher = Searcher(at20=[probe(1e-2, evaluate=False), probe(1e-2, cool=6, evaluate=False), probe(1e-2)])

    def evaluate():
        calls.append(1)
        return 7.0

    _, _, losses = run(tmp_path, searcher, steps=100, evaluate=evaluate, evaluate_every=1000)
    flat, cooled, judged = next(o for o in searcher.seen if o.trials).trials.values()
    of = {spent: loss for _, spent, loss in losses}
    assert flat.score == pytest.approx(sum(of[s] for s in range(21, 36)) / 15)
    assert cooled.score == pytest.approx(sum(of[s] for s in range(51, 57)) / 6), "over its branch"
    assert judged.score == 7.0
    assert len(calls) == 3, "at the start, in one trial, and at the end"


def test_what_is_evaluated_in_a_trial_is_not_the_runs(tmp_path):
    searcher = Searcher(at20=[probe(1e-2), probe(1e-1)])
    _, tuner, _ = run(tmp_path, searcher, steps=100, evaluate=lambda: 1.0, evaluate_every=25)
    assert list(tuner.signals["validation/loss"].step) == [0, 25, 50, 70]


def test_nothing_is_adopted_while_trials_wait(tmp_path):
    searcher = Searcher(at20=[probe(1e-3), probe(3e-2)])
    searcher.then = [
        [lambda o: probe(1e-1), lambda o: Adopt(min(o.trials), reason="too early")],
        [lambda o: Adopt(min(o.trials), reason="now")],
    ]
    _, tuner, _ = run(tmp_path, searcher, steps=120)
    early, late = (d for d in tuner.decisions if isinstance(d.action, Adopt))
    assert early.status == "refused"
    assert "when all that were asked for are over" in early.note
    assert late.status == "applied"
    assert tuner.hyperparameters["lr"]() == 1e-3


def test_all_policies_are_asked_when_the_trials_of_all_are_over(tmp_path):
    other = Searcher(at20=[probe(1e-1, steps=7)])
    other.name = "other"
    searcher = Searcher(at20=[probe(1e-3, steps=9)])
    loop = Loop()
    with loop.tuner(tmp_path, policies=[other, searcher], total_steps=60) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    told = next(o for o in searcher.seen if o.trials)
    assert told.spent == 20 + 7 + 9
    assert len(told.trials) == 2
    assert tuner.step == 60 - 16


class Scaled:
    """A loop with a GradScaler, whose gradients are not finite where it is told."""

    def __init__(self):
        self.loop = Loop("sgd")
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        self.batches = 0

    def run(self, folder, policy, lost, total_steps=60, reported=False, **settings):
        loop = self.loop
        tuner = loop.tuner(
            folder, policies=[policy], total_steps=total_steps, stateful={"scaler": self.scaler}, **settings
        )
        with tuner:
            for inputs, labels in tuner.batches(loop.loader):
                self.batches += 1
                assert self.batches < 1000, "the trial does not end"
                loss = torch.nn.functional.cross_entropy(loop.model(inputs), labels)
                factor = math.inf if lost(tuner, self.batches) else 1.0
                loop.optimizer.zero_grad()
                self.scaler.scale(factor * loss).backward()
                self.scaler.step(loop.optimizer)
                self.scaler.update()
                tuner.report(loss=factor * loss if reported else loss)
        return tuner


def test_a_step_that_a_scaler_skips_in_a_trial_asks_nobody(tmp_path):
    searcher = Searcher(at20=[probe(1e-2, steps=20)])
    scaled = Scaled()
    tuner = scaled.run(tmp_path, searcher, lambda _, batch: 25 <= batch < 28, sample_every=1)
    assert scaled.batches == 60 + 3
    assert tuner.spent == 60
    assert not any(20 < o.spent < 40 for o in searcher.seen)


@pytest.mark.parametrize("reported", [True, False])
@pytest.mark.parametrize("after", [20, 26])
def test_a_trial_whose_steps_are_all_skipped_is_lost(tmp_path, after, reported):
    """In half precision weights that are too large give a loss that is infinite for good."""
    searcher = Searcher(at20=[probe(0.5, steps=20), probe(1e-2, steps=20)])
    scaled = Scaled()
    tuner = scaled.run(
        tmp_path, searcher, lambda t, _: t.spent >= after and t.hyperparameters["lr"]() == 0.5, 100, reported
    )
    lost, sound = next(o for o in searcher.seen if o.trials).trials.values()
    assert lost.score == math.inf
    assert lost.spent == after - 20
    assert math.isfinite(sound.score)
    assert tuner.spent == 100
    assert scaled.batches == 100 + (10 if reported else 20)
    assert list(tuner.signals["loss"].step) == list(range(1, tuner.step + 1)), "nothing of a skipped step"
    (note,) = (d.note for d in tuner.decisions if d.id == lost.id)
    assert "skipped" in note


def test_trials_are_refused_where_no_state_is_kept(tmp_path):
    searcher = Searcher(at20=[probe(1e-1)])
    _, tuner, _ = run(tmp_path, searcher, steps=60, rewinding=Rewinding(capacity=0))
    (decision,) = (d for d in tuner.decisions if isinstance(d.action, Probe))
    assert decision.status == "refused"
    assert "capacity" in decision.note
    assert tuner.step == 60


def stream_of(loop, seen):
    while True:
        for batch in loop.loader:
            seen.append(batch[0].sum().item())
            yield batch


def test_a_stream_whose_batches_are_not_kept_ends_no_run(tmp_path, caplog):
    """A one-shot iterator cannot draw them anew: trials end where the batches that are kept do."""
    loop = Loop()
    drawn, used, states = [], [], {}
    searcher = Searcher(at20=[probe(1e-1), probe(1e-2)])
    settings = {"policies": [searcher], "total_steps": 100, "rewinding": Rewinding(replay_bytes=4000)}
    with loop.tuner(tmp_path, **settings) as tuner:
        for batch in tuner.batches(stream_of(loop, drawn)):
            if tuner.spent in (20, 30):
                states[tuner.spent] = loop.state(), tuner.step, tuner.hyperparameters["lr"]()
            used.append(batch[0].sum().item())
            tuner.report(loss=loop.step(batch))
    assert tuner.spent == 100
    assert tuner.step == 90
    assert used == drawn[:100], "none comes again, and none is passed over"
    trials = next(o for o in searcher.seen if o.trials).trials.values()
    assert [(trial.score, trial.spent, trial.kept) for trial in trials] == [
        (math.inf, 10, False),
        (math.inf, 0, False),
    ]
    state, step, rate = states[30]
    assert (step, rate) == (20, 1e-2)
    bare = Loop().bare(20).state()
    assert all(torch.equal(state[name], bare[name]) for name in bare)
    notes = [d.note for d in tuner.decisions if isinstance(d.action, Probe)]
    assert all("goes on from there, approximate" in note for note in notes)
    assert caplog.text.count("trials ended") == 1


def test_a_trial_that_was_let_go_is_neither_adopted_nor_gone_on_from(tmp_path):
    loop = Loop()
    searcher = Searcher(at20=[probe(1e-1, steps=5)], at80=[Adopt(1, reason="late")])
    searcher.plan[90] = [probe(1e-2, after=1)]
    settings = {"policies": [searcher], "total_steps": 120, "rewinding": Rewinding(replay_bytes=400_000)}
    with loop.tuner(tmp_path, **settings) as tuner:
        for batch in tuner.batches(stream_of(loop, [])):
            tuner.report(loss=loop.step(batch))
    tried, *refused = tuner.decisions
    assert "; score 0." in tried.note
    assert [decision.status for decision in refused] == ["refused", "refused"]
    assert all("while it is kept" in decision.note for decision in refused)


def momenta(folder, trials, person, steps):
    """The momentum at each step that was lived, with a ramp of a person or of another policy."""
    loop = Loop()
    momentum = beta1(loop.optimizer)
    searcher = Searcher(at20=trials)
    other = Searcher(at0=[] if person else [Ramp(momentum.name, 0.5, 40, reason="slowly")])
    other.name, other.controls = "other", (momentum.name,)
    settings = {"hyperparameters": [learning_rate(loop.optimizer), momentum], "total_steps": steps}
    values = []
    with loop.tuner(folder, policies=[searcher, other], **settings) as tuner:
        if person:
            tuner.ramp(momentum.name, 0.5, 40)
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            if not 20 < tuner.spent <= 20 + sum(trial.steps for trial in trials):
                values.append(momentum())
    return values


@pytest.mark.parametrize("person", [True, False])
def test_a_ramp_is_not_used_up_by_trials(tmp_path, person):
    plain = momenta(tmp_path / "plain", [], person, 90)
    tried = momenta(tmp_path / "run", [probe(1e-2, steps=30), probe(1e-1, steps=30)], person, 150)
    assert tried == plain
    assert plain[0] > plain[19] > plain[20] > plain[-1] == 0.5


@pytest.mark.parametrize("ends", ["break", "pass"])
def test_a_loop_that_ends_inside_a_trial_leaves_the_state_from_before(tmp_path, ends):
    loop = Loop()
    searcher = Searcher(at10=[probe(1e-1, steps=200), probe(1e-3)])
    rate = loop.optimizer.param_groups[0]["lr"]
    before = None
    with loop.tuner(tmp_path, policies=[searcher], total_steps=400) as tuner:
        for batch in tuner.batches(loop.loader, epochs=None if ends == "break" else 3):
            if tuner.spent == 10:
                before = [p.detach().clone() for p in loop.model.parameters()]
            tuner.report(loss=loop.step(batch))
            if ends == "break" and tuner.spent == 20:
                break
        spent = tuner.spent
        assert spent > 15
        assert tuner.step == 10
        assert loop.optimizer.param_groups[0]["lr"] == rate
        for now, then in zip(loop.model.parameters(), before, strict=True):
            assert torch.equal(now, then)


def test_trials_that_nobody_goes_on_from_are_let_go(tmp_path):
    searcher = Searcher(at10=[probe(1e-1), probe(1e-3)])
    loop = Loop()
    held = []
    with loop.tuner(tmp_path, policies=[searcher], total_steps=100) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            held.append(len(tuner._engine.memory._ring.held))
    assert max(held) >= 2
    assert held[-1] == 0
    assert not tuner._engine.memory._ring._spare, "their memory is given back"
    assert not searcher.seen[-1].trials


MEGABYTE = 2**20
STATE = 64 * MEGABYTE


class Heavy(Loop):
    """A loop whose state is large, and whose steps take little."""

    def __init__(self):
        super().__init__("sgd")
        self.model.register_buffer("table", torch.zeros(STATE, dtype=torch.uint8))


@contextlib.contextmanager
def memory_left():
    """Yields what limits the process to so many bytes more than it has; no limit afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    gc.collect()  # what earlier tests have left is not freed on the way

    def limit(left):
        has = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (int(has + left), hard))

    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run_short(tmp_path, searcher, at, left, others=(), steps=60):
    """A run that has only so much memory left from the step `at` on."""
    loop = Heavy()
    settings = {"policies": [searcher, *others], "total_steps": steps, "rewinding": Rewinding(every=1000)}
    with memory_left() as limit, loop.tuner(tmp_path, **settings) as tuner:
        for batch in tuner.batches(loop.loader):
            if tuner.spent == at:
                limit(left)
            tuner.report(loss=loop.step(batch))
    return loop, tuner


def same_as_without_trials(loop, steps):
    bare = Heavy().bare(steps)
    return all(
        torch.equal(a, b) for a, b in zip(loop.model.parameters(), bare.model.parameters(), strict=True)
    )


def test_what_states_of_trials_take_is_told_with_the_first_and_is_what_they_take(tmp_path):
    class Watching(Searcher):
        def decide(self, observation):
            taken.append(sum(state.slot.nbytes for state in tuner._engine.memory._ring.held))
            return super().decide(observation)

    loop, taken = Heavy(), []
    searcher = Watching(at20=[probe(rate, steps=5) for rate in RATES])
    with loop.tuner(tmp_path, policies=[searcher], total_steps=100) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
            taken.append(sum(state.slot.nbytes for state in tuner._engine.memory._ring.held))
    first, *others = (d.note for d in tuner.decisions)
    told = re.match(r"trials keep at most 6 states of ([0-9.]+) MB on cpu, ([0-9.]+) MB in all; score", first)
    assert float(told[1]) == pytest.approx(STATE / 1e6, rel=0.01)
    assert float(told[2]) == pytest.approx(6 * STATE / 1e6, rel=0.01)
    assert 5 * STATE < max(taken) <= 1e6 * float(told[2])
    assert all(note.startswith("score") for note in others)


def test_fewer_states_are_kept_where_there_is_less_room(tmp_path, caplog):
    searcher = Searcher(at20=[probe(rate, steps=5) for rate in RATES])
    loop, tuner = run_short(tmp_path, searcher, at=19, left=9 * STATE)
    trials = next(o for o in searcher.seen if o.trials).trials.values()
    scores = sorted(trial.score for trial in trials)
    assert sorted(trial.score for trial in trials if trial.kept) == scores[:2]
    assert "half of what was free held 4 on cpu, 6 were wanted" in tuner.decisions[0].note
    assert "at most 4 states" in caplog.text
    assert same_as_without_trials(loop, tuner.step)


def test_trials_are_refused_where_there_is_no_room_and_the_run_goes_on(tmp_path):
    searcher = Searcher(at20=[probe(1e-1), probe(1e-2)])
    loop, tuner = run_short(tmp_path, searcher, at=19, left=5 * STATE)
    assert [decision.status for decision in tuner.decisions] == ["refused", "refused"]
    assert "trials take 3 states in memory" in tuner.decisions[0].note
    assert "holds 2 on cpu" in tuner.decisions[0].note
    assert tuner.step == 60
    assert same_as_without_trials(loop, 60)


def test_a_state_that_finds_no_memory_is_not_kept_and_harms_nothing(tmp_path, caplog):
    searcher = Searcher(at20=[probe(1e-1, steps=10, cool=2), probe(1e-2, steps=10)])
    loop, tuner = run_short(tmp_path, searcher, at=25, left=STATE // 2)
    trials = next(o for o in searcher.seen if o.trials).trials.values()
    assert [(math.isfinite(trial.score), trial.kept) for trial in trials] == [(True, False)] * 2
    assert all("its state is not kept" in decision.note for decision in tuner.decisions)
    assert caplog.text.count("is not kept") == 2
    assert (tuner.step, tuner.spent) == (38, 60)
    assert same_as_without_trials(loop, 38)


def test_trials_do_not_begin_when_memory_has_gone_since_they_were_asked_for(tmp_path, caplog):
    class Hungry(Searcher):
        name, controls = "hungry", ()

        def decide(self, observation):
            if observation.step == 20:
                limit(STATE // 2)
            return ()

    loop, searcher = Heavy(), Searcher(at20=[probe(1e-1), probe(1e-2)])
    settings = {"policies": [searcher, Hungry()], "total_steps": 60, "rewinding": Rewinding(every=1000)}
    with memory_left() as limit, loop.tuner(tmp_path, **settings) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    trials = next(o for o in searcher.seen if o.trials).trials.values()
    assert [(trial.score, trial.spent, trial.kept) for trial in trials] == [(math.inf, 0, False)] * 2
    assert all("failed: a state takes 67.1 MB on cpu" in decision.note for decision in tuner.decisions)
    assert caplog.text.count("no trials") == 1
    assert tuner.step == 60
    assert same_as_without_trials(loop, 60)


def test_a_run_that_has_no_memory_for_a_snapshot_goes_on_without(tmp_path):
    loop = Heavy()
    with memory_left() as limit, loop.tuner(tmp_path, total_steps=30) as tuner:
        limit(STATE // 2)
        batches = tuner.batches(loop.loader)
        with pytest.warns(UserWarning, match="no snapshot of step 0: a state takes 67.1 MB on cpu"):
            tuner.report(loss=loop.step(next(batches)))
        for batch in batches:
            tuner.report(loss=loop.step(batch))
    assert tuner.step == 30
    assert not tuner.snapshots


@pytest.mark.parametrize("journal", [True, False])
def test_what_came_of_a_trial_is_evidence_in_numbers(tmp_path, journal):
    searcher = Searcher(at20=[probe(1e-2, cool=5), probe(1e3, steps=40, give_up=50.0)])
    _, tuner, _ = run(tmp_path, searcher, steps=100)
    sound, lost = next(o for o in searcher.seen if o.trials).trials.values()
    decisions = Journal.open(tmp_path).decisions() if journal else tuner.decisions
    one, two = (decision.action.evidence for decision in decisions)
    assert one == {"score": sound.score, "standard_error": sound.error, "steps": 20}
    assert two == {"score": None, "standard_error": None, "steps": lost.spent}


def test_a_trial_belongs_to_who_asked_for_it(tmp_path):
    class Thief(Searcher):
        name, controls = "thief", ()

    searcher, thief = Searcher(at10=[probe(1e-1), probe(1e-3)]), Thief()
    thief.decide = lambda observation: (
        [Adopt(max(observation.trials), reason="mine")] if observation.trials else []
    )
    loop = Loop()
    with loop.tuner(tmp_path, policies=[searcher, thief], total_steps=100) as tuner:
        for batch in tuner.batches(loop.loader):
            tuner.report(loss=loop.step(batch))
    (taken,) = (d for d in tuner.decisions if d.source == "thief")
    assert taken.status == "refused"
    assert "by who asked for it" in taken.note
