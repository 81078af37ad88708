"""``dmbp``: compare objectives of DMBP with each other, and its maps with those of other methods.

``search`` compares objectives by region perturbation, purity, sparsity and stability: run it once
on images to choose by, and once more on others to report. ``join`` puts blocks of ``samek run`` on
the same images side by side, so that methods that were run apart can be compared image by image.
``account`` tells how much of an output the biases contribute, which no branch can hold.
``separation`` is about searches whose masks can move, see :mod:`._dmbp_separation`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from xaiutils import attribution, data, evaluation, models
from xaiutils.attribution import Disentangled, Extraction, FilterExtraction, Purity
from xaiutils.attribution._dmbp_objectives import pool
from xaiutils.reproduce import _dmbp_separation, _samek_tables
from xaiutils.reproduce._explained import heatmap, inputs, weights
from xaiutils.reproduce._long_run import Found, Run, add_options, over_images
from xaiutils.reproduce._options import (
    chosen,
    image_range,
    names,
    require_known,
    require_positive,
)
from xaiutils.reproduce._provenance import command_line, provenance, write_json
from xaiutils.reproduce._samek import read_plan, split_flags
from xaiutils.reproduce._tables import interval, pair_row, write_table

CANDIDATES: dict[str, dict[str, Any]] = {
    "greedy": {"iterations": 0},
    "extraction": {"objective": Extraction()},
    "extraction_ones": {"objective": Extraction(), "start": "ones"},
    "extraction_only": {"objective": Extraction(purity=0.0, nuisance=0.0)},
    "extraction_overlap": {"objective": Extraction(window=16, overlap=1.0)},
    "filters": {"objective": FilterExtraction()},
    "purity": {"objective": Purity()},
    "purity_window": {"objective": Purity(window=16)},
    "purity_window_ones": {"objective": Purity(window=16), "start": "ones"},
    "purity_window_free": {"objective": Purity(nuisance=0.0, window=16)},
    "purity_window_small": {"objective": Purity(window=8)},
    "purity_window_large": {"objective": Purity(window=32)},
}
"""What is compared, by name: options of :func:`xaiutils.attribution.dmbp`."""
MAPS = ("positive", "negative", "both", "mapping")
BASELINES = ("input_x_gradient", "sensitivity", "lrp_epsilon_plus", "random")
JUDGED = 16
"""The side of the windows over which purity, sparsity and stability are measured, in pixels."""
_BLOCK = 2


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``dmbp`` to the command line."""
    top = commands.add_parser("dmbp", help="compare DMBP's objectives, and DMBP with other methods")
    actions = top.add_subparsers(dest="action", required=True)
    join = actions.add_parser("join", help="tables of several samek runs on the same images")
    join.add_argument("--works", type=Path, nargs="+", required=True, help="folders of the runs")
    join.add_argument("--out", type=Path, required=True, help="tables begin with this path")
    join.add_argument("--resamples", type=int, default=10_000, help="draws of the bootstrap")
    join.set_defaults(run=join_runs)
    account = actions.add_parser("account", help="how much of the output the biases contribute")
    account.add_argument("--out", type=Path, required=True, help="tables begin with this path")
    account.add_argument("--model", required=True, help="a name of models.available_classifiers()")
    account.add_argument("--images", type=image_range, required=True, help="first:last[:stride]")
    account.set_defaults(run=run_account)
    _dmbp_separation.add_action(actions)
    dmbp = actions.add_parser("search", help="compare the objectives of DMBP")
    dmbp.add_argument("--model", required=True, help="a name of models.available_classifiers()")
    dmbp.add_argument("--images", type=image_range, required=True, help="first:last[:stride]")
    dmbp.add_argument("--candidates", type=names, default=tuple(CANDIDATES))
    dmbp.add_argument("--maps", type=names, default=MAPS, help="which maps to perturb")
    dmbp.add_argument("--stability", action="store_true", help="explain shaken images as well")
    dmbp.add_argument("--iterations", type=int, default=20)
    dmbp.add_argument("--region-size", type=int, default=16)
    dmbp.add_argument("--steps", type=int, default=30)
    dmbp.add_argument("--fill", choices=("uniform", "blur"), default="uniform")
    dmbp.add_argument("--seed", type=int, default=0)
    add_options(dmbp, prepare, write)


def prepare(options: argparse.Namespace) -> Run[range]:
    """The run that was asked for, checked before anything is computed."""
    require_known(options, candidates=CANDIDATES, maps=MAPS)
    require_positive(options, "iterations", "region_size", "steps")
    images, classifier = data.imagenet_sample(), models.load_classifier(options.model)
    numbers = chosen(images, options.images)
    plan = {
        "model": options.model,
        "weights": weights(classifier.module, classifier.source),
        "data": f"{images.name}, images {':'.join(map(str, options.images))}",
        "candidates": {name: str(CANDIDATES[name]) for name in options.candidates},
        "maps": list(options.maps),
        "stability": options.stability,
        "iterations": options.iterations,
        "perturbation": [options.region_size, options.steps, options.fill, options.seed],
    }
    return over_images(plan, numbers, _BLOCK, partial(_measure, options, classifier, images))


def _measure(
    options: argparse.Namespace,
    classifier: models.Classifier,
    images: data.ImageSet,
    block: range,
) -> dict[str, Tensor]:
    """All measures of a block, (len(block),) float64 by "measure/candidate/map"."""
    x = inputs(images, classifier, block)
    with torch.no_grad():
        target = classifier.module(x).argmax(1)
    maps, found = dict[str, Tensor](), dict[str, Tensor]()
    for name in options.candidates:
        given = {"iterations": options.iterations} | CANDIDATES[name]
        result = attribution.dmbp(classifier.module, x, target, **given)
        shown = {part: view for part, view in views(result).items() if part in options.maps}
        maps |= {f"{name}/{part}": view for part, view in shown.items()}
        for key, value in qualities(result).items():
            measure, part = key.split("/")
            found[f"{measure}/{name}/{part}"] = value
        if not options.stability:
            continue
        moved = attribution.dmbp(classifier.module, _shaken(classifier, x, block), target, **given)
        others = views(moved)
        found |= {f"stability/{name}/{k}": _likeness(view, others[k]) for k, view in shown.items()}
    seed = options.seed + block.start
    for name in BASELINES:
        maps[f"{name}/map"] = heatmap(name, classifier.module, x, target, seed)
    return found | _perturbed(options, classifier, x, target, maps, block)


def views(result: Disentangled) -> dict[str, Tensor]:
    """The heatmaps that are made of one result; the negative one is large where it says "no"."""
    norm = torch.linalg.vector_norm(result.positive_mapping, dim=1, keepdim=True)
    return {
        "positive": result.positive,
        "negative": -result.negative,
        "both": result.map,
        "mapping": norm,
    }


def qualities(result: Disentangled) -> dict[str, Tensor]:
    """Purity, sparsity and size of the branches, (N,) float64 each, by "measure/map"."""
    found: dict[str, Tensor] = {}
    for part, values in (("positive", result.positive), ("negative", -result.negative)):
        sums = pool(values[None].double(), JUDGED)[0]
        size = sums.abs().sum(1).clamp(min=1e-300)
        found[f"purity/{part}"] = sums.sum(1) / size
        found[f"effective_share/{part}"] = size.square() / (sums.square().sum(1) * sums.shape[1])
        found[f"sum_over_output/{part}"] = sums.sum(1) / result.output
    first, second = (pool(v[None].double(), JUDGED)[0] for v in (result.positive, -result.negative))
    found["overlap/both"] = torch.cosine_similarity(first, second)
    return found


def _shaken(classifier: models.Classifier, x: Tensor, block: range) -> Tensor:
    """The images with every colour value one grey level up or down, by lot."""
    level = (classifier.preprocess.high - classifier.preprocess.low) / 255
    generator = torch.Generator().manual_seed(block.start)
    return x + level * (torch.randint(0, 2, x.shape, generator=generator) * 2 - 1)


def _likeness(first: Tensor, second: Tensor) -> Tensor:
    """The cosine of two maps' sums over windows, (N,)."""
    own, other = (pool(values[None].double(), JUDGED)[0] for values in (first, second))
    return torch.cosine_similarity(own, other)


def _perturbed(
    options: argparse.Namespace,
    classifier: models.Classifier,
    x: Tensor,
    target: Tensor,
    maps: Mapping[str, Tensor],
    block: range,
) -> dict[str, Tensor]:
    """Areas between the unperturbed output and the curves of each map and of chance."""
    look = classifier.preprocess
    fills = {"uniform": evaluation.Uniform(look.low, look.high), "blur": evaluation.Blur()}
    perturb = partial(
        evaluation.region_perturbation,
        classifier.module,
        x,
        target,
        region_size=options.region_size,
        steps=options.steps,
        fill=fills[options.fill],
        repeats=1,
        seed=options.seed,
        first_image=block.start,
    )
    chance = perturb(heatmaps={"": x}, order="random")[""].aopc()
    found = {"aopc_random/(none)/map": chance}
    areas = {
        order: {name: curves.aopc() for name, curves in perturb(heatmaps=maps, order=order).items()}
        for order in ("morf", "lerf")
    }
    for name, morf in areas["morf"].items():
        found[f"aopc_morf/{name}"], found[f"aopc_lerf/{name}"] = morf, areas["lerf"][name]
        found[f"abpc/{name}"] = morf - areas["lerf"][name]
        found[f"morf_minus_random/{name}"] = morf - chance
    return found


def write(options: argparse.Namespace, found: Found) -> None:
    """Means with intervals, and every pair of maps by the area between LeRF and MoRF."""
    rows = []
    for key, values in found.items():
        measure, candidate, view = key.split("/")
        rows.append({"measure": measure, "candidate": candidate, "map": view} | interval(values))
    write_table(options.out, "measures", rows)
    areas = {key.removeprefix("abpc/"): v for key, v in found.items() if key.startswith("abpc/")}
    judged = {key: v.double() for key, v in areas.items() if not key.endswith("/negative")}
    write_table(options.out, "comparisons", [pair_row(pair) for pair in evaluation.compare(judged)])


def run_account(options: argparse.Namespace) -> int:
    """Write the mean output of the named class, and how it is made up; in units of the output."""
    images, classifier = data.imagenet_sample(), models.load_classifier(options.model)
    parts: dict[str, list[Tensor]] = {"output": [], "biases": [], "sum of J*x": []}
    for number in chosen(images, options.images):
        x = inputs(images, classifier, range(number, number + 1))
        found = attribution.dmbp(classifier.module, x, None, iterations=0)
        parts["output"].append(found.output)
        parts["biases"].append(found.bias)
        parts["sum of J*x"].append(found.output - found.bias)
    values = {name: torch.cat(part) for name, part in parts.items()}
    larger = (values["biases"] > values["output"]).double()
    rows = [{"part": name} | interval(part) for name, part in values.items()]
    rows.append({"part": "share of images whose biases exceed the output"} | interval(larger))
    write_table(options.out, "parts", rows)
    facts = {
        "model": options.model,
        "weights": weights(classifier.module, classifier.source),
        "data": f"{images.name}, images {':'.join(map(str, options.images))}",
    }
    written = options.out.with_name(f"{options.out.name}.json")
    write_json(written, provenance(command_line(), **facts))
    return 0


def join_runs(options: argparse.Namespace) -> int:
    """Write the tables of all methods on the blocks that every run has."""
    records = [_plan_of(work) for work in options.works]
    if any(_shared(record) != _shared(records[0]) for record in records):
        raise SystemExit("the runs differ in more than their methods and orders: nothing to join.")
    shared = set.intersection(*({p.name for p in w.glob("*.safetensors")} for w in options.works))
    if not shared:
        raise SystemExit("the runs have no block in common; start them again and join after it.")
    parts = [_joined([work / name for work in options.works]) for name in sorted(shared)]
    scores = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    targets = scores.pop("target")
    scores, constant = split_flags(scores)
    tables = _samek_tables.write_tables(options.out, scores, constant, options.resamples)
    facts = {
        "plan": _shared(records[0]),
        "methods": sorted({m for record in records for m in record["plan"]["methods"]}),
        "runs": [record["command"] for record in records],
        "images": len(targets),
        "blocks": [len(shared), "of", len(read_plan(records[0]).blocks())],
        "resamples": options.resamples,
    }
    command = "python -m xaiutils.reproduce dmbp join"
    written = provenance(command, **facts, tables=[path.name for path in tables])
    write_json(options.out.with_name(f"{options.out.name}.json"), written)
    print(f"{len(targets)} images; wrote {', '.join(path.name for path in tables)}")
    return 0


def _plan_of(work: Path) -> dict[str, Any]:
    path = work / "plan.json"
    if not path.exists():
        raise SystemExit(f"{work} holds no plan.json: give the --work folders of samek runs.")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _shared(record: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the pictures and the outputs, whatever the methods are."""
    free = ("methods", "orders")
    plan = {key: value for key, value in record["plan"].items() if key not in free}
    return plan | {"weights": record["weights"], "data": record["data"]}


def _joined(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The scores of one block from all runs, which must have explained the same classes."""
    blocks = [load_file(path) for path in paths]
    if any(not torch.equal(block["target"], blocks[0]["target"]) for block in blocks):
        raise SystemExit(f"{paths[0].name}: the runs explain different classes.")
    return {key: value for block in blocks for key, value in block.items() if key != "label"}
