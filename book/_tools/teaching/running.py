"""Execute the editions: does everything run unanswered, and is each answer of the book right?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chapters
import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from teaching import marks

VERDICTS = {"student": "not answered yet", "teacher": "right"}
REFUSED = "not right yet"


def complaints(path: Path) -> Iterator[str]:
    """Execute a student's or teacher's notebook, which is left as it is.

    Args:
        path: A notebook in the folder ``student`` or ``teacher``.

    Yields:
        A cell that raises, and each check that does not say what it should: in the student's
        edition that there is no answer yet, in the teacher's that the answer is right, and of an
        answer tagged ``wrong`` that it is not.
    """
    notebook = nbformat.read(path, as_version=4)
    try:
        chapters.run(notebook, path.parent)
    except (CellExecutionError, CellTimeoutError) as error:
        yield str(error)
        return
    yield from unexpected(notebook, VERDICTS[path.parent.name])


def unexpected(notebook: Any, verdict: str) -> Iterator[str]:
    """Each check of an executed notebook that does not say what it should, or refuses no wrong one.

    Args:
        notebook: An edition; a chapter calls no checks.
        verdict: What the others should say, one of `VERDICTS`.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith("check("):
            said = "".join(output.get("text", "") for output in cell.outputs).strip()
            if marks.has(cell, "wrong"):  # the check may say more of it
                well = f": {REFUSED}" in said
            else:
                well = said.endswith(f": {verdict}")
            if not well:
                yield f"{cell.source} says: {said}"
