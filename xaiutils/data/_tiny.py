"""Tiny ImageNet: 200 classes at 64 x 64 pixels, with bounding boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from xaiutils.data import _fetch
from xaiutils.data._sets import ImageSet, LazyImages, label_tensor

FOLDER = "tiny-imagenet-200"
SPLITS = ("train", "val")
DATASET = _fetch.Dataset(
    FOLDER,
    (
        _fetch.Remote(
            FOLDER,
            "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
            "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
            "zip",
        ),
    ),
    "248 MB",
    hint="Nothing of it is embedded; data.photos(size=64) has small photographs",
)


class _Annotation(NamedTuple):
    path: Path
    wnid: str
    box: tuple[int, ...]


def tiny_imagenet(
    split: str = "train",
    source: str = "auto",
    transform: Callable[[Image.Image], Any] | None = None,
) -> ImageSet:
    """Tiny ImageNet (Stanford CS231n), in the layout of its archive, or some classes of it.

    Args:
        split: "train" (500 images a class) or "val" (50 a class). The archive's test part has no
            labels.
        source: "auto", "env", "cache" or "download"; see `xaiutils.data`.
        transform: Applied to each image when it is opened.

    Returns:
        RGB images of 64 x 64 pixels, opened one by one when asked for; `boxes` (N, 4) int64 hold
        x0, y0, x1, y1 of the object, from 0 to 63, both ends inside the box. Labels are indices
        into the sorted `wnids` of the classes that are there: 200 in the full archive.

    Raises:
        ValueError: An unknown split or source.
        DataError: A file is missing or damaged, or cannot be downloaded or stored; on opening an
            image: it is damaged.
    """
    _fetch.choose(split, SPLITS, "split")
    found = _fetch.find(DATASET, source)
    assert found.path is not None  # nothing is embedded
    folder = found.path / FOLDER
    wnids = tuple(sorted(row[0] for row in _rows(folder / "wnids.txt", "", 1, found)))
    names = {row[0]: row[1].split(",")[0] for row in _rows(folder / "words.txt", "\t", 2, found)}
    annotations = _train(folder, wnids, found) if split == "train" else _val(folder, wnids, found)
    _check_files(annotations, found)
    index = {wnid: i for i, wnid in enumerate(wnids)}
    return ImageSet(
        name=f"Tiny ImageNet {split}",
        images=LazyImages(tuple(a.path for a in annotations), found.remedy, transform=transform),
        labels=label_tensor([index[a.wnid] for a in annotations]),
        categories=tuple(names.get(wnid, wnid) for wnid in wnids),
        source=found,
        wnids=wnids,
        boxes=torch.tensor([a.box for a in annotations], dtype=torch.int64),
    )


def _train(folder: Path, wnids: tuple[str, ...], source: _fetch.Source) -> list[_Annotation]:
    annotations = []
    for wnid in wnids:
        place = folder / "train" / wnid
        for name, *box in _rows(place / f"{wnid}_boxes.txt", "\t", 5, source):
            annotations.append(_Annotation(place / "images" / name, wnid, tuple(map(int, box))))
    return annotations


def _val(folder: Path, wnids: tuple[str, ...], source: _fetch.Source) -> list[_Annotation]:
    table = folder / "val" / "val_annotations.txt"
    annotations = []
    for name, wnid, *box in _rows(table, "\t", 6, source):
        if wnid not in wnids:
            raise _fetch.DataError(table, f"{wnid} of {name} is not in wnids.txt", source.remedy)
        path = folder / "val" / "images" / name
        annotations.append(_Annotation(path, wnid, tuple(map(int, box))))
    return annotations


def _rows(path: Path, separator: str, columns: int, source: _fetch.Source) -> Iterator[list[str]]:
    """Lines of a table in `columns` fields; of five or more the last four are coordinates."""
    text = _fetch.read_verified(path, None, source.remedy).decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split(separator) if separator else [line.strip()]
        coordinates = fields[-4:] if columns > 4 else []
        if len(fields) != columns or not all(field.isdigit() for field in coordinates):
            cause = f"line {number} is damaged: {line[:60]!r}"
            raise _fetch.DataError(path, cause, source.remedy)
        yield fields


def _check_files(annotations: list[_Annotation], source: _fetch.Source) -> None:
    """Fail now, by one listing per folder, rather than in the midst of a long run."""
    present: dict[Path, set[str]] = {}
    for folder in {annotation.path.parent for annotation in annotations}:
        present[folder] = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    for annotation in annotations:
        if annotation.path.name not in present[annotation.path.parent]:
            raise _fetch.DataError(annotation.path, "is annotated but missing", source.remedy)
