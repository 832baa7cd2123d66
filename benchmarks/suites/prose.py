"""The sentences of a report: how it was measured, what came out, and where it falls short."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .formats import factor, number, p_value, share
from .pairs import BASELINE
from .results import Results
from .scores import ALL, HARM, Row
from .tables import ordered

SHORT = 1.05
"""A median score above it on a workload is named among the shortcomings."""
NAMED = 3
"""So many of the worst workloads are named."""


def title(results: Results) -> str:
    """What was compared."""
    arms = len({item.cell.arm for item in results.cells})
    return f"Suite {results.suite}: {_count(arms, 'arm')} on {_count(len(results.steps), 'workload')}"


def progress(results: Results) -> str:
    """How much of the suite there is."""
    done, planned = len(results.cells), results.planned
    if done == planned:
        return f"All {planned:,} runs are in."
    return f"{done:,} of {planned:,} runs are in: what follows is provisional."


def protocol(results: Results) -> list[str]:
    """How it was measured, a sentence or two each."""
    cells = [item.cell for item in results.cells]
    seeds = len({cell.seed for cell in cells})
    factors = sorted({cell.factor for cell in cells if cell.factor is not None})
    budgets = " and ".join(f"{budget:g}" for budget in sorted({cell.budget for cell in cells}))
    rates = ", ".join(map(factor, factors)) or "none"
    return [
        f"The {BASELINE} is the best static configuration that searches over rate, schedule and weight decay "
        f"found, run again on {_count(seeds, 'fresh seed')}; for a workload in which something goes wrong, "
        "on its twin in which nothing does.",
        f"Initial rates over the tuned one: {rates}. An arm that ignores the rate is run once.",
        f"Budgets, in steps of the baseline: {budgets}. Probes, rewound steps and an arm's own evaluations "
        "count; only arms that decide get more than 1.",
        "Arms see probe data, configurations and best states are chosen by selection data, and the scores "
        "are of test data.",
        f"Score: min(final, initial) test loss over that of the {BASELINE} with the same seed and budget 1. "
        "Below 1 is better than the tuned baseline. NaN and errors count as the initial loss; nothing that "
        "failed is left out. The best state is compared with the baseline's best state.",
        "Median over all runs, with its bootstrap interval (a seed's rates are drawn together). p: "
        "Wilcoxon's signed-rank test on the logs, averaged over the rates of a seed, in both directions, "
        "corrected by Holm over all arms.",
        "Destroyed: ended with NaN, no better than it began, or in an error. "
        f"Harmed: of the runs from the tuned rate, those that ended more than {100 * (HARM - 1):.0f} % "
        "worse than the baseline.",
        "Sensitivity: mean over initial rates less the best of them, in baseline losses (Wortsman et al. "
        "2023). Time: to the target loss, over the baseline's. Reached: runs that got there. Cost: steps, "
        "evaluations included, over those of a run of the baseline.",
    ]


def headline(rows: Sequence[Row]) -> list[str]:
    """What came out over all workloads, a sentence a budget."""
    said = []
    for budget in sorted({row.budget for row in rows}):
        table = [r for r in rows if r.workload == ALL and r.budget == budget and r.arm != BASELINE]
        if not table:
            continue
        best = ordered(table)[0]
        steady = min(table, key=lambda row: row.final.worst)
        sentence = f"At budget {budget:g} {_of(best)} has the least median"
        if steady.arm != best.arm:
            sentence += f"; {_of(steady)} has the best worst case"
        said.append(f"{sentence}.")
    return said


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
    theirs = [r for r in rows if r.arm == row.arm and r.budget == row.budget and r.workload != ALL]
    short = sorted((r for r in theirs if r.final.median > SHORT), key=lambda r: -r.final.median)
    if short:
        named = ", ".join(f"{r.workload} ({number(r.final.median)})" for r in short[:NAMED])
        faults.append(f"median above {SHORT:g} on {len(short)} of {_count(len(theirs), 'workload')}: {named}")
    worst = max(theirs, key=lambda r: r.final.worst)
    if worst.final.worst > SHORT:
        faults.append(f"worst run {number(worst.final.worst)}, on {worst.workload}")
    if row.rates:
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


def _of(row: Row) -> str:
    interval = f"{number(row.final.low)}–{number(row.final.high)}"
    missing = f", {_count(row.missing, 'run')} missing" if row.missing else ""
    return f"{row.arm} ({number(row.final.median)}, {interval}, worst {number(row.final.worst)}{missing})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
