"""The Markdown report: all of it is there, and whatever names hold stays text."""

import dataclasses
import re

import pytest
from made_results import ARMS, WORKLOADS, made_results

from autotune.benchmarks.suites.formats import factor, number, share
from autotune.benchmarks.suites.markdown import markdown, plain


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


def test_tables_line_up_in_a_terminal(report):
    for block in report.split("\n\n"):
        if block.startswith("|"):
            assert len({len(line) for line in block.splitlines()}) == 1


def test_errors_and_missing_runs_are_named(report):
    trouble = report[report.index("## Errors") :]
    assert "expected a rate of at most 1, got 10" in trouble
    assert re.search(r"hypergradient +\| not run +\| +1 \|", trouble)
    assert "695 of 696 runs are in: what follows is provisional" in report


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


def test_marks_are_escaped_and_words_are_not():
    assert plain("top_of_k a|b <i> *c*\n `d`") == r"top_of_k a\|b \<i\> \*c\* \`d\`"
    assert plain("_x_ __y__") == r"\_x\_ \_\_y\_\_"


def test_nothing_run_yet():
    made = made_results()
    report = markdown(dataclasses.replace(made, cells=(), searches={}, tuned={}))
    assert "0 of 696 runs are in" in report
    assert "No run of it can be compared yet." in report


def test_numbers():
    inf, nan = float("inf"), float("nan")
    values = (1.0, 0.0123, 0.5, 12.345, 1234.5, inf, nan)
    assert list(map(number, values)) == ["1.00", "0.012", "0.50", "12.3", "1,234", "never", "–"]
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
