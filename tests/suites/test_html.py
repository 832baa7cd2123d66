"""The page: whole, self-contained, safe with any names, small, and readable without its pictures."""

import dataclasses
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import ARMS, FACTORS, WORKLOADS, made_results

from autotune.benchmarks.suites.html import html
from autotune.benchmarks.suites.results import Config, Event, Trial
from autotune.benchmarks.suites.svg import brief, linear, logarithmic, style
from autotune.benchmarks.suites.timelines import MARKS, timelines
from autotune.benchmarks.suites.trial_charts import matter, parallel

VOID = {"meta", "br"}
EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Checks that tags are closed in order; collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.said = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


@pytest.fixture(scope="module")
def text():
    return html(made_results())


def test_the_page_is_whole(text):
    page = Page(text)
    said = " ".join(page.said)
    for heading in (
        "Robustness to the initial rate",
        "Performance profile",
        "Time to target",
        "Where it falls short",
        "The tuned baselines",
        "What matters",
        "Trials",
        "Decisions",
        "Errors and missing runs",
    ):
        assert heading in said
    for name in (*ARMS, *WORKLOADS[:2], "expected a rate of at most 1, got 10", "autotune bench run made"):
        assert name in said
    assert page.tags.count("button") == len(ARMS)


def test_it_needs_no_network(text):
    page = Page(text)
    assert not {"link", "img", "iframe", "object", "use", "image", "base"} & set(page.tags)
    assert not {"src", "href", "xlink:href", "action"} & {name for name, _ in page.attributes}
    assert not re.search(r"https?:|//\w|@import|url\(|fetch\(|import\(", text)
    assert page.tags.count("script") == page.tags.count("style") == 1


def test_every_picture_has_a_text_alternative(text):
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(pictures) > 50
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        if root.get("aria-hidden") != "true":
            assert root.get("role") == "img"
            assert len(root.get("aria-label")) > 20


def test_no_coordinate_is_broken(text):
    numbers = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")
    for points in re.findall(r' points="([^"]*)"', text):
        for point in points.split():
            x, y = point.split(",")
            assert numbers.fullmatch(x)
            assert numbers.fullmatch(y)
            assert 0 <= float(x) <= 360
            assert 0 <= float(y) <= 250
    for value in re.findall(r' (?:x|y|x1|x2|y1|y2|cx|cy|width|height)="([^"]*)"', text):
        assert numbers.fullmatch(value)


def test_names_texts_and_errors_stay_text():
    made = made_results(workloads=(EVIL,), arms=("tuned baseline", "GreedyLR", "plateau"), seeds=2)
    cells = []
    for item in made.cells:
        arm = item.cell.arm if item.cell.arm == "tuned baseline" else EVIL + item.cell.arm
        outcome, error = item.outcome, item.error and EVIL
        if outcome is not None:
            events = [dataclasses.replace(e, text=EVIL, source=EVIL, status=EVIL) for e in outcome.events]
            outcome = dataclasses.replace(outcome, events=events)
        cells.append(
            dataclasses.replace(
                item, cell=dataclasses.replace(item.cell, arm=arm), outcome=outcome, error=error
            )
        )
    schedules = {EVIL: {EVIL: tuple(Trial(Config(10.0**-i, EVIL), 1.0 + i, 10.0) for i in range(12))}}
    evil = dataclasses.replace(
        made, suite=EVIL, command=EVIL, versions={EVIL: EVIL}, cells=tuple(cells), searches=schedules
    )
    page = Page(html(evil))
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_thousands_of_runs_with_many_decisions_stay_small():
    made = made_results(WORKLOADS, seeds=5)
    chatty = [Event(i, i, "a policy of a long name", "because " * 60, "applied") for i in range(300)]
    for item in made.cells:
        if item.outcome is not None and item.outcome.events:
            item.outcome.events[:] = chatty
    assert len(made.cells) > 5_000
    assert len(html(made).encode()) < 3_000_000


def test_timelines_are_of_arms_that_decide_from_the_ends_and_the_middle():
    made = made_results(mishaps=False)
    found = timelines(made, WORKLOADS[0])
    deciding = [arm for arm, (_, _, decisions, _) in ARMS.items() if decisions]
    assert [(t.arm, t.rate) for t in found] == [(a, r) for a in deciding for r in ("×0.001", "×1", "×1000")]
    assert found[0].note == "4 decisions"
    assert found[0].picture.count("<circle") == 4


def test_decisions_that_are_not_drawn_are_counted():
    made = made_results(arms=("tuned baseline", "plateau"), factors=FACTORS[:1])
    for item in made.cells:
        if item.cell.arm == "plateau":
            item.outcome.events[:] = item.outcome.events[:1] * 100
    (found,) = timelines(made, WORKLOADS[0])
    assert found.note == "100 decisions, one in 5 marked"
    assert found.picture.count("<circle") == 20 <= MARKS


def test_the_same_results_give_the_same_page(text):
    assert html(made_results()) == text


def test_a_suite_of_one_run():
    made = made_results(workloads=WORKLOADS[:1], arms=("tuned baseline",), seeds=1, budgets=(1.0,), trials=1)
    Page(html(made))


def test_nothing_run_yet():
    page = Page(html(dataclasses.replace(made_results(), cells=(), searches={}, tuned={})))
    assert "No run of it can be compared yet." in page.said


def test_importance_leaves_out_what_was_stopped_early():
    whole = [Trial(Config(10.0**-i, "cosine", 0.1), 1.0 + i, 10.0) for i in range(10)]
    stopped = [Trial(Config(10.0**-i, "linear", 0.0), 100.0 - i, 1.0, pruned=True) for i in range(10)]
    found = matter(whole + stopped)
    assert found.forest == {"rate": pytest.approx(1), "schedule": 0, "weight decay": 0}
    assert found.rank["rate"] == pytest.approx(-1)
    assert found.rank["weight decay"] != found.rank["weight decay"]
    assert matter(stopped) is None
    assert matter(whole[:9]) is None


def test_every_trial_has_a_line_and_the_baseline_a_thick_one():
    trials = [Trial(Config(10.0**-i, "cosine"), 1.0 + i, 10.0, pruned=i == 3) for i in range(6)]
    picture = parallel(trials, trials[0].config, "w")
    assert picture.count("<polyline") == 6
    assert picture.count("pruned") == picture.count("kept") == 1
    assert "rate 1, schedule cosine, weight decay usual" in picture
    assert parallel([], None, "w") is None


def test_twenty_arms_look_different():
    assert len({style(arm) for arm in range(21)}) == 21


@given(st.floats(1e-8, 1e8), st.floats(1.0, 1e6))
def test_logarithmic_axes_have_ticks_within_them(low, ratio):
    axis = logarithmic("x", low, low * ratio)
    assert 2 <= len(axis.ticks) <= 8
    assert all(axis.low <= value <= axis.high for value, _ in axis.ticks)
    assert axis.part(axis.low) == 0
    assert axis.part(axis.high) == 1
    assert axis.part(axis.high * 10) == 1


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_linear_axes_have_ticks_within_them(low, width):
    axis = linear("x", low, low + width)
    assert 2 <= len(axis.ticks) <= 7
    assert all(-1e-6 <= (value - low) / width <= 1 + 1e-6 for value, _ in axis.ticks)


def test_ticks_are_short():
    values = (1e-6, 0.0005, 0.001, 0.15, 1.5, 100, 1e6)
    assert list(map(brief, values)) == ["1e-6", "5e-4", "0.001", "0.15", "1.5", "100", "1e6"]
