"""The claims of Ruiz et al. 2021, as far as their abstract states them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims._row import Claim, Effect, judged

PAPER = "ruiz2021generating"
_RUNS = {
    "SqueezeNet 1.1": "dmbp-squeezenet1_1-methods",
    "EfficientNet-Lite0": "dmbp-efficientnet_lite0-methods",
    "ResNet-18": "dmbp-tiny_resnet18",
    "VGG-11": "dmbp-tiny_vgg11_bn",
}
_RIVALS = ("input_x_gradient", "dmbp_greedy", "sensitivity", "lrp_epsilon_plus")
_THERE = "ResNet-50 and VGG-16 on PASCAL VOC and ImageNet; measures and numbers could not be read."
_NETWORKS = (
    "SqueezeNet and EfficientNet-Lite0 on images of the ImageNet sample, ResNet-18 and VGG-11 "
    "trained here on 50 classes of Tiny ImageNet. The objective is ours. "
)
_HERE = _NETWORKS + (
    "Regions of 9 x 9 pixels and 100 steps (4 x 4 and 40 on Tiny ImageNet), uniform noise; area "
    "between the LeRF and MoRF curves, ours minus the other's."
)
_SINGLE = {
    "SqueezeNet 1.1": "maps-squeezenet1_1",
    "EfficientNet-Lite0": "maps-efficientnet_lite0",
    "ResNet-18": "maps-tiny_resnet18",
    "VGG-11": "maps-tiny_vgg11_bn",
}
_BOXED = ("ResNet-18", "VGG-11")
_BLURRED = {
    "SqueezeNet 1.1": "maps-squeezenet1_1-blur",
    "EfficientNet-Lite0": "maps-efficientnet_lite0-blur",
}
_OTHERS = ("input_x_gradient", "sensitivity", "guided_backprop", "lrp_epsilon_plus")
_REPORT = "dmbp-squeezenet1_1-report"
_CHOSEN = "purity_window/positive"
_BESIDE = ("greedy/positive", "input_x_gradient/map", "sensitivity/map", "lrp_epsilon_plus/map")
_ON_WINDOWS = (
    "SqueezeNet 1.1, the objective chosen on other images of the ImageNet sample; regions of "
    "16 x 16 pixels, which are the windows of the objective, 30 steps, uniform noise."
)
_ORACLE = "dmbp-oracle"
_KINDS = ("without biases", "with biases")
_BUILT = (
    "Random networks with two hidden layers that look at one region at a time and add up: blanking "
    "a region changes the output by its contribution, whatever else is blank. "
)


def rows(results: Path) -> list[Claim]:
    """All claims of the paper."""
    effects = []
    for network, run in _RUNS.items():
        pairs = pd.read_csv(results / f"{run}-comparisons.csv").query("measure == 'abpc'")
        effects += [_difference(pairs, "dmbp", rival, network) for rival in _RIVALS]
    report = pd.read_csv(results / f"{_REPORT}-comparisons.csv")
    windows = [_difference(report, _CHOSEN, rival, "SqueezeNet 1.1") for rival in _BESIDE]
    consistent = "Its maps agree better with the true contribution of each pixel than others' do"
    return [
        _claim(consistent, _HERE, effects),
        _claim("The same on regions over which purity was asked for", _ON_WINDOWS, windows),
        *_single_maps(results),
        *_oracles(results),
    ]


def _claim(statement: str, here: str, effects: Sequence[Effect]) -> Claim:
    """A claim of the abstract, judged by comparisons with other methods."""
    verdict, sides = judged(*effects), _sides(effects)
    return Claim(PAPER, statement, "Abstract", _THERE, here, tuple(effects), verdict, sides)


def _single_maps(results: Path) -> list[Claim]:
    """What is measured map by map: occlusion of single regions, files, boxes."""

    def beside(
        measure: str, words: str, runs: Mapping[str, str], turned: bool = False
    ) -> list[Effect]:
        found = []
        for network, run in runs.items():
            table = pd.read_csv(results / f"{run}-comparisons.csv")
            pairs = table[table["measure"] == measure]
            for rival in _OTHERS:
                order = (rival, "dmbp") if turned else ("dmbp", rival)
                found.append(_difference(pairs, *order, network, words))
        return found

    boxed = {network: _SINGLE[network] for network in _BOXED}
    return [
        _claim(
            "The same when one region alone is taken away",
            _NETWORKS
            + "Rank correlation over regions (14 x 14 pixels; 8 x 8 on Tiny ImageNet) of a map's "
            "sums with the falls of the logit when each region alone becomes noise.",
            beside("occlusion", "rank correlation", _SINGLE),
        ),
        _claim(
            "The same when one region alone is blurred",
            "SqueezeNet and EfficientNet-Lite0 on images of the ImageNet sample. As in the entry "
            "above, but each region alone is replaced by its blurred copy.",
            beside("occlusion", "rank correlation", _BLURRED),
        ),
        _claim(
            "Its maps are easier to interpret: by the size of their files",
            _NETWORKS + "Readers were not asked. The map as a grey PNG file, the other's size "
            "minus ours, so that positive means that ours is simpler.",
            beside("png", "bytes", _SINGLE, turned=True),
        ),
        _claim(
            "Its maps are easier to interpret: by how much of them lies on the object",
            _NETWORKS + "Readers were not asked. Share of the positive relevance inside the "
            "object's box, images that the network names rightly.",
            beside("energy", "share inside the box", boxed),
        ),
    ]


def _oracles(results: Path) -> list[Claim]:
    """The claims on networks for which the right answer is known."""
    pairs = pd.read_csv(results / f"{_ORACLE}-comparisons.csv").query("method == 'purity'")
    whole = _beside_gradient(pairs, "agreement", "correlation with the contributions")
    parts = [
        effect
        for sign in ("positive", "negative")
        for effect in _beside_gradient(pairs, sign, f"cosine with the {sign} contributions")
    ]
    lead = pd.read_csv(results / f"{_ORACLE}-measures.csv").query("measure == 'lead'").iloc[0]
    share = "lead over the next best masks, as a share of all contributions"
    ahead = Effect.of(share, lead.to_dict(), cases="networks")
    return [
        Claim(
            PAPER,
            "The same where every region's true contribution is known",
            "Abstract",
            _THERE,
            _BUILT
            + "Both branches together minus gradient x input, which is exact without biases.",
            tuple(whole),
            judged(*whole),
            "What the nuisance takes is missing from the branches.",
        ),
        Claim(
            PAPER,
            "It separates positive from negative factors, where both are known",
            "Abstract",
            _THERE,
            _BUILT + "Each branch minus the entries of its sign in gradient x input.",
            tuple(parts),
            judged(*parts),
            "A branch reports gross evidence of its sign; a region contributes the balance.",
        ),
        Claim(
            PAPER,
            "With one hidden layer the best masks have a closed form",
            "not in the paper: our reconstruction",
            "Nothing.",
            "Random networks with six filters: the greedy masks against all other hard masks.",
            (ahead,),
            judged(ahead),
            "No other choice of filters extracts as much.",
        ),
    ]


def _beside_gradient(pairs: pd.DataFrame, measure: str, words: str) -> list[Effect]:
    """How far DMBP is ahead of gradient x input on the two kinds of network."""
    found = pairs[pairs["measure"] == measure].set_index("network")
    label = f"{words}, dmbp minus input_x_gradient"
    rows = {kind: found.loc[kind].to_dict() for kind in _KINDS}
    return [Effect.of(f"{label}, {k}", row, cases="networks") for k, row in rows.items()]


def _difference(
    pairs: pd.DataFrame,
    first: str,
    second: str,
    network: str,
    measure: str = "mean fall of the logit",
) -> Effect:
    """First minus second, whichever way round the table has them."""
    label = f"{measure}, {first} minus {second}, {network}"
    found = pairs[(pairs["first"] == first) & (pairs["second"] == second)]
    if len(found):
        return Effect.of(label, found.iloc[0].to_dict(), "difference")
    row = pairs[(pairs["first"] == second) & (pairs["second"] == first)].iloc[0]
    turned = {"mean": -row["difference"], "low": -row["high"], "high": -row["low"]}
    return Effect.of(label, turned | {"images": row["images"]})


def _sides(effects: Sequence[Effect]) -> str:
    """How many comparisons go which way, in words."""
    ahead = sum(effect.low > 0 for effect in effects)
    behind = sum(effect.high < 0 for effect in effects)
    return f"Ahead of {ahead}, behind {behind}, undecided in {len(effects) - ahead - behind}."
