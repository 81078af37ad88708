"""How good an order can be: search for one, and say how far towards it a heatmap gets."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from xaiutils import graph
from xaiutils.attribution import Target
from xaiutils.evaluation._curves import BY_LOT, Curves, _check_same_images
from xaiutils.evaluation._fills import Fill
from xaiutils.evaluation._jobs import Output
from xaiutils.evaluation._perturbation import (
    FillName,
    _check_choice,
    _check_whole,
    checked_draws,
    checked_regions,
    checked_runner,
)
from xaiutils.evaluation._pictures import Draws, Perturbation, Replacement
from xaiutils.evaluation._statistics import (
    FEW_IMAGES,
    FewImagesWarning,
    Interval,
    _checked,
    _drawn,
)
from xaiutils.evaluation._trials import States, Trials
from xaiutils.windows import Edge

Goal = Literal["morf", "lerf"]

GOALS: tuple[Goal, ...] = ("morf", "lerf")
_SIGNS = {"best": 1, "morf": 1, "worst": -1, "lerf": -1}  # +1 where a large fall is good


def search(
    model: nn.Module,
    x: Tensor,
    target: Target,
    region_size: int = 9,
    steps: int = 100,
    fill: FillName | Fill = "uniform",
    repeats: int = 10,
    output: Output = "logit",
    goal: Goal = "morf",
    beam: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
    *,
    edge: Edge = "keep",
    first_image: int = 0,
    progress: bool = False,
    windowed: bool | None = None,
) -> Curves:
    """Look for the order of the regions whose curve falls most, or least, without any heatmap.

    At each step every region that is left is tried, and the one is replaced that makes the output
    lowest (for ``goal="lerf"``: highest), in the mean over the repetitions. A wider beam keeps
    several orders at each step: those whose curves so far have the largest area, one for each set
    of replaced regions, since what follows depends on the set alone. With a beam as wide as there
    are sets, the order that is returned is the best there is. That such measures can be solved by
    a beam search, instead of asking a heatmap, was pointed out by Zhou and Shah 2023.

    What is found can be done; it is not the best. Greedy search is a lower bound on the ceiling: a
    region may be worth nothing alone and much together with others. And the order is chosen on the
    very draws on which its curve is measured, so that it fits their noise too, which no heatmap
    can. To judge it on other draws, hand its `order_map` to `region_perturbation` with another
    seed.

    It takes about ``steps`` times the number of regions pictures for each image, repetition and
    member of the beam; where it pays, only windows of them go through the early layers.

    Args:
        model: As in `region_perturbation`, like all arguments that are not named here.
        x: Images (N, C, H, W).
        target: The class whose output is watched; None for the one that is named at `x`.
        region_size: Side of a region, in pixels.
        steps: L, the number of regions that are replaced.
        fill: What replaces them: the same draws as in `region_perturbation`.
        repeats: How often the fill is drawn. The order is one for all repetitions.
        output: "logit", "probability" or a callable.
        goal: "morf" for the order whose output falls most, which puts the most relevant region
            first; "lerf" for the one whose output falls least.
        beam: How many orders are kept at each step.
        batch_size: Pictures per forward pass.
        seed: Of all draws.
        edge: What happens at the edge.
        first_image: Number of the first image.
        progress: Show a progress bar.
        windowed: Whether to recompute windows only; None where that pays.

    Returns:
        The curves of the orders that were found, of the order "best" (goal "morf") or "worst".
        Regions that were not reached follow by what they did when they were tried last.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: As in `region_perturbation`.
        FloatingPointError: The network's output is NaN or infinite.
    """
    graph.check_model(model)
    graph.check_input(model, x)
    regions = checked_regions(x, region_size, steps, edge)
    _check_choice("goal", goal, GOALS)
    _check_whole("beam", beam, least=1)
    runner = checked_runner(model, target, output, batch_size, repeats, progress, windowed)
    draws = checked_draws(x, regions, fill, seed, first_image)
    different = repeats if getattr(draws.fill, "random", True) else 1
    trials = Trials(runner, draws, beam * different)
    scores = torch.empty(len(x), repeats, steps + 1)
    places = torch.empty(len(x), regions.count, dtype=torch.float64)
    for image in tqdm(range(len(x)), unit="images", disable=not progress):
        replacements = [draws.replacer(image, repeat) for repeat in range(different)]
        found = _Search(trials, draws, image, replacements, _SIGNS[goal]).run(steps, beam)
        scores[image] = torch.cat([trials.start[image].expand(different, 1), found.curve], dim=1)
        places[image, torch.tensor(found.order)] = torch.arange(float(regions.count)).double()
    relevance = places if goal == "lerf" else regions.count - 1 - places
    way = Perturbation(draws, relevance, least_first=goal == "lerf")
    return Curves(scores, "worst" if goal == "lerf" else "best", way)


def order_map(curves: Curves) -> Tensor:
    """The order of some curves as a heatmap, to be judged like any other, on other draws say.

    Args:
        curves: From `search`, or from `region_perturbation` in an order that a map gave.

    Returns:
        (N, 1, H, W) on the device of the images, relevance that sums over a region to its place in
        the order, counted from the end. What `search` found with the goal "morf" is to be read in
        the order "morf", the other in the order "lerf"; the regions' scores must be sums.

    Raises:
        ValueError: The order is by lot: it differs from repetition to repetition.
    """
    if curves.order in BY_LOT:
        raise ValueError(f"the order {curves.order!r} is drawn anew each time and is no map")
    way = curves.perturbation
    regions = way.draws.regions
    index = regions.index
    area = torch.bincount(index.flatten(), minlength=regions.count + 1)[: regions.count]
    each = way.scores.argsort(dim=1).argsort(dim=1) / area
    padded = torch.cat([each, torch.zeros(len(each), 1)], dim=1)
    return padded[:, index][:, None].to(way.draws.x)


def share_of_ceiling(
    curves: Curves | tuple[Curves, Curves],
    random: Curves | None,
    best: Curves | tuple[Curves, Curves],
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """How far from chance to the best order that was found a method gets, in per cent.

    The mean gain of the method over a random order, divided by that of the best order: a ratio of
    means, so that images on which even the best order gains little do not decide. The interval is
    that of the percentile bootstrap over images, which draws both means together.

    Args:
        curves: A method in the order "morf" (or "lerf"); or the pair of both, for the area between
            them. A pair needs no random order: read from either end it is random, and the area
            between is zero on average.
        random: The order "random" of the same images; None for a pair.
        best: From `search` with the same goal, or its `order_map` judged on other draws; a pair for
            a pair.
        level: Confidence, in (0, 1).
        resamples: How many samples of N images are drawn.
        seed: Of the draws.

    Returns:
        Per cent, 0 for chance, 100 for the best order, negative for worse than chance; with the
        interval, whose end is infinite where the best order is not surely above chance.

    Raises:
        ValueError: Orders that do not belong together, fewer than two images, or a best order that
            is not above chance in the mean, so that there is no way to measure along.

    Warns:
        FewImagesWarning: Fewer than ten images.
    """
    _check_pair(curves, best)
    gain, most = (_gain(found, random) for found in (curves, best))
    if len(gain) < FEW_IMAGES:
        text = f"an interval over {len(gain)} images is too short: it covers less than it says"
        warnings.warn(text, FewImagesWarning, stacklevel=2)
    return share_of_gain(gain, most, level, resamples, seed)


def share_of_gain(
    gain: Tensor, most: Tensor, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The ratio of two means over images in per cent, with its interval; see `share_of_ceiling`.

    Args:
        gain: What a method gains over chance, (N,).
        most: What the best order gains, (N,).
        level: Confidence, in (0, 1).
        resamples: How many samples of N images are drawn.
        seed: Of the draws.

    Raises:
        ValueError: Fewer than two images, or the best order gains nothing in the mean.
    """
    one, two = _checked(gain), _checked(most)
    if len(one) != len(two):
        raise ValueError(f"{len(one)} images of the method, but {len(two)} of the best order")
    if two.mean() <= 0:
        raise ValueError(
            f"the best order gains {two.mean():.4g} over chance: there is no ceiling above chance "
            "to measure against; search with more steps, a wider beam or other regions"
        )
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    above, below = (_drawn(numbers, resamples, seed) for numbers in (one, two))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(below > 0, above / below, np.copysign(np.inf, above))
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    whole = float(one.mean() / two.mean())
    return Interval(100 * whole, 100 * float(low), 100 * float(high), level, len(one))


def _gain(curves: Curves | tuple[Curves, Curves], random: Curves | None) -> Tensor:
    """Over chance, for each image, positive where good."""
    if isinstance(curves, tuple):
        falling, keeping = curves
        if [_SIGNS.get(c.order) for c in curves] != [1, -1]:
            raise ValueError(
                "a pair must be of the orders 'morf' and 'lerf', or 'best' and 'worst', not "
                f"{falling.order!r} and {keeping.order!r}"
            )
        _check_same_images(falling, keeping, repeats=False)
        return falling.aopc() - keeping.aopc()
    if curves.order not in _SIGNS:
        raise ValueError(f"{curves.order!r} is no order of a heatmap or of a search")
    if random is None or random.order != "random":
        raise ValueError("random must be the curves of the order 'random'; only a pair needs none")
    _check_same_images(curves, random, repeats=False)
    return _SIGNS[curves.order] * (curves.aopc() - random.aopc())


def _check_pair(
    curves: Curves | tuple[Curves, Curves], best: Curves | tuple[Curves, Curves]
) -> None:
    one, two = (c if isinstance(c, tuple) else (c,) for c in (curves, best))
    if [_SIGNS.get(c.order) for c in one] != [_SIGNS.get(c.order) for c in two]:
        raise ValueError(
            f"curves are {[c.order for c in one]}, the best order is {[c.order for c in two]}: "
            "give both for the same goal"
        )
    for mine, other in zip(one, two, strict=True):
        _check_same_images(mine, other, repeats=False)


@dataclass(frozen=True, eq=False)
class _Member:
    """A partial order.

    Attributes:
        order: The regions so far.
        curve: The scores after each of them, (repeats, k) float32.
        value: The sum of their means over the repetitions: the lower, the larger the area.
    """

    order: tuple[int, ...]
    curve: Tensor
    value: float


@dataclass(frozen=True, eq=False)
class _Search:
    """The search for the order of one image.

    Attributes:
        trials: What is asked for the scores.
        draws: What is drawn.
        image: Its number.
        replacements: What replaces its regions, for each repetition.
        sign: 1 to look for low scores, -1 for high ones.
    """

    trials: Trials
    draws: Draws
    image: int
    replacements: list[Replacement]
    sign: int

    def run(self, steps: int, beam: int) -> _Member:
        """The best order of all regions; after `steps` of them by their last scores."""
        repeats = len(self.replacements)
        members = [_Member((), torch.empty(repeats, 0), 0.0)]
        for _ in range(steps):
            scores = self._scores(members)  # (members, repeats, count), NaN for what is gone
            means = self.sign * scores.double().mean(dim=1)
            chosen = list(self._best(members, means, beam))
            rest = means[chosen[0][0]]
            members = [
                _Member(
                    (*members[m].order, region),
                    torch.cat([members[m].curve, scores[m, :, region, None]], dim=1),
                    members[m].value + means[m, region].item(),
                )
                for m, region in chosen
            ]
        best = members[0]
        left = [i for i in rest.argsort().tolist() if i not in best.order]
        return _Member((*best.order, *left), best.curve, best.value)

    def _scores(self, members: list[_Member]) -> Tensor:
        """Of all regions that are left, (members, repeats, count); NaN for the others."""
        repeats, count = len(self.replacements), self.draws.regions.count
        gone = torch.zeros(len(members), count, dtype=torch.bool)
        for row, member in zip(gone, members, strict=True):
            row[list(member.order)] = True
        gone = gone.repeat_interleave(repeats, dim=0)
        states = States([self.image] * len(gone), self.replacements * len(members), gone)
        which, regions = (~gone).nonzero(as_tuple=True)
        found = torch.full(gone.shape, torch.nan)
        found[which, regions] = self.trials.scores(states, which, regions)
        return found.view(len(members), repeats, count)

    def _best(self, members: list[_Member], means: Tensor, beam: int) -> Iterator[tuple[int, int]]:
        """Members and regions of the best orders, one for each set of regions."""
        values = torch.tensor([m.value for m in members], dtype=torch.float64)[:, None] + means
        seen = set[frozenset[int]]()
        left = int((~values.isnan()).sum())
        for number in values.flatten().argsort()[:left].tolist():  # NaN comes last
            member, region = divmod(number, means.shape[1])
            regions = frozenset((*members[member].order, region))
            if regions not in seen:
                seen.add(regions)
                yield member, region
            if len(seen) == beam:
                return
