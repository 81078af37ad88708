"""Read the tables of the long runs, as the chapters do.

>>> from xaiutils.reproduce import results
>>> results.table("samek-squeezenet1_1-areas")    # doctest: +SKIP
>>> results.record("samek-squeezenet1_1")         # doctest: +SKIP
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd


def folder() -> Path:
    """Return the folder ``results/`` of the repository.

    It is looked for in the working directory and above it, then beside the package, so that a
    notebook finds it wherever it was started.

    Raises:
        FileNotFoundError: If there is none, because the package was installed without the book.
    """
    here = Path.cwd()
    for parent in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (parent / "results").is_dir() and (parent / "_toc.yml").exists():
            return parent / "results"
    raise FileNotFoundError(
        "the folder results/ is not here: it belongs to the repository of the book, not to the "
        "package. Clone the repository and work inside it."
    )


def table(name: str) -> pd.DataFrame:
    """Return a table of a long run.

    Args:
        name: Its file without the ending, such as ``"samek-squeezenet1_1-areas"``.

    Raises:
        FileNotFoundError: If there is no such table; the message lists those there are.
    """
    return pd.read_csv(_existing(name, ".csv"))


def record(name: str) -> dict[str, Any]:
    """Return where a table comes from: command, model, data, seed, versions, date.

    Args:
        name: The file without the ending, such as ``"samek-squeezenet1_1"``.

    Raises:
        FileNotFoundError: If there is no such record; the message lists those there are.
    """
    found: dict[str, Any] = json.loads(_existing(name, ".json").read_text(encoding="utf-8"))
    return found


def _existing(name: str, ending: str) -> Path:
    path = folder() / f"{name}{ending}"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder().glob(f"*{ending}"))) or "none"
        raise FileNotFoundError(f"results/ has no {path.name}; it has: {known}")
    return path
