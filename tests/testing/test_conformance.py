"""The suite must let a sound policy pass, and find each fault by the check that is meant for it."""

import random
import re
import time

import numpy as np
import pytest

from autotune.records import Ramp, Set, Suggest
from autotune.testing import TrainingPlant, conformance

WAIT = 60


class Tidy:
    """Lowers the rate by a fifth when the loss falls no more; does everything as it should be done."""

    name = "tidy"
    requires = ("loss",)
    controls = ("lr",)

    def __init__(self):
        self.acted = 0
        self.wait = 0

    def decide(self, observation):
        if any(d.source == self.name and not d.applied for d in observation.decisions):
            self.wait = observation.spent + WAIT
        loss = observation.signals.get("loss")
        if loss is None or observation.spent < self.wait:
            return ()
        return self.judge(observation, loss.value[(loss.spent > self.acted) & np.isfinite(loss.value)])

    def judge(self, observation, values):
        rate = observation.hyperparameters["lr"]
        if len(values) < WAIT or rate.owner != "policy" or rate.ramp_until is not None:
            return ()
        self.acted = observation.spent
        before, now = values[-WAIT : -WAIT // 2].mean(), values[-WAIT // 2 :].mean()
        target = max(rate.low, 0.8 * rate.value)
        if now < 0.9 * before or target == rate.value:
            return ()
        return self.act(observation, target, {"before": before, "now": now})

    def act(self, observation, target, evidence):
        return [Set("lr", target, reason="the loss falls no more", evidence=evidence)]

    def state_dict(self):
        return {"acted": self.acted, "wait": self.wait}

    def load_state_dict(self, state):
        self.acted, self.wait = state["acted"], state["wait"]


def violations(make, checks):
    """What each check says of a policy, on one plant, on which it acts."""
    said = {}
    for check in checks:
        try:
            check(make, TrainingPlant)
        except conformance.Violation as violation:
            said[check.__name__] = str(violation)
    return said


@pytest.mark.parametrize("check", conformance.CHECKS)
def test_a_sound_policy_passes(check):
    check(Tidy)


# --- one fault each ----------------------------------------------------------------------------------------


class Memoryless:
    name, requires, controls = "memoryless", (), ()

    def decide(self, observation):
        return ()

    def state_dict(self):
        return {}


class Letters(Tidy):
    requires = "loss"


class Colon(Tidy):
    name = "human:tidy"


class Growing(Tidy):
    made = 0

    def __init__(self):
        super().__init__()
        Growing.made += 1
        self.controls = ("lr",) if Growing.made % 2 else ("lr", "dropout")


class Raises(Tidy):
    def act(self, observation, target, evidence):
        raise ZeroDivisionError("division by zero")


class Nothing(Tidy):
    def act(self, observation, target, evidence):
        return None


class Words(Tidy):
    def act(self, observation, target, evidence):
        return ["lower the rate"]


class Idle(Tidy):
    def act(self, observation, target, evidence):
        return ()


class NumPyState(Tidy):
    def state_dict(self):
        return {"acted": np.int64(self.acted), "wait": self.wait}


class IntegerKeys(Tidy):
    def state_dict(self):
        return {0: self.acted, 1: self.wait}

    def load_state_dict(self, state):
        self.acted, self.wait = state[0], state[1]


class NotANumber(Tidy):
    def state_dict(self):
        return {**super().state_dict(), "best": float("nan")}


class Forgetful(Tidy):
    def state_dict(self):
        return {"wait": self.wait}

    def load_state_dict(self, state):
        self.wait = state["wait"]


class OfTheClass(Tidy):
    made = 0

    def act(self, observation, target, evidence):
        OfTheClass.made += 1
        return super().act(observation, target, {**evidence, "decision": OfTheClass.made})


class Clock(Tidy):
    def __init__(self):
        super().__init__()
        self.last = time.monotonic()

    def act(self, observation, target, evidence):
        patience, self.last = time.monotonic() > self.last + 10, time.monotonic()
        return () if patience else super().act(observation, target, evidence)


class Dice(Tidy):
    def act(self, observation, target, evidence):
        return super().act(observation, target * np.random.default_rng().uniform(1, 1.1), evidence)


class GlobalDice(Tidy):
    def act(self, observation, target, evidence):
        return super().act(observation, target * random.uniform(1, 1.1), evidence)


class GlobalNumPyDice(Tidy):
    def act(self, observation, target, evidence):
        return super().act(observation, target * np.random.uniform(1, 1.1), evidence)


class Presumes(Tidy):
    def judge(self, observation, values):
        observation.signals["loss"], observation.signals["gradient_norm"]
        return super().judge(observation, values)


class PresumesAtLast(Tidy):
    def act(self, observation, target, evidence):
        dropout = observation.hyperparameters["dropout"].value
        return super().act(observation, target, {**evidence, "dropout": dropout})


class Hasty(Tidy):
    def decide(self, observation):
        observation.signals["loss"]
        return super().decide(observation)


class HastyLater(Tidy):
    def decide(self, observation):
        if observation.step:
            observation.signals["loss"]
        return super().decide(observation)


class LastValue(Tidy):
    def decide(self, observation):
        if "loss" in observation.signals:
            observation.signals["loss"].value[-1]
        return super().decide(observation)


class NeedsSnapshots(Tidy):
    def act(self, observation, target, evidence):
        return super().act(observation, target, {**evidence, "oldest": observation.snapshots[0].step})


class BlindToNaN(Tidy):
    def decide(self, observation):
        loss = observation.signals.get("loss")
        self.level = 0 if loss is None or not len(loss) else int(1000 * loss.last)
        return super().decide(observation)


class HandsOnNaN(Tidy):
    def act(self, observation, target, evidence):
        return super().act(observation, target, {**evidence, "last": observation.signals["loss"].last})

    def judge(self, observation, values):
        return super().judge(observation, np.append(values, [1.0] * (observation.spent - self.acted)))


class NeedsBudget(Tidy):
    def act(self, observation, target, evidence):
        return super().act(observation, target, {**evidence, "left": observation.remaining / 2})


class Counts(Tidy):
    def __init__(self):
        super().__init__()
        self.count = 0

    def decide(self, observation):
        loss = observation.signals.get("loss")
        if loss is not None and len(loss):
            loss.value[self.count - 1]
            self.count = len(loss)
        return super().decide(observation)

    def state_dict(self):
        return {**super().state_dict(), "count": self.count}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.count = state["count"]


class Sorts(Tidy):
    def decide(self, observation):
        actions = super().decide(observation)
        if actions:
            observation.signals["loss"].value.sort()
        return actions


class Takes(Tidy):
    def decide(self, observation):
        actions = super().decide(observation)
        observation.hyperparameters.pop("lr")
        return actions


class Unbounded(Tidy):
    def act(self, observation, target, evidence):
        return super().act(observation, 0.8 * observation.hyperparameters["lr"].value, evidence)

    def judge(self, observation, values):
        rate = observation.hyperparameters["lr"]
        if rate.value == rate.low and len(values) >= WAIT and rate.owner == "policy":
            self.acted = observation.spent
            return self.act(observation, 0.0, {})
        return super().judge(observation, values)


class SetsNaN(Tidy):
    def act(self, observation, target, evidence):
        return super().act(observation, float("nan"), evidence)


class DividesByTheRoom(Tidy):
    def judge(self, observation, values):
        rate = observation.hyperparameters["lr"]
        1 / (rate.value - rate.low)
        return super().judge(observation, values)


class Reaches(Tidy):
    def act(self, observation, target, evidence):
        return [Set("dropout", 0.1, reason="a try", evidence=evidence)]


class Advises(Tidy):
    def act(self, observation, target, evidence):
        return [Suggest(Set("dropout", 0.1, reason="a try"), reason="a try", evidence=evidence)]


class Silent(Tidy):
    def act(self, observation, target, evidence):
        return [Set("lr", target, reason=" ", evidence=evidence)]


class Infinite(Tidy):
    def act(self, observation, target, evidence):
        return super().act(observation, target, {**evidence, "ratio": float("inf")})


class Lists(Tidy):
    def act(self, observation, target, evidence):
        return super().act(observation, target, {"window": [1.0, 2.0]})


class Grabs(Tidy):
    def judge(self, observation, values):
        rate = observation.hyperparameters["lr"]
        if rate.owner != "policy" and len(values) >= WAIT:
            self.acted = observation.spent
            return self.act(observation, 0.8 * rate.value, {})
        return super().judge(observation, values)


class Nags(Tidy):
    def decide(self, observation):
        self.acted = max([self.acted, *(d.spent for d in observation.decisions if d.applied)])
        loss, acted = observation.signals.get("loss"), self.acted
        if loss is None:
            return ()
        actions = self.judge(observation, loss.value[(loss.spent > acted) & np.isfinite(loss.value)])
        if actions:
            self.acted = acted
        return actions


class Restless(Tidy):
    def judge(self, observation, values):
        rate = observation.hyperparameters["lr"]
        target = max(rate.low, 0.999 * rate.value)
        if not len(values) or rate.owner != "policy" or target == rate.value:
            return ()
        self.acted = observation.spent
        return self.act(observation, target, {})


class ToAndFro(Tidy):
    def __init__(self):
        super().__init__()
        self.up = False

    def judge(self, observation, values):
        rate = observation.hyperparameters["lr"]
        if len(values) < 40 or rate.owner != "policy":
            return ()
        self.acted, self.up = observation.spent, not self.up
        target = min(max(rate.value * (2.0 if self.up else 0.5), rate.low), rate.high)
        return () if target == rate.value else self.act(observation, target, {})

    def state_dict(self):
        return {**super().state_dict(), "up": self.up}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.up = state["up"]


class Twice(Tidy):
    def __init__(self):
        super().__init__()
        self.again = 0.0

    def decide(self, observation):
        actions = super().decide(observation)
        rate = observation.hyperparameters["lr"]
        if self.again and not actions and self.wait <= observation.spent and rate.owner == "policy":
            target, self.again = max(rate.low, 0.8 * rate.value), 0.0
            return () if target == rate.value else [Ramp("lr", target, 5, reason="once more")]
        self.again = 1.0 if actions else 0.0
        return actions

    def state_dict(self):
        return {**super().state_dict(), "again": self.again}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.again = state["again"]


class Slow(Tidy):
    def decide(self, observation):
        loss = observation.signals.get("loss")
        if loss is not None:
            self.mean = sum(value for value in loss.value) + sum(value**2 for value in loss.value)
        return super().decide(observation)


class Same:
    policy = Tidy()


FAULTS = [
    (Memoryless, "protocol", "without load_state_dict.*Write what is missing"),
    (lambda: Same.policy, "protocol", r"the same object twice\. Pass what makes it"),
    (Letters, "protocol", "requires is a sequence of different names; got 'loss'"),
    (Colon, "protocol", "got 'human:tidy'"),
    (Growing, "protocol", r"controls is the same.*Derive it from the constructor's arguments"),
    (Raises, "runs", r"ZeroDivisionError: division by zero at step \d+ of the plant given"),
    (Nothing, "runs", r"TypeError.*Return \(\)"),
    (Words, "runs", "a sequence of actions, got .'lower the rate'"),
    (Idle, "acts", r"no action in the plant given\. Pass plant="),
    (NumPyState, "plain_memory", r"TypeError: .*int64.*call float\(\) on"),
    (IntegerKeys, "plain_memory", "KeyError.*dicts with string keys"),
    (NotANumber, "plain_memory", "ValueError.*None instead of NaN"),
    (Forgetful, "resume", r"not restored: acted\).*Put all that decide remembers into state_dict"),
    (OfTheClass, "repeats", "keep no memory in the class"),
    (Clock, "repeats", "nothing more the second time.*Count steps instead of reading a clock"),
    (Dice, "repeats", "seed generators and keep their state"),
    (GlobalDice, "undisturbing", "draws from that of random in .*Use np.random.default_rng"),
    (GlobalNumPyDice, "undisturbing", "draws from that of numpy.random"),
    (Presumes, "required", "gradient_norm read without being asked for.*Name it in requires"),
    (PresumesAtLast, "required", "KeyError: 'dropout'"),
    (Hasty, "runs", "KeyError: 'loss' at step 0"),
    (HastyLater, "unmeasured", "KeyError: 'loss' at step 10 .*return .. while there is none"),
    (LastValue, "unmeasured", "IndexError"),
    (NeedsSnapshots, "unmeasured", "IndexError"),
    (BlindToNaN, "nonfinite", "cannot convert float .* with values that are lost.*np.isfinite"),
    (HandsOnNaN, "nonfinite", "'last': (nan|inf)"),
    (NeedsBudget, "no_budget", "TypeError: .*NoneType.*Test for None"),
    (Counts, "rewound", "IndexError.*Keep values of spent"),
    (Sorts, "hands_off", r"the signal loss changed by decide at step \d+.*np.sort"),
    (Takes, "hands_off", "hyperparameters changed by decide"),
    (Unbounded, "bounds", "started at its low bound.*Clamp to low and high"),
    (SetsNaN, "bounds", "lr → nan, where"),
    (DividesByTheRoom, "bounds", "ZeroDivisionError.*started at its low bound.*Guard"),
    (Reaches, "declared", r"dropout → 0.1 in .*controls is \['lr'\].*Add 'dropout'"),
    (Advises, "declared", "suggest dropout → 0.1"),
    (Silent, "explained", "without a reason.*Give reason="),
    (Infinite, "explained", "'ratio': inf of type float.*leave it out"),
    (Lists, "explained", "'window': .* of type list"),
    (Grabs, "held", 'held by human:ada.*owner != "policy"'),
    (Nags, "patient", "at 3 ticks in a row.*Look for refusals in observation.decisions"),
    (Restless, "settles", r"actions at \d+ of the last \d+ ticks.*one Ramp instead of many Sets"),
    (ToAndFro, "steady", "lr moved to and fro 4 times in a row"),
    (Twice, "once", "right after an action of its own.*Remember signal.spent"),
    (Slow, "fast", "times what a loop of about a millisecond takes.*Look at a window"),
]


@pytest.mark.parametrize(
    ("make", "check", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_each_fault_is_found_by_the_check_that_is_meant_for_it(make, check, message):
    one = next(other for other, meant, _ in FAULTS if meant == check)  # on which the others have to be silent
    said = violations(make, conformance.CHECKS if make is one else [getattr(conformance, check)])
    assert list(said) == [check], said
    assert re.search(message, said[check])
