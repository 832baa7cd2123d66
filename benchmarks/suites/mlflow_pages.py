"""A suite's results in MLflow: written once, however often they are published."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from autotune.delivery import ENVIRONMENT, DeliveryError, target
from autotune.mlflow_server import HOST, PORT

from .mlflow_entries import entries
from .mlflow_entry import SUITE, Entry, identity
from .mlflow_views import ARMS, TRIALS, link, views
from .prose import SCORE
from .results import Results
from .scores import Row

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RESULTS, KEY, DIGEST, LEVEL = "autotune.results", "autotune.key", "autotune.digest", "autotune.level"
DONE = ("FINISHED", "FAILED")
BATCH = 800
"""Metrics in one call, with room for params and tags: MLflow takes 1000 of all of them."""


def publish(
    results: Results,
    documents: Mapping[str, Path] = MappingProxyType({}),
    rows: Sequence[Row] | None = None,
) -> str:
    """Write results to the MLflow that is set, or to `mlflow.db` in the current folder.

    What is there already is left as it is, what has changed is replaced, and what was broken off is
    completed: publish again whenever there is more.

    Args:
        results: of a suite, finished or not.
        documents: files that become artifacts of the suite's run, by name.
        rows: `scores.summary` of the results, which takes its time; None: it is worked out.

    Returns:
        The address of the view that compares the arms: on the server that is set, or, for a store on this
        machine, on one that is started by the command that is printed.

    Raises:
        DeliveryError: when MLflow cannot be reached, or refuses.
    """
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    uri = str(target()["tracking_uri"])
    name, wanted = identity(results), entries(results, rows)
    try:
        client = _connect(uri)
        experiment = _experiment(client, uri, f"autotune bench {results.suite}")
        runs = _write(client, experiment, name, wanted)
        with tempfile.TemporaryDirectory() as folder:
            for document, path in documents.items():
                shutil.copyfile(path, Path(folder) / document)
            client.log_artifacts(runs[SUITE], folder)
        _describe(client, experiment, results, runs[SUITE])
    except Exception as error:  # MLflow and its stores raise all kinds
        brief = " ".join(str(error).split())[:300]
        raise DeliveryError(
            f"MLflow at {_shown(uri)} did not take the results ({type(error).__name__}: {brief}); "
            "what has arrived stays, publish them again"
        ) from error
    wrote = f"{len(results.cells):,} runs of the suite {results.suite}"
    print(f"autotune: {wrote} are in {_shown(uri)}", file=sys.stderr)
    remote = uri.startswith(("http://", "https://"))
    address = uri if remote else f"http://{HOST}:{PORT}"
    if not remote:
        print("autotune: MLflow's page is started by `autotune mlflow`", file=sys.stderr)
    print(f"autotune: single runs: {link(address, experiment, name, TRIALS)}", file=sys.stderr)
    return link(address, experiment, name, ARMS)


def _connect(uri: str) -> MlflowClient:
    # Here, because importing mlflow takes seconds.
    from mlflow.tracking import MlflowClient

    from autotune.mlflow_run import first_touch

    with first_touch(uri):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _write(client: MlflowClient, experiment: str, results: str, wanted: Sequence[Entry]) -> dict[str, str]:
    """Make the runs that are missing; returns the runs' ids by key."""
    known = _known(client, experiment, results)
    ids: dict[str, str] = {}
    console = Console(stderr=True)
    for entry in track(wanted, "MLflow", console=console, disable=not console.is_terminal, transient=True):
        parent = None if entry.parent is None else ids[entry.parent]
        ids[entry.key] = _put(client, experiment, results, entry, parent, known.get(entry.key))
    return ids


def _known(client: MlflowClient, experiment: str, results: str) -> dict[str, Run]:
    """What has been written of these results already, by key."""
    found: dict[str, Run] = {}
    token = None
    while True:
        mine = f"tags.`{RESULTS}` = '{results}'"
        page = client.search_runs([experiment], mine, max_results=1000, page_token=token)
        found |= {run.data.tags[KEY]: run for run in page}
        token = page.token
        if not token:
            return found


def _put(
    client: MlflowClient, experiment: str, results: str, entry: Entry, parent: str | None, run: Run | None
) -> str:
    """One run: left as it is, renewed, completed, or made; returns its id."""
    from mlflow.entities import Metric, Param, RunTag

    tags = {RESULTS: results, KEY: entry.key, DIGEST: entry.digest, LEVEL: entry.level, **entry.tags}
    now = int(time.time() * 1000)
    if run is not None and run.data.tags[DIGEST] != entry.digest:
        if not entry.lasting:
            client.delete_run(run.info.run_id)
            run = None
    elif run is not None and run.info.status in DONE:
        return str(run.info.run_id)
    elif run is not None:
        now = int(run.info.start_time)  # exact repeats of what had arrived are dropped by MLflow
    if run is None:
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        if entry.color:
            tags["mlflow.runColor"] = entry.color
        run = client.create_run(experiment, now, tags, entry.name)
    run_id = str(run.info.run_id)
    points = [
        Metric(name, value, now, step) for name, curve in entry.metrics.items() for step, value in curve
    ]
    for start in range(BATCH, len(points), BATCH):
        client.log_batch(run_id, metrics=points[start : start + BATCH])
    # The tags come last in this call, too: a new digest says that all the rest is there.
    client.log_batch(
        run_id,
        metrics=points[:BATCH],
        params=[Param(name, value) for name, value in entry.params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()] if entry.lasting else [],
    )
    status = "FAILED" if entry.failed else "FINISHED"
    client.set_terminated(run_id, status, now + max(1, round(1000 * entry.seconds)))
    return run_id


def _describe(client: MlflowClient, experiment: str, results: Results, run: str) -> None:
    """The saved views, and a note that leads to them."""
    name = identity(results)
    budgets = sorted({item.cell.budget for item in results.cells})
    for key, value in views(name, budgets, len(results.cells)).items():
        client.set_experiment_tag(experiment, key, value)
    arms, trials = (link(".", experiment, name, view) for view in (ARMS, TRIALS))
    report = f"./#/experiments/{experiment}/runs/{run}/artifacts?workflowType=machine_learning"
    finished, errors = len(results.cells), sum(item.outcome is None for item in results.cells)
    lines = (  # the UI shows the first until it is asked for more
        f"[Arms against the tuned baseline]({arms}) · [single runs]({trials}) · [report]({report}) · "
        f"{finished:,} of {results.planned:,} finished, {errors} of them in an error",
        SCORE,
        f"By `{results.command}`",
    )
    client.set_experiment_tag(experiment, "mlflow.note.content", "  \n".join(lines))


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    from autotune.mlflow_run import database, is_local

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    files = None
    if is_local(uri):  # MLflow would put the files into the current folder, which is another one next time
        file = database(uri)
        folder = file.parent / "mlruns"  # of mlflow.db; another store beside it has its files apart
        files = (folder / name if file.stem == "mlflow" else folder / file.stem / name).as_uri()
    return str(client.create_experiment(name, artifact_location=files))


def _shown(uri: str) -> str:
    """An address without what is secret in it."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)
