"""Settings of every test."""

import gc
import shutil
import sys

import pytest
import torch
from hypothesis import settings

pytest_plugins = ["chromium", "postgres"]  # a browser; a server that is one for all tests of a process
torch.set_num_threads(1)
# A busy machine is no failure, and what passed passes again; `--hypothesis-profile explore` looks further.
settings.register_profile("project", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, derandomize=False)
settings.load_profile("project")


def pytest_collection_finish():
    """What was imported is looked through no more: by the collector, and by each tuner, for schedulers."""
    gc.freeze()


@pytest.fixture(autouse=True)
def no_store_of_mlflow_stays_in_force():
    """What a test, or a framework in it, has set must not reach the next one."""
    yield
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None:
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """The file of a store of MLflow with nothing in it, to be copied: making one takes seconds."""
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.chdir(folder)  # where its first experiment keeps files
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def mlflow_store(empty_store, tmp_path):
    """The address of a local store of the test's own."""
    return f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
