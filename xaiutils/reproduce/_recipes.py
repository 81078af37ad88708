"""How the kinds of tables of the long runs are read into the long one (measures.py).

Each kind has a recipe: which columns play which part, and what is the same in all rows. What a
recipe does not name becomes a part of the column ``setting``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import pandas as pd

NONE = "(none)"  # nothing was replaced, or taken away
BY_LOT = "order by lot"  # of the regions; the method `random` is a map of noise
_AS_CONTROLS = {  # one name for one control, whatever a file calls it
    "borrowed map": "borrowed", "map without sign": "unsigned",
}  # fmt: skip
_ORDERS = {"aopc_morf": "morf", "aopc_lerf": "lerf", "abpc": "both", "own_minus_borrowed": "both",
           "aopc_relative": "morf", "random_minus_lerf": "lerf"}  # fmt: skip
_BETTER = {
    "aopc_morf": "more", "aopc_lerf": "less", "abpc": "more", "own_minus_borrowed": "more",
    "random_minus_lerf": "more", "area": "more", "correlation": "more", "partial": "more",
    "swing": "more", "first": "more", "occlusion": "more", "energy": "more", "pointing": "more",
    "score": "more", "rise": "more", "agreement": "more", "negative": "more", "positive": "more",
    "gross negative": "more", "gross positive": "more", "stability": "more",
}  # fmt: skip
_DISTANCE = "distance of reconstructions"
_UNITS = {
    "entropy": "bits per pixel",
    **dict.fromkeys(("png", "jpeg"), "bytes"),
    **dict.fromkeys(("occlusion", "places", "likeness"), "rank correlation"),
    **dict.fromkeys(("agreement", "correlation", "partial", "positive_places"), "correlation"),
    **dict.fromkeys(("pearson", "spearman"), "correlation over checkpoints"),
    **dict.fromkeys(("cosine", "size_of_cosine", "positive", "negative", "gross positive",
                     "gross negative", "overlap", "stability"), "cosine"),
    **dict.fromkeys(("swing", "move"), "spread of the latent"),
    **dict.fromkeys(("sum_over_output", "sum_positive", "sum_negative"), "share of the output"),
    **dict.fromkeys(("first", "energy", "pointing", "purity", "effective_share", "crossed", "share",
                     "aopc_relative", "score"), "share"),
    **dict.fromkeys(("area", "change"), _DISTANCE),
    "probability": "probability",
}  # fmt: skip
_GRIDS = ("GridPG", "DiPart", "DiFull")  # of photographs, with one network
_INSTRUMENTS_WITH_RANKS = ("additive",)  # elsewhere the score is the share inside a mask


@dataclass(frozen=True)
class Recipe:
    """How the tables of one kind are read.

    Attributes:
        rename: Their columns by what they are called in the long table.
        constant: What is the same in all rows.
        drop: Columns that say nothing of the measure.
        change: What else is done to the rows, given where the table comes from.
        comparisons: Whether the rows are differences that are positive where the first is better.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    constant: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    change: Callable[[pd.DataFrame, "Source"], pd.DataFrame] = lambda frame, source: frame
    comparisons: bool = False


@dataclass(frozen=True)
class Source:
    """A table's file and the record that stands beside it."""

    file: str
    record: Mapping[str, Any]

    @property
    def network(self) -> str:
        """The network that was run."""
        plan = self.record.get("plan", {})
        named = self.record.get("model") or plan.get("model") or plan.get("network") or NONE
        return str(named).replace("-", "_")

    def command(self, method: str) -> str:
        """What made a method's rows: the run itself, or one whose rows were added to it."""
        for run in reversed(self.record.get("added", [])):
            if method in run.get("plan", run).get("methods", ()):
                return str(run["command"])
        return str(self.record["command"])


# ------------------------------------------------------------------------------ kinds of tables


def _gains(frame: pd.DataFrame, _: Source) -> pd.DataFrame:
    """What a method gains over an order by lot is a difference, whatever the file calls it."""
    gains = frame["measure"].str.endswith("_minus_random")
    plain = frame["measure"].str.removesuffix("_minus_random")
    plain = plain.where(~(gains & (plain == "morf")), "aopc_morf")
    return frame.assign(measure=plain, control=_controls(frame).where(~gains, BY_LOT))


def _controls(frame: pd.DataFrame) -> pd.Series:
    return frame.get("control", pd.Series(NONE, frame.index))


def _risen(frame: pd.DataFrame, _: Source) -> pd.DataFrame:
    """By how much what a negative branch marks raises the output, and more than a control does."""
    parts = frame["measure"].str.split("_over_", n=1, expand=True)
    control = parts[1].fillna(NONE).replace({"random": BY_LOT})
    risen = parts[0] == "rise"
    return frame.assign(
        measure=parts[0].where(risen, frame["measure"]), control=control.where(risen, NONE)
    )


def _lots(frame: pd.DataFrame, _: Source) -> pd.DataFrame:
    """Orders by lot stand among the maps and controls, under names of their own."""
    drawn = frame["map"] == "lot"
    control = _controls(frame)
    return frame.assign(
        order=frame["method"].where(drawn, NONE),
        method=frame["method"].where(~drawn | (frame["method"] != "random"), BY_LOT),
        map=frame["map"].where(~drawn, NONE),
        control=control.where(control != "random", BY_LOT),
    )


def _fills(frame: pd.DataFrame, _: Source) -> pd.DataFrame:
    return frame.assign(control="fill " + frame["control"])


def _called(words: str) -> Callable[[pd.DataFrame, Source], pd.DataFrame]:
    """Put words before the names of the measures."""
    return lambda frame, _: frame.assign(measure=words + frame["measure"])


def _agreement(frame: pd.DataFrame, _: Source) -> pd.DataFrame:
    """How alike two fills, or two ways to ask, rank the methods."""
    fills = frame["fill"]
    if "control" in frame:
        fills, frame = frame["fill"] + ", " + frame["control"], frame.drop(columns="control")
    return frame.assign(fill=fills, measure="agreement of " + frame["measure"])


def _by_order(frame: pd.DataFrame, _: Source) -> pd.DataFrame:
    return frame.assign(measure="aopc_" + frame["order"]).drop(columns="order")


def _exchanged(frame: pd.DataFrame, _: Source) -> pd.DataFrame:
    """The likeness of two maps, or how far it lies above that of another picture's map."""
    less = frame["exchanged"].str.endswith(" less picture")
    return frame.assign(
        exchanged=frame["exchanged"].str.removesuffix(" less picture"),
        control=pd.Series("another picture", frame.index).where(less, NONE),
    )


def _watched(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    drawn = frame["map"] == "random"
    return _lots(frame.assign(map=frame["map"].where(~drawn, "lot")), source)


def _small(frame: pd.DataFrame, _: Source) -> pd.DataFrame:
    return frame.assign(network="small networks, " + frame["network"])


def _branches(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Maps are named "candidate/map" there, judged by the area between the curves."""
    parts = frame["method"].str.split("/", n=1, expand=True)
    fill = source.record["perturbation"][2]
    return frame.assign(method=parts[0], map=parts[1], measure="abpc", fill=fill)


def _searches(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    perturbed = frame["measure"].isin([*_ORDERS, "morf_minus_random"])
    fill = pd.Series(source.record["perturbation"][2], frame.index).where(perturbed, NONE)
    return _gains(frame.assign(fill=fill), source)


def _occluded(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Regions were replaced for one of the measures alone."""
    kept = [part for part in source.record["occlusion"] if isinstance(part, str)] or ["uniform"]
    fill = pd.Series(kept[0], frame.index).where(frame["measure"] == "occlusion", NONE)
    return frame.assign(fill=fill)


def _known(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    """On instruments: networks are what is drawn, unless all pictures have one network."""
    several = frame["networks"] > 1
    number = frame["networks"].where(several, frame.pop("pictures"))
    unit = pd.Series("networks", frame.index).where(several, "pictures")
    network = ("known truth: " + frame["instrument"]).where(
        ~frame["instrument"].isin(_GRIDS), source.network
    )
    frame = frame.assign(n=number, of=unit, network=network)
    if "map" in frame:
        frame["map"] = frame["map"].replace({"as given": "own", "absolute": "unsigned"})
    ranks = frame["instrument"].isin(_INSTRUMENTS_WITH_RANKS)
    of = pd.Series("rank correlation", frame.index).where(ranks, "share")
    return frame.assign(unit=of).drop(columns="networks")


def _checkpoints(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Maps had the most important regions replaced first; one row has no map but orders by lot."""
    frame = _gains(frame, source)
    by_lot = (frame["method"] == NONE) & frame["measure"].str.startswith("aopc")
    mapped = (frame["measure"] == "aopc") & ~by_lot
    return frame.assign(
        method=frame["method"].where(~by_lot, BY_LOT),
        measure=frame["measure"].where(~mapped, "aopc_morf"),
    )


def _correlations(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    frame = _checkpoints(frame, source)
    measure = frame["correlation"] + " of accuracy and " + frame["measure"]
    of = frame["correlation"]
    return frame.assign(measure=measure, unit=of.map(_UNITS)).drop(columns="correlation")


def _cards(frame: pd.DataFrame, _: Source) -> pd.DataFrame:
    """A line of a card is two rows: the number, and its lead over the control."""
    frame = frame[frame["low"].notna()].copy()
    frame["network"] = frame["line"].map(_card_network)
    frame["fill"] = [parts[1] if len(parts) > 1 and parts[0] in ("digits", "photographs") else NONE
                     for parts in frame["line"].str.split("/")]  # fmt: skip
    frame["measure"] = [_card_measure(row.line, row.what) for row in frame.itertuples()]
    frame["unit"] = [_card_unit(row.line, row.what) for row in frame.itertuples()]
    frame["control"] = frame["control"].replace(_AS_CONTROLS)
    own = frame.rename(columns={"value": "mean"}).assign(control=NONE, p=None, p_holm=None)
    taken = {"lead": "mean", "lead_low": "low", "lead_high": "high"}
    lead = frame.drop(columns=["low", "high"]).rename(columns=taken)
    lead = lead.assign(better=lead["better"].where(lead["better"].isna(), "more"))
    columns = ["network", "method", "fill", "measure", "control", "mean", "low", "high", "n",
               "p", "p_holm", "unit", "better", "on"]  # fmt: skip
    own = own.drop_duplicates(["method", "network", "fill", "measure", "on", "mean"])
    return pd.concat([own[columns], lead[columns]], ignore_index=True)


def _card_network(line: str) -> str:
    start, _, rest = line.partition("/")
    if start == "truth" and rest != "grid":
        return f"known truth: {rest}"
    on_photographs = start in ("photographs", "cost") or rest in ("grid", "photographs")
    return "efficientnet_lite0" if on_photographs else "mnist_cnn"


def _card_measure(line: str, what: str) -> str:
    parts = line.split("/")
    return parts[2] if parts[0] in ("digits", "photographs") else what


def _card_unit(line: str, what: str) -> str:
    start = line.split("/")[0]
    if start in ("digits", "photographs") or line in ("metric/insertion", "metric/deletion"):
        return "logit"
    if start == "metric":
        return "correlation" if "correlation" in line else "share"
    found = ("per cent", "rank correlation", "share", "forward passes", "change")
    name = next((word for word in found if word in what), "")
    return {"per cent": "%", "change": "size of the map"}.get(name, name)


_AREAS = Recipe(drop=("constant_maps", "tied_regions"), change=_gains)
_COMPARED = Recipe(change=_gains)
_RELIABILITY = Recipe(
    {"alpha": "mean"}, {"method": "(all)", "unit": "alpha"}, change=_called("reliability of ")
)
_AGREEMENT = Recipe(
    {"spearman": "mean", "first": "fill"},
    {"method": "(all)", "unit": "rank correlation"},
    change=_agreement,
)
RECIPES: dict[str, Recipe] = {
    "samek-*-areas": _AREAS,
    "samek-*-comparisons": _COMPARED,
    "samek-*-steps": _COMPARED,
    "samek-*-fills": Recipe({"first": "fill"}, change=_fills),
    "samek-*-reliability": _RELIABILITY,
    "dmbp-*-methods-areas": _AREAS,
    "dmbp-*-methods-comparisons": _COMPARED,
    "dmbp-tiny_*-areas": _AREAS,
    "dmbp-tiny_*-comparisons": _COMPARED,
    "controls-*-areas": Recipe({"map": "method", "whose": "map"}, change=_lots),
    "controls-*-differences": Recipe({"first": "map"}, change=_lots, comparisons=True),
    "controls-*-agreement": _AGREEMENT,
    "ceiling-*-areas": Recipe(change=_by_order),
    "ceiling-*-shares": Recipe(
        {"share": "mean", "p_half": "p", "p_half_holm": "p_holm"},
        {"unit": "%", "against": 50.0, "control": BY_LOT},
        change=_called("ceiling of "),
        comparisons=True,
    ),
    "verdicts-*-verdicts": Recipe(drop=("place", "p_holm")),
    "verdicts-*-agreement": _AGREEMENT,
    "verdicts-*-reliability": _RELIABILITY,
    "placement-*-placement": Recipe({"order": "method"}, {"measure": "fall", "unit": "logit"}),
    "placement-*-differences": Recipe(constant={"measure": "fall", "unit": "logit"}),
    "blindness-*-likeness": Recipe(change=_exchanged),
    "blindness-*-gains": Recipe(
        constant={"control": "the logit's map"}, change=_called("fall of "), comparisons=True
    ),
    "blindness-*-erased-areas": Recipe(constant={"fill": "constant"}, change=_watched),
    "blindness-*-erased-differences": Recipe(
        {"first": "map"}, {"fill": "constant"}, change=_watched, comparisons=True
    ),
    "complexity-*-sizes": Recipe({"setting": "drawn in"}),
    "complexity-*-comparisons": Recipe({"setting": "drawn in"}),
    "maps-*-measures": Recipe(change=_occluded),
    "maps-*-comparisons": Recipe(change=_occluded),
    "dmbp-*-account-parts": Recipe({"part": "measure"}, {"method": "dmbp_greedy"}),
    "dmbp-separation-*-measures": Recipe(change=_risen),
    "dmbp-separation-*-comparisons": Recipe(change=_branches),
    "dmbp-*-measures": Recipe(change=_searches),
    "dmbp-*-comparisons": Recipe(change=_branches),
    "dmbp-oracle-measures": Recipe(constant={"of": "networks"}, change=_small),
    "dmbp-oracle-comparisons": Recipe({"minus": "control"}, {"of": "networks"}, change=_small),
    "grad-lam-*-areas": Recipe(constant={"unit": _DISTANCE}, change=_gains),
    "grad-lam-*-planned": Recipe(constant={"measure": "abpc", "unit": _DISTANCE}),
    "grad-lam-*-comparisons": Recipe(constant={"measure": "abpc", "unit": _DISTANCE}),
    "grad-lam-*-randomised": Recipe(),
    "gradlam-matched-*-planned": Recipe(),
    "gradlam-matched-*-latents": Recipe(),
    "gradlam-matched-*-sums": Recipe(),
    "known-truth-scores": Recipe(
        {"sign": "map", "chance": "against"},
        {"measure": "score"},
        ("right", "oracle"),
        _known,
    ),
    "known-truth-why-weights": Recipe(
        {"map": "method", "chance": "against"}, {"measure": "score"}, change=_known
    ),
    "known-truth-why-contrasts": Recipe({"chance": "against"}, {"measure": "score"}, change=_known),
    "known-truth-why-gains": Recipe(constant={"measure": "score"}, change=_known),
    "training-*-checkpoints": Recipe(drop=("train_accuracy",), change=_checkpoints),
    "training-*-correlations": Recipe(drop=("checkpoints",), change=_correlations),
    "cards": Recipe(change=_cards),
    "cards/*": Recipe(change=_cards),
}
"""By the names of their files, see `recipe`; all other tables are left out."""


def recipe(name: str) -> Recipe | None:
    """How a table is read; None if it has no measures with intervals.

    The recipe with the longest pattern that fits is taken: it says most.
    """
    fitting = [pattern for pattern in RECIPES if fnmatchcase(name, pattern)]
    return RECIPES[max(fitting, key=len)] if fitting else None


def order_of(measure: str) -> str:
    """The order in which regions were replaced for a measure."""
    base = measure.rpartition(" ")[2]
    return _ORDERS.get(base, NONE)


def better(measure: str) -> str:
    """Whether more of a measure is better; nothing where neither is."""
    return _BETTER.get(measure.partition(",")[0], "")


@cache
def unit_of(measure: str, setting: str) -> str:
    """The unit of a measure; that of the output where nothing else is said."""
    base = measure.partition(",")[0].removeprefix("fall of ")
    for name, unit in _UNITS.items():
        if base == name or base.startswith((f"{name}_", f"{name} of")):
            return unit
    return "probability" if "output=probability" in setting else "logit"
