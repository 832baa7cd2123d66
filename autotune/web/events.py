"""Server-sent events: one look at a run, or at the list, serves all who watch it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

from ..commands import Ack
from .bodies import to_json
from .store import Store
from .tokens import Role

log = logging.getLogger("autotune")

LOOK_SECONDS = 0.5
HURRY_SECONDS, HURRY = 0.1, 5.0
"""How often is looked for so long after a command was posted: somebody waits for its answer."""
SILENCE_SECONDS = 15.0
"""After so long something is sent, so that a connection that is gone is noticed."""
CLIENTS = 100
"""Streams at once; at most half of them are those of onlookers."""
BEHIND = 100
"""A client that has not taken so many events is let go; it comes back and asks for all."""
OVERLAP_SECONDS = 5.0
"""Answers are written by other processes, not always in the order of their times."""

Look: TypeAlias = Callable[[], list[tuple[str, Any]]]
"""Events that have come up since the look before."""
Queue: TypeAlias = asyncio.Queue[str | None]


class Watch:
    """Looks at one thing, while somebody watches, and tells all who do."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._clients: set[Queue] = set()
        self._last: dict[str, str] = {}  # of each kind of event that says how something stands
        self._task: asyncio.Task[None] | None = None
        self._hurry_until = 0.0

    def join(self) -> Queue:
        """A queue of what is to be sent, which begins with how it stands; None at its end."""
        queue: Queue = asyncio.Queue(BEHIND)
        for event in self._last.values():
            queue.put_nowait(event)
        self._clients.add(queue)
        if self._task is None:
            self._task = asyncio.create_task(self._watch())
        return queue

    def leave(self, queue: Queue) -> bool:
        """Watch no more; returns whether nobody does."""
        self._clients.discard(queue)
        if not self._clients and self._task is not None:
            self._task.cancel()
            self._task = None
        return not self._clients

    def hurry(self) -> None:
        """Look more often for a while."""
        self._hurry_until = time.monotonic() + HURRY

    async def _watch(self) -> None:
        told = ""
        while True:
            events, trouble = [], ""
            try:
                events = await asyncio.to_thread(self._look)
            except Exception as error:  # whatever it is, the next look may find it gone
                trouble = str(error) or repr(error)
            if trouble and trouble != told:
                log.warning("the page goes on looking at what it cannot read now: %s", trouble)
            told = trouble
            for kind, document in events:
                text = f"event: {kind}\ndata: {to_json(document)}\n\n"
                if kind != "ack":
                    if self._last.get(kind) == text:
                        continue
                    self._last[kind] = text
                self._tell(text)
            hurried = time.monotonic() < self._hurry_until
            await asyncio.sleep(HURRY_SECONDS if hurried else LOOK_SECONDS)

    def _tell(self, text: str) -> None:
        for queue in [*self._clients]:
            if queue.full():
                self._dismiss(queue)
            else:
                queue.put_nowait(text)

    def dismiss(self) -> None:
        """Let all go."""
        for queue in [*self._clients]:
            self._dismiss(queue)

    def _dismiss(self, queue: Queue) -> None:
        self._clients.discard(queue)
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(None)


class Watches:
    """All that is watched: runs by name, and the list, whose name is empty."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watches: dict[str, Watch] = {}
        self._clients: Counter[Role] = Counter()

    def full(self, role: Role) -> bool:
        """Whether no more of this role can watch."""
        return self._clients.total() >= CLIENTS or (role == "read" and self._clients[role] >= CLIENTS // 2)

    def close(self) -> None:
        """End all streams."""
        for watch in [*self._watches.values()]:
            watch.dismiss()

    def hurry(self, run: str) -> None:
        """A command was posted to a run."""
        if run in self._watches:
            self._watches[run].hurry()

    async def stream(self, run: str, role: Role, admitted: Callable[[], bool]) -> AsyncIterator[str]:
        """What happens to a run, or to the list, until the client goes or is not `admitted` any more."""
        if self.full(role):  # many may have been let through at once
            return
        watch = self._watches.get(run)
        if watch is None:
            watch = self._watches[run] = Watch(self._list if not run else self._run(run))
        queue = watch.join()
        self._clients[role] += 1
        try:
            yield "retry: 1000\n\n"
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), SILENCE_SECONDS)
                except TimeoutError:
                    event = ":\n\n"
                if event is None or not admitted():
                    return
                yield event
        finally:
            self._clients[role] -= 1
            if watch.leave(queue) and self._watches.get(run) is watch:
                del self._watches[run]

    def _list(self) -> list[tuple[str, Any]]:
        return [("runs", {"runs": self._store.runs()})]

    def _run(self, name: str) -> Look:
        known: dict[str, Ack] | None = None
        newest = 0.0

        def look() -> list[tuple[str, Any]]:
            nonlocal known, newest
            view = self._store.view(name)
            found = {ack.command: ack for ack in view.mailbox.acks(max(0.0, newest - OVERLAP_SECONDS))}
            # Before the first look nobody was watching: who has sent a command then asks for its answer.
            fresh = [] if known is None else [ack for ack in found.values() if known.get(ack.command) != ack]
            known = found
            newest = max((newest, *(ack.time for ack in found.values())))
            answers: list[tuple[str, Any]] = [("ack", dataclasses.asdict(ack)) for ack in fresh]
            return [*answers, ("state", view.state())]

        return look
