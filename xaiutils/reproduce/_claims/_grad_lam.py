"""The claims of Bartler et al. 2020 (Grad-LAM), of which the abstract alone could be read."""

from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims._row import Claim, Effect, Kind

PAPER = "bartler2020gradlam"
_THERE = "Autoencoders for MNIST and ImageNet; nothing more is said in the abstract."
_SUBJECT = "our reconstruction of the method"
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
    return _claim(
        "The maps are meaningful on MNIST",
        "Abstract",
        "How far the order of the map changes the reconstruction, compared with noise under two "
        "fills, and with the contrast of the picture, which asks no network. These tests are ours.",
        "not testable",
        effects,
        "What would make a map meaningful is not said; other tests would be as good as ours.",
    )


def _applicable(results: Path) -> Claim:
    table = pd.read_csv(results / "grad-lam-natural-comparisons.csv")
    effects = tuple(
        _effect(table, "random", fill, f"less noise, {name}") for fill, name in NATURAL.items()
    )
    return _claim(
        "The method can be applied to natural images",
        "Abstract",
        "It was applied, to Tiny ImageNet. How far its order changes the reconstruction, compared "
        "with noise, is another question, asked by us.",
        "not testable",
        effects,
        "That a method can be applied is shown by applying it; no measurement could refute it.",
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
    return _claim(
        "A weighting by what the decoder knows improves the maps",
        "Abstract, which names the weighting as new; that it helps is implied",
        "The lengths of the columns of the decoder's Jacobian, our reading, minus equal weights.",
        "order",
        effects,
    )


def _claim(
    statement: str,
    where: str,
    here: str,
    kind: Kind,
    effects: tuple[Effect, ...],
    remark: str = "",
) -> Claim:
    return Claim(PAPER, statement, where, _THERE, here, kind, effects, remark, _SUBJECT)


def _effect(table: pd.DataFrame, rival: str, fill: str, words: str) -> Effect:
    """The Jacobian-weighted map less a rival, by the change of the reconstruction."""
    chosen = table[
        (table["output"] == "reconstruction")
        & (table["fill"] == fill)
        & (table["first"] == _METHOD)
        & (table["second"] == rival)
    ]
    return Effect.of(f"{words}; {_WHAT}", chosen.iloc[0].to_dict(), mean="difference")
