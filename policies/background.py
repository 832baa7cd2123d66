"""Work beside the training: a fit of some milliseconds for which no step waits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """Works something out in a thread of its own, ahead of the time at which it is needed.

    The work is a pure function of plain arguments. So an answer does not depend on when it was begun, or
    whether it was at all, and none of this is part of a policy's memory.
    """

    def __init__(self) -> None:
        self._begun: tuple[Any, Future[Any]] | None = None

    def begin(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Begin `work(*arguments)`; what was begun before is forgotten."""
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")
        self._begun = (work, arguments), executor.submit(work, *arguments)
        executor.shutdown(wait=False)  # its thread ends with the work

    def answer(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What `work(*arguments)` returns or raises: waits for it, or does it now if nobody has begun it."""
        begun, self._begun = self._begun, None
        if begun is not None and begun[0] == (work, arguments):
            return begun[1].result()
        return work(*arguments)
