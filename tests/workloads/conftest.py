"""Data for every workload, so that no test depends on what a machine has."""

import random

import pytest
from cifar_files import write_binary


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_binary(folder / "cifar10", train=4000, test=928)
    words = random.Random(0).choices(
        ["to", "be", "or", "not", "that", "is", "the", "question", "?"], k=20_000
    )
    for name in ("tinyshakespeare", "wikitext2"):
        (folder / name).mkdir()
        (folder / name / "input.txt").write_text(" ".join(words))
    return folder


@pytest.fixture(autouse=True)
def data(data_folder, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_DATA", str(data_folder))
