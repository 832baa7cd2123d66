"""The page's list, charts and header in a browser, served by the real server from real journals."""

import dataclasses
import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect
from served import make_run, served, until

from autotune.commands import Ack, mailbox
from autotune.journal import Journal
from autotune.records import Rewind, Set

STATIC = Path(__file__).parents[2] / "autotune" / "web" / "static"
NAME = "<b onclick=alert(1)>run & co"
OTHER = "other_of-a-long-name,seed=1,lr=0.003,batch=64,again-after-the-loader-was-mended"
LIVE = [[0, 0], [300, 500]]


def decide(journal, action, source, step, spent, branch=0, status="applied", after=None, live=LIVE):
    where = {"step": step, "spent": spent, "branch": branch}
    decision = journal.decide(**where, source=source, action=action, before={"lr": 0.1})
    settled = dataclasses.replace(decision, status=status, after=after or {})
    standing = {"values": {"lr": 0.01}, "owners": {"lr": "policy"}, "ramps": {}, "paused": False}
    journal.settle(settled, {**standing, "stretches": live})


def make_tried(folder):
    """A run that has tried three things out, and adopted the last one without its cool-down."""
    journal = make_run(folder)
    live = [[0, 0], [40, 120], [60, 160]]
    pieces = [(0, 40, 0), (40, 100, 40), (40, 60, 100), (40, 80, 120), (60, 200, 160)]
    for branch, (first, last, begun) in enumerate(pieces):
        for step in range(first + 1, last + 1):
            journal.metric("loss", 1 / step, step, begun + step - first, branch)
            journal.metric("hp/lr", 0.003 - 1e-9 * step, step, begun + step - first, branch)
    decide(journal, Set(reason="", name="lr", value=0.02), "guard", 60, 160, 4, after={"lr": 0.02}, live=live)
    journal.flush()
    return journal


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run of 800 steps, 200 of which were rewound, a short one, and one with trials."""
    root = tmp_path_factory.mktemp("runs")
    journal = make_run(root / NAME)
    for spent in range(1, 801):
        branch, step = (0, spent) if spent <= 500 else (1, spent - 200)
        journal.metric("loss", 2.0 / step + 0.1, step, spent, branch)
        if spent % 10 == 0:
            journal.metric("hp/lr", 0.1 if branch == 0 else 0.01, step, spent, branch)
            journal.metric("validation/loss", 3.0 / step + 0.1, step, spent, branch)
    journal.flush()
    decide(journal, Set(reason="too low", name="lr", value=0.1), "human:ada", 100, 100, after={"lr": 0.1})
    back = Rewind(reason="it rose", to=300, evidence={"rise": 1.25})
    decide(journal, back, "guard", 500, 500, after={"lr": 0.01})
    policies = ["guard", "a_policy_whose_name_is_as_long_as_this"]
    other = make_run(root / OTHER, steps=50, policies=policies)
    tried = make_tried(root / "tried")
    yield root
    for each in (journal, other, tried):
        each.close()


@pytest.fixture
def phone(browser, server):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(10_000)
    failures = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda said: "Content Security" in said.text and failures.append(said.text))
    page.on("dialog", lambda dialog: failures.append("a script of the run's name ran"))
    page.goto(f"{server.origin}/?token={server.write}")
    yield page
    context.close()
    assert failures == []


def by(page, test):
    return page.locator(f'[data-test="{test}"]')


def opened(page):
    by(page, f"run-{NAME}").tap()
    drawn = page.locator('[data-chart="Loss"][data-drawn]')
    drawn.wait_for()
    return drawn


def text(locator):
    return locator.inner_text().replace("\u202f", "")


def test_the_list_shows_a_run_and_leads_to_it(phone):
    row = by(phone, f"run-{NAME}")
    assert NAME in row.inner_text()
    assert "running" in row.inner_text()
    assert "validation loss 0.105" in " ".join(row.inner_text().split())
    assert "training loss 0.02" in " ".join(by(phone, f"run-{OTHER}").inner_text().split())
    assert len(row.locator("polyline").get_attribute("points").split()) > 20
    opened(phone)
    assert phone.locator("h1").inner_text() == NAME
    assert text(by(phone, "step")) == "600"


def test_on_a_phone_the_loss_and_the_rate_are_there_without_scrolling(phone):
    opened(phone)
    apply = by(phone, "apply-lr").bounding_box()
    assert apply["y"] + apply["height"] <= 844
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    for test in ("pause", "undo", "stop", "theme", "marks", "author"):
        assert by(phone, test).bounding_box()["height"] >= 44, test


def test_a_mark_opens_the_evidence(phone):
    opened(phone)
    marks = by(phone, "marks")
    marks.focus()
    marks.press("End")
    assert "guard: rewind to 300" in marks.get_attribute("aria-valuetext")
    marks.press("Enter")
    sheet = by(phone, "decision-sheet")
    sheet.get_by_text("it rose").wait_for()
    assert "1.25" in sheet.inner_text()
    sheet.press("Escape")
    sheet.wait_for(state="detached")
    box = marks.bounding_box()  # the person's mark, by a finger: step 100 of 600
    phone.touchscreen.tap(box["x"] + 54 + (box["width"] - 54 - 18) / 6, box["y"] + box["height"] / 4)
    sheet.get_by_text("too low").wait_for()


def test_charts_zoom_together_and_come_back(phone):
    asked = []
    phone.on("request", lambda request: "/series" in request.url and asked.append(request.url))
    chart = opened(phone)
    before = phone.locator('[data-chart="Loss"] canvas').screenshot()
    chart.focus()
    chart.press("+")
    by(phone, "zoom-reset").wait_for()
    until(lambda: phone.wait_for_timeout(50) or any("from=" in url for url in asked))
    assert phone.locator('[data-chart="Loss"] canvas').screenshot() != before
    chart.press("0")
    by(phone, "zoom-reset").wait_for(state="hidden")


def test_over_steps_spent_the_rewound_stretch_has_its_own_place(phone):
    opened(phone)
    with phone.expect_request(lambda request: "axis=spent" in request.url) as asked:
        phone.locator(".switched label", has=by(phone, "axis-spent")).tap()
    parts = asked.value.response().json()["series"]["loss"]
    assert [(part["live"], max(part["x"])) for part in parts] == [(False, 500), (True, 300), (True, 800)]
    phone.evaluate("localStorage.clear()")


def test_a_command_waits_for_its_answer_and_stop_for_a_second_tap(phone, root):
    opened(phone)
    box = mailbox(root / NAME)
    try:
        by(phone, "pause").tap()
        [command] = until(box.waiting)
        assert (command.action.kind, bool(command.author)) == ("pause", True)
        assert phone.locator(".toast").count() == 0
        box.settle(Ack(command.id, "refused", "not now", time=time.time()))
        toast = phone.locator(".toast")
        assert toast.inner_text() == "not now"
        box_of_toast = toast.bounding_box()
        assert box_of_toast["y"] + box_of_toast["height"] <= by(phone, "pause").bounding_box()["y"]
        toast.tap()
        toast.wait_for(state="detached")
        by(phone, "stop").tap()
        assert by(phone, "stop").inner_text() == "Confirm"
        assert box.waiting() == []
        by(phone, "stop").tap()
        [command] = until(box.waiting)
        assert command.action.kind == "stop"
        box.settle(Ack(command.id, "applied", step=600, time=time.time()))
        phone.get_by_text(re.compile("Stops at step 600")).wait_for()
    finally:
        box.close()


def test_a_command_without_connection_says_so_and_is_sent_again_as_the_same(phone, root):
    opened(phone)
    sent = []

    def unreliable(route):
        sent.append(route.request.post_data_json)
        if len(sent) == 1:
            route.fetch()  # it arrives, and the answer is lost
            route.abort()
        else:
            route.continue_()

    box = mailbox(root / NAME)
    try:
        phone.route("**/commands", unreliable)
        by(phone, "set-lr").fill("2e-3")
        by(phone, "apply-lr").tap()
        status = phone.locator("article.knob .status")
        expect(status).to_contain_text("Not confirmed: the server cannot be reached.")
        expect(status).to_have_text("sent…")
        assert [each["id"] for each in sent] == 2 * [sent[0]["id"]]
        [command] = box.waiting()
        phone.route("**/commands/*", lambda route: route.abort())
        expect(status).to_contain_text("Sent, but the server cannot be reached now")
        phone.unroute_all()
        box.settle(Ack(command.id, "applied", step=600, time=time.time()))
        expect(status).to_have_text("lr set to 0.002 at step 600")
    finally:
        box.close()


def test_what_happens_is_shown_at_once(phone, root):
    opened(phone)
    journal = Journal.open(root / NAME)
    try:
        marks = by(phone, "marks")
        known = int(marks.get_attribute("aria-valuemax"))
        decide(journal, Set(reason="", name="lr", value=0.02), "human:ada", 600, 800, 1, after={"lr": 0.02})
        until(lambda: phone.wait_for_timeout(50) or int(marks.get_attribute("aria-valuemax")) == known + 1)
    finally:
        journal.close()


def test_it_goes_on_by_itself_after_the_server_has_started_again(browser, root, state):
    context = browser.new_context()
    page = context.new_page()
    with served(root, state) as first:
        page.goto(f"{first.origin}/?token={first.write}")
        page.locator('[data-test="connection"][data-state="live"]').wait_for()
    page.locator('[data-test="connection"][data-state="reconnecting"]').wait_for()
    with served(root, state, "--port", str(first.port)):
        page.locator('[data-test="connection"][data-state="live"]').wait_for()
    context.close()


def test_two_runs_are_compared_and_the_theme_is_kept(phone):
    by(phone, f"pick-{NAME}").tap()
    by(phone, f"pick-{OTHER}").tap()
    phone.locator(".compare-go").tap()
    phone.locator('[data-chart="Loss"][data-drawn]').wait_for()
    spent = text(phone.locator(".figures-table tr", has_text="spent"))
    assert spent.split() == ["spent", "800", "50"]
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    assert phone.locator(".figures-table").evaluate("each => each.scrollWidth <= each.clientWidth")
    paper = phone.evaluate("getComputedStyle(document.body).backgroundColor")
    for _ in range(2):
        by(phone, "theme").tap()
    assert phone.evaluate("getComputedStyle(document.body).backgroundColor") != paper
    phone.reload()
    assert by(phone, "theme").get_attribute("aria-label") == "Theme: dark"


def test_what_was_tried_in_vain_is_grey_and_an_axis_has_labels_that_differ(phone):
    shown = phone.evaluate("""async (axis) => {
      const [{ Charts }, { api }, { label, ticks }] = await Promise.all(
        ["chart", "api", "scale"].map((name) => import(`/static/${name}.js`)));
      const charts = new Charts(api, document.body);
      for (const signal of ["loss", "hp/lr"]) {
        const curves = [{ run: "tried", signal, label: "", colour: "train" }];
        charts.add(document.body, { title: signal, curves, log: false }).visible = true;
      }
      charts.follow(await api.run("tried"));
      const bands = [];
      for (const axis of ["step", "spent"]) {
        charts.axis = axis;
        await charts.refresh();
        bands.push(charts.bands());
      }
      const labels = ticks(...charts.plots[1].vertical(), 4, false).map(label);
      charts.close();
      return { bands, labels };
    }""")
    assert shown["bands"] == [[[40, 100]], [[40, 120], [140, 160]]]
    assert len(set(shown["labels"])) == len(shown["labels"]) > 1
    assert max(map(len, shown["labels"])) <= 8


def test_the_index_loads_all_modules_at_once():
    index = (STATIC / "index.html").read_text()
    listed = set(re.findall(r'modulepreload" href="/static/([a-z]+\.js)"', index))
    assert listed == {path.name for path in STATIC.glob("*.js")} - {"app.js", "login.js"}


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_no_module_makes_markup_or_code_of_text(path):
    forbidden = r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function)"
    assert not re.search(forbidden, path.read_text())


def test_what_is_vendored_has_its_licence():
    vendor = STATIC / "vendor"
    assert "The MIT License" in (vendor / "uPlot.LICENSE").read_text()
    version = re.search(r"uPlot \(v([\d.]+)\)", (vendor / "uPlot.iife.min.js").read_text()[:200])
    assert version
    assert version[1] in (vendor / "README.md").read_text()
