"""The claims of Bluecher et al. 2024 on rankings and fills, from the runs ``controls``."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims._row import Claim, Effect
from xaiutils.reproduce._claims._samek import NETWORKS

PAPER = "bluecher2024decoupling"
_OF_KIND = ("squeezenet1_1", "efficientnet_lite0")
"""The paper's networks classify photographs; the others do not."""
_THERE = (
    "Forty occlusion strategies on ImageNet, a ranking of methods by each. The measure is the "
    "symmetric relevance gain: the difference of the two orders, which is the area between the "
    "curves but for its scale. We go by the abstract; no number of theirs was looked up."
)
_RANKS = "rank correlation of two fills, mean over all pairs"


def rows(results: Path) -> list[Claim]:
    """That both orders together make the ranking depend less on the fill; and not at all."""
    return [
        Claim(
            PAPER,
            "By both orders together the ranking depends less on the fill than by MoRF order",
            "Abstract",
            _THERE,
            "Six maps, eight fills, squares of 16 pixels (digits: 4), 16 % replaced: mean rank "
            "correlation between the fills, by the area between the curves less by the MoRF curve.",
            "order",
            _effects(results, "abpc less aopc_morf", _RANKS + ", ABPC less MoRF"),
            "The intervals are of the bootstrap over images, which pulls rank correlations down.",
        ),
        Claim(
            PAPER,
            "By both orders together the ranking does not depend on the fill",
            "Abstract",
            _THERE,
            "As above, by the area between the curves alone.",
            "not testable",
            _effects(results, "abpc", _RANKS + ", ABPC"),
            "With six maps and a hundred images a ranking is uncertain by itself, so that a "
            "correlation below 1 refutes nothing. " + _halves(results),
        ),
    ]


def _effects(results: Path, measure: str, words: str) -> tuple[Effect, ...]:
    """The row of the means over all pairs of fills, on each network that was run."""
    found = []
    for network, name in NETWORKS.items():
        table = _table(results, network, "agreement")
        if table is None:
            continue
        row = table[(table["measure"] == measure) & (table["first"] == "(mean)")].iloc[0]
        effect = Effect.of(f"{words}, {name}", row.to_dict(), mean="spearman")
        found.append(replace(effect, of_kind=network in _OF_KIND))
    if not found:
        raise FileNotFoundError(f"{results} has no table of the agreement of fills")
    return tuple(found)


def _halves(results: Path) -> str:
    """How two halves of the images agree, with the same fill and with another."""
    said = []
    for network, name in NETWORKS.items():
        table = _table(results, network, "halves")
        if table is not None:
            row = table.set_index("measure").loc["abpc"]
            said.append(f"{row['same_fill']:.2f} and {row['other_fill']:.2f} ({name})")
    return (
        f"Two halves of the images agree with the same fill and with another by {', '.join(said)}; "
        "without an interval."
    )


def _table(results: Path, network: str, name: str) -> pd.DataFrame | None:
    path = results / f"controls-{network}-{name}.csv"
    return pd.read_csv(path) if path.exists() else None
