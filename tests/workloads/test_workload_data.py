import pyarrow
import pyarrow.parquet
import pytest
import torch
from cifar_files import write_binary, write_parquet

from autotune.benchmarks.workloads.data import cifar10, digits, text
from autotune.benchmarks.workloads.sizes import CPU, GPU, WIDE
from autotune.records import TuneError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_DATA", str(tmp_path))
    return tmp_path


def test_both_formats_of_cifar_give_the_same(root, monkeypatch):
    write_parquet(root / "cifar10", train=9, test=5)
    from_parquet = cifar10(7, 5)
    write_binary(root / "other" / "cifar10", train=9, test=5)
    monkeypatch.setenv("AUTOTUNE_DATA", str(root / "other"))
    from_binary = cifar10(7, 5)
    assert [part.shape for part in from_parquet] == [(7, 3, 32, 32), (7,), (5, 3, 32, 32), (5,)]
    assert all(torch.equal(a, b) for a, b in zip(from_parquet, from_binary, strict=True))


def test_images_are_normalised():
    images, *_ = cifar10(4000, 1)
    assert images.mean().abs() < 0.2
    assert 0.8 < images.std() < 1.3


def test_too_few_images_are_an_error(root):
    write_parquet(root / "cifar10", train=9, test=5)
    with pytest.raises(TuneError, match="10 images of CIFAR-10's train part are needed, got 9"):
        cifar10(10, 5)


def test_the_pickled_version_of_cifar_is_refused(root):
    (root / "cifar10").mkdir()
    (root / "cifar10" / "data_batch_1").write_bytes(b"\x80\x02.")
    with pytest.raises(TuneError, match="the Python version is not read"):
        cifar10(1, 1)


def test_a_missing_folder_is_named(root, monkeypatch):
    with pytest.raises(TuneError, match="cifar10/"):
        cifar10(1, 1)
    monkeypatch.delenv("AUTOTUNE_DATA")
    with pytest.raises(TuneError, match="AUTOTUNE_DATA=None; set it to a folder that has wikitext2/"):
        text("wikitext2")


@pytest.mark.parametrize(
    "workload", [one for one in (*CPU, *WIDE, *GPU) if getattr(one, "needs", None)], ids=lambda one: one.name
)
def test_a_workload_needs_the_folder_that_it_says(workload, root):
    with pytest.raises(TuneError, match=f"set it to a folder that has {workload.needs}/"):
        workload.begin(0, torch.device("cpu"))


def test_a_text_is_read_from_all_its_files_in_order(root):
    folder = root / "wikitext2"
    folder.mkdir()
    rows = pyarrow.table({"text": ["", " = Title = \n", " naïve \n"]})
    pyarrow.parquet.write_table(rows, folder / "train-00000-of-00001.parquet")
    (folder / "wiki.valid.tokens").write_text("valid")
    (folder / "a.txt").write_text("first")
    (folder / "README.md").write_text("no text")
    expected = "first\n = Title = \n naïve \n\nvalid"
    assert bytes(text("wikitext2").numpy()).decode() == expected


def test_a_folder_without_text_is_an_error(root):
    (root / "wikitext2").mkdir()
    with pytest.raises(TuneError, match=r"a text is read from \*.txt"):
        text("wikitext2")


def test_the_standard_library_is_a_text_without_any_folder(monkeypatch):
    monkeypatch.delenv("AUTOTUNE_DATA")
    source = bytes(text("stdlib").numpy())
    assert len(source) > 300_000
    assert b"class ArgumentParser" in source


def test_digits_lie_between_0_and_1():
    images, labels = digits()
    assert images.shape == (1797, 64)
    assert (images.min(), images.max()) == (0, 1)
    assert set(labels.tolist()) == set(range(10))
