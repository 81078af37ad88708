"""The claims of Bartler et al. 2020 (Grad-LAM), of which the abstract alone could be read."""

from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims._row import Claim, Effect, judged

PAPER = "bartler2020gradlam"
_THERE = "Autoencoders for MNIST and ImageNet; nothing more is said in the abstract."
_METHOD = "jacobian-abs-pooled"
_WHAT = "area between the curves, in units of the reconstruction"
NATURAL = {"constant": "the mean picture", "blur": "blur"}
DIGITS = {"constant": "the mean digit", "uniform": "uniform noise"}


def rows(results: Path) -> list[Claim]:
    """All claims of the paper."""
    return [_meaningful(results), _applicable(results), _weighting(results)]


def _meaningful(results: Path) -> Claim:
    table = pd.read_csv(results / "grad-lam-mnist-comparisons.csv")
    effects = (
        *(_effect(table, "random", fill, f"less noise, {name}") for fill, name in DIGITS.items()),
        _effect(table, "contrast", "constant", "less the contrast of the picture, the mean digit"),
    )
    return Claim(
        PAPER,
        "The maps are meaningful on MNIST",
        "Abstract",
        _THERE,
        "Our reconstruction of the method. Meaningful is taken to mean that the order of the map "
        "changes the reconstruction more than noise does, whatever the fill, and more than the "
        "contrast of the picture, which asks no network.",
        effects,
        judged(*effects),
        _directions(effects),
    )


def _applicable(results: Path) -> Claim:
    table = pd.read_csv(results / "grad-lam-natural-comparisons.csv")
    effects = tuple(
        _effect(table, "random", fill, f"less noise, {name}") for fill, name in NATURAL.items()
    )
    return Claim(
        PAPER,
        "The method can be applied to natural images",
        "Abstract",
        _THERE,
        "Our reconstruction on Tiny ImageNet, not ImageNet, judged as on MNIST against noise.",
        effects,
        judged(*effects),
        _directions(effects),
    )


def _weighting(results: Path) -> Claim:
    effects = tuple(
        _effect(
            pd.read_csv(results / f"grad-lam-{data}-planned.csv"),
            "uniform-abs-pooled",
            "constant",
            f"less equal weights, {name}",
        )
        for data, name in (("mnist", "MNIST"), ("natural", "Tiny ImageNet"))
    )
    return Claim(
        PAPER,
        "A weighting by what the decoder knows improves the maps",
        "Abstract, which names the weighting as new; that it helps is implied",
        _THERE,
        "The lengths of the columns of the decoder's Jacobian, our reading, against equal weights.",
        effects,
        judged(*effects),
        _directions(effects),
    )


def _effect(table: pd.DataFrame, rival: str, fill: str, words: str) -> Effect:
    """The Jacobian-weighted map less a rival, by the change of the reconstruction."""
    chosen = table[
        (table["output"] == "reconstruction")
        & (table["fill"] == fill)
        & (table["first"] == _METHOD)
        & (table["second"] == rival)
    ]
    return Effect.of(f"{words}; {_WHAT}", chosen.iloc[0].to_dict(), mean="difference")


def _directions(effects: tuple[Effect, ...]) -> str:
    better = sum(effect.low > 0 for effect in effects)
    worse = sum(effect.high < 0 for effect in effects)
    return f"Of {len(effects)} comparisons {better} are won beyond doubt and {worse} lost."
