"""Every chapter keeps to the template; and the template notices each way to depart from it."""

import copy

import chapter_template
import chapters
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output


@pytest.mark.parametrize("path", chapters.paths(), ids=lambda path: path.stem)
def test_chapter_keeps_to_the_template(path):
    notebook = nbformat.read(path, as_version=4)
    assert chapter_template.complaints(notebook, path.stat().st_size) == []


@pytest.fixture(scope="module")
def exemplary():
    """The shortest chapter to the template."""
    titles = list(chapter_template.SECTIONS)
    prose = [new_markdown_cell(f"## {title.capitalize()}") for title in titles[:4]]
    prose.append(new_markdown_cell("## The derivation\n\n```{prf:definition}\n:label: d\n```"))
    prose += [new_markdown_cell(f"## {title.capitalize()}") for title in titles[5:8]]
    prose.append(new_code_cell("assert 1 + 1 == 2"))
    prose += [new_markdown_cell(f"## {title.capitalize()}") for title in titles[8:12]]
    for number, kind in enumerate(
        ("Pencil", "Code", "Find the flaw", "Change it, your own picture")
    ):
        level = 1 + number % 3
        title = f"{kind} · level {level} · 5 min · {level} point{'s' * (level > 1)}"
        prose += [
            new_markdown_cell(f"```{{exercise}} {title}\n:label: x-{number}\nTry.\n```"),
            new_markdown_cell(f"```{{solution-start}} x-{number}\n```"),
            new_code_cell(f"answer = {number}", metadata={"tags": ["answer"]}),
            new_code_cell("assert answer < 4", metadata={"tags": ["check"]}),
            new_markdown_cell("```{solution-end}\n```"),
        ]
    prose += [new_markdown_cell(f"## {title.capitalize()}") for title in titles[12:]]
    picture = new_output(
        "display_data", {"image/png": ""}, metadata={"image/png": {"alt": "A line."}}
    )
    shown = new_output("stream", text="2\n")
    tagged = {"tags": ["nbval-check-output"]}
    prose.append(new_code_cell("assert True", metadata=tagged, outputs=[shown, picture]))
    notebook = new_notebook(cells=prose)
    for number, cell in enumerate((c for c in prose if c.cell_type == "code"), 1):
        cell.execution_count = number
    return notebook


def _drop_section(cells):
    del cells[3]


def _swap_sections(cells):
    cells[5], cells[6] = cells[6], cells[5]


def _drop_definition(cells):
    cells[4].source = "## The derivation"


def _drop_agreement(cells):
    cells[8].source = "1 + 1"


def _drop_solution(cells):
    del cells[14:18]  # the first one, between its gates and with them


def _argue_a_number(cells):
    cells[15:17] = [new_markdown_cell("Words. " * 50)]


def _say_little(cells):
    cells[25:27] = [new_markdown_cell("So it is.")]


def _retitle(cells):
    cells[18].source = cells[18].source.replace("level 2", "level two")


def _lower(cells):
    cells[23].source = cells[23].source.replace("level 3 · 5 min · 3", "level 2 · 5 min · 2")


def _find_none(cells):
    cells[23].source = cells[23].source.replace("Find the flaw", "Code")


def _take_ours(cells):
    cells[28].source = cells[28].source.replace(", your own picture", "")


def _lengthen(cells):
    cells[8].source = "assert 1\n" * 26


def _reorder(cells):
    cells[8].execution_count = 2


def _forget_to_run(cells):
    cells[8].execution_count = None


def _show_path(cells):
    cells[-1].outputs[0].text = "2 in /home/me/picture.png"


def _untag(cells):
    cells[-1].metadata.tags = []


def _drop_output(cells):
    del cells[-1].outputs[0]


def _drop_alternative_text(cells):
    cells[-1].outputs[1].metadata = {}


def _end_without_assertion(cells):
    cells[-1].source = "2"


def _leave_open(cells):
    cells[-1].outputs = []


def test_exemplary_chapter_passes(exemplary):
    assert chapter_template.complaints(exemplary, 1000) == []


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_drop_section, "no section 'the question'"),
        (_swap_sections, "no section 'from scratch'"),
        (_drop_definition, "no numbered definition"),
        (_drop_agreement, "does not assert that it agrees"),
        (_drop_solution, "exercise x-0 has no solution"),
        (_argue_a_number, "exercise x-0 has no solution whose code asserts"),
        (_argue_a_number, "3 exercises whose solution asserts, 4 are asked for"),
        (_say_little, "exercise x-2 has no solution whose code asserts"),
        (_retitle, "marks that do not fit: the title of x-1"),
        (_lower, "no exercise of level 3"),
        (_find_none, "no exercise in which a flaw"),
        (_take_ours, "no exercise on the reader's own"),
        (_lengthen, "26 lines"),
        (_reorder, "from top to bottom"),
        (_forget_to_run, "from top to bottom"),
        (_show_path, "an absolute path: /home/"),
        (_untag, "no cell is tagged"),
        (_drop_output, "shows no text to compare"),
        (_drop_alternative_text, "without alternative text"),
        (_end_without_assertion, "asserts nothing"),
        (_leave_open, "is not folded away"),
    ],
)
def test_template_notices(exemplary, damage, complaint):
    notebook = copy.deepcopy(exemplary)
    damage(notebook.cells)
    assert complaint in "\n".join(chapter_template.complaints(notebook, 1000))


def test_template_notices_a_large_file(exemplary):
    assert "bytes" in chapter_template.complaints(exemplary, 3_000_000)[0]


@pytest.fixture
def explorer(exemplary):
    """The shortest page to play with."""
    return _page("explorer", exemplary)


def _page(kind, exemplary):
    """The chapter's last cell under the headings of another kind of page."""
    titles = [f"## {title.capitalize()}" for title in chapter_template.KINDS[kind]]
    cells = [*map(new_markdown_cell, titles), copy.deepcopy(exemplary.cells[-1])]
    cells[-1].execution_count = 1
    return new_notebook(cells=cells, metadata={"kind": kind})


@pytest.mark.parametrize("kind", chapter_template.KINDS)
def test_other_kinds_of_pages_need_no_exercises(kind, exemplary):
    assert chapter_template.complaints(_page(kind, exemplary), 1000) == []


def test_a_guide_says_where_it_fails(exemplary):
    guide = _page("guide", exemplary)
    del guide.cells[3]
    assert "no section 'where it fails'" in chapter_template.complaints(guide, 1000)[0]


def test_explorer_keeps_to_its_own_template(explorer):
    _swap_sections(explorer.cells)
    _end_without_assertion(explorer.cells)
    found = "\n".join(chapter_template.complaints(explorer, 1000))
    assert "no section 'references'" in found
    assert "asserts nothing" in found


def test_what_says_it_is_no_explorer_is_a_chapter(explorer):
    del explorer.metadata["kind"]
    assert "no section 'the question'" in chapter_template.complaints(explorer, 1000)[0]
