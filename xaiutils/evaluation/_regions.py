"""Cut an image into square regions, score each by a heatmap, and rank them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Edge = Literal["keep", "drop"]
Reduce = Literal["sum", "mean", "max"]

EDGES = ("keep", "drop")
REDUCTIONS = {"sum": "sum", "mean": "mean", "max": "amax"}


@dataclass(frozen=True)
class Regions:
    """Squares of `size` pixels that do not overlap, numbered row by row.

    A side is seldom a whole number of regions long. With ``edge="keep"`` the grid starts at the
    top left and the last row and column of regions are narrower, so that every pixel belongs to a
    region: 227 pixels in regions of 9 give 26 x 26. With ``edge="drop"`` only whole regions exist,
    their grid is centred, and the rim around it is never replaced: 25 x 25.

    Attributes:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        size: Side of a region, in pixels.
        edge: What happens at the edge.
    """

    height: int
    width: int
    size: int
    edge: Edge = "keep"

    @property
    def rows(self) -> int:
        """Number of regions from top to bottom."""
        return self._number(self.height)

    @property
    def columns(self) -> int:
        """Number of regions from left to right."""
        return self._number(self.width)

    @property
    def count(self) -> int:
        """Number of all regions."""
        return self.rows * self.columns

    @cached_property
    def index(self) -> Tensor:
        """The number of each pixel's region, (H, W) int64; `count` in the rim."""
        rows = self._along(self.height)[:, None]
        columns = self._along(self.width)[None, :]
        return torch.where((rows < 0) | (columns < 0), self.count, rows * self.columns + columns)

    @property
    def row_spans(self) -> list[tuple[int, int]]:
        """First row of pixels of each row of regions, and the one after the last."""
        return self._spans(self.height)

    @property
    def column_spans(self) -> list[tuple[int, int]]:
        """First column of pixels of each column of regions, and the one after the last."""
        return self._spans(self.width)

    def scores(self, maps: Tensor, reduce: Reduce = "sum") -> Tensor:
        """Score the regions of heatmaps.

        Args:
            maps: One number a pixel, shape (N, H, W).
            reduce: "sum", "mean" or "max" over the pixels of a region.

        Returns:
            (N, count), float64. In an incomplete region "sum" adds fewer pixels; "mean" and "max"
            do not favour or disfavour it by its area.
        """
        values = maps.double().flatten(1)
        index = self.index.to(values.device).flatten().expand(len(values), -1)
        scores = values.new_zeros(len(values), self.count + 1)
        scores.scatter_reduce_(1, index, values, REDUCTIONS[reduce], include_self=False)
        return scores[:, : self.count]

    def _number(self, side: int) -> int:
        return -(-side // self.size) if self.edge == "keep" else side // self.size

    def _spans(self, side: int) -> list[tuple[int, int]]:
        start = self._rim(side)
        firsts = range(start, start + self._number(side) * self.size, self.size)
        return [(first, min(first + self.size, side)) for first in firsts]

    def _rim(self, side: int) -> int:
        return (side % self.size) // 2 if self.edge == "drop" else 0

    def _along(self, side: int) -> Tensor:
        """Row (or column) of regions of each pixel on one side; -1 in the rim."""
        number = (torch.arange(side) - self._rim(side)).div(self.size, rounding_mode="floor")
        return torch.where(number < self._number(side), number, -1)


def morf_ranks(scores: Tensor, lot: Tensor | None = None) -> Tensor:
    """The place of each region when the most relevant goes first.

    Samek et al. 2017, eqs 8 and 9. The paper does not say what becomes of equal scores. On pictures
    with an empty page there are many, and the order of the page is no neutral choice for them.

    Args:
        scores: Region scores, shape (N, count).
        lot: A random order as ranks, (N, count) or (count,), by which regions of equal score are
            sorted; None keeps the order of their numbers (row by row).

    Returns:
        (N, count) int64; 0 for the region that goes first.
    """
    if lot is None:
        return scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    by_lot = lot.expand_as(scores).argsort(dim=1)
    order = scores.gather(1, by_lot).argsort(dim=1, descending=True, stable=True)
    return by_lot.gather(1, order).argsort(dim=1)


def count_ties(scores: Tensor) -> Tensor:
    """How many regions of an image share their score with another region of it.

    Args:
        scores: Region scores, shape (N, count).

    Returns:
        (N,) int64, from 0 to count.
    """
    ranked = scores.sort(dim=1).values
    equal = ranked[:, 1:] == ranked[:, :-1]
    alone = torch.zeros(len(scores), 1, dtype=torch.bool, device=scores.device)
    return (torch.cat([alone, equal], dim=1) | torch.cat([equal, alone], dim=1)).sum(dim=1)
