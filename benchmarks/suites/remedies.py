"""What people did when a run went wrong, as an arm: a fixed recipe, applied with hindsight."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from .results import Config
from .run import Run


@dataclass(frozen=True, slots=True)
class Remedy:
    """A constant rate, and the workload's own recipes (`faults.Recipe`) when their time has come.

    Steps that a restart throws away have been spent. Where nothing goes wrong it is a constant rate.
    """

    name: str = "remedy"
    uses_rate: bool = True
    decides: bool = True

    def train(self, run: Run, start: Config) -> None:
        """See `Arm.train`."""
        optimizer = run.start(start.rate)
        recipes = list(getattr(run.batches, "hindsight", None) or ())
        parts: list[Any] = [run.model, optimizer, *run.stateful().values()]
        kept: list[Any] = []
        for number, batch in enumerate(run.endless()):
            if recipes and number == recipes[0].restart:
                kept = [copy.deepcopy(part.state_dict()) for part in parts]
            if recipes and number == recipes[0].noticed:
                recipe = recipes.pop(0)
                for part, state in zip(parts, kept, strict=True):
                    part.load_state_dict(state)
                for group in optimizer.param_groups:
                    group["lr"] *= recipe.rate
                    if recipe.beta2 is not None:
                        group["betas"] = (group["betas"][0], recipe.beta2)
            run.train(batch)
            run.look()
            if run.destroyed and not recipes:
                return
