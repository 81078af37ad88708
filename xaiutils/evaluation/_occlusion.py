"""What each region alone is worth: replace it, and nothing else, and see how the output falls."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from xaiutils import graph
from xaiutils.attribution import Target
from xaiutils.evaluation._fills import Fill
from xaiutils.evaluation._jobs import Output
from xaiutils.evaluation._perturbation import (
    FillName,
    checked_draws,
    checked_regions,
    checked_runner,
)
from xaiutils.evaluation._pictures import Replacement
from xaiutils.evaluation._sanity import rank_correlation
from xaiutils.evaluation._trials import States, Trials
from xaiutils.windows import Edge, Regions


def region_occlusion(
    model: nn.Module,
    x: Tensor,
    target: Target,
    region_size: int = 9,
    fill: FillName | Fill = "uniform",
    repeats: int = 1,
    output: Output = "logit",
    batch_size: int | None = None,
    seed: int = 0,
    *,
    edge: Edge = "keep",
    first_image: int = 0,
    progress: bool = False,
    windowed: bool | None = None,
) -> Tensor:
    """How far the output falls when one region is replaced and all others stay as they are.

    Zeiler and Fergus 2014, section 4.2, on a grid of regions instead of a sliding square. It is the
    first step of region perturbation, once for every region, with the same draws. There are as many
    pictures as regions, for each image and repetition; where it pays, only the windows in which
    they differ from the image go through the early layers.

    Args:
        model: As in `region_perturbation`, like all other arguments.
        x: Images (N, C, H, W).
        target: The class whose output is watched; None for the one that is named at `x`.
        region_size: Side of a region, in pixels.
        fill: What replaces it.
        repeats: How often the fill is drawn.
        output: "logit", "probability" or a callable.
        batch_size: Pictures per forward pass.
        seed: Of all draws.
        edge: What happens at the edge.
        first_image: Number of the first image.
        progress: Show a progress bar.
        windowed: Whether to recompute windows only; None where that pays.

    Returns:
        (N, rows, columns) float64, the fall for each region in units of the output, mean over the
        repetitions; negative where the output rises, and exactly 0 where nothing changes.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: As in `region_perturbation`.
        FloatingPointError: The network's output is NaN or infinite.
    """
    graph.check_model(model)
    graph.check_input(model, x)
    regions = checked_regions(x, region_size, 1, edge)
    runner = checked_runner(model, target, output, batch_size, repeats, progress, windowed)
    draws = checked_draws(x, regions, fill, seed, first_image)
    different = repeats if getattr(draws.fill, "random", True) else 1
    trials = Trials(runner, draws, len(x) * different)
    falls = torch.empty(len(x), different, regions.count, dtype=torch.float64)
    alone = torch.arange(regions.count)
    pairs = list(product(range(len(x)), range(different)))
    with tqdm(total=falls.numel(), unit="pictures", disable=not progress) as bar:
        for first in range(0, len(pairs), trials.most):
            part = pairs[first : first + trials.most]
            images = [image for image, _ in part]
            replacers = [draws.replacer(*pair) for pair in part]
            scores = trials.scores(
                States(
                    images,
                    replacers,
                    torch.zeros(len(part), regions.count, dtype=torch.bool),
                ),
                torch.arange(len(part)).repeat_interleave(regions.count),
                alone.repeat(len(part)),
            ).view(len(part), -1)
            found = trials.start[images, None].double() - scores.double()
            # Two ways to compute the same picture differ by rounding, which would rank the regions.
            same = [_unchanged(x[i], r, regions) for i, r in zip(images, replacers, strict=True)]
            falls.flatten(0, 1)[first : first + len(part)] = found.masked_fill(torch.stack(same), 0)
            bar.update(scores.numel())
    return falls.mean(dim=1).view(len(x), regions.rows, regions.columns)


def _unchanged(picture: Tensor, replacement: Replacement, regions: Regions) -> Tensor:
    """Which regions (count,) look as before when they are replaced; none, if the mask decides."""
    if callable(replacement):
        return torch.zeros(regions.count, dtype=torch.bool)
    changed = (picture != replacement).any(dim=0, keepdim=True)
    return regions.scores(changed.cpu().double())[0] == 0


def occlusion_agreement(
    heatmaps: Tensor, falls: Tensor, region_size: int = 9, *, edge: Edge = "keep"
) -> Tensor:
    """Whether a map ranks regions as the network does when each of them alone is taken away.

    Spearman's rank correlation of the regions' summed relevance with `region_occlusion`. Unlike the
    curves of region perturbation it asks about all regions alike, those that argue against the
    class too, and about one region at a time.

    Args:
        heatmaps: (N, C, H, W), whose channels are summed, or (N, H, W).
        falls: From `region_occlusion` with the same region size and edge.
        region_size: Side of a region, in pixels.
        edge: What happens at the edge.

    Returns:
        (N,) float64 from -1 to 1; 0 if either is the same for all regions.

    Raises:
        ValueError: The falls do not have the regions of these maps, or there is NaN or infinity.
    """
    maps = heatmaps.sum(dim=1) if heatmaps.ndim == 4 else heatmaps
    regions = Regions(maps.shape[1], maps.shape[2], region_size, edge)
    wanted = (len(maps), regions.rows, regions.columns)
    if tuple(falls.shape) != wanted:
        raise ValueError(
            f"falls are {tuple(falls.shape)}, but maps of {maps.shape[1]} x {maps.shape[2]} pixels "
            f"have regions {wanted}; give both the same region_size and edge"
        )
    return rank_correlation(regions.scores(maps).view(wanted), falls)
