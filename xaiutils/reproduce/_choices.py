"""``choices``: how much the verdict of region perturbation owes to how it is asked.

Two parts. *Verdicts*: the areas of some methods for every fill, region size, share of the picture
and output, who is first and how surely, how well the rankings of the methods agree, and how well
the images agree on each. *Placement*: what the output loses to the number of replaced
regions, wherever they lie, and what to their place. A map's own order is set beside an order that
is borrowed from the map of another image, which has the same clusters in the wrong place, beside
scattered regions and beside one block at a random place.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from xaiutils import attribution, data, evaluation, models
from xaiutils.evaluation._pictures import Draws, replaced
from xaiutils.reproduce._explained import heatmap, inputs, mean_input, weights
from xaiutils.reproduce._long_run import Run, add_options, lazily, over_images
from xaiutils.reproduce._options import chosen, image_range, names, require_known
from xaiutils.reproduce._tables import drawn, interval, reliability, write_table

_METHODS = (
    "sensitivity", "input_x_gradient", "integrated_gradients", "deconvnet_l2",
    "guided_backprop_l2", "grad_cam", "lrp_alpha2_beta1", "lrp_epsilon_plus", "random",
)  # fmt: skip
_PLACED = ("lrp_epsilon_plus", "sensitivity")
_BLOCKS = {"mnist": 50, "imagenet-sample": 4}
_REFERENCE = "uniform/middle/0.16/logit"
_JUDGED = (0.08, 0.16, 0.24)  # shares of the regions; the middle one is the paper's
_SMALLER_IS_BETTER = "aopc_lerf"
_SHARES = (0.01, 0.04, 0.16, 0.5)  # of the regions
_RESAMPLES = 2000

Scores = dict[str, Tensor]


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``choices`` to the command line."""
    choices = commands.add_parser("choices", help="fill, region size, output: who decides?")
    choices.add_argument("part", choices=("verdicts", "placement"))
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
    add_options(choices, prepare, write)


def prepare(options: argparse.Namespace) -> Run[range]:
    """The run that was asked for, checked before anything is computed."""
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

    def measure() -> Callable[[range], Scores]:
        part, fills = _place if placement else _judge, _fills(classifier, images, numbers)
        return partial(_block, part, options, classifier, images, fills)

    size = _BLOCKS[options.data]
    # A map can only be borrowed from another image of the block.
    several = numbers[:-1] if len(numbers) % size == 1 else numbers
    return over_images(plan, several, size, lazily(measure))


def write(options: argparse.Namespace, found: Scores) -> None:
    """Write the tables of the part that was asked for."""
    (_write_placement if options.part == "placement" else _write_verdicts)(options, found)


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
    """AOPC of each image by "fill/size/share/output/order/method".

    Beside each map the one that is borrowed from an image of another class, as "..., borrowed".
    """
    found: Scores = {}
    sizes = dict(zip(("small", "middle", "large"), options.region_sizes, strict=True))
    lent = evaluation.borrowed(heatmaps, target)
    maps = dict(heatmaps) | {f"{name}, borrowed": one for name, one in lent.items()}
    for fill, (size, pixels), output in product(fills, sizes.items(), evaluation.OUTPUTS):
        regions = evaluation.Regions(x.shape[2], x.shape[3], pixels)
        steps = {share: max(1, round(share * regions.count)) for share in _JUDGED}
        for order in ("morf", "lerf", "random"):
            curves = evaluation.region_perturbation(
                classifier.module,
                x,
                target,
                {"(none)": x} if order == "random" else maps,
                region_size=pixels,
                steps=max(steps.values()),
                order=order,
                fill=fills[fill],
                repeats=1,
                output=output,
                seed=options.seed,
                first_image=first,
            )
            for (name, one), share in product(curves.items(), steps):
                found[f"{fill}/{size}/{share}/{output}/{order}/{name}"] = one.aopc(steps[share])
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
    """Means, who is first and how surely; agreement with the reference, and of the images."""
    settings = list(dict.fromkeys(key.rpartition("/")[0].rpartition("/")[0] for key in found))
    settings.remove("")
    values = {setting: _measures(setting, found, options.methods) for setting in settings}
    rows: list[dict[str, Any]] = []
    agreement, reliable = list[dict[str, Any]](), list[dict[str, Any]]()
    for setting in settings:
        fork = dict(zip(("fill", "size", "share", "output"), setting.split("/"), strict=True))
        for measure, scores in values[setting].items():
            which = fork | {"measure": measure}
            places = _places(-scores if measure == _SMALLER_IS_BETTER else scores)
            rows += [
                which | {"method": method} | interval(score, _RESAMPLES) | place
                for method, score, place in zip(options.methods, scores, places, strict=True)
            ]
            agreement.append(which | _agreement(scores, values[_REFERENCE][measure]))
            reliable.append(which | reliability(scores))
        chance = interval(found[f"{setting}/random/(none)"], _RESAMPLES)
        rows.append(fork | {"measure": "aopc_random", "method": "(none)"} | chance)
    write_table(options.out, "verdicts", rows)
    write_table(options.out, "agreement", agreement)
    write_table(options.out, "reliability", reliable)


def _measures(setting: str, found: Scores, methods: Sequence[str]) -> Scores:
    """What is asked of the methods in one setting, each (methods, N)."""
    areas = {
        (order, kind): torch.stack([found[f"{setting}/{order}/{m}{kind}"] for m in methods])
        for order, kind in product(("morf", "lerf"), ("", ", borrowed"))
    }
    own, lent = (areas["morf", kind] - areas["lerf", kind] for kind in ("", ", borrowed"))
    both = {"aopc_morf": areas["morf", ""], "aopc_lerf": areas["lerf", ""]}
    return both | {"abpc": own, "own_minus_borrowed": own - lent}


def _places(scores: Tensor) -> list[dict[str, Any]]:
    """Each method's place, 1 for the largest mean, and Holm's p-value beside the first.

    Signs are flipped for all pairs of methods, and Holm's correction is made over them. `p_holm` is
    that of the pair of a method and the first; for the first itself the largest of its pairs, so
    that below 0.05 it is ahead of every other.
    """
    pairs = list(combinations(range(len(scores)), 2))
    p_values = [evaluation.sign_flip(scores[i] - scores[j], tail="normal") for i, j in pairs]
    adjusted = dict(zip(pairs, evaluation.holm(p_values), strict=True))
    order = scores.mean(dim=1).argsort(descending=True).tolist()
    first, *others = order
    beside = {i: adjusted[min(i, first), max(i, first)] for i in others}
    beside[first] = max(beside.values(), default=1.0)
    return [{"place": order.index(i) + 1, "p_holm": beside[i]} for i in range(len(scores))]


def _agreement(first: Tensor, second: Tensor, resamples: int = 1000) -> dict[str, Any]:
    """Spearman's correlation of two rankings of the methods, each (methods, N), over images.

    A small fall in LeRF order is good, but the sign is left as it is: agreement is then negative.
    """
    whole = _spearman(first.double().mean(dim=1)[:, None], second.double().mean(dim=1)[:, None])
    counts = drawn(first.shape[1], resamples)
    found = _spearman(first.double() @ counts, second.double() @ counts)
    low, high = np.quantile(found, [0.025, 0.975])
    return {"spearman": whole.item(), "low": low, "high": high, "images": first.shape[1]}


def _spearman(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    """The rank correlation of each column of one with that of the other, both (methods, R)."""
    one, two = (rankdata(part.numpy(), axis=0) for part in (first, second))
    one, two = one - one.mean(axis=0), two - two.mean(axis=0)
    size = np.sqrt((one**2).sum(axis=0) * (two**2).sum(axis=0))
    found: NDArray[np.float64] = (one * two).sum(axis=0) / size
    return found


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
