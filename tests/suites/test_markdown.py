"""The Markdown report: all of it is there, and whatever names hold stays text."""

import dataclasses
import re

import pytest
from made_results import ARMS, WORKLOADS, made_results

from autotune.benchmarks.suites.formats import factor, number, share
from autotune.benchmarks.suites.markdown import markdown, plain
from autotune.benchmarks.suites.prose import shortcomings
from autotune.benchmarks.suites.results import Event
from autotune.benchmarks.suites.scores import ALL, summary


@pytest.fixture(scope="module")
def report():
    return markdown(made_results())


def tables(text):
    """Each table as its lines of cells."""
    lines = [
        re.split(r"(?<!\\)\|", line)[1:-1] if line.startswith("|") else None for line in text.splitlines()
    ]
    found = [[]]
    for line in lines:
        if line is None:
            found.append([])
        else:
            found[-1].append([cell.strip() for cell in line])
    return [table for table in found if table]


def test_everything_is_named(report):
    made = made_results()
    for said in (made.command, "torch 2.13.0", *WORKLOADS[:2], *ARMS, "wilcoxon", "grid", "top_of_k"):
        assert said.lower() in report.lower()
    for heading in ("All workloads, budget 1\n", "budget 1.15", "Where it falls short", "Each workload"):
        assert heading in report


def test_tables_are_whole(report):
    found = tables(report)
    assert len(found) == 2 * 2 + 2 + 2 + 2  # budgets, workloads, searches, troubles
    for table in found:
        assert len({len(line) for line in table}) == 1
        assert all(set(cell) <= set("-:") for cell in table[1])
        assert "" not in {cell for line in table for cell in line}
    assert len(found[0]) == 2 + len(ARMS)
    assert found[0][2][:2] == ["tuned baseline", "1.00"]


def test_every_rule_has_a_dash():
    only = made_results(arms=("tuned baseline",), seeds=1, budgets=(1.0,))
    for table in tables(markdown(only)):
        assert all(re.fullmatch("-+:?", cell) for cell in table[1])


def test_tables_line_up_in_a_terminal(report):
    for block in report.split("\n\n"):
        if block.startswith("|"):
            assert len({len(line) for line in block.splitlines()}) == 1


def test_errors_and_missing_runs_are_named(report):
    trouble = report[report.index("## Errors") :]
    assert "expected a rate of at most 1, got 10" in trouble
    assert re.search(r"digits MLP, SGD \| not run +\| hypergradient +\| +1 \|", trouble)
    assert "695 of 696 runs are in, 1 of which ended in an error: what follows is provisional" in report


def test_a_whole_suite_has_no_trouble():
    report = markdown(made_results(mishaps=False))
    assert "All 696 runs are in." in report
    assert report.endswith("## Errors and missing runs\n\nNone.\n")


def test_shortcomings_come_from_the_numbers(report):
    short = report[report.index("## Where it falls short") : report.index("## Each workload")]
    constant = next(line for line in short.splitlines() if line.startswith("- **constant**"))
    assert "median above 1.05 on 2 of 2 workloads" in constant
    assert re.search(r"worst run [5-9]\.\d\d", constant)
    assert "from ×1000 the median is" in constant
    assert "% destroyed" in constant
    assert "1 run not in the scores" in next(
        line for line in short.splitlines() if "**hypergradient**" in line
    )
    assert "tuned baseline**" not in short


def test_an_arm_without_faults_is_not_among_the_shortcomings():
    made = made_results(arms=("tuned baseline", "constant"))
    bases = {(f.cell.workload, f.cell.seed): f.outcome for f in made.cells if f.cell.arm == "tuned baseline"}
    same = [dataclasses.replace(f, outcome=bases[f.cell.workload, f.cell.seed]) for f in made.cells]
    assert "Nowhere that these runs show." in markdown(dataclasses.replace(made, cells=tuple(same)))


def test_names_stay_text():
    workload = "a|b <script>alert(1)</script> *c* `d`\n# e"
    made = made_results(workloads=(workload,), arms=("tuned baseline", "GreedyLR"))
    report = markdown(made)
    assert "<script" not in report.replace(r"\<script", "")
    assert "\n# e" not in report
    for table in tables(report):
        assert len({len(line) for line in table}) == 1


def test_what_is_partial_is_seen_as_such():
    arms = ("tuned baseline", "constant", "plateau")
    made = made_results(arms=arms, seeds=1, budgets=(1.0,), mishaps=False)
    report = markdown(dataclasses.replace(made, cells=made.cells[:22]))
    assert "22 of 30 runs are in: what follows is provisional." in report
    assert re.search(r"\n\| constant .* 13 of 14 \|\n", report)
    assert re.search(r"\n\| plateau .* 7 of 14 \|\n", report)
    assert re.search(r"digits MLP, AdamW \| not run \| constant, plateau +\| +8 \|", report)
    every = made_results(seeds=2, mishaps=False)
    report = markdown(dataclasses.replace(every, cells=every.cells[: len(every.cells) // 2]))
    assert re.search(r"digits MLP, AdamW \| not run \| .*, .*, .*, .* and 10 more \| +232 \|", report)


def test_one_rate_and_one_seed():
    made = made_results(
        arms=("tuned baseline", "plateau", "guard"), seeds=1, factors=(1.0,), budgets=(1.0,), mishaps=False
    )
    report = markdown(made)
    assert "×1 " not in report[: report.index("## How it was measured")]
    assert "ensitivity" not in report
    assert "Of those that use the rate" not in report
    (scores, *_) = tables(report)
    assert scores[0][1:3] == ["median", "95 % interval"]
    own = tables(report)[2]
    assert own[0][2:4] == ["median", "worst"], "one seed says nothing of others: there is no interval"
    for table in tables(report)[:2]:
        assert not [column for column in zip(*table[2:], strict=True) if set(column) == {"–"}]


def test_what_so_few_runs_can_never_show_is_not_denied():
    report = markdown(made_results(workloads=WORKLOADS[:1], mishaps=False))
    assert "too few runs for a test against the tuned baseline, p is at least" in report
    assert "none shown to be better" not in report


def test_the_headline_says_what_was_shown():
    many = [f"w{i}" for i in range(10)]
    report = markdown(made_results(many, arms=("tuned baseline", "constant"), seeds=1, budgets=(1.0,)))
    assert "1 arm: none shown to be better than the tuned baseline, 1 to be worse." in report
    assert "constant is best from the tuned one (1.0" in report


def test_marks_are_escaped_and_words_are_not():
    assert plain("top_of_k a|b <i> *c*\n `d`") == r"top_of_k a\|b \<i\> \*c\* \`d\`"
    assert plain("p <0.001 a < b </i>") == r"p <0.001 a < b \</i\>"
    assert plain("_x_ __y__") == r"\_x\_ \_\_y\_\_"


def test_nothing_run_yet():
    made = made_results()
    report = markdown(dataclasses.replace(made, cells=(), searches={}, tuned={}))
    assert "0 of 696 runs are in" in report
    assert "## Where it falls short" not in report, "nothing says that all is well"
    assert re.search(r"digits MLP, SGD +\| no search finished", report)


def test_numbers():
    inf, nan = float("inf"), float("nan")
    values = (1.0, 0.0, 0.0123, 0.5, 9.996, 27.0, 99.96, 1234.5, inf, nan)
    assert list(map(number, values)) == [
        *("1.00", "0", "0.012", "0.50", "10.0", "27.0", "100", "1,234", "never", "–")
    ]
    assert [share(v) for v in (0.0, 0.001, 0.5, 0.999, 1.0, nan)] == [
        "0 %",
        "0.1 %",
        "50 %",
        "99.9 %",
        "100 %",
        "–",
    ]
    assert [factor(v) for v in (None, 0.001, 1000.0)] == ["any rate", "×0.001", "×1000"]


def test_a_baseline_that_fails_is_among_the_shortcomings():
    made = made_results(mishaps=False)
    cells = [
        dataclasses.replace(item, outcome=dataclasses.replace(item.outcome, final=float("nan")))
        if item.cell.arm == "tuned baseline" and item.cell.seed == 0
        else item
        for item in made.cells
    ]
    assert "- **tuned baseline**: 33 % destroyed." in markdown(dataclasses.replace(made, cells=tuple(cells)))


def with_outcomes(made, change, arm="tuned baseline", workload=WORKLOADS[0]):
    """The same, with other outcomes of an arm on a workload."""
    cells = tuple(
        dataclasses.replace(item, outcome=change(item.outcome))
        if (item.cell.arm, item.cell.workload) == (arm, workload)
        else item
        for item in made.cells
    )
    return dataclasses.replace(made, cells=cells)


def destroyed(outcome):
    return dataclasses.replace(outcome, final=float("nan"))


def test_a_workload_whose_baseline_failed_says_nothing():
    arms = ("tuned baseline", "constant", "plateau")
    made = made_results(WORKLOADS[:3], arms=arms, factors=(1.0,), budgets=(1.0,), mishaps=False)
    failed = with_outcomes(made, destroyed)
    report = markdown(failed)
    assert f"{WORKLOADS[0]} says nothing: 100 % of the tuned baseline's own runs" in report
    assert re.search(r"digits MLP, SGD +\| +100 % \|", report[report.index("## Errors") :])
    without = dataclasses.replace(
        made,
        steps={w: made.steps[w] for w in WORKLOADS[1:3]},
        cells=tuple(item for item in made.cells if item.cell.workload != WORKLOADS[0]),
    )
    over_all = [[r for r in summary(found) if r.workload == ALL] for found in (failed, without)]
    assert over_all[0] == over_all[1]
    assert not [line for line in shortcomings(summary(failed)) if WORKLOADS[0] in line[1]]


def test_when_every_baseline_failed_nothing_is_said_over_all_workloads():
    made = made_results(WORKLOADS[:1], arms=("tuned baseline", "plateau"), budgets=(1.0,))
    report = markdown(with_outcomes(made, destroyed))
    assert "says nothing" in report
    assert "## All workloads" not in report
    assert "falls short" not in report


def test_a_workload_whose_search_failed_is_named():
    made = made_results(arms=("tuned baseline", "plateau"))
    gone, kept = WORKLOADS[:2]
    lacking = dataclasses.replace(
        made,
        cells=tuple(item for item in made.cells if item.cell.workload == kept),
        searches={kept: made.searches[kept]},
        tuned={kept: made.tuned[kept]},
    )
    report = markdown(lacking)
    said = "no search of it is finished (see the errors of"
    assert f"Nothing of {gone} has been run: {said}" in report
    assert f"| {gone} | {said}" in report[report.index("## Errors") :]
    assert said not in markdown(made)


def test_benched_policies_are_named():
    made = made_results(WORKLOADS[:1], arms=("tuned baseline", "guard", "plateau"), budgets=(1.0,), seeds=2)
    benched = Event(
        7, 7, "supervisor", "escalate: guard is benched: decide raised ValueError: a | b", "applied"
    )
    late = dataclasses.replace(benched, step=90, text="escalate: guard is benched: later")
    other = dataclasses.replace(benched, source="plateau", text="escalate: x is benched: no")
    for item in made.cells:
        if item.cell.arm == "guard" and item.cell.seed == 0:
            item.outcome.events[:] = [benched, late]
        if item.cell.arm == "plateau":
            item.outcome.events.append(other)
    (table,) = tables(markdown(made)[markdown(made).index("## Errors") :])
    assert table[2:] == [["guard", "guard", r"decide raised ValueError: a \| b", "7", "7 of 14"]]


def test_the_summary_is_worked_out_once_where_it_is_given():
    made = made_results(arms=("tuned baseline", "plateau"))
    assert markdown(made, summary(made)) == markdown(made)
    assert "says nothing" not in markdown(made, [])
    assert "## All workloads" not in markdown(made, [])
