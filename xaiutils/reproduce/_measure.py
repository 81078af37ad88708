"""``measure``: what can be said of single maps, without a curve.

Whether a map ranks regions as the network does when each of them alone is replaced; how simple its
picture is; and, where objects have boxes, whether it points at them. All methods explain the class
that the network names, on the same images; boxes are asked about only where that class is right.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce._explained import heatmap, image_set, inputs, weights
from xaiutils.reproduce._long_run import Found, Run, add_options, over_images
from xaiutils.reproduce._options import (
    chosen,
    image_range,
    names,
    require_known,
    require_positive,
)
from xaiutils.reproduce._tables import interval, pair_row, write_table

_DATA = ("imagenet-sample", "tiny-imagenet", "photos")
_RIGHT = "named rightly"
OTHER_NOISE = "(other noise)"  # stands where a method would
_BLOCK = 4


@dataclass(frozen=True, eq=False)
class _Images:
    """A block of images with what the measures need beside the maps."""

    options: argparse.Namespace
    classifier: models.Classifier
    x: Tensor
    target: Tensor
    boxes: Tensor | None
    first: int

    @cached_property
    def falls(self) -> Tensor:
        """What each region alone is worth to the network, (N, rows, columns)."""
        return self._falls(self.options.seed)

    def reliability(self) -> Tensor:
        """How alike the falls are if the noise is drawn anew: no map can be expected to do better.

        Rank correlations (N,).
        """
        return evaluation.rank_correlation(self.falls, self._falls(self.options.seed + 1))

    def _falls(self, seed: int) -> Tensor:
        look = self.classifier.preprocess
        fills: dict[str, evaluation.Fill] = {
            "uniform": evaluation.Uniform(look.low, look.high),
            "blur": evaluation.Blur(),
        }
        return evaluation.region_occlusion(
            self.classifier.module,
            self.x,
            self.target,
            self.options.region_size,
            fills[self.options.fill],
            self.options.repeats,
            seed=seed,
            first_image=self.first,
        )


def _occlusion(maps: Tensor, block: _Images) -> Tensor:
    return evaluation.occlusion_agreement(maps, block.falls, block.options.region_size)


def _of_boxes(measure: Callable[[Tensor, Tensor], Tensor], maps: Tensor, block: _Images) -> Tensor:
    assert block.boxes is not None  # checked before the run
    return measure(maps, block.boxes)


MEASURES: dict[str, Callable[[Tensor, _Images], Tensor]] = {
    "occlusion": _occlusion,
    "png": lambda maps, _: evaluation.png_size(maps).double(),
    "entropy": lambda maps, _: evaluation.entropy(maps),
    "energy": partial(_of_boxes, evaluation.energy_inside),
    "pointing": partial(_of_boxes, evaluation.pointing_game),
}
"""A number for each map, by name; the last two need boxes."""
_NEED_BOXES = ("energy", "pointing")


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``measure`` to the command line."""
    measure = commands.add_parser("measure", help="occlusion, simplicity and boxes, map by map")
    measure.add_argument("--model", required=True, help="a name of models.available_classifiers()")
    measure.add_argument("--data", choices=_DATA, required=True)
    measure.add_argument("--images", type=image_range, help="first:last[:stride]")
    measure.add_argument("--methods", type=names, default=tuple(attribution.METHODS))
    measure.add_argument("--measures", type=names, default=("occlusion", "png", "entropy"))
    measure.add_argument("--region-size", type=int, default=14, help="of occlusion, in pixels")
    measure.add_argument("--fill", choices=("uniform", "blur"), default="uniform")
    measure.add_argument("--repeats", type=int, default=1, help="draws of the noise of occlusion")
    measure.add_argument("--reliability", action="store_true", help="occlude with other noise too")
    measure.add_argument("--seed", type=int, default=0)
    add_options(measure, prepare, write)


def prepare(options: argparse.Namespace) -> Run[range]:
    """The run that was asked for, checked before anything is computed."""
    require_known(options, methods=attribution.METHODS, measures=MEASURES)
    require_positive(options, "region_size", "repeats")
    classifier = models.load_classifier(options.model)
    images = image_set(options.data, classifier)
    if images.boxes is None and set(options.measures) & set(_NEED_BOXES):
        raise SystemExit(f"{images.name} has no boxes, which {' and '.join(_NEED_BOXES)} need.")
    numbers = chosen(images, options.images)
    plan = {
        "model": options.model,
        "weights": weights(classifier.module, classifier.source),
        "data": f"{images.name}, {numbers.start}:{numbers.stop}:{numbers.step} of {len(images)}",
        "methods": list(options.methods),
        "measures": list(options.measures),
        "occlusion": [options.region_size, options.fill, options.repeats, options.seed],
        "reliability": options.reliability,
    }
    return over_images(plan, numbers, _BLOCK, partial(_measured, options, classifier, images))


def write(options: argparse.Namespace, found: Found) -> dict[str, Any]:
    """Write the tables; how often the network is right."""
    right = found.pop(_RIGHT)
    if set(options.measures) & set(_NEED_BOXES) and right.sum() < 2:
        raise SystemExit(
            f"{options.model} names {right.sum()} of {len(right)} images rightly: too few for the "
            "measures of boxes. Give more --images, or a network that is trained."
        )
    _write_tables(options.out, found, right)
    return {"accuracy": round(right.double().mean().item(), 4)}


def _measured(
    options: argparse.Namespace,
    classifier: models.Classifier,
    images: data.ImageSet,
    numbers: range,
) -> dict[str, Tensor]:
    """Every measure of every method on a block, (N,) each by "measure/method"."""
    x = inputs(images, classifier, numbers)
    with torch.no_grad():
        target = classifier.module(x).argmax(1)
    boxes = None if images.boxes is None else images.boxes[list(numbers)]
    block = _Images(options, classifier, x, target, boxes, numbers.start // numbers.step)
    found = {_RIGHT: target == images.labels[list(numbers)]}
    if options.reliability:
        found[f"occlusion/{OTHER_NOISE}"] = block.reliability()
    for name in options.methods:
        maps = heatmap(name, classifier.module, x, target, options.seed + numbers.start)
        for measure in options.measures:
            found[f"{measure}/{name}"] = MEASURES[measure](maps, block)
    return found


def _write_tables(out: Path, found: Mapping[str, Tensor], right: Tensor) -> None:
    """Means with intervals, and all pairs of methods, by measure."""
    groups = dict[str, dict[str, Tensor]]()
    for key, values in found.items():
        measure, method = key.split("/")
        groups.setdefault(measure, {})[method] = values[right] if measure in _NEED_BOXES else values
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for measure, methods in groups.items():
        rows += [{"measure": measure, "method": m} | interval(v) for m, v in methods.items()]
        if len(methods) > 1:
            compared = evaluation.compare(methods)
            pairs += [{"measure": measure} | pair_row(pair) for pair in compared]
    write_table(out, "measures", rows)
    write_table(out, "comparisons", pairs)
