"""The run's two clocks, `step` and `spent`, and the way that the live branch has come."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Clock:
    """Counts optimizer steps; `step` repeats after a rewind, `spent` only grows.

    Args:
        total_steps: optimizer steps the run may spend, rewound ones included; None: no limit.
        step: the plant's clock.
        spent: every optimizer step ever taken.
        branch: 0 at the start; one more with each rewind.
        lost: steps that a crash took away and that are spent again; they extend the budget.
        stretches: (step, spent) at which each stretch of the live branch began, oldest first.
    """

    total_steps: int | None
    step: int = 0
    spent: int = 0
    branch: int = 0
    lost: int = 0
    stretches: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])

    @property
    def budget(self) -> int | None:
        """The largest `spent` there will be."""
        return None if self.total_steps is None else self.total_steps + self.lost

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.total_steps is not None and self.spent >= self.total_steps + self.lost

    def advance(self) -> None:
        """The optimizer has stepped."""
        self.step += 1
        self.spent += 1

    def live(self, step: int, spent: int) -> bool:
        """Whether the state that was reached at `step` and `spent` lies on the live branch."""
        ends = [*(start for start, _ in self.stretches[1:]), self.step]
        return any(
            first <= step <= end and spent == begun + step - first
            for (first, begun), end in zip(self.stretches, ends, strict=True)
        )

    def rewind(self, step: int, spent: int, stretches: list[tuple[int, int]]) -> None:
        """Go on from the state at `step` and `spent` of the branch that `stretches` describes."""
        self.stretches = [*(s for s in stretches if s[0] < step or s[1] <= spent), (step, self.spent)]
        self.step = step
        self.branch += 1
