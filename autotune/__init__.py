"""A closed-loop tuner for PyTorch training runs: one run instead of a sweep.

Start at `AutoTuner`; hyperparameters come from `autotune.actuators`, policies from `autotune.policies`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .hyperparameters import Actuator, CategoricalHyperparameter, FloatHyperparameter, IntHyperparameter
    from .memory import Restored, Rewinding
    from .records import Decision, Observation, Policy, Signal, TuneError
    from .remote import Remote, connect
    from .supervisor import Limits
    from .tuner import AutoTuner

__all__ = [
    "Actuator",
    "AutoTuner",
    "CategoricalHyperparameter",
    "Decision",
    "FloatHyperparameter",
    "IntHyperparameter",
    "Limits",
    "Observation",
    "Policy",
    "Remote",
    "Restored",
    "Rewinding",
    "Signal",
    "TuneError",
    "connect",
]

_HOMES = {
    "hyperparameters": ("Actuator", "CategoricalHyperparameter", "FloatHyperparameter", "IntHyperparameter"),
    "memory": ("Restored", "Rewinding"),
    "records": ("Decision", "Observation", "Policy", "Signal", "TuneError"),
    "remote": ("Remote", "connect"),
    "supervisor": ("Limits",),
    "tuner": ("AutoTuner",),
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # Imported when asked for: the command line and the delivery of records need no torch.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
