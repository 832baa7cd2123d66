"""The page: whole, self-contained, safe with any names, small, and readable without its pictures."""

import dataclasses
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_results import ARMS, FACTORS, WORKLOADS, made_results

from autotune.benchmarks.suites.charts import profile
from autotune.benchmarks.suites.html import html
from autotune.benchmarks.suites.markdown import markdown
from autotune.benchmarks.suites.mlflow_entries import entries
from autotune.benchmarks.suites.pairs import paired
from autotune.benchmarks.suites.results import Config, Event, Look, Trial
from autotune.benchmarks.suites.svg import PALETTE, brief, color, linear, logarithmic, stairs, style
from autotune.benchmarks.suites.timelines import MARKS, _rates, timelines
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
    deciding = [arm for arm, (_, _, decisions, _) in ARMS.items() if decisions or arm == "tuned baseline"]
    assert page.tags.count("button") == 2 * len(ARMS) + len(deciding), "a key holds the arms that are drawn"


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


def test_a_run_that_was_destroyed_is_said_to_be():
    made = made_results(arms=("tuned baseline", "plateau"), factors=(1.0,), seeds=1, budgets=(1.0,))
    for item in made.cells:
        item.outcome.final = math.nan
    assert [t.note for t in timelines(made, WORKLOADS[0])] == ["4 decisions; destroyed"]


def test_the_same_results_give_the_same_page(text):
    assert html(made_results()) == text


def test_a_suite_of_one_run():
    made = made_results(workloads=WORKLOADS[:1], arms=("tuned baseline",), seeds=1, budgets=(1.0,), trials=1)
    Page(html(made))


def test_nothing_run_yet():
    page = Page(html(dataclasses.replace(made_results(), cells=(), searches={}, tuned={})))
    assert "nav" not in page.tags
    assert not {"All workloads", "Where it falls short", "How it was measured"} & set(page.said)


def test_one_rate_has_no_robustness():
    page = Page(html(made_results(factors=(1.0,), budgets=(1.0,))))
    assert not [said for said in page.said if "Robustness" in said]
    assert "Performance profile" in " ".join(page.said)


def test_what_was_destroyed_solves_no_problem():
    made = made_results(WORKLOADS[:1], arms=("tuned baseline", "constant"), factors=(1.0,), budgets=(1.0,))
    close = {"tuned baseline": 2.0, "constant": math.nan}
    cells = [
        dataclasses.replace(f, outcome=dataclasses.replace(f.outcome, final=close[f.cell.arm]))
        for f in made.cells
    ]
    pairs, _ = paired(dataclasses.replace(made, cells=tuple(cells)))
    assert max(pair.final for pair in pairs) < 1.5
    (line,) = re.findall(
        r'data-arm="1" data-said="([^"]*)"', profile(pairs, 1.0, {"tuned baseline": 0, "constant": 1})[0]
    )
    assert {text.split()[0] for text in line.split("|")} == {"0"}


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
    early = dataclasses.replace(trials[0], loss=9.0, pruned=True)
    assert parallel([early, *trials], early.config, "w").count("kept") == 1, "the one that was run whole"
    assert parallel([], None, "w") is None


def test_twenty_arms_look_different():
    assert len({style(arm) for arm in range(21)}) == len({color(arm) for arm in range(21)}) == 21
    assert color(21) == color(1)


def test_colours_are_seen_on_white_and_on_black():
    def luminance(rgb):  # WCAG 2.2
        parts = [int(rgb[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for rgb in PALETTE:
        assert 1.05 / (luminance(rgb) + 0.05) >= 3, rgb
        assert (luminance(rgb) + 0.05) / (luminance("#141516") + 0.05) >= 3, rgb


def test_stairs_keep_a_value_up_to_the_next():
    assert stairs([(0, 1), (2, 5), (3, 4)]) == [(0, 1), (2, 1), (2, 5), (3, 5), (3, 4)]
    assert stairs([(0, 1)]) == [(0, 1)]
    assert stairs([]) == []


def test_the_rate_was_as_a_look_has_it_since_the_one_before():
    looks = [Look(0.0, 1.0, math.nan), Look(10.0, 1.0, 0.1), Look(20.0, 1.0, 0.2)]
    assert [p for p in _rates(looks) if not math.isnan(p[1])] == [(20, 0.2), (10, 0.2), (10, 0.1), (0, 0.1)]


def test_a_profile_says_where_it_is_cut():
    made = made_results(WORKLOADS[:1], arms=("tuned baseline", "constant"), factors=(1.0,), budgets=(1.0,))
    arms = {"tuned baseline": 0, "constant": 1}
    pairs, _ = paired(made)
    far = [
        dataclasses.replace(p, final=50.0, destroyed=False) if p.cell.arm == "constant" else p for p in pairs
    ]
    assert profile(far, 1.0, arms)[1] == "3 problems; cut at τ = 8, the largest is 50.0"
    near = [dataclasses.replace(p, final=3.0) if p.cell.arm == "constant" else p for p in pairs]
    assert profile(near, 1.0, arms)[1] == "3 problems"
    assert "100 % within 3.00 of the best" in profile(near, 1.0, arms)[0]


def test_runs_without_a_decision_are_named_not_drawn():
    made = made_results(WORKLOADS[:1], arms=("tuned baseline", "plateau"), factors=FACTORS[2:5], seeds=1)
    for item in made.cells:
        if item.cell.factor == 1.0:
            item.outcome.events.clear()
    text = html(made)
    assert "No decision: plateau, ×1." in text
    assert "<figcaption>plateau, ×0.1 " in text
    assert "<figcaption>plateau, ×1 " not in text


def test_what_matters_is_left_out_when_nothing_is_known():
    assert "What matters" not in html(made_results(trials=1))


ODD = st.sampled_from((math.nan, math.inf, -math.inf, 0.0, -1.0, 5e-324, 1e308, 1.0))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_number_in_a_result_breaks_a_report(data):
    arms = ("tuned baseline", "plateau")
    made = made_results(WORKLOADS[:1], arms=arms, factors=(0.1, 1.0), budgets=(1.0,), seeds=2, trials=3)
    for item in made.cells:
        for name in ("initial", "final", "best", "initial_selection", "selection", "best_selection"):
            if data.draw(st.booleans()):
                setattr(item.outcome, name, data.draw(ODD))
        looks = [
            dataclasses.replace(look, selection=data.draw(ODD), rate=data.draw(ODD))
            for look in item.outcome.looks[:3]
        ]
        item.outcome.looks[:3] = [] if data.draw(st.booleans()) else looks
        if data.draw(st.booleans()):
            item.outcome.looks.clear()
    searches = {
        workload: {
            method: tuple(dataclasses.replace(trial, loss=data.draw(ODD)) for trial in trials)
            for method, trials in methods.items()
        }
        for workload, methods in made.searches.items()
    }
    odd = dataclasses.replace(made, searches=searches, targets=dict.fromkeys(made.targets, data.draw(ODD)))
    text = html(odd)
    Page(text)
    assert not re.search(r'(?:points|[xy][12]?|cx|cy|width|height|d)="[^"]*(?:nan|inf)', text)
    markdown(odd)
    entries(odd)


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
