"""The other metrics of faithfulness, on one footing with region perturbation.

All of them replace some regions of a picture, watch the output, and compare it with the map. They
differ in what is replaced together, and in what is done with the falls. So all take the arguments
of `region_perturbation`, meet the same draws, and give one number for each image. All work on
regions; with ``region_size=1`` a region is a pixel with all its channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from xaiutils.attribution import Target
from xaiutils.evaluation._fills import Fill
from xaiutils.evaluation._options import MetricOptions, with_defaults
from xaiutils.evaluation._perturbation import (
    FillName,
    Order,
    _check_whole,
    checked_regions,
    region_perturbation,
)
from xaiutils.evaluation._ranks import morf_ranks
from xaiutils.evaluation._subsets import (
    falls_without,
    prepared,
    region_relevance,
    subset_falls,
)

_SIZES = 8  # of sensitivity_n, if none are given
_LARGEST_SHARE = 0.8  # of the regions, likewise
_ROUNDING = 1e-12


def deletion(
    model: nn.Module,
    x: Tensor,
    target: Target,
    maps: Tensor,
    region_size: int = 9,
    fill: FillName | Fill = "uniform",
    **options: Unpack[MetricOptions],
) -> Tensor:
    """Area under the output while the picture is deleted, the most relevant regions first.

    Petsiuk et al. 2018: the curve of `region_perturbation` in the order "morf" until
    nothing is left, against the share of the regions that are gone; the area by the trapezoidal
    rule. They delete pixels, some at a time, put zero for them, and watch the probability.

    Args:
        model: A network in evaluation mode, as in `region_perturbation`.
        x: Images (N, C, H, W).
        target: The class whose output is watched; None for the one that is named at `x`.
        maps: (N, C, H, W), whose channels are summed, (N, 1, H, W) or (N, H, W).
        region_size: Side of a region, in pixels.
        fill: What replaces a region.
        **options: Of `MetricOptions`.

    Returns:
        (N,) float64, in units of the output; small if the map ranks well.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: As in `region_perturbation`.
    """
    return _area_under("morf", model, x, target, maps, region_size, fill, options)


def insertion(
    model: nn.Module,
    x: Tensor,
    target: Target,
    maps: Tensor,
    region_size: int = 9,
    fill: FillName | Fill = "uniform",
    **options: Unpack[MetricOptions],
) -> Tensor:
    """Area under the output while the picture is put back, the most relevant regions first.

    Petsiuk et al. 2018. The canvas that regions are put on is the fill; theirs is the
    blurred picture, for insertion alone. With k regions put back, those are gone that come last in
    the order: the picture of the order "lerf" after all but k steps. So insertion is the LeRF curve
    read backwards, and its area is the area under that. `insertion` minus `deletion` is `abpc` of
    all K regions, times (K + 1) / K.

    Args:
        model: As in `deletion`, like all other arguments.
        x: Likewise.
        target: Likewise.
        maps: Likewise.
        region_size: Likewise.
        fill: What the canvas shows.
        **options: Likewise.

    Returns:
        (N,) float64, in units of the output; large if the map ranks well.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: As in `region_perturbation`.
    """
    return _area_under("lerf", model, x, target, maps, region_size, fill, options)


def faithfulness_correlation(
    model: nn.Module,
    x: Tensor,
    target: Target,
    maps: Tensor,
    region_size: int = 9,
    size: int | None = None,
    subsets: int = 100,
    fill: FillName | Fill = "uniform",
    **options: Unpack[MetricOptions],
) -> Tensor:
    """Correlation of the relevance of random subsets with the fall of the output without them.

    Bhatt et al. 2020: Pearson's correlation, over subsets S of a fixed
    size, of the sum of R over S and f(x) - f(x without S).

    Args:
        model: As in `deletion`, like all arguments that are not named here.
        x: Likewise.
        target: Likewise.
        maps: Likewise; in the sum over a subset the size of R counts, not its rank alone.
        region_size: Likewise.
        size: Number of regions in a subset; a tenth of all, at least one, if None.
        subsets: How many are drawn for each image, at least two.
        fill: What replaces a region. In the paper a fixed baseline.
        **options: Likewise; the falls are averaged over the repetitions.

    Returns:
        (N,) float64 from -1 to 1; 0 for a map or a network that tells no subsets apart.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: As in `region_perturbation`; or a subset takes all regions, or there are fewer
            than two.
    """
    found = subset_falls(model, x, target, region_size, size, subsets, fill, **options)
    return found.correlation(maps)


def sensitivity_n(
    model: nn.Module,
    x: Tensor,
    target: Target,
    maps: Tensor,
    region_size: int = 9,
    sizes: Sequence[int] | None = None,
    subsets: int = 100,
    fill: FillName | Fill = "uniform",
    **options: Unpack[MetricOptions],
) -> Tensor:
    """The mean of `faithfulness_correlation` over sizes of the subsets.

    Ancona et al. 2018: a map has Sensitivity-n if R summed over any n features is the
    fall of the output without them; how nearly it has, says the correlation over random subsets of
    n features, plotted for n from one to about four fifths of all. Here the mean of that curve; for
    a point of it give one size. They put zero for a feature. The subsets of different sizes are
    nested.

    Args:
        model: As in `faithfulness_correlation`, like all arguments that are not named here.
        x: Likewise.
        target: Likewise.
        maps: Likewise.
        region_size: Likewise.
        sizes: The numbers n of regions; None for about eight between 1 and four fifths of all, each
            larger by the same factor.
        subsets: How many of each size.
        fill: Likewise.
        **options: Likewise.

    Returns:
        (N,) float64 from -1 to 1.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: As in `faithfulness_correlation`, or there are no sizes.
    """
    count = checked_regions(x, region_size, 1, with_defaults(options)["edge"]).count
    numbers = _sizes(count) if sizes is None else list(sizes)
    if not numbers:
        raise ValueError("sizes is empty; give at least one number of regions")
    found = [
        faithfulness_correlation(
            model, x, target, maps, region_size, size, subsets, fill, **options
        )
        for size in numbers
    ]
    return torch.stack(found).mean(dim=0)


def infidelity(
    model: nn.Module,
    x: Tensor,
    target: Target,
    maps: Tensor,
    region_size: int = 9,
    size: int | None = None,
    subsets: int = 100,
    fill: FillName | Fill = "uniform",
    *,
    scaled: bool = True,
    slopes: bool = False,
    **options: Unpack[MetricOptions],
) -> Tensor:
    """How far the fall of the output is from what the map foretells, in the mean square.

    Yeh et al. 2019: the mean over changes I of (I . R - f(x) + f(x - I))^2. Here
    a change replaces a random subset of the regions. What I is, depends on what the map holds. The
    relevance of a region is what the output loses with it: I is 1 there, and I . R is the sum of R
    over the subset, as in the paper's square removal. A gradient holds slopes: I is the difference
    of the two pictures, as in their noisy baseline.

    Args:
        model: As in `faithfulness_correlation`, like all arguments that are not named here.
        x: Likewise.
        target: Likewise.
        maps: Likewise.
        region_size: Likewise.
        size: Number of regions in a subset; a tenth of all, at least one, if None. It may take
            all: then only what the fill draws differs.
        subsets: How many are drawn for each image.
        fill: Likewise.
        scaled: Multiply the map of each image by the number that makes its infidelity smallest,
            the mean of (I . R) (f(x) - f(x - I)) over that of (I . R)^2: as in the code of the
            paper's authors. Unscaled, a map that is too large is worse than zero everywhere.
        slopes: Whether the map holds slopes; it must then have the channels of `x`.
        **options: Likewise; the squares are averaged over the repetitions.

    Returns:
        (N,) float64, in units of the output squared; small if the map foretells well.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: As in `region_perturbation`; or a map of slopes has not the shape of `x`.
    """
    found = subset_falls(model, x, target, region_size, size, subsets, fill, **options)
    return found.infidelity(maps, scaled=scaled, slopes=slopes)


def saco(
    model: nn.Module,
    x: Tensor,
    target: Target,
    maps: Tensor,
    region_size: int = 9,
    groups: int = 10,
    fill: FillName | Fill = "uniform",
    **options: Unpack[MetricOptions],
) -> Tensor:
    """Salience-guided faithfulness coefficient: do groups of higher relevance matter more?

    Wu et al., CVPR 2024: the ranked regions are cut into equal groups, and each group is
    replaced alone. Each pair of groups adds the difference of their relevance, positive if the more
    relevant one has the larger fall, negative otherwise; the sum is divided by that of the absolute
    differences. In the paper the groups are of pixels, the picture's mean colour replaces them, and
    the probability is watched.

    Args:
        model: As in `deletion`, like all arguments that are not named here.
        x: Likewise.
        target: Likewise.
        maps: Likewise.
        region_size: Likewise.
        groups: K, at least two. If they cannot be of equal size, some hold one region more, and
            the mean relevance of a group counts.
        fill: What replaces a group.
        **options: Likewise; the falls are averaged over the repetitions, and regions of equal
            relevance are ordered by lot.

    Returns:
        (N,) float64 from -1 to 1; 0 for a map that scores all regions alike.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: As in `region_perturbation`, or there are fewer regions than groups.
    """
    _check_whole("groups", groups, least=2)
    settings = with_defaults(options)
    runner, draws = prepared(model, x, target, region_size, fill, settings)
    of_regions = region_relevance(draws, maps)
    number, count = of_regions.shape
    if count < groups:
        raise ValueError(
            f"{count} regions cannot make {groups} groups; give fewer groups or a smaller "
            "region_size"
        )
    lot = torch.stack([draws.random_ranks(n, 0) for n in range(number)])
    group = morf_ranks(of_regions, lot) * groups // count
    gone = torch.stack([group == g for g in range(groups)])
    relevance = torch.stack([of_regions.where(one, 0.0).sum(1) / one.sum(1) for one in gone], dim=1)
    falls = falls_without(runner, draws, gone, settings["repeats"])
    return _agreement(relevance, falls.mean(dim=2))


def _area_under(
    order: Order,
    model: nn.Module,
    x: Tensor,
    target: Target,
    maps: Tensor,
    region_size: int,
    fill: FillName | Fill,
    options: MetricOptions,
) -> Tensor:
    """Area under the curves until all regions are gone, against their share, by trapezoids."""
    if not isinstance(maps, Tensor):
        raise TypeError(f"maps must be a tensor, not {type(maps).__name__}")
    settings = with_defaults(options)
    steps = checked_regions(x, region_size, 1, settings["edge"]).count
    curves = region_perturbation(
        model, x, target, maps, region_size, steps, order, fill, **settings
    )
    mean = curves.scores.double().mean(dim=1)
    inner = mean.sum(dim=1) - (mean[:, 0] + mean[:, -1]) / 2
    area: Tensor = inner / steps
    return area


def _sizes(count: int) -> list[int]:
    """Numbers of regions from 1 to four fifths of all, by equal factors."""
    last = max(1.0, _LARGEST_SHARE * count)
    return sorted({round(last ** (k / (_SIZES - 1))) for k in range(_SIZES)})


def _agreement(relevance: Tensor, falls: Tensor) -> Tensor:
    """SaCo of groups (N, K) whose relevance does not rise: (N,)."""
    first, second = torch.triu_indices(relevance.shape[1], relevance.shape[1], offset=1)
    apart = relevance[:, first] - relevance[:, second]
    agrees = torch.where(falls[:, first] >= falls[:, second], 1.0, -1.0)
    total = apart.sum(dim=1)
    flat = total <= _ROUNDING * relevance.abs().amax(dim=1)
    return torch.where(flat, 0.0, (agrees * apart).sum(dim=1) / total.where(~flat, 1.0))
