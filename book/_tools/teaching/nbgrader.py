"""Export a chapter for nbgrader: its source version, from which that program makes the others.

The metadata are those of version 3 of nbgrader's format. We keep to its description, and have not
tried the program. An answer stands between its marks for solutions, a check between those for
hidden tests. Exercises without a check are to be marked by hand there, too.
"""

import copy
from typing import Any

from teaching.editions import Check, cell_id
from teaching.marks import Chapter, Exercise

SCHEMA = 3


def source_version(chapter: Chapter, edition: Any, checks: dict[str, Check]) -> Any:
    """A student's notebook with solutions, tests and nbgrader's metadata in it.

    Args:
        chapter: The chapter.
        edition: Its notebook for students, which stays as it is.
        checks: Its checks by the number of the exercise.
    """
    notebook = copy.deepcopy(edition)
    answers = {cell_id(exercise, "answer"): exercise for exercise in chapter.exercises}
    tests = {cell_id(exercise, "check"): exercise for exercise in chapter.exercises}
    ours = {f"{chapter.number}-edition", f"{chapter.number}-checks"}  # which speak of our checks
    ours |= {name for name, exercise in tests.items() if exercise.number not in checks}
    notebook.cells = [cell for cell in notebook.cells if cell.id not in ours]
    for cell in notebook.cells:
        if exercise := answers.get(cell.id):
            cell.source += _between("SOLUTION", exercise.answer or "# By hand")
            by_hand = exercise.number not in checks
            _mark(cell, solution=True, points=exercise.points if by_hand else None)
        elif exercise := tests.get(cell.id):
            cell.source = _test(exercise, checks[exercise.number])
            _mark(cell, solution=False, points=exercise.points)
        elif cell.cell_type == "code":
            _mark(cell, solution=False, points=None)
    return notebook


def _between(word: str, code: str) -> str:
    return f"### BEGIN {word}\n{code}\n### END {word}\n"


def _test(exercise: Exercise, check: Check) -> str:
    given = f"# The check of exercise {exercise.number} asks for: {', '.join(check.names)}\n"
    return given + _between("HIDDEN TESTS", check.code)


def _mark(cell: Any, solution: bool, points: int | None) -> None:
    """Say what a cell is: with points it is marked, and without a solution in it it is locked."""
    cell.metadata.nbgrader = {
        "schema_version": SCHEMA,
        "grade_id": cell.id,
        "cell_type": cell.cell_type,
        "grade": points is not None,
        "solution": solution,
        "locked": not solution,
        "task": False,
    }
    if points is not None:
        cell.metadata.nbgrader["points"] = points
