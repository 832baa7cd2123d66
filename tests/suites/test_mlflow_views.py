import os
from pathlib import Path

import pytest
from made_results import WORKLOADS, made_results

from autotune.benchmarks.suites.html import html
from autotune.benchmarks.suites.mlflow_pages import publish
from autotune.mlflow_server import serve

ARMS = ("tuned baseline", "constant", "Prodigy", "plateau", "recommended")
FACTORS = (0.01, 1.0, 100.0)
PATIENCE = 120_000
"""Milliseconds: the UI asks the server dozens of times before it draws."""


@pytest.fixture
def page(browser):
    """A page of a real browser."""
    with browser.new_page(viewport={"width": 1750, "height": 1300}) as page:
        yield page


def test_the_link_opens_the_charts_and_the_note_leads_to_the_rest(page, tmp_path, monkeypatch, mlflow_store):
    pictures = Path(os.environ.get("AUTOTUNE_TEST_PICTURES", tmp_path))
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    results = made_results(WORKLOADS[:1], arms=ARMS, seeds=1, factors=FACTORS)
    (tmp_path / "report.html").write_text(html(results))
    link = publish(results, {"report.html": tmp_path / "report.html"})

    with serve(os.environ["MLFLOW_TRACKING_URI"], port=0) as server:
        page.goto(server.address + link[link.index("/#/") :])
        bars = drawn(page, "median score", ".barlayer .point")
        assert bars.count() == len(ARMS)
        points = drawn(page, "score by rate", ".scatterlayer .point")
        assert points.count() == len(ARMS) * len(FACTORS)
        drawn(page, "worst score", ".barlayer .point")
        drawn(page, "progress by percent", ".scatterlayer .point")
        page.screenshot(path=pictures / "mlflow-arms.png")
        drawn(page, "median score at 1.15", ".barlayer .point")

        trials = opened(page, "single runs")
        drawn(trials, "Parallel Coordinates", "canvas")
        points = drawn(trials, "log10 rate ratio vs. log10 score", ".scatterlayer .point")
        rated = sum(item.cell.factor is not None for item in results.cells)
        assert 0 < points.count() <= min(100, rated)
        trials.screenshot(path=pictures / "mlflow-trials.png")

        report = opened(trials, "report")
        report.get_by_text("report.html").first.click()
        report.frame_locator("iframe").get_by_role("heading").first.wait_for(timeout=PATIENCE)
        report.screenshot(path=pictures / "mlflow-report.png")


def drawn(page, title, marks):
    """What has been drawn in the chart of that title: at least one mark."""
    cards = page.get_by_test_id("experiment-view-compare-runs-card").filter(has_text=title)
    cards.first.scroll_into_view_if_needed(timeout=PATIENCE)
    found = cards.first.locator(marks)
    found.first.wait_for(timeout=PATIENCE)
    return found


def opened(page, name):
    """The page that a link of the experiment's note opens."""
    with page.context.expect_page() as found:
        page.get_by_role("link", name=name, exact=True).click()
    return found.value
