"""One run as the page sees it: plain JSON values, read again only when its journal has changed."""

from __future__ import annotations

import dataclasses
import threading
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from .. import journal_database, places
from .. import journal_tables as tables
from ..commands import mailbox
from ..delivery import run_link
from ..journal import Journal
from ..places import DatabaseRun, Place
from ..records import Approve, Decision, Reject, Suggest
from ..runs import Knob, arrived, document, stand, values
from . import reading
from .ledger import Ledger
from .series import Axis, Column, Rows, completed, parts

LOSS, VALIDATION = "loss", "validation/loss"
SPARK = 60


class View:
    """Reads one run; safe to use from several threads.

    Args:
        place: where the run is.

    Raises:
        TuneError: when there is no journal there, or one that cannot be read.
    """

    def __init__(self, place: Place) -> None:
        self.name = place.name
        self.journal = Journal.open(place)
        self.mailbox = mailbox(place)
        self.ledger = Ledger(self.journal)
        record = places.place_of(place)
        self._in_database = isinstance(record, DatabaseRun)
        self._engine = (
            journal_database.connect(record)
            if isinstance(record, DatabaseRun)
            else tables.connect(record / tables.FILE)
        )
        self._columns: dict[str, Column] = {}
        self._reading = threading.Lock()

    def close(self) -> None:
        """Let go of the run's store."""
        self.journal.close()
        self.mailbox.close()
        self._engine.dispose()

    @property
    def nbytes(self) -> int:
        """The memory that its curves take."""
        return sum(column.nbytes for column in list(self._columns.values()))

    def forget(self) -> None:
        """Let go of its curves."""
        self._columns.clear()

    def state(self) -> dict[str, Any]:
        """How far it has come; cheap enough to be asked twice a second."""
        live = self.journal.meta().get("live", {})
        now = self._position(live)
        return {
            "status": self.journal.status(),
            "paused": bool(live.get("paused")),
            "step": now.step,
            "spent": now.spent,
            "last_decision": now.decision,
            "metrics": now.metric,
            "revision": zlib.crc32(f"{now.outcome} {now.revision} {live}".encode()),
        }

    def _position(self, live: Mapping[str, Any]) -> reading.Position:
        now = reading.position(self._engine)
        step, spent = arrived(live, now.step, now.spent)
        return now._replace(step=step, spent=spent)

    def listed(self) -> dict[str, Any]:
        """Its line in the list of runs."""
        meta = self.journal.meta()
        live = meta.get("live", {})
        now = self._position(live)
        decision = self.journal.decision(now.decision) if now.decision else None
        last = values(live, self.journal.newest(now.step))
        return {
            **self._standing(meta, now),
            "loss": last.get(LOSS),
            "validation": last.get(VALIDATION),
            "spark": reading.sample(self._engine, LOSS, SPARK),
            "last": decision
            and {
                "id": decision.id,
                "source": decision.source,
                "text": decision.action.describe(),
                "status": decision.status,
                "step": decision.step,
            },
        }

    def document(self) -> dict[str, Any]:
        """All that its own page shows, but for curves and decisions."""
        meta = self.journal.meta()
        live = meta.get("live", {})
        now = self._position(live)
        last = {row.name: row for row in self.journal.newest()}
        decisions = self.ledger.decisions()
        standing = self._standing(meta, now)
        return {
            **standing,
            "versions": meta.get("versions", {}),
            "last": values(live, self.journal.newest(now.step)),
            "signals": list(last),
            "hyperparameters": [
                {"name": name, **facts, **_knob(stand(name, facts, live, now.step, last, decisions))}
                for name, facts in meta["hyperparameters"].items()
            ],
            "policies": [
                {"name": name, "benched": live.get("benched", {}).get(name)}
                for name in live.get("policies", meta["policies"])
            ],
            "checkpoints": self._checkpoints(meta),
            "stretches": live.get("stretches", [[0, 0]]),
            "suggestions": [document(d, ()) for d in unanswered(decisions)],
            "mlflow": self._mlflow(meta),
            "trying": standing["status"] == "running" and bool(live.get("trying")),
            "last_decision": now.decision,
        }

    def series(
        self, names: Sequence[str], axis: Axis, start: float | None, end: float | None, pixels: int
    ) -> dict[str, list[dict[str, Any]]]:
        """Metrics as pieces of line; see `series.parts`. A name that was never recorded has none."""
        stretches = self.journal.meta().get("live", {}).get("stretches", [[0, 0]])
        whole = completed([(step, spent) for step, spent in stretches], self.rows(LOSS))
        return {name: parts(self.rows(name), whole, axis, start, end, pixels) for name in names}

    def rows(self, name: str) -> Rows:
        """All rows of a metric: those that are known, and what was written since."""
        with self._reading:
            column = self._columns.get(name) or Column()
            added = reading.rows(self._engine, name, column.last)
            if len(added):  # names that there are not leave nothing behind
                column.extend(added)
                self._columns[name] = column
            return column.rows

    def _standing(self, meta: Mapping[str, Any], now: reading.Position) -> dict[str, Any]:
        return {
            "name": self.name,
            "status": self.journal.status(),
            "paused": bool(meta.get("live", {}).get("paused")),
            "created": meta["created"],
            "step": now.step,
            "spent": now.spent,
            "total_steps": meta["total_steps"],
            "branch": now.branch,
        }

    def _checkpoints(self, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
        if self._in_database:
            return list(meta.get("checkpoints", ()))
        return [dataclasses.asdict(one) for one in places.saved(self.journal.folder)]

    def _mlflow(self, meta: Mapping[str, Any]) -> str | None:
        """A link into MLflow where it is a server, else the command that opens it."""
        target = meta.get("mlflow")
        if target is None:
            return None
        if not target["tracking_uri"].startswith(("http://", "https://")):
            return f"autotune mlflow {self.name}"
        run = self.journal.delivered().get("run")
        return run and run_link(target["tracking_uri"], run["experiment_id"], run["run_id"])


def _knob(knob: Knob) -> dict[str, Any]:
    return {
        "value": knob.value,
        "owner": knob.owner,
        "pinned_until": knob.pinned_until,
        "ramp": knob.ramp
        and {
            "source": knob.ramp.source,
            "start": knob.ramp.start,
            "first": knob.ramp.parts[0].first,
            "points": [[part.end, part.last, part.shape] for part in knob.ramp.parts],
        },
    }


def unanswered(decisions: Sequence[Decision]) -> list[Decision]:
    """The newest suggestion of each source for each hyperparameter, unless it was answered; newest first."""
    answers = (d.action for d in decisions if d.applied)
    answered = {a.decision for a in answers if isinstance(a, Approve | Reject)}
    newest: dict[tuple[str, str | None], Decision] = {}
    for decision in reversed(decisions):
        if decision.status == "suggested":
            action = decision.action.action if isinstance(decision.action, Suggest) else decision.action
            newest.setdefault((decision.source, getattr(action, "name", None)), decision)
    return [decision for decision in newest.values() if decision.id not in answered]
