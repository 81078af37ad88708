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
    for number in range(chapter_template.EXERCISES):
        prose += [
            new_markdown_cell(f"```{{exercise}} Try\n:label: x-{number}\n```"),
            new_markdown_cell(f"```{{solution-start}} x-{number}\n```"),
            new_code_cell(f"assert {number} < 4"),
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
    next(c for c in cells if "solution-start" in c.source).source = ""


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
        (_lengthen, "26 lines"),
        (_reorder, "from top to bottom"),
        (_forget_to_run, "from top to bottom"),
        (_show_path, "an absolute path: /home/"),
        (_untag, "no cell is tagged"),
        (_drop_output, "shows no text to compare"),
        (_drop_alternative_text, "without alternative text"),
        (_end_without_assertion, "asserts nothing"),
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
