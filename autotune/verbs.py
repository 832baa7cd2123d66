"""What a person may do to a run, as methods: the same for the training process and from anywhere else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from .actions import (
    Action,
    Approve,
    Arrange,
    Comment,
    Pause,
    Pin,
    Point,
    Ramp,
    Reject,
    Release,
    Schedule,
    Set,
    Shape,
    Stop,
    TuneError,
    Undo,
    Value,
)

Done = TypeVar("Done")
"""What says what has become of an action."""


class Verbs(ABC, Generic[Done]):
    """A method for each thing that a person does. Each takes who does it (`by`) and why (`reason`).

    Each raises TuneError, with the reason, when it is not done.
    """

    @abstractmethod
    def _do(self, action: Action, by: str | None) -> Done:
        """Have it done in the name of `by`; None: of whoever is known here."""

    def set(self, name: str, value: Value, *, by: str | None = None, reason: str = "") -> Done:
        """Set a hyperparameter and hold it: no policy changes it until `release`."""
        return self._do(Set(name, value, reason=reason), by)

    def ramp(
        self,
        name: str,
        value: float,
        steps: int,
        shape: Shape = "linear",
        *,
        by: str | None = None,
        reason: str = "",
    ) -> Done:
        """Move a hyperparameter from where it is to `value` over the next `steps` steps, and hold it."""
        return self._do(Ramp(name, value, steps, shape, reason=reason), by)

    def schedule(
        self,
        name: str,
        points: Sequence[tuple[int, float] | tuple[int, float, Shape]],
        *,
        from_now: bool = False,
        by: str | None = None,
        reason: str = "",
    ) -> Done:
        """Move a hyperparameter from where it is through these points, and hold it.

        Args:
            name: of the hyperparameter.
            points: step of the run (all ahead of the present one, rising), value, and the shape of the way
                to it, which is linear if not given.
            from_now: count the steps from the one at which this takes effect.
            by: who wants it.
            reason: why, for the record.
        """
        corners = tuple(_point(point) for point in points)
        return self._do(Schedule(name, corners, from_now, reason=reason), by)

    def pin(self, name: str, steps: int | None = None, *, by: str | None = None, reason: str = "") -> Done:
        """Hold a hyperparameter at its value for so many steps; None: until `release`."""
        return self._do(Pin(name, steps, reason=reason), by)

    def release(self, name: str, *, by: str | None = None, reason: str = "") -> Done:
        """Give a hyperparameter back to the policies, which go on from its value."""
        return self._do(Release(name, reason=reason), by)

    def pause(self, *, by: str | None = None, reason: str = "") -> Done:
        """Wait at the next step boundary until a person resumes or stops the run."""
        return self._do(Pause(reason=reason), by)

    def stop(self, *, by: str | None = None, reason: str = "") -> Done:
        """End the loop at the next step boundary."""
        return self._do(Stop(reason=reason), by)

    def undo(self, decision: int | None = None, *, by: str | None = None, reason: str = "") -> Done:
        """Take a decision back; None: the last one that can be."""
        return self._do(Undo(decision, reason=reason), by)

    def approve(self, decision: int, *, by: str | None = None, reason: str = "") -> Done:
        """Do what was suggested by this decision."""
        return self._do(Approve(decision, reason=reason), by)

    def reject(self, decision: int, *, by: str | None = None, reason: str = "") -> Done:
        """Turn a suggestion down."""
        return self._do(Reject(decision, reason=reason), by)

    def comment(self, decision: int, words: str, *, by: str | None = None) -> Done:
        """Say something about a decision, for the record."""
        return self._do(Comment(decision, reason=words), by)

    def arrange(self, policies: Sequence[str], *, by: str | None = None, reason: str = "") -> Done:
        """Ask these policies, in this order of precedence; the others are benched."""
        return self._do(Arrange(tuple(policies), reason=reason), by)


def _point(point: Any) -> Point:
    try:
        return Point(*point)
    except TypeError as error:
        raise TuneError(f"a point is (step, value) or (step, value, shape), got {point!r}") from error
