"""Settings of every test."""

import sys

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("project", deadline=None)  # a busy machine is no failure
settings.load_profile("project")


@pytest.fixture(autouse=True)
def no_store_of_mlflow_stays_in_force():
    """What a test, or a framework in it, has set must not reach the next one."""
    yield
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None:
        mlflow.set_tracking_uri(None)
