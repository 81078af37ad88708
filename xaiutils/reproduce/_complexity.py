"""``complexity``: file sizes and entropy of the maps of all methods; Samek et al. 2017, Table I."""

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from xaiutils import attribution, data, evaluation, models
from xaiutils.evaluation._complexity import JPEG_QUALITY
from xaiutils.reproduce._explained import heatmap, inputs, weights
from xaiutils.reproduce._long_run import Found, Run, add_options, over_images
from xaiutils.reproduce._options import chosen, image_range, names, require_known
from xaiutils.reproduce._samek_tables import rows_beside
from xaiutils.reproduce._tables import interval, pair_row, write_table

SETTINGS: dict[str, dict[str, Any]] = {
    "grey": {},
    "grey, 99.5th percentile": {"percentile": 99.5},
    "jet": {"colours": "jet"},
    "grey, one scale for all": {"signed": True},
}
"""Ways of turning a map into a picture; see `evaluation.as_picture`."""
_PAPER = ("sensitivity", "deconvnet_l2", "lrp_epsilon", "lrp_alpha2_beta1", "random")
"""The methods of the paper's table, LRP by both its rules, and noise: all pairs are compared."""
_BLOCK = 4


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``complexity`` to the command line."""
    complexity = commands.add_parser("complexity", help="file size and entropy of heatmaps")
    complexity.add_argument("--model", required=True)
    complexity.add_argument("--images", type=image_range, default=(0, 1000, 10))
    complexity.add_argument("--methods", type=names, default=tuple(attribution.METHODS))
    complexity.add_argument(
        "--settings",
        type=lambda text: tuple(name for name in text.split(";") if name),
        default=tuple(SETTINGS),
        help="ways of drawing, between semicolons",
    )
    complexity.add_argument("--add", action="store_true", help="keep other rows that are there")
    complexity.add_argument("--seed", type=int, default=0)
    add_options(complexity, prepare, write)


def prepare(options: argparse.Namespace) -> Run[range]:
    """The run that was asked for, checked before anything is computed."""
    require_known(options, methods=attribution.METHODS, settings=SETTINGS)
    images, classifier = data.imagenet_sample(), models.load_classifier(options.model)
    numbers = chosen(images, options.images)
    plan = {
        "model": options.model,
        "weights": weights(classifier.module, classifier.source),
        "data": f"{images.name}, images {':'.join(map(str, options.images))}",
        "methods": list(options.methods),
        "settings": list(options.settings),
        "seed": options.seed,
    }
    if options.add:
        _require_alike(options.out.with_name(f"{options.out.name}.json"), plan)
    measure = partial(_measure, options, classifier, images)
    return over_images(plan, numbers, _BLOCK, measure, jpeg_quality=JPEG_QUALITY)


def _require_alike(path: Path, plan: Mapping[str, Any]) -> None:
    """Refuse to add rows to tables of other pictures or another network."""
    if not path.exists():
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    shared = ("model", "weights", "data", "seed")
    if differing := [key for key in shared if there.get(key) != plan[key]]:
        raise SystemExit(f"{path.name} is of another run: {', '.join(differing)} differ.")


def _measure(
    options: argparse.Namespace,
    classifier: models.Classifier,
    images: data.ImageSet,
    block: range,
) -> dict[str, Tensor]:
    """Complexity of every method's maps of a block, (len(block),) by "measure/setting/method"."""
    x = inputs(images, classifier, block)
    found = {}
    for name in options.methods:
        maps = heatmap(name, classifier.module, x, None, options.seed + block.start)
        for setting in options.settings:
            how = SETTINGS[setting]
            found[f"png/{setting}/{name}"] = evaluation.png_size(maps, **how).double()
            found[f"jpeg/{setting}/{name}"] = evaluation.jpeg_size(maps, **how).double()
            if "colours" not in how:  # colours do not change the entropy
                found[f"entropy/{setting}/{name}"] = evaluation.entropy(maps, **how)
    return found


def write(options: argparse.Namespace, found: Found) -> None:
    """Means with intervals, and all pairs of the paper's methods by measure and setting."""
    rows, groups = [], dict[tuple[str, str], dict[str, Tensor]]()
    for key, values in found.items():
        measure, setting, method = key.split("/")
        rows.append({"measure": measure, "setting": setting, "method": method} | interval(values))
        if method in _PAPER:
            groups.setdefault((measure, setting), {})[method] = values
    names = ["measure", "setting"]
    out = options.out
    add = options.add and out.with_name(f"{out.name}.json").exists()
    rows = rows_beside(out, "sizes", [*names, "method"], rows) if add else rows
    write_table(out, "sizes", rows)
    pairs = [
        {"measure": measure, "setting": setting} | pair_row(pair)
        for (measure, setting), methods in groups.items()
        if len(methods) > 1
        for pair in evaluation.compare(methods)
    ]
    pairs = rows_beside(out, "comparisons", [*names, "first", "second"], pairs) if add else pairs
    write_table(out, "comparisons", pairs)
