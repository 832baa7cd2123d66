"""What went wrong in a suite: what failed, what is missing, what says nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from autotune.supervisor import TUNER

from .formats import number, share
from .pairs import Gap, Pair
from .results import Results
from .scores import Row, silent
from .tables import Table

NAMED = 4
"""So many arms are named in a cell of a table."""
BENCHED = re.compile(r"escalate: (.+?) is benched: (.+)", re.DOTALL)
"""What the tuner records when it takes a policy out of a run."""


def troubles(
    results: Results, rows: Sequence[Row], pairs: Sequence[Pair], gaps: Sequence[Gap]
) -> list[tuple[str, Table]]:
    """What went wrong, a sentence and a table each; empty when nothing did."""
    found = (
        ("Workloads none of whose runs has begun:", _not_begun(results)),
        (
            "Workloads that say nothing, since their baseline failed itself; they are not in the figures "
            "over all workloads:",
            Table(("workload", "baseline destroyed"), tuple((n, share(v)) for n, v in silent(rows).items())),
        ),
        ("Runs that ended in an error; they are in the scores, as failures:", _errors(results)),
        (
            "Policies that were benched, so that training went on without them; the runs count:",
            _benched(results),
        ),
        ("Runs that are not in the scores:", _missing(gaps)),
        ("Runs whose last evaluation went beyond the budget:", _overspent(pairs)),
    )
    return [(sentence, table) for sentence, table in found if table.rows]


def not_begun(results: Results) -> dict[str, str]:
    """Workloads without a baseline, and why: what the searches of a finished command lack has failed."""
    return {
        name: f"{'not every' if results.searches.get(name) else 'no'} search of it is finished "
        "(see the errors of autotune bench run)"
        for name in results.steps
        if name not in results.tuned
    }


def _errors(results: Results) -> Table:
    found = Counter(
        (item.cell.workload, item.cell.arm, item.error or "no outcome")
        for item in results.cells
        if item.outcome is None
    )
    return Table(
        ("workload", "arm", "error", "runs"), tuple((*key, str(n)) for key, n in found.items()), words=3
    )


def _not_begun(results: Results) -> Table:
    return Table(("workload", "why"), tuple(not_begun(results).items()), words=2)


def _benched(results: Results) -> Table:
    runs = Counter(item.cell.arm for item in results.cells)
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for item in results.cells:
        first: dict[str, tuple[int, str]] = {}
        for event in item.outcome.events if item.outcome else ():
            if event.source == TUNER and (said := BENCHED.fullmatch(event.text)):
                first.setdefault(said[1], (event.step, said[2]))
        for policy, when in first.items():
            found.setdefault((item.cell.arm, policy), []).append(when)
    return Table(
        ("arm", "benched", "why, the first time", "first at step", "runs"),
        tuple(
            (arm, policy, min(whens)[1], f"{min(whens)[0]:,}", f"{len(whens)} of {runs[arm]}")
            for (arm, policy), whens in found.items()
        ),
        words=3,
    )


def _missing(gaps: Sequence[Gap]) -> Table:
    found: dict[tuple[str, str], list[str]] = {}
    for gap in gaps:
        found.setdefault((gap.cell.workload, gap.reason), []).append(gap.cell.arm)
    return Table(
        ("workload", "why", "arms", "runs"),
        tuple((*key, _named(list(dict.fromkeys(arms))), str(len(arms))) for key, arms in found.items()),
        words=3,
    )


def _overspent(pairs: Sequence[Pair]) -> Table:
    most: dict[tuple[str, str], float] = {}
    for pair in pairs:
        if pair.overspent > 0:
            key = pair.cell.workload, pair.cell.arm
            most[key] = max(most.get(key, 0.0), pair.overspent)
    return Table(
        ("workload", "arm", "steps beyond"), tuple((*key, number(v)) for key, v in most.items()), words=2
    )


def _named(arms: Sequence[str]) -> str:
    more = f" and {len(arms) - NAMED} more" if len(arms) > NAMED else ""
    return ", ".join(arms[:NAMED]) + more
