"""Where data come from: the folder in `AUTOTUNE_DATA`, or what Python and scikit-learn bring along."""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import sysconfig
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autotune.records import TuneError

STDLIB = ("argparse", "ast", "inspect", "typing", "tarfile", "pathlib", "subprocess", "zipfile", "pickle")
"""Modules whose source is a text that every machine has."""


def folder(name: str) -> Path:
    """The folder of a data set.

    Raises:
        TuneError: when `AUTOTUNE_DATA` is not set, or has no such folder.
    """
    root = os.environ.get("AUTOTUNE_DATA")
    path = Path(root or "", name)
    if root is None or not path.is_dir():
        raise TuneError(
            f"the data set {name!r} lies in the folder that AUTOTUNE_DATA names, got AUTOTUNE_DATA={root!r}; "
            f"set it to a folder that has {name}/"
        )
    return path


@functools.lru_cache(maxsize=2)
def cifar10(train: int, test: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first images of CIFAR-10's two parts, from its parquet export or from its Python batches.

    Args:
        train: images of the training part, at most 50,000.
        test: images of the test part, at most 10,000.

    Returns:
        Training images (train, 3, 32, 32), normalised, and labels (train,); the same of the test part.
    """
    path = folder("cifar10")
    read = _parquet if any(path.glob("*.parquet")) else _batches
    parts = []
    for part, count in (("train", train), ("test", test)):
        images, labels = read(path, part, count)
        scaled = torch.from_numpy(images).float().permute(0, 3, 1, 2).contiguous() / 255
        parts += [(scaled - 0.473) / 0.251, torch.from_numpy(labels).long()]
    return parts[0], parts[1], parts[2], parts[3]


def _parquet(path: Path, part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    images: list[np.ndarray] = []
    labels: list[int] = []
    for file in sorted(path.glob(f"{part}-*.parquet")):
        for batch in ParquetFile(file).iter_batches(batch_size=1000):
            for row in batch.to_pylist()[: count - len(images)]:
                images.append(np.asarray(Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB")))
                labels.append(row["label"])
            if len(images) >= count:
                break
    return np.stack(images), np.array(labels)


def _batches(path: Path, part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The binary version of cs.toronto.edu: 1 byte of label, 3,072 of image, a record."""
    files = sorted(path.rglob("data_batch_*.bin" if part == "train" else "test_batch.bin"))
    if not files:
        raise TuneError(f"CIFAR-10 is read from parquet files or the binary version, found neither in {path}")
    rows = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files])[:count]
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0].astype(np.int64)


@functools.lru_cache(maxsize=4)
def text(name: str) -> Tensor:
    """A text as bytes, uint8 (n,): `tinyshakespeare`, `wikitext2`, or `stdlib` (Python's own source)."""
    if name == "stdlib":
        specs = [importlib.util.find_spec(module) for module in STDLIB]
        paths = [Path(spec.origin) for spec in specs if spec is not None and spec.origin]
    else:
        paths = sorted(folder(name).glob("*.txt"))
    if not paths:
        raise TuneError(f"no text of {name!r} in {sysconfig.get_path('stdlib')} or AUTOTUNE_DATA")
    return torch.frombuffer(bytearray(b"\n".join(path.read_bytes() for path in paths)), dtype=torch.uint8)
