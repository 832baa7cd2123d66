"""A store of runs, empty unless a file of tests has its own, and the control page's server over it."""

import pytest
from served import served


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def server(root, state):
    with served(root, state) as server:
        yield server
