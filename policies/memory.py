"""What policies share: a memory by names, and what to notice in an observation."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from autotune.records import HUMAN, Adopt, Decision, HyperparameterState, Observation, Ramp, Rewind, Set

RETRY = 20  # steps after which a refused change may be asked for again


class Remembering:
    """Keeps the attributes that a policy names in `MEMORY`, with plain JSON values, across a resume.

    There is no default: a policy without memory says `MEMORY = ()`.
    """

    MEMORY: ClassVar[tuple[str, ...]]

    def state_dict(self) -> dict[str, Any]:
        """See `Policy.state_dict`."""
        return {name.lstrip("_"): copy.deepcopy(getattr(self, name)) for name in self.MEMORY}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Policy.load_state_dict`."""
        for name in self.MEMORY:
            setattr(self, name, copy.deepcopy(state[name.lstrip("_")]))


def free(hyperparameter: HyperparameterState) -> bool:
    """Whether a policy may move it now: nobody holds it, and no ramp is moving it."""
    return hyperparameter.owner == "policy" and hyperparameter.ramp_until is None


def refused(observation: Observation, source: str) -> bool:
    """Whether something that `source` asked for last time was not done."""
    return any(d.source == source and not d.applied for d in observation.decisions if d.status != "suggested")


def disturbed(observation: Observation, source: str, hyperparameter: str) -> bool:
    """Whether anyone else has moved the hyperparameter or rewound the run since `source` was last asked."""
    return any(d.applied and d.source != source and moves(d, hyperparameter) for d in observation.decisions)


def moves(decision: Decision, hyperparameter: str) -> bool:
    """Whether a decision moves the hyperparameter; another state has another value, too.

    Whatever a person does with it counts: the window of a policy begins anew when it has it back.
    """
    action = decision.action
    if isinstance(action, Rewind | Adopt):
        return True
    if decision.source.startswith(HUMAN):
        return hyperparameter in decision.after
    return isinstance(action, Set | Ramp) and action.name == hyperparameter
