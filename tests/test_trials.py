"""Trials: from one state, on the same batches, and back, to the bit."""

import math

import pytest
import torch
from loops import Loop

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


def test_at_most_four_states_are_kept_the_best_ones(tmp_path):
    rates = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 3e-2)
    searcher = Searcher(at20=[probe(rate) for rate in rates])
    run(tmp_path, searcher, steps=200)
    trials = next(o for o in searcher.seen if o.trials).trials.values()
    scores = sorted(trial.score for trial in trials)
    assert sorted(trial.score for trial in trials if trial.kept) == scores[:4]


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (probe(1e-2, steps=90), "does not fit into the 80"),
        (probe(1e-2, after=99), "got 99; kept are: none"),
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
