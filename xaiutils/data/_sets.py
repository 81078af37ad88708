"""What the loaders return: images with labels, class names, perhaps boxes, and their source."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from xaiutils.data import _fetch

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")


class Item(NamedTuple):
    """An image with its label."""

    image: Any
    label: int


class BoxedItem(NamedTuple):
    """An image with its label and the bounding box of the object, (4,) as x0, y0, x1, y1."""

    image: Any
    label: int
    box: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet(Dataset[Item | BoxedItem]):
    """A labelled set of images; also a `torch.utils.data.Dataset`.

    Attributes:
        name: The data set and its part, such as "MNIST test".
        images: A tensor (N, C, H, W), or a sequence that opens an image when it is asked for.
        labels: (N,) int64, indices into `categories`.
        categories: A name for each class.
        source: Which of the possible places the data came from.
        wnids: WordNet id of each class; empty where classes have none.
        boxes: (N, 4) int64, x0, y0, x1, y1 in pixels, both ends inside the box; None where there
            are none.
    """

    name: str
    images: Tensor | Sequence[Any]
    labels: Tensor
    categories: tuple[str, ...]
    source: _fetch.Source
    wnids: tuple[str, ...] = ()
    boxes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item | BoxedItem:
        image, label = self.images[index], int(self.labels[index])
        if self.boxes is None:
            return Item(image, label)
        return BoxedItem(image, label, self.boxes[index])

    def balanced(self, per_class: int, sample: int = 0) -> Self:
        """The same number of images of every class, taking turns through the classes.

        Sample 0 holds the first `per_class` images of each class, sample 1 the next ones: samples
        of one size share no image, so that what was found on one can be asked of another.

        Args:
            per_class: Images of each class, at least 1.
            sample: Which of the samples, from 0.

        Returns:
            A set of ``per_class * len(categories)`` images; the first ones show one of each class.

        Raises:
            TypeError: The images are not a tensor, or a number is no int.
            ValueError: A number is too small, or some class has too few images for it.
        """
        if not isinstance(self.images, Tensor):
            raise TypeError(
                f"{self.name} opens its images one by one; choose from `labels` instead"
            )
        for name, found, least in (("per_class", per_class, 1), ("sample", sample, 0)):
            if not isinstance(found, int) or isinstance(found, bool):
                raise TypeError(f"{name} must be an int, not {type(found).__name__}")
            if found < least:
                raise ValueError(f"{name} must be at least {least}, not {found}")
        places = [(self.labels == label).nonzero()[:, 0] for label in range(len(self.categories))]
        most = min(map(len, places)) // per_class
        if sample >= most:
            raise ValueError(
                f"{self.name} ({self.source}) has {most} samples with {per_class} images of each "
                f"class; sample {sample} is not there: take a smaller per_class or sample"
            )
        part = slice(sample * per_class, (sample + 1) * per_class)
        chosen = torch.stack([place[part] for place in places], dim=1).flatten()
        boxes = None if self.boxes is None else self.boxes[chosen]
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], boxes=boxes)

    def __repr__(self) -> str:
        size = f"{len(self)} images, {len(self.categories)} classes"
        return f"{type(self).__name__}({self.name}: {size}, source: {self.source})"


@dataclass(frozen=True)
class LazyImages(Sequence[Any]):
    """Image files, each opened (and verified) when it is asked for; a slice is opened no earlier.

    Attributes:
        paths: The files.
        remedy: What to do if one is damaged.
        sha256: Their checksums, where these are known.
        transform: Applied to each RGB image, such as a classifier's `preprocess`.
    """

    paths: tuple[Path, ...]
    remedy: str
    sha256: tuple[str, ...] | None = None
    transform: Callable[[Image.Image], Any] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> LazyImages: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            sha256 = None if self.sha256 is None else self.sha256[index]
            return replace(self, paths=self.paths[index], sha256=sha256)
        sha256_one = None if self.sha256 is None else self.sha256[index]
        image = open_image(self.paths[index], sha256_one, self.remedy)
        return image if self.transform is None else self.transform(image)


def open_image(path: Path, sha256: str | None, remedy: str) -> Image.Image:
    """Read a whole image file as RGB.

    Raises:
        DataError: The file is missing, is no image, is truncated or fails its checksum.
    """
    content = _fetch.read_verified(path, sha256, remedy)
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _fetch.DataError(path, f"is no whole image ({error})", remedy) from error


def label_tensor(labels: Sequence[int]) -> Tensor:
    """Labels as an int64 tensor (N,)."""
    return torch.tensor(labels, dtype=torch.int64)
