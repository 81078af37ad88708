"""Real photographs of free licence, out of the installed scikit-image and scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from PIL import Image, ImageOps

from xaiutils.data import _fetch
from xaiutils.data._imagenet import (
    describe,
    imagenet_categories,
    imagenet_sample,
    imagenet_wnids,
)
from xaiutils.data._sets import ImageSet, Item, label_tensor, open_image

IMAGENET_TERMS = "ImageNet: for non-commercial research and teaching, not to be redistributed"
SOURCE = _fetch.Source("embedded", "embedded: photographs in scikit-image and scikit-learn")


@dataclass(frozen=True)
class Credit:
    """A photograph and those to whom it is owed.

    Attributes:
        name: Short name, by which `photos()` can be indexed.
        label: Index of its ImageNet class.
        licence: The terms under which it may be used.
        author: Who took it, or gave it.
        package: The installed package that ships it; "" for one of the ImageNet sample.
        file: Its path inside that package, or in that sample.
        sha256: Its checksum: other bytes would give other outputs in the book.
    """

    name: str
    label: int
    licence: str
    author: str
    package: str
    file: str
    sha256: str


CREDITS = (
    Credit(
        "chelsea",
        282,
        "CC0",
        "Stefan van der Walt",
        "skimage",
        "data/chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    ),
    Credit(
        "coffee",
        967,
        "CC0",
        "Rachel Michetti, courtesy of Pikolo Espresso Bar",
        "skimage",
        "data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
    Credit(
        "rocket",
        657,
        "public domain",
        "SpaceX",
        "skimage",
        "data/rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    ),
    Credit(
        "camera",
        872,
        "CC0",
        "Lav Varshney",
        "skimage",
        "data/camera.png",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
    ),
    Credit(
        "china",
        698,
        "CC BY 2.0",
        "danielbuechele, flickr.com/photos/danielbuechele/6061409035",
        "sklearn",
        "datasets/images/china.jpg",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    ),
    Credit(  # scikit-learn's note repeats the other photograph's author, but links to this one
        "flower",
        985,
        "CC BY 2.0",
        "vultilion, flickr.com/photos/vultilion/6056698931",
        "sklearn",
        "datasets/images/flower.jpg",
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    ),
)


@dataclass(frozen=True, eq=False, repr=False)
class Photos(ImageSet):
    """The photographs; `photos()["chelsea"]` is an item too.

    Attributes:
        names: Short name of each photograph.
        credits: Licence and author of each photograph.
    """

    credits: tuple[Credit, ...] = CREDITS

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(credit.name for credit in self.credits)

    @property
    def credit_line(self) -> str:
        """The authors whose licence asks to be named wherever their photographs are shown."""
        owed = [c for c in self.credits if c.licence.startswith("CC BY")]
        return "; ".join(f"{c.name}: {c.author}, {c.licence}" for c in owed)

    def __getitem__(self, index: int | str) -> Item:
        if isinstance(index, str):
            index = self.names.index(_fetch.choose(index, self.names, "photograph"))
        return Item(self.images[index], int(self.labels[index]))


def photos(size: int | None = None, *, sample: int = 0) -> Photos:
    """Six photographs that the embedded EfficientNet-Lite0 names rightly, or six others.

    They are the same on every machine: each file is compared with its checksum.

    Args:
        size: Give square copies of this many pixels a side, cut from the centre, for models of
            small input; None gives the photographs as they are.
        sample: 0 for the six that are embedded. Each number from 1 to 166 stands for six others
            out of `imagenet_sample`, drawn by lot once for all, which must be at hand; a network
            need not name those rightly. What was seen on six photographs can be asked of others.

    Returns:
        PIL images in RGB ("camera" is a grey one); labels are indices of the 1000 ImageNet classes;
        `credits` has the licence and the author of each.

    Raises:
        ValueError: `size` is not a positive whole number, or there is no such sample.
        DataError: A package that ships them is missing, or its file is another one or damaged; the
            ImageNet sample is not at hand.
    """
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(f"size is {size!r}: give a positive whole number of pixels, or None")
    if not isinstance(sample, int) or not 0 <= sample <= len(imagenet_wnids()) // len(CREDITS):
        raise ValueError(f"sample is {sample!r}: give 0 for the embedded photographs, or 1 to 166")
    credits, opened, source = _embedded() if sample == 0 else _others(sample)
    return Photos(
        name="photographs" if size is None else f"photographs, {size} x {size}",
        images=tuple(_small(image, size) for image in opened),
        labels=label_tensor([credit.label for credit in credits]),
        categories=imagenet_categories(),
        source=source,
        wnids=imagenet_wnids(),
        credits=credits,
    )


_Found = tuple[tuple[Credit, ...], list[Image.Image], _fetch.Source]


def _embedded() -> _Found:
    return CREDITS, [_open(credit) for credit in CREDITS], SOURCE


def _others(sample: int) -> _Found:
    """Six pictures of the ImageNet sample, none of them in another sample."""
    found = imagenet_sample()
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = order[(sample - 1) * len(CREDITS) : sample * len(CREDITS)]
    files = list(describe().files)
    credits = tuple(
        Credit(
            found.categories[i], i, IMAGENET_TERMS, "unknown", "", files[i].path, files[i].sha256
        )
        for i in chosen
    )
    return credits, [found[i].image for i in chosen], found.source


@cache
def _open(credit: Credit) -> Image.Image:
    path = _fetch.package_file(credit.package, credit.file)
    return open_image(path, credit.sha256, SOURCE.remedy)


def _small(image: Image.Image, size: int | None) -> Image.Image:
    if size is None:
        return image.copy()  # the reader may draw on it
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
