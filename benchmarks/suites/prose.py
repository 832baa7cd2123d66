"""The sentences of a report: how it was measured, what came out, and where it falls short."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .formats import factor, number, p_value, share
from .pairs import BASELINE
from .results import Cell, Results
from .scores import ALL, HARM, Row, silent
from .tables import interval, ordered
from .troubles import not_begun

SHORT = 1.05
"""A median score above it on a workload is named among the shortcomings."""
NAMED = 3
"""So many of the worst workloads are named."""
SCORE = (
    f"A score is the test loss that a run ends with over the {BASELINE}'s from the same seed: 1 is as good, "
    "less is better."
)


def title(results: Results) -> str:
    """What was compared."""
    arms = len({item.cell.arm for item in results.cells} - {BASELINE})
    against = f"{_count(arms, 'arm')} against the {BASELINE}" if arms else f"the {BASELINE}"
    return f"Suite {results.suite}: {against}, on {_count(len(results.steps), 'workload')}"


def progress(results: Results) -> str:
    """How much of the suite there is."""
    done, planned = len(results.cells), results.planned
    errors = sum(item.outcome is None for item in results.cells)
    ended = f", {errors:,} of which ended in an error" if errors else ""
    if done == planned:
        return f"All {planned:,} runs are in{ended}."
    lacking: dict[str, list[str]] = {}
    for name, why in not_begun(results).items():
        lacking.setdefault(why, []).append(name)
    held = "".join(f" Nothing of {', '.join(names)} has been run: {why}." for why, names in lacking.items())
    return f"{done:,} of {planned:,} runs are in{ended}: what follows is provisional.{held}"


def protocol(results: Results) -> list[tuple[str, str]]:
    """How it was measured: what is explained, and a sentence or two."""
    cells = [item.cell for item in results.cells]
    seeds = _count(len({cell.seed for cell in cells}), "fresh seed")
    rated = len({cell.factor for cell in cells} - {None}) > 1
    said = {
        "Baseline": "the best static configuration, by selection loss, that searches over rate, schedule and "
        f"weight decay found, run again on {seeds}. For a workload in which something goes wrong, it is run "
        "on its twin in which nothing does.",
        "Initial rates": f"over the tuned one: {_rates(cells)}. An arm that ignores the rate is run once.",
        "Budget": "steps, over those of a run of the baseline. Probes, rewound steps and an arm's own "
        "evaluations count. Only arms that decide, and the baseline, get more than 1.",
        "Data": "arms see probe data; configurations and best states are chosen by selection data; the "
        "scores are of test data.",
        "Score": f"min(final, initial) test loss over that of the {BASELINE} with the same seed and budget "
        "1: below 1 is better than the baseline. NaN and errors count as the initial loss; nothing that "
        "failed is left out. The best state is compared with the baseline's best state.",
        "Median": "over all runs, of all initial rates together; the columns ×… are of one rate." * rated,
        "Interval and p": "bootstrap of the median; Wilcoxon's signed-rank test on mean logs, in both "
        "directions, corrected by Holm over all arms. Over several workloads the unit of both is a workload "
        "(Demšar 2006). On one it is a seed: a handful is too few for a test, and the interval is "
        "little more than their range.",
        "Performance profile": "share of problems (a workload, a rate and a seed) on which an arm comes "
        "within a factor τ of the best arm (Dolan & Moré 2002); a run that was destroyed never does.",
        "Destroyed": "ended with NaN, no better than it began, or in an error.",
        "Harmed": f"of the runs from the tuned rate, those that ended more than {100 * (HARM - 1):.0f} % "
        "worse than the baseline.",
        "Sensitivity": "mean over initial rates less the best of them, in baseline losses (Wortsman et al. "
        "2023)." * rated,
        "Time": "to the target loss, over the baseline's. Reached: runs that got there, of those whose "
        "baseline did.",
        "Cost": "steps, evaluations included, over those of a run of the baseline.",
    }
    return [(name, text) for name, text in said.items() if text]


def headline(rows: Sequence[Row]) -> list[str]:
    """What came out over all workloads, a text a budget; before it, which of them say nothing."""
    said = [
        f"{name} says nothing: {share(part)} of the {BASELINE}'s own runs there were destroyed. It is left "
        "out of all that is over all workloads."
        for name, part in silent(rows).items()
    ]
    for budget in sorted({row.budget for row in rows}):
        table = ordered([r for r in rows if r.workload == ALL and r.budget == budget and r.arm != BASELINE])
        if not table:
            continue
        better = [row.arm for row in table if row.final.p_better < 0.05]
        worse = sum(row.final.p_worse < 0.05 for row in table)
        which = f" ({', '.join(better)})" if better else ""
        shown = (
            f"{len(better) or 'none'} shown to be better than the {BASELINE}{which}, {worse or 'none'} to be "
            "worse"
        )
        least = 2 * len(table) * 0.5 ** _units(rows, budget)  # of Wilcoxon's test, corrected by Holm
        if least >= 0.05:
            shown = f"too few runs for a test against the {BASELINE}, p is at least {min(1.0, least):.2g}"
        sentences = [
            f"Budget {budget:g}, {_count(len(table), 'arm')}: {shown}.",
            f"Least median: {_of(table[0])}.",
        ]
        rated = [row for row in table if len(row.rates) > 1 and 1.0 in row.rates]
        if rated:
            tuned = min(rated, key=lambda row: row.rates[1.0])
            robust = min(rated, key=lambda row: max(row.rates.values()))
            sentences.append(
                f"Of those that use the rate, {tuned.arm} is best from the tuned one "
                f"({number(tuned.rates[1.0])}), and {robust.arm} from its own worst one "
                f"({number(max(robust.rates.values()))})."
            )
        said.append(" ".join(sentences))
    return said


def _units(rows: Sequence[Row], budget: float) -> int:
    """What a test over all workloads counts: workloads, or of a single one seeds."""
    heard = [r for r in rows if r.arm == BASELINE and r.budget == budget and r.workload != ALL]
    heard = [row for row in heard if row.workload not in silent(rows)]
    return len(heard) if len(heard) > 1 else sum(row.cells for row in heard)


def shortcomings(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """By arm, at the baseline's steps: what speaks against it, if anything does; the baseline too."""
    found = []
    for row in ordered([row for row in rows if row.workload == ALL and row.budget == 1.0]):
        if faults := _faults(row, rows):
            found.append((row.arm, "; ".join(faults) + "."))
    return found


def _faults(row: Row, rows: Sequence[Row]) -> list[str]:
    faults = []
    if row.final.p_worse < 0.05:
        faults.append(f"median {number(row.final.median)} ({p_value(row.final)})")
    left_out = {ALL, *silent(rows)}
    theirs = [r for r in rows if r.arm == row.arm and r.budget == row.budget and r.workload not in left_out]
    short = sorted((r for r in theirs if r.final.median > SHORT), key=lambda r: -r.final.median)
    if short:
        named = ", ".join(f"{r.workload} ({number(r.final.median)})" for r in short[:NAMED])
        faults.append(f"median above {SHORT:g} on {len(short)} of {_count(len(theirs), 'workload')}: {named}")
    worst = max(theirs, key=lambda r: r.final.worst)
    if worst.final.worst > SHORT:
        faults.append(f"worst run {number(worst.final.worst)}, on {worst.workload}")
    if len(row.rates) > 1:
        at, value = max(row.rates.items(), key=lambda item: item[1])
        if value > SHORT:
            faults.append(f"from {factor(at)} the median is {number(value)}")
    for value, what in ((row.destroyed, "destroyed"), (row.harmed, "of the runs from the tuned rate harmed")):
        if value > 0:
            faults.append(f"{share(value)} {what}")
    if math.isinf(row.time):
        faults.append("most runs never reach the target")
    if row.missing:
        faults.append(f"{_count(row.missing, 'run')} not in the scores")
    return faults


def _rates(cells: Sequence[Cell]) -> str:
    """By budget, where they differ."""
    found: dict[str, list[str]] = {}
    for budget in sorted({cell.budget for cell in cells}):
        factors = sorted({cell.factor for cell in cells if cell.budget == budget and cell.factor is not None})
        if factors:
            found.setdefault(", ".join(map(factor, factors)), []).append(f"{budget:g}")
    if len(found) < 2:
        return next(iter(found), "none")
    return "; ".join(f"{rates} at budget {' and '.join(budgets)}" for rates, budgets in found.items())


def _of(row: Row) -> str:
    missing = f", {_count(row.missing, 'run')} missing" if row.missing else ""
    return f"{row.arm}, {number(row.final.median)} (interval {interval(row.final)}{missing})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
