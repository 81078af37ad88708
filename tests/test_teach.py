"""The editions, sheets and questions that teach.py makes, and the page on teaching."""

import ast
import builtins
import collections
import functools
import hashlib
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import book_extension
import chapters
import nbformat
import pytest
import teach
import torch
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image
from teaching import checks, editions, kept, marks, plain, questions, running, times

from xaiutils import attribution, evaluation, models

BANKS = sorted((teach.ROOT / "book/questions").glob("*.yml"))
BOOK = teach.chapters()
PAGE = (teach.ROOT / teach.PAGE).read_text(encoding="utf-8")
numbered = pytest.mark.parametrize("chapter", BOOK, ids=lambda chapter: chapter.path.stem)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return teach.make(output=tmp_path_factory.mktemp("teach") / "made")


@pytest.fixture(scope="module")
def names():
    return teach.names(BOOK)


@functools.cache
def _load(path):
    return nbformat.read(path, as_version=4)


def _read(folder, chapter):
    return _load(folder / chapter.path.name)


def _code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def _markdown(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


# Editions


@numbered
def test_student_edition_is_an_empty_notebook_that_parses(made, chapter):
    notebook = _read(made / "student", chapter)
    nbformat.validate(notebook)
    for source in _code(notebook):
        ast.parse(source)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert "widgets" not in notebook.metadata


@numbered
def test_student_edition_holds_no_solution(made, chapter):
    notebook = _read(made / "student", chapter)
    shown = "\n".join(cell.source for cell in notebook.cells)
    own = "\n".join(cell.source for cell in chapter.cells)
    for exercise in chapter.exercises:
        lines = {ln.strip() for cell in exercise.solution for ln in cell.source.splitlines()}
        assert [ln for ln in lines if len(ln) > 20 and ln in shown and ln not in own] == []


@numbered
def test_student_edition_runs_without_what_was_cut(made, chapter):
    known = set(dir(builtins))
    for source in _code(_read(made / "student", chapter)):
        stored = marks.names_stored(source)
        assert marks.names_loaded(source) - known - stored == set()
        known |= stored


@numbered
def test_student_edition_asks_for_every_exercise(made, chapter):
    notebook = _read(made / "student", chapter)
    code = "\n".join(_code(notebook))
    for exercise in chapter.exercises:
        assert f"### Exercise {exercise.number}\n" in _markdown(notebook)
        assert f"# Your answer to exercise {exercise.number}\n" in code
        assert f'check("{exercise.number}"' in code or f"{exercise.number}: not answered" in code


@numbered
def test_teacher_edition_has_all_solutions_and_outputs(made, names, chapter):
    notebook = _read(made / "teacher", chapter)
    nbformat.validate(notebook)
    code, text = _code(notebook), _markdown(notebook)
    for exercise in chapter.exercises:
        for cell in exercise.solution:
            whole = cell.source in code if cell.cell_type == "code" else None
            assert whole or plain.plain(cell.source, names) in text
    before = [cell.outputs for cell in chapter.notebook.cells if cell.cell_type == "code"]
    after = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(map(bool, after)) == sum(map(bool, before))


@numbered
@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_no_myst_is_left(made, chapter, kind):
    text = _markdown(_read(made / kind, chapter))
    assert not plain.LEFTOVERS.search(text)
    assert not re.search(r"\$\$ *\([\w-]+\)|\{[a-z:]+\}`|^\([\w-]+\)=$", text, re.MULTILINE)


def test_the_folders_hold_the_checks(made):
    for kind in ("student", "teacher"):
        assert (made / kind / "checks.py").is_file()
        assert "assert" not in (made / kind / "checks.json").read_text()


def test_most_exercises_that_can_be_checked_are():
    """Those of their own pictures, and what words answer, have no code in the solution."""
    of_all = [exercise for chapter in BOOK for exercise in chapter.exercises]
    with_code = [e for e in of_all if any(map(marks.is_code, e.solution))]
    assert len(with_code) > 100
    assert sum(len(editions.checks(chapter)) for chapter in BOOK) > 0.8 * len(with_code)


# A chapter made for the purpose

MARK = "Pencil · level 1 · 10 min · 2 points"
EXERCISE = f"```{{exercise}} {MARK}\n:label: ex-sum\nAdd 2 and 3.\n```"
START = "````{solution-start} ex-sum\n:class: dropdown\n````"
END = "````{solution-end}\n````"


@pytest.fixture
def notebook():
    cells = [
        new_markdown_cell("# Sums\n\n```{prf:theorem} Sums\n:label: thm-sum\n$1 + 1 = 2$\n```"),
        new_code_cell("numbers = [2, 3]"),
        new_markdown_cell(
            f"## Exercises\n\n{EXERCISE}\n\n{START}\nBy {{prf:ref}}`thm-sum` it is 5."
        ),
        new_code_cell("import math\n\ntotal = sum(numbers)", metadata={"tags": ["answer"]}),
        new_code_cell("assert math.isclose(total, 5), 'Add!'", metadata={"tags": ["check"]}),
        new_markdown_cell("The product, `total=2 * 3`.", metadata={"tags": ["wrong"]}),
        new_markdown_cell(f"{END}\n\n## References"),
        new_code_cell("assert numbers"),
    ]
    return new_notebook(cells=cells, metadata=chapters.METADATA)


@pytest.fixture
def root(tmp_path, notebook):
    """A book of one chapter."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book").mkdir()
    for name in ("package-lock.json", "package.json"):
        shutil.copy(teach.ROOT / name, tmp_path / name)
    (tmp_path / "book/references.bib").touch()
    nbformat.write(notebook, tmp_path / "notebooks/10_sums.ipynb")
    return tmp_path


def test_solution_and_closing_are_cut(root):
    folder = teach.make(root) / "student"
    sources = [cell.source for cell in nbformat.read(folder / "10_sums.ipynb", 4).cells]
    assert "> **Theorem 10.1 (Sums).**\n>\n> $1 + 1 = 2$" in sources[2]
    assert sources[4:] == [
        f"## Exercises\n\n### Exercise 10.1\n\n*{MARK}*\n\nAdd 2 and 3.",
        "# Your answer to exercise 10.1\n# Results that are checked: total\n",
        'check("10.1", total=...)',
        "## References",
    ]


def test_making_it_again_gives_the_same(root):
    def digests(folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).digest() for p in files}

    first = digests(teach.make(root))
    (root / teach.OUTPUT / "student/leftover.ipynb").touch()
    assert digests(teach.make(root)) == first


@pytest.mark.parametrize(
    ("total", "verdict"),
    [(..., "not answered yet"), (5, "right"), (6, "not right yet. Add!")],
)
def test_check_judges_a_result(root, monkeypatch, capsys, total, verdict):
    folder = teach.make(root) / "student"
    monkeypatch.setattr(checks, "__file__", str(folder / "checks.py"))
    checks.check("10.1", total=total)
    assert capsys.readouterr().out == f"10.1: {verdict}\n"


def test_check_says_what_is_missing_and_what_went_wrong(root, monkeypatch):
    monkeypatch.setattr(checks, "__file__", str(teach.make(root) / "student/checks.py"))
    assert checks.verdict("10.1", {}, {}) == "give total=... too"
    assert "TypeError" in checks.verdict("10.1", {"total": "five"}, {})


def test_both_editions_run(root, capsys):
    assert teach.run(teach.make(root), [])
    assert capsys.readouterr().out == "student/10_sums: runs\nteacher/10_sums: runs\n"


def test_running_notices_a_wrong_answer_that_passes(root):
    path = teach.make(root) / "teacher/10_sums.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("total=2 * 3)", "total=2 + 3)"))
    assert list(running.complaints(path)) == ['check("10.1", total=2 + 3) says: 10.1: right']


def test_points_are_level_and_tens_of_minutes():
    assert [marks.points(level, minutes) for level, minutes in ((1, 5), (2, 20), (3, 60))] == [
        1,
        4,
        9,
    ]


def test_what_the_reader_brings_is_read():
    title = "Change it, your own picture · level 2 · 20 min · 4 points"
    cell = new_markdown_cell(EXERCISE.replace(MARK, title))
    chapter = marks.Chapter(Path("notebooks/10_sums.ipynb"), None, [], [], [])
    (found,) = marks._exercises(cell.source, chapter)
    assert (found.kind, found.own, found.level, found.minutes, found.points) == (
        "change it",
        "picture",
        2,
        20,
        4,
    )
    assert found.mark == title


def test_running_notices_an_answer_that_is_not_right(root):
    path = teach.make(root) / "teacher/10_sums.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("total=total", "total=7"))
    assert list(running.complaints(path)) == [
        'check("10.1", total=7) says: 10.1: not right yet. Add!'
    ]


def _unclosed(cells):
    cells[6].source = "## References"


def _unopened(cells):
    cells[2].source = cells[2].source.replace(START, "")


def _nested(cells):
    cells[6].source = START


def _other_label(cells):
    cells[2].source = cells[2].source.replace("solution-start} ex-sum", "solution-start} ex-x")


def _unsolved(cells):
    cells[6].source = f"{END}\n\n{EXERCISE.replace('ex-sum', 'ex-more')}"


def _twice(cells):
    cells[6].source = f"{END}\n\n{EXERCISE}"


def _unlabelled(cells):
    cells[2].source = cells[2].source.replace(":label: ex-sum\n", "")


def _inline(cells):
    cells[2].source = cells[2].source.replace(START, f"Here: {START}")


def _titled(title):
    def damage(cells):
        cells[2].source = cells[2].source.replace(MARK, title)

    return damage


def _untagged(cells):
    cells[3].metadata = {}


def _tagged_twice(cells):
    cells[3].metadata.tags = ["answer", "check"]


def _asserting(cells):
    cells[3].source += "\nassert total"


def _computing(cells):
    cells[4].source = "total = 5\nassert total"


def _answered_late(cells):
    cells[3], cells[4] = cells[4], cells[3]


def _unchecked(cells):
    cells[4].metadata.tags = ["check-teacher"]


def _of_nothing(cells):
    cells[4].source = "assert numbers"


def _of_another(cells):
    cells[4].source = "assert total == right"


def _wrong_about_another(cells):
    cells[5].source = "Another name, `sum=4`."


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_titled(""), "the title of ex-sum is '', not one like"),
        (_titled("Pencil · level 1 · 10 min"), "not one like"),
        (_titled("Sport · level 1 · 10 min · 2 points"), "ex-sum has the kind 'sport'"),
        (_titled("Pencil · level 4 · 10 min · 5 points"), "ex-sum has the level 4"),
        (_titled("Code, your own horse · level 1 · 10 min · 2 points"), "own thing 'horse'"),
        (_titled("Pencil · level 1 · 12 min · 2 points"), "12 minutes, which is no multiple"),
        (_titled("Pencil · level 1 · 10 min · 3 points"), f"should be '{MARK}'"),
        (_titled("Pencil · level 1 · 0 min · 1 points"), "0 minutes"),
        (_untagged, "needs exactly one of the tags"),
        (_tagged_twice, "needs exactly one of the tags"),
        (_asserting, "tagged 'answer', but it asserts something"),
        (_computing, "tagged 'check', but not all of it asserts"),
        (_answered_late, "tagged 'answer', but it comes after a check"),
        (_unchecked, "tagged 'wrong', but there is no check"),
        (_of_nothing, "asks for 0 results"),
        (_of_another, "what a student lacks: {'right'}"),
        (_wrong_about_another, "the wrong answer 'sum=4' to 10.1 is none of"),
        (_unclosed, "the solution of ex-sum is opened and never closed"),
        (_unopened, "a solution is closed that was never opened"),
        (_nested, "opened inside the solution of ex-sum"),
        (_other_label, "a solution of ex-x, but no such exercise"),
        (_unsolved, "exercise ex-more has no solution"),
        (_twice, "two exercises have the label ex-sum"),
        (_unlabelled, "exercise 1 has no label"),
        (_inline, "a solution mark that is no fence of its own"),
    ],
)
def test_marks_that_do_not_fit_are_refused(root, notebook, damage, complaint):
    damage(notebook.cells)
    nbformat.write(notebook, root / "notebooks/10_sums.ipynb")
    with pytest.raises(marks.MarkError, match=f"10_sums.ipynb: .*{complaint}"):
        teach.make(root)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (
            "```{admonition} Ours\n:class: ours\nA box.\n\nTwo.\n```",
            "> **Ours**\n>\n> A box.\n>\n> Two.",
        ),
        ("````{prf:proof}\nClear.\n````", "**Proof.** Clear. ∎"),
        ("$$\na = b\n$$ (eq-a)", "$$\na = b \\tag{7.1}\n$$"),
        ("```{prf:lemma}\n$$\na\n= b\n$$ (eq-a)\n```", "> **Lemma.**\n>\n> $$ a = b \\tag{7.1} $$"),
        ("by {eq}`eq-a`", "by (7.1)"),
        ("Doe et al. {cite:p}`doe` say", "Doe et al. (1999) say"),
        ("It is known {cite:p}`doe,roe`.", "It is known (Doe et al., 1999; Roe, 2001)."),
        ("[here](../book/notation.md#signs)", "[here](../book/notation.html#signs)"),
        ("(a-target)=\n## Heading", "## Heading"),
        ("{term}`gates <gate>`", "[gates](../book/glossary.html#term-gate)"),
        ("{term}`Holm's test`", "[Holm's test](../book/glossary.html#term-Holm-s-test)"),
    ],
)
def test_plain_markdown(source, shown):
    works = {"doe": ("Doe", "Doe et al.", "1999"), "roe": ("Roe", "Roe", "2001")}
    assert plain.plain(source, plain.Names({"eq-a": "(7.1)"}, works, "../")) == shown


@pytest.mark.parametrize(
    "source", ["{cite:p}`nobody`", "{eq}`nothing`", "```{figure} a\n```", "```{note}"]
)
def test_what_has_no_plain_form_is_refused(source):
    with pytest.raises(marks.MarkError):
        plain.plain(source, plain.Names())


# Numbers


def test_exercises_keep_their_numbers():
    now = kept.numbers(BOOK)
    assert kept.read(teach.ROOT / teach.NUMBERS) == now, "run book/_tools/teach.py --page"
    assert len(set(now.values())) == len(now) > 140


def test_an_exercise_that_moves_is_refused(root, notebook):
    path = root / "exercises.csv"
    kept.keep(teach.chapters(root), path)
    assert path.read_text() == "number,label\n10.1,ex-sum\n"
    path.write_text("number,label\n10.1,ex-product\n")
    with pytest.raises(marks.MarkError, match=r"exercise 10\.1 was ex-product and is ex-sum"):
        kept.keep(teach.chapters(root), path)
    assert "ex-product" in path.read_text()


def test_pages_number_exercises_by_chapter():
    counted = {"ex-b": (8,), "ex-a": (7,)}
    fignumbers = {
        "notebooks/13_sums": {"exercise": counted, "theorem": {"thm": (3,)}},
        "notebooks/14_none": {"theorem": {"other": (4,)}},
        "book/page": {"exercise": {"ex-c": (9,)}},
    }
    env = SimpleNamespace(toc_fignumbers=fignumbers)
    assert book_extension.number_exercises_by_chapter(None, env) == []
    assert fignumbers["notebooks/13_sums"]["exercise"] == {"ex-a": (13, 1), "ex-b": (13, 2)}
    assert fignumbers["notebooks/13_sums"]["theorem"] == {"thm": (3,)}
    assert fignumbers["book/page"]["exercise"] == {"ex-c": (9,)}


# Sheets


@numbered
def test_sheet_has_every_exercise(made, names, chapter):
    if not chapter.exercises:
        assert not (made / "sheets" / f"{chapter.path.stem}.md").exists()
        return
    sheet = (made / "sheets" / f"{chapter.path.stem}.md").read_text(encoding="utf-8")
    printed = (made / "sheets" / f"{chapter.path.stem}.html").read_text(encoding="utf-8")
    for exercise in chapter.exercises:
        assert f"## Exercise {exercise.number}\n" in sheet
        assert plain.exercise_text(exercise, names) in sheet
        assert f"<h2>Exercise {exercise.number}</h2>" in printed
        assert f"\n*{exercise.mark}*\n" in sheet
    points = sum(exercise.points for exercise in chapter.exercises)
    assert f"All exercises: {points} points, about " in sheet


# Questions


def test_every_chapter_has_questions():
    assert {int(path.stem) for path in BANKS} == {chapter.number for chapter in BOOK}


@pytest.mark.parametrize("path", BANKS, ids=lambda path: path.stem)
def test_question_bank_is_complete(path):
    bank = questions.read(path)
    assert len(bank) >= 8
    assert {question.level for question in bank} == {1, 2, 3}
    (chapter,) = [c for c in BOOK if c.number == int(path.stem)]
    headings = {m.strip() for m in re.findall(r"^#{2,4} (.+)$", chapter.text, re.MULTILINE)}
    assert {question.where for question in bank} <= headings
    for question in bank:
        if question.check:
            assert eval(question.check, {"math": math}) is True


def test_question_names_are_unique():
    found = [question.name for path in BANKS for question in questions.read(path)]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("path", BANKS, ids=lambda path: path.stem)
def test_questions_for_moodle(made, path):
    quiz = ET.parse(made / "questions" / f"{path.stem}.xml").getroot()
    bank = questions.read(path)
    category, *found = quiz.findall("question")
    assert category.findtext("category/text").endswith(f"Chapter {path.stem}")
    assert [q.findtext("name/text") for q in found] == [q.name for q in bank]
    for element, question in zip(found, bank, strict=True):
        assert element.get("type") == "multichoice"
        assert element.findtext("single") == "true"
        grades = [a.get("fraction") for a in element.findall("answer")]
        assert sorted(grades) == ["0"] * (len(question.answers) - 1) + ["100"]
        assert all(a.findtext("feedback/text").strip() for a in element.findall("answer"))
        assert "$" not in element.findtext("questiontext/text")


@pytest.mark.parametrize("path", BANKS, ids=lambda path: path.stem)
def test_the_right_answer_stands_everywhere_equally_often(path):
    ordered = list(questions.in_order(questions.read(path)))
    places = collections.Counter(
        next(n for n, a in enumerate(answers) if a.right) for _, answers in ordered
    )
    counts = [places[place] for place in range(min(len(answers) for _, answers in ordered))]
    assert max(counts) - min(counts) <= 1
    assert all(set(answers) == set(question.answers) for question, answers in ordered)


@pytest.mark.parametrize("path", BANKS, ids=lambda path: path.stem)
def test_folded_questions_need_no_script(made, path):
    text = (made / "questions" / f"{path.stem}.md").read_text(encoding="utf-8")
    page = (made / "questions" / f"{path.stem}.html").read_text(encoding="utf-8")
    bank = questions.read(path)
    assert text.count("<details>") == text.count("</details>") == len(bank)
    assert page.count("<summary>") == len(bank)
    assert re.findall(r"<script [^>]*>", page) == re.findall(r"<script [^>]*mathjax[^>]*>", page)
    assert len(set(re.findall(r"^- \*\*(.)\*\*, right\.", text, re.MULTILINE))) > 1


ENTRY = {
    "id": "q",
    "level": 1,
    "where": "Here",
    "question": "How many?",
    "answers": [{"text": "one", "why": "So it is.", "right": True}, {"text": "two", "why": "No."}],
}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"level": 4}, "level"),
        ({"colour": "red"}, "fields"),
        ({"answers": ENTRY["answers"][1:]}, "exactly one"),
        ({"answers": [*ENTRY["answers"], {"text": "three"}]}, "why"),
        ({"answers": [*ENTRY["answers"], {"text": "two", "why": "No."}]}, "the same"),
        ({"answers": [{**ENTRY["answers"][0], "text": "1"}, ENTRY["answers"][1]]}, "no check"),
    ],
)
def test_bad_questions_are_refused(tmp_path, change, complaint):
    path = tmp_path / "11.yml"
    path.write_text(yaml.safe_dump([ENTRY | change]))
    with pytest.raises(questions.QuestionError, match=complaint):
        questions.read(path)
    path.write_text(yaml.safe_dump([ENTRY]))
    assert len(questions.read(path)) == 1


# The page on teaching

TIME = re.compile(r"(\d+) (min|h)\b")


def test_the_page_says_what_the_chapters_give():
    """Words may change by a few without a new page; counts and names may not."""
    now = teach.renewed(PAGE)
    assert TIME.sub("TIME", PAGE) == TIME.sub("TIME", now), "run book/_tools/teach.py --page"
    for (old, unit), (new, _) in zip(TIME.findall(PAGE), TIME.findall(now), strict=True):
        assert abs(int(old) - int(new)) <= {"min": 30, "h": 1}[unit]


def test_measured_seconds_are_those_of_chapters():
    seconds = times.read_seconds(teach.ROOT / teach.SECONDS)
    assert len(seconds) > 20
    assert seconds.keys() <= {chapter.path.stem for chapter in BOOK}
    assert all(0 < taken <= 120 for taken in seconds.values())


def test_seconds_are_read_from_what_the_execution_prints(tmp_path):
    (tmp_path / "log").write_text("Executing notebooks/10_sums.ipynb ... 7 s\n")
    times.write_seconds([tmp_path / "log"], tmp_path / "seconds.csv")
    assert times.read_seconds(tmp_path / "seconds.csv") == {"10_sums": 7}
    (tmp_path / "log").write_text("")
    with pytest.raises(ValueError, match="no line"):
        times.write_seconds([tmp_path / "log"], tmp_path / "seconds.csv")


def test_words_and_formulas_are_counted():
    text = "Two words, $x^2$ here.\n\n$$\na = b\n$$\n\n```{note}\n:class: tip\nOne more.\n```\nEnd."
    words, formulas = times.measure(text)
    assert formulas == 1
    assert 8 <= words <= 12


def test_courses_ask_for_nothing_that_was_not_read():
    plans = yaml.safe_load((teach.ROOT / teach.COURSES).read_text(encoding="utf-8"))
    needed = {chapter.number: times.needs(chapter) for chapter in BOOK}
    exercises = {e.number for chapter in BOOK for e in chapter.exercises}
    assert [len(plan["sessions"]) for plan in plans] == [1, 3, 7]
    for plan in plans:
        read = set()
        for session in plan["sessions"]:
            for number in session.get("chapters", []):
                assert set(needed[number]) <= read | session.get("trust", {}).keys()
                read.add(number)
            assert set(session.get("exercises", [])) <= exercises
            assert {int(e.split(".")[0]) for e in session.get("exercises", [])} <= read


def test_the_rubric_adds_up():
    rubric = PAGE.split("## The final project")[1].split("##")[0]
    assert (
        sum(int(points) for points in re.findall(r"^\| [^|]+ \| (\d+) \|", rubric, re.MULTILINE))
        == 100
    )
    parts = PAGE.split("## Marks")[1].split("##")[0]
    assert sum(map(int, re.findall(r"(\d+) %", parts))) == 100


# The glossary

TERM = re.compile(
    r"^(\S.*)\n  (.+) Chapter \[(\d\d)\]\(\.\./notebooks/(\w+\.ipynb)\)"
    r"(?:, \{prf:ref\}`[\w-]+`(?: and \{prf:ref\}`[\w-]+`)*)?\.$",
    re.MULTILINE,
)
GLOSSARY = (teach.ROOT / "book/glossary.md").read_text(encoding="utf-8")


def test_every_term_stands_in_the_chapter_that_it_names():
    by_name = {chapter.path.name: chapter for chapter in BOOK}
    terms = TERM.findall(GLOSSARY)
    assert len(terms) == GLOSSARY.count("\n  ") > 50
    for term, _, number, name in terms:
        said = by_name[name].text.replace("$\\times$", "times").replace("*", "").lower()
        assert term.lower() in said, term
        assert int(number) == by_name[name].number


def test_terms_are_sorted_and_given_once():
    terms = [term.lower() for term, *_ in TERM.findall(GLOSSARY)]
    assert terms == sorted(set(terms))


def test_every_definition_stands_in_the_glossary():
    defined = {
        label
        for chapter in BOOK
        for label in re.findall(r"\{prf:definition\}.*\n:label: (\S+)", chapter.text)
    }
    assert len(defined) > 40
    assert set(re.findall(r"\{prf:ref\}`([\w-]+)`", GLOSSARY)) == defined


# What is no running text: other directives, headings, options, tables, formulas, code, links
NOT_RUNNING = re.compile(
    r"```\{(?!prf|admonition|exercise)[\s\S]*?```|^#.*$|^```+\{.*$|^:\w+:.*$|^\|.*$|^!\[.*$"
    r"|\$\$[\s\S]*?\$\$|\$[^$\n]+\$|\{[\w:]+\}`[^`]+`|`[^`\n]+`|\[[^\]]*\]\([^)]*\)",
    re.MULTILINE,
)


def test_terms_are_linked_from_where_a_chapter_first_uses_them():
    """In the chapter that the glossary names; in another one, if that writes it as a formula."""
    chapters_by_name = {chapter.path.name: _markdown(chapter.notebook) for chapter in BOOK}
    for term, _, _, name in TERM.findall(GLOSSARY):
        link = re.compile(rf"\{{term\}}`(?:[^`<]+ <)?{re.escape(term)}>?`")
        word = re.compile(rf"(?<![\w-]){re.escape(term)}(?:s|es)?(?![\w-])", re.IGNORECASE)
        own = chapters_by_name[name]
        text = own if link.search(own) else next(filter(link.search, chapters_by_name.values()), "")
        assert link.search(text), f"nothing links {term}"
        assert not word.search(NOT_RUNNING.sub(" ", link.split(text)[0])), f"{term} is used before"


@numbered
def test_chapters_leave_the_name_of_the_check_alone(chapter):
    code = [cell.source for cell in chapter.notebook.cells if cell.cell_type == "code"]
    assert not any("check" in marks.names_stored(source) for source in code)


@pytest.fixture(scope="module")
def clf():
    return models.load_classifier("mnist_cnn")


X = torch.zeros(2, 1, 28, 28)
MISTAKES = [
    (
        "makes one of a picture",
        lambda c: attribution.gradient(c.module, Image.new("L", (28, 28)), 0),
    ),
    ("makes one of an array", lambda c: attribution.gradient(c.module, X.numpy(), 0)),
    ("x[None] makes a batch of one", lambda c: attribution.gradient(c.module, X[0], 0)),
    (
        "the colours come before the rows",
        lambda c: attribution.gradient(c.module, X.movedim(1, 3), 0),
    ),
    ("target must be integers, not the name", lambda c: attribution.gradient(c.module, X, "seven")),
    ("pass its .module", lambda c: attribution.gradient(c, X, 0)),
    ("batch takes a list of pictures", lambda c: c.batch(Image.new("L", (28, 28)))),
    ("did you mean 'grad_cam'?", lambda c: attribution.METHODS["gradcam"]),
    ("lower steps or region_size", lambda c: evaluation.region_perturbation(c.module, X, 0, X)),
    (
        "heatmaps must be a tensor",
        lambda c: evaluation.region_perturbation(c.module, X, 0, X.numpy(), region_size=4, steps=3),
    ),
]


@pytest.mark.parametrize(("message", "mistake"), MISTAKES, ids=[quote for quote, _ in MISTAKES])
def test_beginners_errors_are_quoted_as_they_are(clf, message, mistake):
    assert message in PAGE
    with pytest.raises((TypeError, ValueError, KeyError), match=re.escape(message)):
        mistake(clf)


def test_training_mode_is_refused_as_quoted():
    assert "`call model.eval() first`" in PAGE
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        attribution.gradient(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3)), X, 0)


def test_pixels_that_were_not_preprocessed_are_warned_of_as_quoted(clf):
    assert "`pixels from 0 to 255 that were not preprocessed`" in PAGE
    with pytest.warns(UserWarning, match="pixels from 0 to 255 that were not preprocessed"):
        attribution.gradient(clf.module, X + 255, 0)


def test_black_ink_on_white_paper_is_warned_of_as_quoted(clf):
    assert "`invert it: 1 - x`" in PAGE
    with pytest.warns(UserWarning, match="invert it: 1 - x"):
        clf.batch([Image.new("L", (28, 28), "white")])


def test_swapped_curves_are_refused_as_quoted(clf):
    assert "`abpc takes curves of the orders 'morf' and 'lerf'`" in PAGE
    curves = [
        evaluation.region_perturbation(
            clf.module, X, 0, X, region_size=4, steps=2, repeats=1, order=order
        )
        for order in ("lerf", "morf")
    ]
    with pytest.raises(ValueError, match="abpc takes curves of the orders 'morf' and 'lerf'"):
        evaluation.abpc(*curves)


def test_installing_without_a_network_is_whole():
    """No dots to be filled in, the project itself among the wheels, and what builds it."""
    commands = "".join(PAGE.split("## Install for a class")[1].split("\n## ")[0].split("```")[1::2])
    assert "..." not in commands
    assert "pip wheel --no-deps -w wheels ." in commands
    assert "--no-index --find-links wheels" in commands


def test_the_command_line_names_what_is_wrong(monkeypatch, capsys, root, notebook):
    _unclosed(notebook.cells)
    nbformat.write(notebook, root / "notebooks/10_sums.ipynb")
    monkeypatch.setattr(teach, "make", lambda: teach.chapters(Path(root)))
    monkeypatch.setattr("sys.argv", ["teach.py"])
    assert teach.main() == 1
    assert "never closed" in capsys.readouterr().err
