"""The page as people use it: a browser, `autotune ui` and a training, each a process of its own.

A phone with a touch screen and then a desktop steer one training. Pictures of each stage, dark on the phone
and light on the desktop, are kept in `$AUTOTUNE_PICTURES`, else in `build/pictures`, which git ignores.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect
from served import served, until

from autotune.journal import Journal

HERE = Path(__file__).parent
PICTURES = Path(os.environ.get("AUTOTUNE_PICTURES", HERE.parents[1] / "build" / "pictures"))
RUN = "steered"
PATIENCE = 30_000
"""Milliseconds in which a page shows what it is to show, on a busy machine."""
expect.set_options(timeout=PATIENCE)
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "color_scheme": "dark",
}
DESKTOP = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}
WIDTHS = {"phone": PHONE, "desktop": DESKTOP}
OPERATED = {
    "button",
    "checkbox",
    "combobox",
    "link",
    "radio",
    "searchbox",
    "slider",
    "spinbutton",
    "switch",
    "textbox",
}


@pytest.fixture(scope="module")
def training(browser, root):
    """The process that trains; who steers it has no other way to it than the page."""
    log = root.with_name("trainer.log")
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, HERE / "trainer.py", root],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=written,
            stderr=written,
        )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait(60)


class Site:
    """The server, which can be killed and started again at its address."""

    def __init__(self, root, state, stack):
        self.root, self.state, self.stack = root, state, stack
        self.served = stack.enter_context(served(root, state))

    def kill(self):
        self.served.process.kill()
        self.served.process.wait(60)

    def start(self):
        self.served = self.stack.enter_context(served(self.root, self.state, "--port", str(self.served.port)))


@pytest.fixture(scope="module")
def site(training, root, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        site = Site(root, tmp_path_factory.mktemp("state"), stack)
        until(lambda: (root / RUN / "journal.db").exists() or training.poll() is not None)
        assert training.poll() is None, (root.parent / "trainer.log").read_text()
        yield site


class Person:
    """Somebody with a browser of this width, who looks at the run; `journal` says what came of it."""

    def __init__(self, page, name, journal):
        self.page, self.name, self.journal = page, name, journal

    def by(self, test):
        return self.page.locator(f'[data-test="{test}"]')

    def press(self, what):
        where = self.by(what) if isinstance(what, str) else what
        where.tap() if self.name == "phone" else where.click()

    def button(self, words, within=None):
        self.press((within or self.page).get_by_role("button", name=words, exact=True))

    def fill(self, test, text):
        self.by(test).fill(text)

    def told(self, words):
        """Wait for a toast that says this, and take all of them away."""
        toast = self.page.locator("#toasts .toast").filter(has_text=words).last
        expect(toast).to_be_visible()
        self.page.evaluate("document.getElementById('toasts').replaceChildren()")

    def open(self, decision):
        """Open the sheet of a decision from the journal, which is read when it is looked at."""
        self.by("journal-search").scroll_into_view_if_needed()
        self.press(f"decision-{decision.id}")

    def card(self, knob):
        return self.page.locator("article.knob").filter(has=self.by(f"set-{knob}"))

    def sheet(self):
        return self.page.locator("dialog[open]")

    def picture(self, stage, whole=False):
        """Keep what is seen; where the `whole` page is, in the other colours too."""
        shown = WIDTHS[self.name]["color_scheme"]
        for scheme in ({"light": "dark", "dark": "light"}[shown], shown)[not whole :]:
            self.page.emulate_media(color_scheme=scheme)
            self.page.wait_for_timeout(30)
            path = PICTURES / f"{stage}-{self.name}-{scheme}.png"
            self.page.screenshot(path=path, full_page=whole)

    def decided(self, kind):
        """The newest decision of this person that is of this kind."""
        mine = [d for d in self.journal.decisions() if d.source == f"human:{self.name}"]
        return [d for d in mine if d.action.kind == kind][-1]

    @property
    def live(self):
        return self.journal.meta()["live"]

    @property
    def step(self):
        return int(self.by("step").inner_text().replace("\u202f", ""))


@pytest.fixture(scope="module", params=list(WIDTHS))
def visitor(request, browser, site, root):
    """Somebody with a browser of this width who has been let in, and has said who it is."""
    context = browser.new_context(**WIDTHS[request.param])
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    failures = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda said: "Content Security" in said.text and failures.append(said.text))
    page.goto(f"{site.served.origin}/?token={site.served.write}")
    author = page.locator('[data-test="author"]')
    expect(author).not_to_have_value("")  # who is logged in, until somebody says otherwise
    author.fill(request.param)
    author.press("Tab")
    with contextlib.closing(Journal.open(root / RUN)) as journal:
        yield Person(page, request.param, journal)
    context.close()
    assert failures == []


@pytest.fixture
def person(visitor, site):
    """The visitor, who looks at the run."""
    page, run = visitor.page, f"{site.served.origin}/runs/{RUN}"
    if page.url != run or page.locator("dialog").count():
        page.goto(run)
    page.locator('[data-chart="Loss"][data-drawn]').wait_for()
    return visitor


def test_the_list_leads_to_the_run(person, site):
    person.page.goto(site.served.origin)
    expect(person.by("run-first")).to_contain_text("finished")
    expect(person.by(f"run-{RUN}")).to_contain_text("running")
    person.picture("01-list")
    person.press(f"run-{RUN}")
    person.page.locator('[data-chart="Loss"][data-drawn]').wait_for()
    expect(person.by("connection")).to_have_text("live")
    before = person.step
    until(lambda: person.step > before)
    person.picture("02-run", whole=True)


def test_two_taps_turn_the_rate_down(person):
    person.button("lr, new value ÷3")
    wanted = float(person.by("set-lr").input_value())
    person.picture("03-edited")
    person.press("apply-lr")
    person.told("lr set to")
    decision = person.decided("set")
    assert decision.after["lr"] == pytest.approx(wanted, rel=1e-3)  # shown in four digits
    assert decision.after["lr"] == pytest.approx(decision.before["lr"] / 3, rel=0.05)  # it may be on its way
    expect(person.card("lr").locator(".chip")).to_have_text(f"held by {person.name}")
    person.picture("04-set")


def test_a_value_out_of_bounds_is_refused_as_it_is_typed(person):
    person.fill("set-dropout", "0.95")
    expect(person.card("dropout").get_by_role("alert").first).to_have_text("Give a value between 0 and 0.9.")
    expect(person.by("apply-dropout")).to_be_disabled()
    person.picture("05-out-of-bounds")
    person.by("set-dropout").press("Escape")


def test_a_field_is_reached_and_applied_by_the_keyboard_alone(person):
    reached = "document.activeElement.dataset.test"
    person.page.reload()
    person.by("set-dropout").wait_for()
    until(lambda: person.page.keyboard.press("Tab") or person.page.evaluate(reached) == "set-dropout")
    value = "0.22" if person.live["values"]["dropout"] != 0.22 else "0.23"
    person.page.keyboard.press("Control+a")
    person.page.keyboard.type(value)
    person.picture("06-keyboard")
    person.page.keyboard.press("Enter")
    person.told(f"dropout set to {value}")
    assert person.decided("set").after == {"dropout": float(value)}
    assert person.page.evaluate(reached) == "set-dropout"  # from there the keyboard goes on


def test_a_ramp_is_previewed_and_begun(person):
    person.press("ramp-lr")
    goal, words = (0.002, "0.002") if person.name == "phone" else (0.0005, "5e-4")
    person.fill("ramp-value-lr", str(goal))
    person.fill("ramp-steps-lr", "20000")
    person.press(person.by("ramp-shape-lr-cosine").locator("xpath=.."))
    expect(person.sheet()).to_contain_text("cosine; then it stays there, held by you.")
    assert person.sheet().locator("path.way").get_attribute("d").count("L") > 30  # a curve
    person.picture("07-ramp")
    person.press("ramp-apply-lr")
    person.told("Ramp of lr begun")
    expect(person.sheet()).to_have_count(0)
    expect(person.card("lr").locator(".going")).to_contain_text(f"cosine to {words} in")
    assert person.decided("ramp").action.value == goal
    person.picture("08-ramping")


def test_a_schedule_is_drawn_and_edited_in_mid_run(person):
    person.press("schedule-dropout")
    person.press(person.sheet().get_by_role("button", name="Warm restart"))
    drawing = person.sheet().locator("svg.curve")
    corners = person.sheet().locator(".corner")
    points = corners.count()
    box = drawing.bounding_box()
    x, y = box["x"] + 0.62 * box["width"], box["y"] + 0.35 * box["height"]
    if person.name == "phone":
        person.page.touchscreen.tap(x, y)
    else:
        person.page.mouse.move(x, y)
        person.page.mouse.down()
        person.page.mouse.move(x + 30, y - 20, steps=3)
        person.page.mouse.up()
    expect(corners).to_have_count(points + 1)
    person.picture("09-schedule")
    person.press("schedule-apply-dropout")
    person.told("Schedule of dropout begun")
    drawn = person.decided("schedule").action.points
    assert len(drawn) == points + 1
    under_way = person.card("dropout").locator(".going")
    expect(under_way).to_be_visible()

    person.press("schedule-dropout")
    expect(corners.first).to_be_visible()  # those that are still ahead
    last = person.sheet().locator("tbody tr").last
    last.get_by_label("value").fill("0.05")
    person.press("schedule-apply-dropout")
    expect(person.sheet()).to_have_count(0)
    edited = until(lambda: person.decided("schedule").action.points != drawn) and person.decided("schedule")
    ahead = edited.action.points
    assert ahead[:-1] == drawn[-len(ahead) : -1]
    assert ahead[-1][1] == 0.05
    expect(under_way).to_be_visible()


def test_a_pin_holds_and_ends(person):
    badge = person.card("batch_size").locator(".chip")
    person.fill("pin-steps-batch_size", "100000")
    person.press("pin-batch_size")
    person.told("batch_size pinned")
    expect(badge).to_contain_text(f"held by {person.name} until step")
    person.picture("10-pinned")
    person.fill("pin-steps-batch_size", "100")
    person.press("pin-batch_size")
    person.told("batch_size pinned")
    expect(badge).to_have_text("policies")
    person.press("pin-batch_size")
    person.told("batch_size pinned")
    expect(badge).to_have_text(f"held by {person.name}")
    person.press("release-batch_size")
    person.told("batch_size released")
    expect(badge).to_have_text("policies")


def test_a_run_is_paused_and_goes_on(person):
    person.press("pause")
    person.told("Paused")
    expect(person.by("status")).to_have_text("paused")
    person.picture("11-paused")
    person.press("resume")
    person.told("Goes on")
    expect(person.by("status")).to_have_text("running")
    before = person.step
    until(lambda: person.step > before)


def test_a_rewind_in_two_taps_and_back_again(person):
    name = f"before-{person.name}"
    person.fill("checkpoint-name", name)
    person.press("checkpoint-save")
    person.told(f"Saved {name}")
    saved = person.decided("checkpoint").step
    until(lambda: person.step > saved + 50)
    person.press("pause")
    expect(person.by("status")).to_have_text("paused")
    left = person.decided("pause").step
    person.press(f"rewind-{name}")
    expect(person.sheet()).to_contain_text("are left behind. They stay on record")
    person.picture("12-rewind")
    person.press("rewind-confirm")
    person.told("Rewound to")
    assert person.live["stretches"][-1][0] == saved
    person.picture("13-rewound")
    person.press("undo")
    person.told("Undone")
    assert person.decided("undo").action.decision == person.decided("rewind").id
    assert person.live["stretches"][-1][0] == left
    person.press("resume")
    expect(person.by("status")).to_have_text("running")


def test_a_rewind_that_is_too_old_to_undo_says_so(person):
    person.fill("rewind-step", str(person.step - 20))
    person.press("rewind-to-step")
    person.press("rewind-confirm")
    person.told("Rewound to")
    rewind = person.decided("rewind")
    until(lambda: person.step > rewind.step + 100)  # a state was kept beyond where it left
    person.open(rewind)
    person.press(f"undo-{rewind.id}")
    expect(person.sheet().get_by_role("status")).to_have_attribute("data-kind", "bad")
    expect(person.sheet().get_by_role("status")).to_have_text(person.decided("undo").note)
    person.picture("14-not-undone")
    person.button("Close", person.sheet())


def test_a_change_is_taken_back_from_the_journal(person):
    before = person.live["values"]["batch_size"]
    person.fill("set-batch_size", "48")
    person.press("apply-batch_size")
    person.told("batch_size set to 48")
    decision = person.decided("set")
    person.open(decision)
    person.by(f"undo-{decision.id}").wait_for()
    person.picture("15-decision")
    person.press(f"undo-{decision.id}")
    person.told(f"Decision {decision.id} is undone")
    assert person.live["values"]["batch_size"] == before


def test_suggestions_are_answered(person):
    expect(person.page.locator("a.waits")).to_have_text("2 suggestions")
    person.picture("16-suggestions")
    person.press(person.page.locator('[data-test^="approve-"][aria-label^="Approve dropout"]'))
    person.told("Approved: dropout")
    approved = person.decided("approve")
    assert approved.after["dropout"] == person.journal.decision(approved.action.decision).action.action.value
    person.press(person.page.locator('[data-test^="reject-"][aria-label^="Reject batch_size"]'))
    person.told("Turned down")
    rejected = person.journal.decision(person.decided("reject").action.decision)
    assert person.live["values"]["batch_size"] != rejected.action.action.value
    expect(person.by(f"reject-{rejected.id}")).to_have_count(0)


def test_policies_are_benched_reordered_and_asked_again(person):
    person.press(person.by("policy-plateau").locator("xpath=.."))
    person.press("policy-up-adviser")
    person.press("policy-up-adviser")
    person.picture("17-policies")
    person.press("arrange-apply")
    person.told("The policies are arranged")
    assert person.decided("arrange").action.policies == ("adviser", "divergence_guard")
    assert list(person.live["benched"]) == ["plateau"]
    expect(person.by("policy-plateau")).not_to_be_checked()
    person.press(person.by("policy-plateau").locator("xpath=.."))
    expect(person.by("policy-down-adviser")).to_be_enabled()
    while person.by("policy-down-adviser").is_enabled():
        person.press("policy-down-adviser")
    person.press("arrange-apply")
    person.told("The policies are arranged")
    asked = person.decided("arrange").action.policies
    assert ({*asked}, asked[-1]) == ({"divergence_guard", "plateau", "adviser"}, "adviser")
    assert person.live["benched"] == {}


def test_a_comment_is_found_again(person):
    said = f"too early, says {person.name}"
    first = person.journal.decisions()[0]
    person.fill("journal-search", "adviser")
    person.open(first)
    person.fill("comment-text", said)
    person.press("comment-add")
    person.told("Comment added")
    expect(person.sheet().locator(".comments")).to_contain_text(said)
    person.picture("18-comment")
    person.button("Close", person.sheet())
    person.fill("journal-search", said)
    comment = person.decided("comment")
    rows = person.page.locator(".log li")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text(f"comment on decision {first.id}")
    assert comment.action.reason == said
    person.picture("19-search")
    person.fill("journal-search", "")


def test_two_runs_are_compared(person, site):
    person.page.goto(site.served.origin)
    person.press("pick-first")
    person.press(f"pick-{RUN}")
    person.button("Compare")
    expect(person.by("compare-a")).to_have_value("first")
    expect(person.by("compare-b")).to_have_value(RUN)
    person.page.locator('[data-chart="Loss"][data-drawn]').wait_for()
    expect(person.page.get_by_role("row", name="state finished running")).to_be_visible()
    person.picture("20-compare", whole=True)


def test_who_has_the_link_to_look_on_can_change_nothing(person, browser, site):
    context = browser.new_context(**WIDTHS[person.name])
    page = context.new_page()
    page.goto(f"{site.served.origin}/runs/{RUN}?token={site.served.read}")
    page.locator('[data-chart="Loss"][data-drawn]').wait_for()
    onlooker = Person(page, person.name, person.journal)
    for test in ("set-lr", "slider-lr", "apply-lr", "ramp-lr", "schedule-lr", "pin-lr"):
        expect(onlooker.by(test)).to_be_disabled()
    for test in ("checkpoint-save", "rewind-to-step", "policy-plateau"):
        expect(onlooker.by(test)).to_be_disabled()
    for test in ("pause", "stop", "undo"):
        expect(onlooker.by(test)).to_be_hidden()
    onlooker.picture("21-read-only", whole=True)
    context.close()


def test_the_page_comes_back_with_the_server(person, site):
    site.kill()
    expect(person.by("connection")).to_have_text("reconnecting")
    person.picture("22-reconnecting")
    person.fill("set-batch_size", "40")
    person.press("apply-batch_size")  # it is sent when the server is back
    site.start()
    person.told("batch_size set to 40")
    expect(person.by("connection")).to_have_text("live")
    assert person.decided("set").after == {"batch_size": 40}
    before = person.step
    until(lambda: person.step > before)
    person.press("undo")
    person.told("Undone")


def test_the_theme_is_chosen_and_kept(person):
    for _ in range(2):
        person.press("theme")
    html = person.page.locator("html")
    expect(html).to_have_attribute("data-theme", "dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    person.page.emulate_media(color_scheme="light")
    dark = person.page.evaluate(colour)
    person.page.reload()
    expect(html).to_have_attribute("data-theme", "dark")
    assert person.page.evaluate(colour) == dark
    person.press("theme")
    expect(html).to_have_attribute("data-theme", "auto")
    assert person.page.evaluate(colour) != dark


def test_every_control_has_a_name(person, site):
    tree = person.page.context.new_cdp_session(person.page)

    def check(where):
        nodes = tree.send("Accessibility.getFullAXTree")["nodes"]
        operated = [n for n in nodes if not n["ignored"] and n["role"]["value"] in OPERATED]
        assert operated, where
        nameless = [n["role"]["value"] for n in operated if not n.get("name", {}).get("value", "").strip()]
        assert nameless == [], where
        ids = person.page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
        assert len(ids) == len(set(ids)), where

    check("run")
    for opener in ("ramp-lr", "schedule-lr"):
        person.press(opener)
        check(opener)
        person.button("Close", person.sheet())
    person.open(person.decided("set"))
    person.sheet().get_by_role("heading", name="Comments").wait_for()
    check("decision")
    person.page.goto(site.served.origin)
    person.by(f"run-{RUN}").wait_for()
    check("list")


def test_nothing_is_wider_than_the_screen(person, site):
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for address in ("", f"/runs/{RUN}", f"/compare?a=first&b={RUN}"):
        person.page.goto(site.served.origin + address)
        person.page.locator("h1").first.wait_for()
        assert person.page.evaluate(wider) == 0, address


def test_a_run_is_stopped_in_two_taps(training, browser, site, root):
    page = browser.new_page()
    page.goto(f"{site.served.origin}/runs/{RUN}?token={site.served.write}")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Confirm: stop the run").click()
    assert training.wait(60) == 0
    expect(page.locator('[data-test="status"]')).to_have_text("finished")
    page.close()
    with contextlib.closing(Journal.open(root / RUN)) as journal:
        assert journal.status() == "finished"
