"""ImageNet: one image per class from a public sample, and the user's own folders."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from xaiutils.data import _fetch
from xaiutils.data._sets import IMAGE_SUFFIXES, ImageSet, LazyImages, label_tensor

Transform = Callable[[Image.Image], Any]

SAMPLE = "imagenet-sample-images"
HOME = "https://raw.githubusercontent.com/EliSchwartz/imagenet-sample-images/"
COMMIT = "bc69043e2862758a1906c6a24a792bb28c6bb2ff"

WNID = re.compile(r"n\d{8}")
# The file names call two classes "crane" and two "maillot"; torchvision's names tell them apart.
DISTINCT_NAMES = {"n02012849": "crane bird", "n03710721": "maillot tank suit"}


@cache
def _sample_files() -> tuple[str, ...]:
    """Paths of the 1000 sample images, sorted, so that the place is the class index."""
    return tuple(sorted(path for path in _fetch.registry() if path.startswith(f"{SAMPLE}/")))


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """WordNet ids of the 1000 ImageNet classes; the place in the tuple is the class index."""
    return tuple(Path(path).name[:9] for path in _sample_files())


@cache
def imagenet_categories() -> tuple[str, ...]:
    """Names of the 1000 ImageNet classes, as in torchvision; the place is the class index."""
    names = (Path(path).stem[10:].replace("_", " ") for path in _sample_files())
    pairs = zip(imagenet_wnids(), names, strict=True)
    return tuple(DISTINCT_NAMES.get(wnid, name) for wnid, name in pairs)


def describe() -> _fetch.Dataset:
    """The 1000 sample images."""
    files = tuple(
        _fetch.Remote(path, f"{HOME}{COMMIT}/{quote(Path(path).name)}", _fetch.registry()[path])
        for path in _sample_files()
    )
    hint = "No ImageNet image is embedded (they may not be redistributed); data.photos() needs none"
    return _fetch.Dataset(SAMPLE, files, "107 MB", hint=hint)


def imagenet_sample(source: str = "auto", transform: Transform | None = None) -> ImageSet:
    """One ImageNet image per class, from github.com/EliSchwartz/imagenet-sample-images.

    Nothing of it is embedded: ImageNet's images may be used for non-commercial research and
    teaching, but not redistributed.

    Args:
        source: "auto", "env", "cache" or "download"; see `xaiutils.data`.
        transform: Applied to each image when it is opened, such as a classifier's `preprocess`.

    Returns:
        1000 RGB images of various sizes, opened and verified one by one when asked for. Image i
        shows class i.

    Raises:
        ValueError: An unknown source.
        DataError: A file is missing, or cannot be downloaded or stored; on opening an image: the
            file is damaged.
    """
    dataset = describe()
    found = _fetch.find(dataset, source)
    assert found.path is not None  # nothing is embedded
    return ImageSet(
        name="ImageNet sample",
        images=LazyImages(
            paths=tuple(found.path / remote.path for remote in dataset.files),
            remedy=found.remedy,
            sha256=tuple(remote.sha256 for remote in dataset.files),
            transform=transform,
        ),
        labels=label_tensor(range(len(dataset.files))),
        categories=imagenet_categories(),
        source=found,
        wnids=imagenet_wnids(),
    )


def imagenet_folder(path: str | Path, transform: Transform | None = None) -> ImageSet:
    """Your own ImageNet images.

    Args:
        path: A folder with one sub-folder per class, named by its WordNet id
            (`n02123045/any.JPEG`), or a folder of images whose names begin with it
            (`n02123045_any.JPEG`), or both.
        transform: Applied to each image when it is opened, such as a classifier's `preprocess`.

    Returns:
        RGB images, opened one by one when asked for, in the order of WordNet id and file name.
        Labels are the indices of the 1000 ImageNet classes, whichever of them the folder holds.

    Raises:
        DataError: The folder does not exist, holds no image, or an image's class cannot be told
            from its name; on opening an image: the file is damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise _fetch.DataError(
            folder, "is no folder", "Give the folder that holds the class folders"
        )
    found = _fetch.Source("folder", "the user's folder", folder)
    index = {wnid: i for i, wnid in enumerate(imagenet_wnids())}
    files = sorted((_wnid_of(file, folder, index), file) for file in _image_files(folder))
    if not files:
        remedy = (
            "Give the folder that holds the class folders (n01440764, ...) or the images themselves"
        )
        raise _fetch.DataError(folder, f"holds no image ({', '.join(IMAGE_SUFFIXES)})", remedy)
    return ImageSet(
        name="ImageNet folder",
        images=LazyImages(tuple(file for _, file in files), found.remedy, transform=transform),
        labels=label_tensor([index[wnid] for wnid, _ in files]),
        categories=imagenet_categories(),
        source=found,
        wnids=imagenet_wnids(),
    )


def _image_files(folder: Path) -> list[Path]:
    """Images in the folder and in its class folders; folders of other names are not entered."""
    classes = (sub for sub in folder.iterdir() if sub.is_dir() and WNID.fullmatch(sub.name))
    files = (file for place in (folder, *classes) for file in place.iterdir())
    return [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]


def _wnid_of(file: Path, folder: Path, known: dict[str, int]) -> str:
    name = file.name if file.parent == folder else file.parent.name
    match = WNID.match(name)
    if match is None:
        remedy = "Name it <wnid>_<anything>, or put it into a folder named by its WordNet id"
        raise _fetch.DataError(file, "does not tell its class: no WordNet id in its name", remedy)
    if match[0] not in known:
        remedy = "Leave it out: the labels of this set are those 1000 classes"
        raise _fetch.DataError(file, f"{match[0]} is none of the 1000 ImageNet classes", remedy)
    return match[0]
