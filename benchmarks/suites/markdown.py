"""The report of a suite as Markdown, which reads well in a terminal too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from . import prose, search_tables, tables
from .pairs import paired
from .results import Results
from .scores import ALL, Row, summary
from .tables import Table
from .troubles import troubles

NONE = "No run of it can be compared."


def markdown(results: Results, rows: Sequence[Row] | None = None) -> str:
    """The whole report.

    Args:
        results: of a suite.
        rows: `scores.summary` of them, which takes its time; None: it is worked out.
    """
    return "\n\n".join(_parts(results, summary(results) if rows is None else rows)) + "\n"


def _parts(results: Results, rows: Sequence[Row]) -> Iterator[str]:
    pairs, gaps = paired(results)
    yield f"# {plain(prose.title(results))}"
    yield plain(prose.SCORE)
    yield from map(plain, (prose.progress(results), *prose.headline(rows)))
    yield f"    {' '.join(results.command.splitlines())}"
    yield plain(", ".join(f"{name} {version}" for name, version in results.versions.items()))
    if rows:
        yield from _scores(results, rows)
    yield "## The tuned baselines"
    yield _table(search_tables.baselines(results))
    yield (
        "The searches by method: the best loss that each found over the best of all of its workload, and "
        "their cost in runs of the baseline."
    )
    yield _table(search_tables.methods(results))
    yield "## Errors and missing runs"
    found = troubles(results, rows, pairs, gaps)
    for sentence, table in found:
        yield sentence
        yield _table(table)
    if not found:
        yield "None."


def _scores(results: Results, rows: Sequence[Row]) -> Iterator[str]:
    for budget in sorted({row.budget for row in rows}):
        over_all = [row for row in rows if row.workload == ALL and row.budget == budget]
        if not over_all:
            continue
        yield f"## All workloads, budget {budget:g}"
        yield _table(tables.scores(over_all))
        yield _table(tables.details(over_all))
    if any(row.workload == ALL for row in rows):
        yield "## Where it falls short"
        yield _list(prose.shortcomings(rows)) or "Nowhere that these runs show."
    yield "## How it was measured"
    yield _list(prose.protocol(results))
    yield "## Each workload"
    for workload in results.steps:
        own = [row for row in rows if row.workload == workload]
        yield f"### {plain(workload)}"
        yield _table(tables.workload(own)) if own else NONE


def _list(items: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- **{plain(name)}**: {plain(text)}" for name, text in items)


def plain(text: str) -> str:
    """Text that Markdown takes as it is: no markup, no HTML, one line."""
    return re.sub(r"([\\`*\[\]>|#]|<(?![\s\d])|_(?![^\W_])|(?<![^\W_])_)", r"\\\1", " ".join(text.split()))


def _table(table: Table) -> str:
    lines = [[plain(text) for text in line] for line in (table.columns, *table.rows)]
    widths = [max(2, *(len(line[i]) for line in lines)) for i in range(len(table.columns))]
    words = table.words
    rule = ["-" * width if i < words else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    filled = [
        [t.ljust(w) if i < words else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (filled[0], rule, *filled[1:]))
