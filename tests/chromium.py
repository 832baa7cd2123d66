"""A real browser for the tests that look at a page."""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@pytest.fixture(scope="module")
def browser():
    """Chromium, which the system brings; one for each file of tests: while it runs, asyncio is taken."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        missing = "pages are looked at with Chromium, which is not there: apt-get install chromium"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    from playwright.sync_api import sync_playwright  # here, because every test passes by this file

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser
        browser.close()
