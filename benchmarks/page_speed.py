"""How soon the control page can be used, how soon it acts, and what it costs the run that it shows.

`OMP_NUM_THREADS=1 python -m autotune.benchmarks.page_speed` measures, in a real browser:

- how soon the page can be used, with 10 runs of 100,000 steps in the store: at most a second; how soon the
  server answers after its start, and the memory that it takes;
- from a command that the page's address is sent to the first step that uses it, and to the answer in its
  stream of events, and from a click to the words that say so: at most a second and a step at worst;
- what three pages open on a run add to a step of its training, against the same server with nobody looking:
  at most 1 %, with a core that is the trainer's alone and without.

Exits 1 when a target is missed. Takes about five minutes, and needs Chromium and Playwright.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import queue
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from .control_page import FIRST, RUNS, make_store
from .figures import Figure, show
from .live_control import SECONDS, Added, Trainer, latencies, latency, rates

LIVE, LONG = "live", "run-3"
PERCENT = 1.0
CLICKS = 10
PACE = 0.34
"""Seconds between two commands to the server, which takes 30 in ten seconds."""
PAGES, WATCHED_SECONDS, WATCHED_PAIRS = (1280, 390, 390), 3.0, 8
PATIENCE = 30.0
"""Seconds until a page that does not show itself is an error."""
OPENINGS, WIDTHS = 3, (390, 1280)
SEEN = """
const wanted = {
  list: `.runs > li:nth-child(%d)`,
  cards: `[data-test="slider-lr"]`,
  chart: `[data-chart="Loss"][data-drawn="true"]`,
};
const seen = (window.seen = {});
(function look() {
  for (const [name, selector] of Object.entries(wanted))
    if (!(name in seen) && document.querySelector(selector)) seen[name] = performance.now();
  requestAnimationFrame(look);
})();
"""
TAPPED = """() => {
  addEventListener("click", () => (window.tapped = performance.now()), true);
  const told = () => (window.told = performance.now());
  new MutationObserver(told).observe(document.getElementById("toasts"), { childList: true });
}"""


class Server:
    """`autotune ui`, in a process of its own."""

    def __init__(self, root: Path, state: Path) -> None:
        self._process = subprocess.Popen(
            [Path(sys.executable).with_name("autotune"), "ui", "--root", str(root), "--port", "0"],
            env={**os.environ, "XDG_STATE_HOME": str(state)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        said = "".join(iter(self._process.stdout.readline, "Ctrl-C ends it; the training goes on\n"))
        port, self.token = re.findall(r":(\d+)/\?token=(\S+)", said)[0]
        self.port, self.origin, self.cookie = int(port), f"http://127.0.0.1:{port}", f"autotune-{port}"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait()

    @property
    def memory(self) -> float:
        """What it takes now, in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024 / 1e6

    def open(self, browser: Browser, width: int) -> Page:
        """A browser's window, signed in, that has seen nothing yet."""
        context = browser.new_context(viewport={"width": width, "height": 844})
        context.add_cookies([{"name": self.cookie, "value": self.token, "url": self.origin}])
        page = context.new_page()
        page.add_init_script(SEEN % RUNS)
        return page

    def request(self, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
        """Ask."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Cookie": f"{self.cookie}={self.token}", "Origin": self.origin}
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {**given, "Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status not in (200, 202):
            raise RuntimeError(f"{path} answered {answer.status}: {answer.read()!r}")
        return answer


def by_page(trainer: Trainer, server: Server) -> list[tuple[float, float]]:
    """The same by the page's addresses, the answer by the stream of events that a page follows."""
    answers: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()

    def listen() -> None:
        for line in server.request("GET", f"/api/runs/{LIVE}/events"):
            if line.startswith(b"data: ") and "command" in (told := json.loads(line[6:])):
                answers.put((told["command"], time.monotonic()))

    threading.Thread(target=listen, daemon=True).start()
    time.sleep(1.0)
    found = []
    for rate in rates():
        time.sleep(PACE + random.uniform(0, 0.1))
        action = {"kind": "set", "name": "lr", "value": rate, "reason": "", "evidence": {}}
        body = {"id": uuid.uuid4().hex, "author": "ada", "action": action}
        start = time.monotonic()
        server.request("POST", f"/api/runs/{LIVE}/commands", body).read()
        answered, end = answers.get(timeout=60)
        assert answered == body["id"]
        found.append((trainer.used(rate) - start, end - start))
    return found


def by_hand(page: Page) -> list[float]:
    """Seconds from each click on a card's button to the words that say what became of it."""
    page.evaluate(TAPPED)
    found = []
    for click in range(CLICKS):
        time.sleep(PACE + random.uniform(0, 0.1))
        page.locator('[data-test="set-lr"]').fill(f"{1e-4 * (click + 2):.1e}")
        page.evaluate("window.told = null")
        page.locator('[data-test="apply-lr"]').click()
        while page.evaluate("window.told") is None:
            time.sleep(0.02)
        found.append(page.evaluate("window.told - window.tapped") / 1e3)
        assert "set to" in page.locator("#toasts > .toast").last.inner_text()
    return found


def watched(name: str, trainer: Trainer, server: Server, browser: Browser) -> list[Figure]:
    """What open pages add to a step."""
    pages = [server.open(browser, width) for width in PAGES]

    def pace(looking: bool) -> float:
        for page in pages:
            page.goto(f"{server.origin}/runs/{LIVE}" if looking else "about:blank")
            if looking:
                page.locator('[data-chart="Loss"][data-drawn="true"]').wait_for()
        time.sleep(1.0)
        return trainer.pace(WATCHED_SECONDS)

    pairs = [
        {looking: pace(looking) for looking in ((True, False) if pair % 2 else (False, True))}
        for pair in range(WATCHED_PAIRS)
    ]
    added = Added.of([100 * (pair[True] / pair[False] - 1) for pair in pairs])
    most = f"≤ {PERCENT:g}"
    return [
        Figure(f"{name}: a step", 1e6 * statistics.median(pair[False] for pair in pairs), "µs"),
        Figure(
            f"{name}: {len(PAGES)} pages add", added.median, "%", most, added.within(PERCENT), added.error
        ),
        Figure(f"{name}: worst pair", added.worst, "%"),
    ]


def starts(root: Path, state: Path) -> list[Figure]:
    """From the command to the first answer, and the memory before and after all runs were looked at."""
    seconds, before, after = [], [], []
    for _ in range(OPENINGS):
        start = time.monotonic()
        with Server(root, state) as server:
            server.request("GET", "/").read()
            seconds.append(time.monotonic() - start)
            server.request("GET", "/api/runs").read()
            before.append(server.memory)
            for run in range(RUNS):
                server.request("GET", f"/api/runs/run-{run}/series?{FIRST}").read()
            after.append(server.memory)
    return [
        Figure("from `autotune ui` to the first answer: median", 1e3 * statistics.median(seconds), "ms"),
        Figure("from `autotune ui` to the first answer: worst", 1e3 * max(seconds), "ms"),
        Figure("memory after the list", statistics.median(before), "MB"),
        Figure("memory after the charts of all runs", statistics.median(after), "MB"),
    ]


def openings(root: Path, state: Path, browser: Browser) -> list[Figure]:
    """How soon the list and a run can be used, by a server that was just started and one that was not."""
    seen: dict[str, list[float]] = {}
    for _, width in itertools.product(range(OPENINGS), WIDTHS):
        for path, names in (("/", ("list",)), (f"/runs/{LONG}", ("cards", "chart"))):
            with Server(root, state) as server:
                for when in ("server just started", "later"):
                    page = server.open(browser, width)
                    page.goto(server.origin + path)
                    times: dict[str, float] = {}
                    end = time.monotonic() + PATIENCE
                    while not times.keys() >= {*names}:
                        if time.monotonic() > end:
                            raise RuntimeError(f"{path} does not show {names} in {PATIENCE:g} s")
                        time.sleep(0.02)
                        times = page.evaluate("window.seen")
                    for name in names:
                        seen.setdefault(f"{name} at {width} px, {when}", []).append(times[name])
                    page.context.close()
                    time.sleep(1.0)
    most = f"≤ {1e3 * SECONDS:g}"
    return [
        figure
        for name, times in sorted(seen.items())
        for figure in (
            Figure(f"{name}: median", statistics.median(times), "ms"),
            Figure(f"{name}: worst", max(times), "ms", most, max(times) <= 1e3 * SECONDS),
        )
    ]


def pages(root: Path, state: Path, launch: Callable[[], Browser]) -> Iterator[Figure]:
    """All that a browser is needed for."""
    make_store(root)
    yield from starts(root, state)
    browser = launch()
    yield from openings(root, state, browser)
    browser.close()
    cores = sorted(os.sched_getaffinity(0))
    for name, own in (("trainer with a core of its own", cores[-1:]), ("trainer on any core", cores)):
        os.sched_setaffinity(0, [core for core in cores if core not in own] or cores)
        browser = launch()
        shutil.rmtree(root / LIVE, ignore_errors=True)
        trainer = Trainer(root / LIVE, cores=own)
        try:
            with Server(root, state) as server:
                yield from watched(name, trainer, server, browser)
                if own == cores:
                    yield from latencies("the page's addresses", by_page(trainer, server))
                    page = server.open(browser, WIDTHS[0])
                    page.goto(f"{server.origin}/runs/{LIVE}")
                    yield from latency("click to words", by_hand(page))
                browser.close()
        finally:
            trainer.close()
            os.sched_setaffinity(0, cores)


def main() -> int:
    """Measure all, and say how busy the machine was."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        launch = partial(playwright.chromium.launch, executable_path=shutil.which("chromium"), args=arguments)
        figures = [*pages(Path(folder) / "runs", Path(folder) / "state", launch)]
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    return show(figures)


if __name__ == "__main__":
    sys.exit(main())
