"""Does a heatmap point at the object? Energy inside a bounding box, and the pointing game."""

from __future__ import annotations

import torch
from torch import Tensor

from xaiutils.evaluation._complexity import _pixels


def energy_inside(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """Share of the positive relevance that lies inside the bounding box.

    The energy-based pointing game (Wang et al. 2020): the sum of positive relevance inside the box
    over the sum of all of it. A map that is the same everywhere gets the box's share of the area,
    which is the baseline.

    Args:
        heatmaps: (N, C, H, W), whose channels are summed, or (N, H, W).
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the maps, both ends inside the box, as in
            `data.tiny_imagenet`.

    Returns:
        (N,) float64 in [0, 1]; 0 for a map without positive relevance.

    Raises:
        ValueError: The numbers differ, or a box is empty or leaves the map.
    """
    pixels = _pixels(heatmaps).clamp(min=0)
    inside = _inside(boxes, pixels)
    total = pixels.sum(dim=(1, 2))
    share: Tensor = (pixels * inside).sum(dim=(1, 2)) / total.where(
        total > 0, torch.ones_like(total)
    )
    return share


def pointing_game(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """Whether the most relevant pixel lies inside the bounding box.

    Zhang et al. 2018, without their tolerance of 15 pixels. If several pixels share the maximum,
    the share of them that lies inside counts, so that a map that is the same everywhere gets the
    box's share of the area, as a pixel drawn by lot does on average.

    Args:
        heatmaps: As in `energy_inside`.
        boxes: Likewise.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: As in `energy_inside`.
    """
    pixels = _pixels(heatmaps)
    largest = pixels == pixels.amax(dim=(1, 2), keepdim=True)
    hits: Tensor = (largest & _inside(boxes, pixels)).sum(dim=(1, 2)).double()
    share: Tensor = hits / largest.sum(dim=(1, 2))
    return share


def _inside(boxes: Tensor, pixels: Tensor) -> Tensor:
    """Which pixels (N, H, W) of the maps lie in their box, as bool."""
    if boxes.shape != (len(pixels), 4):
        raise ValueError(f"boxes must be ({len(pixels)}, 4), not {tuple(boxes.shape)}")
    height, width = pixels.shape[1:]
    x0, y0, x1, y1 = boxes.cpu().long().T[:, :, None]
    fits = (x0 >= 0) & (y0 >= 0) & (x0 <= x1) & (y0 <= y1) & (x1 < width) & (y1 < height)
    if not bool(fits.all()):
        number = int((~fits[:, 0]).nonzero()[0])
        raise ValueError(
            f"box {number}, {boxes[number].tolist()}, is empty or leaves the map of {width} x "
            f"{height} pixels; scale boxes as the images were scaled"
        )
    rows, columns = torch.arange(height), torch.arange(width)
    high, wide = (rows >= y0) & (rows <= y1), (columns >= x0) & (columns <= x1)
    return torch.logical_and(high[:, :, None], wide[:, None])
