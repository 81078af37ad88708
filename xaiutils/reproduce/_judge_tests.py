"""What a method is put through: each test gives, image by image, its number and its control's.

All of it runs on what installed packages ship: fifty digits, six photographs, the digit classifiers
and EfficientNet-Lite0, and small networks that are trained here in seconds.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xaiutils import attribution, data, evaluation, models
from xaiutils.evaluation import truth
from xaiutils.reproduce._explained import inputs
from xaiutils.reproduce._judge_method import Refused, Subject

PER_CLASS, BLOCK = 5, 10  # a block has a digit of each class
_SEED = 0
_SEARCH_SEED = 1  # the best order is looked for on other draws than it is judged on
_DRAWS = 10  # of the orders by lot
_PASSES = 3  # of which the median time is taken
_HALF = 0.5
_ADDITIVE_SEEDS = 5
_PHOTOS = 6
_PHOTOGRAPHS = "efficientnet_lite0"
_DIGITS = "mnist_cnn"
_SHOWN = 20  # pictures of each planted rule
SETTINGS: dict[str, evaluation.PerturbationOptions] = {
    "digits": {"region_size": 4, "steps": 8},  # of 49 regions: 16 %
    "photographs": {"region_size": 32, "steps": 8},
}

Values = dict[str, Tensor]  # "own" and "control", and "most" of what is shown as a share of it
Found = dict[str, Values]


class Line(NamedTuple):
    """What a line of the card says beside its numbers.

    Attributes:
        attribute: Which of the ten it belongs to.
        what: What was measured.
        on: On which pictures.
        control: What the control is.
        better: "more", "less", or "" where neither is.
    """

    attribute: str
    what: str
    on: str
    control: str
    better: str


@dataclass(frozen=True)
class Test:
    """A test, in blocks that are computed and stored one by one.

    Attributes:
        blocks: How many.
        run: Gives the values of a block, by the line of the card.
        lines: All lines that it fills.
        grouped: Whether a block is a network of its own: then networks are what is drawn.
    """

    blocks: int
    run: Callable[[Subject, int], Found]
    lines: Mapping[str, Line]
    grouped: bool = False


@dataclass(frozen=True, eq=False)
class _Pictures:
    """Pictures with their network, and the classes that it names."""

    classifier: models.Classifier
    x: Tensor
    target: Tensor
    first: int

    @property
    def model(self) -> nn.Module:
        return self.classifier.module


@lru_cache(maxsize=8)
def _pictures(kind: str, block: int) -> _Pictures:
    """A block of the digits, or all photographs."""
    classifier = models.load_classifier(_DIGITS if kind == "digits" else _PHOTOGRAPHS)
    if kind == "digits":
        digits = data.mnist("test", source="embedded", per_class=PER_CLASS).images
        x = torch.as_tensor(digits)[block * BLOCK : (block + 1) * BLOCK]
    else:
        x = inputs(data.photos(), classifier, range(_PHOTOS))
    with torch.no_grad():
        target = classifier.module(x).argmax(dim=1)
    return _Pictures(classifier, x, target, block * BLOCK)


@lru_cache(maxsize=8)
def _maps(subject: Subject, kind: str, block: int) -> Tensor:
    """The maps (N, H, W) that most tests judge, computed once in a process."""
    shown = _pictures(kind, block)
    return subject(shown.model, shown.x, shown.target, shown.first)


@lru_cache(maxsize=32)
def _fill(kind: str, name: str) -> evaluation.Fill:
    """A fill by the values of the whole data set, whatever the block holds."""
    look = _pictures(kind, 0).classifier.preprocess
    if name == "uniform":
        return evaluation.Uniform(look.low, look.high)
    if name == "constant":
        everything = [_pictures(kind, block).x for block in range(_blocks(kind))]
        return evaluation.Constant(torch.cat(everything).mean(dim=0))
    return evaluation.FILLS[name](torch.empty(0))


def _blocks(kind: str) -> int:
    return PER_CLASS if kind == "digits" else 1


def _options(kind: str, fill: str, first: int) -> evaluation.PerturbationOptions:
    options: evaluation.PerturbationOptions = {**SETTINGS[kind]}
    options["fill"], options["first_image"] = _fill(kind, fill), first
    return options


@lru_cache(maxsize=32)
def _by_lot(kind: str, fill: str, block: int) -> Tensor:
    """The mean fall of orders by lot, (N,): no map is asked, so that all methods share them."""
    shown = _pictures(kind, block)
    options = _options(kind, fill, shown.first)
    options["repeats"] = _DRAWS
    return evaluation.region_perturbation(
        shown.model, shown.x, shown.target, None, order="random", seed=_SEED, **options
    ).aopc()


def _regions(kind: str, fill: str, subject: Subject, block: int) -> Found:
    """Region perturbation: the recommended measure, what the sign is worth, and both halves."""
    shown = _pictures(kind, block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", evaluation.FewImagesWarning)  # of a block; the card tells
        found = evaluation.report(
            shown.model,
            shown.x,
            _maps(subject, kind, block),
            shown.target,
            controls=("borrowed", "unsigned"),
            seed=_SEED,
            **_options(kind, fill, shown.first),
        ).per_image
    values = {
        f"abpc/{control}": _pair(found["maps", "abpc", "own"], found["maps", "abpc", control])
        for control in ("borrowed", "unsigned")
    }
    for measure in ("aopc_morf", "aopc_lerf"):
        values[f"{measure}/random"] = _pair(
            found["maps", measure, "own"], _by_lot(kind, fill, block)
        )
    return {f"{kind}/{fill}/{name}": pair for name, pair in values.items()}


_METRICS = ("insertion", "deletion", "faithfulness_correlation", "saco")


def _metrics(subject: Subject, block: int) -> Found:
    """The other metrics of faithfulness, with the digits' own maps and those of others."""
    shown, maps = _pictures("digits", block), _maps(subject, "digits", block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", evaluation.FewImagesWarning)
        found = evaluation.report(
            shown.model,
            shown.x,
            maps,
            shown.target,
            measures=_METRICS,
            controls=("borrowed",),
            seed=_SEED,
            **_options("digits", "uniform", shown.first),
        ).per_image
    return {
        f"metric/{name}": _pair(found["maps", name, "own"], found["maps", name, "borrowed"])
        for name in _METRICS
    }


def _stability(subject: Subject, block: int) -> Found:
    """How far a map moves when the picture hardly does; a map by lot moves as far as can be."""
    shown = _pictures("digits", block)

    def own(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return subject(model, x, target, shown.first)[:, None]

    lot = torch.Generator().manual_seed(_SEED)

    def by_lot(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=lot)

    given = (shown.model, shown.x, shown.target)
    return {
        "stability": _pair(
            *(evaluation.max_sensitivity(*given, method, draws=4) for method in (own, by_lot))
        )
    }


def _completeness(subject: Subject, block: int) -> Found:
    """Does the map sum to the output less that for an empty page?"""
    shown = _pictures("digits", block)
    with torch.no_grad():
        rows = torch.arange(len(shown.x))
        difference = shown.model(shown.x)[rows, shown.target]
        difference = difference - shown.model(torch.zeros_like(shown.x))[rows, shown.target]
    total = _maps(subject, "digits", block).sum(dim=(1, 2))
    lent = evaluation.borrowed(total, shown.target, _SEED)
    gap = [abs(total - difference) / abs(difference) for total in (total, lent)]
    return {"completeness": _pair(*gap)}


@lru_cache(maxsize=1)
def _best_of_digits() -> Tensor:
    """The area between the best and the worst order that greedy search finds, (N,)."""
    shown = _pictures("digits", 0)
    options = _options("digits", "uniform", shown.first)
    options["repeats"] = 1
    given = (shown.model, shown.x, shown.target)
    settings = SETTINGS["digits"]
    falls = dict[str, Tensor]()
    for goal in evaluation.GOALS:
        found = evaluation.search(
            *given,
            settings["region_size"],
            settings["steps"],
            _fill("digits", "uniform"),
            repeats=1,
            goal=goal,
            seed=_SEARCH_SEED,
        )
        order = evaluation.order_map(found)
        falls[goal] = evaluation.region_perturbation(
            *given, order, order=goal, seed=_SEED, **options
        ).aopc()
    return falls["morf"] - falls["lerf"]


def _ceiling(subject: Subject, block: int) -> Found:
    found = _regions("digits", "uniform", subject, block)["digits/uniform/abpc/borrowed"]
    return {"ceiling": {**found, "most": _best_of_digits().clone()}}


def _scored(name: str, instruments: list[truth.Instrument], subject: Subject) -> Found:
    scores = []
    for instrument in instruments:
        maps = subject(instrument.model, instrument.x, instrument.target)
        scores.append(_pair(instrument.score(maps), instrument.chance()))
    return {name: {k: torch.cat([pair[k] for pair in scores]) for k in ("own", "control")}}


def _additive(subject: Subject, block: int) -> Found:
    x = _pictures("digits", 0).x
    made = truth.additive_instrument(x, seed=block)  # noise in [0, 1], as the fill of the digits
    return _scored("truth/additive", [made], subject)


@lru_cache(maxsize=8)
def _planted(rule: str) -> truth.Instrument:
    return truth.planted_instrument(rule, _SHOWN)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _backdoor() -> truth.Instrument:
    digits = data.mnist("test", source="embedded", per_class=2)
    return truth.backdoor_instrument(torch.as_tensor(digits.images), digits.labels)


def _trained(rule: str, subject: Subject, _: int) -> Found:
    """A network that follows a rule; one that interventions show not to follow it is left out."""
    made = _backdoor() if rule == "backdoor" else _planted(rule)
    return _scored(f"truth/{rule}", [made], subject) if made.sound else {}


def _grids(subject: Subject, _: int) -> Found:
    """Four photographs side by side, each cell with an output of its own."""
    shown = _pictures("photographs", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a grid is no photograph: its statistics differ
        order = [(0, 1, 2, 3), (2, 3, 4, 5), (4, 5, 0, 1)]
        made = truth.grid_instrument(
            shown.model,
            torch.stack([shown.x[list(four)] for four in order]),
            torch.stack([shown.target[list(four)] for four in order]),
        )
        return _scored("truth/grid", [made], subject)


def _label(subject: Subject, block: int) -> Found:
    """Is the map of the class that comes second another one?"""
    shown, maps = _pictures("digits", block), _maps(subject, "digits", block)
    with torch.no_grad():
        second = shown.model(shown.x).topk(2, dim=1).indices[:, 1]
    other = subject(shown.model, shown.x, second, shown.first)
    lent = evaluation.borrowed(maps, shown.target, _SEED)
    return {"label": _pair(*(evaluation.rank_correlation(maps, m) for m in (other, lent)))}


def _weights(subject: Subject, block: int) -> Found:
    """The map of the network, and of its copy with all weights in random order."""
    shown = _pictures("digits", block)

    def method(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return subject(model, x, target, shown.first)[:, None]

    found = evaluation.parameter_randomisation(
        shown.model, shown.x, shown.target, {"": method}, seed=_SEED
    )[""]
    return {"weights": _pair(found.rank[-1], found.rank_by_chance[-1])}


def _determinism(subject: Subject, block: int) -> Found:
    """The same call again, with other global random numbers."""
    shown, maps = _pictures("digits", block), _maps(subject, "digits", block)
    again = subject(shown.model, shown.x, shown.target, shown.first + 1)
    lent = evaluation.borrowed(maps, shown.target, _SEED)
    return {"determinism": _pair(*(evaluation.rank_correlation(maps, m) for m in (again, lent)))}


def _cost(subject: Subject, _: int) -> Found:
    """Processor time for a photograph, in forward passes of the same network."""
    shown = _pictures("photographs", 0)
    gradient = partial(attribution.gradient, shown.model)
    _maps(subject, "photographs", 0)  # are they taken at all? As a rule they are there already
    subject(shown.model, shown.x[:1], shown.target[:1])  # warms up
    own = list[float]()
    held = list[float]()
    for image, wanted in zip(shown.x[:, None], shown.target[:, None], strict=True):
        with torch.no_grad():
            forward = _seconds(partial(shown.model, image))
        own.append(_seconds(partial(subject.method, shown.model, image, wanted, 0), 1) / forward)
        held.append(_seconds(partial(gradient, image, wanted)) / forward)
    return {"cost": _pair(torch.tensor(own), torch.tensor(held))}


def _seconds(call: Callable[[], Any], times: int = _PASSES) -> float:
    """Processor time, which does not count what else the machine is doing."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def _networks(subject: Subject, block: int) -> Found:
    """Whether a network of this kind is taken at all."""
    name = NETWORKS[block]
    x = _pictures("photographs" if name == _PHOTOGRAPHS else "digits", 0).x[:2]
    model = models.load_classifier(name).module
    try:
        subject(model, x, torch.tensor([0, 1]))
    except Refused:
        return {f"network/{name}": _pair(torch.zeros(1), torch.zeros(1))}
    return {f"network/{name}": _pair(torch.ones(1), torch.zeros(1))}


def _looks(kind: str, subject: Subject, block: int) -> Found:
    """Perceptibility: how small the part of the picture is that holds half of the relevance."""
    maps = _maps(subject, kind, block)
    lot = torch.Generator().manual_seed(_SEED + block)
    noise = torch.randn(maps.shape, generator=lot)
    found = {f"minimality/{kind}": _pair(_area_of_half(maps), _area_of_half(noise))}
    if kind == "digits":
        ink = _pictures(kind, block).x[:, 0] > 0
        target = _pictures(kind, block).target
        lent = evaluation.borrowed(maps, target, _SEED)
        found["ink"] = _pair(*(truth.energy_in_mask(m, ink) for m in (maps, lent)))
    return found


def _area_of_half(maps: Tensor) -> Tensor:
    """The smallest share of the pixels that holds half of the absolute relevance, (N,) per cent."""
    sizes = maps.abs().double().flatten(1).sort(dim=1, descending=True).values
    total = sizes.sum(dim=1, keepdim=True)
    held = sizes.cumsum(dim=1) / total.where(total > 0, torch.ones_like(total))
    number = (held < _HALF).sum(dim=1) + 1
    share = 100 * number.double() / sizes.shape[1]
    return share.where(total[:, 0] > 0, torch.full_like(share, 100.0))


def _pair(own: Tensor, control: Tensor) -> Values:
    # Copies, for a file takes no two names of the same numbers.
    return {"own": own.double().cpu().clone(), "control": control.double().cpu().clone()}


NETWORKS = ("mnist_cnn", "mnist_vit", "efficientnet_lite0")
_INPUT, _LABEL, _MODEL = "Input sensitivity", "Label sensitivity", "Model sensitivity"
_FILLS = {
    "digits": {"uniform": "noise", "constant": "the mean digit", "blur": "blur"},
    "photographs": {"uniform": "noise", "blur": "blur"},
}
_RULES = {
    "patch": "shape that is the class",
    "decoy": "shape beside a decoy",
    "interaction": "two bars, one rule",
    "saturation": "either of two copies",
    "suppressor": "signal and suppressor",
    "backdoor": "trigger of a backdoor",
}
_TEXTS = {
    "abpc/borrowed": ("area between the curves", "borrowed map", "more"),
    "abpc/unsigned": ("area between the curves", "map without sign", "more"),
    "aopc_morf/random": ("fall, most relevant first", "order by lot", "more"),
    "aopc_lerf/random": ("fall, least relevant first", "order by lot", "less"),
}
_METRIC_TEXTS = {
    "insertion": ("insertion", "more"),
    "deletion": ("deletion", "less"),
    "faithfulness_correlation": ("faithfulness correlation", "more"),
    "saco": ("SaCo", "more"),
}


def _region_lines(kind: str, fill: str) -> dict[str, Line]:
    return {
        f"{kind}/{fill}/{name}": Line(_INPUT, what, f"{kind}, {_FILLS[kind][fill]}", held, better)
        for name, (what, held, better) in _TEXTS.items()
    }


def _truth_line(what: str, on: str) -> Line:
    return Line(_INPUT, what, on, "chance", "more")


TESTS: dict[str, Test] = {
    **{
        f"{kind}-{fill}": Test(
            _blocks(kind), partial(_regions, kind, fill), _region_lines(kind, fill)
        )
        for kind, fills in _FILLS.items()
        for fill in fills
    },
    "ceiling": Test(
        1,
        _ceiling,
        {
            "ceiling": Line(
                _INPUT,
                "per cent of the best area found by search",
                "ten digits, noise",
                "borrowed map",
                "more",
            )
        },
    ),
    "metrics": Test(
        2,
        _metrics,
        {
            f"metric/{name}": Line(_INPUT, text, "20 digits, noise", "borrowed map", better)
            for name, (text, better) in _METRIC_TEXTS.items()
        },
    ),
    "stability": Test(
        2,
        _stability,
        {
            "stability": Line(
                _INPUT, "change of the map, tiny noise", "20 digits", "map by lot", "less"
            )
        },
    ),
    "completeness": Test(
        PER_CLASS,
        _completeness,
        {
            "completeness": Line(
                _INPUT, "gap of the sum, share of the output", "digits", "borrowed map", "less"
            )
        },
    ),
    "additive": Test(
        _ADDITIVE_SEEDS,
        _additive,
        {"truth/additive": _truth_line("known truth: rank correlation", "five additive networks")},
        grouped=True,
    ),
    **{
        rule: Test(
            1,
            partial(_trained, rule),
            {f"truth/{rule}": _truth_line("known truth: share in the mask", text)},
        )
        for rule, text in _RULES.items()
    },
    "grid": Test(
        1,
        _grids,
        {"truth/grid": _truth_line("known truth: share in the cell", "grids of four photographs")},
    ),
    "label": Test(
        2,
        _label,
        {
            "label": Line(
                _LABEL,
                "rank correlation with the second class's map",
                "20 digits",
                "borrowed map",
                "",
            )
        },
    ),
    "weights": Test(
        2,
        _weights,
        {
            "weights": Line(
                _MODEL,
                "rank correlation, weights in random order",
                "20 digits",
                "values by lot",
                "less",
            )
        },
    ),
    "determinism": Test(
        1,
        _determinism,
        {
            "determinism": Line(
                "Determinism",
                "rank correlation, called again",
                "ten digits",
                "borrowed map",
                "more",
            )
        },
    ),
    "cost": Test(
        1,
        _cost,
        {
            "cost": Line(
                "Computational efficiency",
                "processor time, in forward passes",
                "photographs",
                "the gradient",
                "",
            )
        },
    ),
    "networks": Test(
        len(NETWORKS),
        _networks,
        {f"network/{name}": Line("Model agnosticism", name, name, "", "") for name in NETWORKS},
    ),
    "digits-looks": Test(
        PER_CLASS,
        partial(_looks, "digits"),
        {
            "minimality/digits": Line(
                "Minimality", "per cent of pixels with half of it", "digits", "map by lot", ""
            ),
            "ink": Line(
                "Perceptual correspondence",
                "share of it that lies on ink",
                "digits",
                "borrowed map",
                "",
            ),
        },
    ),
    "photographs-looks": Test(
        1,
        partial(_looks, "photographs"),
        {
            "minimality/photographs": Line(
                "Minimality", "per cent of pixels with half of it", "photographs", "map by lot", ""
            )
        },
    ),
}
"""Every test by its name. One more is one more entry."""

LINES: dict[str, Line] = {key: line for test in TESTS.values() for key, line in test.lines.items()}
"""All lines of a card, in their order."""
