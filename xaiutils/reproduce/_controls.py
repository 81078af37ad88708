"""``controls``: what a map knows of its own picture, for every fill, and whether the fill decides.

Each map orders the regions of its own image, and of another one whose class is another: *borrowed*.
A borrowed map is as compact, and lies where objects lie, and knows nothing of the picture. So what
is left of a measure when it is taken away is what the map knows of *this* picture. And a second
borrowed map less the first must leave nothing, or the measure rewards something else.

Bluecher et al. 2024 hold that the area between the curves (their symmetric relevance gain) frees
the ranking of methods from the fill. How well the rankings of two fills agree says little by
itself: with few images two halves of them do not agree either. So the agreement between fills on
two halves of the images is set beside that of one fill with itself on the same two halves.

A method's name may end in ``_abs``: then its maps have lost their sign, and borrowed ones have too.
``_abs`` takes the absolute value of what the channels of a pixel sum to, ``_abs_each`` of each
channel, and ``_abs_squares`` of what a whole square sums to, so that within it signs still cancel.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce._explained import heatmap, inputs, mean_input, weights
from xaiutils.reproduce._long_run import Run, add_options, lazily, over_images
from xaiutils.reproduce._options import (
    chosen,
    image_range,
    names,
    require_known,
    require_positive,
)
from xaiutils.reproduce._tables import interval, write_table

_METHODS = (
    "sensitivity", "input_x_gradient", "integrated_gradients", "grad_cam", "lrp_epsilon_plus",
    "lrp_alpha2_beta1",
)  # fmt: skip
_AUTOENCODERS = {"mnist": "mnist_ae_16", "imagenet-sample": "natural_ae_64"}
_FILLS = ("uniform", "constant", "dirichlet", "blur", "noisy_linear")
FILLS = (*evaluation.FILLS, "patches", "decoded")
MEASURES = ("aopc_morf", "aopc_lerf", "abpc", "own_minus_borrowed")
_WHOSE = ("own", "borrowed", "second", "unsigned")
_ORDERS: tuple[evaluation.Order, ...] = ("morf", "lerf")
_BY_LOT: tuple[evaluation.Order, ...] = ("random", "block")
_PAIRS = (
    ("own", "borrowed"), ("second", "borrowed"), ("own", "unsigned"), ("own", "centre"),
    ("own", "picture"), ("own", "random"), ("own", "block"),
)  # fmt: skip
_FORMS = ("_abs_squares", "_abs_each", "_abs")  # of maps that have lost their sign
_SHARE = 0.16  # of the regions
_TRIES = 10_000  # ways of lending, of which the best is taken
_RESAMPLES, _SPLITS = 1000, 200

Scores = dict[str, Tensor]
Numbers = NDArray[np.float64]


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``controls`` to the command line."""
    controls = commands.add_parser("controls", help="own maps, borrowed maps, and every fill")
    controls.add_argument("--model", required=True)
    controls.add_argument("--data", choices=tuple(_AUTOENCODERS), required=True)
    controls.add_argument("--per-class", type=int, help="digits of each class; all, if not given")
    controls.add_argument("--images", type=image_range, help="first:last[:stride]")
    controls.add_argument(
        "--methods", type=names, default=_METHODS, help="..._abs, _abs_each, _abs_squares: unsigned"
    )
    controls.add_argument("--fills", type=names, default=_FILLS)
    controls.add_argument(
        "--whose", type=names, default=_WHOSE, help="own,borrowed,second are always measured"
    )
    controls.add_argument("--region-size", type=int, default=16)
    controls.add_argument("--lots", type=int, default=3, help="draws of a random order or block")
    controls.add_argument("--block", type=int, default=10, help="images that lend to each other")
    controls.add_argument("--seed", type=int, default=0)
    controls.add_argument("--device", default="cpu", help="where the network runs")
    add_options(controls, prepare, write)


def prepare(options: argparse.Namespace) -> Run[range]:
    """The run that was asked for, checked before anything is computed."""
    require_known(options, fills=FILLS, whose=_WHOSE)
    signed = argparse.Namespace(methods=[_parted(name)[0] for name in options.methods])
    require_known(signed, methods=attribution.METHODS)
    options.whose = [name for name in _WHOSE if name in (*_WHOSE[:3], *options.whose)]
    require_positive(options, "region_size", "lots")
    images = _images(options)
    numbers = chosen(images, options.images, at_least=6)
    if options.block < 3 or 0 < len(numbers) % options.block < 3:
        raise SystemExit(
            f"--block {options.block}: of {len(numbers)} images some block has fewer than three, "
            "but a map is lent twice, each time to another image of the block."
        )
    classifier = models.load_classifier(options.model)
    plan = {
        "model": options.model,
        "weights": weights(classifier.module, classifier.source),
        "data": f"{images.name} ({images.source.kind})",
        "per_class": options.per_class,
        "images": [numbers.start, numbers.stop, numbers.step],
        "methods": list(options.methods),
        "fills": list(options.fills),
        "whose": options.whose,
        "region_size": options.region_size,
        "share": _SHARE,
        "lots": options.lots,
        "block": options.block,
        "seed": options.seed,
    }

    def measure() -> Callable[[range], Scores]:
        fills = _fills(options, classifier, images, numbers)
        return partial(_block, options, classifier, images, fills)

    return over_images(plan, numbers, options.block, lazily(measure))


def _images(options: argparse.Namespace) -> data.ImageSet:
    if options.data == "mnist":
        return data.mnist("test", per_class=options.per_class)
    if options.per_class is not None:
        raise SystemExit("--per-class is for digits; the ImageNet sample has one image a class.")
    return data.imagenet_sample()


def _fills(
    options: argparse.Namespace,
    classifier: models.Classifier,
    images: data.ImageSet,
    numbers: range,
) -> dict[str, evaluation.Fill]:
    """The fills by name; the mean and the other pictures are those of all images of the run."""
    low, high = classifier.preprocess.low, classifier.preprocess.high
    made: dict[str, evaluation.Fill] = {}
    for name in options.fills:
        if name == "uniform":
            made[name] = evaluation.Uniform(low, high)
        elif name == "constant":
            made[name] = evaluation.Constant(mean_input(images, classifier, numbers))
        elif name == "patches":
            made[name] = evaluation.Patches(inputs(images, classifier, numbers))
        elif name == "decoded":
            autoencoder = models.load_autoencoder(_AUTOENCODERS[options.data])
            made[name] = evaluation.Decoded(autoencoder, low, high)
        else:
            made[name] = evaluation.FILLS[name](torch.empty(0))
    return made


def lending(targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Two ways to lend the maps of a block, drawn by lot, each to another image and class.

    Args:
        targets: (N,) int64, the classes that the maps explain; at least three.
        seed: Of the lot.

    Returns:
        Two permutations (N,): whose map each image borrows. None is an image's own, the second is
        never the first, and as few as were found in many draws are of the same class.
    """
    number = len(targets)
    drawn = torch.rand(_TRIES, number, generator=torch.Generator().manual_seed(seed))
    # Shifts are added so that a small block has a way of lending among the draws.
    shifts = (torch.arange(number) + torch.arange(1, number)[:, None]) % number
    ways = torch.cat([drawn.argsort(dim=1), shifts])
    bad = (targets[ways] == targets).sum(dim=1) + number * (ways == torch.arange(number)).sum(dim=1)
    first = ways[bad.argmin()]
    bad = bad + number * (ways == first).sum(dim=1)
    return first, ways[bad.argmin()]


def _block(
    options: argparse.Namespace,
    classifier: models.Classifier,
    images: data.ImageSet,
    fills: Mapping[str, evaluation.Fill],
    block: range,
) -> Scores:
    """AOPC of each image of the block by "fill/order/map/whose"."""
    x = inputs(images, classifier, block).to(options.device)
    module = classifier.module.to(options.device)
    with torch.no_grad():
        outputs = module(x)
    target, seed = outputs.argmax(dim=1), options.seed + block.start
    signed = {
        name: heatmap(name, module, x, target, seed)
        for name in dict.fromkeys(_parted(name)[0] for name in options.methods)
    }
    own = {name: _in_form(signed, name, options.region_size) for name in options.methods}
    classes = target.cpu()
    first, second = lending(classes, seed)
    # Its ink on an empty page, or how far its colours are from their mean.
    mean = 0.0 if options.data == "mnist" else x.mean(dim=(2, 3), keepdim=True)
    picture = evaluation.picture_as_map(x, mean)
    maps = {"centre/own": evaluation.centre_prior(x), "picture/own": picture}
    for name, one in own.items():
        versions = (one, one[first], one[second], evaluation.unsigned(one))
        versions_of = dict(zip(_WHOSE, versions, strict=True))
        maps |= {f"{name}/{whose}": versions_of[whose] for whose in options.whose}
    found: Scores = {"start": outputs.amax(dim=1).cpu(), "lender": first, "second_lender": second}
    found["lends_within_class"] = (classes[first] == classes).long()
    for fill, order in product(fills, (*_ORDERS, *_BY_LOT)):
        for name, areas in _areas(options, classifier, x, target, maps, fills[fill], order,
                                  block.start).items():  # fmt: skip
            found[f"{fill}/{order}/{name}"] = areas
    return found


def _parted(name: str) -> tuple[str, str]:
    """A method, and how its maps lose their sign: an ending of `_FORMS`, or none."""
    form = next((form for form in _FORMS if name.endswith(form)), "")
    return name.removesuffix(form), form


def _in_form(signed: Mapping[str, Tensor], name: str, size: int) -> Tensor:
    """The maps of this method, (N, C, H, W), or without their sign, (N, 1, H, W)."""
    method, form = _parted(name)
    maps = signed[method]
    if form == "_abs":
        return evaluation.unsigned(maps)
    if form == "_abs_each":
        return maps.abs().sum(dim=1, keepdim=True)
    if form == "_abs_squares":
        squares = evaluation.Regions(maps.shape[2], maps.shape[3], size)
        spread = squares.scores(maps.sum(dim=1))[:, squares.index].to(maps)
        return evaluation.unsigned(spread[:, None])
    return maps


def _areas(
    options: argparse.Namespace,
    classifier: models.Classifier,
    x: Tensor,
    target: Tensor,
    maps: Mapping[str, Tensor],
    fill: evaluation.Fill,
    order: evaluation.Order,
    first: int,
) -> Scores:
    """AOPC (N,) of every map in this order; maps that order alike are run once."""
    regions = evaluation.Regions(x.shape[2], x.shape[3], options.region_size)
    by_lot = order in _BY_LOT
    same = {} if by_lot else _repeated(maps)
    given = {f"{order}/lot": x} if by_lot else {n: m for n, m in maps.items() if n not in same}
    curves = evaluation.region_perturbation(
        classifier.module,
        x,
        target,
        given,
        options.region_size,
        max(1, round(_SHARE * regions.count)),
        order,
        fill,
        options.lots if by_lot else 1,
        seed=options.seed,
        first_image=first,
    )
    areas = {name: one.aopc() for name, one in curves.items()}
    return areas | {name: areas[other].clone() for name, other in same.items()}


def _repeated(maps: Mapping[str, Tensor]) -> dict[str, str]:
    """Unsigned maps that are the method's own, since that has no sign to lose."""
    pairs = {name: name.replace("/unsigned", "/own") for name in maps if "/unsigned" in name}
    return {n: own for n, own in pairs.items() if torch.equal(maps[n][:, 0], maps[own].sum(dim=1))}


def write(options: argparse.Namespace, found: Scores) -> None:
    """Areas, differences with corrected p-values, and the agreement of the fills."""
    fills, methods, whose = list(options.fills), list(options.methods), list(options.whose)
    write_table(options.out, "areas", _area_rows(fills, methods, whose, found))
    write_table(options.out, "differences", _difference_rows(fills, methods, whose, found))
    if len(fills) > 1 and len(methods) > 2:
        values = {m: _values(fills, methods, m, found) for m in MEASURES}
        write_table(options.out, "agreement", _agreement_rows(fills, values))
        write_table(options.out, "halves", _half_rows(values))


def _measured(found: Scores, fill: str, name: str, whose: str, measure: str) -> Tensor:
    """One number for each image, (N,) float64."""
    if measure == "own_minus_borrowed":
        own, other = (_measured(found, fill, name, w, "abpc") for w in ("own", "borrowed"))
        return own - other
    morf, lerf = (found[f"{fill}/{order}/{name}/{whose}"].double() for order in _ORDERS)
    return {"aopc_morf": morf, "aopc_lerf": lerf, "abpc": morf - lerf}[measure]


def _area_rows(
    fills: list[str], methods: list[str], versions: list[str], found: Scores
) -> list[dict[str, Any]]:
    maps = [*product(methods, versions), ("centre", "own"), ("picture", "own")]
    rows = [
        {"fill": fill, "map": name, "whose": whose, "measure": measure}
        | interval(_measured(found, fill, name, whose, measure))
        for fill, (name, whose), measure in product(fills, maps, MEASURES[:3])
    ]
    rows += [
        {"fill": fill, "map": order, "whose": "lot", "measure": "aopc"}
        | interval(found[f"{fill}/{order}/{order}/lot"])
        for fill, order in product(fills, _BY_LOT)
    ]
    start = interval(found["start"])
    return [
        *rows,
        {"fill": "(none)", "map": "(none)", "whose": "(none)", "measure": "start"} | start,
    ]


def _difference_rows(
    fills: list[str], methods: list[str], versions: list[str], found: Scores
) -> list[dict[str, Any]]:
    """Positive is better. Holm's correction is over the fills and methods of one question."""
    rows = []
    for (first, second), measure in product(_PAIRS, MEASURES[:3]):
        if second in _BY_LOT and measure == "abpc":
            continue  # an order by lot is as good from its end
        if second == "unsigned" and second not in versions:
            continue
        family = {
            (fill, name): _gain(found, fill, name, first, second, measure)
            for fill, name in product(fills, methods)
        }
        rows += _family_rows(first, second, measure, family)
        if second == "borrowed":  # and all methods together, which see the least difference
            rows += _family_rows(first, second, measure, {
                (fill, "(mean)"): torch.stack([family[fill, m] for m in methods]).mean(dim=0)
                for fill in fills
            })  # fmt: skip
    return rows


def _gain(found: Scores, fill: str, name: str, first: str, second: str, measure: str) -> Tensor:
    """How much better one order is than another, (N,); LeRF is better if it falls less."""
    if second in _BY_LOT:
        other = found[f"{fill}/{second}/{second}/lot"].double()
    elif second in ("centre", "picture"):
        other = _measured(found, fill, second, "own", measure)
    else:
        other = _measured(found, fill, name, second, measure)
    gain = _measured(found, fill, name, first, measure) - other
    return -gain if measure == "aopc_lerf" else gain


def _family_rows(
    first: str, second: str, measure: str, family: Mapping[tuple[str, str], Tensor]
) -> list[dict[str, Any]]:
    p_values = [evaluation.sign_flip(gain) for gain in family.values()]
    return [
        {"fill": fill, "method": name, "first": first, "second": second, "measure": measure}
        | interval(gain)
        | {"p_value": p_value, "p_holm": p_holm}
        for ((fill, name), gain), p_value, p_holm in zip(
            family.items(), p_values, evaluation.holm(p_values), strict=True
        )
    ]


def _values(fills: list[str], methods: list[str], measure: str, found: Scores) -> Numbers:
    """One number for each fill, method and image, (F, M, N)."""
    of = partial(_measured, found, whose="own", measure=measure)
    rows = [torch.stack([of(fill=f, name=m) for m in methods]) for f in fills]
    return torch.stack(rows).numpy()


def _spearman(first: Numbers, second: Numbers) -> Numbers:
    """Rank correlations over the last axis, the methods: (..., F, M) twice give (..., F, F)."""
    ranks = [rankdata(part, axis=-1) for part in (first, second)]
    one, two = ((r - r.mean(-1, keepdims=True)) / r.std(-1, keepdims=True) for r in ranks)
    found: Numbers = one @ np.swapaxes(two, -1, -2) / one.shape[-1]
    return found


def _agreement_rows(fills: list[str], values: Mapping[str, Numbers]) -> list[dict[str, Any]]:
    """How alike two fills rank the methods by their means, with intervals over the images."""
    pairs = list(combinations(range(len(fills)), 2))
    images = next(iter(values.values())).shape[-1]
    drawn = np.random.default_rng(0).multinomial(images, [1 / images] * images, size=_RESAMPLES)
    # The first row is the sample itself, the others are drawn from it.
    counts = np.concatenate([np.ones((1, images)), drawn]) / images
    rows, means = [], {}
    for measure, numbers in values.items():
        alike = _spearman(*[np.moveaxis(numbers @ counts.T, -1, 0)] * 2)
        each = np.stack([alike[:, i, j] for i, j in pairs], axis=1)
        means[measure] = each.mean(axis=1)
        columns = {(fills[i], fills[j]): each[:, k] for k, (i, j) in enumerate(pairs)}
        columns |= {("(mean)", "(mean)"): means[measure], ("(minimum)",) * 2: each.min(axis=1)}
        rows += [_drawn_row(measure, *pair, column, images) for pair, column in columns.items()]
    for measure in list(values)[1:]:
        less = means[measure] - means["aopc_morf"]
        rows.append(_drawn_row(f"{measure} less aopc_morf", "(mean)", "(mean)", less, images))
    return rows


def _drawn_row(
    measure: str, first: str, second: str, drawn: Numbers, images: int
) -> dict[str, Any]:
    low, high = np.quantile(drawn[1:], [0.025, 0.975])
    found = {"spearman": drawn[0], "low": low, "high": high, "images": images}
    return {"measure": measure, "first": first, "second": second} | found


def _half_rows(values: Mapping[str, Numbers]) -> list[dict[str, Any]]:
    """The agreement of two halves of the images: with the same fill, and with another fill.

    If the fill does not matter to the ranking, the two are equal, however few the images.
    """
    rows = []
    for measure, numbers in values.items():
        random, splits = np.random.default_rng(0), []
        for _ in range(_SPLITS):
            order = random.permutation(numbers.shape[-1])
            halves = np.array_split(order, 2)
            splits.append(_spearman(*(numbers[..., half].mean(axis=-1) for half in halves)))
        alike = np.mean(splits, axis=0)
        same, number = np.trace(alike), len(alike)
        rows.append(
            {
                "measure": measure,
                "same_fill": same / number,
                "other_fill": (alike.sum() - same) / (number * (number - 1)),
                "images": numbers.shape[-1],
                "splits": _SPLITS,
            }
        )
    return rows
