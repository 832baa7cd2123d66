"""From the journal to MLflow, while the training goes on and after it.

Delivery reads nothing but the journal. It runs in a process of its own, because in a thread of the trainer
it would take the interpreter's lock from the training step: importing mlflow takes seconds, and a call
milliseconds. That process sees in the journal when the run is over, or that the trainer was killed,
delivers the rest, and exits. Whatever it could not deliver, `sync` does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock, Timeout

from .journal import Journal, JournalError
from .journal_database import locked
from .places import DatabaseRun, Place
from .process import alive
from .records import TuneError

if TYPE_CHECKING:
    from .mlflow_run import MlflowRun

PERIOD_SECONDS = 1.0
LINGER_SECONDS = 30.0
"""How long the delivering process tries on after a trainer that was killed."""
LOCK_SECONDS = 60.0
"""How long `sync` waits for a delivery under way."""
LOCK, LOG = "delivery.lock", "delivery.log"
"""In the run's folder; of a run in a database only the log."""
EXPERIMENT = "autotune"
LOCAL = "sqlite:///"
"""How the address of a store begins that is a file on this machine."""
ENVIRONMENT = {
    # MLflow's own defaults hold one call for minutes when the server is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""How MLflow is to behave; what the user set comes first."""


class DeliveryError(RuntimeError):
    """MLflow could not be reached, or refused. The journal still holds all that is missing there."""


class Report(NamedTuple):
    """What `sync` carried over, and where it is."""

    metrics: int
    decisions: int
    outcomes: int
    tracking_uri: str
    experiment_id: str
    run_id: str


def target(
    tracking_uri: str | None = None, experiment: str | None = None, run_id: str | None = None
) -> dict[str, str | None]:
    """Where a run goes in MLflow, as plain JSON values; call it on the user's own thread.

    A run that the user names or has active is joined; else a run is made in `experiment`.

    Args:
        tracking_uri: None: the one in force, or `mlflow.db` in the current folder.
        experiment: its name. None: the one in force, or `autotune`.
        run_id: the run to join. None: the active run of this thread, or the one in MLFLOW_RUN_ID.
    """
    # Never imported for this: a user who has an active run has imported it.
    mlflow = sys.modules.get("mlflow")
    environment = os.environ.get
    if run_id is None and tracking_uri is None and mlflow is not None:
        active = mlflow.active_run()
        run_id = active.info.run_id if active else None
    if tracking_uri is None:
        tracking_uri = mlflow.get_tracking_uri() if mlflow is not None else environment("MLFLOW_TRACKING_URI")
    if tracking_uri is None or tracking_uri.startswith(LOCAL):
        # `sync` may be called from another folder.
        tracking_uri = LOCAL + str(Path((tracking_uri or "mlflow.db").removeprefix(LOCAL)).absolute())
    return {
        "tracking_uri": tracking_uri,
        "experiment": experiment
        or environment("MLFLOW_EXPERIMENT_ID")
        or environment("MLFLOW_EXPERIMENT_NAME")
        or EXPERIMENT,
        "run_id": run_id or environment("MLFLOW_RUN_ID"),
    }


class Delivery:
    """The delivering process of a run that is being trained, held by the trainer.

    A run stays with the MLflow run that it was first given, also when it is resumed.

    Args:
        journal: the run's journal; its meta receives the target.
        to: where to deliver, from `target`.
    """

    def __init__(self, journal: Journal, to: Mapping[str, Any]) -> None:
        if "mlflow" not in journal.meta():
            journal.set_meta("mlflow", dict(to))
        self._folder = journal.folder
        with open(self._folder / LOG, "ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the trainer, which then ends the run.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "autotune.delivery", str(self._folder.resolve())],
                env={**ENVIRONMENT, **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def close(self, deadline: float = 10.0) -> bool:
        """Wait until all is delivered; call it after `Journal.end`.

        Args:
            deadline: seconds to wait at most.

        Returns:
            Whether all of it arrived; if not, `sync` delivers the rest.
        """
        try:
            return self._process.wait(timeout=deadline) == 0
        except subprocess.TimeoutExpired:
            self._process.kill()  # whatever it was sending is sent again, and kept once
            self._process.wait()
            return False


def sync(run: str | Place) -> Report:
    """Deliver now what MLflow does not have yet, and end the MLflow run if its trainer was killed.

    A run that is being trained may be synced too; it stays open.

    Args:
        run: its folder, or its name in a database.

    Raises:
        TuneError: when there is no run, the run was told not to go to MLflow, or MLflow's store is a file on
            the machine that trains it, which is another one.
        DeliveryError: when MLflow is not installed, cannot be reached, or refuses.
    """
    journal = Journal.open(run)
    try:
        to = journal.meta().get("mlflow")
        if to is None:
            raise TuneError(
                f"a run is synced to the MLflow that its tuner was given, got {run}, which had none; "
                "train with MLflow on"
            )
        if to["tracking_uri"].startswith(LOCAL) and not journal.folder.is_dir():
            raise TuneError(
                f"a store of MLflow in a file is reached on its own machine, got {run} elsewhere; "
                f"run `autotune sync {journal.folder}` on {journal.meta()['process']['host']}"
            )
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            with _alone(journal):
                sent = _connect(journal).deliver(everything=True)
        except Timeout as error:
            raise DeliveryError(
                f"another process has been delivering {run} for a while; try again"
            ) from error
        except Exception as error:
            raise DeliveryError(
                f"MLflow at {to['tracking_uri']} did not take the run ({_brief(error)}); "
                f"nothing is lost, try again by `autotune sync {journal.place.name}`"
            ) from error
        there = journal.delivered()["run"]
        return Report(*sent, to["tracking_uri"], there["experiment_id"], there["run_id"])
    finally:
        journal.close()


def run_link(tracking_uri: str, experiment_id: str, run_id: str | None = None) -> str:
    """The address of a run's page in the MLflow UI, or of its experiment's list of runs.

    Args:
        tracking_uri: address of the server, as in `http://127.0.0.1:5000`.
        experiment_id: the experiment's id.
        run_id: the run's id; None for the list.
    """
    page = f"/{run_id}" if run_id is not None else ""
    # Without the workflow type MLflow opens a page for language models, which shows no run.
    return (
        f"{tracking_uri.rstrip('/')}/#/experiments/{experiment_id}/runs{page}?workflowType=machine_learning"
    )


def _connect(journal: Journal) -> MlflowRun:
    from .mlflow_run import MlflowRun  # here, because it imports mlflow

    return MlflowRun(journal)


def _alone(journal: Journal) -> AbstractContextManager[Any]:
    """Keeps every other delivery of the run away; raises Timeout when one takes long."""
    if isinstance(journal.place, DatabaseRun):
        return locked(journal.place, "delivery", LOCK_SECONDS)
    return FileLock(journal.folder / LOCK, timeout=LOCK_SECONDS)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _follow(folder: Path) -> int:
    """Deliver until the run is over and all is delivered. The delivering process's whole life."""
    os.nice(5)  # training comes first
    journal = Journal.open(folder)
    trainer = journal.meta()["process"]
    run: MlflowRun | None = None
    give_up = float("inf")
    while True:
        over = _over(journal, trainer)
        if over:
            give_up = min(give_up, time.monotonic() + LINGER_SECONDS)
        try:
            if not over and journal.meta()["process"] != trainer:
                return 0  # resumed by another process, which has a delivery of its own
            with _alone(journal):
                run = run or _connect(journal)
                run.deliver()
            if over:
                return 0
        except ImportError:
            traceback.print_exc()
            return 1
        except Exception as error:  # MLflow and its stores raise all kinds
            print(time.strftime("%H:%M:%S"), _brief(error), file=sys.stderr, flush=True)
        if time.monotonic() > give_up:
            return 1
        due = time.monotonic() + PERIOD_SECONDS
        while time.monotonic() < due and (over or not _over(journal, trainer)):
            time.sleep(0.1)


def _over(journal: Journal, trainer: Mapping[str, Any]) -> bool:
    """Whether the run has ended; while its database is away, whether its trainer has."""
    try:
        return journal.status() != "running"
    except JournalError:
        return not alive(trainer)


if __name__ == "__main__":
    sys.exit(_follow(Path(sys.argv[1])))
