"""Read submissions: which notebook answers which exercises, with what code.

Of a submitted notebook only the student's own code counts: the answer cells and cells that were
added. The chapter's cells and checks are the book's, whatever the file has made of them.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from teaching.marks import names_stored

MOST_BYTES = 64 << 20
_MOST_CODE = 200_000  # characters in one cell
_ROLE = re.compile(r"(?P<chapter>\d+)-(?P<role>answer|check)-(?P<place>\d+)")
_ANSWER = re.compile(r"# Your answer to exercise (\d+\.\d+)")
_EXERCISE = re.compile(r"^### Exercise (\d+\.\d+)$", re.MULTILINE)
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
_MODULES = {
    *("os", "sys", "subprocess", "shutil", "signal", "multiprocessing", "resource", "fcntl"),
    *("builtins", "gc", "inspect", "importlib", "runpy", "site", "ctypes", "mmap", "marshal"),
    *("socket", "urllib", "http", "requests", "checks"),
}
_CALLS = {"open", "exec", "eval", "compile", "__import__", "globals", "setattr", "delattr"}
_METHODS = {
    *("read_text", "read_bytes", "write_text", "write_bytes", "unlink", "rmdir", "rmtree"),
    *("system", "popen", "fork", "kill"),
}


class SubmissionError(ValueError):
    """A file is no submission that can be read; the message says why."""


@dataclass
class Cell:
    """A cell of a submitted notebook; its name is empty if the program that wrote it has none."""

    kind: str
    name: str
    source: str


@dataclass
class Answer:
    """A student's answer to an exercise.

    Attributes:
        code: Its cells of code.
        results: What is handed to the check, by name: expressions.
        written: Whether there is text of the student's own.
    """

    code: list[str] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    written: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing was answered."""
        given = any(text != "..." for text in self.results.values())
        return not given and not self.written and not any(map(_does_something, self.code))


@dataclass
class Submission:
    """A submitted notebook.

    Attributes:
        name: Its path in the folder of submissions, without the ending.
        chapter: The number of the chapter that it belongs to.
        answers: By the number of the exercise; none for an exercise whose cells are gone.
        notes: For the teacher, by exercise: what a human eye should see.
    """

    name: str
    chapter: int
    answers: dict[str, Answer] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


def load(path: Path) -> list[Cell]:
    """The cells of a submitted notebook.

    Raises:
        SubmissionError: It is too large or no notebook.
    """
    if path.stat().st_size > MOST_BYTES:
        raise SubmissionError(f"the file is larger than {MOST_BYTES >> 20} megabytes")
    try:
        cells = [_cell(entry) for entry in json.loads(path.read_bytes())["cells"]]
    except (*_UNREADABLE, KeyError, TypeError, AttributeError) as error:
        raise SubmissionError(f"the file is no notebook ({type(error).__name__})") from None
    if any(cell.kind == "code" and len(cell.source) > _MOST_CODE for cell in cells):
        raise SubmissionError(f"a cell of code is longer than {_MOST_CODE} characters")
    return cells


def _cell(entry: Any) -> Cell:
    source = entry["source"]
    text = source if isinstance(source, str) else "".join(source)
    return Cell(str(entry["cell_type"]), str(entry.get("id", "")), text)


def chapter_of(cells: Iterable[Cell]) -> int:
    """The number of the chapter that cells belong to, from the first answer cell.

    Raises:
        SubmissionError: There is none.
    """
    for cell in cells:
        if match := _ROLE.fullmatch(cell.name):
            return int(match["chapter"])
        if cell.kind == "code" and (match := _ANSWER.match(cell.source)):
            return int(match[1].split(".")[0])
    raise SubmissionError("no answer cell of a student's notebook is in it")


def read(
    name: str, cells: Iterable[Cell], edition: Any, wanted: dict[str, tuple[str, ...]]
) -> Submission:
    """Sort a submission's cells to the exercises that they answer.

    A cell of code that was added belongs to the answer above it or, if something of the chapter
    stands between, to the next one.

    Args:
        name: Of the submission.
        cells: Its cells.
        edition: The student's notebook that was handed out.
        wanted: The names that the original check of each exercise asks for.
    """
    cells = list(cells)
    submission = Submission(name, chapter_of(cells), {number: Answer() for number in wanted})
    known = {cell.id: cell for cell in edition.cells}
    sources = {cell.source.strip() for cell in edition.cells}
    here, waiting = "", Answer()
    changes: list[str] = []
    for cell in cells:
        number, role = _role(cell)
        original = known.get(cell.name)
        if number in submission.answers:
            here = number
            answer = submission.answers[number]
            _move(waiting, answer)
            if original is None or cell.source.strip() != original.source.strip():
                _take(cell, role, number, answer)
        elif original is not None or cell.source.strip() in sources:
            here = ""
            if original is not None and cell.source.strip() != original.source.strip():
                changes += _changes(cell, submission.answers)
        elif cell.source.strip():
            _add(cell, submission.answers.get(here, waiting))
    for number, answer in submission.answers.items():
        _complete(answer, wanted[number])
        submission.notes[number] = [*changes, *suspicions(answer)]
    return submission


def _role(cell: Cell) -> tuple[str, str]:
    """The exercise that a cell belongs to, and whether it is its answer or its check."""
    if match := _ROLE.fullmatch(cell.name):
        return f"{match['chapter']}.{match['place']}", match["role"]
    if cell.kind == "code" and (match := _ANSWER.match(cell.source)):
        return match[1], "answer"
    if cell.kind == "code" and (match := re.match(r'check\("(\d+\.\d+)"', cell.source)):
        return match[1], "check"
    return "", ""


def _move(waiting: Answer, answer: Answer) -> None:
    answer.code += waiting.code
    answer.written |= waiting.written
    waiting.code, waiting.written = [], False


def _add(cell: Cell, answer: Answer) -> None:
    if cell.kind == "code":
        answer.code.append(_without_magic(cell.source))
    else:
        answer.written = True


def _changes(cell: Cell, answers: dict[str, Answer]) -> Iterator[str]:
    """Tell of a changed cell of the chapter: its text may be an answer, its code is not run."""
    if cell.kind == "code":
        yield f"the chapter's cell {cell.name} was changed, and the book's was run"
    for number in _EXERCISE.findall(cell.source):
        if number in answers:
            answers[number].written = True


def _take(cell: Cell, role: str, number: str, answer: Answer) -> None:
    """Take the code of an answer or check cell; of calls of `check` only what they hand over."""
    source = _without_magic(cell.source)
    if role == "check":
        try:
            tree = ast.parse(source)
            rest = [s for s in tree.body if not _is_check(s)]
            for call in (s.value for s in tree.body if _is_check(s)):  # type: ignore[attr-defined]
                answer.results |= {k.arg: ast.unparse(k.value) for k in call.keywords if k.arg}
            source = "\n".join(map(ast.unparse, rest))
        except _UNREADABLE:
            pass  # it is run as it is, and its error is the student's
    answer.code.append(source)


def _is_check(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return (
        isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "check"
    )


def _without_magic(source: str) -> str:
    """Code without the lines that only Jupyter understands; the numbers of lines stay."""
    return re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE)


def _complete(answer: Answer, wanted: tuple[str, ...]) -> None:
    """Where the dots were left standing, take the answer's variable of the same name."""
    made: set[str] = set()
    for source in answer.code:
        try:
            made |= names_stored(source)
        except _UNREADABLE:
            continue
    given = {name: answer.results.get(name, "...") for name in wanted}
    answer.results = {
        name: name if text == "..." and name in made else text for name, text in given.items()
    }


def _does_something(source: str) -> bool:
    try:
        return bool(ast.parse(source).body)
    except _UNREADABLE:
        return True


def suspicions(answer: Answer) -> Iterator[str]:
    """What in an answer's code a human eye should see: it may be harmless."""
    for source in (*answer.code, *answer.results.values()):
        try:
            tree = ast.parse(source)
            own = {"self", *(n.id for n in ast.walk(tree) if _is_stored(n))}
            yield from [found for node in ast.walk(tree) for found in _suspicion(node, own)]
        except _UNREADABLE:
            continue


def _is_stored(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _suspicion(node: ast.AST, own: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (f"imports {a.name}" for a in node.names if a.name.split(".")[0] in _MODULES)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _MODULES:
        yield f"imports {node.module}"
    elif isinstance(node, ast.Name) and node.id in _CALLS:
        yield f"uses {node.id}"
    elif isinstance(node, ast.Attribute):
        hidden = node.attr.startswith("__") and node.attr not in ("__init__", "__name__")
        if hidden or node.attr in _METHODS:
            yield f"uses .{node.attr}"
        if isinstance(node.ctx, ast.Store | ast.Del) and _root(node) not in own:
            yield f"changes {ast.unparse(node)}"


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else "self"
