"""Cut an image into square regions, and sum up a heatmap in each."""

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
