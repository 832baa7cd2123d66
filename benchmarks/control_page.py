"""What the control page waits for: each of its addresses, first and later, with long runs in the store.

Ten runs of 100,000 steps: the loss at every step, ten more signals at every tenth. The figures are times on
the server's side of a socket on this machine, and in ratio to a plain read of the bytes of the journals that
they are made from.

Run it: python -m autotune.benchmarks.control_page
"""

from __future__ import annotations

import http.client
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import uvicorn

from autotune.journal import Journal
from autotune.web.app import make_app
from autotune.web.events import Watches
from autotune.web.guard import Access
from autotune.web.server import Listening, Server, bound
from autotune.web.store import Store
from autotune.web.tokens import Held

RUNS, STEPS = 10, 100_000
SIGNALS = ("validation/loss", "gradient_norm", "hp/lr", *(f"signal_{i}" for i in range(7)))
FIRST = "names=loss,validation/loss,gradient_norm,hp/lr&points=390"
LATER = 20


def make_store(root: Path) -> int:
    """Write the journals, and return how many bytes they have."""
    noise = np.random.default_rng(0).normal(size=STEPS)
    knob = {"kind": "log", "low": 1e-6, "high": 1.0, "choices": [], "unit": ""}
    for run in range(RUNS):
        facts = {"hyperparameters": {"lr": knob}, "policies": ["guard"], "total_steps": STEPS}
        journal = Journal.create(root / f"run-{run}", facts)
        for step in range(1, STEPS + 1):
            journal.metric("loss", 1 / step + 0.01 * float(noise[step - 1]), step, step, 0)
            if step % 10 == 0:
                for name in SIGNALS:
                    journal.metric(name, float(noise[step - 1]), step, step, 0)
        journal.close()
    return sum(path.stat().st_size for path in root.glob("*/journal.db"))


def measure(root: Path) -> list[tuple[str, float, float]]:
    """Of each address: its name, seconds of the first answer and the median of later ones."""
    store, tokens = Store(root), Held()
    with bound(Listening(port=0)) as bell:
        port = int(bell.getsockname()[1])
        watches = Watches(store)
        app = make_app(store, Access(tokens, port), watches)
        config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_level="warning")
        server = Server(config, watches)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bell]})
        thread.start()

        def ask(path: str) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", path, headers={"Cookie": f"autotune-{port}={tokens.now.write}"})
            answer = connection.getresponse()
            answer.read()
            connection.close()
            if answer.status != 200:
                raise RuntimeError(f"{path} answered {answer.status}")

        def timed(path: str) -> float:
            start = time.perf_counter()
            ask(path)
            return time.perf_counter() - start

        try:
            ask("/api/session")
            found = []
            for name, path in (
                ("the page itself", "/"),
                ("list of runs", "/api/runs"),
                ("a run", "/api/runs/run-3"),
                ("its first picture", f"/api/runs/run-3/series?{FIRST}"),
                ("a zoomed picture", f"/api/runs/run-3/series?{FIRST}&from=40000&to=42000"),
                ("its decisions", "/api/runs/run-3/decisions"),
            ):
                first = timed(path)
                found.append((name, first, float(np.median([timed(path) for _ in range(LATER)]))))
        finally:
            server.should_exit = True
            thread.join()
            store.close()
    return found


def plain_read(root: Path) -> float:
    """Seconds to read one journal's bytes."""
    start = time.perf_counter()
    (root / "run-3" / "journal.db").read_bytes()
    return time.perf_counter() - start


def main(say: Callable[[str], None] = print) -> None:
    """Make a store, measure, and say what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        nbytes = make_store(root)
        read = min(plain_read(root) for _ in range(5))
        say(f"{RUNS} runs of {STEPS:,} steps, {nbytes / 1e6:.0f} MB; one journal read in {read * 1e3:.1f} ms")
        for name, first, later in measure(root):
            say(
                f"{name:20} first {first * 1e3:7.1f} ms ({first / read:5.1f} reads of a journal), "
                f"then {later * 1e3:6.1f} ms"
            )


if __name__ == "__main__":
    main()
