"""``dmbp separation``: does a search whose masks can move separate the branches, and rightly?

For every candidate the branches are looked at in windows that no objective asked about; what the
negative branch marks is replaced, which ought to raise the output (*sign validity*); and the
positive branch is set against other methods by the area between the curves. The regions have 14
pixels, which is no side of the objectives' windows. Run it once on images to choose by, with all
candidates, and once more on others with the chosen one.

*The rule of choice*: of the candidates whose branches have a cosine below ``SEPARATE`` in held-out
windows, in the mean over the images, the one with the greatest ``rise_over_random``, the change of
the output when the regions that the negative branch marks are replaced, less that for regions by
lot, in the mean over both fills; if there is none below, of all candidates. So far it was fixed
before the first image. Two images then showed that an empty branch passes, and it was added that
both branches must hold something: at least ``FILLED`` of the sizes of both, with the right sign.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xaiutils import attribution, data, evaluation, models
from xaiutils.attribution import Disentangled, Separation
from xaiutils.attribution._dmbp_objectives import Evidence, _Grid
from xaiutils.reproduce._explained import heatmap, inputs, weights
from xaiutils.reproduce._long_run import Found, Run, add_options, over_images
from xaiutils.reproduce._options import chosen, image_range, names, require_known, require_positive
from xaiutils.reproduce._tables import pair_row, write_table

SEARCH: dict[str, Any] = {
    "places": "layers",
    "biases": "masked",
    "softness": 0.1,
    "parameters": "logits",
    "learning_rate": 0.2,
}
"""A search whose masks can travel all the way, with nothing put aside."""
_WINDOWS = (4, 9, 16)
_SHARES = Separation(_WINDOWS, net="inputs", relative=True)
OCCLUDED = "occluded"
"""The name of a control, `shares` with a target of interventions: see :class:`Given`."""
SEPARATIONS: dict[str, dict[str, Any]] = {
    "default": {"iterations": 20},
    "absolute": SEARCH | {"objective": Separation()},
    "shares_maps": SEARCH | {"objective": Separation(_WINDOWS, relative=True)},
    "shares": SEARCH | {"objective": _SHARES},
    "shares_activations": SEARCH | {"objective": _SHARES, "places": "activations"},
    "shares_aside": SEARCH | {"objective": _SHARES, "biases": "aside"},
    "shares_no_overlap": SEARCH | {"objective": replace(_SHARES, overlap=0.0)},
    "shares_no_fidelity": SEARCH | {"objective": replace(_SHARES, fidelity=0.0)},
    OCCLUDED: SEARCH | {"objective": _SHARES},
}
"""What is compared, by name: options of :func:`xaiutils.attribution.dmbp`."""
RIVALS = ("input_x_gradient", "sensitivity", "lrp_epsilon_plus", "random")
HELD_OUT = {"12 px, moved by 5": _Grid(12, 5), "7 px, moved by 3": _Grid(7, 3)}
"""Windows that no objective asks about: other sides, other offsets."""
SEPARATE = 0.2
"""Below this cosine branches count as lying at different places."""
FILLED = 0.01
"""A branch with a smaller share of the sizes of both is empty."""
MARKED = 10
"""How many regions are replaced for sign validity."""
_FEW = 10
_BLOCK = 2  # images, each of which borrows the other's map


@dataclass(frozen=True, eq=False)
class Given(Separation):
    """The branches have to add up to a map from outside, in every coarse window.

    Attributes:
        given: The map, (N, 1, H, W), in units of the output.
    """

    given: Tensor | None = None

    def _target(self, pixels: Tensor, whole: Evidence) -> Tensor:
        assert self.given is not None
        return (self.given / pixels.shape[2]).expand(pixels.shape[1:])[None]


def occluded(network: nn.Module, x: Tensor, target: Tensor) -> Separation:
    """Return `shares` with what the output loses when one window alone is covered by grey.

    Whatever evidence the branches then hold was asked of the network itself, window by window.
    """
    falls = attribution.occlusion(network, x, target, _SHARES.coarse)
    options = {field.name: getattr(_SHARES, field.name) for field in fields(Separation)}
    return Given(**options, given=falls / _SHARES.coarse**2)


def add_action(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``separation`` to the actions of ``dmbp``."""
    action = actions.add_parser("separation", help="masks that can move: are the branches right?")
    action.add_argument("--model", required=True, help="a name of models.available_classifiers()")
    action.add_argument("--images", type=image_range, required=True, help="first:last[:stride]")
    action.add_argument("--candidates", type=names, default=tuple(SEPARATIONS))
    action.add_argument("--areas", action="store_true", help="set R+ against other methods too")
    action.add_argument("--iterations", type=int, default=40)
    action.add_argument("--region-size", type=int, default=14)
    action.add_argument("--steps", type=int, default=30)
    action.add_argument("--seed", type=int, default=0)
    add_options(action, prepare, write)


def prepare(options: argparse.Namespace) -> Run[range]:
    """The run that was asked for, checked before anything is computed."""
    require_known(options, candidates=SEPARATIONS)
    require_positive(options, "iterations", "region_size", "steps")
    images, classifier = data.imagenet_sample(), models.load_classifier(options.model)
    numbers = chosen(images, options.images)
    if len(numbers) % _BLOCK:
        numbers = numbers[:-1]  # an image without a neighbour could borrow no map
    plan = {
        "model": options.model,
        "weights": weights(classifier.module, classifier.source),
        "data": f"{images.name}, images {':'.join(map(str, options.images))}",
        "candidates": {name: str(SEPARATIONS[name]) for name in options.candidates},
        "iterations": options.iterations,
        "areas": options.areas,
        "perturbation": [options.region_size, options.steps, "uniform", options.seed],
        "marked": MARKED,
    }
    measure = partial(_measure, options, classifier, images)
    facts = {"measured": list(numbers), "separate": SEPARATE, "filled": FILLED}
    return over_images(plan, numbers, _BLOCK, measure, **facts)


def _measure(
    options: argparse.Namespace,
    classifier: models.Classifier,
    images: data.ImageSet,
    block: range,
) -> dict[str, Tensor]:
    """All measures of a block, (len(block),) float64 by "measure/fill/candidate/map"."""
    x = inputs(images, classifier, block)
    with torch.no_grad():
        target = classifier.module(x).argmax(1)
    maps, found = dict[str, Tensor](), dict[str, Tensor]()
    for name in options.candidates:
        given = {"iterations": options.iterations} | SEPARATIONS[name]
        if name == OCCLUDED:
            given["objective"] = occluded(classifier.module, x, target)
        result = attribution.dmbp(classifier.module, x, target, **given)
        maps |= {f"{name}/{part}": view for part, view in branches(result).items()}
        start = attribution.dmbp(classifier.module, x, target, **given | {"iterations": 0})
        qualities = looked_at(result) | {"crossed": _crossed(result, start)}
        found |= {f"{measure}//{name}/both": value for measure, value in qualities.items()}
    for name in RIVALS if options.areas else ():
        seed = options.seed + block.start
        maps[f"{name}/map"] = heatmap(name, classifier.module, x, target, seed)
    for name, view in controls(classifier.module, x, target).items():
        maps[f"{name}/negative"] = -view
    return found | _perturbed(options, classifier, x, target, maps, block)


def controls(network: nn.Module, x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Signed maps whose negative end is judged too, (N, 1, H, W).

    ``net``: what the branches have to add up to, the attributions of the unmasked network with its
    biases; the full-gradient representation with signs.
    """
    whole = attribution.dmbp(network, x, target, 0, biases="masked", start="ones")
    assert whole.bias_maps is not None
    parts = whole.positive.sum(1, keepdim=True) + whole.bias_maps[0]
    gradient = attribution.input_x_gradient(network, x, target).sum(1, keepdim=True)
    return {"net": parts, "input_x_gradient": gradient}


def branches(result: Disentangled) -> dict[str, Tensor]:
    """Both branches with their biases, (N, 1, H, W); the negative one is large where it objects."""
    parts = [result.positive, result.negative, result.nuisance]
    sums = [part.sum(1, keepdim=True) for part in parts]
    if result.bias_maps is not None:
        sums = [part + biases for part, biases in zip(sums, result.bias_maps, strict=True)]
    return {"positive": sums[0], "negative": -sums[1]}


def looked_at(result: Disentangled) -> dict[str, Tensor]:
    """Cosine, purity and size of the branches, (N,) float64 each.

    ``purity_positive`` is the sum of the positive branch over the sum of its sizes, in held-out
    windows; ``share_negative`` the size of the negative branch in that of both; ``sum_positive``
    and ``sum_negative`` the sums of the branches over the output.
    """
    found = dict[str, Tensor]()
    views = branches(result)
    for look, grid in HELD_OUT.items():
        plus, minus = (grid.sums(view[None].double())[0] for view in views.values())
        sizes = [part.abs().sum(1).clamp(min=1e-300) for part in (plus, minus)]
        found[f"cosine, {look}"] = torch.cosine_similarity(plus, minus, eps=1e-300)
        found[f"purity_positive, {look}"] = plus.sum(1) / sizes[0]
        found[f"purity_negative, {look}"] = minus.sum(1) / sizes[1]
        found[f"share_negative, {look}"] = sizes[1] / (sizes[0] + sizes[1])
    for part, sign in (("positive", 1), ("negative", -1)):
        total = views[part].double().flatten(1).sum(1)
        found[f"sum_{part}"] = sign * total / result.output
    return found


def _crossed(result: Disentangled, start: Disentangled) -> Tensor:
    """The share of masks that have changed sides since the start, (N,) float64."""
    pairs = zip(result.masks.values(), start.masks.values(), strict=True)
    sides = torch.cat([(now > 0.5) != (before > 0.5) for now, before in pairs], -1)
    return sides.double().mean((0, 2))


def _perturbed(
    options: argparse.Namespace,
    classifier: models.Classifier,
    x: Tensor,
    target: Tensor,
    maps: Mapping[str, Tensor],
    block: range,
) -> dict[str, Tensor]:
    """Sign validity of what is marked, and the areas between the curves."""
    look = classifier.preprocess
    fills = {"uniform": evaluation.Uniform(look.low, look.high), "blur": evaluation.Blur()}
    perturb = partial(
        evaluation.region_perturbation,
        classifier.module,
        x,
        target,
        region_size=options.region_size,
        repeats=1,
        seed=options.seed,
        first_image=block.start,
    )
    found = dict[str, Tensor]()
    negative = {name: view for name, view in maps.items() if name.endswith("/negative")}
    lent = {f"{name}, borrowed": evaluation.borrowed(view) for name, view in negative.items()}
    for fill in fills:
        marked = partial(perturb, steps=MARKED, fill=fills[fill])
        chance = _risen(marked(heatmaps={"": x}, order="random")[""])
        found[f"rise/{fill}/random/negative"] = chance
        curves = marked(heatmaps={**negative, **lent}, order="morf")
        for name in negative:
            own, other = _risen(curves[name]), _risen(curves[f"{name}, borrowed"])
            found[f"rise/{fill}/{name}"] = own
            found[f"rise_over_random/{fill}/{name}"] = own - chance
            found[f"rise_over_borrowed/{fill}/{name}"] = own - other
    if not options.areas:
        return found
    judged = {name: view for name, view in maps.items() if name not in negative}
    areas = partial(perturb, heatmaps=judged, steps=options.steps, fill=fills["uniform"])
    morf, lerf = areas(order="morf"), areas(order="lerf")
    for name in judged:
        found[f"aopc_morf/uniform/{name}"] = morf[name].aopc()
        found[f"abpc/uniform/{name}"] = evaluation.abpc(morf[name], lerf[name])
    return found


def _risen(curves: evaluation.Curves) -> Tensor:
    """By how much the output has risen when the first ``MARKED`` regions are gone, (N,)."""
    return -curves.falls()[:, MARKED]


def write(options: argparse.Namespace, found: Found) -> None:
    """Means with intervals, tests of the rises, and every pair of maps by its area.

    Holm's correction is over all the rises of the table.
    """
    tests = {key: evaluation.sign_flip(v) for key, v in found.items() if key.startswith("rise")}
    corrected = dict(zip(tests, evaluation.holm(list(tests.values())), strict=True))
    rows = []
    for key, values in found.items():
        measure, fill, candidate, view = key.split("/")
        words = {"measure": measure, "fill": fill or "(none)", "candidate": candidate, "map": view}
        p_values = {"p_value": tests.get(key), "p_holm": corrected.get(key)}
        rows.append(words | _interval(values) | p_values)
    write_table(options.out, "measures", rows)
    start = "abpc/uniform/"
    areas = {key.removeprefix(start): v for key, v in found.items() if key.startswith(start)}
    if areas:
        judged = {key: values.double() for key, values in areas.items()}
        pairs = evaluation.compare(judged, method=_method(found))
        write_table(options.out, "comparisons", [pair_row(pair) for pair in pairs])


def _interval(values: Tensor) -> dict[str, Any]:
    found = evaluation.bootstrap(values.double(), method=_method({"": values}))
    return {"mean": found.mean, "low": found.low, "high": found.high, "images": found.images}


def _method(found: Mapping[str, Tensor]) -> Literal["percentile", "t"]:
    """The bootstrap is too short for fewer than ten images; Student's t is taken there."""
    return "t" if len(next(iter(found.values()))) < _FEW else "percentile"
