"""When a chapter counts as stale, and how it is executed."""

import chapters
import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

CODE = 'import sys\n\nsys.path.insert(0, "..")\nfrom xaiutils.rules import epsilon'


@pytest.fixture
def house(tmp_path):
    """A house with a package of three modules and one notebook that needs two of them."""
    package = tmp_path / "xaiutils"
    (tmp_path / "notebooks").mkdir()
    (package / "rules").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "rules/__init__.py").write_text("from . import epsilon")
    (package / "rules/epsilon.py").write_text("from ..numbers import SMALL as VALUE")
    (package / "numbers.py").write_text("SMALL = 1")
    (package / "other.py").write_text("UNUSED = 1")
    (package / "table.json").write_text("{}")
    (tmp_path / "constraints.txt").write_text("torch==2.15.0")
    cells = [new_code_cell(CODE), new_code_cell("'samek'"), new_code_cell("print(epsilon.VALUE)")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks/11_test.ipynb")
    return tmp_path


@pytest.fixture
def notebook(house):
    return house / "notebooks/11_test.ipynb"


def _printed(notebook):
    return nbformat.read(notebook, as_version=4).cells[-1].outputs[0].text


def test_imports_are_followed_through_the_package(house):
    names = {path.relative_to(house / "xaiutils") for path in chapters.imported_files(CODE, house)}
    expected = {"__init__.py", "rules/__init__.py", "rules/epsilon.py", "numbers.py"}
    assert {name.as_posix() for name in names} == expected


def test_changed_helper_gives_new_outputs(house, notebook):
    assert chapters.is_stale(notebook, house)
    assert chapters.refresh([notebook], house)
    assert not chapters.is_stale(notebook, house)
    assert _printed(notebook) == "1\n"
    (house / "xaiutils/numbers.py").write_text("SMALL = 20")
    assert chapters.is_stale(notebook, house)
    assert chapters.refresh([notebook], house)
    assert _printed(notebook) == "20\n"


def test_executing_twice_gives_the_same_file(house, notebook):
    cells = [new_code_cell("import ipywidgets\n\nipywidgets.HBox([ipywidgets.IntSlider()])")]
    nbformat.write(new_notebook(cells=cells), notebook)
    chapters.execute(notebook, house)
    first = notebook.read_bytes()
    chapters.execute(notebook, house)
    assert notebook.read_bytes() == first
    assert b'"model_name": "IntSliderModel"' in first


def test_no_trace_of_the_machine_stays(house, notebook):
    nbformat.write(new_notebook(cells=[new_code_cell("import os\n\nos.getcwd() + '/x'")]), notebook)
    chapters.execute(notebook, house)
    assert str(house) not in notebook.read_text()
    assert "notebooks/x" in notebook.read_text()


@pytest.fixture
def stamped(house, notebook):
    """The notebook with the fingerprint of an execution."""
    content = nbformat.read(notebook, as_version=4)
    content.metadata["xaiutils"] = {"fingerprint": chapters.fingerprint(content, house)}
    nbformat.write(content, notebook)
    return notebook


@pytest.mark.parametrize(
    "file", ["xaiutils/table.json", "constraints.txt", "results/samek-digits-areas.csv"]
)
def test_changed_input_makes_stale(house, stamped, file):
    assert not chapters.is_stale(stamped, house)
    (house / file).parent.mkdir(exist_ok=True)
    (house / file).write_text("changed")
    assert chapters.is_stale(stamped, house)


def test_what_the_notebook_does_not_run_leaves_it_fresh(house, stamped):
    (house / "xaiutils/other.py").write_text("UNUSED = 2")
    (house / "results").mkdir()
    (house / "results/benchmark-zoo.csv").write_text("a table that it does not name")
    content = nbformat.read(stamped, as_version=4)
    content.cells.append(new_markdown_cell("More prose."))
    nbformat.write(content, stamped)
    assert not chapters.is_stale(stamped, house)


SAYS = '''"""What it is for,
{more}in two lines."""
SMALL = 1
"""The number {more}."""


def small():
    """Return it{more}."""
    return {value}
'''


def test_words_about_the_code_leave_it_fresh_and_code_does_not(house, stamped):
    numbers = house / "xaiutils/numbers.py"
    content = nbformat.read(stamped, as_version=4)
    for value, more, stale in ((1, "", True), (1, "\n\nmore ", False), (2, "", True)):
        numbers.write_text(SAYS.format(value=value, more=more))
        assert chapters.is_stale(stamped, house) is stale
        content.metadata["xaiutils"] = {"fingerprint": chapters.fingerprint(content, house)}
        nbformat.write(content, stamped)


def test_what_is_no_docstring_counts(house, stamped):
    numbers = house / "xaiutils/numbers.py"
    content = nbformat.read(stamped, as_version=4)
    for code in ('SMALL = """a\nb"""', 'SMALL = """a\nc"""', 'def f(): "one line"; return 1',
                 'def f(): "one line"; return 2'):  # fmt: skip
        numbers.write_text(code)
        assert chapters.is_stale(stamped, house)
        content.metadata["xaiutils"] = {"fingerprint": chapters.fingerprint(content, house)}
        nbformat.write(content, stamped)


def test_failing_cell_leaves_the_file_as_it_was(house, notebook, capsys):
    nbformat.write(new_notebook(cells=[new_code_cell("assert 1 == 2, 'not so'")]), notebook)
    before = notebook.read_bytes()
    with pytest.raises(CellExecutionError):
        chapters.execute(notebook, house)
    assert not chapters.refresh([notebook], house)
    assert "not so" in capsys.readouterr().out
    assert notebook.read_bytes() == before
    assert list(notebook.parent.iterdir()) == [notebook]
