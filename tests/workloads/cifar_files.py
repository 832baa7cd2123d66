"""A small CIFAR-10 of random images, in the public formats."""

import io

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image


def write_parquet(folder, **counts):
    """As the hub exports it: images encoded in a struct, and labels."""
    folder.mkdir(parents=True)
    for part, images, labels in _parts(counts):
        rows = {"img": [{"bytes": _png(image), "path": None} for image in images], "label": labels.tolist()}
        pyarrow.parquet.write_table(pyarrow.table(rows), folder / f"{part}-00000-of-00001.parquet")


def write_binary(folder, **counts):
    """The binary version: a byte of label and 3,072 of image, a record; the training part in two files."""
    folder.mkdir(parents=True)
    for part, images, labels in _parts(counts):
        rows = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(len(images), -1)], 1)
        names = ["data_batch_1.bin", "data_batch_2.bin"] if part == "train" else ["test_batch.bin"]
        for name, piece in zip(names, np.array_split(rows.astype(np.uint8), len(names)), strict=True):
            (folder / name).write_bytes(piece.tobytes())


def _parts(counts):
    random = np.random.default_rng(0)
    for part, count in counts.items():
        images = random.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
        yield part, images, random.integers(10, size=count)


def _png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()
