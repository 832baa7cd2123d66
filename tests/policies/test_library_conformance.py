"""Every policy of the library holds to every rule of the conformance suite."""

import importlib
import inspect
import pkgutil

import pytest

from autotune import policies
from autotune.hyperparameters import IntHyperparameter
from autotune.policies import Plateau
from autotune.policies.wrappers import Wrapper
from autotune.testing import Task, TrainingPlant, conformance

MODULES = [
    importlib.import_module(f"autotune.policies.{module.name}")
    for module in pkgutil.iter_modules(policies.__path__)
]


def library():
    """Every class that decides and every schedule, by name."""
    found = {}
    for module in MODULES:
        for name, thing in vars(module).items():
            own = getattr(thing, "__module__", None) == module.__name__ and not name.startswith("_")
            decides = inspect.isclass(thing) and hasattr(thing, "decide") and not inspect.isabstract(thing)
            schedule = inspect.isfunction(thing) and module.__name__.endswith(".schedules")
            if own and (decides or schedule):
                found[name] = thing
    return found


LIBRARY = library()


def wraps(thing):
    return inspect.isclass(thing) and issubclass(thing, Wrapper)


def made(name, *arguments, **named):
    return lambda: LIBRARY[name](*arguments, **named)


REPLAYED = {
    "version": 1,
    "steps": 500,
    "hyperparameters": {"lr": [{"step": 0, "value": 0.05}, {"step": 300, "value": 0.01}]},
}
# What cannot be made without arguments, or needs some to have anything to do.
MADE = {
    "CapacityAdvisor": made("CapacityAdvisor", target=0.01),
    "EntropyTarget": made("EntropyTarget", target=0.5),
    "Replay": made("Replay", REPLAYED),
    "Schedule": lambda: LIBRARY["linear"](steps=400, name="schedule"),
    "constant": made("constant", warm_up=100),
    "inverse_sqrt": made("inverse_sqrt", warm_up=50),
    "one_cycle": lambda: LIBRARY["one_cycle"]()[0],
    "Wrapper": lambda: LIBRARY["Wrapper"](Plateau()),
    "IfThere": lambda: LIBRARY["IfThere"](Plateau()),
    "Patience": lambda: LIBRARY["Patience"](Plateau(), 2),
    "Cooldown": lambda: LIBRARY["Cooldown"](Plateau(), 50),
    "OnlyBetween": lambda: LIBRARY["OnlyBetween"](Plateau(), 100, 500),
    "WarmUp": lambda: LIBRARY["WarmUp"](Plateau(), 100),
    "EveryN": lambda: LIBRARY["EveryN"](Plateau(), 3),
    "Limit": lambda: LIBRARY["Limit"](Plateau(), 2),
}


def healthy():
    return TrainingPlant(Task(optimizer="adam", rate=0.02))


def diverging():
    return TrainingPlant(Task(optimizer="sgd", rate=30.0))


# What does not look at the plant's values does the same on each of the suite's five.
BLIND = ("AutoLRS", "BayesianSearch", "EntropyTarget", "KLAdaptiveRate", "KLPenalty", "HoldAndTail", "Replay")
# Where the policy has something to do within 600 steps, if the suite's own plants are no such place; and one
# plant where one shows all.
PLANTS = {
    **dict.fromkeys((*BLIND, "Schedule", *filter(str.islower, LIBRARY)), healthy),
    **{name: diverging for name, thing in LIBRARY.items() if wraps(thing)},  # a plateau acts most there
    "ProgressiveUnfreezing": lambda: started(TrainingPlant(pretrained=0.3, rate=0.3), "frozen_layers", 2),
    "TimeVaryingBandit": lambda: TrainingPlant(Task(rate=0.01, noise=0.1, loss_noise=0.02, seed=3)),
    "NoiseScale": lambda: accumulating(TrainingPlant(noise=1.0, rate=0.3)),
}


def started(plant, name, value):
    next(p for p in plant.hyperparameters if p.name == name).write(value)
    return plant


def accumulating(plant):
    accumulation = IntHyperparameter("gradient_accumulation", 1, low=1, high=64)
    plant.hyperparameters = [*plant.hyperparameters, accumulation]
    return plant


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_it_conforms(name):
    conformance.check(MADE.get(name, LIBRARY[name]), PLANTS.get(name))


def test_all_that_is_exported_is_checked():
    exported = {name: getattr(policies, name) for name in policies.__all__}
    assert {n for n, thing in exported.items() if hasattr(thing, "decide")} <= LIBRARY.keys()
