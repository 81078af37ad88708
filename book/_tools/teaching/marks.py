"""Read a chapter's marks: its exercises, their solutions, and what comes after the references."""

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
    r"^```\{exercise\}.*\n(?P<options>(?:[ ]*:\w+:.*\n)*)(?P<text>(?:(?!```).*\n)*)```[ ]*$",
    re.MULTILINE,
)
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
    solution: list[Any] = field(default_factory=list)

    @property
    def number(self) -> str:
        """Chapter and place: ``13.2``."""
        return f"{self.chapter}.{self.place}"

    @property
    def code(self) -> str:
        """The code of the solution that does not speak of one sample alone."""
        return "\n".join(cell.source for cell in self.solution if is_code(cell, "this-sample"))


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


def is_code(cell: Any, without: str = "") -> bool:
    """Whether a cell is of code, and not tagged ``without``."""
    return cell.cell_type == "code" and without not in cell.metadata.get("tags", ())


def read(path: Path) -> Chapter:
    """Read a notebook and cut it at its marks.

    Raises:
        MarkError: Gates do not pair, or an exercise has no label or not exactly one solution.
    """
    notebook = nbformat.read(path, as_version=4)
    try:
        return _cut(path, notebook)
    except MarkError as error:
        raise MarkError(f"{path.name}: {error}") from None


def _cut(path: Path, notebook: Any) -> Chapter:
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
    return chapter


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
        yield Exercise(chapter.number, place, label[1], match["text"].strip())


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
