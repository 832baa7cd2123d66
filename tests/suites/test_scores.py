"""What a benchmark could hide: failures, gaps, seeds that are not paired, rates taken for evidence."""

import dataclasses
import math
import random

import pytest
from made_results import FACTORS, WORKLOADS, made_results

from autotune.benchmarks.suites.costs import searches
from autotune.benchmarks.suites.pairs import BASELINE, paired
from autotune.benchmarks.suites.results import Cell, Config, Finished, Look, Outcome, Results, Trial
from autotune.benchmarks.suites.scores import ALL, silent, summary


def outcome(final, best=None, initial=10.0, curve=(10.0, 5.0, 1.0), spent=100.0, allowed=100.0):
    looks = [Look(100.0 * i, loss, 0.1) for i, loss in enumerate(curve)]
    best = final if best is None else best
    return Outcome(initial, final, best, initial, final, best, int(spent), spent, allowed, 1.0, looks)


def run(arm, seed, result, factor=None, budget=1.0, workload="w"):
    cell = Cell(workload, arm, factor, budget, seed)
    return Finished(cell, None, result) if isinstance(result, str) else Finished(cell, result)


def results(*cells, workloads=("w",), found=None):
    return Results(
        suite="s",
        command="c",
        versions={},
        searches=found or {},
        tuned={},
        targets=dict.fromkeys(workloads, 2.0),
        steps=dict.fromkeys(workloads, 100),
        cells=cells,
        planned=len(cells),
    )


def row(found, arm, budget=1.0, workload="w"):
    (only,) = [r for r in summary(found) if (r.workload, r.arm, r.budget) == (workload, arm, budget)]
    return only


def test_scores_are_paired_by_seed():
    bases, ours = [1.0, 2.0, 4.0], [1.1, 2.2, 4.4]
    cells = [run(BASELINE, s, outcome(v)) for s, v in enumerate(bases)]
    cells += [run("arm", s, outcome(v)) for s, v in enumerate(ours)]
    random.Random(0).shuffle(cells)
    found = row(results(*cells), "arm")
    assert found.final.median == found.final.low == found.final.high == pytest.approx(1.1)
    assert found.final.worst == pytest.approx(1.1)
    assert found.harmed == 1


@pytest.mark.parametrize("failure", [outcome(math.nan), outcome(math.inf), outcome(99.0), "ValueError: no"])
def test_what_failed_counts_as_the_initial_loss(failure):
    cells = [run(BASELINE, s, outcome(2.0)) for s in range(3)]
    cells += [run("arm", 0, outcome(2.0)), run("arm", 1, failure), run("arm", 2, failure)]
    found = row(results(*cells), "arm")
    assert (found.cells, found.missing) == (3, 0)
    assert found.final.median == found.final.worst == 10.0 / 2.0
    assert found.destroyed == pytest.approx(2 / 3)
    assert found.errors == (2 if isinstance(failure, str) else 0)
    assert found.spent == 1.0


def test_a_run_that_ends_as_it_began_is_destroyed():
    found = results(run(BASELINE, 0, outcome(2.0)), run("arm", 0, outcome(10.0)))
    assert row(found, "arm").destroyed == 1


def test_a_run_without_its_baseline_is_left_out_and_named():
    cells = [run(BASELINE, 0, outcome(1.0)), run(BASELINE, 2, "OSError: gone")]
    cells += [run("arm", s, outcome(1.5)) for s in range(3)]
    pairs, gaps = paired(results(*cells))
    assert [pair.cell for pair in pairs] == [cells[0].cell, cells[2].cell]
    assert {(gap.cell.arm, gap.cell.seed): gap.reason for gap in gaps} == {
        ("arm", 1): "the baseline of its seed was not run",
        ("arm", 2): "the baseline of its seed ended in an error",
        (BASELINE, 2): "the baseline of its seed ended in an error",
        (BASELINE, 1): "not run",
    }
    found = row(results(*cells), "arm")
    assert (found.cells, found.missing) == (1, 2)


def test_a_run_that_is_missing_from_the_grid_is_named():
    whole = made_results(mishaps=False)
    assert paired(whole)[1] == []
    gone = whole.cells[37]
    partial = dataclasses.replace(whole, cells=(*whole.cells[:37], *whole.cells[38:]))
    pairs, gaps = paired(partial)
    assert [(gap.cell, gap.reason) for gap in gaps] == [(gone.cell, "not run")]
    assert len(pairs) == len(whole.cells) - 1
    found = row(partial, gone.cell.arm, gone.cell.budget, gone.cell.workload)
    assert found.missing == 1


@pytest.mark.parametrize(
    "bad", [outcome(-1.0), outcome(1.0, initial=math.nan), outcome(1.0, initial=math.inf)]
)
def test_what_has_no_logarithm_is_left_out_and_named(bad):
    pairs, gaps = paired(results(run(BASELINE, 0, outcome(1.0)), run("arm", 0, bad)))
    assert [pair.cell.arm for pair in pairs] == [BASELINE]
    assert [(gap.cell.arm, gap.reason.split(",")[0]) for gap in gaps] == [("arm", "a loss is negative")]


def test_zero_losses_have_a_score():
    found = results(run(BASELINE, 0, outcome(0.0)), run("arm", 0, outcome(0.0)))
    assert row(found, "arm").final.median == 1.0


def test_a_larger_budget_is_compared_with_the_baseline_at_1():
    cells = [run(BASELINE, 0, outcome(2.0)), run(BASELINE, 0, outcome(1.6), budget=1.15)]
    cells += [run("arm", 0, outcome(1.8, spent=115.0, allowed=115.0), budget=1.15)]
    assert row(results(*cells), "arm", 1.15).final.median == 0.9
    assert row(results(*cells), "arm", 1.15).spent == 1.15
    assert row(results(*cells), BASELINE, 1.15).final.median == 0.8


def test_the_best_state_is_compared_with_the_best_state():
    found = results(run(BASELINE, 0, outcome(2.0, best=1.0)), run("arm", 0, outcome(9.0, best=1.5)))
    assert row(found, "arm").best.median == 1.5
    assert row(found, "arm").final.median == 4.5


def test_rates_of_a_seed_are_no_evidence_of_their_own():
    def p(factors):
        cells = [run(BASELINE, s, outcome(1.0 + s)) for s in range(5)]
        cells += [run("arm", s, outcome((1.0 + s) * (1.1 + 0.01 * s)), f) for s in range(5) for f in factors]
        return row(results(*cells), "arm").final

    assert p([1.0]).p_worse == p(FACTORS).p_worse == pytest.approx(2 / 32)  # two tests: worse, better
    assert p([1.0]).p_better == p(FACTORS).p_better == 1
    assert p([1.0]).high == p(FACTORS).high


def test_over_all_workloads_seeds_are_no_evidence_of_their_own():
    def p(workloads, seeds):
        names = [f"w{i}" for i in range(workloads)]
        cells = [run(BASELINE, s, outcome(1.0), workload=w) for w in names for s in range(seeds)]
        cells += [
            run("arm", s, outcome(2.0 + 0.1 * i + 0.01 * s), workload=w)
            for i, w in enumerate(names)
            for s in range(seeds)
        ]
        return row(results(*cells, workloads=names), "arm", workload=ALL).final

    assert p(2, 20).p_worse == pytest.approx(2 / 4)
    assert p(8, 1).p_worse == p(8, 5).p_worse == pytest.approx(2 / 256)
    assert p(1, 5).p_worse == pytest.approx(2 / 32), "of one workload they are"


def test_p_is_corrected_over_the_arms_of_the_table():
    def p(arms):
        cells = [
            run(arm, s, outcome(2.0 if arm == BASELINE else 1.0 + 0.1 * s)) for arm in arms for s in range(8)
        ]
        return row(results(*cells), "a").final.p_better

    assert p([BASELINE, "a"]) == pytest.approx(2 / 256)
    assert p([BASELINE, "a", "b", "c"]) == pytest.approx(6 / 256)


def test_the_baseline_is_not_tested_against_itself():
    found = row(results(run(BASELINE, 0, outcome(1.0))), BASELINE)
    assert math.isnan(found.final.p_better)
    assert math.isnan(found.final.p_worse)


def test_rates_sensitivity_and_harm():
    cells = [run(BASELINE, 0, outcome(1.0)), run("any", 0, outcome(1.005))]
    cells += [run("arm", 0, outcome(v), f) for f, v in ((0.1, 2.0), (1.0, 1.02), (10.0, math.nan))]
    found = row(results(*cells), "arm")
    assert found.rates == {0.1: 2.0, 1.0: 1.02, 10.0: 10.0}
    assert found.sensitivity == pytest.approx((2 + 1.02 + 10) / 3 - 1.02)
    assert found.harmed == 1
    ignoring = row(results(*cells), "any")
    assert (ignoring.rates, ignoring.sensitivity, ignoring.harmed) == ({}, 0, 0)


def test_sensitivity_is_of_what_was_run_from_all_rates():
    cells = [run(BASELINE, s, outcome(1.0)) for s in range(2)]
    cells += [run("arm", 0, outcome(v), f) for f, v in ((0.1, 2.0), (1.0, 1.0), (10.0, 3.0))]
    cells += [run("arm", 1, outcome(1.0), f) for f in (0.1, 1.0)]
    assert row(results(*cells), "arm").sensitivity == pytest.approx(1.0)
    cells = [*cells[:2], run("arm", 0, outcome(2.0), 1.0)]
    assert math.isnan(row(results(*cells), "arm").sensitivity)


def test_time_to_target_counts_those_who_never_get_there():
    cells = [run(BASELINE, s, outcome(1.0)) for s in range(3)]  # there at 200
    cells += [
        run("arm", 0, outcome(1.0, curve=(10.0, 1.5, 1.0))),
        run("arm", 1, outcome(3.0, curve=(10.0, 5.0, 3.0))),
        run("arm", 2, "ValueError: no"),
    ]
    found = row(results(*cells), "arm")
    assert found.time == math.inf
    assert found.reached == pytest.approx(1 / 3)
    assert row(results(*cells[:1], cells[3]), "arm").time == 0.5


def test_no_time_where_the_baseline_never_gets_there():
    cells = [run(BASELINE, 0, outcome(3.0, curve=(9.0, 8.0, 7.0))), run("arm", 0, outcome(1.0))]
    found = row(results(*cells), "arm")
    assert math.isnan(found.time)
    assert math.isnan(found.reached)


def test_a_destroyed_baseline_makes_no_score_disappear():
    found = results(run(BASELINE, 0, outcome(math.nan)), run("arm", 0, outcome(1.0)))
    assert row(found, "arm").final.median == 0.1
    assert row(found, BASELINE).destroyed == 1


def test_more_than_was_allowed_is_seen():
    rounding = outcome(1.0, spent=115.0, allowed=1.15 * 100)
    assert rounding.spent > rounding.allowed
    cells = [run(BASELINE, 0, outcome(1.0)), run("arm", 0, outcome(1.0, spent=107.0)), run("b", 0, rounding)]
    pairs, _ = paired(results(*cells))
    assert [pair.overspent for pair in pairs] == [0.0, 7.0, 0.0]


def test_rows_of_a_whole_suite():
    found = made_results(WORKLOADS[:2])
    rows = summary(found)
    keys = [(r.workload, r.arm, r.budget) for r in rows]
    assert len(set(keys)) == len(keys)
    assert sum(r.cells for r in rows if r.workload == ALL) == len(found.cells)
    assert list(dict.fromkeys(r.workload for r in rows)) == [*WORKLOADS[:2], ALL]
    for r in rows:
        assert r.final.low <= r.final.high <= r.final.worst
        assert 0 < r.spent <= r.budget + 1e-9
    shuffled = list(found.cells)
    random.Random(0).shuffle(shuffled)
    shuffled.sort(key=lambda item: item.cell.arm != BASELINE)
    again = summary(dataclasses.replace(found, cells=tuple(shuffled)))
    medians = {(r.workload, r.arm, r.budget): r.final.median for r in again}
    assert medians == {(r.workload, r.arm, r.budget): r.final.median for r in rows}


def test_a_workload_says_nothing_when_most_of_its_baseline_was_destroyed():
    def found(destroyed):
        cells = [run(BASELINE, s, outcome(10.0 if s < destroyed else 1.0)) for s in range(4)]
        cells += [run("arm", s, outcome(5.0)) for s in range(4)]
        cells += [run(arm, s, outcome(2.0), workload="v") for arm in (BASELINE, "arm") for s in range(4)]
        return summary(results(*cells, workloads=("w", "v")))

    assert silent(found(2)) == {}
    assert silent(found(3)) == {"w": 0.75}
    counted = [[r.cells for r in found(n) if r.workload == ALL] for n in (2, 3, 4)]
    assert counted == [[8, 8], [4, 4], [4, 4]]
    assert [r.final.median for r in found(4) if (r.workload, r.arm) == (ALL, "arm")] == [1.0]


def test_what_no_ratio_can_hold_is_left_out_and_named():
    cells = [run(BASELINE, 0, outcome(1e-10, initial=1e-3)), run("arm", 0, outcome(1.0, initial=1e308))]
    assert [gap.reason for gap in paired(results(*cells))[1]] == [
        "a loss is beyond what a ratio of them can hold"
    ]


def test_nothing_run_gives_no_rows():
    assert summary(results()) == []
    assert paired(results()) == ([], [])


def test_what_the_searches_cost():
    def trial(rate, loss, spent=50.0, pruned=False):
        return Trial(Config(rate), loss, spent, pruned)

    found = {
        "w": {
            "grid": (trial(1.0, 2.0), trial(2.0, 1.005), trial(3.0, 1.5)),
            "asha": (trial(1.0, 0.5, 10.0, pruned=True), trial(4.0, 1.0), trial(5.0, 3.0)),
            "random": (trial(1.0, 4.0),),
        }
    }
    grid, asha, plain = searches(results(found=found))
    assert (grid.best.rate, grid.loss, grid.runs, grid.runs_to_near) == (2.0, 1.005, 1.5, 1.0)
    assert (asha.best.rate, asha.loss, asha.pruned, asha.runs, asha.runs_to_near) == (4.0, 1.0, 1, 1.1, 0.6)
    assert (plain.loss, plain.runs_to_near) == (4.0, math.inf)
