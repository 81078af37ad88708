"""What replaces a region, bit by bit the same in Python and in the page (pictures.js).

The page carries a picture once and makes the perturbed ones itself. So that the network scored the
very pixels that the page shows, everything is whole numbers: pictures have 256 levels, and noise
and random orders come from a hash of the position instead of a generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xaiutils.evaluation import Regions, morf_ranks
from xaiutils.models import Preprocess

Bytes = NDArray[np.uint8]

_ORDER = 0x5BD1E995  # keeps the lots of the regions apart from the noise of the same seed
_WEIGHT_BITS = 14
SIGMA = 3.0  # of the blur, in pixels, as in Samek et al. 2017


def mixed(numbers: NDArray[Any], seed: int) -> NDArray[np.uint32]:
    """A hash of whole numbers: 32 bits that look random, the same ones in any language.

    Multiplications and shifts spread each bit over all others; the two factors are those of the
    hash function "lowbias32" (C. Wellons, public domain).
    """
    bits = numbers.astype(np.uint32) * np.uint32(0x9E3779B1)
    bits += np.uint32(seed * 0x85EBCA6B & 0xFFFFFFFF)
    bits ^= bits >> np.uint32(16)
    bits *= np.uint32(0x7FEB352D)
    bits ^= bits >> np.uint32(15)
    bits *= np.uint32(0x846CA68B)
    return bits ^ (bits >> np.uint32(16))


def blur_weights() -> list[int]:
    """A Gaussian of `SIGMA` pixels in whole numbers that sum to 2 ** 14, for one side."""
    radius = int(4 * SIGMA)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * SIGMA**2))
    whole = np.rint(weights / weights.sum() * 2**_WEIGHT_BITS).astype(int)
    whole[radius] += 2**_WEIGHT_BITS - whole.sum()
    return [int(weight) for weight in whole]


def _uniform(picture: Bytes, seed: int) -> Bytes:
    """Independent noise over all levels, the same for every picture of this size."""
    places = np.arange(picture.size).reshape(picture.shape)
    return (mixed(places, seed) >> 24).astype(np.uint8)


def _mean(picture: Bytes, seed: int) -> Bytes:
    """The picture's mean colour."""
    pixels = picture[0].size
    total = picture.reshape(len(picture), -1).sum(axis=1, dtype=np.int64)
    colour = ((2 * total + pixels) // (2 * pixels)).astype(np.uint8)
    return np.broadcast_to(colour[:, None, None], picture.shape)


def _black(picture: Bytes, seed: int) -> Bytes:
    """Level 0: for a digit, the empty page."""
    return np.zeros_like(picture)


def _blur(picture: Bytes, seed: int) -> Bytes:
    """The picture, blurred along each side; beyond the edge its outermost pixels go on."""
    weights = blur_weights()
    radius = len(weights) // 2
    levels = picture.astype(np.int64)
    for axis in (2, 1):
        around = [(radius, radius) if side == axis else (0, 0) for side in range(3)]
        padded = np.pad(levels, around, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis)
        levels = (windows @ np.array(weights) + 2 ** (_WEIGHT_BITS - 1)) >> _WEIGHT_BITS
    return levels.astype(np.uint8)


PAGE_FILLS: dict[str, Callable[[Bytes, int], Bytes]] = {
    "uniform": _uniform,
    "mean": _mean,
    "black": _black,
    "blur": _blur,
}
"""``f(picture, seed)`` gives what replaces a picture (C, H, W) of 256 levels."""


def levels_of(x: Tensor, preprocess: Preprocess) -> Tensor:
    """Round network inputs (..., C, H, W) to pictures of 256 levels, uint8."""
    return (preprocess.denormalize(x) * 255).round().to(torch.uint8)


def input_of(levels: Tensor, preprocess: Preprocess) -> Tensor:
    """The network's input for pictures of 256 levels, float32."""
    return preprocess.normalize(levels.float() / 255)


@dataclass(frozen=True)
class PageFill:
    """A fill for `evaluation.region_perturbation` that the page can repeat.

    Attributes:
        name: One of `PAGE_FILLS`.
        preprocess: Of the network, for the way to 256 levels and back.
        seed: Of the noise.
    """

    name: str
    preprocess: Preprocess
    seed: int = 0
    random: ClassVar[bool] = False  # every repetition is the same

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What replaces each of the images (N, C, H, W), in the network's units."""
        fill = PAGE_FILLS[self.name]
        pictures = [fill(one.numpy(), self.seed) for one in levels_of(images, self.preprocess)]
        return input_of(torch.from_numpy(np.stack(pictures)), self.preprocess).to(images)


def lots(regions: Regions, seed: int) -> Tensor:
    """A heatmap (H, W) whose regions rank in a random order: one lot at a pixel of each region."""
    return _one_pixel_each(regions, _drawn(regions, seed))


def without_ties(heatmaps: Tensor, regions: Regions, seed: int) -> Tensor:
    """Heatmaps (N, H, W) that rank the regions like those given, equal ones by `lots`.

    `evaluation.region_perturbation` would break ties too, but by lots that a page cannot draw.
    """
    lot = morf_ranks(_drawn(regions, seed)[None])
    ranks = morf_ranks(regions.scores(heatmaps), lot)
    return torch.stack([_one_pixel_each(regions, -one.double()) for one in ranks])


def _drawn(regions: Regions, seed: int) -> Tensor:
    """A lot for each region, (count,) float64; the highest goes first."""
    return torch.from_numpy(mixed(np.arange(regions.count), seed ^ _ORDER).astype(np.float64))


def _one_pixel_each(regions: Regions, values: Tensor) -> Tensor:
    """A map (H, W) that holds each region's value at its first pixel, and zeros elsewhere."""
    map_ = torch.zeros(regions.height, regions.width, dtype=torch.float64)
    rows, columns = regions.row_spans, regions.column_spans
    for number, value in enumerate(values):
        map_[rows[number // len(columns)][0], columns[number % len(columns)][0]] = value
    return map_
