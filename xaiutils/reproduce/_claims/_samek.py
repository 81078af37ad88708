"""The claims of Samek et al. 2017, each on every network whose tables are there."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims._row import Claim, Effect, judged

PAPER = "samek2017evaluating"
NETWORKS = {
    "squeezenet1_1": "SqueezeNet 1.1",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "mnist_cnn": "the digit classifier",
}
_THERE = (
    "Caffe reference model and MIT Places network; 5040 images each of three data sets; regions of "
    "9 x 9 pixels, 100 steps, uniform noise, 10 repetitions; no intervals given."
)
_FALL = "mean fall of the logit"
Find = Callable[[str], list[Effect]]
Table = Callable[[str, str], pd.DataFrame | None]


def rows(results: Path) -> list[Claim]:
    """All claims of the paper."""
    table = partial(_table, results)
    pair = partial(_pair, table)
    alpha_beta, epsilon = "lrp_alpha2_beta1", "lrp_epsilon"
    return [
        _claim(
            results,
            "LRP finds what the network uses better than deconvolution does",
            "Experiments, Fig. 4",
            partial(pair, alpha_beta, "deconvnet_l2"),
            "alpha-beta LRP minus deconvolution, by the area over the MoRF curve.",
        ),
        _claim(
            results,
            "Deconvolution finds it better than sensitivity does",
            "Experiments, Fig. 4",
            partial(pair, "deconvnet_l2", "sensitivity"),
            "Deconvolution minus sensitivity, by the area over the MoRF curve.",
        ),
        _claim(
            results,
            "LRP finds it better than sensitivity does",
            "Experiments, Fig. 4",
            partial(pair, alpha_beta, "sensitivity"),
            "Alpha-beta LRP minus sensitivity, by the area over the MoRF curve.",
        ),
        _claim(
            results,
            "Sensitivity is no better than a random order on SUN397",
            "Experiments, Fig. 4",
            partial(_against_random, table, "sensitivity", -1),
            "Random order minus sensitivity, by the area over the MoRF curve; on other data than "
            "theirs.",
        ),
        _claim(
            results,
            "The epsilon rule is slightly ahead of alpha-beta",
            "Experiments",
            partial(pair, epsilon, alpha_beta),
            "Epsilon minus alpha-beta, by the area over the MoRF curve. Theirs is epsilon 0.01 "
            "and 100, ours the stabiliser alone.",
        ),
        _claim(
            results,
            "Between MoRF and LeRF, too, LRP is ahead of deconvolution",
            "Appendix, eq. 13",
            partial(pair, alpha_beta, "deconvnet_l2", measure="abpc"),
            "Alpha-beta LRP minus deconvolution, by the area between the curves.",
        ),
        _claim(
            results,
            "The stronger the fill, the larger the area: uniform noise before blur",
            "Appendix: 243.69 against 113.75 for LRP on SUN397, sums over the steps",
            partial(_fills, table, alpha_beta, "uniform", "blur"),
            "Uniform minus blur for alpha-beta LRP, by the area between the curves.",
        ),
        _claim(
            results,
            "Uniform noise and the Dirichlet fill give nearly the same area",
            "Appendix: 243.69 against 239.8",
            partial(_fills, table, alpha_beta, "uniform", "dirichlet"),
            "Uniform minus Dirichlet for alpha-beta LRP, by the area between the curves; the "
            "Dirichlet fill is our reconstruction. The sign is that of the paper's figures.",
        ),
        *_complexity(results),
        _training(results),
        Claim(
            PAPER,
            "The gap to random is largest on ILSVRC2012, smaller on SUN397 and Places",
            "Experiments",
            _THERE,
            "One set of natural images only.",
            (),
            "not testable",
            "It needs networks trained on three data sets, and their images.",
        ),
    ]


def _complexity(results: Path) -> list[Claim]:
    """The order of file sizes and of entropy, one claim for each measure and pair of neighbours."""
    measures = {
        "png": ("PNG files", "bytes", "Table I"),
        "jpeg": ("JPEG files (quality 90)", "bytes", "Table I"),
        "entropy": ("Entropy", "bits a pixel", "Box plots of the entropy"),
    }
    names = {
        "sensitivity": "sensitivity",
        "deconvnet_l2": "deconvolution",
        "lrp_alpha2_beta1": "LRP",
    }
    return [
        _claim(
            results,
            f"{title}: {names[first]} above {names[second]}",
            where,
            partial(_sizes, results, measure, unit, first, second),
            f"Maps of {names[first]} minus maps of {names[second]} (alpha-beta rule for LRP); grey "
            "pictures of 224 x 224 pixels, each scaled to its own maximum.",
        )
        for measure, (title, unit, where) in measures.items()
        for first, second in pairwise(names)
    ]


def _sizes(
    results: Path, measure: str, unit: str, first: str, second: str, network: str
) -> list[Effect]:
    """First minus second, by one measure of complexity."""
    table = _table(results, network, "comparisons", "complexity")
    if table is None:
        return []
    rows = table[(table["measure"] == measure) & (table["setting"] == "grey")]
    return _signed(rows, first, second, f"{unit}, {NETWORKS[network]}", 0)


def _training(results: Path) -> Claim:
    """AOPC against accuracy over a training, with the control that needs no heatmap."""
    effects, controls = [], []
    for network, name in (("mnist_cnn", "digits"), ("tiny_cnn", "Tiny ImageNet")):
        table = _table(results, network, "correlations", "training")
        if table is None:
            continue
        rows = table.query("output == 'logit' and measure == 'aopc' and correlation == 'pearson'")
        rows = rows.set_index("method")
        label = f"correlation over checkpoints, {name}"
        effects.append(Effect.of(label, rows.loc["lrp_alpha2_beta1"]))
        controls.append(f"{name}: {rows.loc['(none)', 'mean']:.3g}")
    if not effects:
        raise FileNotFoundError(f"{results} has no table of a training")
    return Claim(
        PAPER,
        "Over a training, the area over the perturbation curve rises with accuracy",
        "Section IV-D",
        "CIFAR-10, 200 to 5000 iterations, accuracy 45 to 75 %; curves shown side by side.",
        "Small networks trained here, checkpoints from the first steps on, alpha-beta LRP, logit. "
        "The same correlation for a random order, which needs no heatmap: "
        f"{'; '.join(controls)}.",
        tuple(effects),
        judged(*effects),
        "The area follows accuracy. So does that of a random order: what rises is the logit, and "
        "the correlation alone does not show that the heatmaps get better.",
    )


def _claim(results: Path, statement: str, where: str, find: Find, here: str) -> Claim:
    """A claim judged on all networks together, with the networks on each side named."""
    found = {name: effects for key, name in NETWORKS.items() if (effects := find(key))}
    if not found:
        raise FileNotFoundError(f"{results} has no table for the claim {statement!r}")
    sides: dict[str, list[str]] = {}
    for name, effects in found.items():
        sides.setdefault(_side(effects), []).append(name)
    reason = "; ".join(f"{side}: {' and '.join(names)}" for side, names in sides.items())
    together = tuple(effect for effects in found.values() for effect in effects)
    reason = f"{reason[0].upper()}{reason[1:]}."
    return Claim(PAPER, statement, where, _THERE, here, together, judged(*together), reason)


def _side(effects: list[Effect]) -> str:
    if all(effect.low > 0 for effect in effects):
        return "in the stated direction"
    if all(effect.high < 0 for effect in effects):
        return "in the opposite direction"
    return "undecided"


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


def _against_random(table: Table, method: str, sign: int, network: str) -> list[Effect]:
    """Method minus random order, times the sign."""
    areas = table(network, "areas")
    if areas is None:
        return []
    uniform = areas.query("measure == 'aopc_morf_minus_random' and fill == 'uniform'")
    rows = uniform[uniform["method"] == method]
    return [_flipped(Effect.of(_named(network), rows.iloc[0]), sign)]


def _signed(rows: pd.DataFrame, first: str, second: str, measure: str, images: int) -> list[Effect]:
    """A row of a table of pairs, whichever way round it stands there; nothing if it is not."""
    for one, other, sign in ((first, second, 1), (second, first, -1)):
        found = rows[(rows["first"] == one) & (rows["second"] == other)]
        if len(found):
            effect = Effect.of(measure, found.iloc[0], "difference", images)
            return [_flipped(effect, sign)]
    return []


def _flipped(effect: Effect, sign: int) -> Effect:
    if sign > 0:
        return effect
    return Effect(effect.measure, -effect.mean, -effect.high, -effect.low, effect.images)


def _named(network: str) -> str:
    return f"{_FALL}, {NETWORKS[network]}"
