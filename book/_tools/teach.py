"""Make the book into a course: notebooks for students and teachers, sheets, questions.

Everything goes into _build/teach and is made anew each time from the notebooks as they are:

    student/     notebooks without solutions, with checks that can be called
    teacher/     the same with solutions and outputs
    sheets/      the exercises of a chapter to print (Markdown, HTML)
    questions/   the question bank, folded (Markdown, HTML) and for Moodle (XML)
    slides/      a deck for each chapter, which needs no network (HTML)
    figures/     every figure with its caption, alternative text and credit; also as an archive
    nbgrader/    the notebooks as nbgrader's source version

Run as ``python book/_tools/teach.py``; with ``--page`` to write the tables of book/teach.md anew,
and the numbers of new exercises into a list, so that they stay;
with ``--pdf`` to print the decks too, by Chromium;
with ``--seconds LOG ...`` to keep what `chapters.py` printed about the time that chapters take;
with ``--svg`` to draw the figures of all chapters, or of those whose numbers follow, as SVG too
(as long as it takes to execute them; what is drawn is kept until the chapter changes);
with ``--run`` to execute both editions of all chapters, or of those whose numbers follow (long).
"""

import argparse
import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import nbformat
from teaching import (
    editions,
    figures,
    kept,
    marks,
    nbgrader,
    pages,
    plain,
    questions,
    running,
    slides,
    times,
)

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = Path("_build/teach")
SECONDS = Path("book/_tools/teaching/seconds.csv")
COURSES = Path("book/_tools/teaching/courses.yml")
NUMBERS = Path("book/_tools/teaching/exercises.csv")
PAGE = Path("book/teach.md")


def chapters(root: Path = ROOT) -> list[marks.Chapter]:
    """All chapters, cut at their marks, in the book's order.

    Raises:
        MarkError: The marks of one do not fit together.
    """
    return [marks.read(path) for path in sorted((root / "notebooks").glob("*.ipynb"))]


def names(book: list[marks.Chapter], root: Path = ROOT) -> plain.Names:
    """What every label of the book is called."""
    return plain.name_all(book, root / "book/references.bib", pages="../../html/")


def make(root: Path = ROOT, output: Path | None = None) -> Path:
    """Make all products anew; the folder that they are in.

    Raises:
        MarkError: The marks of a chapter do not fit together, or a directive has no plain form.
        QuestionError: A question does not keep to the schema.
    """
    output = output or root / OUTPUT
    book = chapters(root)
    called = names(book, root)
    banks = {
        int(p.stem): questions.read(p) for p in sorted((root / "book/questions").glob("*.yml"))
    }
    shutil.rmtree(output, ignore_errors=True)
    for folder in ("student", "teacher", "sheets", "questions", "slides", "figures"):
        (output / folder).mkdir(parents=True)
    mathjax = pages.put_mathjax(root, output)
    _make_editions(book, called, output)
    for chapter in book:
        if chapter.exercises:
            title = f"Exercises of chapter {chapter.number}"
            sheet = pages.sheet(chapter, called)
            _write_both(output / "sheets" / chapter.path.stem, title, sheet, mathjax)
    for number, bank in banks.items():
        target = output / "questions" / str(number)
        _write_both(target, f"Questions {number}", questions.folded(number, bank), mathjax)
        target.with_suffix(".xml").write_text(questions.moodle(number, bank), encoding="utf-8")
    make_decks(book, called, banks, root, output / "slides")
    pack_figures(book, root, output, mathjax)
    return output


def pack_figures(book: list[marks.Chapter], root: Path, output: Path, mathjax: str) -> None:
    """Every figure in a folder, with an index, and as an archive."""
    folder = output / "figures"
    index = figures.pack(book, figures.citation(root), folder, root / figures.SVG)
    _write_both(folder / "index", "Figures", index, mathjax)
    with zipfile.ZipFile(output / "figures.zip", "w") as archive:
        for path in sorted(folder.iterdir()):  # without the time, so that it is the same again
            member = zipfile.ZipInfo(f"figures/{path.name}")
            archive.writestr(member, path.read_bytes(), zipfile.ZIP_DEFLATED)


def make_decks(
    book: list[marks.Chapter],
    called: plain.Names,
    banks: dict[int, list[questions.Question]],
    root: Path,
    folder: Path,
) -> None:
    """A deck for each chapter that says what is in it; MathJax beside them, to take along.

    Raises:
        MarkError: A chapter's deck names something that it does not have.
    """
    mathjax = pages.put_mathjax(root, folder).removeprefix("../")
    cited = figures.citation(root)
    for chapter in book:
        if "deck" not in chapter.notebook.metadata:
            continue
        bank = banks.get(chapter.number, [])
        try:
            made = slides.Deck(chapter, called, bank, figures.cite(cited, chapter))
            page = slides.deck(made, mathjax)
        except marks.MarkError as error:
            raise marks.MarkError(f"{chapter.path.name}: {error}") from None
        (folder / f"{chapter.path.stem}.html").write_text(page, encoding="utf-8")


def _make_editions(book: list[marks.Chapter], called: plain.Names, output: Path) -> None:
    stored: dict[str, Any] = {}
    for chapter in book:
        try:
            found = editions.checks(chapter)
            made = {
                "student": editions.student(chapter, called, found),
                "teacher": editions.teacher(chapter, called, found),
            }
        except marks.MarkError as error:
            raise marks.MarkError(f"{chapter.path.name}: {error}") from None
        stored |= {number: check.stored() for number, check in found.items()}
        for kind, notebook in made.items():
            nbformat.write(notebook, output / kind / chapter.path.name)
        source = output / "nbgrader/source" / chapter.path.stem / chapter.path.name
        source.parent.mkdir(parents=True)
        nbformat.write(nbgrader.source_version(chapter, made["student"], found), source)
    for kind in ("student", "teacher"):
        shutil.copy(Path(__file__).parent / "teaching/checks.py", output / kind)
        (output / kind / "checks.json").write_text(json.dumps(stored, indent=1), encoding="utf-8")


def _write_both(path: Path, title: str, markdown: str, mathjax: str) -> None:
    path.with_suffix(".md").write_text(markdown, encoding="utf-8")
    path.with_suffix(".html").write_text(pages.page(title, markdown, mathjax), encoding="utf-8")


def draw(numbers: list[int], root: Path = ROOT) -> bool:
    """Keep the figures of some chapters (none: of all) as SVG, saying so; whether all is well.

    Raises:
        ValueError: There is no chapter of a number.
    """
    paths = {int(p.stem[:2]): p for p in sorted((root / "notebooks").glob("*.ipynb"))}
    if unknown := set(numbers) - set(paths):
        raise ValueError(f"There is no chapter {min(unknown)}; there are {sorted(paths)}.")
    well = True
    for number in numbers or paths:
        problem = figures.draw(paths[number], root / figures.SVG)
        print(f"{paths[number].stem}:", problem or "drawn as SVG", flush=True)
        well = well and not problem
    return well


def run(output: Path, numbers: list[int]) -> bool:
    """Execute both editions of some chapters (none: of all), saying so; whether all is well."""
    well = True
    for path in sorted(output.glob("*/*.ipynb")):
        if not numbers or int(path.stem[:2]) in numbers:
            found = list(running.complaints(path))
            print(f"{path.parent.name}/{path.stem}:", "\n".join(found) or "runs", flush=True)
            well = well and not found
    return well


def renewed(page: str, root: Path = ROOT) -> str:
    """The text of the page on teaching with its generated parts as they should be.

    Raises:
        ValueError: The page lacks the marks of a part.
    """
    seconds = times.read_seconds(root / SECONDS)
    for name, block in times.blocks(chapters(root), root / COURSES, seconds).items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{PAGE} has no part {begin.strip()} ... {end.strip()}")
        page = before + begin + "\n" + block + "\n" + end + after
    return page


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--page", action="store_true", help="write the tables of book/teach.md")
    parser.add_argument("--pdf", action="store_true", help="print the decks too, by Chromium")
    parser.add_argument("--seconds", nargs="+", type=Path, metavar="LOG", help="of chapters.py")
    parser.add_argument("--svg", nargs="*", type=int, metavar="CHAPTER", help="draw SVG too")
    parser.add_argument("--run", nargs="*", type=int, metavar="CHAPTER", help="execute them")
    options = parser.parse_args()
    try:
        if options.seconds:
            times.write_seconds(options.seconds, ROOT / SECONDS)
        elif options.page:
            kept.keep(chapters(), ROOT / NUMBERS)
            text = renewed((ROOT / PAGE).read_text(encoding="utf-8"))
            (ROOT / PAGE).write_text(text, encoding="utf-8")
        else:
            well = options.svg is None or draw(options.svg)
            output = make()
            print(f"Made {output}")
            if options.pdf and (problem := slides.print_pdf(sorted(output.glob("slides/*.html")))):
                print(f"The decks were not printed: {problem}", file=sys.stderr)
            well = (options.run is None or run(output, options.run)) and well
            return 0 if well else 1
    except (marks.MarkError, questions.QuestionError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
