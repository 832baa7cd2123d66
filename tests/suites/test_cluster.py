import os
from pathlib import Path

import pytest
import torch
from tiny import Broken, request

from autotune.benchmarks.suites import cluster, runner
from autotune.benchmarks.suites.prepare import prepare
from autotune.benchmarks.suites.results import pack
from autotune.benchmarks.suites.store import Store
from autotune.records import TuneError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.chdir(Path(__file__).parent)  # where a user's modules are


def losses(store):
    return {item.cell.key: item.error or pack(item.outcome.final) for item in store.results().cells}


def test_a_cluster_gives_what_one_process_gives(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # `local` is none that is set
    wanted = request(Broken)
    here = prepare(wanted, tmp_path / "here", "cpu", print)
    runner.work(here, wanted.make(), torch.device("cpu"), lambda: True)
    there = prepare(wanted, tmp_path / "there", "cpu", print)
    cluster.run(there, wanted, "cpu", "local", 2)
    assert not there.busy()
    assert losses(there) == losses(here)
    assert pack(there.results().searches) == pack(here.results().searches)
    assert len(there.errors()) == 12, "what raises on a cluster is named as it is here"
    assert os.environ["RAY_ADDRESS"] == "127.0.0.1:1"


def test_an_address_where_no_ray_is_is_refused(tmp_path):
    store = prepare(request(Broken), tmp_path, "cpu", print)
    with pytest.raises(TuneError, match="address of a running Ray"):
        cluster.run(store, request(Broken), "cpu", "127.0.0.1:1")
    assert Store(tmp_path).claim() is not None, "nothing is claimed"
