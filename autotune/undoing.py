"""What can be taken back: how hyperparameters and the run stood before each decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .controls import Stand
from .memory import Target
from .records import HUMAN, TuneError

KEPT = 100
"""Decisions that can be taken back."""


@dataclass(frozen=True, slots=True)
class Before:
    """How it was before a decision of `source`; `target` is where a rewind has left."""

    source: str
    stands: Mapping[str, Stand]
    target: Target | None = None
    moved: Mapping[str, int] = field(default_factory=dict)
    rewound: int = 0


class Undoing:
    """Remembers what came before the last decisions, and which of them still stand."""

    def __init__(self) -> None:
        self._before: dict[int, Before] = {}
        self._moved: dict[str, int] = {}  # which decision has moved a hyperparameter last
        self._rewound = 0  # which has moved the run
        self._outgrown = 0  # which has, and the run is beyond where it left

    @property
    def target(self) -> Target | None:
        """Where the last rewind has left, while that can be taken back."""
        before = self._before.get(self._rewound)
        return None if before is None else before.target

    def remember(self, id: int, before: Before) -> Target | None:
        """A decision has been applied, and this is how it was; returns a state that is forgotten for it."""
        moved = {name: self._moved.get(name, 0) for name in before.stands}
        self._before[id] = Before(before.source, before.stands, before.target, moved, self._rewound)
        self._moved |= dict.fromkeys(before.stands, id)
        return self._before.pop(min(self._before)).target if len(self._before) > KEPT else None

    def rewound(self, id: int) -> None:
        """The run has been moved by this decision."""
        self._rewound = id

    def find(self, id: int | None) -> int:
        """The decision that is to be taken back; None: the last one.

        Raises:
            TuneError: when it cannot be.
        """
        if self._outgrown and (
            id == self._outgrown or (id is None and self._outgrown > max(self._before, default=0))
        ):
            raise TuneError(
                f"rewind {self._outgrown} stays: the run is beyond the step that it left; rewind once more"
            )
        if id is None:
            if not self._before:
                raise TuneError("nothing has been done by this process that could be undone")
            id = max(self._before)
        if id not in self._before:
            raise TuneError(
                f"what can be undone are the last {KEPT} changes of hyperparameters and a person's last "
                f"rewind, made by this process, got decision {id}"
            )
        if self._rewound > id:
            raise TuneError(f"the run has been rewound since decision {id}, by decision {self._rewound}")
        for name in self._before[id].stands:
            if self._moved[name] != id:
                later = self._moved[name]
                raise TuneError(f"decision {later} has changed {name} since decision {id}; undo that first")
        return id

    def check(self, id: int | None) -> None:
        """See that the run can go back to where it was before this decision.

        Raises:
            TuneError: when its data cannot come again.
        """
        before = self._before.get(id or 0)
        if before is not None and before.target is not None:
            before.target.check()

    def names(self, id: int) -> list[str]:
        """The hyperparameters that it has changed; none for what cannot be taken back."""
        return list(self._before[id].stands) if id in self._before else []

    def take(self, id: int) -> Before:
        """How it was before; what was done earlier can be taken back next."""
        before = self._before.pop(id)
        if before.target is not None:  # what has been done since the rewind is left behind with it
            for later in sorted((n for n in self._before if n > id), reverse=True):
                left = self._before.pop(later)
                if not left.source.startswith(HUMAN):  # what people hold, they go on holding
                    self._moved |= left.moved
        self._moved |= before.moved
        self._rewound = before.rewound if self._rewound == id else self._rewound
        return before

    def forget_target(self) -> Target | None:
        """The last rewind is not to be taken back any more; returns the state to let go of."""
        target = self.target
        if target is not None:
            del self._before[self._rewound]
            self._outgrown = self._rewound
        return target
