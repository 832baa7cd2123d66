"""The tables of the searches: the baselines that they found, and what that cost."""

from __future__ import annotations

import numpy as np

from .costs import NEAR, Search, searches
from .formats import number, thousandths
from .results import Config, Results
from .tables import Table


def baselines(results: Results) -> Table:
    """What every arm is compared with, and what finding it cost."""
    found = searches(results)
    rows = []
    for name, steps in results.steps.items():
        here = [search for search in found if search.workload == name]
        trials, runs = sum(search.trials for search in here), sum(search.runs for search in here)
        config = results.tuned.get(name)
        by = ", ".join(search.method for search in here if search.best == config)
        said = (by or "–", *_config(config)) if config else ("no search finished", "–", "–", "–")
        rows.append((name, *said, str(steps), str(trials), number(runs)))
    columns = ("workload", "found by", "schedule", "rate", "weight decay", "steps", "trials", "cost")
    return Table(columns, tuple(rows), words=3)


def methods(results: Results) -> Table:
    """The searches by their method, over all workloads."""
    found: dict[str, list[Search]] = {}
    for search in searches(results):
        found.setdefault(search.method, []).append(search)
    return Table(
        ("method", "workloads", "median", "worst", "within 1 %", "trials", "pruned", "cost"),
        tuple(
            (
                method,
                str(len(here)),
                thousandths(float(np.median([search.loss for search in here]))),
                thousandths(max(search.loss for search in here)),
                str(sum(search.loss <= NEAR for search in here)),
                str(sum(search.trials for search in here)),
                str(sum(search.pruned for search in here)),
                number(sum(search.runs for search in here)),
            )
            for method, here in found.items()
        ),
    )


def each_search(results: Results) -> Table:
    """How near each search came to the best of all of its workload, and at what cost."""
    return Table(
        ("workload", "method", "best loss", "trials", "pruned", "cost", "cost to 1 %"),
        tuple(
            (
                search.workload,
                search.method,
                thousandths(search.loss),
                str(search.trials),
                str(search.pruned),
                number(search.runs),
                number(search.runs_to_near),
            )
            for search in searches(results)
        ),
        words=2,
    )


def _config(config: Config) -> tuple[str, str, str]:
    decay = "usual" if config.weight_decay is None else f"{config.weight_decay:g}"
    pieces = f" ({len(config.pieces)})" if config.pieces else ""
    return config.schedule + pieces, f"{config.rate:.3g}", decay
