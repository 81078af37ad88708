"""What this book claims itself: ablations of its reconstructions, and theorems with their checks.

None of it is a claim of a paper.
"""

from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims import _dmbp, _dmbp_moving, _grad_lam
from xaiutils.reproduce._claims._row import Claim, Effect

_DMBP, _MOVING, _GRAD_LAM = "Chapters 31 and 32", "Chapter 33", "Chapters 22 and 23"
_START = ("dmbp_greedy",)
_ALL, _ONE = ("sums", _grad_lam.GRAM), ("latents", _grad_lam.OWN)
_REFERENCE = "What replaces a region is a better reference than zero"
_PLACES = "Slopes left in their places are better than pooled ones"
_RANKS = "The map of all latents ranks regions better than"
_READINGS = (
    (f"{_REFERENCE}, for all latents together", *_ALL, "gram, zero"),
    (f"{_REFERENCE}, for single latents", *_ONE, "element-wise, zero: its own map"),
    (f"{_PLACES}, for all latents together", *_ALL, "gram, fill, pooled"),
    (f"{_PLACES}, for single latents", *_ONE, "pooled, fill: its own map"),
    (f"{_RANKS} the size of the change, which asks no network", *_ALL, "size of the change"),
    (f"{_RANKS} that of an encoder with random weights", *_ALL, "gram, fill, random encoder"),
    ("The angles of the decoder's columns add to their lengths", *_ALL, "jacobian, fill"),
)
"""Statement, table, and what is compared with what in it."""


def rows(results: Path) -> list[Claim]:
    """Ablations, then theorems."""
    return [*searches(results), *targets(results), *readings(results), closed_form(results)]


def searches(results: Path) -> list[Claim]:
    """Whether the search for masks brings more than the masks that it starts from."""
    return [
        _ablation(
            "The first search for masks improves on the masks that it starts from: by the curves",
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


def targets(results: Path) -> list[Claim]:
    """Which part of the second search decides how its positive branch ranks regions."""
    run = _dmbp_moving.RUNS["SqueezeNet 1.1"]
    pairs = pd.read_csv(results / f"{run}-comparisons.csv")

    def less(first: str, second: str) -> list[Effect]:
        label = f"{_dmbp.FALL}, {first} minus {second}, SqueezeNet 1.1"
        return _dmbp.difference(pairs, f"{first}/positive", f"{second}/positive", label)

    return [
        _ablation(
            "Masks that can move rank regions better than those of the first search",
            "Area between the LeRF and MoRF curves of the positive branch.",
            less(_dmbp_moving.CHOSEN, _dmbp_moving.DEFAULT),
            _MOVING,
        ),
        _ablation(
            "With a target that asks the network itself, window by window, they rank them better "
            "still",
            "The same search, whose branches have to add up to what the output loses when a window "
            "is covered, minus the same search with the evidence of the unmasked network.",
            less(_dmbp_moving.CONTROL, _dmbp_moving.CHOSEN),
            _MOVING,
        ),
    ]


def readings(results: Path) -> list[Claim]:
    """What each part of the second reading of Grad-LAM does."""
    measures = {"sums": ("area", "correlation"), "latents": ("swing",)}
    return [
        _ablation(
            statement,
            f'"{first}" less "{second}", under three fills, on digits and on Tiny ImageNet.',
            [
                effect
                for measure in measures[part]
                for effect in _grad_lam.planned(results, part, measure, first, second, "difference")
            ],
            _GRAD_LAM,
        )
        for statement, part, first, second in _READINGS
    ]


def _ablation(statement: str, here: str, effects: list[Effect], where: str = _DMBP) -> Claim:
    return Claim("", statement, where, "", here, "order", tuple(effects))


def closed_form(results: Path) -> Claim:
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
