"""Notebooks for students and for teachers, in plain Markdown."""

import ast
import base64
import builtins
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from teaching.marks import Chapter, Exercise, MarkError, has, is_code, names_loaded, names_stored
from teaching.plain import Names, plain

MOST_NAMES = 6  # a check that asks for more results would tell how to get there
_STUDENT = """*Student edition.* The exercises have no solutions here. Where the answer can be \
checked, the cell below yours calls the check: put your results in the place of the dots. Run from \
top to bottom: what is not answered stops nothing. The files `checks.py` and `checks.json` belong \
beside this notebook."""
_COLAB = """\
# For Colab only: on any other machine this cell does nothing.
import subprocess
import sys

if "google.colab" in sys.modules:
    book = "git+{address}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", book], check=True)
    print("If checks.py is not in the list of files on the left, upload it, and checks.json.")"""
_TEACHER = """*Teacher's edition: with solutions.* It is the chapter of the book in Markdown that \
every program shows."""


@dataclass(frozen=True)
class Check:
    """An exercise's check.

    Attributes:
        names: The results that it asks for.
        code: Imports and assertions.
    """

    names: tuple[str, ...]
    code: str

    def stored(self) -> dict[str, Any]:
        """As it is kept in ``checks.json``."""
        return {"names": self.names, "code": base64.b64encode(self.code.encode()).decode()}

    def call(self, number: str, answered: bool, wrong: str = "") -> str:
        """The line that calls it, with some answers replaced by wrong ones: ``J=-J, beta=0``.

        Raises:
            MarkError: A wrong answer has another name than the results that it asks for.
        """
        given = {name: name if answered else "..." for name in self.names}
        call = ast.parse(f"f({wrong})", mode="eval").body
        replaced = {k.arg: ast.unparse(k.value) for k in getattr(call, "keywords", [])}
        if not replaced.keys() <= given.keys():
            raise MarkError(f"the wrong answer {wrong!r} to {number} is none of {self.names}")
        shown = ", ".join(f"{name}={value}" for name, value in (given | replaced).items())
        return f'check("{number}", {shown})'


def check_of(exercise: Exercise, known: set[str]) -> Check | None:
    """The check of an exercise; None if it has none.

    Args:
        exercise: With its solution.
        known: The names that the student's notebook has defined by then.

    Raises:
        MarkError: The check is about nothing that the answer has made, about too many things, or
            about something that another solution has made; such cells are for the teacher.
    """
    if not exercise.check:
        return None
    solution = ast.parse(exercise.answer).body
    code = ast.unparse(ast.parse(exercise.check))
    imports = [s for s in solution if isinstance(s, ast.Import | ast.ImportFrom)]
    imported = names_stored("\n".join(map(ast.unparse, imports)))
    made = _top_level([s for s in solution if s not in imports])
    asked = names_loaded(code) - imported - names_stored(code)
    names = tuple(n for n in made if n in asked)
    if not 0 < len(names) <= MOST_NAMES:
        raise MarkError(
            f"the check of {exercise.label} asks for {len(names)} results, not 1 to {MOST_NAMES}"
        )
    needed = [ast.unparse(s) for s in imports if names_stored(ast.unparse(s)) & names_loaded(code)]
    unknown = asked - set(names) - known - set(dir(builtins))
    if unknown:
        raise MarkError(f"the check of {exercise.label} uses what a student lacks: {unknown}")
    return Check(names, "\n".join([*needed, code]))


def checks(chapter: Chapter) -> dict[str, Check]:
    """The checks of a chapter by the number of their exercise."""
    found: dict[str, Check] = {}
    known: set[str] = set()
    for part in chapter.parts:
        if isinstance(part, Exercise):
            if check := check_of(part, known):
                found[part.number] = check
        elif is_code(part, "this-sample"):
            known |= names_stored(part.source)
    return found


def _top_level(statements: list[ast.stmt]) -> dict[str, None]:
    """The names that statements store outside functions and classes, in order."""
    found: dict[str, None] = {}
    waiting: list[ast.AST] = list(reversed(statements))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = None
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = None
        elif not isinstance(node, ast.Lambda | ast.comprehension):
            waiting += reversed(list(ast.iter_child_nodes(node)))
    return found


def student(chapter: Chapter, names: Names, found: dict[str, Check]) -> Any:
    """A chapter without solutions, outputs, and assertions about the book's own text.

    Args:
        chapter: The chapter.
        names: What labels are called.
        found: Its checks, see `checks`.
    """
    cells = _opening(chapter, _STUDENT)
    if address := repository(chapter.path.parents[1]):
        cells.insert(1, new_code_cell(_COLAB.format(address=address), id=f"{chapter.number}-colab"))
    for part in chapter.parts:
        if isinstance(part, Exercise):
            cells += _unanswered(part, found.get(part.number))
        elif part.cell_type == "markdown":
            cells.append(_plain_cell(part, names))
        elif is_code(part, "this-sample"):
            cells.append(_emptied(part))
    return _notebook(chapter, cells)


def teacher(chapter: Chapter, names: Names, found: dict[str, Check]) -> Any:
    """A chapter with its solutions and outputs, and with the answers handed to the checks.

    Args:
        chapter: The chapter.
        names: What labels are called.
        found: Its checks, see `checks`.
    """
    cells = _opening(chapter, _TEACHER)
    for part in [*chapter.parts, *chapter.closing]:
        if isinstance(part, Exercise):
            cells += _answered(part, names, found.get(part.number))
        else:
            cells.append(_plain_cell(part, names))
    notebook = _notebook(chapter, cells)
    if "widgets" in chapter.notebook.metadata:
        notebook.metadata.widgets = chapter.notebook.metadata.widgets
    return notebook


def repository(root: Path) -> str | None:
    """The address that ``_config.yml`` names; None where there is no such file."""
    config = root / "_config.yml"
    if not config.is_file():
        return None
    address: str = yaml.safe_load(config.read_text(encoding="utf-8"))["repository"]["url"]
    return address


def _opening(chapter: Chapter, words: str) -> list[Any]:
    return [
        new_markdown_cell(words, id=f"{chapter.number}-edition"),
        new_code_cell("from checks import check", id=f"{chapter.number}-checks"),
    ]


def _answered(exercise: Exercise, names: Names, check: Check | None) -> list[Any]:
    """The solution, its check, and what the check must refuse."""
    cells = [new_markdown_cell("**Solution**", id=cell_id(exercise, "solution"))]
    cells += [_plain_cell(cell, names) for cell in exercise.solution if not has(cell, "wrong")]
    if check:
        call = check.call(exercise.number, True)
        cells.append(new_code_cell(call, id=cell_id(exercise, "check")))
        explained = [cell for cell in exercise.solution if has(cell, "wrong")]
        for place, (cell, wrong) in enumerate(zip(explained, exercise.wrong, strict=True)):
            call = check.call(exercise.number, True, wrong)
            metadata = {"tags": ["wrong"]}
            refused = new_code_cell(call, id=cell_id(exercise, f"wrong{place}"), metadata=metadata)
            cells += [_plain_cell(cell, names), refused]
    return cells


def _unanswered(exercise: Exercise, check: Check | None) -> list[Any]:
    number = exercise.number
    answer = f"# Your answer to exercise {number}\n"
    if check:
        answer += f"# Results that are checked: {', '.join(check.names)}\n"
        last = check.call(number, False)
    else:
        last = f'print("{number}: not answered yet")  # take this line out when it is'
    return [
        new_code_cell(answer, id=cell_id(exercise, "answer")),
        new_code_cell(last, id=cell_id(exercise, "check")),
    ]


def cell_id(exercise: Exercise, word: str) -> str:
    """The name of a cell of an exercise, such as its ``answer`` or ``check``: ``13-answer-2``."""
    return f"{exercise.chapter}-{word}-{exercise.place}"


def _plain_cell(cell: Any, names: Names) -> Any:
    cell = copy.deepcopy(cell)
    if cell.cell_type == "markdown":
        cell.source = plain(cell.source, names)
    return cell


def _emptied(cell: Any) -> Any:
    cell = copy.deepcopy(cell)
    cell.outputs, cell.execution_count = [], None
    return cell


def _notebook(chapter: Chapter, cells: list[Any]) -> Any:
    metadata = {key: chapter.notebook.metadata[key] for key in ("kernelspec", "language_info")}
    return new_notebook(cells=cells, metadata=copy.deepcopy(metadata))
