"""The run's two clocks: `step` repeats after a rewind, `spent` only grows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Clock:
    """Counts optimizer steps.

    Args:
        total_steps: optimizer steps the run may spend, rewound ones included; None: no limit.
        step: the plant's clock.
        spent: every optimizer step ever taken.
        branch: 0 at the start; one more with each rewind.
        lost: steps that a crash took away and that are spent again; they extend the budget.
    """

    total_steps: int | None
    step: int = 0
    spent: int = 0
    branch: int = 0
    lost: int = 0

    @property
    def budget(self) -> int | None:
        """The largest `spent` there will be."""
        return None if self.total_steps is None else self.total_steps + self.lost

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.budget is not None and self.spent >= self.budget
