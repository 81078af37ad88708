"""Shapley values of regions: what each adds to the output, over all orders in which they come."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._baselines import Baseline, Units
from xaiutils.attribution._common import Network, Target, check_positive
from xaiutils.attribution._perturbed import (
    Perturbed,
    asks_windows,
    batches,
    perturbed,
    side_of,
)
from xaiutils.graph.outputs import Output
from xaiutils.windows import WORTHWHILE, Incremental, Regions, Windows

MOST_EXACT = 14  # regions: 16,384 pictures of each image
_PIECES = 7  # of the shorter side, where no region_size is given
# Of small images: ten times as many at a time take half the time, and ten times the memory. These
# hold what whole pictures do in batches of the usual size.
_LARGEST_WINDOWED_BATCH = 96


@overload
def shapley(
    model: Network,
    x: Tensor,
    target: Target = None,
    region_size: int | None = None,
    *,
    permutations: int = 20,
    exact: bool = False,
    antithetic: bool = True,
    baselines: Baseline = 0.0,
    units: Units | None = None,
    seed: int = 0,
    return_standard_error: Literal[False] = False,
    output: Output = None,
    batch_size: int | None = None,
    windowed: bool | None = None,
) -> Tensor: ...


@overload
def shapley(
    model: Network,
    x: Tensor,
    target: Target = None,
    region_size: int | None = None,
    *,
    permutations: int = 20,
    exact: bool = False,
    antithetic: bool = True,
    baselines: Baseline = 0.0,
    units: Units | None = None,
    seed: int = 0,
    return_standard_error: Literal[True],
    output: Output = None,
    batch_size: int | None = None,
    windowed: bool | None = None,
) -> tuple[Tensor, Tensor]: ...


def shapley(
    model: Network,
    x: Tensor,
    target: Target = None,
    region_size: int | None = None,
    *,
    permutations: int = 20,
    exact: bool = False,
    antithetic: bool = True,
    baselines: Baseline = 0.0,
    units: Units | None = None,
    seed: int = 0,
    return_standard_error: bool = False,
    output: Output = None,
    batch_size: int | None = None,
    windowed: bool | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return the Shapley values of an image's regions (Shapley 1953), over the pixels of each.

    The players are squares of pixels, and :math:`v(S)` is the target for the picture whose squares
    *S* are those of ``x``, all others being the baseline's. Region *i* gets the mean, over all
    orders :math:`\pi` in which the squares come, of what it adds when it comes,

    .. math:: \phi_i = \frac1{n!} \sum_\pi v(S_i(\pi) \cup \{i\}) - v(S_i(\pi)),

    with :math:`S_i(\pi)` those that came before it. It is estimated by orders drawn at random
    (Castro, Gomez and Tejada 2009), or computed from all :math:`2^n` pictures if there are few
    regions. It is the only rule that is efficient, symmetric, linear, and gives nothing to who adds
    nothing. The first holds for every single order: its additions sum to
    :math:`f_t(x) - f_t(\text{baseline})`, whatever was drawn.

    Consecutive pictures of an order differ in one region; where it pays, only the windows in which
    they differ go through the early layers.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`. It need not be
            differentiable.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain, as in :func:`xaiutils.attribution.gradient`.
        region_size: Side of a region, in pixels; None for a seventh of the shorter side. The last
            ones of a row or column may be narrower.
        permutations: The number of orders, each of as many pictures as there are regions.
        exact: Whether to go through all subsets instead, for at most 14 regions.
        antithetic: Whether each second order is the one before backwards. Such a pair is exact
            where regions interact in pairs only (Mayer and Wüthrich 2025).
        baselines: What stands in for a region that has not come yet, in the units of ``x``: a
            number, a tensor broadcastable to ``x``, or the name of one, as in
            :func:`xaiutils.attribution.integrated_gradients`.
        units: What black and white are, for ``baselines="black"``; ``clf.preprocess`` knows.
        seed: Of the orders. All images have the same, whatever the batch is.
        return_standard_error: Whether to return the standard errors as well.
        output: Which of several outputs: a key, a position, or a function.
        batch_size: How many pictures at a time; None chooses by their size.
        windowed: Whether to recompute windows only; None where that is estimated to pay.

    Returns:
        (N, 1, H, W), in units of the output. A region's value is shared equally by its pixels, so
        that the map sums to :math:`f_t(x) - f_t(\text{baseline})`. With ``return_standard_error``
        also the standard errors in the same shares, (N, 1, H, W), from the spread over the orders
        (over the pairs, if antithetic); they are 0 where all subsets were run.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`, or if regions are larger than the
            picture or too many to be exact, the number of orders is not positive, or odd though
            they come in pairs, or too small for a standard error; if the baselines do not fit, the
            output of a picture is not finite, or windows are asked for and impossible.
    """
    _check_permutations(permutations, antithetic, return_standard_error and not exact)
    game = perturbed(model, x, target, baselines, units, output, batch_size, seed)
    regions = Regions(x.shape[2], x.shape[3], side_of(region_size, x, _PIECES))
    if exact:
        values = _exact(game, regions)
        errors = torch.zeros_like(values)
    else:
        orders = _orders(regions.count, permutations, antithetic, seed)
        added = _added(_along(game, regions, orders, windowed), orders)
        present = regions.scores(game.changed, "max") > 0  # others change nothing but the rounding
        values, errors = _mean_and_error(added * present[:, None], antithetic)
    heatmaps = _over_pixels(values, regions, game.x)
    if not return_standard_error:
        return heatmaps
    return heatmaps, _over_pixels(errors, regions, game.x)


def _check_permutations(permutations: int, antithetic: bool, error: bool) -> None:
    check_positive("permutations", permutations)
    if antithetic and permutations % 2:
        raise ValueError(
            f"antithetic orders come in pairs, so permutations must be even, not {permutations}; "
            "or give antithetic=False"
        )
    least = 4 if antithetic else 2
    if error and permutations < least:
        raise ValueError(
            f"a standard error needs at least {least} permutations"
            + (" (two pairs)" if antithetic else "")
            + f", not {permutations}"
        )


def _orders(count: int, permutations: int, antithetic: bool, seed: int) -> Tensor:
    """The orders in which regions come, (permutations, count) int64."""
    generator = torch.Generator().manual_seed(seed)
    drawn = permutations // 2 if antithetic else permutations
    orders = torch.stack([torch.randperm(count, generator=generator) for _ in range(drawn)])
    return torch.stack([orders, orders.flip(1)], dim=1).flatten(0, 1) if antithetic else orders


def _added(values: Tensor, orders: Tensor) -> Tensor:
    """What each region added in each order, (N, permutations, count), from values along them."""
    added = values.diff(dim=2)
    return torch.empty_like(added).scatter_(2, orders.expand_as(added), added)


def _mean_and_error(added: Tensor, antithetic: bool) -> tuple[Tensor, Tensor]:
    """The mean over orders (N, count), and its standard error; NaN from a single draw."""
    draws = (added[:, ::2] + added[:, 1::2]) / 2 if antithetic else added
    number = draws.shape[1]
    if number == 1:
        return draws[:, 0], torch.full_like(draws[:, 0], torch.nan)
    return draws.mean(1), draws.std(1) / math.sqrt(number)


def _over_pixels(values: Tensor, regions: Regions, x: Tensor) -> Tensor:
    """Values of regions (N, count) in equal shares for their pixels, (N, 1, H, W) like `x`."""
    area = torch.bincount(regions.index.flatten(), minlength=regions.count)
    return (values / area)[:, regions.index][:, None].to(x)


# ------------------------------------------------------------------------------- along orders


@graph.undisturbed
def _along(game: Perturbed, regions: Regions, orders: Tensor, windowed: bool | None) -> Tensor:
    """The values along each order, from none to all regions, (N, permutations, count + 1)."""
    images, count = len(game.x), regions.count
    values = torch.empty(images, len(orders), count + 1, dtype=torch.float64)
    values[:, :, 0], values[:, :, -1] = (each[:, None] for each in game.ends)
    if count == 1:
        return values
    plan = _plan(game, regions, images * len(orders), windowed)
    chains = torch.cartesian_prod(torch.arange(images), torch.arange(len(orders)))
    between = torch.empty(len(chains), count - 1, dtype=torch.float64)
    if plan is None:
        _whole(game, regions, orders, chains, between)
    else:
        _windowed(game, plan, regions, orders, chains, between)
    values[:, :, 1:-1] = between.view(images, len(orders), -1)
    return values


def _plan(game: Perturbed, regions: Regions, chains: int, windowed: bool | None) -> Windows | None:
    """How to recompute windows only, or None if whole pictures are better."""
    if not asks_windows(game, windowed):
        return None
    assert isinstance(game.network, graph.Graph)
    plan = Windows(game.network, regions.row_spans, regions.column_spans)
    steps = regions.count - 1
    batch = min(chains * steps, game.size(_LARGEST_WINDOWED_BATCH))
    return plan if windowed or plan.saving(batch, steps) >= WORTHWHILE else None


def _windowed(
    game: Perturbed, plan: Windows, regions: Regions, orders: Tensor, chains: Tensor, found: Tensor
) -> None:
    """Write the values after each step but the last, (chains, count - 1), to `found`."""
    size, steps = game.size(_LARGEST_WINDOWED_BATCH), regions.count - 1
    group = _even(len(chains), max(1, size // steps))
    part = _even(steps, max(1, size // group))
    state = Incremental(plan, game.x, group, part)
    index = regions.index.to(game.x.device)
    for rows in batches(len(chains), group):
        images, order = chains[rows, 0], orders[chains[rows, 1]]
        ranks = order.argsort(1).to(index.device)[:, index]
        state.restart(game.baseline[images], game.x[images], ranks)
        for done in batches(steps, part):
            come = order[:, done].T
            outputs = state.update(come // regions.columns, come % regions.columns)
            values = game.read(outputs, images.repeat(len(done)))
            found[rows[:, None], done] = values.view(len(done), -1).T


def _even(length: int, most: int) -> int:
    """The size of equal parts of a length, at most so large."""
    return math.ceil(length / math.ceil(length / most))


def _whole(
    game: Perturbed, regions: Regions, orders: Tensor, chains: Tensor, found: Tensor
) -> None:
    """The same, of whole pictures."""
    ranks, steps = orders.argsort(1), regions.count - 1
    flat = found.view(-1)
    for jobs in batches(len(flat), game.size()):
        chain, step = chains[jobs.div(steps, rounding_mode="floor")], jobs % steps
        present = ranks[chain[:, 1]] <= step[:, None]
        flat[jobs] = game.values(_pictures(game, regions, chain[:, 0], present), chain[:, 0])


def _pictures(game: Perturbed, regions: Regions, images: Tensor, present: Tensor) -> Tensor:
    """Pictures (P, C, H, W) of the images `images` (P,) with the regions `present` (P, count)."""
    shown = present[:, regions.index][:, None].to(game.x.device)
    return torch.where(shown, game.x[images], game.baseline[images])


# ------------------------------------------------------------------------------- all subsets


@graph.undisturbed
def _exact(game: Perturbed, regions: Regions) -> Tensor:
    r"""The Shapley values from all subsets, (N, count) float64.

    :math:`\phi_i = \sum_{S \not\ni i} \frac{|S|!\,(n - |S| - 1)!}{n!} (v(S \cup \{i\}) - v(S))`.
    """
    count = regions.count
    if count > MOST_EXACT:
        raise ValueError(
            f"{count} regions have 2**{count} subsets, which is too many to be exact (at most "
            f"{MOST_EXACT} regions); take a larger region_size, or exact=False"
        )
    subsets = _subsets(count)
    values = torch.stack([_of_subsets(game, regions, i, subsets) for i in range(len(game.x))])
    before = subsets.sum(1)  # with i; without i there is one fewer
    weights = torch.tensor(
        [1 / (count * math.comb(count - 1, size)) for size in range(count)], dtype=torch.float64
    )
    found = torch.empty(len(game.x), count, dtype=torch.float64)
    for region in range(count):
        with_it = subsets[:, region].nonzero()[:, 0]
        rise = values[:, with_it] - values[:, with_it - 2**region]
        found[:, region] = rise @ weights[before[with_it] - 1]
    return found


def _subsets(count: int) -> Tensor:
    """All subsets, (2 ** count, count) bool; number s holds region i if bit i of s is set."""
    bits = 2 ** torch.arange(count)
    return (torch.arange(2**count)[:, None] & bits) > 0


def _of_subsets(game: Perturbed, regions: Regions, image: int, subsets: Tensor) -> Tensor:
    """The value of each subset of an image's regions, (2 ** count,)."""
    found = torch.empty(len(subsets), dtype=torch.float64)
    for part in batches(len(subsets), game.size()):
        images = torch.full((len(part),), image)
        found[part] = game.values(_pictures(game, regions, images, subsets[part]), images)
    return found
