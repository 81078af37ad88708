"""``class-blindness``: does a map depend on what is asked, and does a difference's map do better?

A map is compared with the map of another question about the same picture. Near questions are about
classes that the network thinks likely, far ones about those of another picture. The null is the map
of the first question about *another* picture, which ought to have nothing in common with it.

Two plain questions are "why *a*" and "why *b*". Two differences must not share a class: those of
*a* over *b* and of *b* over *a* are one map with its sign turned, and by the size of the cosine
they would be the same. So "why *a* and not *b*" is compared with "why *c* and not *d*".

The second part erases regions in the order of a map and watches the difference of the two leading
logits, or the first of them alone. A difference's map should do well by its own test: better than
the logit's map, and better than one that was borrowed from another picture.
"""

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn

from xaiutils import attribution, data, evaluation, graph, models
from xaiutils.attribution import Difference, LogOdds, Target
from xaiutils.reproduce._explained import inputs, mean_input, weights
from xaiutils.reproduce._long_run import Run, add_options, lazily, over_images
from xaiutils.reproduce._options import chosen, image_range, names, require_known
from xaiutils.reproduce._tables import interval, write_table

CONTRASTIVE: dict[str, Callable[..., Tensor]] = {
    "clrp": attribution.clrp,
    "clrp_scores": partial(attribution.clrp, dual="scores"),
    "sglrp": attribution.sglrp,
}
# Grad-CAM without its ReLU, or a class that the network rejects has no map to compare.
METHODS: dict[str, Callable[..., Tensor]] = {
    **{
        name: method
        for name, method in attribution.METHODS.items()
        if name != "random" and name not in CONTRASTIVE
    },
    "grad_cam": partial(attribution.grad_cam, relu=False),
}
_METHODS = (
    "gradient", "input_x_gradient", "guided_backprop", "grad_cam", "lrp_epsilon_plus", "lrp_gamma",
    "lrp_z_plus",
)  # fmt: skip
_CONTRASTIVE = ("clrp", "sglrp")
_ERASED = ("input_x_gradient", "grad_cam", "lrp_epsilon_plus")
TARGETS = ("logit", "difference")
EXCHANGED = ("near", "far", "picture")
MEASURES = ("cosine", "size_of_cosine", "places", "positive_places")
# What is watched, and whose order is followed meanwhile.
WATCHED = {
    "difference": ("difference", "logit", "log_odds", "borrowed"),
    "logit": ("difference", "logit"),
}
_PAIRS = {
    "difference": (
        ("difference", "logit"), ("log_odds", "logit"), ("difference", "borrowed"),
        ("difference", "random"), ("logit", "random"),
    ),
    "logit": (("difference", "logit"), ("difference", "random"), ("logit", "random")),
}  # fmt: skip
_SQUARES = 14  # on each side
_SHARE = 0.16  # of the regions are erased

Scores = dict[str, Tensor]


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``class-blindness`` to the command line."""
    blind = commands.add_parser("class-blindness", help="does a map depend on what is asked?")
    blind.add_argument("--model", required=True)
    blind.add_argument("--images", type=image_range, help="first:last[:stride]")
    blind.add_argument("--methods", type=_names_or_none, default=_METHODS)
    blind.add_argument("--contrastive", type=_names_or_none, default=_CONTRASTIVE)
    blind.add_argument(
        "--erased", type=_names_or_none, default=_ERASED, help="methods of the second part"
    )
    blind.add_argument(
        "--watched", type=_names_or_none, default=tuple(WATCHED), help="while erasing"
    )
    blind.add_argument("--region-size", type=int, default=45)
    blind.add_argument("--block", type=int, default=10, help="images that lend to each other")
    blind.add_argument("--seed", type=int, default=0)
    blind.add_argument("--device", default="cpu", help="where the network runs")
    add_options(blind, prepare, write)


def _names_or_none(text: str) -> tuple[str, ...]:
    """Names between commas; ``none`` leaves a part out."""
    return () if text == "none" else names(text)


def prepare(options: argparse.Namespace) -> Run[range]:
    """The run that was asked for, checked before anything is computed."""
    _require_known(options)
    images = data.imagenet_sample()
    numbers = chosen(images, options.images, at_least=3)
    if options.block < 3 or 0 < len(numbers) % options.block < 3:
        raise SystemExit(
            f"--block {options.block}: of {len(numbers)} images some block has fewer than three, "
            "but a map is lent to another image of the block, and a class to another."
        )
    classifier = models.load_classifier(options.model)
    plan = {
        "model": options.model,
        "weights": weights(classifier.module, classifier.source),
        "data": f"{images.name} ({images.source.kind})",
        "images": [numbers.start, numbers.stop, numbers.step],
        "methods": list(options.methods),
        "contrastive": list(options.contrastive),
        "erased": list(options.erased),
        "watched": list(options.watched),
        "region_size": options.region_size,
        "share": _SHARE,
        "block": options.block,
        "seed": options.seed,
    }

    def measure() -> Callable[[range], Scores]:
        fill = evaluation.Constant(mean_input(images, classifier, numbers))
        return partial(_block, options, classifier, images, fill)

    return over_images(plan, numbers, options.block, lazily(measure))


def _require_known(options: argparse.Namespace) -> None:
    """Refuse unknown names; each part may be left out, but not both."""
    known: dict[str, Collection[str]] = {
        "methods": METHODS, "contrastive": CONTRASTIVE, "erased": METHODS, "watched": WATCHED
    }  # fmt: skip
    require_known(options, **{name: all_ for name, all_ in known.items() if getattr(options, name)})
    if not (options.methods or options.contrastive or (options.erased and options.watched)):
        raise SystemExit("nothing to do: name --methods, --contrastive, or --erased and --watched.")


def _block(
    options: argparse.Namespace,
    classifier: models.Classifier,
    images: data.ImageSet,
    fill: evaluation.Fill,
    block: range,
) -> Scores:
    """Likenesses and areas of each image, by "like/method/target/exchanged/measure" and so on."""
    x = inputs(images, classifier, block).to(options.device)
    module = classifier.module.to(options.device)
    with torch.no_grad():
        outputs = module(x)
    near, far = asked_classes(outputs)
    found: Scores = {"probability": outputs.softmax(1).amax(1).cpu()}
    found["lead"] = attribution.value_of(attribution.Margin(), outputs).cpu()
    explain = partial(_explained, _read(module, x), x)
    for name in options.methods:
        for target, maps in _asked(partial(explain, name), near, far).items():
            found |= _likenesses(f"like/{name}/{target}", maps)
    for name in options.contrastive:
        maps = [explain(name, question) for question in (near[:, 0], near[:, 1], far[:, 0])]
        found |= _likenesses(f"like/{name}/contrast", maps)
    given = dict(_erased_maps(options.erased, explain, near))
    for watched in options.watched if given else ():
        found |= _areas(options, classifier, x, near, given, fill, watched, block.start)
    return found


def _read(module: nn.Module, x: Tensor) -> dict[bool, graph.Graph]:
    """The network's graph by whether its BatchNorms are folded: read once for all maps."""
    return {fold: graph.trace(module, x, fold=fold) for fold in (True, False)}


def _explained(read: Mapping[bool, graph.Graph], x: Tensor, name: str, target: Target) -> Tensor:
    """The maps of one method, its colours summed: (N, H, W)."""
    method = CONTRASTIVE[name] if name in CONTRASTIVE else METHODS[name]
    return method(read[name != "grad_cam"], x, target).sum(dim=1)


def asked_classes(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Which classes of each image are asked for.

    Args:
        outputs: (N, K), of at least two images that are not of one kind.

    Returns:
        The four likeliest of each image (N, 4), and two that another image of the batch has in
        the first places, (N, 2): that of the next one whose likeliest are other classes.
    """
    near = outputs.topk(4, dim=1).indices
    count = len(outputs)
    lenders = []
    for n in range(count):
        others = [(n + shift) % count for shift in range(1, count)]
        strange = [j for j in others if not set(near[j, :2].tolist()) & set(near[n].tolist())]
        lenders.append((strange or others)[0])
    return near, near[lenders, :2]


def _asked(
    explain: Callable[[Target], Tensor], near: Tensor, far: Tensor
) -> dict[str, list[Tensor]]:
    """By target the maps (N, H, W) of an image's own question, of a near one, and of a far one."""
    a, b, c, d = near.T
    u, v = far.T
    questions: dict[str, tuple[Target, ...]] = {
        "logit": (a, b, u),
        "difference": (Difference(a, b), Difference(c, d), Difference(u, v)),
    }
    return {target: [explain(each) for each in asked] for target, asked in questions.items()}


def _likenesses(name: str, maps: list[Tensor]) -> Scores:
    own, near, far = maps
    others = dict(zip(EXCHANGED, (near, far, own.roll(1, 0)), strict=True))
    return {
        f"{name}/{exchanged}/{measure}": values.cpu()
        for exchanged, other in others.items()
        for measure, values in likeness(own, other).items()
    }


def likeness(first: Tensor, second: Tensor) -> Scores:
    """How alike two maps of each image are, by four measures.

    Args:
        first: (N, H, W), signed.
        second: Likewise.

    Returns:
        Each (N,) float64. ``"cosine"`` of all values; ``"size_of_cosine"``, its absolute value,
        which forgives a turned sign; ``"places"``, the rank correlation of the absolute values
        summed over 14 x 14 squares; ``"positive_places"``, the correlation of what is positive
        of the values summed with their sign over these squares. A map without any has likeness 0.
    """
    one, other = first.double(), second.double()
    cosine = _cosine(one.flatten(1), other.flatten(1))
    return {
        "cosine": cosine,
        "size_of_cosine": cosine.abs(),
        "places": _correlation(_ranks(_squares(one.abs())), _ranks(_squares(other.abs()))),
        "positive_places": _correlation(_squares(one).relu(), _squares(other).relu()),
    }


def _squares(maps: Tensor) -> Tensor:
    """The mean of each of 14 x 14 squares, (N, 196)."""
    return F.adaptive_avg_pool2d(maps[:, None], _SQUARES).flatten(1)


def _ranks(values: Tensor) -> Tensor:
    return torch.from_numpy(rankdata(values.cpu(), axis=1)).to(values.device)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    one, other = (m - m.mean(dim=1, keepdim=True) for m in (first, second))
    return _cosine(one, other)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """Of float64 rows, however small; by default norms below 1e-8 are taken for 1e-8."""
    return F.cosine_similarity(first, second, eps=torch.finfo(torch.float64).tiny)


def _erased_maps(
    methods: tuple[str, ...], explain: Callable[[str, Target], Tensor], near: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """The maps (N, H, W) whose orders are followed, by "method/map"."""
    a, b = near[:, 0], near[:, 1]
    questions: dict[str, Target] = {
        "difference": Difference(a, b), "logit": a, "log_odds": LogOdds(a)
    }  # fmt: skip
    for name in methods:
        for question, target in questions.items():
            yield f"{name}/{question}", explain(name, target)
        yield f"{name}/borrowed", evaluation.borrowed(explain(name, Difference(a, b)), a)


def _areas(
    options: argparse.Namespace,
    classifier: models.Classifier,
    x: Tensor,
    near: Tensor,
    maps: dict[str, Tensor],
    fill: evaluation.Fill,
    watched: str,
    first: int,
) -> Scores:
    """ABPC (N,) of every map, and the area of a random order, for one number that is watched."""
    a, b = near[:, 0], near[:, 1]

    def watch(outputs: Tensor, images: Tensor) -> Tensor:
        target = Difference(a[images], b[images]) if watched == "difference" else a[images]
        return attribution.value_of(target, outputs)

    regions = evaluation.Regions(x.shape[2], x.shape[3], options.region_size)
    followed = {n: m for n, m in maps.items() if n.split("/")[1] in WATCHED[watched]}

    def erase(order: evaluation.Order) -> dict[str, evaluation.Curves]:
        return evaluation.region_perturbation(
            classifier.module,
            x,
            None,
            followed,
            options.region_size,
            max(1, round(_SHARE * regions.count)),
            order,
            fill,
            1,
            watch,
            seed=options.seed,
            first_image=first,
            windowed=False,
        )

    morf, lerf, lot = erase("morf"), erase("lerf"), next(iter(erase("random").values()))
    found = {f"area/{watched}/{n}/abpc": evaluation.abpc(morf[n], lerf[n]) for n in followed}
    found |= {f"area/{watched}/{n}/aopc_morf": morf[n].aopc() for n in followed}
    return found | {f"area/{watched}/random": lot.aopc()}


def write(options: argparse.Namespace, found: Scores) -> None:
    methods, contrastive = list(options.methods), list(options.contrastive)
    asked = [*product(methods, TARGETS), *((name, "contrast") for name in contrastive)]
    if asked:
        write_table(options.out, "likeness", _likeness_rows(asked, found))
        write_table(options.out, "gains", _contrast_rows(methods, contrastive, found))
    if options.erased and options.watched:
        write_table(options.out, "areas", _area_rows(options, found))
        write_table(options.out, "differences", _difference_rows(options, found))


def _likeness_rows(asked: list[tuple[str, str]], found: Scores) -> list[dict[str, Any]]:
    """The likeness of two maps by what was exchanged; and how far it lies above the null."""
    rows = []
    for (name, target), measure in product(asked, MEASURES):
        null = found[f"like/{name}/{target}/picture/{measure}"]
        for exchanged in EXCHANGED:
            values = found[f"like/{name}/{target}/{exchanged}/{measure}"]
            labels = {"method": name, "target": target, "measure": measure}
            rows.append(labels | {"exchanged": exchanged} | interval(values))
            if exchanged != "picture":
                row = {"exchanged": f"{exchanged} less picture"} | interval(values - null)
                rows.append(labels | row)
    return rows


def _contrast_rows(
    methods: list[str], contrastive: list[str], found: Scores
) -> list[dict[str, Any]]:
    """By how much a contrast lowers the likeness that the logit's maps have; positive is good.

    Each likeness is taken above its own null. Contrastive LRP is compared with the logit's map
    under z+. Holm's correction is over the methods and contrasts of one measure and exchange.
    """
    pairs = [(m, t, m) for m, t in product(methods, TARGETS[1:])]
    if "lrp_z_plus" in methods:
        pairs += [(name, "contrast", "lrp_z_plus") for name in contrastive]
    rows = []
    for exchanged, measure in product(EXCHANGED[:2], MEASURES):
        gains = [
            _above(found, plain, "logit", exchanged, measure)
            - _above(found, name, target, exchanged, measure)
            for name, target, plain in pairs
        ]
        labels = [
            {"method": name, "target": target, "exchanged": exchanged, "measure": measure}
            for name, target, _ in pairs
        ]
        rows += _tested(labels, gains)
    return rows


def _above(found: Scores, name: str, target: str, exchanged: str, measure: str) -> Tensor:
    key = f"like/{name}/{target}"
    return found[f"{key}/{exchanged}/{measure}"] - found[f"{key}/picture/{measure}"]


def _area_rows(options: argparse.Namespace, found: Scores) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"watched": watched, "method": name, "map": one, "measure": measure}
        | interval(found[f"area/{watched}/{name}/{one}/{measure}"])
        for watched in options.watched
        for name, one, measure in product(options.erased, WATCHED[watched], ("abpc", "aopc_morf"))
    ]
    rows += [
        {"watched": watched, "method": "random", "map": "random", "measure": "aopc_morf"}
        | interval(found[f"area/{watched}/random"])
        for watched in options.watched
    ]
    labels = {"watched": "(none)", "method": "(none)", "map": "(none)"}
    rows += [labels | {"measure": m} | interval(found[m]) for m in ("lead", "probability")]
    return rows


def _difference_rows(options: argparse.Namespace, found: Scores) -> list[dict[str, Any]]:
    """How much better one map does than another; Holm over the methods of one question."""
    rows = []
    for watched, (first, second) in ((w, pair) for w in options.watched for pair in _PAIRS[w]):
        measure = "aopc_morf" if second == "random" else "abpc"
        gains, labels = [], []
        for name in options.erased:
            key = f"area/{watched}/{name}"
            other = found[f"area/{watched}/random" if second == "random" else
                          f"{key}/{second}/{measure}"]  # fmt: skip
            gains.append(found[f"{key}/{first}/{measure}"] - other)
            labels.append(
                {"watched": watched, "method": name, "first": first, "second": second}
                | {"measure": measure}
            )
        rows += _tested(labels, gains)
    return rows


def _tested(labels: list[dict[str, Any]], gains: list[Tensor]) -> list[dict[str, Any]]:
    p_values = [evaluation.sign_flip(gain) for gain in gains]
    return [
        label | interval(gain) | {"p_value": p_value, "p_holm": p_holm}
        for label, gain, p_value, p_holm in zip(
            labels, gains, p_values, evaluation.holm(p_values), strict=True
        )
    ]
