"""A member of a population: a training that can be stopped, stored and continued elsewhere."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch

from .statistics import capped
from .tried import SEARCH_SEED
from .workload import Workload


class Member:
    """A training whose state can be handed on to another one, which goes on with other settings.

    All members have the same seed, so that after as many steps they have seen the same batches; those of
    reinforcement learning have not, for what an environment gives depends on who acts in it.
    """

    def __init__(self, workload: Workload, device: torch.device) -> None:
        self.workload, self.device = workload, device
        self.begin()

    def begin(self) -> None:
        """Go back to the first step."""
        self.steps = 0
        self.pieces: list[tuple[float, float, float]] = []
        self._training = self.workload.begin(SEARCH_SEED, self.device)
        self._optimizer = self._training.optimizer(self.workload.rate)
        self._batches = itertools.chain.from_iterable(itertools.repeat(self._training.batches))
        self.curve = [(0.0, self._training.evaluate("selection"))]

    def advance(self, until: int, rate: float, weight_decay: float) -> None:
        """Train up to a step of the run.

        Args:
            until: the step.
            rate: of all groups.
            weight_decay: of all groups that have one.
        """
        if not self.pieces or self.pieces[-1][1:] != (rate, weight_decay):
            self.pieces.append((self.steps / self.workload.steps, rate, weight_decay))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
            if "weight_decay" in group:
                group["weight_decay"] = weight_decay
        for batch in itertools.islice(self._batches, until - self.steps):
            self._training.update(self._training.loss(batch), self._optimizer)
        self.steps = until
        self.curve.append((float(until), capped(self._training.evaluate("selection"), self.curve[0][1])))

    def save(self, path: Path) -> None:
        """Write what `load` needs to go on as if nothing had happened."""
        parts = {name: part.state_dict() for name, part in self._stateful().items()}
        state = {
            "steps": self.steps,
            "pieces": self.pieces,
            "curve": self.curve,
            "parts": parts,
            "generator": torch.get_rng_state(),
            "device generator": self._device_generator(),
        }
        torch.save(state, path)

    def load(self, path: Path) -> None:
        """Continue from a state that `save` has written."""
        state = torch.load(path, map_location="cpu")
        if self.steps > state["steps"]:
            self.begin()
        for _ in itertools.islice(self._batches, state["steps"] - self.steps):
            pass  # the order of the data has to move on
        self.steps, self.pieces, self.curve = state["steps"], state["pieces"], state["curve"]
        for name, part in self._stateful().items():
            part.load_state_dict(state["parts"][name])
        torch.set_rng_state(state["generator"])
        if state["device generator"] is not None:
            torch.cuda.set_rng_state(state["device generator"], self.device)

    def _stateful(self) -> dict[str, Any]:
        return {"model": self._training.model, "optimizer": self._optimizer, **self._training.stateful()}

    def _device_generator(self) -> torch.Tensor | None:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
