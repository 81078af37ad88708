"""The claims of Samek et al. 2017, each on every network whose tables are there."""

from collections.abc import Callable
from functools import partial
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
Find = Callable[[str], Effect | None]


def rows(results: Path) -> list[Claim]:
    """All claims of the paper."""
    table = partial(_table, results)
    pair = partial(_pair, table)
    alpha_beta, epsilon = "lrp_alpha2_beta1", "lrp_epsilon"
    return [
        _claim(
            results,
            "LRP finds what the network uses better than deconvolution does",
            "Section IV-A and Fig. 4",
            partial(pair, alpha_beta, "deconvnet_l2"),
            "alpha-beta LRP minus deconvolution, by the area over the MoRF curve.",
        ),
        _claim(
            results,
            "Deconvolution finds it better than sensitivity does",
            "Section IV-A and Fig. 4",
            partial(pair, "deconvnet_l2", "sensitivity"),
            "Deconvolution minus sensitivity, by the area over the MoRF curve.",
        ),
        _claim(
            results,
            "LRP finds it better than sensitivity does",
            "Section IV-A and Fig. 4",
            partial(pair, alpha_beta, "sensitivity"),
            "Alpha-beta LRP minus sensitivity, by the area over the MoRF curve.",
        ),
        _claim(
            results,
            "Sensitivity is no better than a random order on SUN397",
            "Section IV-A and Fig. 4",
            partial(_against_random, table, "sensitivity", -1),
            "Random order minus sensitivity, by the area over the MoRF curve; on other data than "
            "theirs.",
        ),
        _claim(
            results,
            "The epsilon rule is slightly ahead of alpha-beta",
            "Section IV-A",
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
        Claim(
            PAPER,
            "The gap to random is largest on ILSVRC2012, smaller on SUN397 and Places",
            "Section IV-A",
            _THERE,
            "One set of natural images only.",
            (),
            "not testable",
            "It needs networks trained on three data sets, and their images.",
        ),
    ]


def _claim(results: Path, statement: str, where: str, find: Find, here: str) -> Claim:
    """A claim judged on all networks together, with the networks on each side named."""
    found = {name: effect for key, name in NETWORKS.items() if (effect := find(key))}
    if not found:
        raise FileNotFoundError(f"{results} has no table for the claim {statement!r}")
    sides = {
        "in the stated direction": [n for n, e in found.items() if e.low > 0],
        "in the opposite direction": [n for n, e in found.items() if e.high < 0],
        "undecided": [n for n, e in found.items() if e.low <= 0 <= e.high],
    }
    reason = "; ".join(f"{side}: {' and '.join(n)}" for side, n in sides.items() if n) + "."
    effects = tuple(found.values())
    verdict = judged(*effects)
    return Claim(PAPER, statement, where, _THERE, here, effects, verdict, _capital(reason))


def _table(results: Path, network: str, name: str) -> pd.DataFrame | None:
    path = results / f"samek-{network}-{name}.csv"
    return pd.read_csv(path) if path.exists() else None


def _images(table: Callable[[str, str], pd.DataFrame | None], network: str) -> int:
    areas = table(network, "areas")
    assert areas is not None
    return int(areas["images"].max())


def _pair(
    table: Callable[[str, str], pd.DataFrame | None],
    first: str,
    second: str,
    network: str,
    measure: str = "aopc_morf",
) -> Effect | None:
    """First minus second, of two methods on the same images."""
    found = table(network, "comparisons")
    if found is None:
        return None
    rows = found[(found["measure"] == measure) & (found["fill"] == "uniform")]
    return _signed(rows, first, second, NETWORKS[network], _images(table, network))


def _fills(
    table: Callable[[str, str], pd.DataFrame | None],
    method: str,
    first: str,
    second: str,
    network: str,
) -> Effect | None:
    """First minus second, of two fills on the same images."""
    for part in (network, f"{network}-fills"):
        found = table(part, "fills")
        if found is not None:
            rows = found[(found["measure"] == "abpc") & (found["method"] == method)]
            return _signed(rows, first, second, NETWORKS[network], _images(table, part))
    return None


def _against_random(
    table: Callable[[str, str], pd.DataFrame | None], method: str, sign: int, network: str
) -> Effect | None:
    """Method minus random order, times the sign."""
    areas = table(network, "areas")
    if areas is None:
        return None
    uniform = areas.query("measure == 'aopc_morf_minus_random' and fill == 'uniform'")
    rows = uniform[uniform["method"] == method]
    return _flipped(Effect.of(_named(NETWORKS[network]), rows.iloc[0]), sign)


def _signed(
    rows: pd.DataFrame, first: str, second: str, network: str, images: int
) -> Effect | None:
    """A row of a table of pairs, whichever way round it stands there."""
    for one, other, sign in ((first, second, 1), (second, first, -1)):
        found = rows[(rows["first"] == one) & (rows["second"] == other)]
        if len(found):
            effect = Effect.of(_named(network), found.iloc[0], "difference", images)
            return _flipped(effect, sign)
    return None


def _flipped(effect: Effect, sign: int) -> Effect:
    if sign > 0:
        return effect
    return Effect(effect.measure, -effect.mean, -effect.high, -effect.low, effect.images)


def _named(network: str) -> str:
    return f"{_FALL}, {network}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
