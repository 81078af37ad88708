"""Take subsets of the regions away, each from the whole picture: what several metrics share.

Region perturbation removes regions one after another. Sensitivity-n, faithfulness correlation,
infidelity and SaCo remove a subset, look, and start again from the whole picture. Which subsets
the lot draws, and what replaces them, depends on the seed and the image's number alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Unpack

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution import Target
from xaiutils.evaluation._fills import Fill
from xaiutils.evaluation._jobs import Runner
from xaiutils.evaluation._options import MetricOptions, with_defaults
from xaiutils.evaluation._perturbation import (
    FillName,
    _check_whole,
    _summed,
    checked_draws,
    checked_regions,
    checked_runner,
)
from xaiutils.evaluation._pictures import Draws, Perturbation, generator
from xaiutils.evaluation._sanity import correlation


@dataclass(frozen=True, eq=False)
class SubsetFalls:
    """How far the output falls without each of some subsets of the regions.

    No map has a part in it, so that one run serves all maps of the same images.

    Attributes:
        draws: The images, their regions and what replaces them.
        gone: Which regions each subset holds, (K, N, count) bool, on the CPU.
        falls: f(x) - f(x without the subset), (N, K, repeats) float64, in units of the output; each
            repetition has a draw of its own of the fill.
    """

    draws: Draws = field(repr=False)
    gone: Tensor = field(repr=False)
    falls: Tensor = field(repr=False)

    def sums(self, maps: Tensor) -> Tensor:
        """The summed relevance of each subset: (N, K) float64.

        Args:
            maps: (N, C, H, W), whose channels are summed, (N, 1, H, W) or (N, H, W).

        Raises:
            TypeError: The maps are no tensor.
            ValueError: They do not fit the images, or hold NaN or infinity.
        """
        return torch.einsum("knr,nr->nk", self.gone.double(), region_relevance(self.draws, maps))

    def correlation(self, maps: Tensor) -> Tensor:
        """Pearson's correlation of the summed relevance with the fall, over the subsets.

        Bhatt et al. 2020; see `faithfulness_correlation`.

        Args:
            maps: As in `sums`.

        Returns:
            (N,) float64 from -1 to 1; 0 for a map, or an image, that tells no subsets apart.

        Raises:
            TypeError: As in `sums`.
            ValueError: Likewise; or there are fewer than two subsets, or they hold all regions.
        """
        if len(self.gone) < 2 or bool(self.gone.all()):
            raise ValueError(
                "a correlation needs at least two subsets, which leave some of the regions; here "
                f"there are {len(self.gone)}, each of {int(self.gone[0, 0].sum())} of the "
                f"{self.gone.shape[2]} regions"
            )
        return correlation(self.sums(maps), self.falls.mean(dim=2))

    def infidelity(self, maps: Tensor, *, scaled: bool = True, slopes: bool = False) -> Tensor:
        """Mean squared difference of the fall and what the map foretells.

        Yeh et al. 2019; see `infidelity`, which also says what the options do.

        Args:
            maps: As in `sums`; with `slopes` of the shape of the images.
            scaled: Multiply each map by the number that suits it best.
            slopes: Whether the maps hold slopes.

        Returns:
            (N,) float64, in units of the output squared.

        Raises:
            TypeError: As in `sums`.
            ValueError: Likewise.
        """
        foretold = self._by_slopes(maps) if slopes else self.sums(maps)[..., None]
        foretold, falls = foretold.expand_as(self.falls).flatten(1), self.falls.flatten(1)
        if scaled:
            size = (foretold**2).mean(dim=1, keepdim=True)
            best = (foretold * falls).mean(dim=1, keepdim=True) / size.where(size > 0, 1.0)
            foretold = best * foretold
        return ((foretold - falls) ** 2).mean(dim=1)

    def _by_slopes(self, maps: Tensor) -> Tensor:
        """I . R, I being the picture less what it became: (N, K, repeats)."""
        x, (images, _, repeats) = self.draws.x, self.falls.shape
        _summed("maps", maps, x)
        if maps.shape != x.shape:
            raise ValueError(
                f"maps of slopes must have the shape of x, {tuple(x.shape)}, not "
                f"{tuple(maps.shape)}; maps with one number a pixel hold relevance: slopes=False"
            )
        slopes, once = maps.detach().to(x.device).double(), torch.tensor([1])
        foretold = torch.empty(self.falls.shape, dtype=torch.float64)
        for k, way in enumerate(_ways(self.draws, self.gone)):
            for n in range(images):
                for r in range(repeats):
                    change = (x[n] - way.pictures(n, r, once)[0]).double()
                    foretold[n, k, r] = (change * slopes[n]).sum()
        return foretold


def subset_falls(
    model: nn.Module,
    x: Tensor,
    target: Target,
    region_size: int = 9,
    size: int | None = None,
    subsets: int = 100,
    fill: FillName | Fill = "uniform",
    **options: Unpack[MetricOptions],
) -> SubsetFalls:
    """Take random subsets of the regions away, and read how far the output falls.

    One run for many maps: `faithfulness_correlation` and `infidelity` are
    ``subset_falls(...).correlation(maps)`` and ``subset_falls(...).infidelity(maps)``.

    Args:
        model: As in `deletion`, like all arguments that are not named here.
        x: Likewise.
        target: Likewise.
        region_size: Likewise.
        size: Number of regions in a subset; a tenth of all, at least one, if None.
        subsets: How many are drawn for each image. The subsets of different sizes are nested.
        fill: Likewise.
        **options: Likewise.

    Returns:
        The falls, and the subsets.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: As in `region_perturbation`, or a subset is larger than the picture.
    """
    _check_whole("subsets", subsets, least=1)
    settings = with_defaults(options)
    runner, draws = prepared(model, x, target, region_size, fill, settings)
    count = draws.regions.count
    size = max(1, count // 10) if size is None else size
    _check_whole("size", size, least=1)
    if size > count:
        raise ValueError(f"a subset of {size} needs as many regions; there are {count}")
    ranks = torch.stack([_ranks(draws, n, subsets) for n in range(len(x))], dim=1)
    gone = ranks < size
    falls = falls_without(runner, draws, gone, settings["repeats"])
    return SubsetFalls(draws, gone, falls)


@dataclass(frozen=True, eq=False)
class Subset(Perturbation):
    """One subset of the regions of each image: all of it is replaced at the first step.

    Attributes:
        gone: Which regions these are, (N, count) bool, on the CPU.
    """

    gone: Tensor = field(kw_only=True)

    def pixel_ranks(self, image: int, repeat: int) -> Tensor:
        """0 in the subset and 1 elsewhere, (H, W) int64."""
        stays = torch.cat([~self.gone[image], torch.ones(1, dtype=torch.bool)])  # the rim stays too
        return stays.long()[self.draws.regions.index].to(self.draws.x.device)

    def region_order(self, image: int, repeat: int) -> Tensor:
        """The regions of the subset, (size,) int64."""
        return self.gone[image].nonzero()[:, 0]


def prepared(
    model: nn.Module,
    x: Tensor,
    target: Target,
    region_size: int,
    fill: FillName | Fill,
    settings: MetricOptions,
) -> tuple[Runner, Draws]:
    """What scores the pictures, and what is drawn; the arguments are checked."""
    graph.check_model(model)
    graph.check_input(model, x)
    regions = checked_regions(x, region_size, 1, settings["edge"])
    how = settings["output"], settings["batch_size"], settings["repeats"]
    runner = checked_runner(model, target, *how, windowed=False)
    return runner, checked_draws(x, regions, fill, settings["seed"], settings["first_image"])


def falls_without(runner: Runner, draws: Draws, gone: Tensor, repeats: int) -> Tensor:
    """How far the output falls without each subset (K, N, count): (N, K, repeats) float64."""
    scores = runner.run(draws, _ways(draws, gone), 1, repeats).double()
    return (scores[..., 0] - scores[..., 1]).transpose(0, 1)


def region_relevance(draws: Draws, maps: Tensor) -> Tensor:
    """Checked maps, summed over each region: (N, count) float64; 0 for a map that is flat."""
    flat = _summed("maps", maps, draws.x)
    relevance = draws.regions.scores(flat)
    # The sum over a narrow region at the edge would tell even a flat map's regions apart.
    relevance[flat.flatten(1).amax(dim=1) == flat.flatten(1).amin(dim=1)] = 0
    return relevance


def _ways(draws: Draws, gone: Tensor) -> list[Subset]:
    nothing = torch.zeros(len(draws.x), 1)  # there is nothing to order
    return [Subset(draws, nothing, gone=one) for one in gone]


def _ranks(draws: Draws, image: int, subsets: int) -> Tensor:
    """Random orders of the regions of one image, (subsets, count) int64.

    One generator gives all, of which there may be thousands; more subsets begin with the same.
    """
    drawn = generator(draws.seed, draws.first_image + image, 0, "subsets")
    return torch.rand(subsets, draws.regions.count, generator=drawn).argsort(dim=1).argsort(dim=1)
