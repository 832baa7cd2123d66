"""The report of a suite as Markdown, which reads well in a terminal too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from . import prose, tables
from .pairs import paired
from .results import Results
from .scores import ALL, Row, summary
from .tables import Table


def markdown(results: Results) -> str:
    """The whole report."""
    return "\n\n".join(_parts(results, summary(results))) + "\n"


def _parts(results: Results, rows: Sequence[Row]) -> Iterator[str]:
    pairs, gaps = paired(results)
    yield f"# {plain(prose.title(results))}"
    yield f"    {' '.join(results.command.splitlines())}"
    yield plain(", ".join(f"{name} {version}" for name, version in results.versions.items()))
    yield plain(" ".join((prose.progress(results), *prose.headline(rows))))
    yield "## How it was measured"
    yield "\n".join(f"- {plain(line)}" for line in prose.protocol(results))
    for budget in sorted({row.budget for row in rows}):
        over_all = [row for row in rows if row.workload == ALL and row.budget == budget]
        yield f"## All workloads, budget {budget:g}"
        yield _table(tables.scores(over_all))
        yield _table(tables.details(over_all))
    yield "## Where it falls short"
    short = [f"- **{plain(arm)}**: {plain(faults)}" for arm, faults in prose.shortcomings(rows)]
    yield "\n".join(short) or "Nowhere that these runs show."
    yield "## Each workload"
    for workload in results.steps:
        own = [row for row in rows if row.workload == workload]
        yield f"### {plain(workload)}"
        yield _table(tables.workload(own)) if own else "No run of it can be compared yet."
    yield "## The tuned baselines"
    yield _table(tables.baselines(results))
    yield "What each search found, over the best of all of them, and its cost in runs of the baseline:"
    yield _table(tables.methods(results))
    yield "## Errors and missing runs"
    troubles = (
        ("Runs that ended in an error; they are in the scores, as failures:", tables.errors(results)),
        ("Runs that are not in the scores:", tables.missing(gaps)),
        ("Runs whose last evaluation went beyond the budget:", tables.overspent(pairs)),
    )
    if not any(table.rows for _, table in troubles):
        yield "None."
    for sentence, table in troubles:
        if table.rows:
            yield sentence
            yield _table(table)


def plain(text: str) -> str:
    """Text that Markdown takes as it is: no markup, no HTML, one line."""
    return re.sub(r"([\\`*\[\]<>|#]|_(?![^\W_])|(?<![^\W_])_)", r"\\\1", " ".join(text.split()))


def _table(table: Table) -> str:
    lines = [[plain(text) for text in line] for line in (table.columns, *table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    words = table.words
    rule = ["-" * width if i < words else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    filled = [
        [t.ljust(w) if i < words else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (filled[0], rule, *filled[1:]))
