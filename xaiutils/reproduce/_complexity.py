"""``complexity``: file sizes and entropy of the maps of all methods; Samek et al. 2017, Table I."""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from xaiutils import attribution, data, evaluation, models
from xaiutils.evaluation._complexity import JPEG_QUALITY
from xaiutils.reproduce._explained import heatmap, inputs, weights
from xaiutils.reproduce._options import chosen, image_range, names, require_known
from xaiutils.reproduce._provenance import command_line, provenance, write_json
from xaiutils.reproduce._tables import interval, pair_row, write_table
from xaiutils.reproduce._work import by_blocks, keep_plan

SETTINGS: dict[str, dict[str, Any]] = {
    "grey": {},
    "grey, 99.5th percentile": {"percentile": 99.5},
    "jet": {"colours": "jet"},
}
"""Ways of turning a map into a picture; see `evaluation.as_picture`."""
_PAPER = ("sensitivity", "deconvnet_l2", "lrp_epsilon", "lrp_alpha2_beta1", "random")
"""The methods of the paper's table, LRP by both its rules, and noise: all pairs are compared."""
_BLOCK = 4


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``complexity`` to the command line."""
    complexity = commands.add_parser("complexity", help="file size and entropy of heatmaps")
    complexity.add_argument("--work", type=Path, required=True, help="folder of the blocks")
    complexity.add_argument("--out", type=Path, required=True, help="tables begin with this path")
    complexity.add_argument("--model", required=True)
    complexity.add_argument("--images", type=image_range, default=(0, 1000, 10))
    complexity.add_argument("--methods", type=names, default=tuple(attribution.METHODS))
    complexity.add_argument("--seed", type=int, default=0)
    complexity.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure the blocks that are not there yet, then write the tables."""
    require_known(options, methods=attribution.METHODS)
    images, classifier = data.imagenet_sample(), models.load_classifier(options.model)
    numbers = chosen(images, options.images)
    plan = {
        "model": options.model,
        "weights": weights(classifier.module, classifier.source),
        "data": f"{images.name}, images {':'.join(map(str, options.images))}",
        "methods": list(options.methods),
        "seed": options.seed,
    }
    keep_plan(options.work, plan)
    measure = partial(_measure, options, classifier, images)
    found = by_blocks(options.work, numbers, _BLOCK, measure)
    _write(options.out, found)
    record = provenance(command_line(), **plan, jpeg_quality=JPEG_QUALITY)
    write_json(options.out.with_name(f"{options.out.name}.json"), record)
    return 0


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
        for setting, how in SETTINGS.items():
            found[f"png/{setting}/{name}"] = evaluation.png_size(maps, **how).double()
            found[f"jpeg/{setting}/{name}"] = evaluation.jpeg_size(maps, **how).double()
            if "colours" not in how:  # colours do not change the entropy
                found[f"entropy/{setting}/{name}"] = evaluation.entropy(maps, **how)
    return found


def _write(out: Path, found: Mapping[str, Tensor]) -> None:
    """Means with intervals, and all pairs of the paper's methods by measure and setting."""
    rows, groups = [], dict[tuple[str, str], dict[str, Tensor]]()
    for key, values in found.items():
        measure, setting, method = key.split("/")
        rows.append({"measure": measure, "setting": setting, "method": method} | interval(values))
        if method in _PAPER:
            groups.setdefault((measure, setting), {})[method] = values
    write_table(out, "sizes", rows)
    pairs = [
        {"measure": measure, "setting": setting} | pair_row(pair)
        for (measure, setting), methods in groups.items()
        if len(methods) > 1
        for pair in evaluation.compare(methods)
    ]
    write_table(out, "comparisons", pairs)
