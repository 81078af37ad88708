"""``samek``: region perturbation of many methods over a data set, resumable and in shards.

The images are cut into blocks. Each block becomes one file with all its scores, which appears in
the work folder whole or not at all; a run that is started again skips the blocks that are there.
What is drawn for an image depends on the seed and the image's number, so blocks may be computed by
any process, in any order, on any machine, and `merge` puts them together. With ``--dask`` the
workers of a cluster compute the blocks, and this process writes them.
"""

import argparse
import hashlib
import json
import warnings
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce._explained import (
    extra_methods,
    heatmap,
    image_set,
    inputs,
    mean_input,
    weights,
)
from xaiutils.reproduce._long_run import (
    Found,
    Notes,
    Run,
    add_ways,
    block_path,
    compute_missing,
    cost,
    read_block,
    write_record,
)
from xaiutils.reproduce._options import (
    chosen,
    image_range,
    names,
    require_known,
    require_positive,
    whole_numbers,
)
from xaiutils.reproduce._provenance import command_line, provenance, write_json
from xaiutils.reproduce._samek_tables import RANDOM_ORDER, SIGN_DRAWS, write_tables
from xaiutils.reproduce._tables import write_table

_CONSTANT = "constant map/"  # before "fill/order/method": which maps were the same everywhere
_TIED = "tied regions/"  # likewise: how many regions of each map were ordered by lot
_DATA = ("mnist", "imagenet-sample", "tiny-imagenet", "photos", "folder")


@dataclass(frozen=True)
class Plan:
    """Everything that decides the scores. A work folder holds the blocks of one plan."""

    model: str
    weights: str
    data: str
    source: str
    first: int
    last: int
    stride: int
    methods: tuple[str, ...]
    orders: tuple[evaluation.Order, ...]
    fills: tuple[str, ...]
    region_size: int
    steps: int
    repeats: int
    output: evaluation.Output
    region_score: evaluation.Reduce
    edge: evaluation.Edge
    seed: int
    block: int

    def blocks(self) -> dict[str, range]:
        """The numbers of the images in each block, by the name of its file."""
        images = range(self.first, self.last, self.stride)
        parts = [images[i : i + self.block] for i in range(0, len(images), self.block)]
        return {f"images-{part.start:06}-{part.stop:06}": part for part in parts}


@dataclass(frozen=True, eq=False)
class _Job:
    """A plan with what its blocks are computed from."""

    plan: Plan
    classifier: models.Classifier
    images: data.ImageSet
    device: str
    batch_size: int | None

    @cached_property
    def fills(self) -> dict[str, evaluation.Fill]:
        """The fills, from the images of the whole plan."""
        return _fills(self.plan, self.classifier, self.images)

    @cached_property
    def record(self) -> dict[str, Any]:
        """What tells this run from others."""
        source, of = self.images.source.description, len(self.images)
        record = {
            "plan": asdict(self.plan),
            "weights": weights(self.classifier.module, self.classifier.source),
            "data": {"name": self.images.name, "source": source, "of": of},
        }
        return dict(json.loads(json.dumps(record)))  # as it reads when it comes back from a file


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``samek`` to the command line."""
    samek = commands.add_parser("samek", help="region perturbation over a data set")
    actions = samek.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", help="compute blocks of scores; start again to go on")
    run.add_argument("--work", type=Path, required=True, help="folder of the blocks")
    run.add_argument("--model", required=True, help="a name of models.available_classifiers()")
    run.add_argument("--weights", choices=("pretrained", "random"), default="pretrained")
    run.add_argument("--data", choices=_DATA, required=True)
    run.add_argument("--source", choices=data.SOURCES, default="auto", help="where data come from")
    run.add_argument("--folder", type=Path, help="your images, for --data folder")
    run.add_argument("--images", type=image_range, help="first:last[:stride], without the last")
    run.add_argument("--methods", type=names, default=tuple(attribution.METHODS))
    run.add_argument("--orders", type=names, default=evaluation.ORDERS)
    run.add_argument("--fills", type=names, default=("uniform",))
    run.add_argument("--region-size", type=int, default=9)
    run.add_argument("--steps", type=int, default=100)
    run.add_argument("--repeats", type=int, default=10)
    run.add_argument("--output", choices=evaluation.OUTPUTS, default="logit")
    run.add_argument("--region-score", choices=("sum", "mean", "max"), default="sum")
    run.add_argument("--edge", choices=("keep", "drop"), default="keep")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--block", type=int, default=8, help="images that a kill may cost")
    add_ways(run)
    run.add_argument("--device", default="cpu")
    run.add_argument("--batch-size", type=int)
    run.set_defaults(run=run_blocks)
    merge = actions.add_parser("merge", help="put all blocks together and write the tables")
    merge.add_argument("--work", type=Path, required=True, help="folder of the blocks")
    merge.add_argument("--out", type=Path, required=True, help="tables begin with this path")
    merge.add_argument("--resamples", type=int, default=10_000, help="draws of the bootstrap")
    merge.add_argument("--steps", type=int, help="take only the first so many steps as L")
    merge.add_argument("--axis", type=whole_numbers, default=(), help="steps of the table -steps")
    merge.add_argument("--add", action="store_true", help="keep other methods' rows that are there")
    merge.set_defaults(run=merge_blocks)
    ties = actions.add_parser("ties", help="count the regions of equal score, without a curve")
    ties.add_argument("--out", type=Path, required=True, help="the table begins with this path")
    ties.add_argument("--model", required=True)
    ties.add_argument("--data", choices=_DATA[:-1], required=True)
    ties.add_argument("--images", type=image_range, required=True)
    ties.add_argument("--methods", type=names, default=tuple(attribution.METHODS))
    ties.add_argument("--region-size", type=int, default=9)
    ties.set_defaults(run=count_ties)


def run_blocks(options: argparse.Namespace) -> int:
    """Compute the blocks of this shard that are not there yet."""
    compute_missing(prepare, prepare(options), options)
    return 0


def prepare(options: argparse.Namespace) -> Run[range]:
    """The run that was asked for, checked before anything is computed."""
    classifier = models.load_classifier(options.model, weights=options.weights)
    images = _load(options, classifier)
    plan = _plan(options, images, classifier)
    job = _Job(plan, classifier, images, options.device, options.batch_size)
    return Run(job.record, plan.blocks(), partial(_block, job))


def merge_blocks(options: argparse.Namespace) -> int:
    """Read every block once, and write the tables with their record."""
    plan_file = options.work / "plan.json"
    if not plan_file.exists():
        raise SystemExit(f"{options.work} holds no plan.json: give the --work folder of a run.")
    record = json.loads(plan_file.read_text(encoding="utf-8"))
    plan = read_plan(record)
    blocks = plan.blocks()
    missing = [b for name, b in blocks.items() if not block_path(options.work, name).exists()]
    if missing:
        raise SystemExit(
            f"{len(missing)} of {len(blocks)} blocks are missing, the first with image "
            f"{missing[0].start}. Start the run again (all shards) and merge after it."
        )
    parts, notes = zip(*(read_block(options.work, name) for name in blocks), strict=True)
    scores = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    target, label = scores.pop("target"), scores.pop("label")
    tied = {k.removeprefix(_TIED): v for k, v in scores.items() if k.startswith(_TIED)}
    scores, constant = split_flags(scores)
    content = hashlib.sha256("".join(note["sha256"] for note in notes).encode())
    facts = {
        "plan": record["plan"],
        "weights": record["weights"],
        "data": record["data"] | {"images": len(target), "sha256": content.hexdigest()},
        "accuracy": round((target == label).double().mean().item(), 4),
        "computed_with": sorted({note["computed_with"] for note in notes}),
        **cost(notes),
        "resamples": options.resamples,
        "sign_draws": SIGN_DRAWS,
        "steps": options.steps or plan.steps,
    }
    path = options.out.with_name(options.out.name + ".json")
    before = _record_there(path, facts) if options.add else {}
    given = (options.steps, options.axis, bool(before))
    tables = write_tables(options.out, scores, constant, options.resamples, tied, *given)
    written = provenance(record["command"], **facts, tables=[table.name for table in tables])
    write_record(options.out, written, add=options.add)
    print(f"{len(target)} images; wrote {', '.join(path.name for path in tables)}")
    return 0


def count_ties(options: argparse.Namespace) -> int:
    """Write how many regions of a map share their score with others, by method."""
    classifier = models.load_classifier(options.model)
    images = image_set(options.data, classifier)
    numbers, extra = chosen(images, options.images), extra_methods(classifier)
    require_known(options, methods=attribution.METHODS | extra)
    side = classifier.preprocess.crop
    regions = evaluation.Regions(side, side, options.region_size)
    x, rows = inputs(images, classifier, numbers), []
    for name in options.methods:
        maps = heatmap(name, classifier.module, x, None, 0, extra).detach().double()
        tied = evaluation.count_ties(regions.scores(maps.sum(dim=1))).double()
        row = {"method": name, "tied_regions": tied.mean().item(), "most": int(tied.max())}
        rows.append(row | {"regions": regions.count, "images": len(numbers)})
    write_table(options.out, "ties", rows)
    out = options.out.with_name(f"{options.out.name}-ties.json")
    write_json(out, provenance(command_line(), weights=weights(classifier.module, options.model)))
    return 0


def _record_there(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The record of tables to which other methods are added; {} if there are none.

    Raises:
        SystemExit: They were made of other pictures, by another network or with other draws.
    """
    if not path.exists():
        return {}
    there: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    free = ("methods", "orders", "fills")
    old, new = ({k: v for k, v in one["plan"].items() if k not in free} for one in (there, facts))
    old |= {"images": there["data"]["sha256"], "weights": there["weights"]["sha256"]}
    new |= {"images": facts["data"]["sha256"], "weights": facts["weights"]["sha256"]}
    if differing := sorted(key for key in new if old.get(key) != new[key]):
        raise SystemExit(
            f"{path.name} is of another run: {', '.join(differing)} differ. Rows can be added only "
            "where nothing but the methods differs; give another --out."
        )
    return there


def _load(options: argparse.Namespace, classifier: models.Classifier) -> data.ImageSet:
    if (options.data == "folder") != (options.folder is not None):
        raise SystemExit("--data folder and --folder PATH belong together.")
    return image_set(options.data, classifier, options.source, options.folder)


def _plan(
    options: argparse.Namespace, images: data.ImageSet, classifier: models.Classifier
) -> Plan:
    """The plan that was asked for, checked before anything is computed."""
    numbers = chosen(images, options.images, at_least=1)
    require_positive(options, "region_size", "steps", "repeats", "block")
    methods = attribution.METHODS | extra_methods(classifier)
    known = {"methods": methods, "orders": evaluation.ORDERS, "fills": evaluation.FILLS}
    require_known(options, **known)
    side = classifier.preprocess.crop
    regions = evaluation.Regions(side, side, options.region_size, options.edge)
    if options.steps > regions.count:
        raise SystemExit(f"--steps {options.steps}: an image has {regions.count} regions.")
    given = {name: found for name, found in vars(options).items() if name in Plan.__annotations__}
    return Plan(**given, first=numbers.start, last=numbers.stop, stride=numbers.step)


def split_flags(found: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Scores, and which maps were the same everywhere, both by "fill/order/method"."""
    flags = {k.removeprefix(_CONSTANT): v for k, v in found.items() if k.startswith(_CONSTANT)}
    return {k: v for k, v in found.items() if not k.startswith((_CONSTANT, _TIED))}, flags


def read_plan(record: dict[str, Any]) -> Plan:
    """The plan in a work folder's record."""
    stored = record["plan"].items()
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored}
    return Plan(**fields)


def _fills(
    plan: Plan, classifier: models.Classifier, images: data.ImageSet
) -> dict[str, evaluation.Fill]:
    """Noise between black and white; the mean of the images of the whole plan, not of a block."""
    made: dict[str, evaluation.Fill] = {}
    for name in plan.fills:
        if name == "uniform":
            low, high = classifier.preprocess.low, classifier.preprocess.high
            made[name] = evaluation.Uniform(low, high)
        elif name == "constant":
            everything = range(plan.first, plan.last, plan.stride)
            made[name] = evaluation.Constant(mean_input(images, classifier, everything))
        else:
            made[name] = evaluation.FILLS[name](torch.empty(0))
    return made


def _block(job: _Job, block: range) -> tuple[Found, Notes]:
    """All scores of one block, by "fill/order/method", with targets and labels."""
    plan, module = job.plan, job.classifier.module.to(job.device)
    image = inputs(job.images, job.classifier, block)
    found = {"label": job.images.labels[list(block)].clone()}
    x = image.to(job.device)
    with torch.no_grad():
        target = module(x).argmax(dim=1)
    found["target"] = target.cpu()
    seed = plan.seed + block.start
    extra = extra_methods(job.classifier)
    heatmaps = {name: heatmap(name, module, x, target, seed, extra) for name in plan.methods}
    for fill, order in ((fill, order) for fill in plan.fills for order in plan.orders):
        with warnings.catch_warnings():  # constant heatmaps are counted in the table
            warnings.simplefilter("ignore", evaluation.ConstantHeatmapWarning)
            curves = evaluation.region_perturbation(
                module,
                x,
                target,
                {RANDOM_ORDER: x} if order == "random" else heatmaps,
                plan.region_size,
                plan.steps,
                order,
                job.fills[fill],
                plan.repeats,
                plan.output,
                job.batch_size,
                plan.seed,
                region_score=plan.region_score,
                edge=plan.edge,
                first_image=block.start // block.step,  # the numbers of the draws have no gaps
            )
        for method, result in curves.items():
            found[f"{fill}/{order}/{method}"] = result.scores
            found[f"{_CONSTANT}{fill}/{order}/{method}"] = result.constant
            found[f"{_TIED}{fill}/{order}/{method}"] = result.tied
    return found, {"sha256": hashlib.sha256(image.numpy().tobytes()).hexdigest()}
