"""Many variants of few images, in passes of bounded size: steps of a path, noisy copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._autograd import Differentiated, slopes_of
from xaiutils.attribution._common import (
    Resolved,
    check_positive,
    in_chunks,
    joined,
    values_of,
)

Runs = graph.Graph | Differentiated
"""A network that runs: read into a graph, or left to autograd."""

_NUMBERS = 2**19
_AT_ONCE = 128


def rows_at_once(x: Tensor, batch_size: int | None) -> int:
    """Return how many pictures go through the network in one pass.

    Args:
        x: The images (N, ...).
        batch_size: The largest number; None for as many as there are images, or for as many small
            ones as hold half a million numbers, 128 at most.

    Raises:
        ValueError: If ``batch_size`` is not a positive whole number.
    """
    if batch_size is not None:
        check_positive("batch_size", batch_size)
        return batch_size
    return max(len(x), min(_AT_ONCE, _NUMBERS // max(x[:1].numel(), 1)))


def blocks(variants: int, images: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Cut variants x images into rectangles of at most ``rows`` pictures, all images first.

    Yields:
        Which variants and which images.
    """
    few = min(images, rows)
    some = max(1, rows // few)
    for first in range(0, variants, some):
        for image in range(0, images, few):
            yield (
                slice(first, min(first + some, variants)),
                slice(image, min(image + few, images)),
            )


@graph.undisturbed
def slopes_at(network: Runs, points: Tensor, explained: Resolved, few: slice) -> Tensor:
    """Return the gradient at some variants of some images.

    Args:
        network: What runs.
        points: The variants (V, M, ...) of the images.
        explained: What is explained of each of all the images; settled.
        few: Which images these are.
    """
    numbers = torch.arange(few.start, few.stop, device=points.device).repeat(len(points))
    each = None if explained is None else explained[numbers]
    return slopes_of(network, points.flatten(0, 1), each).view_as(points)


def values_at(network: Runs, x: Tensor, explained: Resolved, batch_size: int | None) -> Tensor:
    """Return the number (N,) that is explained of each image."""
    return joined(in_chunks(partial(_values, network), batch_size, x, explained))


def _values(network: Runs, x: Tensor, explained: Resolved) -> Tensor:
    return values_of(explained, network(x))


@dataclass(eq=False)
class Moments:
    """The mean of samples that come one after another, and how far they scatter.

    Sums of powers of the differences from the mean are kept up to date with each sample (Welford
    1962; Pebay 2008 for the third and fourth power), so that none has to be kept.

    Attributes:
        order: The highest power: 1 for the mean alone, 2 for the variance, 4 for its error.
        count: How many samples there were.
    """

    order: int = 2
    count: int = 0

    def add(self, sample: Tensor) -> None:
        """Take a sample into account, a tensor like the others."""
        self.count += 1
        n = self.count
        if n == 1:
            self._mean = sample.clone()
            self._sums = [torch.zeros_like(sample) for _ in range(self.order - 1)]
            return
        off = sample - self._mean
        step = off / n
        self._mean += step
        if self.order == 1:
            return
        term = off * step * (n - 1)
        if self.order == 4:
            second, third, fourth = self._sums
            fourth += term * step.square() * (n * n - 3 * n + 3)
            fourth += 6 * step.square() * second - 4 * step * third
            third += term * step * (n - 2) - 3 * step * second
        self._sums[0] += term

    @property
    def mean(self) -> Tensor:
        """The mean of the samples."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """The unbiased variance of the samples: the sum of squares over n - 1."""
        return self._sums[0] / (self.count - 1)

    def error_of_mean(self) -> Tensor:
        """Return the standard error of the mean, the root of variance / n."""
        return (self.variance / self.count).sqrt()

    def error_of_variance(self) -> Tensor:
        r"""Return the standard error of the unbiased variance.

        The root of :math:`(m_4 - \frac{n-3}{n-1} s^4) / n`, where that is not negative.
        """
        n = self.count
        inside = (self._sums[2] / n - (n - 3) / (n - 1) * self.variance.square()) / n
        return inside.clamp(min=0).sqrt()
