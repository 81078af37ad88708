"""The chapter template, as functions that list where a notebook departs from it."""

import re
import statistics
from pathlib import Path

from teaching import marks

# In this order, each in a heading or at the start of a line in bold.
SECTIONS = {
    "goals": r"goals",
    "what you need first": r"what you need first",
    "reading and running time": r"reading.*time",
    "the question": r"question",
    "the derivation": r"deriv",
    "worked by hand": r"by hand",
    "from scratch": r"from scratch",
    "through xaiutils": r"xaiutils",
    "on a real network": r"real network",
    "strengths": r"strengths",
    "where it fails": r"fails",
    "exercises": r"exercises",
    "summary": r"summary",
    "references": r"references",
}
# A page of the kind "explorer" (in the notebook's metadata) derives and measures nothing itself: it
# lets readers try what the chapters have measured. So it has no definitions, no code from scratch
# and no exercises; everything else that is asked of a chapter is asked of it too.
EXPLORER_SECTIONS = {
    "goals": r"goals",
    "what you need first": r"what you need first",
    "reading and running time": r"reading.*time",
    "experiments": r"experiments",
    "a network of your own": r"your own",
    "where it fails": r"fails",
    "references": r"references",
}
# A page of the kind "guide" shows how something is done, by examples that run: it has nothing to
# derive and no exercises either.
GUIDE_SECTIONS = {
    "goals": r"goals",
    "what you need first": r"what you need first",
    "reading and running time": r"reading.*time",
    "where it fails": r"fails",
    "references": r"references",
}
KINDS = {"explorer": EXPLORER_SECTIONS, "guide": GUIDE_SECTIONS}
MEDIAN_LINES, MOST_LINES, MOST_BYTES, EXERCISES = 6, 25, 2_000_000, 4
ARGUED = ("find the flaw", "read the figure", "design", "project")  # a page of words may answer it
WORDS = 30  # at least, where no code asserts the answer
ABSOLUTE_PATH = re.compile(
    r"(?<![\w./:-])/(?:home|root|work|Users|tmp|usr|opt|mnt|var)/|\b[A-Z]:\\\\\w"
)
REGISTRY = re.compile(r"(?:registry\.np" r"mjs|py" r"pi\.org|python" r"hosted\.org)", re.IGNORECASE)


def complaints(notebook, size):
    """All departures of a notebook (whose file has `size` bytes) from the template."""
    checks = [sections, cell_lengths, outputs, pictures, closing]
    if _kind(notebook) not in KINDS:
        checks += [definitions, exercises, agreement]
    found = [complaint for check in checks for complaint in check(notebook)]
    if size >= MOST_BYTES:
        found.append(f"the file has {size} bytes, {MOST_BYTES} or more")
    return found


def sections(notebook):
    """The required sections, in order."""
    titles = iter(title.lower() for _, title in _titles(notebook))
    for name, pattern in KINDS.get(_kind(notebook), SECTIONS).items():
        if not any(re.search(pattern, title) for title in titles):
            yield f"no section '{name}' after those before it"
            return


def definitions(notebook):
    """Numbered definitions."""
    if "{prf:definition}" not in _markdown(notebook):
        yield "no numbered definition ({prf:definition})"


def exercises(notebook):
    """Enough exercises of all kinds, marked as `marks` says, each with a solution that asserts.

    A number can be asserted. What is asked of the reader's own picture or network, and what an
    argument answers, cannot; there the solution is a text.
    """
    try:
        found = marks.cut(Path("00_chapter.ipynb"), notebook).exercises
    except marks.MarkError as error:
        yield f"marks that do not fit: {error}"
        return
    asserted = [e for e in found if any("assert" in c.source for c in e.solution if _is_code(c))]
    if len(asserted) < EXERCISES:
        yield f"{len(asserted)} exercises whose solution asserts, {EXERCISES} are asked for"
    for exercise in found:
        argued = exercise.own or exercise.kind in ARGUED
        words = sum(len(c.source.split()) for c in exercise.solution if not _is_code(c))
        if exercise not in asserted and not (argued and words >= WORDS):
            yield f"exercise {exercise.label} has no solution whose code asserts its result"
    if missing := set(marks.LEVELS) - {exercise.level for exercise in found}:
        yield f"no exercise of level {', '.join(map(str, sorted(missing)))}"
    if not any(exercise.own for exercise in found):
        yield "no exercise on the reader's own picture or network"
    if not any(exercise.kind == "find the flaw" for exercise in found):
        yield "no exercise in which a flaw is to be found"


def agreement(notebook):
    """The method from scratch and through xaiutils are asserted to agree."""
    titles = [i for i, title in _titles(notebook) if "xaiutils" in title.lower()]
    after = [i for i, title in _titles(notebook) if "real network" in title.lower()]
    if not titles or not after:
        return  # `sections` complains
    cells = notebook.cells[titles[0] : after[0] + 1]
    if not any("assert" in cell.source for cell in cells if cell.cell_type == "code"):
        yield "the section on xaiutils does not assert that it agrees with the version from scratch"


def cell_lengths(notebook):
    """Short cells."""
    lines = [len(cell.source.splitlines()) for cell in _code(notebook)]
    if lines and statistics.median(lines) > MEDIAN_LINES:
        yield f"the median code cell has {statistics.median(lines)} lines, more than {MEDIAN_LINES}"
    for number, count in enumerate(lines, 1):
        if count > MOST_LINES:
            yield f"code cell {number} has {count} lines, more than {MOST_LINES}"


def outputs(notebook):
    """Executed from top to bottom, without errors, traces of a machine or unchecked citations."""
    cells = _code(notebook)
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        yield "its cells were not executed once each, from top to bottom"
    for number, cell in enumerate(cells, 1):
        shown = "\n".join(map(_text, cell.outputs))
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"code cell {number} raised"
        if match := ABSOLUTE_PATH.search(shown):
            yield f"code cell {number} shows an absolute path: {match[0]}"
        if match := REGISTRY.search(shown + cell.source):
            yield f"code cell {number} names a package registry: {match[0]}"
        if "nbval-check-output" in cell.metadata.get("tags", ()) and not shown.strip():
            yield f"code cell {number} is tagged nbval-check-output but shows no text to compare"
    if match := REGISTRY.search(_markdown(notebook)):
        yield f"its text names a package registry: {match[0]}"
    if not any("nbval-check-output" in cell.metadata.get("tags", ()) for cell in cells):
        yield "no cell is tagged nbval-check-output: what does the prose cite?"


def pictures(notebook):
    """An alternative text for each picture."""
    for number, cell in enumerate(_code(notebook), 1):
        for output in cell.outputs:
            kinds = [kind for kind in output.get("data", {}) if kind.startswith("image/")]
            if not all(output.metadata.get(kind, {}).get("alt", "").strip() for kind in kinds):
                yield f"code cell {number} shows a picture without alternative text: use plot.show"


def closing(notebook):
    """The last cell asserts what the prose states; what only asserts is folded away on the page."""
    cells = _code(notebook)
    if not cells or "assert" not in cells[-1].source:
        yield "its last code cell asserts nothing"
    references = [i for i, title in _titles(notebook) if title.lower().startswith("references")]
    for cell in filter(_is_code, notebook.cells[references[-1] :] if references else []):
        if not cell.outputs and "hide-cell" not in cell.metadata.get("tags", ()):
            yield f"cell {cell.id} behind the references is not folded away: tag it 'hide-cell'"


def _kind(notebook):
    return notebook.metadata.get("kind")


def _is_code(cell):
    return cell.cell_type == "code"


def _code(notebook):
    return list(filter(_is_code, notebook.cells))


def _markdown(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def _titles(notebook):
    """(index of its cell, text) of every heading below the first, and of every bold line start."""
    pattern = re.compile(r"^(?:#{2,4}\s+(.+)|\*\*(.+?)\*\*)", re.MULTILINE)
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            yield from ((index, m[1] or m[2]) for m in pattern.finditer(cell.source))


def _text(output):
    return str(output.get("text", "")) + "".join(
        str(content) for kind, content in output.get("data", {}).items() if kind.startswith("text/")
    )
