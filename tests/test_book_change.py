"""What a chapter says in general holds on another sample, and its samples hold all classes."""

import change
import chapters
import nbformat
import pytest
import samples
import teach
import torch
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from xaiutils import data

LOAD = 'from xaiutils import data\n\nx = data.mnist("test", "embedded", per_class=2, sample=SAMPLE)'


@pytest.mark.parametrize("path", chapters.paths(), ids=lambda path: path.stem)
def test_chapter_says_in_one_place_what_it_measures_on(path):
    shown = change.numbers(nbformat.read(path, as_version=4))
    assert set(shown.values()) == {0}


@pytest.fixture(scope="module")
def editions(tmp_path_factory):
    """The teachers' editions: the chapters, with right and wrong answers handed to the checks."""
    output, book = tmp_path_factory.mktemp("teach"), teach.chapters()
    for kind in ("student", "teacher"):
        (output / kind).mkdir()
    teach._make_editions(book, teach.names(book), output)
    return output / "teacher"


@pytest.mark.parametrize("path", change.with_digits(chapters.paths()), ids=lambda path: path.stem)
def test_general_statements_and_checks_hold_on_other_digits(editions, path):
    assert change.run(editions / path.name, {"SAMPLE": 1}) == []


@pytest.fixture
def write(tmp_path):
    """Write a notebook of cells (source, tags...) and return its path."""

    def write(*cells):
        cells = [new_code_cell(source, metadata={"tags": tags}) for source, *tags in cells]
        path = tmp_path / "11_test.ipynb"
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return write


def test_a_statement_about_one_sample_fails_on_another(write):
    cells = [("SAMPLE = 0  # which digits", "sample"), (LOAD,)]
    special = "assert SAMPLE == 0, 'only here'"
    with pytest.raises(CellExecutionError, match="only here"):
        change.run(write(*cells, (special,)), {"SAMPLE": 1})
    assert change.run(write(*cells, (special, "this-sample")), {"SAMPLE": 1}) == []
    assert change.run(write(*cells, ("assert SAMPLE == 7",)), {"SAMPLE": 7}) == []


def test_the_notebook_itself_is_left_as_it_is(write):
    path = write(("SAMPLE, OTHER = 0, 0\nPHOTOS = 0", "sample"), ("assert PHOTOS == 3",))
    before = path.read_bytes()
    assert change.run(path, {"SAMPLE": 2, "PHOTOS": 3}) == []
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([("x = 1",)], "0 cells are tagged"),
        ([("SAMPLE = 0", "sample"), ("PHOTOS = 0", "sample")], "2 cells are tagged"),
        ([("seed = 0", "sample")], "assigns none of SAMPLE, PHOTOS"),
    ],
)
def test_a_chapter_without_a_sample_is_found(write, cells, message):
    with pytest.raises(change.SampleError, match=message):
        change.run(write(*cells), {"SAMPLE": 1})


def test_a_sample_of_one_class_is_found(write):
    cells = [
        ("SAMPLE = 0", "sample"),
        ('from xaiutils import data\n\ndigits = data.mnist("test", "embedded")',),
    ]
    zeros = ("x = digits.images[SAMPLE::20]\ny = digits.images[:50]",)
    found = change.run(write(*cells, zeros), {"SAMPLE": 0})
    assert found == ["x holds [50, 0, 0, 0, 0, 0, 0, 0, 0, 0] digits of the classes 0 to 9"]
    assert change.run(write(*cells, (*zeros, "some-classes")), {"SAMPLE": 0}) == []


def test_what_is_not_a_set_of_digits_is_left_alone():
    digits = data.mnist("test", source="embedded").images
    others = {"few": digits[::200], "noise": digits[::20] + 0.1, "_hidden": digits[::20], "n": 3}
    assert list(samples.unbalanced(others, [])) == []


@pytest.mark.parametrize(
    ("counts", "equal"),
    [
        ([5] * 10, True),
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 2], True),
        ([0, 0, 1, 1, 1, 1, 1, 1, 1, 1], True),
        ([90, 113, 103, 101, 98, 89, 96, 103, 97, 110], True),
        ([4, 10, 10, 10, 10, 10, 10, 10, 10, 10], False),
        ([21, 9, 9, 9, 9, 9, 9, 9, 9, 7], False),
        ([50, 0, 0, 0, 0, 0, 0, 0, 0, 0], False),
    ],
)
def test_about_equal(counts, equal):
    assert samples.about_equal(torch.tensor(counts)) == equal
