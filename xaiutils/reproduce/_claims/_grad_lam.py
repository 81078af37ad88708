"""The claims of Bartler et al. 2020 (Grad-LAM), of which the abstract alone could be read.

Two readings: the map compares the picture with what replaces a region, which is the question that
it is judged by; and, as Grad-CAM does, with feature maps of zero. The first has the best chance.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims._row import Claim, Effect, Kind

PAPER = "bartler2020gradlam"
MATCHED = "our second reading, with what replaces a region as the reference"
ZERO = "our first reading, with feature maps of zero as the reference"
DIGITS, NATURAL = {"MNIST": "mnist"}, {"Tiny ImageNet": "natural"}
BOTH = DIGITS | NATURAL
FILLS = {"constant": "the mean picture", "uniform": "uniform noise", "blur": "blur"}
WORDS = {
    "area": "area between the curves, in units of the reconstruction",
    "correlation": "correlation with occlusion",
    "swing": "swing of the latent, in units of its spread",
}
OWN = "element-wise, fill: its own map"
GRAM = "gram, fill"
_CONTROLS = {
    "random": "a random map",
    "size of the change": "the size of the change, which asks no network",
    "gram, fill, another picture": "the map of another picture",
    "gram, fill, random encoder": "the map of an encoder with random weights",
}
_OTHERS = {
    "element-wise, fill: the maps of other latents": "the maps of other latents",
    "element-wise, fill: its map of another picture": "its map of another picture",
    "random: its own map": "a random map",
}
_THERE = "Autoencoders for MNIST and ImageNet; nothing more is said in the abstract."
_ZERO_METHOD = "jacobian-abs-pooled"
_OF_MEANING = "What would make a map meaningful is not said; other tests would be as good as ours."
_OF_USE = "That a method can be applied is shown by applying it; no measurement could refute it."
_OF_SUMS = (
    "How far the order of the map of all latents changes the reconstruction, and how it agrees "
    "with occlusion, compared with controls"
)
_IMPLIED = "Abstract, which names the weighting as new; that it helps is implied"
_WEIGHTING = "A weighting by what the decoder knows improves the maps"
_LATENT = "The map of a latent marks what in the picture moves this latent"


def rows(results: Path) -> list[Claim]:
    """All claims of the paper."""
    return [
        *_meaningful(results),
        *_latents(results),
        *_applicable(results),
        *_weighting(results),
    ]


def _meaningful(results: Path) -> list[Claim]:
    table = pd.read_csv(results / "grad-lam-mnist-comparisons.csv")
    by_zero = (
        *(_at_zero(table, "random", fill, "less a random map") for fill in ("constant", "uniform")),
        _at_zero(table, "contrast", "constant", "less the contrast of the picture"),
    )
    return [
        _claim(
            "The maps are meaningful on MNIST",
            "Abstract",
            f"{_OF_SUMS}, under three fills. These tests are ours.",
            _sums(results, DIGITS),
            remark=f"{_OF_MEANING} With a mark that we planted, chapter 24 finds that signed sums "
            "of element-wise maps tell a code that reads it from one that does not, and that "
            "pooled maps do not.",
        ),
        _claim(
            "The maps are meaningful on MNIST, with the reference zero",
            "Abstract",
            "How far the order of the map changes the reconstruction, compared with a random map "
            "under two fills, and with the contrast of the picture, which asks no network. These "
            "tests are ours.",
            by_zero,
            remark=_OF_MEANING,
            subject=ZERO,
        ),
    ]


def _latents(results: Path) -> list[Claim]:
    """The object of the paper, the map of one latent."""
    where = (
        "Abstract, which wants to show the regions that matter, and to give insight into the way "
        "from a picture to its code; the measure is ours"
    )
    here = (
        "The highest regions of the map of one latent are replaced, and the lowest: half of what "
        "the latent falls and rises"
    )
    pooled = "pooled, fill: its own map", "pooled, fill: its map of another picture"
    return [
        _claim(
            _LATENT,
            where,
            f"{here}, with element-wise slopes, less the same in the order of controls.",
            [
                effect
                for rival, name in _OTHERS.items()
                for effect in planned(results, "latents", "swing", OWN, rival, f"less {name}")
            ],
            kind="order",
        ),
        _claim(
            f"{_LATENT}, with slopes pooled as in Grad-CAM",
            where,
            f"{here}, with pooled slopes, less the same by the map of another picture.",
            planned(results, "latents", "swing", *pooled, "less its map of another picture"),
            kind="order",
            remark="The swings are small beside those of element-wise slopes: see our ablations.",
        ),
    ]


def _applicable(results: Path) -> list[Claim]:
    table = pd.read_csv(results / "grad-lam-natural-comparisons.csv")
    by_zero = [
        _at_zero(table, "random", fill, "less a random map") for fill in ("constant", "blur")
    ]
    applied = "It was applied, to Tiny ImageNet."
    return [
        _claim(
            "The method can be applied to natural images",
            "Abstract",
            f"{applied} {_OF_SUMS}, is another question, asked by us.",
            _sums(results, NATURAL),
            remark=_OF_USE,
        ),
        _claim(
            "The method can be applied to natural images, with the reference zero",
            "Abstract",
            f"{applied} How far its order changes the reconstruction, compared with a random map, "
            "is another question, asked by us.",
            by_zero,
            remark=_OF_USE,
            subject=ZERO,
        ),
    ]


def _weighting(results: Path) -> list[Claim]:
    first, second = "jacobian, fill", "uniform, fill, other units"
    as_trained = [
        _at_zero(
            pd.read_csv(results / f"grad-lam-{run}-planned.csv"),
            "uniform-abs-pooled",
            "constant",
            f"less equal weights, {name}",
        )
        for name, run in BOTH.items()
    ]
    return [
        _claim(
            f"{_WEIGHTING}, where latents have unequal units",
            _IMPLIED,
            "The lengths of the columns of the decoder's Jacobian, our reading, minus equal "
            "weights. The latents were given units by lot, which the decoder undoes: here a "
            "weighting has something to mend.",
            [
                effect
                for measure in ("area", "correlation")
                for effect in planned(results, "sums", measure, first, second, "less equal weights")
            ],
            kind="order",
        ),
        _claim(
            f"{_WEIGHTING}, as the latents were trained",
            _IMPLIED,
            "The same with the reference zero, and the units that training has left: they are "
            "nearly equal, and then no weighting can change much (chapter 23 proves by how much).",
            as_trained,
            kind="order",
            subject=ZERO,
        ),
    ]


def _sums(results: Path, data: Mapping[str, str]) -> list[Effect]:
    """The map of all latents with the fill as reference, less each control."""
    return [
        effect
        for rival, name in _CONTROLS.items()
        for measure in ("area", "correlation")
        for effect in planned(results, "sums", measure, GRAM, rival, f"less {name}", data)
    ]


def planned(
    results: Path,
    part: str,
    measure: str,
    first: str,
    second: str,
    words: str,
    data: Mapping[str, str] = BOTH,
) -> list[Effect]:
    """First less second under each fill, of the maps whose reference is the fill."""
    found = []
    for name, run in data.items():
        table = pd.read_csv(results / f"gradlam-matched-{run}-{part}-planned.csv")
        pairs = table.set_index(["measure", "first", "second", "fill"]).sort_index()
        for fill, filled in FILLS.items():
            row = pairs.loc[(measure, first, second, fill)].to_dict()
            label = f"{words}, under {filled}, {name}; {WORDS[measure]}"
            found.append(Effect.of(label, row, mean="difference"))
    return found


def _claim(
    statement: str,
    where: str,
    here: str,
    effects: Sequence[Effect],
    kind: Kind = "not testable",
    remark: str = "",
    subject: str = MATCHED,
) -> Claim:
    facts = (PAPER, statement, where, _THERE, here, kind, tuple(effects), remark, subject)
    return Claim(*facts, best_chance=subject == MATCHED)


def _at_zero(table: pd.DataFrame, rival: str, fill: str, words: str) -> Effect:
    """The Jacobian-weighted map less a rival, by the change of the reconstruction."""
    chosen = table[
        (table["output"] == "reconstruction")
        & (table["fill"] == fill)
        & (table["first"] == _ZERO_METHOD)
        & (table["second"] == rival)
    ]
    row = chosen.iloc[0].to_dict()
    label = f"{words}, under {FILLS[fill]}; {WORDS['area']}"
    return Effect.of(label, row, mean="difference")
