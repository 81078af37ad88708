"""Mark a folder of submissions, students' notebooks, by the book's own checks.

    python book/_tools/grade.py FOLDER

FOLDER holds notebooks of ``_build/teach/student`` with answers in them, at any depth; the path of a
file says whose it is. The folder is only read. Written are, into ``_build/marks/NAME-OF-FOLDER``:

    marks.csv     a line for each submission and exercise: points, most points, status, what to see
    PATH.html     what a student gets back

The code of a submission runs shut in (`teaching.sandbox`: Linux only), and no line of it runs in
the process that judges (`teaching.examiner`). An exercise that no check can judge is left to you:
its points stay empty.
"""

import argparse
import csv
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import teach
from jinja2 import Environment
from teaching import editions, examination, examiner, marks, plain, submissions

OUTPUT = Path("_build/marks")
SETTINGS = examination.Settings()
COLUMNS = ("submission", "exercise", "points", "of", "status", "message", "look")
_SHOWN = {
    examiner.PASSED: "right",
    examiner.FAILED: "not right yet",
    examiner.UNANSWERED: "not answered",
    examiner.TIMED_OUT: "stopped, it took too long",
    examiner.ERROR: "stopped by an error",
    examiner.BY_HAND: "marked by hand",
}
_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ name }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 sans-serif; max-width: 40rem; margin: 1.5rem auto; padding: 0 1rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; }
ol { list-style: none; padding: 0; }
li { border: 1px solid GrayText; border-radius: 0.4rem; margin: 0.6rem 0; padding: 0.5rem 0.8rem; }
.points { float: right; }
p { margin: 0.2rem 0; }
code { white-space: pre-wrap; }
</style>
</head>
<body>
<h1>{{ name }}</h1>
<p><strong>{{ given }} of {{ most }} points</strong>
{%- if open %}, and {{ open }} more to be marked by hand{% endif %}.</p>
<ol>
{% for mark in marks %}
<li><span class="points">{{ mark.shown }}</span><strong>{{ mark.exercise or "The file" }}</strong>:
{{ words[mark.status] }}
{% if mark.message %}
<p><code>{{ mark.message }}</code></p>
{% endif %}
</li>
{% endfor %}
</ol>
</body>
</html>
""")


class GradeError(RuntimeError):
    """The submissions cannot be marked; the message says why."""


@dataclass(frozen=True)
class Mark:
    """What an exercise of a submission got.

    Attributes:
        submission: Its name.
        exercise: Its number; empty for a file that is no submission.
        points: None if a person must mark it.
        most: The points of a right answer.
        status: One of `examiner.STATUSES`.
        message: For the student.
        look: For the teacher: what a human eye should see.
    """

    submission: str
    exercise: str
    points: float | None
    most: float
    status: str
    message: str = ""
    look: str = ""

    @property
    def shown(self) -> str:
        """Its points as a student reads them."""
        return f"{'?' if self.points is None else f'{self.points:g}'} / {self.most:g}"


@dataclass(frozen=True)
class Material:
    """What marking needs of a chapter: itself, its checks, and the notebook that was handed out."""

    chapter: marks.Chapter
    checks: dict[str, editions.Check]
    edition: Any

    @property
    def code(self) -> list[str]:
        """The book's own cells that a student's notebook runs, in order."""
        return [cell.source for cell in self.chapter.cells if marks.is_code(cell, "this-sample")]

    @property
    def wanted(self) -> dict[str, tuple[str, ...]]:
        """The names that the check of each exercise asks for; none without a check."""
        exercises = [exercise.number for exercise in self.chapter.exercises]
        return {n: self.checks[n].names if n in self.checks else () for n in exercises}

    def task(self, number: str, answer: submissions.Answer) -> examiner.Task:
        """What is to be judged of an answer."""
        check = self.checks[number].code if number in self.checks else ""
        return examiner.Task(tuple(answer.code), answer.results, check)


def material(book: list[marks.Chapter], called: plain.Names) -> dict[int, Material]:
    """The chapters' material by their number."""
    found = {}
    for chapter in book:
        checks = editions.checks(chapter)
        edition = editions.student(chapter, called, checks)
        found[chapter.number] = Material(chapter, checks, edition)
    return found


def grade(
    folder: Path,
    output: Path,
    root: Path = teach.ROOT,
    settings: examination.Settings = SETTINGS,
) -> list[Mark]:
    """Mark a folder of submissions, and write marks.csv and the pages anew.

    Args:
        folder: Of submissions.
        output: Where the results go; a folder that holds anything else is refused.
        root: Of the book.
        settings: What a submission may use.

    Raises:
        ExaminationError: Code cannot be shut in on this machine, or a chapter does not run.
        GradeError: A folder is not as it should be.
        MarkError: The marks of a chapter do not fit together.
    """
    if not folder.is_dir():
        raise GradeError(f"{folder} is no folder")
    _clear(output)
    book = teach.chapters(root)
    chapters = material(book, teach.names(book, root))
    given, found = _submissions(folder, chapters)
    for number in sorted({submission.chapter for submission in given}):
        chapter = chapters[number]
        with examination.Examination(chapter.code, root, settings) as examined:
            for submission in (s for s in given if s.chapter == number):
                found += _mark(submission, chapter, examined)
    found.sort(key=lambda mark: mark.submission)
    _write(found, output)
    return found


def _clear(output: Path) -> None:
    """Take away what an earlier run has left; a folder with anything else in it is left alone."""
    output.mkdir(parents=True, exist_ok=True)
    left = list(output.iterdir())
    if any(path.name != "marks.csv" and path.suffix != ".html" for path in left):
        raise GradeError(f"{output} holds something else than marks; give another folder")
    for path in left:
        path.unlink()


def _submissions(
    folder: Path, chapters: dict[int, Material]
) -> tuple[list[submissions.Submission], list[Mark]]:
    """The submissions of a folder, and a mark for each file that is none."""
    found, unread = [], []
    for path in sorted(folder.rglob("*.ipynb")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if ".ipynb_checkpoints" in path.parts:
            continue
        try:
            if path.is_symlink() or not path.is_file():
                raise submissions.SubmissionError("no file of its own")
            cells = submissions.load(path)
            number = submissions.chapter_of(cells)
            if number not in chapters:
                raise submissions.SubmissionError(f"the book has no chapter {number}")
            edition, wanted = chapters[number].edition, chapters[number].wanted
            found.append(submissions.read(name, cells, edition, wanted))
        except submissions.SubmissionError as error:
            unread.append(Mark(name, "", 0, 0, examiner.ERROR, str(error), "not marked"))
    return found, unread


def _mark(
    submission: submissions.Submission, chapter: Material, examined: examination.Examination
) -> list[Mark]:
    """Mark a submission."""
    answers = {n: a for n, a in submission.answers.items() if not a.is_empty}
    tasks = [chapter.task(number, answer) for number, answer in answers.items()]
    verdicts = dict(zip(answers, examined.verdicts(tasks), strict=True))
    unanswered = examiner.Verdict(examiner.UNANSWERED)
    found = []
    for exercise in chapter.chapter.exercises:
        verdict = verdicts.get(exercise.number, unanswered)
        most = exercise.points
        points = {examiner.PASSED: most, examiner.BY_HAND: None}.get(verdict.status, 0)
        seen = (*submission.notes.get(exercise.number, ()), *verdict.sights)
        how = (verdict.status, verdict.message, "; ".join(dict.fromkeys(seen)))
        found.append(Mark(submission.name, exercise.number, points, most, *how))
    return found


def _write(found: list[Mark], output: Path) -> None:
    with (output / "marks.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for mark in found:
            points = "" if mark.points is None else f"{mark.points:g}"
            numbers = (mark.exercise, points, f"{mark.most:g}", mark.status)
            table.writerow(
                [_harmless(mark.submission), *numbers, *map(_harmless, (mark.message, mark.look))]
            )
    taken: set[str] = set()
    for name in dict.fromkeys(mark.submission for mark in found):
        file_name = re.sub(r"[^\w.-]+", "_", name).strip(".")[:100] or "_"
        while file_name in taken:
            file_name += "_"
        taken.add(file_name)
        own = [mark for mark in found if mark.submission == name]
        (output / f"{file_name}.html").write_text(page(name, own), encoding="utf-8")


def _harmless(text: str) -> str:
    """Text that a spreadsheet does not take for a formula, on one line."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", " ", text).split())
    return f"'{line}" if line[:1] in ("=", "+", "-", "@") else line


def page(name: str, found: list[Mark]) -> str:
    """What a student gets back, as HTML: no notes for the teacher, no scripts."""
    given = sum(mark.points or 0 for mark in found)
    open_points = sum(mark.most for mark in found if mark.points is None)
    most = sum(mark.most for mark in found)
    numbers = {"given": f"{given:g}", "most": f"{most:g}", "open": open_points}
    text = _PAGE.render(name=name, marks=found, words=_SHOWN, **numbers)
    return re.sub(r"[\ud800-\udfff]", "?", text)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of submissions")
    parser.add_argument("--output", type=Path, help=f"(absent: {OUTPUT}/NAME-OF-FOLDER)")
    parser.add_argument("--seconds", type=float, default=SETTINGS.seconds, help="for an exercise")
    parser.add_argument("--megabytes", type=int, default=SETTINGS.megabytes, help="of memory")
    options = parser.parse_args()
    output = options.output or teach.ROOT / OUTPUT / options.folder.resolve().name
    settings = examination.Settings(options.seconds, options.megabytes)
    try:
        found = grade(options.folder, output, settings=settings)
    except (GradeError, examination.ExaminationError, marks.MarkError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len({mark.submission for mark in found})} submissions: {output / 'marks.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
