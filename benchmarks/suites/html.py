"""The report of a suite as one page, which needs no network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from . import charts, prose, search_tables, tables
from .costs import searches
from .formats import number
from .markdown import NONE
from .page import SCRIPT, STYLE
from .pairs import Pair, numbers, paired
from .results import Results
from .scores import ALL, Row, silent, summary
from .svg import style
from .tables import Table
from .timelines import timelines
from .trial_charts import Matter, bars, matter, parallel
from .troubles import troubles


def html(results: Results, rows: Sequence[Row] | None = None) -> str:
    """The whole page.

    Args:
        results: of a suite.
        rows: `scores.summary` of them, which takes its time; None: it is worked out.
    """
    pairs, gaps = paired(results)
    rows = summary(results) if rows is None else rows
    arms = numbers(results)
    found = troubles(results, rows, pairs, gaps)
    left_out = silent(rows)
    counted = [pair for pair in pairs if pair.cell.workload not in left_out]
    parts = itertools.chain(
        _head(results, rows),
        ["<main>"],
        _overall(counted, rows, arms) if counted else (),
        _short(rows) if counted else (),
        _by_workload(results, rows, arms),
        _search(results),
        _decisions(results),
        _tables(results, rows) if rows else (),
        ["<h2>Errors and missing runs</h2>"],
        (f"<p>{sentence}</p>{_table(table)}" for sentence, table in found),
        () if found else ["<p>None.</p>"],
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(prose.title(results))}</title><style>{STYLE}</style></head>"
        f'<body>{"".join(parts)}</main><div id="tip" role="status" hidden></div>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _head(results: Results, rows: Sequence[Row]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    said = (f"<p>{escape(text)}</p>" for text in (prose.progress(results), *prose.headline(rows)))
    yield f'<header><h1>{escape(prose.title(results))}</h1><p class="soft">{escape(prose.SCORE)}</p>'
    yield from said
    yield f'<pre>{escape(results.command)}</pre><p class="soft">{escape(versions)}</p>'
    if rows:
        yield _fold("How it was measured", _list(prose.protocol(results)))
    yield "</header>"


def _key(rows: Sequence[Row], numbers: charts.Numbers) -> Iterator[str]:
    """The arms of these rows, and no others."""
    there = {row.arm for row in rows}
    yield '<nav aria-label="Arms: choose one to see it in every chart">'
    for arm, at in numbers.items():
        if arm in there:
            yield (
                f'<button type="button" aria-pressed="false" data-key="{at}">'
                f'<svg viewBox="0 0 28 10" aria-hidden="true"><g class="{style(at)}">'
                f'<polyline points="1,5 27,5"/></g></svg>{escape(arm)}</button>'
            )
    yield "</nav>"


def _overall(pairs: Sequence[Pair], rows: Sequence[Row], numbers: charts.Numbers) -> Iterator[str]:
    yield "<h2>All workloads</h2>"
    yield "<p>Choose an arm, or point at a line. The baseline is the thick line.</p>"
    for budget in sorted({pair.cell.budget for pair in pairs}):
        over_all = [row for row in rows if row.workload == ALL and row.budget == budget]
        yield f"<h3>Budget {budget:g}</h3><div>{''.join(_key(over_all, numbers))}"
        yield '<div class="grid-of compare">'
        robust = charts.robustness(over_all, numbers)
        if robust:
            yield _figure("Robustness to the initial rate", "lower and flatter is better", robust)
        profile = charts.profile(pairs, budget, numbers)
        if profile:
            yield _figure("Performance profile", f"higher is better; {profile[1]}", profile[0])
        times = charts.times(pairs, budget, numbers)
        if times:
            yield _figure("Time to target", "higher and further left is better", times)
        yield f"</div></div>{_table(tables.scores(over_all))}"
        yield _fold("Best states, harm, time and cost", _table(tables.details(over_all)))


def _short(rows: Sequence[Row]) -> Iterator[str]:
    yield "<h2>Where it falls short</h2>"
    found = prose.shortcomings(rows)
    yield _list(found) if found else "<p>Nowhere that these runs show.</p>"


def _by_workload(results: Results, rows: Sequence[Row], numbers: charts.Numbers) -> Iterator[str]:
    figures = []
    drawn: list[Row] = []
    for workload in results.steps:
        own = [row for row in rows if row.workload == workload and row.budget == 1.0]
        if robust := charts.robustness(own, numbers):
            figures.append(_figure(workload, "", robust))
            drawn += own
    if figures:
        yield "<h2>Robustness to the initial rate, by workload</h2><p>Median score, budget 1.</p>"
        yield f"<div>{''.join(_key(drawn, numbers))}"
        yield f'<div class="grid-of compare">{"".join(figures)}</div></div>'


def _search(results: Results) -> Iterator[str]:
    yield "<h2>The tuned baselines</h2>"
    yield _table(search_tables.baselines(results))
    runs = sum(search.runs for search in searches(results))
    yield (
        f"<p>All searches together cost {number(runs)} runs of a baseline. By method: the best loss that "
        "each found over the best of all of its workload, and their cost.</p>"
    )
    yield _table(search_tables.methods(results))
    yield _fold("Each search", _table(search_tables.each_search(results)))
    trials = {w: [t for ts in methods.values() for t in ts] for w, methods in results.searches.items()}
    if found := {workload: what for workload, tried in trials.items() if (what := matter(tried))}:
        yield from _matter(found, len(trials) - len(found))
    pictures = []
    for workload, tried in trials.items():
        if picture := parallel(tried, results.tuned.get(workload), workload):
            odd = sum(not math.isfinite(trial.loss) for trial in tried)
            note = f"{len(tried)} trials" + (f", {odd} of them left out: no finite loss" if odd else "")
            pictures.append(_figure(workload, note, picture))
    if pictures:
        yield (
            "<h3>Trials</h3><p>A line is a trial of a search, darker the less its selection loss (lighter in "
            "a dark page), dashed when it was stopped early; the thick one is the baseline.</p>"
            f'<div class="grid-of">{"".join(pictures)}</div>'
        )


def _matter(found: Mapping[str, Matter], lacking: int) -> Iterator[str]:
    yield (
        '<h3>What matters</h3><p class="key">Share of the selection loss that a random forest puts down to '
        '<i style="color:#0072b2"></i>rate <i style="color:#b04e00"></i>schedule '
        '<i style="color:#00785a"></i>weight decay; and Spearman’s correlation, which cannot see that '
        "a rate may be too low as well as too high. Trials that were stopped early are left out"
        f"{f'; so are {lacking} workloads with too few that were run whole' if lacking else ''}.</p>"
    )
    yield '<div class="bars">'
    for workload, what in found.items():
        ranks = ", ".join(
            f"{name} {value:+.2f}" for name, value in what.rank.items() if not math.isnan(value)
        )
        yield f'<span>{escape(workload)}<br><span class="soft">ρ: {ranks}</span></span>'
        yield bars(what.forest, workload)
    yield "</div>"


def _decisions(results: Results) -> Iterator[str]:
    found = {workload: runs for workload in results.steps if (runs := timelines(results, workload))}
    if not found:
        return
    yield "<h2>Decisions</h2>"
    yield (
        '<p class="key">One seed, budget 1, from the lowest, the tuned and the highest rate. '
        '<i></i>selection loss <i class="beside"></i>the baseline’s <i class="rate"></i>rate. '
        "A full dot is a decision that was applied, "
        "an empty one was refused or only suggested; point at it to read it.</p>"
    )
    for i, (workload, runs) in enumerate(found.items()):
        figures = "".join(_figure(f"{t.arm}, {t.rate}", t.note, t.picture) for t in runs if t.decisions)
        none = "; ".join(f"{t.arm}, {t.rate}" for t in runs if not t.decisions)
        quiet = f'<p class="soft">No decision: {escape(none)}.</p>' if none else ""
        yield _fold(workload, f'<div class="grid-of">{figures}</div>{quiet}', opened=i == 0)


def _tables(results: Results, rows: Sequence[Row]) -> Iterator[str]:
    yield "<h2>Each workload in figures</h2>"
    for workload in results.steps:
        own = [row for row in rows if row.workload == workload]
        inner = _table(tables.workload(own)) if own else f"<p>{NONE}</p>"
        yield _fold(workload, inner)


def _figure(title: str, note: str, picture: str) -> str:
    return f"<figure><figcaption>{escape(title)} <span>{escape(note)}</span></figcaption>{picture}</figure>"


def _list(items: Sequence[tuple[str, str]]) -> str:
    lines = (f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in items)
    return f'<ul class="short">{"".join(lines)}</ul>'


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
