"""The README's pictures of the control page: `python docs/pictures.py`, with Chromium (`make browser`).

A real run trains the demo's digits as `make demo` does, from a rate 100 times too high and through corrupted
batches, slowly enough to be steered; a person draws a schedule, and the page is looked at in a browser.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

import autotune
from autotune.benchmarks import digits
from autotune.journal import Journal
from autotune.tuner import AutoTuner

DOCS = Path(__file__).parent
NAME, PERSON = "digits", "ada"
RATE = 0.3  # 100 times the best one
SEED = 0
TAKEN_OVER, SHOWN = 1500, 1650  # steps spent when the person comes, and at the pictures
SHOTS = {
    "control-page-phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
        "color_scheme": "dark",
    },
    "control-page": {
        "viewport": {"width": 1280, "height": 800},
        "device_scale_factor": 2,
        "color_scheme": "light",
    },
}


def slowly(tuner: AutoTuner) -> None:
    """Leave a person time to act, and the page time to be drawn."""
    time.sleep(0.002 if tuner.spent < TAKEN_OVER else 0.1)


def wait(journal: Journal, spent: int) -> int:
    """Wait until so many steps are spent; returns the step that the run has come to."""
    while not (rows := journal.newest()) or max(row.spent for row in rows) < spent:
        time.sleep(0.1)
    return max(rows, key=lambda row: row.spent).step


def steer(root: Path, journal: Journal) -> None:
    """What the person does: a checkpoint, and a schedule that holds, then falls along a cosine."""
    step = wait(journal, TAKEN_OVER)
    with autotune.connect(NAME, root=root, author=PERSON) as run:
        run.checkpoint("before-the-decay")
        run.schedule("lr", [(step + 120, 2e-3), (step + 440, 1e-5, "cosine")], reason="cool it down")
    wait(journal, SHOWN)


def main() -> None:
    """Train, steer, and write both pictures beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        training = subprocess.Popen(
            [sys.executable, __file__, root], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        page = subprocess.Popen(
            [Path(sys.executable).with_name("autotune"), "ui", "--root", root, "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert page.stdout is not None
            link = re.search(r"http://\S+", page.stdout.readline())
            assert link is not None
            while not (root / NAME / "journal.db").exists():
                time.sleep(0.1)
            steer(root, Journal.open(root / NAME))
            shoot(link[0].replace("/?", f"/runs/{NAME}?"))
        finally:
            page.terminate()
            training.terminate()


def shoot(address: str) -> None:
    """Look at the page as on a phone and on a desktop."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, device in SHOTS.items():
            page = browser.new_context(**device).new_page()
            page.goto(address)
            page.locator('[data-test="author"]').fill(PERSON)
            page.locator('[data-test="author"]').blur()
            page.locator('[data-chart="Loss"][data-drawn]').wait_for()
            page.wait_for_timeout(2500)
            page.screenshot(path=DOCS / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        digits.tuned(SEED, RATE, Path(sys.argv[1]) / NAME, watch=slowly)
    else:
        main()
