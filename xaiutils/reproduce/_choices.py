"""``choices``: how much the verdict of region perturbation owes to how it is asked.

Two parts. *Verdicts*: the areas of some methods for every fill, region size and output, and how
well the rankings of the methods agree. *Placement*: what the output loses to the number of replaced
regions, wherever they lie, and what to their place. A map's own order is set beside an order that
is borrowed from the map of another image, which has the same clusters in the wrong place, beside
scattered regions and beside one block at a random place.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from xaiutils import attribution, data, evaluation, models
from xaiutils.evaluation._pictures import Draws, replaced
from xaiutils.reproduce._explained import heatmap, inputs, mean_input, weights
from xaiutils.reproduce._options import chosen, image_range, names, require_known
from xaiutils.reproduce._provenance import command_line, provenance, write_json
from xaiutils.reproduce._tables import interval, write_table
from xaiutils.reproduce._training_curve import SHARE, correlation
from xaiutils.reproduce._work import by_blocks, keep_plan

_METHODS = (
    "sensitivity", "input_x_gradient", "deconvnet_l2", "grad_cam",
    "lrp_epsilon", "lrp_alpha2_beta1", "lrp_epsilon_plus", "random",
)  # fmt: skip
_PLACED = ("lrp_epsilon_plus", "sensitivity")
_BLOCKS = {"mnist": 50, "imagenet-sample": 4}
_REFERENCE = "uniform/middle/logit"
_SHARES = (0.01, 0.04, 0.16, 0.5)  # of the regions
_RESAMPLES = 2000

Scores = dict[str, Tensor]


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``choices`` to the command line."""
    choices = commands.add_parser("choices", help="fill, region size, output: who decides?")
    choices.add_argument("part", choices=("verdicts", "placement"))
    choices.add_argument("--work", type=Path, required=True, help="folder of the blocks")
    choices.add_argument("--out", type=Path, required=True, help="tables begin with this path")
    choices.add_argument("--model", required=True)
    choices.add_argument("--data", choices=tuple(_BLOCKS), required=True)
    choices.add_argument("--images", type=image_range, required=True, help="first:last[:stride]")
    choices.add_argument("--methods", type=names)
    choices.add_argument(
        "--region-sizes",
        type=lambda text: tuple(map(int, text.split(","))),
        default=(2, 4, 7),
        help="small, middle, large; placement takes the middle one",
    )
    choices.add_argument("--seed", type=int, default=0)
    choices.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compute the blocks that are not there yet, then write the tables."""
    placement = options.part == "placement"
    options.methods = options.methods or (_PLACED if placement else _METHODS)
    require_known(options, methods=attribution.METHODS)
    if len(options.region_sizes) != 3:
        raise SystemExit("--region-sizes: give three, from small to large.")
    images = data.mnist("test") if options.data == "mnist" else data.imagenet_sample()
    numbers = chosen(images, options.images)
    classifier = models.load_classifier(options.model)
    plan = {
        "part": options.part,
        "model": options.model,
        "weights": weights(classifier.module, classifier.source),
        "data": f"{images.name} ({images.source.kind}), {':'.join(map(str, options.images))}",
        "methods": list(options.methods),
        "region_sizes": list(options.region_sizes),
        "seed": options.seed,
    }
    keep_plan(options.work, plan)
    fills = _fills(classifier, images, numbers)
    measure = partial(_block, _place if placement else _judge, options, classifier, images, fills)
    size = _BLOCKS[options.data]
    if len(numbers) % size == 1:
        numbers = numbers[:-1]  # a map can only be borrowed from another image of the block
    found = by_blocks(options.work, numbers, size, measure)
    (_write_placement if placement else _write_verdicts)(options, found)
    write_json(
        options.out.with_name(f"{options.out.name}.json"), provenance(command_line(), **plan)
    )
    return 0


def _fills(
    classifier: models.Classifier, images: data.ImageSet, numbers: range
) -> dict[str, evaluation.Fill]:
    """The four fills of the paper; the mean is that of all images of the run."""
    return {
        "uniform": evaluation.Uniform(classifier.preprocess.low, classifier.preprocess.high),
        "dirichlet": evaluation.Dirichlet(),
        "constant": evaluation.Constant(mean_input(images, classifier, numbers)),
        "blur": evaluation.Blur(),
    }


def _block(
    measure: Callable[..., Scores],
    options: argparse.Namespace,
    classifier: models.Classifier,
    images: data.ImageSet,
    fills: Mapping[str, evaluation.Fill],
    block: range,
) -> Scores:
    x = inputs(images, classifier, block)
    with torch.no_grad():
        outputs = classifier.module(x)
    target, seed = outputs.argmax(dim=1), options.seed + block.start
    heatmaps = {n: heatmap(n, classifier.module, x, target, seed) for n in options.methods}
    found = measure(options, classifier, x, target, heatmaps, fills, block.start)
    return found | {"start": outputs.amax(dim=1)}


def _judge(
    options: argparse.Namespace,
    classifier: models.Classifier,
    x: Tensor,
    target: Tensor,
    heatmaps: Mapping[str, Tensor],
    fills: Mapping[str, evaluation.Fill],
    first: int,
) -> Scores:
    """AOPC of each image by "fill/size/output/order/method"; probabilities at the middle size."""
    found: Scores = {}
    sizes = dict(zip(("small", "middle", "large"), options.region_sizes, strict=True))
    for fill, (size, pixels), output in product(fills, sizes.items(), evaluation.OUTPUTS):
        if output == "probability" and size != "middle":
            continue
        regions = evaluation.Regions(x.shape[2], x.shape[3], pixels)
        for order in evaluation.ORDERS:
            curves = evaluation.region_perturbation(
                classifier.module,
                x,
                target,
                {"(none)": x} if order == "random" else heatmaps,
                pixels,
                round(SHARE * regions.count),
                order,
                fills[fill],
                1,
                output,
                seed=options.seed,
                first_image=first,
            )
            for name, one in curves.items():
                found[f"{fill}/{size}/{output}/{order}/{name}"] = one.aopc()
    return found


@torch.no_grad()
def _place(
    options: argparse.Namespace,
    classifier: models.Classifier,
    x: Tensor,
    target: Tensor,
    heatmaps: Mapping[str, Tensor],
    fills: Mapping[str, evaluation.Fill],
    first: int,
) -> Scores:
    """The logit of each image by "fill/order/share", some share of the regions being replaced."""
    regions = evaluation.Regions(x.shape[2], x.shape[3], options.region_sizes[1])
    steps = torch.tensor([max(1, round(share * regions.count)) for share in _SHARES])
    orders = _orders(regions, x, heatmaps, options.seed + first)
    found = {f"{f}/{o}/{s}": torch.empty(len(x)) for f, o, s in product(fills, orders, _SHARES)}
    padded = {n: nn.functional.pad(r, (0, 1), value=regions.count) for n, r in orders.items()}
    for fill in fills:
        draws = Draws(x, regions, fills[fill], options.seed, first)
        for i in range(len(x)):
            replacement = draws.replacement(i, 0)
            pictures = [
                replaced(x[i], replacement, ranks[i][regions.index], steps)
                for ranks in padded.values()
            ]
            scores = classifier.module(torch.cat(pictures))[:, target[i]]
            for name, score in zip(product(orders, _SHARES), scores, strict=True):
                found[f"{fill}/{name[0]}/{name[1]}"][i] = score
    return found


def _orders(
    regions: evaluation.Regions, x: Tensor, heatmaps: Mapping[str, Tensor], seed: int
) -> dict[str, Tensor]:
    """Ranks (N, M) of the regions: of each map, of the map of the next image, and of chance."""
    generator = torch.Generator().manual_seed(seed)
    orders = {"scattered": torch.rand(len(x), regions.count, generator=generator).argsort(dim=1)}
    centre = torch.rand(len(x), 2, 1, generator=generator)
    rows, columns = (torch.linspace(0, 1, side) for side in x.shape[2:])
    away = (rows - centre[:, 0])[:, :, None] ** 2 + (columns - centre[:, 1])[:, None] ** 2
    orders["block"] = evaluation.morf_ranks(regions.scores(-away, "mean"))
    for name, maps in heatmaps.items():
        own = evaluation.morf_ranks(regions.scores(maps.sum(dim=1)))
        for order, ranks in {"morf": own, "lerf": regions.count - 1 - own}.items():
            orders[f"{name}, {order}"] = ranks
            orders[f"{name}, {order}, borrowed"] = ranks.roll(1, dims=0)
    return orders


def _write_verdicts(options: argparse.Namespace, found: Scores) -> None:
    """Means with intervals, and the agreement of each ranking with the reference's."""
    settings = list(dict.fromkeys(key.rpartition("/")[0].rpartition("/")[0] for key in found))
    settings.remove("")
    methods = list(options.methods)
    rows, values = [], dict[tuple[str, str], Tensor]()
    for setting in settings:
        fill, size, output = setting.split("/")
        chance = found[f"{setting}/random/(none)"]
        morf, lerf = (
            torch.stack([found[f"{setting}/{order}/{m}"] for m in methods])
            for order in ("morf", "lerf")
        )
        measures = {"aopc_morf": morf, "aopc_lerf": lerf, "abpc": morf - lerf}
        measures |= {"aopc_morf_minus_random": morf - chance}
        values |= {(setting, name): found for name, found in measures.items()}
        for measure, method in product(measures, range(len(methods))):
            row = {"fill": fill, "size": size, "output": output, "measure": measure}
            rows.append(
                row | {"method": methods[method]} | interval(measures[measure][method], _RESAMPLES)
            )
        row = {"fill": fill, "size": size, "output": output, "measure": "aopc_random"}
        rows.append(row | {"method": "(none)"} | interval(chance, _RESAMPLES))
    write_table(options.out, "verdicts", rows)
    agreement = [
        dict(zip(("fill", "size", "output"), setting.split("/"), strict=True))
        | {"measure": measure, "against": against}
        | _agreement(values[setting, measure], values[_REFERENCE, against])
        for setting in settings
        for measure, against in product(("aopc_morf", "aopc_lerf", "abpc"), ("aopc_morf", "abpc"))
    ]
    write_table(options.out, "agreement", agreement)


def _agreement(first: Tensor, second: Tensor, resamples: int = 1000) -> dict[str, Any]:
    """Spearman's correlation of two rankings of the methods, each (methods, N), over images.

    A small fall in LeRF order is good, but the sign is left as it is: agreement is then negative.
    """
    rows = np.random.default_rng(0).integers(first.shape[1], size=(resamples, first.shape[1]))
    one, two = first.numpy(), second.numpy()
    whole = _spearman(one.mean(axis=1), two.mean(axis=1))
    drawn = [_spearman(one[:, row].mean(axis=1), two[:, row].mean(axis=1)) for row in rows]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"spearman": whole, "low": low, "high": high, "images": first.shape[1]}


def _spearman(first: Any, second: Any) -> float:
    return float(correlation(rankdata(first), rankdata(second)[None])[0])


def _write_placement(options: argparse.Namespace, found: Scores) -> None:
    """Falls of the logit by fill, order and share, and what the place adds to the number."""
    start = found.pop("start").double()
    falls = {tuple(key.split("/")): start - score.double() for key, score in found.items()}
    rows = [
        {"fill": fill, "order": order, "share": share} | interval(fall, _RESAMPLES)
        for (fill, order, share), fall in falls.items()
    ]
    rows.append({"fill": "(none)", "order": "start", "share": "0"} | interval(start, _RESAMPLES))
    write_table(options.out, "placement", rows)
    pairs: Sequence[tuple[str, str]] = [("scattered", "block")]
    for name, order in product(options.methods, ("morf", "lerf")):
        own, borrowed = f"{name}, {order}", f"{name}, {order}, borrowed"
        pairs = [*pairs, (own, borrowed), (own, "scattered"), (borrowed, "scattered")]
    fills, shares = (list(dict.fromkeys(key[i] for key in falls)) for i in (0, 2))
    differences = [
        {"fill": fill, "share": share, "first": one, "second": two}
        | interval(falls[fill, one, share] - falls[fill, two, share], _RESAMPLES)
        for fill, share, (one, two) in product(fills, shares, pairs)
    ]
    write_table(options.out, "differences", differences)
