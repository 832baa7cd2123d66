"""Where data come from: the folder in `AUTOTUNE_DATA`, or what Python and scikit-learn bring along."""

from __future__ import annotations

import functools
import importlib.util
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotune.records import TuneError

STDLIB = ("argparse", "ast", "inspect", "typing", "tarfile", "pathlib", "subprocess", "zipfile", "pickle")
"""Modules whose source is a text that every machine has."""
TEXTS = ("*.txt", "*.tokens", "*.raw", "*.parquet")
"""Files that a text is read from: plain ones, and the hub's export with a column `text`."""


def folder(name: str) -> Path:
    """The folder of a data set.

    Raises:
        TuneError: when `AUTOTUNE_DATA` is not set, or has no such folder.
    """
    root = os.environ.get("AUTOTUNE_DATA")
    path = Path(root or "", name)
    if not root or not path.is_dir():
        raise TuneError(
            f"the data set {name!r} lies in the folder that AUTOTUNE_DATA names, got "
            f"AUTOTUNE_DATA={root!r}; set it to a folder that has {name}/"
        )
    return path


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits: images (1797, 64) in [0, 1], and labels (1797,)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()


def cifar10(train: int, test: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first images of CIFAR-10's two parts, from the hub's parquet export or from the binary version.

    Args:
        train: images of the training part, at most 50,000.
        test: images of the test part, at most 10,000.

    Returns:
        Training images (train, 3, 32, 32), normalised, and labels (train,); the same of the test part.

    Raises:
        TuneError: for a folder that is missing, in another format, or has fewer images.
    """
    return _cifar10(folder("cifar10"), train, test)


@functools.lru_cache(maxsize=2)
def _cifar10(path: Path, train: int, test: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parts = []
    for part, count in (("train", train), ("test", test)):
        images, labels = _images(path, part, count)
        scaled = torch.from_numpy(images).float().permute(0, 3, 1, 2).contiguous() / 255
        parts += [(scaled - 0.473) / 0.251, torch.from_numpy(labels).long()]
    return parts[0], parts[1], parts[2], parts[3]


def _images(path: Path, part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (count, 32, 32, 3) and labels int64 (count,)."""
    if files := sorted(path.rglob(f"{part}-*.parquet")):
        images, labels = _parquet(files, count)
    elif files := sorted(path.rglob("data_batch_*.bin" if part == "train" else "test_batch.bin")):
        images, labels = _binary(files, count)
    else:
        raise TuneError(
            "CIFAR-10 is read from the hub's parquet files (train-*.parquet, test-*.parquet) or the binary "
            f"version (data_batch_*.bin, test_batch.bin), got neither for {part} in {path}; the Python "
            "version is not read, for loading a pickle runs what is in it"
        )
    if len(images) < count:
        raise TuneError(f"{count} images of CIFAR-10's {part} part are needed, got {len(images)} in {path}")
    return images, labels


def _parquet(files: list[Path], count: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        from PIL import Image
    except ImportError as error:
        raise TuneError(
            f"images in parquet files are decoded by pillow, got {error}; pip install 'autotune-torch[bench]'"
        ) from error
    images: list[np.ndarray] = []
    labels: list[int] = []
    for row in _rows(files, ["img", "label"]):
        if len(images) == count:
            break
        images.append(np.asarray(Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB")))
        labels.append(row["label"])
    return np.stack(images), np.array(labels, np.int64)


def _rows(files: list[Path], columns: list[str]) -> Iterator[dict[str, Any]]:
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    for file in files:
        for batch in ParquetFile(file).iter_batches(batch_size=1000, columns=columns):
            yield from batch.to_pylist()


def _binary(files: list[Path], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The binary version of cs.toronto.edu: 1 byte of label, 3,072 of image, a record."""
    rows = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files])[:count]
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0].astype(np.int64)


def text(name: str) -> Tensor:
    """A text as bytes, uint8 (n,): `stdlib` is Python's own source, others are the files of their folder.

    Raises:
        TuneError: for a folder that is missing or has no text.
    """
    return _text(None if name == "stdlib" else folder(name))


@functools.lru_cache(maxsize=4)
def _text(path: Path | None) -> Tensor:
    if path is None:
        specs = [importlib.util.find_spec(module) for module in STDLIB]
        files = [Path(spec.origin) for spec in specs if spec is not None and spec.origin]
    else:
        files = sorted(file for pattern in TEXTS for file in path.glob(pattern))
    pieces = b"\n".join(_read(file) for file in files)
    if not pieces:
        raise TuneError(f"a text is read from {', '.join(TEXTS)}, got none of them in {path}")
    return torch.frombuffer(bytearray(pieces), dtype=torch.uint8)


def _read(file: Path) -> bytes:
    if file.suffix != ".parquet":
        return file.read_bytes()
    return "".join(row["text"] for row in _rows([file], ["text"])).encode()
