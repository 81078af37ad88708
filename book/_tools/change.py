"""The change test: execute chapters on another sample, and see which statements still hold.

An assertion that repeats what was seen on one sample guards nothing. A chapter has one cell tagged
``sample``, in which ``SAMPLE = 0`` chooses its digits (and seeds) and ``PHOTOS = 0`` its
photographs. Here both numbers are changed, the cells tagged ``this-sample`` are left out (what they
assert holds for the sample that is shown, and the text says so), and all others must run.

Other photographs come from the ImageNet sample; where that is not at hand, PHOTOS stays as it is.
After the last cell every set of digits that the chapter has made is looked at: it must hold all ten
classes in about equal numbers, unless the cell that made it is tagged ``some-classes``.

Run as ``python book/_tools/change.py`` (all chapters), with notebooks' paths, ``--sample 2``.
"""

import argparse
import ast
import copy
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chapters
import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat.v4 import new_code_cell
from teaching import running

NAMES = ("SAMPLE", "PHOTOS")
_NUMBER = re.compile(rf"^({'|'.join(NAMES)}) = \d+", re.MULTILINE)
_AUDIT = """
import sys
sys.path.insert(0, {folder!r})
import samples
for complaint in samples.unbalanced(globals(), {exempt!r}):
    print(complaint)
"""


class SampleError(ValueError):
    """A chapter that does not say in one place what it measures on."""


def numbers(notebook: Any) -> dict[str, int]:
    """The sample that a chapter shows: the constants of its one cell tagged ``sample``.

    Raises:
        SampleError: There is no such cell, or more than one, or it assigns none of `NAMES`.
    """
    cells = list(_tagged(notebook, "sample"))
    if len(cells) != 1:
        raise SampleError(f"{len(cells)} cells are tagged 'sample'; one is asked for")
    found = {match[1]: int(match[0].split("=")[1]) for match in _NUMBER.finditer(cells[0].source)}
    if not found:
        raise SampleError(f"its cell tagged 'sample' assigns none of {', '.join(NAMES)}")
    return found


def changed(notebook: Any, **sample: int) -> Any:
    """A copy that takes other numbers in the cell tagged ``sample``, without ``this-sample``."""
    numbers(notebook)  # complains
    other = copy.deepcopy(notebook)
    for cell in _tagged(other, "sample"):
        cell.source = _NUMBER.sub(
            lambda match: f"{match[1]} = {sample[match[1]]}" if match[1] in sample else match[0],
            cell.source,
        )
    other.cells = [cell for cell in other.cells if "this-sample" not in _tags(cell)]
    return other


def run(path: Path, sample: dict[str, int]) -> list[str]:
    """Execute a chapter on another sample.

    Args:
        path: The notebook, which is left as it is; a chapter, or its teacher's edition.
        sample: New values for the constants of its cell tagged ``sample``.

    Returns:
        What is wrong with the digits that it measures on, and with the checks that it calls; empty
        if nothing is.

    Raises:
        SampleError: It has no cell tagged ``sample``.
        CellExecutionError: A statement does not hold on the other sample.
    """
    notebook = changed(nbformat.read(path, as_version=4), **sample)
    exempt = sorted(_assigned(notebook, "some-classes"))
    tools = str(Path(__file__).parent)
    notebook.cells.append(new_code_cell(_AUDIT.format(folder=tools, exempt=exempt)))
    chapters.run(notebook, path.parent)
    shown = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    return [*shown.split("\n")[:-1], *running.unexpected(notebook, running.VERDICTS["teacher"])]


def other_sample(number: int = 1) -> dict[str, int]:
    """Values for `NAMES`: PHOTOS only where other photographs are at hand."""
    from xaiutils import data

    try:
        data.imagenet_sample()
    except data.DataError:
        return {"SAMPLE": number}
    return {"SAMPLE": number, "PHOTOS": number}


def with_digits(paths: list[Path]) -> list[Path]:
    """The chapters that measure on digits, of which there are others everywhere."""
    read = (nbformat.read(path, as_version=4) for path in paths)
    return [path for path, notebook in zip(paths, read, strict=True) if _takes_digits(notebook)]


def _takes_digits(notebook: Any) -> bool:
    return any(
        re.search(r"^SAMPLE = ", c.source, re.MULTILINE) for c in _tagged(notebook, "sample")
    )


def _assigned(notebook: Any, tag: str) -> Iterator[str]:
    """The names that cells with a tag assign."""
    for cell in _tagged(notebook, tag):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _tagged(notebook: Any, tag: str) -> Iterator[Any]:
    return (c for c in notebook.cells if c.cell_type == "code" and tag in _tags(c))


def _tags(cell: Any) -> Any:
    return cell.metadata.get("tags", ())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=1, help="which other sample (default: 1)")
    parser.add_argument("notebooks", nargs="*", type=Path, help="only these (absent: all)")
    options = parser.parse_args()
    sample = other_sample(options.sample)
    if "PHOTOS" not in sample:
        print("The ImageNet sample is not at hand, so the photographs stay as they are.")
    failed = 0
    for path in [p.resolve() for p in options.notebooks] or chapters.paths():
        start = time.monotonic()
        print(f"{path.stem} on {sample} ... ", end="", flush=True)
        try:
            complaints = run(path, sample)
        except (SampleError, CellExecutionError, CellTimeoutError) as error:
            complaints = [str(error)]
        failed += bool(complaints)
        print("\n".join(complaints) or f"holds ({time.monotonic() - start:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
