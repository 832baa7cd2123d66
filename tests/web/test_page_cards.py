"""The page's cards in a browser, fed with documents of a run: what a person edits and what she is told."""

import math
from pathlib import Path

import pytest
from playwright import sync_api

from autotune.actions import SHAPES
from autotune.records import between

STATIC = Path(__file__).parents[2] / "autotune" / "web" / "static"
PAGE = """<!doctype html><meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="/static/style.css"><link rel="stylesheet" href="/static/controls.css">
<div class="panel"><div class="slot" id="cards"></div></div>"""
POLICY = "default-src 'self'; require-trusted-types-for 'script'"
MOUNT = """async ([write]) => {
  const cards = await import("/static/cards.js");
  window.sent = [];
  window.acks = [];
  const command = (run, action) => new Promise((settle) => sent.push(action) && acks.push(settle));
  const chart = { preview: (name, points) => (window.previewed = points), mark: () => {} };
  const context = { run: "r", api: { command }, session: { write }, toast: () => {}, chart };
  window.panel = cards.mount(document.getElementById("cards"), context);
}"""


def knob(name="lr", kind="log", low=1e-8, high=10.0, value=0.01, **more):
    rest = {"choices": [], "unit": "", "owner": "policy", "pinned_until": None, "ramp": None}
    return {"name": name, "kind": kind, "low": low, "high": high, "value": value, **rest, **more}


def document(*knobs, **more):
    standing = {"status": "running", "trying": False, "step": 100, "spent": 140, "total_steps": 1140}
    return {**standing, "hyperparameters": [*knobs], **more}


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(5000)
    failures = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda said: said.type == "error" and failures.append(said.text))

    def answer(route):
        path = route.request.url.removeprefix("http://page/")
        if path == "":
            headers = {"Content-Security-Policy": POLICY}
            route.fulfill(body=PAGE, content_type="text/html", headers=headers)
        else:
            route.fulfill(path=STATIC / path.removeprefix("static/"))

    page.route("http://page/**", answer)
    page.goto("http://page/")
    yield page
    page.close()
    assert failures == []


def mount(page, run, write=True):
    page.evaluate(MOUNT, [write])
    update(page, run)


def update(page, run):
    page.evaluate("(run) => panel.update(run)", run)


def by(page, test):
    return page.locator(f'[data-test="{test}"]')


def test_ramps_are_drawn_as_they_are_run(page):
    ends = [(1e-2, 1e-5), (1e-4, 0.3), (2.0, 2.0)]
    parts = [0.0, 0.25, 0.5, 1.0]
    asked = [(first, last, part, shape) for first, last in ends for part in parts for shape in SHAPES]
    code = """async (all) => {
      const { between } = await import("/static/numbers.js");
      return all.map((one) => between(...one));
    }"""
    assert page.evaluate(code, asked) == pytest.approx([between(*one) for one in asked], rel=1e-12)


@pytest.mark.parametrize(("kind", "low", "high"), [("log", 1e-8, 10.0), ("float", 0.0, 0.9), ("int", 1, 64)])
def test_sliders_reach_both_ends_and_come_back(page, kind, low, high):
    code = """async (knob) => {
      const scale = (await import("/static/numbers.js")).scaleOf(knob);
      return [0, 0.25, 0.5, 1].map((part) => [part, scale.value(part), scale.part(scale.value(part))]);
    }"""
    way = page.evaluate(code, {"kind": kind, "low": low, "high": high})
    assert (way[0][1], way[-1][1]) == (low, high)
    for part, value, back in way:
        assert back == pytest.approx(part, abs=0.01)
        assert kind != "int" or value == math.floor(value)


def test_two_taps_lower_a_rate_and_the_answer_is_told(page):
    mount(page, document(knob()))
    page.get_by_role("button", name="÷3").click()
    assert by(page, "set-lr").input_value() == "0.003333"
    by(page, "apply-lr").click()
    assert page.evaluate("sent") == [{"name": "lr", "kind": "set", "value": pytest.approx(0.01 / 3)}]
    assert page.get_by_role("status").inner_text() == "sent…"
    update(page, document(knob(), trying=True))
    assert page.get_by_role("status").inner_text() == "sent… waiting: the run is in a trial"
    page.evaluate("acks[0]({ status: 'refused', note: 'bob has it' })")
    sync_api.expect(page.get_by_role("status")).to_have_text("bob has it")
    assert by(page, "set-lr").input_value() == "0.003333"  # to be tried again


def test_an_edit_is_not_overwritten_until_it_is_dropped(page):
    mount(page, document(knob()))
    by(page, "set-lr").fill("2.5e-4")
    slider = by(page, "slider-lr").input_value()
    update(page, document(knob(value=0.02)))
    assert by(page, "set-lr").input_value() == "2.5e-4"
    assert by(page, "slider-lr").input_value() == slider
    by(page, "set-lr").press("Escape")
    assert by(page, "set-lr").input_value() == "0.02"
    assert by(page, "apply-lr").is_disabled()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("50", "Give a value between 1e-8 and 10."),
        ("fast", "Give a number between 1e-8 and 10, such as 2.5e-4."),
    ],
)
def test_what_cannot_be_is_said_at_once(page, typed, told):
    mount(page, document(knob()))
    by(page, "set-lr").fill(typed)
    sync_api.expect(page.get_by_role("alert").filter(has_text="Give")).to_have_text(told)
    assert by(page, "apply-lr").is_disabled()


def test_a_ramp_is_told_in_words_previewed_and_sent(page):
    mount(page, document(knob()))
    by(page, "ramp-lr").click()
    by(page, "ramp-value-lr").fill("2.5e-4")
    by(page, "ramp-steps-lr").fill("10,000")
    by(page, "ramp-shape-lr-cosine").check(force=True)
    words = page.locator("dialog .sentence").inner_text().replace("\u202f", ",")
    assert words.startswith("lr from 0.01 to 2.5e-4 over the next 10,000 steps, cosine;")
    assert page.evaluate("[previewed[0], previewed.at(-1)]") == [[100, 0.01], [10100, 2.5e-4]]
    by(page, "ramp-apply-lr").click()
    action = {"name": "lr", "kind": "ramp", "value": 2.5e-4, "steps": 10000, "shape": "cosine"}
    assert page.evaluate("sent") == [action]
    page.evaluate("acks[0]({ status: 'applied', step: 101 })")
    sync_api.expect(page.locator("dialog")).to_have_count(0)
    assert page.evaluate("previewed") is None


def test_a_schedule_under_way_is_edited_by_finger_keyboard_and_table(page):
    points = [[50, 0.02, "linear"], [400, 0.3, "cosine"], [900, 0.1, "linear"]]
    ramp = {"source": "human:ann", "start": 0, "first": 0.1, "points": points}
    mount(page, document(knob("dropout", "float", 0.0, 0.9, 0.1, ramp=ramp)))
    by(page, "schedule-dropout").click()
    handles = page.locator("dialog .corner")
    sync_api.expect(handles).to_have_count(2)  # what is past is over
    place = handles.nth(0).locator(".dot").bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 2000, y - 40, steps=3)  # it stays before the next point
    page.mouse.up()
    fields = page.locator("dialog tbody input")
    assert fields.nth(0).input_value() == "899"
    assert float(fields.nth(1).input_value()) > 0.3
    page.keyboard.press("Delete")
    sync_api.expect(handles).to_have_count(1)
    fields.nth(0).fill("90")
    assert "Give a step after 100." in page.locator("dialog").inner_text()
    assert by(page, "schedule-apply-dropout").is_disabled()
    fields.nth(0).fill("500")
    by(page, "schedule-apply-dropout").click()
    assert page.evaluate("sent")[0]["points"] == [[500, 0.1, "linear"]]


@pytest.mark.parametrize(
    ("write", "status", "told"),
    [(False, "running", "looking on"), (True, "finished", "This run is finished")],
)
def test_who_cannot_act_sees_everything_and_why(page, write, status, told):
    mount(page, document(knob(owner="human:ann", pinned_until=200), status=status), write)
    assert told in page.locator("#cards").inner_text()
    assert page.locator(".chip").inner_text().replace("\u202f", "") == "held by ann until step 160"
    for test in ("set-lr", "slider-lr", "apply-lr", "ramp-lr", "schedule-lr", "pin-lr", "release-lr"):
        assert by(page, test).is_disabled(), test


def test_cards_fit_a_phone_and_every_target_a_thumb(page):
    knobs = [knob("a/very/long.name of a_hyperparameter", owner="human:somebody with a name")]
    knobs.append(knob("augment", "categorical", None, None, "light", choices=["none", "light", "heavy"]))
    mount(page, document(*knobs))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    targets = page.locator("#cards button:visible, #cards input:not([type=radio]):visible")
    assert min(box["height"] for box in (each.bounding_box() for each in targets.all())) >= 44
