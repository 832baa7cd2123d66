"""The report of a suite as one page, which needs no network."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from html import escape

from . import charts, prose, tables
from .costs import searches
from .formats import number
from .page import SCRIPT, STYLE
from .pairs import BASELINE, Pair, paired
from .results import Results
from .scores import ALL, Row, summary
from .svg import style
from .tables import Table
from .timelines import timelines
from .trial_charts import bars, matter, parallel


def html(results: Results) -> str:
    """The whole page."""
    pairs, gaps = paired(results)
    rows = summary(results)
    names = dict.fromkeys((BASELINE, *(item.cell.arm for item in results.cells)))
    numbers = {arm: i for i, arm in enumerate(names)}
    troubles = (
        ("Runs that ended in an error; they are in the scores, as failures.", tables.errors(results)),
        ("Runs that are not in the scores.", tables.missing(gaps)),
        ("Runs whose last evaluation went beyond the budget.", tables.overspent(pairs)),
    )
    parts = itertools.chain(
        _head(results, rows, numbers),
        _overall(pairs, rows, numbers),
        _short(rows),
        _by_workload(results, rows, numbers),
        _search(results),
        _decisions(results),
        _tables(results, rows),
        ["<h2>Errors and missing runs</h2>"],
        (f"<p>{sentence}</p>{_table(table)}" for sentence, table in troubles if table.rows),
        ["" if any(table.rows for _, table in troubles) else "<p>None.</p>"],
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(prose.title(results))}</title><style>{STYLE}</style></head>"
        f'<body>{"".join(parts)}</main><div id="tip" role="status" hidden></div>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _head(results: Results, rows: Sequence[Row], numbers: charts.Numbers) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    said = " ".join((prose.progress(results), *prose.headline(rows)))
    yield f"<header><h1>{escape(prose.title(results))}</h1><p>{escape(said)}</p>"
    yield f'<pre>{escape(results.command)}</pre><p class="soft">{escape(versions)}</p>'
    lines = "".join(f"<li>{escape(line)}</li>" for line in prose.protocol(results))
    yield _fold("How it was measured", f"<ul>{lines}</ul>") + "</header>"
    yield '<nav aria-label="Arms: choose one to see it in every chart"><div>'
    for arm, at in numbers.items():
        yield (
            f'<button type="button" aria-pressed="false"><svg viewBox="0 0 28 10" aria-hidden="true">'
            f'<g class="{style(at)}"><polyline points="1,5 27,5"/></g></svg>{escape(arm)}</button>'
        )
    yield "</div></nav><main>"


def _overall(pairs: Sequence[Pair], rows: Sequence[Row], numbers: charts.Numbers) -> Iterator[str]:
    yield "<h2>All workloads</h2>"
    yield "<p>Choose an arm above, or point at a line. The baseline is the thick line.</p>"
    for budget in sorted({row.budget for row in rows}):
        over_all = [row for row in rows if row.workload == ALL and row.budget == budget]
        yield f'<h3>Budget {budget:g}</h3><div class="grid-of compare">'
        robust = charts.robustness(over_all, numbers)
        if robust:
            yield _figure("Robustness to the initial rate", "lower and flatter is better", robust)
        profile = charts.profile(pairs, budget, numbers)
        if profile:
            yield _figure("Performance profile", f"higher is better; {profile[1]}", profile[0])
        times = charts.times(pairs, budget, numbers)
        if times:
            yield _figure("Time to target", "higher and further left is better", times)
        yield f"</div>{_table(tables.scores(over_all))}"
        yield _fold("Best states, harm, sensitivity, time and cost", _table(tables.details(over_all)))


def _short(rows: Sequence[Row]) -> Iterator[str]:
    yield "<h2>Where it falls short</h2>"
    found = prose.shortcomings(rows)
    if not found:
        yield "<p>Nowhere that these runs show.</p>"
    else:
        lines = (f"<li><b>{escape(arm)}</b>: {escape(faults)}</li>" for arm, faults in found)
        yield f'<ul class="short">{"".join(lines)}</ul>'


def _by_workload(results: Results, rows: Sequence[Row], numbers: charts.Numbers) -> Iterator[str]:
    yield "<h2>Robustness to the initial rate, by workload</h2>"
    yield '<p>Median score by initial rate, budget 1.</p><div class="grid-of compare">'
    for workload in results.steps:
        own = [row for row in rows if row.workload == workload and row.budget == 1.0]
        robust = charts.robustness(own, numbers)
        if robust:
            yield _figure(workload, "", robust)
    yield "</div>"


def _search(results: Results) -> Iterator[str]:
    yield "<h2>The tuned baselines</h2>"
    yield _table(tables.baselines(results))
    runs = sum(search.runs for search in searches(results))
    yield f"<p>All searches together cost {number(runs)} runs of a baseline.</p>"
    yield _fold("What each search found, and at what cost", _table(tables.methods(results)))
    trials = {w: [t for ts in methods.values() for t in ts] for w, methods in results.searches.items()}
    yield "<h3>What matters</h3>"
    yield (
        '<p class="key">Share of the selection loss that a random forest puts down to '
        '<i style="color:#0072b2"></i>rate <i style="color:#b04e00"></i>schedule '
        '<i style="color:#00785a"></i>weight decay; and Spearman’s correlation, which cannot see that '
        "a rate may be too low as well as too high. Trials that were stopped early are left out.</p>"
    )
    yield '<div class="bars">'
    for workload, tried in trials.items():
        found = matter(tried)
        if found is None:
            yield f"<span>{escape(workload)}</span>"
            yield '<span class="soft">too few trials were run whole</span>'
            continue
        ranks = ", ".join(f"{name} {value:+.2f}" for name, value in found.rank.items() if value == value)
        yield f'<span>{escape(workload)}<br><span class="soft">ρ: {ranks}</span></span>'
        yield bars(found.forest, workload)
    yield "</div><h3>Trials</h3>"
    yield (
        "<p>A line is a trial of a search, darker the less its selection loss (lighter in a dark page), "
        "dashed when it was stopped early; the thick one is the baseline.</p>"
        '<div class="grid-of">'
    )
    for workload, tried in trials.items():
        picture = parallel(tried, results.tuned.get(workload), workload)
        if picture:
            yield _figure(workload, f"{len(tried)} trials", picture)
    yield "</div>"


def _decisions(results: Results) -> Iterator[str]:
    yield "<h2>Decisions</h2>"
    yield (
        '<p class="key">One seed, budget 1, from the lowest, the tuned and the highest rate. '
        '<i style="color:var(--c0)"></i>selection loss '
        '<i style="color:var(--soft);border-top-style:dashed"></i>the baseline’s '
        '<i style="color:var(--c1)"></i>rate. A full dot is a decision that was applied, '
        "an empty one was refused or only suggested; point at it to read it.</p>"
    )
    for i, workload in enumerate(results.steps):
        found = timelines(results, workload)
        if found:
            figures = "".join(_figure(f"{t.arm}, {t.rate}", t.note, t.picture) for t in found)
            yield _fold(workload, f'<div class="grid-of">{figures}</div>', opened=i == 0)


def _tables(results: Results, rows: Sequence[Row]) -> Iterator[str]:
    yield "<h2>Each workload in figures</h2>"
    for workload in results.steps:
        own = [row for row in rows if row.workload == workload]
        inner = _table(tables.workload(own)) if own else "<p>No run of it can be compared yet.</p>"
        yield _fold(workload, inner)


def _figure(title: str, note: str, picture: str) -> str:
    return f"<figure><figcaption>{escape(title)} <span>{escape(note)}</span></figcaption>{picture}</figure>"


def _fold(title: str, inner: str, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{inner}</details>"


def _table(table: Table) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=w' if i < table.words else ''}>{escape(text)}</{tag}>"
            for i, text in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in table.rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{line(table.columns, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
