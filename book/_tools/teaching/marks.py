"""Read a chapter's marks: its exercises, their solutions, and what comes after the references.

The title of an exercise says of what kind it is, how hard, how long it takes and what it is worth:

    ```{exercise} Find the flaw · level 2 · 10 min · 3 points
    :label: ex-lrp-flaw

It may say that the reader brings something: ``Change it, your own picture · level 1 · ...``. In a
solution each cell of code has one of these tags:

    answer           what a student would write
    check            statements that assert something of it, after all answers; a student's notebook
                     can call them
    check-teacher    others, which only the teacher's notebook holds

A cell of text tagged ``wrong`` begins with a wrong answer in code, given as the check's arguments,
and says what is wrong with it. The check must refuse it.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_markdown_cell

GATE = re.compile(
    r"^(?P<fence>`{3,})\{solution-(?P<side>start|end)\}[ ]*(?P<label>\S*)[ ]*\n"
    r"(?:[ ]*:.*\n)*(?P=fence)[ ]*(?:\n|\Z)",
    re.MULTILINE,
)
EXERCISE = re.compile(
    r"^```\{exercise\}(?P<title>.*)\n(?P<options>(?:[ ]*:\w+:.*\n)*)"
    r"(?P<text>(?:(?!```).*\n)*)```[ ]*$",
    re.MULTILINE,
)
KINDS = (
    "pencil",
    "code",
    "find the flaw",
    "read the figure",
    "change it",
    "design",
    "project",
)
OWN = ("picture", "network")  # what a reader may bring
LEVELS = (1, 2, 3)
ROLES = ("answer", "check", "check-teacher")
_MINUTES = 5  # times are guesses; finer ones would feign knowledge
_TITLE = re.compile(
    r"(?P<kind>[A-Z][a-z ]+)(?:, your own (?P<own>[a-z ]+))?"
    r" · level (?P<level>\d+) · (?P<minutes>\d+) min · (?P<points>\d+) points?"
)
_WRONG = re.compile(r"`([^`]+)`")
_LABEL = re.compile(r":label:[ ]*(\S+)")
_REFERENCES = re.compile(r"^(?:##\s+|\*\*)References", re.MULTILINE)


class MarkError(ValueError):
    """The marks of a notebook do not fit together; the message names the notebook and the mark."""


@dataclass
class Exercise:
    """An exercise with the cells of its solution."""

    chapter: int
    place: int  # among the exercises of the chapter, from 1
    label: str
    text: str  # MyST
    kind: str  # one of `KINDS`
    level: int  # one of `LEVELS`
    minutes: int
    own: str | None = None  # what the reader brings, one of `OWN`
    solution: list[Any] = field(default_factory=list)

    @property
    def points(self) -> int:
        """What it is worth."""
        return points(self.level, self.minutes)

    @property
    def mark(self) -> str:
        """Its title: ``Find the flaw · level 2 · 10 min · 3 points``."""
        own = f", your own {self.own}" if self.own else ""
        worth = f"{self.points} point{'s' * (self.points != 1)}"
        kind = self.kind.capitalize()
        return f"{kind}{own} · level {self.level} · {self.minutes} min · {worth}"

    @property
    def number(self) -> str:
        """Chapter and place: ``13.2``."""
        return f"{self.chapter}.{self.place}"

    @property
    def answer(self) -> str:
        """The code of its answer that does not speak of one sample alone."""
        return self._code("answer")

    @property
    def check(self) -> str:
        """The code that judges an answer and does not speak of one sample alone."""
        return self._code("check")

    @property
    def wrong(self) -> list[str]:
        """Wrong answers that the check must refuse, each as its arguments: ``J=-J``."""
        found = (_WRONG.search(cell.source) for cell in self.solution if has(cell, "wrong"))
        return [match[1] for match in found if match]

    def _code(self, role: str) -> str:
        cells = (cell for cell in self.solution if is_code(cell, "this-sample") and has(cell, role))
        return "\n".join(cell.source for cell in cells)


@dataclass
class Chapter:
    """A notebook, cut at its marks.

    Attributes:
        parts: Its cells in order. In the place of a solution stands the exercise that it solves.
        closing: What follows the references: the cells that assert what the text states.
    """

    path: Path
    notebook: Any
    parts: list[Any]
    closing: list[Any]
    exercises: list[Exercise]

    @property
    def number(self) -> int:
        """The number that its name begins with."""
        return int(self.path.stem[:2])

    @property
    def title(self) -> str:
        """Its first heading."""
        heading = re.search(r"^# (.+)$", self.text, re.MULTILINE)
        return heading[1] if heading else self.path.stem

    @property
    def text(self) -> str:
        """All of its text, without solutions and what follows the references."""
        return "\n\n".join(c.source for c in self.cells if c.cell_type == "markdown")

    @property
    def cells(self) -> list[Any]:
        """Its cells without solutions and what follows the references."""
        return [part for part in self.parts if not isinstance(part, Exercise)]


def points(level: int, minutes: int) -> int:
    """What an exercise is worth: its level, and one point for every full ten minutes."""
    return level + minutes // 10


def has(cell: Any, tag: str) -> bool:
    """Whether a cell has a tag."""
    return tag in cell.metadata.get("tags", ())


def is_code(cell: Any, without: str = "") -> bool:
    """Whether a cell is of code, and not tagged ``without``."""
    return cell.cell_type == "code" and not has(cell, without)


def read(path: Path) -> Chapter:
    """Read a notebook and cut it at its marks.

    Raises:
        MarkError: Gates do not pair; an exercise has no label, no proper title or not exactly one
            solution; or a solution's cells are not told apart.
    """
    notebook = nbformat.read(path, as_version=4)
    try:
        return cut(path, notebook)
    except MarkError as error:
        raise MarkError(f"{path.name}: {error}") from None


def cut(path: Path, notebook: Any) -> Chapter:
    """A notebook in memory, cut at its marks; see `read`."""
    chapter = Chapter(path, notebook, [], [], [])
    by_label: dict[str, Exercise] = {}
    inside: Exercise | None = None
    ended = False  # the references were passed
    for cell in _pieces(notebook.cells):
        if isinstance(cell, re.Match):
            inside = _pass_gate(cell, inside, by_label)
            if inside:
                chapter.parts.append(inside)
        elif inside:
            inside.solution.append(cell)
        else:
            (chapter.closing if ended else chapter.parts).append(cell)
            if cell.cell_type == "markdown":
                for exercise in _exercises(cell.source, chapter):
                    if exercise.label in by_label:
                        raise MarkError(f"two exercises have the label {exercise.label}")
                    by_label[exercise.label] = exercise
                    chapter.exercises.append(exercise)
                ended = ended or bool(_REFERENCES.search(cell.source))
    if inside:
        raise MarkError(f"the solution of {inside.label} is opened and never closed")
    for exercise in chapter.exercises:
        if not exercise.solution:
            raise MarkError(f"exercise {exercise.label} has no solution")
        for complaint in _mixed(exercise):
            raise MarkError(f"the solution of {exercise.label}: {complaint}")
    return chapter


def _mixed(exercise: Exercise) -> Iterator[str]:
    """Why the cells of a solution are not told apart."""
    checked = False
    for cell in exercise.solution:
        if cell.cell_type == "markdown":
            if has(cell, "wrong") and not (exercise.check and _WRONG.search(cell.source)):
                yield f"cell {cell.id} is tagged 'wrong', but there is no check, or no wrong answer"
            continue
        roles = [role for role in ROLES if has(cell, role)]
        if len(roles) != 1:
            yield f"cell {cell.id} needs exactly one of the tags {', '.join(ROLES)}"
            continue
        statements = [_judges(statement) for statement in ast.parse(cell.source).body]
        if roles == ["answer"] and (checked or any(statements)):
            yield f"cell {cell.id} is tagged 'answer', but " + (
                "it comes after a check" if checked else "it asserts something"
            )
        if roles != ["answer"] and not all(statements):
            yield f"cell {cell.id} is tagged '{roles[0]}', but not all of it asserts something"
        checked = checked or roles == ["check"]


def _judges(statement: ast.stmt) -> bool:
    """Whether a statement asserts something, or runs through cases of which each is asserted."""
    if isinstance(statement, ast.For | ast.With):
        return all(map(_judges, statement.body))
    return isinstance(statement, ast.Assert)


def _pieces(cells: list[Any]) -> Iterator[Any]:
    """The cells, with cells of text cut at gates; a gate is a match of `GATE`."""
    for cell in cells:
        if cell.cell_type != "markdown" or "{solution-" not in cell.source:
            yield cell
            continue
        start = 0
        for piece, gate in enumerate(GATE.finditer(cell.source)):
            yield from _piece(cell, piece, cell.source[start : gate.start()])
            yield gate
            start = gate.end()
        yield from _piece(cell, 99, cell.source[start:])


def _piece(cell: Any, number: int, source: str) -> Iterator[Any]:
    if "{solution-" in source:
        raise MarkError(f"cell {cell.id} has a solution mark that is no fence of its own")
    if source.strip():
        metadata = {"tags": list(cell.metadata.get("tags", ()))} if "tags" in cell.metadata else {}
        yield new_markdown_cell(source.strip(), id=f"{cell.id}-{number}", metadata=metadata)


def _pass_gate(
    gate: re.Match[str], inside: Exercise | None, by_label: dict[str, Exercise]
) -> Exercise | None:
    """The exercise whose solution begins at a gate; None if one ends there."""
    if gate["side"] == "end":
        if not inside:
            raise MarkError("a solution is closed that was never opened")
        return None
    if inside:
        raise MarkError(f"a solution is opened inside the solution of {inside.label}")
    exercise = by_label.get(gate["label"])
    if not exercise:
        raise MarkError(f"there is a solution of {gate['label']}, but no such exercise before it")
    if exercise.solution:
        raise MarkError(f"exercise {exercise.label} has two solutions")
    return exercise


def _exercises(source: str, chapter: Chapter) -> Iterator[Exercise]:
    matches = list(EXERCISE.finditer(source))
    if len(matches) != source.count("{exercise}"):
        raise MarkError("an exercise is not closed, or holds a fence of its own")
    for place, match in enumerate(matches, len(chapter.exercises) + 1):
        label = _LABEL.search(match["options"])
        if not label:
            raise MarkError(f"exercise {place} has no label")
        title = _title(match["title"].strip(), label[1])
        exercise = Exercise(chapter.number, place, label[1], match["text"].strip(), **title)
        if exercise.mark != match["title"].strip():
            raise MarkError(f"the title of {label[1]} should be {exercise.mark!r}")
        yield exercise


def _title(title: str, label: str) -> dict[str, Any]:
    """Kind, level, minutes and what the reader brings, from an exercise's title."""
    match = _TITLE.fullmatch(title)
    if not match:
        raise MarkError(
            f"the title of {label} is {title!r}, not one like 'Code · level 2 · 20 min · 4 points'"
        )
    kind, own = match["kind"].lower(), match["own"]
    level, minutes = int(match["level"]), int(match["minutes"])
    for word, value, known in (
        ("kind", kind, KINDS),
        ("level", level, LEVELS),
        ("own thing", own, (None, *OWN)),
    ):
        if value not in known:
            raise MarkError(f"{label} has the {word} {value!r}, none of {known}")
    if not minutes or minutes % _MINUTES:
        raise MarkError(f"{label} takes {minutes} minutes, which is no multiple of {_MINUTES}")
    return {"kind": kind, "own": own, "level": level, "minutes": minutes}


def names_stored(code: str) -> set[str]:
    """The names that code assigns, defines or imports at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found


def names_loaded(code: str) -> set[str]:
    """The names that code reads from outside, its comprehensions' and lambdas' own left out."""
    tree = ast.parse(code)
    own: set[str] = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.comprehension):
            own |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
    loads = (n for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
    return {node.id for node in loads} - own
