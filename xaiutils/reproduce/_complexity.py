"""``complexity``: file sizes and entropy of the maps of all methods; Samek et al. 2017, Table I."""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from xaiutils import attribution, data, evaluation, models
from xaiutils.evaluation._complexity import JPEG_QUALITY
from xaiutils.reproduce._provenance import command_line, provenance, write_json
from xaiutils.reproduce._samek import _image_range, _inputs, _names, _weights_hash
from xaiutils.reproduce._work import keep_plan, kept, write_table

SETTINGS: dict[str, dict[str, Any]] = {
    "grey": {},
    "grey, 99.5th percentile": {"percentile": 99.5},
    "jet": {"colours": "jet"},
}
"""Ways of turning a map into a picture; see `evaluation.as_picture`."""
_PAPER = ("sensitivity", "deconvnet_l2", "lrp_epsilon", "lrp_alpha2_beta1", "random")
"""The methods of the paper's table, LRP by both its rules, and noise: all pairs are compared."""
_BLOCK = 4
_SEEDED = ("random", "smoothgrad")


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``complexity`` to the command line."""
    complexity = commands.add_parser("complexity", help="file size and entropy of heatmaps")
    complexity.add_argument("--work", type=Path, required=True, help="folder of the blocks")
    complexity.add_argument("--out", type=Path, required=True, help="tables begin with this path")
    complexity.add_argument("--model", required=True)
    complexity.add_argument("--images", type=_image_range, default=(0, 1000, 10))
    complexity.add_argument("--methods", type=_names, default=tuple(attribution.METHODS))
    complexity.add_argument("--seed", type=int, default=0)
    complexity.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure the blocks that are not there yet, then write the tables."""
    wrong = set(options.methods) - set(attribution.METHODS)
    if wrong or not options.methods:
        raise SystemExit(f"--methods: {sorted(wrong)} unknown; see attribution.METHODS.")
    images, classifier = data.imagenet_sample(), models.load_classifier(options.model)
    numbers = range(*options.images)
    if not (len(numbers) >= 2 and numbers.start >= 0 and numbers.stop <= len(images)):
        raise SystemExit(f"--images: give at least two within 0:{len(images)}.")
    plan = {
        "model": options.model,
        "weights": {"source": classifier.source, "sha256": _weights_hash(classifier.module)},
        "data": f"{images.name}, images {':'.join(map(str, options.images))}",
        "methods": list(options.methods),
        "seed": options.seed,
    }
    keep_plan(options.work, plan)
    parts = []
    for first in tqdm(range(0, len(numbers), _BLOCK), unit="blocks"):
        block = numbers[first : first + _BLOCK]
        path = options.work / f"images-{block.start:06}.safetensors"
        parts.append(kept(path, partial(_measure, options, classifier, images, block)))
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
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
    x = _inputs(images, classifier, block)
    found = {}
    for name in options.methods:
        seed = {"seed": options.seed + block.start} if name in _SEEDED else {}
        maps = attribution.METHODS[name](classifier.module, x, None, **seed)
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
        one = evaluation.bootstrap(values)
        names = {"measure": measure, "setting": setting, "method": method}
        ends = {"mean": one.mean, "low": one.low, "high": one.high}
        rows.append(names | ends | {"images": one.images})
        if method in _PAPER:
            groups.setdefault((measure, setting), {})[method] = values
    write_table(out.with_name(f"{out.name}-sizes.csv"), rows)
    pairs = [
        {
            "measure": measure,
            "setting": setting,
            "first": pair.first,
            "second": pair.second,
            "difference": pair.difference.mean,
            "low": pair.difference.low,
            "high": pair.difference.high,
            "images": pair.difference.images,
            "p_value": pair.p_value,
            "p_holm": pair.p_adjusted,
        }
        for (measure, setting), methods in groups.items()
        if len(methods) > 1
        for pair in evaluation.compare(methods)
    ]
    write_table(out.with_name(f"{out.name}-comparisons.csv"), pairs)
