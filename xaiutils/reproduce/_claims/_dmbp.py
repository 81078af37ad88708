"""The claims of Ruiz et al. 2021, as far as their abstract states them."""

from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims._row import Claim, Effect, judged

PAPER = "ruiz2021generating"
_RUN = "dmbp-squeezenet1_1-methods"
_RIVALS = ("input_x_gradient", "dmbp_greedy", "sensitivity", "lrp_epsilon_plus")
_THERE = "ResNet-50 and VGG-16 on PASCAL VOC and ImageNet; measures and numbers could not be read."
_HERE = (
    "SqueezeNet 1.1, images of the ImageNet sample, regions of 9 x 9 pixels, 100 steps, uniform "
    "noise; area between the LeRF and MoRF curves, ours minus the other's. The objective is ours."
)


def rows(results: Path) -> list[Claim]:
    """All claims of the paper."""
    pairs = pd.read_csv(results / f"{_RUN}-comparisons.csv").query("measure == 'abpc'")
    images = int(pd.read_csv(results / f"{_RUN}-areas.csv")["images"].max())
    effects = tuple(_difference(pairs, "dmbp", rival, images) for rival in _RIVALS)
    return [
        Claim(
            PAPER,
            "Its maps agree better with the true contribution of each pixel than others' do",
            "Abstract",
            _THERE,
            _HERE,
            effects,
            judged(*effects),
            _sides(effects),
        ),
        Claim(
            PAPER,
            "Its maps are easier to interpret",
            "Abstract",
            _THERE,
            "Not measured for DMBP.",
            (),
            "not testable",
            "No readers were asked here, and the paper's measure could not be read.",
        ),
    ]


def _difference(pairs: pd.DataFrame, first: str, second: str, images: int) -> Effect:
    """First minus second, whichever way round the table has them."""
    label = f"mean fall of the logit, {first} minus {second}"
    found = pairs[(pairs["first"] == first) & (pairs["second"] == second)]
    if len(found):
        return Effect.of(label, found.iloc[0], "difference", images)
    row = pairs[(pairs["first"] == second) & (pairs["second"] == first)].iloc[0]
    turned = {"mean": -row["difference"], "low": -row["high"], "high": -row["low"]}
    return Effect.of(label, turned, images=images)


def _sides(effects: tuple[Effect, ...]) -> str:
    """How many comparisons go which way, in words."""
    ahead = sum(effect.low > 0 for effect in effects)
    behind = sum(effect.high < 0 for effect in effects)
    return f"Ahead of {ahead}, behind {behind}, undecided in {len(effects) - ahead - behind}."
