"""``ceiling``: how far from chance to the best order that a search finds do heatmaps get?

For each image and fill a greedy search looks for the order of the regions whose curve falls most,
and for the one whose curve falls least. A random order, the maps of some methods, and the map of
what each region alone is worth are judged on the same draws. Since the searched orders fit those
draws, everything is judged on other draws too, where the fill has any.
"""

import argparse
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from xaiutils import attribution, data, evaluation, models
from xaiutils.evaluation._search import share_of_gain
from xaiutils.reproduce._explained import heatmap, image_set, inputs, weights
from xaiutils.reproduce._long_run import Run, add_options, over_images
from xaiutils.reproduce._options import (
    chosen,
    image_range,
    names,
    require_known,
    require_positive,
)
from xaiutils.reproduce._tables import interval, write_table

_DATA = ("imagenet-sample", "mnist", "photos")
_METHODS = (
    "sensitivity", "input_x_gradient", "smoothgrad", "integrated_gradients", "grad_cam",
    "lrp_epsilon_plus",
)  # fmt: skip
_FILLS = ("uniform", "blur")
SAME, OTHER = "same", "other"
ALONE, SEARCHED, CHANCE = "(each region alone)", "(searched)", "(random)"
_BLOCK = 2
_HALF = 0.5

Areas = dict[str, Tensor]


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``ceiling`` to the command line."""
    ceiling = commands.add_parser(
        "ceiling", help="how good can an order be, and how good are maps?"
    )
    ceiling.add_argument("--model", required=True, help="a name of models.available_classifiers()")
    ceiling.add_argument("--data", choices=_DATA, required=True)
    ceiling.add_argument("--images", type=image_range, help="first:last[:stride]")
    ceiling.add_argument("--methods", type=names, default=_METHODS)
    ceiling.add_argument("--fills", type=names, default=_FILLS)
    ceiling.add_argument("--region-size", type=int, default=28, help="in pixels")
    ceiling.add_argument("--steps", type=int, default=10, help="regions that are replaced")
    ceiling.add_argument("--beam", type=int, default=1, help="orders kept by the search")
    ceiling.add_argument("--repeats", type=int, default=1, help="draws of the fill")
    ceiling.add_argument("--random", type=int, default=5, help="random orders for each image")
    ceiling.add_argument("--seed", type=int, default=0)
    add_options(ceiling, prepare, write)


def prepare(options: argparse.Namespace) -> Run[range]:
    """The run that was asked for, checked before anything is computed."""
    require_known(options, methods=attribution.METHODS, fills=_FILLS)
    require_positive(options, "region_size", "steps", "beam", "repeats", "random")
    classifier = models.load_classifier(options.model)
    images = image_set(options.data, classifier)
    numbers = chosen(images, options.images)
    plan = {
        "model": options.model,
        "weights": weights(classifier.module, classifier.source),
        "data": f"{images.name}, {numbers.start}:{numbers.stop}:{numbers.step} of {len(images)}",
        "methods": list(options.methods),
        "fills": list(options.fills),
        "regions": [options.region_size, options.steps],
        "beam": options.beam,
        "repeats": [options.repeats, options.random],
        "seed": options.seed,
    }
    return over_images(plan, numbers, _BLOCK, partial(_block, options, classifier, images))


def _block(
    options: argparse.Namespace,
    classifier: models.Classifier,
    images: data.ImageSet,
    numbers: range,
) -> Areas:
    """AOPC of every order on a block, (N,) each by "fill/draws/order/method"."""
    x = inputs(images, classifier, numbers)
    with torch.no_grad():
        target = classifier.module(x).argmax(dim=1)
    first = numbers.start // numbers.step
    maps = {
        name: heatmap(name, classifier.module, x, target, options.seed + first)
        for name in options.methods
    }
    look = classifier.preprocess
    fills: dict[str, evaluation.Fill] = {
        "uniform": evaluation.Uniform(look.low, look.high),
        "blur": evaluation.Blur(),
    }
    found: Areas = {}
    for fill in options.fills:
        block = _Block(options, classifier, x, target, fills[fill], first)
        found |= {f"{fill}/{key}": area for key, area in block.areas(maps)}
    return found


class _Block:
    """Some images with one fill."""

    def __init__(
        self,
        options: argparse.Namespace,
        classifier: models.Classifier,
        x: Tensor,
        target: Tensor,
        fill: evaluation.Fill,
        first: int,
    ) -> None:
        self._options, self._module, self._fill = options, classifier.module, fill
        self._x, self._target = x, target
        self._same: dict[str, Any] = {"seed": options.seed, "first_image": first}

    def areas(self, maps: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The area of each order, with its key "draws/order/method"."""
        alone, size = self._alone(), self._options.region_size
        maps = {**maps, ALONE: spread(alone, size, self._x)}
        found = {goal: self._search(goal) for goal in evaluation.GOALS}
        for goal, curves in found.items():
            yield f"{SAME}/{goal}/{SEARCHED}", curves.aopc()
        yield from self._judged(SAME, dict.fromkeys(evaluation.GOALS, maps), self._same)
        if not getattr(self._fill, "random", True):
            return
        both = {
            goal: {**maps, SEARCHED: evaluation.order_map(curves)} for goal, curves in found.items()
        }
        yield from self._judged(OTHER, both, self._same | {"seed": self._options.seed + 1})

    def _judged(
        self,
        draws: str,
        maps: Mapping[evaluation.Goal, Mapping[str, Tensor]],
        same: Mapping[str, Any],
    ) -> Iterator[tuple[str, Tensor]]:
        """By region perturbation, in both orders; and a random order."""
        options = self._options
        size, steps = options.region_size, options.steps
        for goal, of_methods in maps.items():
            curves = evaluation.region_perturbation(
                self._module, self._x, self._target, of_methods, size, steps, goal, self._fill,
                options.repeats, **same,
            )  # fmt: skip
            yield from ((f"{draws}/{goal}/{name}", one.aopc()) for name, one in curves.items())
        chance = evaluation.region_perturbation(
            self._module, self._x, self._target, None, size, steps, "random", self._fill,
            options.random, **same,
        )  # fmt: skip
        yield f"{draws}/random/{CHANCE}", chance.aopc()

    def _search(self, goal: evaluation.Goal) -> evaluation.Curves:
        options = self._options
        return evaluation.search(
            self._module, self._x, self._target, options.region_size, options.steps, self._fill,
            options.repeats, goal=goal, beam=options.beam, **self._same,
        )  # fmt: skip

    def _alone(self) -> Tensor:
        options = self._options
        return evaluation.region_occlusion(
            self._module, self._x, self._target, options.region_size, self._fill, options.repeats,
            **self._same,
        )  # fmt: skip


def spread(falls: Tensor, size: int, x: Tensor) -> Tensor:
    """The fall of each region, (N, rows, columns), as a map (N, 1, H, W) that sums to it."""
    index = evaluation.Regions(x.shape[2], x.shape[3], size).index
    area = torch.bincount(index.flatten())
    return (falls.flatten(1) / area)[:, index][:, None]


def write(options: argparse.Namespace, found: Areas) -> dict[str, Any]:
    """The areas, what each method gains of what the search gains, and whether that is half."""
    areas: list[dict[str, Any]] = []
    shares: list[dict[str, Any]] = []
    for fill, draws in dict.fromkeys(tuple(key.split("/")[:2]) for key in found):
        of = _of(found, fill, draws)
        setting = {"fill": fill, "draws": draws}
        areas += [
            setting | {"order": order, "method": name} | interval(area)
            for (order, name), area in of.items()
        ]
        methods = [name for order, name in of if order == "morf" and name != SEARCHED]
        gains = _gains(of)
        for measure in dict.fromkeys(measure for measure, _ in gains):
            most = gains[measure, SEARCHED]
            rows = [
                setting | {"measure": measure, "method": name} | _share(gains[measure, name], most)
                for name in methods
            ]
            p_holm = evaluation.holm([row["p_half"] for row in rows])
            shares += [row | {"p_half_holm": p} for row, p in zip(rows, p_holm, strict=True)]
        if draws == OTHER:  # how much of what the search found was the noise of its draws
            before = _gains(_of(found, fill, SAME))
            for measure in dict.fromkeys(measure for measure, _ in gains):
                row = _share(gains[measure, SEARCHED], before[measure, SEARCHED])
                shares.append(setting | {"measure": measure, "method": SEARCHED} | row)
    write_table(options.out, "areas", areas)
    write_table(options.out, "shares", shares)
    return {"images": len(next(iter(found.values())))}


def _of(found: Areas, fill: str, draws: str) -> dict[tuple[str, ...], Tensor]:
    """The areas of one fill on the same or on other draws, by order and method."""
    begin = f"{fill}/{draws}/"
    return {tuple(k.split("/")[2:]): a for k, a in found.items() if k.startswith(begin)}


def _gains(of: Mapping[tuple[str, ...], Tensor]) -> dict[tuple[str, str], Tensor]:
    """What every method gains over chance, positive if good, by measure and method."""
    chance = of["random", CHANCE]
    gains: dict[tuple[str, str], Tensor] = {}
    for name in [name for order, name in of if order == "morf"]:
        morf, lerf = of["morf", name], of["lerf", name]
        gains["aopc_morf", name], gains["aopc_lerf", name] = morf - chance, chance - lerf
        gains["abpc", name] = morf - lerf
    return gains


def _share(gain: Tensor, most: Tensor) -> dict[str, Any]:
    """Per cent of the way, and the p-value that it is half of it."""
    found = share_of_gain(gain, most)
    return {
        "share": found.mean,
        "low": found.low,
        "high": found.high,
        "images": found.images,
        "p_half": evaluation.sign_flip(gain - _HALF * most),
    }
