"""What this book claims itself: ablations of its reconstructions, and theorems with their checks.

None of it is a claim of a paper.
"""

from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims import _dmbp
from xaiutils.reproduce._claims._row import Claim, Effect

_WHERE = "Chapters 31 and 32"
_START = ("dmbp_greedy",)


def rows(results: Path) -> list[Claim]:
    """Ablations, then theorems."""
    return [*_search(results), _closed_form(results)]


def _search(results: Path) -> list[Claim]:
    """Whether the search for masks brings more than the masks that it starts from."""
    return [
        _ablation(
            "The search for masks improves on the masks that it starts from: by the curves",
            "Area between the LeRF and MoRF curves, as in the entries on DMBP.",
            _dmbp.beside(results, "abpc", _dmbp.FALL, _dmbp.CURVES, rivals=_START),
        ),
        _ablation(
            "The same by single regions",
            "Rank correlation with the falls of the logit when one region alone becomes noise.",
            _dmbp.beside(results, "occlusion", _dmbp.RANK, _dmbp.SINGLE, rivals=_START),
        ),
        _ablation(
            "The same by the size of the files",
            "Size of the PNG file, start minus search, so that positive is simpler.",
            _dmbp.beside(results, "png", "bytes", _dmbp.SINGLE, turned=True, rivals=_START),
        ),
        _ablation(
            "The same by the share inside the box",
            "Share of the positive relevance inside the object's box.",
            _dmbp.beside(results, "energy", _dmbp.INSIDE, _dmbp.BOXED, rivals=_START),
        ),
    ]


def _ablation(statement: str, here: str, effects: list[Effect]) -> Claim:
    return Claim("", statement, _WHERE, "", here, "order", tuple(effects))


def _closed_form(results: Path) -> Claim:
    measures = pd.read_csv(results / f"{_dmbp.ORACLE}-measures.csv")
    lead = measures.query("measure == 'lead'").iloc[0].to_dict()
    label = "lead over the next best masks, as a share of all contributions"
    return Claim(
        "",
        "With one hidden layer and no biases the best hard masks have a closed form",
        "Chapter 31, with its proof",
        "",
        "Random networks with six filters: the closed form against all other hard masks.",
        "theorem",
        (Effect.of(label, lead, cases="networks", of_kind=False),),
    )
