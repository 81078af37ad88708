"""All measures of the long runs in one long table, from the tables that the chapters read.

>>> from xaiutils.reproduce import measures
>>> measures.table().query("method == 'lrp_epsilon_plus'")    # doctest: +SKIP

It is made anew each time and never stored, so it cannot be older than the tables. Its columns, and
which files it is made from, are described in book/results.md.
"""

import gzip
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from xaiutils.reproduce._recipes import BY_LOT, NONE, Source, better, order_of, recipe, unit_of
from xaiutils.reproduce.results import folder

__all__ = ["BY_LOT", "COLUMNS", "NONE", "names", "record_of", "rows", "table", "write"]

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
_LOT_NAMES = (NONE, "(random)")
_LOT_MEASURES = ("aopc", "aopc_random", "aopc_relative", "aopc_morf", "aopc_lerf")


def names(results: Path | None = None) -> list[str]:
    """All tables of a folder, without their ending.

    Args:
        results: A folder of tables and records. Default: the one that `results.folder` finds.
    """
    results = results or folder()
    found = results.rglob("*.csv")
    return sorted(path.relative_to(results).with_suffix("").as_posix() for path in found)


def record_of(name: str, results: Path | None = None) -> dict[str, Any]:
    """The record beside a table: the one whose name is the longest beginning of its own.

    Args:
        name: The table's file without the ending.
        results: As in `names`.

    Raises:
        LookupError: There is none.
    """
    parts = name.split("-")
    for number in range(len(parts), 0, -1):
        path = (results or folder()) / f"{'-'.join(parts[:number])}.json"
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
    raise LookupError(f"results/{name}.csv has no record beside it")


def rows(name: str, results: Path | None = None) -> pd.DataFrame | None:
    """The rows of one table in the long form; None if it is left out.

    Args:
        name: The table's file without the ending.
        results: As in `names`.

    Raises:
        FileNotFoundError: There is no such table.
        LookupError: It has no record beside it.
        ValueError: A row says no method or no measure.
    """
    made = recipe(name)
    if made is None:
        return None
    results = results or folder()
    frame = pd.read_csv(results / f"{name}.csv", keep_default_na=False, na_values=[""])
    run = Source(f"{name}.csv", record_of(name, results))
    named = {**_NAMES, **made.rename}
    frame = frame.drop(columns=[c for c in made.drop if c in frame]).rename(columns=named)
    frame = frame.assign(**made.constant)
    frame = made.change(frame, run)
    return _finished(frame, run, made.comparisons)


def _finished(frame: pd.DataFrame, run: Source, comparisons: bool) -> pd.DataFrame:
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
    frame["order"] = frame["order"].where(frame["order"] != NONE, frame["measure"].map(order_of))
    frame["order"] = frame["order"].where(~by_lot, "random")
    frame["of"] = frame["of"].where(frame["of"] != "", "pictures")
    if "unit" not in frame:
        asked = zip(frame["measure"], frame["setting"], strict=True)
        frame["unit"] = [unit_of(measure, setting) for measure, setting in asked]
    if "better" not in frame:
        frame["better"] = "more" if comparisons else frame["measure"].map(better)
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


@lru_cache(maxsize=1)
def _whole(results: Path) -> pd.DataFrame:
    parts = (rows(name, results) for name in names(results))
    return pd.concat([part for part in parts if part is not None], ignore_index=True)


def table(results: Path | None = None) -> pd.DataFrame:
    """All measures of a folder of results; read once in a process.

    Args:
        results: As in `names`.

    Returns:
        A row for each measure with the columns `COLUMNS`.

    Raises:
        FileNotFoundError: There is no folder of results.
        LookupError: A table has no record beside it.
        ValueError: A row says no method or no measure.
    """
    return _whole(results or folder()).copy()


def write(path: Path) -> None:
    """Write the long table, packed by gzip; the same bytes from the same tables."""
    text = table().to_csv(index=False, lineterminator="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
