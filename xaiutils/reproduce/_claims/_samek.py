"""The claims of Samek et al. 2017, each on every network whose tables are there."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims._row import Claim, Effect, Kind

PAPER = "samek2017evaluating"
NETWORKS = {
    "squeezenet1_1": "SqueezeNet 1.1",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "mnist_cnn": "the digit classifier",
}
_OTHER_KIND = ("mnist_cnn",)
"""The paper's networks classify photographs; these do not."""
MARGIN = 0.1
"""Two areas count as equal within this share of the first."""
_DATA = "5040 images each of SUN397, ILSVRC2012 and MIT Places"
_NETS = "Caffe reference model and MIT Places classifier, labels as predicted"
_THERE = (
    f"{_NETS}; {_DATA}; regions of 9 x 9 pixels, 100 steps (15.7 % of the picture), uniform noise, "
    "10 repetitions; no intervals given."
)
_THERE_FILLS = (
    "One data set, SUN397; regions of 9 x 9 pixels, 100 steps; uniform noise, Dirichlet, the mean "
    "picture and blur. One number each, of which the printed size shows that it was not divided by "
    "the number of steps; no intervals given."
)
_THERE_SUN = (
    "SUN397, 5040 images, otherwise as above. On MIT Places the paper saw sensitivity ahead of the "
    "random order in the first steps."
)
_THERE_SIZES = f"{_NETS}; {_DATA}; mean size of the heatmaps as image files; no intervals given."
_THERE_ENTROPY = f"{_NETS}; {_DATA}; box plots, no numbers."
_SENSITIVITY, _DECONVOLUTION, _ALPHA_BETA = "sensitivity", "deconvnet_l2", "lrp_alpha2_beta1"
_WORDS = {_SENSITIVITY: "sensitivity", _DECONVOLUTION: "deconvolution", _ALPHA_BETA: "LRP"}
"""The methods of the paper, from the largest files to the smallest."""
_SETTINGS = {
    "grey, one scale for all": "All are drawn on one scale, with room for both signs.",
    "grey": "A map with a sign has half of the grey levels on each side, one without has them all.",
}
"""How maps were drawn for their sizes, the fairest way first."""
_FALL = "mean fall of the logit"
_GRADIENT = "input_x_gradient"
_EPSILON = re.compile(r"lrp_epsilon_(\d[\d._]*(?:e-?\d+)?)")
Find = Callable[[str], list[Effect]]
Table = Callable[[str, str], pd.DataFrame | None]


def rows(results: Path) -> list[Claim]:
    """All claims of the paper."""
    table = partial(_table, results)
    pair = partial(_pair, table)
    fills = partial(_fills, table)
    by_area = "by the area over the MoRF curve"
    return [
        _claim(
            results,
            "LRP finds what the network uses better than deconvolution does",
            "Experiments, Fig. 4",
            partial(pair, _ALPHA_BETA, _DECONVOLUTION),
            f"Alpha-beta LRP minus deconvolution, {by_area}.",
        ),
        _claim(
            results,
            "Deconvolution finds it better than sensitivity does",
            "Experiments, Fig. 4",
            partial(pair, _DECONVOLUTION, _SENSITIVITY),
            f"Deconvolution minus sensitivity, {by_area}.",
        ),
        _claim(
            results,
            "LRP finds it better than sensitivity does",
            "Experiments, Fig. 4",
            partial(pair, _ALPHA_BETA, _SENSITIVITY),
            f"Alpha-beta LRP minus sensitivity, {by_area}.",
        ),
        _claim(
            results,
            "Sensitivity is no better than a random order on SUN397",
            "Experiments, Fig. 4",
            partial(_random_minus, table, _SENSITIVITY),
            f"Random order minus sensitivity, {by_area}, on other data.",
            there=_THERE_SUN,
            kind="not testable",
            remark="It is a statement on one set of photographs, which is not here.",
        ),
        _epsilon(results, table),
        _claim(
            results,
            "Between MoRF and LeRF, too, LRP is ahead of deconvolution",
            "Appendix, eq. 13",
            partial(pair, _ALPHA_BETA, _DECONVOLUTION, measure="abpc"),
            "Alpha-beta LRP minus deconvolution, by the area between the curves.",
            there=_THERE_FILLS,
        ),
        _claim(
            results,
            "The stronger the fill, the larger the area: uniform noise before blur",
            "Appendix: 243.69 against 113.75 for LRP on SUN397",
            partial(fills, _ALPHA_BETA, "uniform", "blur"),
            "Uniform minus blur for alpha-beta LRP, by the area between the curves.",
            there=_THERE_FILLS,
        ),
        _claim(
            results,
            "Uniform noise and the Dirichlet fill give nearly the same area",
            "Appendix: 243.69 against 239.8 for LRP on SUN397",
            partial(_equal_fills, table, _ALPHA_BETA, "uniform", "dirichlet"),
            "Uniform minus Dirichlet for alpha-beta LRP, by the area between the curves. Nearly "
            f"the same is taken to mean: within {100 * MARGIN:.0f} % of the area under uniform "
            "noise. The Dirichlet fill is our reconstruction.",
            there=_THERE_FILLS,
            kind="equivalence",
        ),
        *_complexity(results),
        _training(results),
        Claim(
            PAPER,
            "The gap to random is largest on ILSVRC2012, smaller on SUN397 and Places",
            "Experiments",
            _THERE,
            "One set of natural images only.",
            "not testable",
            (),
            "It needs networks trained on three data sets, and their images.",
        ),
    ]


def _epsilon(results: Path, table: Table) -> Claim:
    """Epsilon of the paper's sizes against alpha-beta; epsilon near 0 stands beside it."""
    found = partial(_epsilons, table)
    run = [network for network in NETWORKS if found(network)]
    missing = "" if set(run) - set(_OTHER_KIND) else "No network of the paper's kind was run so."
    claim = partial(
        _claim,
        results,
        "The epsilon rule is slightly ahead of alpha-beta",
        "Experiments",
        there=_THERE + " Epsilon 0.01 and 100, in the scale of those networks' activations.",
    )
    if run:
        here = "Epsilon minus alpha-beta, by the area over the MoRF curve, with the paper's two"
        here = f"{here} sizes of epsilon; activations have another scale here."
        return claim(found, here, remark=missing)
    return claim(
        partial(_pair, table, _GRADIENT, _ALPHA_BETA),
        "Gradient x input, to which the rule tends as epsilon goes to 0, minus alpha-beta.",
        kind="not testable",
        remark="The rule was not run with the paper's epsilon.",
    )


def _epsilons(table: Table, network: str) -> list[Effect]:
    """Each epsilon that was run with a size of its own, minus alpha-beta."""
    found = table(network, "comparisons")
    if found is None:
        return []
    methods = set(found["first"]) | set(found["second"])
    sizes = {m: float(hit[1].replace("_", ".")) for m in methods if (hit := _EPSILON.fullmatch(m))}
    return [
        replace(effect, measure=f"epsilon {size:g}, {effect.measure}")
        for method, size in sorted(sizes.items(), key=lambda item: item[1])
        for effect in _pair(table, method, _ALPHA_BETA, network)
    ]


def _complexity(results: Path) -> list[Claim]:
    """The order of file sizes, one claim for each pair of neighbours, and the least entropy."""
    sizes = {"png": "PNG files", "jpeg": "JPEG files (quality 90)"}
    claim = partial(_smaller, results)
    return [
        *(
            claim(f"{title}: {_WORDS[first]} above {_WORDS[second]}", measure, {first: second})
            for measure, title in sizes.items()
            for first, second in pairwise(_WORDS)
        ),
        claim(
            f"Entropy: lowest for {_WORDS[_ALPHA_BETA]}",
            "entropy",
            dict.fromkeys((_SENSITIVITY, _DECONVOLUTION), _ALPHA_BETA),
        ),
    ]


def _smaller(results: Path, statement: str, measure: str, pairs: dict[str, str]) -> Claim:
    """A claim that the second of each pair has the simpler maps."""
    sizes = measure != "entropy"
    setting = _setting(results)
    orders = [f"{_WORDS[first].title()} minus {_WORDS[second]}" for first, second in pairs.items()]
    return _claim(
        results,
        statement,
        "Table I" if sizes else "Box plots of the entropy",
        lambda network: [
            effect
            for first, second in pairs.items()
            for effect in _sizes(results, measure, setting, first, second, network)
        ],
        f"{'; '.join(orders)}. LRP is by the alpha-beta rule; grey pictures of 224 x 224 pixels, "
        f"each map scaled to its own maximum. {_SETTINGS[setting]}",
        there=_THERE_SIZES if sizes else _THERE_ENTROPY,
    )


def _setting(results: Path) -> str:
    """The fairest way of drawing maps with and without a sign that all networks' tables have."""
    tables = (_table(results, network, "comparisons", "complexity") for network in NETWORKS)
    drawn = [set(table["setting"]) for table in tables if table is not None]
    return next(name for name in _SETTINGS if all(name in names for names in drawn))


def _sizes(
    results: Path, measure: str, setting: str, first: str, second: str, network: str
) -> list[Effect]:
    """First minus second, by one measure of complexity."""
    table = _table(results, network, "comparisons", "complexity")
    if table is None:
        return []
    rows = table[(table["measure"] == measure) & (table["setting"] == setting)]
    unit = "bits a pixel" if measure == "entropy" else "bytes"
    words = f"{unit}, {_WORDS[first]} minus {_WORDS[second]}, {NETWORKS[network]}"
    return _signed(rows, first, second, words, 0)


def _training(results: Path) -> Claim:
    """AOPC against accuracy over a training, with the control that needs no heatmap."""
    effects, controls = [], []
    for network, name in (("tiny_cnn", "Tiny ImageNet"), ("mnist_cnn", "digits")):
        table = _table(results, network, "correlations", "training")
        if table is None:
            continue
        rows = table.query("output == 'logit' and measure == 'aopc'")
        for kind in ("pearson", "spearman"):
            found = rows[rows["correlation"] == kind].set_index("method")
            label = f"{kind.title()} correlation over checkpoints, {name}"
            row = found.loc[_ALPHA_BETA].to_dict()
            effects.append(Effect.of(label, row, of_kind=network not in _OTHER_KIND))
            controls.append(f"{kind.title()} {found.loc['(none)', 'mean']:.2f} ({name})")
    if not effects:
        raise FileNotFoundError(f"{results} has no table of a training")
    return Claim(
        PAPER,
        "Over a training, the area over the perturbation curve rises with accuracy",
        "Section IV-D",
        "CIFAR-10, 200 to 5000 iterations, accuracy 45 to 75 %; curves shown side by side.",
        "One training of a small network each, checkpoints from the first steps on, alpha-beta "
        "LRP, logit. The intervals are over images; over trainings there is none. A random order, "
        f"which needs no heatmap, gives {', '.join(controls)}.",
        "order",
        tuple(effects),
        "A random order's area rises too: the correlation alone does not show that the heatmaps "
        "get better.",
    )


def _claim(
    results: Path,
    statement: str,
    where: str,
    find: Find,
    here: str,
    there: str = _THERE,
    kind: Kind = "order",
    remark: str = "",
) -> Claim:
    """A claim with what was found on every network."""
    effects = tuple(
        replace(effect, of_kind=network not in _OTHER_KIND)
        for network in NETWORKS
        for effect in find(network)
    )
    if not effects:
        raise FileNotFoundError(f"{results} has no table for the claim {statement!r}")
    return Claim(PAPER, statement, where, there, here, kind, effects, remark)


def _table(results: Path, network: str, name: str, run: str = "samek") -> pd.DataFrame | None:
    path = results / f"{run}-{network}-{name}.csv"
    return pd.read_csv(path) if path.exists() else None


def _images(table: Table, network: str) -> int:
    areas = table(network, "areas")
    assert areas is not None
    return int(areas["images"].max())


def _pair(
    table: Table, first: str, second: str, network: str, measure: str = "aopc_morf"
) -> list[Effect]:
    """First minus second, of two methods on the same images."""
    found = table(network, "comparisons")
    if found is None:
        return []
    rows = found[(found["measure"] == measure) & (found["fill"] == "uniform")]
    return _signed(rows, first, second, _named(network), _images(table, network))


def _fills(table: Table, method: str, first: str, second: str, network: str) -> list[Effect]:
    """First minus second, of two fills on the same images."""
    for part in (network, f"{network}-fills"):
        pairs = table(part, "fills")
        if pairs is not None:
            rows = pairs[(pairs["measure"] == "abpc") & (pairs["method"] == method)]
            return _signed(rows, first, second, _named(network), _images(table, part))
    return []


def _equal_fills(table: Table, method: str, first: str, second: str, network: str) -> list[Effect]:
    """The same, with the margin within which the two count as equal."""
    for part in (network, f"{network}-fills"):
        if table(part, "fills") is not None:
            areas = table(part, "areas")
            assert areas is not None
            of_first = areas[(areas["fill"] == first) & (areas["measure"] == "abpc")]
            area = of_first.set_index("method").loc[method, "mean"]
            found = _fills(table, method, first, second, network)
            return [replace(effect, margin=MARGIN * abs(float(area))) for effect in found]
    return []


def _random_minus(table: Table, method: str, network: str) -> list[Effect]:
    """Random order minus method."""
    areas = table(network, "areas")
    if areas is None:
        return []
    uniform = areas.query("measure == 'aopc_morf_minus_random' and fill == 'uniform'")
    rows = uniform[uniform["method"] == method]
    return [Effect.of(_named(network), rows.iloc[0].to_dict()).turned()]


def _signed(rows: pd.DataFrame, first: str, second: str, measure: str, images: int) -> list[Effect]:
    """A row of a table of pairs, whichever way round it stands there; nothing if it is not."""
    for one, other, turn in ((first, second, False), (second, first, True)):
        found = rows[(rows["first"] == one) & (rows["second"] == other)]
        if len(found):
            effect = Effect.of(measure, found.iloc[0].to_dict(), "difference", images)
            return [effect.turned() if turn else effect]
    return []


def _named(network: str) -> str:
    return f"{_FALL}, {NETWORKS[network]}"
