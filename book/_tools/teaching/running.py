"""Execute the editions: does everything run unanswered, and is each answer of the book right?"""

from collections.abc import Iterator
from pathlib import Path

import chapters
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

VERDICTS = {"student": "not answered yet", "teacher": "right"}


def complaints(path: Path) -> Iterator[str]:
    """Execute a student's or teacher's notebook, which is left as it is.

    Args:
        path: A notebook in the folder ``student`` or ``teacher``.

    Yields:
        A cell that raises, and each check that does not say what it should: in the student's
        edition that there is no answer yet, in the teacher's that the answer is right.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        kernel_manager_class=chapters.OwnKernel,
        extra_arguments=["--IPKernelApp.log_level=40"],
        timeout=chapters.CELL_TIMEOUT,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError) as error:
        yield str(error)
        return
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith("check("):
            said = "".join(output.get("text", "") for output in cell.outputs).strip()
            if not said.endswith(f": {VERDICTS[path.parent.name]}"):
                yield f"{cell.source} says: {said}"
