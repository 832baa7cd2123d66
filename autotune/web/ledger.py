"""What was decided in a run, kept in memory: a look reads only what can have changed since the last."""

from __future__ import annotations

import bisect
import json
import threading
from collections import defaultdict
from typing import Any

from ..journal import Journal
from ..records import Comment, Decision, Outcome, TuneError
from ..runs import document

OPEN = 200
"""A decision changes only while it is among so many last ones: what a trial has found out is noted late."""


class Ledger:
    """The decisions of a run, oldest first; safe to use from several threads."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._decisions: list[Decision] = []
        self._reading = threading.Lock()

    def decisions(self) -> list[Decision]:
        """All of them, as they are now."""
        with self._reading:
            known = self._decisions[:-OPEN]
            added = self._journal.decisions(after=known[-1].id if known else 0)
            self._decisions = known + added
            return self._decisions

    def page(self, before: float | None, limit: int, search: str) -> dict[str, Any]:
        """Some of them, newest first, and whether there are more.

        Args:
            before: only those with a lower id; None: from the newest on.
            limit: how many at most.
            search: words that stand somewhere in each, whatever their case.
        """
        decisions, words = self.decisions(), {*search.casefold().split()}
        end = len(decisions) if before is None else bisect.bisect_left(decisions, before, key=lambda d: d.id)
        found: list[Decision] = []
        for decision in reversed(decisions[:end]):
            text = _text(decision) if words else ""
            if all(word in text for word in words):
                found.append(decision)
            if len(found) > limit:
                break
        outcomes = self._outcomes()
        shown = [document(decision, outcomes[decision.id]) for decision in found[:limit]]
        return {"decisions": shown, "more": len(found) > limit}

    def one(self, id: int) -> dict[str, Any]:
        """One decision, with what came of it and what people have said about it.

        Raises:
            TuneError: when there is none of this id.
        """
        decisions = self.decisions()
        place = bisect.bisect_left(decisions, id, key=lambda d: d.id)
        if place == len(decisions) or decisions[place].id != id:
            raise TuneError(f"a decision is named by its id, got {id}, which this run has not made")
        comments = [
            document(d, ())
            for d in decisions
            if isinstance(d.action, Comment) and d.action.decision == id and d.applied
        ]
        return {**document(decisions[place], self._outcomes()[id]), "comments": comments}

    def _outcomes(self) -> defaultdict[int, list[Outcome]]:
        found: defaultdict[int, list[Outcome]] = defaultdict(list)
        for outcome in self._journal.outcomes():
            found[outcome.decision].append(outcome)
        return found


def _text(decision: Decision) -> str:
    action = decision.action
    evidence = json.dumps(dict(action.evidence), ensure_ascii=False)
    words = (str(decision.id), str(decision.step), decision.source, decision.status, action.describe())
    return " ".join((*words, action.reason, decision.note, evidence)).casefold()
