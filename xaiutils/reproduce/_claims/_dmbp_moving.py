"""The claims of Ruiz et al. 2021 by the second reconstruction, a search whose masks can move.

Beside each entry stands the same for the first search, whose masks hardly move; what speaks against
a claim there counts against that search, and refutes nothing.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from xaiutils.reproduce._claims import _dmbp
from xaiutils.reproduce._claims._row import Claim, Effect, Kind

RUNS = {
    "SqueezeNet 1.1": "dmbp-separation-squeezenet1_1-report",
    "EfficientNet-Lite0": "dmbp-separation-efficientnet_lite0-report",
}
"""Reports of both searches; `_chosen` says which of their images are among those to choose by."""
CHOICE = "dmbp-separation-squeezenet1_1-choose"
CHOSEN, DEFAULT, CONTROL = "shares", "default", "occluded"
"""What was chosen on other images; the first search; the target that asks the network itself."""
LOOK = "12 px, moved by 5"
FILLS = {"uniform": "noise", "blur": "blur"}
_LESS_STRICT = {
    "rise_over_random": "less that for regions by lot",
    "rise_over_borrowed": "less that for another picture's map",
}
_CAPTION = "Abstract, and the caption of Fig. 2 as others quote it"
_ASIDE = "Abstract; the measure is ours"
_APART = "Positive and negative factors come apart: the branches lie at different places"
_AGAINST = (
    "Positive and negative factors come apart: what the negative branch marks lowers the output"
)


def rows(results: Path) -> list[Claim]:
    """All claims of the paper, by the search whose masks can move."""
    return [
        _splits(),
        *_apart(results),
        *_against(results),
        _one_sign(results),
        _nuisance(),
        _contributions(results),
        _readers(),
    ]


def _splits() -> Claim:
    return _claim(
        "The function of a ReLU network splits into several linear mappings",
        "Abstract",
        "It is so for any masks: the branches, what they leave over and, where they are put aside, "
        "the biases sum to the output. The chapters on DMBP prove it, and check it on each of "
        "their networks.",
        remark="It is a construction, which no measurement could refute.",
    )


def _apart(results: Path) -> list[Claim]:
    return _both(
        results,
        _APART,
        f"{_bound(results):g} less the cosine of the two branches over windows that no objective "
        f"asks about ({LOOK}). The bound was fixed before the first image.",
        partial(apart, results),
        "Chapter 33 tried a larger charge for overlap on one photograph afterwards, and there the "
        "branches came apart on EfficientNet-Lite0 too.",
    )


def apart(results: Path, candidate: str) -> list[Effect]:
    """By how much the cosine of the branches stays below the bound, on each network."""
    found, bound = [], _bound(results)
    for effect in _measured(results, candidate, f"cosine, {LOOK}", "(none)", "both", "cosine"):
        turned = effect.turned()
        ends = {end: bound + getattr(turned, end) for end in ("mean", "low", "high")}
        found.append(replace(turned, measure=f"{bound:g} less the {effect.measure}", **ends))
    return found


def _against(results: Path) -> list[Claim]:
    """The strict question, then the less strict ones."""
    record = _record(results, next(iter(RUNS.values())))
    side, marked = record["perturbation"][0], record["marked"]
    here = (
        f"By how much the logit rises when the {marked} regions of {side} x {side} pixels that the "
        "negative branch marks most are replaced, under two fills."
    )
    less = " Less the rise for as many regions by lot, or for those of another picture's branch."
    return [
        *_both(results, _AGAINST, here, partial(rises, results, {"rise": ""})),
        *_both(
            results,
            f"{_AGAINST}, compared with other regions",
            here + less,
            partial(rises, results, _LESS_STRICT),
        ),
    ]


def rises(results: Path, measures: Mapping[str, str], candidate: str) -> list[Effect]:
    """Rises of the logit when what the negative branch marks is replaced."""
    return [
        effect
        for measure, less in measures.items()
        for fill, name in FILLS.items()
        for effect in _measured(
            results,
            candidate,
            measure,
            fill,
            "negative",
            ", ".join(text for text in ("rise of the logit", less, name) if text),
        )
    ]


def _one_sign(results: Path) -> Claim:
    effects = [
        effect
        for candidate, search in ((CHOSEN, "masks that move"), (DEFAULT, "first search"))
        for sign in ("positive", "negative")
        for effect in _measured(
            results,
            candidate,
            f"purity_{sign}, {LOOK}",
            "(none)",
            "both",
            f"purity of the {sign} branch, {search}",
        )
    ]
    return _claim(
        "Positive and negative factors come apart: each branch has one sign",
        "Abstract",
        f"{_set_up(results, CHOSEN)} Sum over the sum of the sizes, in windows that no objective "
        f"asks about ({LOOK}); 1 if all have the sign of their branch.",
        effects=effects,
        remark="How pure is pure enough is not said, and a pure map need not be a true one.",
    )


def _nuisance() -> Claim:
    return _claim(
        "Nuisance is kept out of the maps",
        _CAPTION,
        "Chapter 33 plants clutter that cancels in networks of its own, and looks for it in both "
        "branches; its numbers are made there, anew each time.",
        remark="On photographs nobody knows which part of a map is nuisance.",
    )


def _contributions(results: Path) -> Claim:
    run = RUNS["SqueezeNet 1.1"]
    pairs = pd.read_csv(results / f"{run}-comparisons.csv")
    side, steps, *_ = _record(results, run)["perturbation"]
    beside = {rival: _beside(pairs, rival) for rival in _dmbp.RIVALS}
    missing = ", ".join(rival for rival, effects in beside.items() if not effects)
    return _claim(
        _dmbp.CONTRIBUTIONS,
        "Abstract",
        f"{_set_up(results, CHOSEN, ('SqueezeNet 1.1',))} Regions of {side} x {side} pixels and "
        f"{steps} steps, uniform noise; area between the LeRF and MoRF curves, DMBP minus the "
        f"other. Not run: {missing}.",
        "order",
        [effect for effects in beside.values() for effect in effects],
        f"Corrected for the {len(pairs)} comparisons of its own table alone, as in chapter 33, it "
        f"is told from {_told_from(pairs)}. With a target that asks the network itself it ranks "
        "regions better: see our own ablations.",
    )


def _readers() -> Claim:
    return _claim(
        "Its maps are easier to interpret",
        "Abstract",
        "Nothing. Of the first search, the sizes of files and the shares inside boxes stand below.",
        remark="It is a statement on readers, and none were asked.",
    )


def _beside(pairs: pd.DataFrame, rival: str) -> list[Effect]:
    """The positive branch minus a rival, if the table has it."""
    label = f"{_dmbp.FALL}, DMBP minus {rival}, SqueezeNet 1.1"
    return _dmbp.difference(pairs, f"{CHOSEN}/positive", f"{rival}/map", label)


def _told_from(pairs: pd.DataFrame) -> str:
    """The rivals from which the table itself tells the positive branch, by its own correction."""
    sure = pairs[pairs["p_holm"] < 0.05]
    return " and ".join(rival for rival in _dmbp.RIVALS if _beside(sure, rival)) or "none"


def _both(
    results: Path,
    statement: str,
    here: str,
    find: Callable[[str], list[Effect]],
    remark: str = "",
) -> list[Claim]:
    """A claim by the search whose masks can move, and the same by the first one."""
    first = f"{statement}, by the first search"
    return [
        _claim(
            name,
            _ASIDE,
            f"{_set_up(results, candidate)} {here}",
            "order",
            find(candidate),
            note,
            candidate == DEFAULT,
        )
        for name, candidate, note in ((statement, CHOSEN, remark), (first, DEFAULT, ""))
    ]


def _claim(
    statement: str,
    where: str,
    here: str,
    kind: Kind = "not testable",
    effects: Sequence[Effect] = (),
    remark: str = "",
    held_back: bool = False,
) -> Claim:
    subject = _dmbp.FIRST if held_back else _dmbp.SECOND
    facts = (_dmbp.PAPER, statement, where, _dmbp.THERE, here, kind, tuple(effects), remark)
    return Claim(*facts, subject, best_chance=not held_back)


def _set_up(results: Path, candidate: str, networks: Sequence[str] = tuple(RUNS)) -> str:
    """Networks, steps of the search and what chose it, from the records of the runs."""
    found = {n: _record(results, RUNS[n]) for n in networks}
    steps = {
        name: _steps(record, candidate)
        for name, record in found.items()
        if candidate in record["candidates"]
    }
    words = ", ".join(f"{name} ({number} steps)" for name, number in steps.items())
    chosen = _chosen(results, found) if candidate == CHOSEN else ""
    return (
        f"Images of the ImageNet sample; {words}, where the call that others quote asks for "
        f"200.{chosen}"
    )


def _chosen(results: Path, reports: Mapping[str, dict[str, Any]]) -> str:
    """On how many images the search was chosen, and where such an image is reported on."""
    choice = _record(results, CHOICE)
    images = set(choice["measured"])
    said = f" It was chosen on {len(images)} images by another run, on {choice['model']}"
    again = {name: len(images & set(record["measured"])) for name, record in reports.items()}
    there = [
        f"{count} of them {'is' if count == 1 else 'are'} among those of {name}"
        for name, count in again.items()
        if count
    ]
    return f"{said}; {' and '.join(there)}." if there else f"{said}; none of them is here."


def _steps(record: dict[str, Any], candidate: str) -> int:
    """Iterations of the search; a candidate's own come before those of the run."""
    own = re.search(r"'iterations': (\d+)", record["candidates"][candidate])
    return int(own[1] if own else record["iterations"])


def _measured(
    results: Path, candidate: str, measure: str, fill: str, view: str, words: str
) -> list[Effect]:
    """A row of the tables of each network that has it."""
    found = []
    for network, run in RUNS.items():
        table = pd.read_csv(results / f"{run}-measures.csv")
        names = {"measure": measure, "fill": fill, "candidate": candidate, "map": view}
        rows = table[(table[list(names)] == pd.Series(names)).all(axis=1)]
        found += [Effect.of(f"{words}, {network}", row) for row in rows.to_dict("records")]
    return found


def _bound(results: Path) -> float:
    return float(_record(results, next(iter(RUNS.values())))["separate"])


def _record(results: Path, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / f"{run}.json").read_text(encoding="utf-8"))
    return found
