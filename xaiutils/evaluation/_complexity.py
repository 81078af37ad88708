"""How complex a heatmap is: the size of its picture as a file, and the entropy of its grey levels.

Samek et al. 2017, Table I and the box plots of entropy. A good heatmap, they argue, marks what is
relevant and nothing else, so that of two maps that rank alike the simpler one is the better. The
paper gives the two file formats and the quality; how a map of real numbers becomes a picture of
whole ones it leaves open. Our choices are `as_picture`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

JPEG_QUALITY = 90
_LEVELS = 256


def as_picture(
    heatmaps: Tensor,
    percentile: float = 100.0,
    colours: str | None = None,
    signed: bool | None = None,
) -> Tensor:
    """Turn heatmaps into pictures of 256 levels, each map on a scale of its own.

    The channels of a pixel are summed. A map without negative values is drawn from 0 (level 0) to
    its limit (level 255); any other from minus the limit (level 1) through zero (128) to the limit
    (255), which leaves it half as many levels for a value. All of this is our choice: the paper
    does not say how its pictures were made.

    Args:
        heatmaps: (N, C, H, W) or (N, H, W); C may be 1.
        percentile: The limit is this percentile of the absolute relevance, in (0, 100]. With 100,
            the maximum, a few strong pixels leave a handful of levels to all others.
        colours: Name of a colour map of matplotlib, such as "jet"; None for grey.
        signed: Draw every map (True) with zero at level 128, whatever its signs; None decides by
            the map. To compare a map without signs with one that has them, give both one scale.

    Returns:
        uint8 on the CPU; (N, H, W) in grey, (N, H, W, 3) in colours. A map that is zero everywhere
        has a single level.

    Raises:
        ValueError: Another shape, no map, NaN or infinity, a percentile outside (0, 100], or an
            unknown name of colours.
    """
    pixels = _pixels(heatmaps)
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in (0, 100], not {percentile}")
    levels = torch.stack([_levels(one, percentile, bool(signed)) for one in pixels])
    if colours is None:
        return levels
    if colours not in matplotlib.colormaps:
        raise ValueError(f"matplotlib has no colours named {colours!r}; 'jet' is one")
    table = matplotlib.colormaps[colours](np.arange(_LEVELS), bytes=True)[:, :3]
    return torch.from_numpy(table)[levels.long()]


def png_size(
    heatmaps: Tensor,
    percentile: float = 100.0,
    colours: str | None = None,
    signed: bool | None = None,
) -> Tensor:
    """Size of each heatmap as a PNG file, which keeps every pixel.

    Args:
        heatmaps: As in `as_picture`, like the other arguments.
        percentile: Likewise.
        colours: Likewise.
        signed: Likewise.

    Returns:
        (N,) int64, in bytes.

    Raises:
        ValueError: As in `as_picture`.
    """
    pictures = as_picture(heatmaps, percentile, colours, signed)
    return _each(pictures, lambda one: _file_size(one, format="PNG", compress_level=9))


def jpeg_size(
    heatmaps: Tensor,
    percentile: float = 100.0,
    colours: str | None = None,
    quality: int = JPEG_QUALITY,
    signed: bool | None = None,
) -> Tensor:
    """Size of each heatmap as a JPEG file, which rounds off what the eye hardly sees.

    Args:
        heatmaps: As in `as_picture`, like the next two arguments.
        percentile: Likewise.
        colours: Likewise.
        quality: From 1 to 95; 90 in the paper.
        signed: As in `as_picture`.

    Returns:
        (N,) int64, in bytes.

    Raises:
        ValueError: As in `as_picture`, or if the quality is out of range.
    """
    if not 1 <= quality <= 95:
        raise ValueError(f"quality must be from 1 to 95, not {quality}")
    pictures = as_picture(heatmaps, percentile, colours, signed)
    return _each(pictures, lambda one: _file_size(one, format="JPEG", quality=quality))


def entropy(heatmaps: Tensor, percentile: float = 100.0, signed: bool | None = None) -> Tensor:
    """Shannon entropy of the grey levels of each heatmap: minus the sum of p log2 p.

    p is the share of pixels at a level. The entropy does not ask where the pixels lie; it is 0 for
    one level and at most 8 for 256. Colours would not change it as long as no two levels share one.

    Args:
        heatmaps: As in `as_picture`.
        percentile: Likewise.
        signed: Likewise.

    Returns:
        (N,) float64, in bits per pixel.

    Raises:
        ValueError: As in `as_picture`.
    """
    pictures = as_picture(heatmaps, percentile, signed=signed).flatten(1).long()
    counts = torch.stack([one.bincount(minlength=_LEVELS) for one in pictures]).double()
    shares = counts / counts.sum(dim=1, keepdim=True)
    bits: Tensor = torch.special.entr(shares).sum(dim=1) / np.log(2)
    return bits


def _pixels(heatmaps: Tensor) -> Tensor:
    """One number a pixel, (N, H, W) float64 on the CPU, checked."""
    if heatmaps.ndim not in (3, 4) or heatmaps.numel() == 0:
        raise ValueError(f"heatmaps must be (N, C, H, W) or (N, H, W), not {tuple(heatmaps.shape)}")
    if not bool(torch.isfinite(heatmaps).all()):
        raise ValueError("heatmaps hold NaN or infinity; look at the method that made them")
    values = heatmaps.detach().cpu().double()
    return values.sum(dim=1) if values.ndim == 4 else values


def _levels(pixels: Tensor, percentile: float, signed: bool) -> Tensor:
    """One map (H, W) as levels from 0 to 255."""
    strength = pixels.abs().numpy()
    # A sparse map may be zero at the percentile; then its maximum is the limit.
    limit = float(np.percentile(strength, percentile)) or float(strength.max()) or 1.0
    share = (pixels / limit).clamp(-1, 1)
    scaled = 128 + 127 * share if signed or bool((pixels < 0).any()) else 255 * share
    return scaled.round().to(torch.uint8)


def _each(pictures: Tensor, size: Callable[[NDArray[np.uint8]], int]) -> Tensor:
    return torch.tensor([size(picture.numpy()) for picture in pictures])


def _file_size(picture: NDArray[np.uint8], **options: Any) -> int:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, **options)
    return file.tell()
