"""Region perturbation: replace regions in an order and watch the network's output."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Literal, overload

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution import Target
from xaiutils.evaluation._curves import BY_LOT, Curves
from xaiutils.evaluation._fills import FILLS, Fill
from xaiutils.evaluation._jobs import OUTPUTS, Output, Runner
from xaiutils.evaluation._pictures import Block, Draws, Perturbation
from xaiutils.windows import EDGES, REDUCTIONS, Edge, Reduce, Regions

Order = Literal["morf", "lerf", "random", "block"]
FillName = Literal[
    "uniform", "dirichlet", "constant", "blur", "noisy_linear", "histogram", "inpaint"
]

ORDERS: tuple[Order, ...] = ("morf", "lerf", "random")  # of the paper


class ConstantHeatmapWarning(UserWarning):
    """A heatmap that scores all regions alike ranks nothing; the lot alone ordered them."""


@overload
def region_perturbation(
    model: nn.Module,
    x: Tensor,
    target: Target,
    heatmaps: Mapping[str, Tensor],
    region_size: int = ...,
    steps: int = ...,
    order: Order = ...,
    fill: FillName | Fill = ...,
    repeats: int = ...,
    output: Output = ...,
    batch_size: int | None = ...,
    seed: int = ...,
    *,
    region_score: Reduce = ...,
    edge: Edge = ...,
    first_image: int = ...,
    progress: bool = ...,
    windowed: bool | None = ...,
) -> dict[str, Curves]: ...


@overload
def region_perturbation(
    model: nn.Module,
    x: Tensor,
    target: Target,
    heatmaps: Tensor | None,
    region_size: int = ...,
    steps: int = ...,
    order: Order = ...,
    fill: FillName | Fill = ...,
    repeats: int = ...,
    output: Output = ...,
    batch_size: int | None = ...,
    seed: int = ...,
    *,
    region_score: Reduce = ...,
    edge: Edge = ...,
    first_image: int = ...,
    progress: bool = ...,
    windowed: bool | None = ...,
) -> Curves: ...


def region_perturbation(
    model: nn.Module,
    x: Tensor,
    target: Target,
    heatmaps: Tensor | Mapping[str, Tensor] | None,
    region_size: int = 9,
    steps: int = 100,
    order: Order = "morf",
    fill: FillName | Fill = "uniform",
    repeats: int = 10,
    output: Output = "logit",
    batch_size: int | None = None,
    seed: int = 0,
    *,
    region_score: Reduce = "sum",
    edge: Edge = "keep",
    first_image: int = 0,
    progress: bool = False,
    windowed: bool | None = None,
) -> Curves | dict[str, Curves]:
    """Replace regions one after another in the order of a heatmap; record the output at each step.

    Samek et al. 2017, eqs 8 to 10 and 12: x(0) = x, and x(k) is x(k-1) with its k-th region
    replaced. MoRF takes the most relevant region first. LeRF is the whole MoRF order read from its
    end, whatever the number of steps. Regions of equal score are ordered by lot, anew in each
    repetition, and `Curves.tied` counts them: row by row, a map that is zero on an empty page would
    be judged by the layout of the page.

    What is drawn, the fill and the random orders, depends on the seed, the image's number and the
    repetition alone. So two heatmaps, two orders, or a heatmap and chance meet the same noise, and
    the scores do not depend on the batch size or the device (beyond rounding). They depend on the
    other images only if `fill` is the name "uniform" or "constant", which look at all of `x`.

    An area alone says little: a random order gains too, so run ``order="random"`` beside the maps.
    And a random order scatters the regions, while a map's come in clusters. With uniform noise
    scattered regions hurt the more, so that MoRF can place a map behind chance, and LeRF far ahead,
    for its clusters alone; in the difference of the two, `abpc`, that part drops out. The controls
    tell the rest: ``order="block"`` has a map's compactness and knows nothing, and a `borrowed` map
    has the shape of a map, and its place in photographs, and knows nothing of this image.

    Args:
        model: A network in evaluation mode; maps (N, C, H, W) to class scores (N, K), or to
            whatever a callable `output` takes.
        x: Images, shape (N, C, H, W), on the device of the model.
        target: The class whose output is watched: None for the class that the network names at
            x(0), an int, or N of them. Not used by a callable `output`.
        heatmaps: (N, C, H, W), whose channels are summed, or (N, 1, H, W), or (N, H, W); or a
            mapping from the names of methods to such tensors. None with an order by lot.
        region_size: Side of a region, in pixels; 9 in the paper.
        steps: L, the number of regions that are replaced; 100 in the paper, 15.7 % of its images.
        order: "morf", "lerf", or one by lot, anew in each repetition: "random" (scattered) or
            "block" (compact: the regions nearest to a random place first).
        fill: "uniform" (independent noise between the lowest and highest value of each channel of
            `x`; for the paper's, between black and white whatever `x` holds, give
            ``Uniform(low, high)``), "dirichlet", "constant" (the mean of `x` at each place), "blur"
            (sigma 3), "noisy_linear", "histogram", "inpaint", one of the classes `Uniform`,
            `Dirichlet`, `Constant`, `Blur`, `NoisyLinear`, `Histogram`, `Inpaint`, `Patches`,
            `Decoded` with arguments of your own, or any ``fill(images, generator)`` that returns
            replacements of the images' shape. It is called with one image (1, C, H, W) on the CPU
            at a time. A replacement is drawn once for each repetition and serves all steps. The
            names take range and mean from `x`: to evaluate a part of a data set, give the classes
            the values of the whole.
            A fill with an attribute ``sees_mask = True`` is called as
            ``fill(images, generator, gone)``: with K copies of one image (K, C, H, W) and what is
            gone at K steps, (K, 1, H, W) bool. What it draws must be the same for all K (draw once,
            for one image), or the scores depend on the batch size. It costs a call for every
            batch of steps, and windows cannot be used.
        repeats: How often everything random is drawn; 10 in the paper. If nothing is (a fixed
            fill, and no ties), the network runs once and the repetitions are equal.
        output: "logit", "probability" (softmax), or ``output(outputs, images)`` that maps the
            network's outputs (B, ...) and the numbers (B,) int64 of the images in `x` that they
            belong to to scores (B,). For an autoencoder this can be the distance to the
            reconstruction of the untouched image, kept by the caller.
        batch_size: Pictures per forward pass, which alone sets the memory; chosen by the size of
            the images if None.
        seed: Of all draws.
        region_score: "sum", "mean" or "max" of the heatmap over a region. The paper leaves it open;
            sum and mean order complete regions alike, max does not.
        edge: "keep" narrower regions at the right and lower edge, or "drop" them and centre the
            grid; see `Regions`. The paper leaves it open.
        first_image: Number of the first image, for a part of a larger set: image i of `x` gets the
            draws of image ``first_image + i``.
        progress: Show a progress bar with the time left.
        windowed: Whether to recompute the early layers only around the region that was replaced.
            The scores are the same but for rounding. None does so on the CPU where an estimate says
            that it pays; False never; True always, for networks that :func:`xaiutils.graph.trace`
            reads.

    Returns:
        The `Curves`, or a dictionary of them for a mapping.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: Shapes do not fit, a heatmap holds NaN or infinity, there are more steps than
            regions, an option is unknown, or the model is in training mode. All of this is found
            before the first step.
        FloatingPointError: The network's output is NaN or infinite.

    Warns:
        ConstantHeatmapWarning: Some heatmaps score all regions alike. The lot alone orders those;
            `Curves.constant` tells which they are.
    """
    graph.check_model(model)
    graph.check_input(model, x)
    regions = checked_regions(x, region_size, steps, edge)
    _check_choice("order", order, ("morf", "lerf", *BY_LOT))
    _check_choice("region_score", region_score, REDUCTIONS)
    runner = checked_runner(model, target, output, batch_size, repeats, progress, windowed)
    draws = checked_draws(x, regions, fill, seed, first_image)
    named = dict(heatmaps) if isinstance(heatmaps, Mapping) else {"": heatmaps}
    ways = {name: _way(name, maps, order, region_score, draws) for name, maps in named.items()}
    if not ways:
        raise ValueError("heatmaps is an empty mapping; give at least one method")
    # An order by lot does not depend on the heatmap: once is enough for all methods.
    different = list(ways.values())[:1] if order in BY_LOT else list(ways.values())
    scores = runner.run(draws, different, steps, repeats).expand(len(ways), -1, -1, -1)
    pairs = zip(ways.items(), scores, strict=True)
    curves = {name: Curves(found, order, way) for (name, way), found in pairs}
    return curves if isinstance(heatmaps, Mapping) else curves[""]


def checked_runner(
    model: nn.Module,
    target: Target,
    output: Output,
    batch_size: int | None,
    repeats: int,
    progress: bool = False,
    windowed: bool | None = None,
) -> Runner:
    """The runner of these options, each of which is what `region_perturbation` says."""
    _check_whole("repeats", repeats, least=1)
    if batch_size is not None:
        _check_whole("batch_size", batch_size, least=1)
    if not callable(output):
        _check_choice("output", output, OUTPUTS)
    return Runner(model, target, output, batch_size, progress, windowed)


def checked_draws(
    x: Tensor, regions: Regions, fill: FillName | Fill, seed: int, first_image: int
) -> Draws:
    """What is drawn for these images; likewise."""
    _check_whole("seed", seed, least=0)
    _check_whole("first_image", first_image, least=0)
    return Draws(x, regions, _fill(fill, x), seed, first_image)


def checked_regions(x: Tensor, size: int, steps: int, edge: Edge) -> Regions:
    """How images (N, C, H, W) are cut into regions, at least one for each step."""
    if x.ndim != 4:
        raise ValueError(f"x must be images (N, C, H, W), not of shape {tuple(x.shape)}")
    _check_whole("region_size", size, least=1)
    _check_whole("steps", steps, least=1)
    _check_choice("edge", edge, EDGES)
    regions = Regions(x.shape[2], x.shape[3], size, edge)
    if steps > regions.count:
        raise ValueError(
            f"{steps} steps need as many regions, but images of {x.shape[2]} x {x.shape[3]} have "
            f"{regions.count} of {size} x {size} pixels; lower steps or region_size"
        )
    return regions


def _fill(fill: FillName | Fill, x: Tensor) -> Fill:
    if callable(fill):
        return fill
    _check_choice("fill", fill, FILLS)
    return FILLS[fill](x)


def _way(
    name: str, maps: Tensor | None, order: Order, region_score: Reduce, draws: Draws
) -> Perturbation:
    """The order that one method's heatmaps give."""
    if order in BY_LOT:  # nothing is known of any region
        kind = Block if order == "block" else Perturbation
        return kind(draws, torch.zeros(len(draws.x), draws.regions.count))
    label = f"heatmaps[{name!r}]" if name else "heatmaps"
    flat = _summed(label, maps, draws.x)
    scores = draws.regions.scores(flat, region_score)
    # The sum over a narrow region at the edge would rank even a map that is the same everywhere.
    scores[flat.flatten(1).amax(dim=1) == flat.flatten(1).amin(dim=1)] = 0
    way = Perturbation(draws, scores, order == "lerf")
    if way.constant.any():
        _warn_constant(label, way.constant)
    return way


def _summed(label: str, maps: Tensor | None, x: Tensor) -> Tensor:
    """Checked heatmaps, summed over the channels: (N, H, W) float64 on the CPU."""
    if not isinstance(maps, Tensor):
        raise TypeError(
            f"{label} must be a tensor, not {type(maps).__name__}; only the orders "
            f"{' and '.join(BY_LOT)} need none"
        )
    number, sides = len(x), tuple(x.shape[2:])
    allowed = [(number, *sides), (number, 1, *sides), tuple(x.shape)]
    if tuple(maps.shape) not in allowed:
        raise ValueError(
            f"{label} must be of shape {' or '.join(map(str, dict.fromkeys(allowed)))} to fit x, "
            f"not {tuple(maps.shape)}"
        )
    flat = maps.detach().cpu().double()
    flat = flat.sum(dim=1) if flat.ndim == 4 else flat
    finite = flat.flatten(1).isfinite().all(dim=1)
    if not finite.all():
        broken = (~finite).nonzero()[:, 0].tolist()
        raise ValueError(
            f"{label} holds NaN or infinite values for {len(broken)} of {number} images, the first "
            f"of them image {broken[0]}; a heatmap must be finite to rank its regions"
        )
    return flat


def _warn_constant(label: str, constant: Tensor) -> None:
    warnings.warn(
        f"{label}: {int(constant.sum())} of {len(constant)} score all regions alike; the lot "
        "alone orders them",
        ConstantHeatmapWarning,
        stacklevel=4,
    )


def _check_choice(name: str, found: object, allowed: Iterable[str]) -> None:
    if found not in tuple(allowed):
        raise ValueError(f"{name} is {found!r}: choose from {', '.join(map(repr, allowed))}")


def _check_whole(name: str, found: object, least: int) -> None:
    if not isinstance(found, int) or isinstance(found, bool):
        raise TypeError(f"{name} must be an int, not {type(found).__name__}")
    if found < least:
        raise ValueError(f"{name} must be at least {least}, not {found}")
