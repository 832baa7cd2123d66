"""Records come back from JSON and from files as they were, NaN and infinities included."""

import gzip
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.benchmarks.suites.results import (
    Cell,
    Config,
    Event,
    Finished,
    Look,
    Outcome,
    Results,
    Trial,
    cell_from,
    config_from,
    load,
    outcome_from,
    pack,
    results_from,
    save,
    trial_from,
)
from autotune.records import TuneError

TOLD = st.floats(allow_nan=False, allow_infinity=False)
MEASURED = st.floats()
NAMES = st.text(max_size=8)
CONFIGS = st.builds(
    Config,
    rate=TOLD,
    schedule=NAMES,
    weight_decay=st.none() | TOLD,
    pieces=st.lists(st.tuples(TOLD, TOLD, TOLD), max_size=2).map(tuple),
)
TRIALS = st.builds(
    Trial,
    config=CONFIGS,
    loss=MEASURED,
    spent=TOLD,
    pruned=st.booleans(),
    curve=st.lists(st.tuples(TOLD, MEASURED), max_size=2).map(tuple),
)
CELLS = st.builds(Cell, NAMES, NAMES, st.none() | TOLD, TOLD, st.integers(0, 99))
LOOKS = st.builds(Look, spent=TOLD, selection=MEASURED, rate=MEASURED)
EVENTS = st.builds(Event, st.integers(), st.integers(), NAMES, NAMES, NAMES)
LOSSES = ("initial", "final", "best", "initial_selection", "selection", "best_selection")
OUTCOMES = st.builds(
    Outcome,
    **dict.fromkeys(LOSSES, MEASURED),
    **dict.fromkeys(("spent", "allowed", "seconds"), TOLD),
    steps=st.integers(0, 10**6),
    looks=st.lists(LOOKS, max_size=2),
    events=st.lists(EVENTS, max_size=2),
)
FINISHED = st.builds(Finished, cell=CELLS, outcome=st.none() | OUTCOMES, error=st.none() | NAMES)
RESULTS = st.builds(
    Results,
    suite=NAMES,
    command=NAMES,
    versions=st.dictionaries(NAMES, NAMES, max_size=2),
    searches=st.dictionaries(
        NAMES,
        st.dictionaries(
            st.sampled_from(("grid", "pb2")), st.lists(TRIALS, max_size=2).map(tuple), max_size=2
        ),
        max_size=2,
    ),
    tuned=st.dictionaries(NAMES, CONFIGS, max_size=2),
    targets=st.dictionaries(NAMES, MEASURED, max_size=2),
    steps=st.dictionaries(NAMES, st.integers(), max_size=2),
    cells=st.lists(FINISHED, max_size=3).map(tuple),
    planned=st.integers(),
)


def through_json(record):
    return json.loads(json.dumps(pack(record), allow_nan=False))


def same(record, other):
    """NaN is NaN; a float stays one."""
    return repr(record) == repr(other)


@pytest.mark.parametrize(
    ("records", "back"),
    [
        (CONFIGS, config_from),
        (TRIALS, trial_from),
        (CELLS, cell_from),
        (OUTCOMES, outcome_from),
        (RESULTS, results_from),
    ],
    ids=["config", "trial", "cell", "outcome", "results"],
)
def test_every_record_comes_back(records, back):
    @settings(max_examples=40)
    @given(records)
    def holds(record):
        assert same(back(through_json(record)), record)

    holds()


def test_a_file_gives_the_same_results_and_the_same_results_give_the_same_file(tmp_path):
    outcome = Outcome(1.0, math.nan, 0.5, 1.0, math.inf, 0.4, 7, 7.5, 10, 0.1, [Look(0.0, 1.0, math.nan)], [])
    cells = (
        Finished(Cell("w", "a", None, 1.0, 0), outcome),
        Finished(Cell("w", "b", 1e-3, 1.0, 0), None, "it broke"),
    )
    tuned = {"w": Config(0.1, "pieces", None, ((0.0, 0.1, 0.01), (0.5, 0.2, 0.01)))}
    searches = {"w": {"pbt": (Trial(tuned["w"], math.nan, 3.0, True, ((1.0, math.nan),)),)}}
    results = Results("mine", "run it", {"torch": "2"}, searches, tuned, {"w": -math.inf}, {"w": 9}, cells, 3)
    save(results, tmp_path / "a.json.gz")
    again = load(tmp_path / "a.json.gz")
    assert same(again, results)
    save(again, tmp_path / "b.json.gz")
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"no json"), gzip.compress(b"{}"), gzip.compress(b"[]")],
    ids=["empty", "no gzip", "no json", "other json", "a list"],
)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "results.json.gz"
    path.write_bytes(content)
    with pytest.raises(TuneError, match=r"results are read from .*results\.json\.gz"):
        load(path)


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "results.json.gz"
    save(Results("mine", "", {}, {}, {}, {}, {}, (), 0), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TuneError, match=r"results\.json\.gz"):
        load(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TuneError, match="not there"):
        load(tmp_path / "none.json.gz")


def test_a_key_tells_cells_apart():
    cells = [
        Cell(workload, arm, factor, budget, seed)
        for workload in ("w", "v")
        for arm in ("a", "b")
        for factor in (None, 1e-3, 1.0)
        for budget in (1.0, 1.15)
        for seed in (0, 1)
    ]
    assert len({cell.key for cell in cells}) == len(cells)


def test_a_configuration_from_another_rate():
    config = Config(0.1, "pieces", 0.5, ((0.0, 0.1, 0.01), (0.5, 0.2, 0.01)))
    assert config.scaled(10.0) == Config(1.0, "pieces", 0.5, ((0.0, 1.0, 0.01), (0.5, 2.0, 0.01)))
