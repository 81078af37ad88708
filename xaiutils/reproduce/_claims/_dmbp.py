"""The claims of Ruiz et al. 2021, as far as their abstract states them, by the first search.

Its masks hardly move, so that it had not its best chance; ``_dmbp_moving`` has the other search.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims._row import Claim, Effect, Kind

PAPER = "ruiz2021generating"
RIVALS = (
    "input_x_gradient",
    "sensitivity",
    "deconvnet",
    "guided_backprop",
    "grad_cam",
    "lrp_alpha2_beta1",
    "lrp_epsilon_plus",
)
"""Whom DMBP is compared with, the same in every entry; what a table lacks its entry names."""
CURVES = {
    "SqueezeNet 1.1": "dmbp-squeezenet1_1-methods",
    "EfficientNet-Lite0": "dmbp-efficientnet_lite0-methods",
    "ResNet-18": "dmbp-tiny_resnet18",
    "VGG-11": "dmbp-tiny_vgg11_bn",
}
SINGLE = {
    "SqueezeNet 1.1": "maps-squeezenet1_1",
    "EfficientNet-Lite0": "maps-efficientnet_lite0",
    "ResNet-18": "maps-tiny_resnet18",
    "VGG-11": "maps-tiny_vgg11_bn",
}
BLURRED = {name: f"{SINGLE[name]}-blur" for name in ("SqueezeNet 1.1", "EfficientNet-Lite0")}
BOXED = {name: SINGLE[name] for name in ("ResNet-18", "VGG-11")}
REPORT = "dmbp-squeezenet1_1-report"
CHOSEN = "purity_window/positive"
ORACLE = "dmbp-oracle"
KINDS = ("without biases", "with biases")
FALL = "mean fall of the logit"
RANK = "rank correlation"
INSIDE = "share inside the box"
FIRST = "our first reconstruction, whose masks hardly move (chapters 31 and 32)"
SECOND = "our second reconstruction, whose masks can change sides (chapter 33)"
CONTRIBUTIONS = "Its maps agree better with the true contribution of each pixel than others' do"
THERE = "ResNet-50 and VGG-16 on PASCAL VOC and ImageNet; measures and numbers could not be read."
_ON_SAMPLE = "SqueezeNet and EfficientNet-Lite0 on images of the ImageNet sample"
_ON_TINY = "ResNet-18 and VGG-11 trained here on 50 classes of Tiny ImageNet"
_EVERYWHERE = f"{_ON_SAMPLE}, {_ON_TINY}. "
_NO_READERS = (
    "It is a statement on readers, and none were asked. What was measured stands for it at best."
)
_BUILT = (
    "Random networks with two hidden layers that look at one region at a time and add up: blanking "
    "a region changes the output by its contribution, whatever else is blank. "
)


def rows(results: Path) -> list[Claim]:
    """All claims of the paper that the first search was tested on."""
    return [*_curves(results), *_single_regions(results), *_readers(results), *_oracles(results)]


def _curves(results: Path) -> list[Claim]:
    """What is measured by replacing regions one after another."""
    report = pd.read_csv(results / f"{REPORT}-comparisons.csv")
    windows = [
        effect
        for rival in RIVALS
        for effect in difference(
            report, CHOSEN, f"{rival}/map", f"{FALL}, DMBP minus {rival}, SqueezeNet 1.1"
        )
    ]
    return [
        _beside_rivals(
            f"{CONTRIBUTIONS}, by the first search",
            _EVERYWHERE + "Regions of 9 x 9 pixels and 100 steps (4 x 4 and 40 on Tiny ImageNet), "
            "uniform noise; area between the LeRF and MoRF curves, DMBP minus the other.",
            beside(results, "abpc", FALL, CURVES),
        ),
        _beside_rivals(
            "The same on regions over which purity was asked for",
            "SqueezeNet 1.1, the objective chosen on other images of the ImageNet sample; regions "
            "of 16 x 16 pixels, which are the windows of the objective, 30 steps, uniform noise.",
            windows,
        ),
    ]


def _single_regions(results: Path) -> list[Claim]:
    """What is measured by replacing one region at a time."""
    return [
        _beside_rivals(
            "The same when one region alone is taken away",
            _EVERYWHERE + "Rank correlation over regions (14 x 14 pixels; 8 x 8 on Tiny ImageNet) "
            "of a map's sums with the falls of the logit when each region alone becomes noise.",
            beside(results, "occlusion", RANK, SINGLE),
        ),
        _beside_rivals(
            "The same when one region alone is blurred",
            f"{_ON_SAMPLE}. As in the entry above, but each region alone is replaced by its "
            "blurred copy.",
            beside(results, "occlusion", RANK, BLURRED),
        ),
    ]


def _readers(results: Path) -> list[Claim]:
    """What was measured beside the claim that the maps are easier to interpret."""
    return [
        _beside_rivals(
            "Its maps are easier to interpret: by the size of their files",
            _EVERYWHERE + "The map as a grey PNG file, the other's size minus DMBP's, so that "
            "positive means that DMBP's is simpler.",
            beside(results, "png", "bytes", SINGLE, turned=True),
            "not testable",
            _NO_READERS,
        ),
        _beside_rivals(
            "Its maps are easier to interpret: by how much of them lies on the object",
            f"{_ON_TINY}. Share of the positive relevance inside the object's box, images that "
            "the network names rightly, DMBP minus the other.",
            beside(results, "energy", INSIDE, BOXED),
            "not testable",
            _NO_READERS,
        ),
    ]


def _oracles(results: Path) -> list[Claim]:
    """What was measured on networks for which the right answer is known."""
    pairs = pd.read_csv(results / f"{ORACLE}-comparisons.csv").query("method == 'purity'")
    whole = _beside_gradient(pairs, "agreement", "correlation with the contributions")
    parts = [
        effect
        for evidence in ("gross ", "")
        for sign in ("positive", "negative")
        for effect in _beside_gradient(
            pairs, f"{evidence}{sign}", f"cosine with the {evidence or 'net '}{sign} contributions"
        )
    ]
    return [
        _claim(
            "Its maps agree with the true contribution of each region, where it is known",
            _BUILT + "Both branches together minus gradient x input.",
            whole,
            "not testable",
            "Random networks are of another kind. Without biases gradient x input is the "
            "contribution itself, so that no map can be ahead of it.",
        ),
        _claim(
            "It separates positive from negative factors, where both are known",
            _BUILT + "Each branch minus the entries of its sign in gradient x input. Gross: what "
            "the units of the last hidden layer with a share of that sign put in; net: the balance "
            "of a region, where it has that sign.",
            parts,
            "not testable",
            "Random networks are of another kind. A branch is meant to report gross evidence; the "
            "balance is what gradient x input states, exactly where there are no biases.",
        ),
    ]


def _beside_rivals(
    statement: str,
    here: str,
    effects: Sequence[Effect],
    kind: Kind = "order",
    remark: str = "",
) -> Claim:
    """A claim on DMBP and all rivals; those that its tables lack are named."""
    missing = [r for r in RIVALS if not any(f" {r}" in e.measure for e in effects)]
    gaps = f" Not run: {', '.join(missing)}." if missing else ""
    return _claim(statement, here + gaps, effects, kind, remark)


def _claim(statement: str, here: str, effects: Sequence[Effect], kind: Kind, remark: str) -> Claim:
    """A claim of the abstract, of a search that had not its best chance."""
    facts = (PAPER, statement, "Abstract", THERE, here, kind, tuple(effects), remark, FIRST)
    return Claim(*facts, best_chance=False)


def beside(
    results: Path,
    measure: str,
    words: str,
    runs: Mapping[str, str],
    turned: bool = False,
    rivals: Sequence[str] = RIVALS,
    ours: str = "dmbp",
) -> list[Effect]:
    """DMBP minus each rival on each network, turned where smaller is better."""
    found = []
    for network, run in runs.items():
        table = pd.read_csv(results / f"{run}-comparisons.csv")
        pairs = table[table["measure"] == measure]
        for rival in rivals:
            order = f"{rival} minus DMBP" if turned else f"DMBP minus {rival}"
            label = f"{words}, {order}, {network}"
            effects = difference(pairs, ours, rival, label)
            found += [effect.turned() if turned else effect for effect in effects]
    return found


def difference(pairs: pd.DataFrame, first: str, second: str, label: str) -> list[Effect]:
    """First minus second, whichever way round the table has them; nothing if it has not."""
    for one, other, turn in ((first, second, False), (second, first, True)):
        found = pairs[(pairs["first"] == one) & (pairs["second"] == other)]
        if len(found):
            effect = Effect.of(label, found.iloc[0].to_dict(), "difference")
            return [effect.turned() if turn else effect]
    return []


def _beside_gradient(pairs: pd.DataFrame, measure: str, words: str) -> list[Effect]:
    """How far DMBP is ahead of gradient x input on the two kinds of network."""
    found = pairs[pairs["measure"] == measure].set_index("network")
    label = f"{words}, DMBP minus input_x_gradient"
    rows = {kind: found.loc[kind].to_dict() for kind in KINDS}
    return [
        Effect.of(f"{label}, {k}", row, "mean", 0, "networks", False) for k, row in rows.items()
    ]
