"""One long table of what is measured in results/, from the tables that the chapters read.

``python book/_tools/results_table.py [FILE]`` writes it, to _build/measures.csv.gz unless told; the
build of the book puts a copy beside the page of results (results_page.py). It is made anew each
time and never committed, so it cannot be older than the tables. Its columns, and which files it is
made from, are described in book/results.md.

Each kind of table has a recipe: which columns play which part, and what is the same in all rows.
What a recipe does not name becomes a part of the column ``setting``.
"""

import gzip
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
TABLE = Path("_build/measures.csv.gz")
NONE = "(none)"  # nothing was replaced, or taken away
COLUMNS = (
    "network", "method", "map", "fill", "order", "measure", "control", "setting", "mean", "low",
    "high", "n", "of", "p", "p_holm", "against", "unit", "better", "file", "command",
)  # fmt: skip
_TEXTS = {"map": "own", "fill": NONE, "order": NONE, "control": NONE, "setting": "", "of": ""}
_NUMBERS = ("mean", "low", "high", "n", "p", "p_holm", "against")
_NAMES = {  # of columns that play the same part in many tables
    "difference": "mean", "first": "method", "second": "control", "images": "n", "p_value": "p",
    "candidate": "method",
}  # fmt: skip
BY_LOT = "order by lot"  # of the regions; the method `random` is a map of noise
_AS_CONTROLS = {  # one name for one control, whatever a file calls it
    "borrowed map": "borrowed", "map without sign": "unsigned",
}  # fmt: skip
_LOT_NAMES = (NONE, "(random)")
_LOT_MEASURES = ("aopc", "aopc_random", "aopc_relative", "aopc_morf", "aopc_lerf")
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
        change: What else is done to the rows, given the table's run.
        comparisons: Whether the rows are differences that are positive where the first is better.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    constant: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    change: Callable[[pd.DataFrame, "Run"], pd.DataFrame] = lambda frame, run: frame
    comparisons: bool = False


@dataclass(frozen=True)
class Run:
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


def _gains(frame: pd.DataFrame, _: Run) -> pd.DataFrame:
    """What a method gains over an order by lot is a difference, whatever the file calls it."""
    gains = frame["measure"].str.endswith("_minus_random")
    plain = frame["measure"].str.removesuffix("_minus_random")
    plain = plain.where(~(gains & (plain == "morf")), "aopc_morf")
    return frame.assign(measure=plain, control=_controls(frame).where(~gains, BY_LOT))


def _controls(frame: pd.DataFrame) -> pd.Series:
    return frame.get("control", pd.Series(NONE, frame.index))


def _risen(frame: pd.DataFrame, _: Run) -> pd.DataFrame:
    """By how much what a negative branch marks raises the output, and more than a control does."""
    parts = frame["measure"].str.split("_over_", n=1, expand=True)
    control = parts[1].fillna(NONE).replace({"random": BY_LOT})
    risen = parts[0] == "rise"
    return frame.assign(
        measure=parts[0].where(risen, frame["measure"]), control=control.where(risen, NONE)
    )


def _lots(frame: pd.DataFrame, _: Run) -> pd.DataFrame:
    """Orders by lot stand among the maps and controls, under names of their own."""
    drawn = frame["map"] == "lot"
    control = _controls(frame)
    return frame.assign(
        order=frame["method"].where(drawn, NONE),
        method=frame["method"].where(~drawn | (frame["method"] != "random"), BY_LOT),
        map=frame["map"].where(~drawn, NONE),
        control=control.where(control != "random", BY_LOT),
    )


def _fills(frame: pd.DataFrame, _: Run) -> pd.DataFrame:
    return frame.assign(control="fill " + frame["control"])


def _called(words: str) -> Callable[[pd.DataFrame, Run], pd.DataFrame]:
    """Put words before the names of the measures."""
    return lambda frame, _: frame.assign(measure=words + frame["measure"])


def _agreement(frame: pd.DataFrame, _: Run) -> pd.DataFrame:
    """How alike two fills, or two ways to ask, rank the methods."""
    fills = frame["fill"]
    if "control" in frame:
        fills, frame = frame["fill"] + ", " + frame["control"], frame.drop(columns="control")
    return frame.assign(fill=fills, measure="agreement of " + frame["measure"])


def _by_order(frame: pd.DataFrame, _: Run) -> pd.DataFrame:
    return frame.assign(measure="aopc_" + frame["order"]).drop(columns="order")


def _exchanged(frame: pd.DataFrame, _: Run) -> pd.DataFrame:
    """The likeness of two maps, or how far it lies above that of another picture's map."""
    less = frame["exchanged"].str.endswith(" less picture")
    return frame.assign(
        exchanged=frame["exchanged"].str.removesuffix(" less picture"),
        control=pd.Series("another picture", frame.index).where(less, NONE),
    )


def _watched(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    drawn = frame["map"] == "random"
    return _lots(frame.assign(map=frame["map"].where(~drawn, "lot")), run)


def _small(frame: pd.DataFrame, _: Run) -> pd.DataFrame:
    return frame.assign(network="small networks, " + frame["network"])


def _branches(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Maps are named "candidate/map" there, judged by the area between the curves."""
    parts = frame["method"].str.split("/", n=1, expand=True)
    fill = run.record["perturbation"][2]
    return frame.assign(method=parts[0], map=parts[1], measure="abpc", fill=fill)


def _searches(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    perturbed = frame["measure"].isin([*_ORDERS, "morf_minus_random"])
    fill = pd.Series(run.record["perturbation"][2], frame.index).where(perturbed, NONE)
    return _gains(frame.assign(fill=fill), run)


def _occluded(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Regions were replaced for one of the measures alone."""
    kept = [part for part in run.record["occlusion"] if isinstance(part, str)] or ["uniform"]
    fill = pd.Series(kept[0], frame.index).where(frame["measure"] == "occlusion", NONE)
    return frame.assign(fill=fill)


def _known(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    """On instruments: networks are what is drawn, unless all pictures have one network."""
    several = frame["networks"] > 1
    number = frame["networks"].where(several, frame.pop("pictures"))
    unit = pd.Series("networks", frame.index).where(several, "pictures")
    network = ("known truth: " + frame["instrument"]).where(
        ~frame["instrument"].isin(_GRIDS), run.network
    )
    frame = frame.assign(n=number, of=unit, network=network)
    if "map" in frame:
        frame["map"] = frame["map"].replace({"as given": "own", "absolute": "unsigned"})
    ranks = frame["instrument"].isin(_INSTRUMENTS_WITH_RANKS)
    of = pd.Series("rank correlation", frame.index).where(ranks, "share")
    return frame.assign(unit=of).drop(columns="networks")


def _checkpoints(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Maps had the most important regions replaced first; one row has no map but orders by lot."""
    frame = _gains(frame, run)
    by_lot = (frame["method"] == NONE) & frame["measure"].str.startswith("aopc")
    mapped = (frame["measure"] == "aopc") & ~by_lot
    return frame.assign(
        method=frame["method"].where(~by_lot, BY_LOT),
        measure=frame["measure"].where(~mapped, "aopc_morf"),
    )


def _correlations(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    frame = _checkpoints(frame, run)
    measure = frame["correlation"] + " of accuracy and " + frame["measure"]
    of = frame["correlation"]
    return frame.assign(measure=measure, unit=of.map(_UNITS)).drop(columns="correlation")


def _cards(frame: pd.DataFrame, _: Run) -> pd.DataFrame:
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


# ------------------------------------------------------------------------------ the long table


def recipe(name: str) -> Recipe | None:
    """How a table is read; None if it has no measures with intervals.

    The recipe with the longest pattern that fits is taken: it says most.
    """
    fitting = [pattern for pattern in RECIPES if fnmatchcase(name, pattern)]
    return RECIPES[max(fitting, key=len)] if fitting else None


def names(results: Path = RESULTS) -> list[str]:
    """All tables of a folder, without their ending."""
    found = results.rglob("*.csv")
    return sorted(path.relative_to(results).with_suffix("").as_posix() for path in found)


def record_of(name: str, results: Path = RESULTS) -> dict[str, Any]:
    """The record beside a table: the one whose name is the longest beginning of its own.

    Raises:
        LookupError: There is none.
    """
    parts = name.split("-")
    for number in range(len(parts), 0, -1):
        path = results / f"{'-'.join(parts[:number])}.json"
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
    raise LookupError(f"results/{name}.csv has no record beside it")


def long_rows(name: str, results: Path = RESULTS) -> pd.DataFrame | None:
    """The rows of one table in the long form; None if it is left out.

    Raises:
        ValueError: A row says no method or no measure.
    """
    made = recipe(name)
    if made is None:
        return None
    frame = pd.read_csv(results / f"{name}.csv", keep_default_na=False, na_values=[""])
    run = Run(f"{name}.csv", record_of(name, results))
    named = _NAMES | made.rename
    frame = frame.drop(columns=[c for c in made.drop if c in frame]).rename(columns=named)
    frame = frame.assign(**made.constant)
    frame = made.change(frame, run)
    return _finished(frame, run, made.comparisons)


def _finished(frame: pd.DataFrame, run: Run, comparisons: bool) -> pd.DataFrame:
    """All columns, in their order; what is left of the table's own goes into ``setting``."""
    if missing := {"method", "measure", "mean"} - set(frame):
        raise ValueError(f"{run.file}: no column is the {', '.join(sorted(missing))}")
    rest = [column for column in frame if column not in COLUMNS]
    frame = frame.assign(setting=_settings(frame[rest]) if rest else "")
    for column, value in _TEXTS.items():
        frame[column] = frame[column].fillna(value) if column in frame else value
    for column in _NUMBERS:
        frame[column] = pd.to_numeric(frame[column]) if column in frame else float("nan")
    frame["network"] = frame.get("network", run.network)
    drawn = frame["method"].isin(_LOT_NAMES) & frame["measure"].isin(_LOT_MEASURES)
    frame["method"] = frame["method"].where(~drawn, BY_LOT)
    frame["measure"] = frame["measure"].replace({"aopc_random": "aopc"})
    by_lot = (frame["method"] == BY_LOT) & frame["measure"].isin(_LOT_MEASURES)
    frame["order"] = frame["order"].where(frame["order"] != NONE, frame["measure"].map(_order))
    frame["order"] = frame["order"].where(~by_lot, "random")
    frame["of"] = frame["of"].where(frame["of"] != "", "pictures")
    if "unit" not in frame:
        asked = zip(frame["measure"], frame["setting"], strict=True)
        frame["unit"] = [_unit(measure, setting) for measure, setting in asked]
    if "better" not in frame:
        frame["better"] = "more" if comparisons else frame["measure"].map(_better)
    frame["better"] = frame["better"].fillna("")
    tested = frame["p"].notna() & frame["against"].isna()
    frame["against"] = frame["against"].where(~tested, 0.0)
    frame["file"] = run.file
    frame["command"] = frame["method"].map(run.command)
    return frame[list(COLUMNS)]


def _settings(rest: pd.DataFrame) -> list[str]:
    return [
        "; ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                  for name, value in row.items() if not pd.isna(value))
        for row in rest.to_dict("records")
    ]  # fmt: skip


def _order(measure: str) -> str:
    base = measure.rpartition(" ")[2]
    return _ORDERS.get(base, NONE)


def _better(measure: str) -> str:
    return _BETTER.get(measure.partition(",")[0], "")


@cache
def _unit(measure: str, setting: str) -> str:
    """The unit of a measure; that of the output where nothing else is said."""
    base = measure.partition(",")[0].removeprefix("fall of ")
    for name, unit in _UNITS.items():
        if base == name or base.startswith((f"{name}_", f"{name} of")):
            return unit
    return "probability" if "output=probability" in setting else "logit"


@lru_cache(maxsize=1)
def long_table(results: Path = RESULTS) -> pd.DataFrame:
    """All measures of a folder of results; read once in a process.

    Returns:
        A row for each measure with the columns `COLUMNS`.
    """
    parts = (long_rows(name, results) for name in names(results))
    return pd.concat([part for part in parts if part is not None], ignore_index=True)


def write(path: Path) -> None:
    """Write the long table, packed; the same bytes from the same tables."""
    text = long_table().to_csv(index=False, lineterminator="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / TABLE)
