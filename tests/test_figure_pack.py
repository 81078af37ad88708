"""The figures of the pack as SVG, which teach.py draws by executing chapters in memory."""

import csv
import shutil
import zipfile
from xml.etree import ElementTree as ET

import chapters
import matplotlib.pyplot as plt
import nbformat
import pytest
import teach
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from teaching import figures, marks

from xaiutils import plot
from xaiutils.plot import _show, _stack

NAMES = ["10-01_lines", "10-02_stack", "10-03_stack"]
TAG = "{http://www.w3.org/2000/svg}"
LINES = """\
import matplotlib.pyplot as plt
from xaiutils import plot

figure, axes = plt.subplots(figsize=(2, 2))
axes.plot([0, 1], label="a sum")
axes.imshow([[0, 1]])
axes.legend()
plot.show(figure, alt="A line & a picture.")
"""
STACK = """\
both = {}
for answer in ("less", "more"):
    both[answer], axes = plt.subplots(figsize=(2, 2))
    axes.plot([0, 1] if answer == "more" else [1, 0])
    plot.set_alternative_text(both[answer], f"It becomes {answer}.")
plot.show_stack(both, "both", "which way?")
"""


def _write(path, *cells):
    """A chapter that counts as executed, though it has no outputs."""
    notebook = new_notebook(cells=[new_markdown_cell("# Sums"), *cells])
    fingerprint = chapters.fingerprint(notebook, path.parents[1])
    notebook.metadata[chapters.PACKAGE] = {"fingerprint": fingerprint}
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A book of one chapter, with figures drawn as SVG too."""
    root = tmp_path_factory.mktemp("book")
    (root / "notebooks").mkdir()
    (root / "constraints.txt").touch()
    path = root / "notebooks/10_sums.ipynb"
    lines = new_code_cell(LINES, id="lines", metadata={"caption": "A sum that grows."})
    stack = new_code_cell(STACK, id="stack", metadata={"caption": "Two sums."})
    _write(path, lines, stack)
    before = path.read_bytes()
    executed = []

    def run(notebook, folder):
        chapters.run(notebook, folder)
        executed.append(notebook)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "run", run)
        assert teach.draw([10], root)
    assert path.read_bytes() == before
    del executed[0].cells[0]  # the cell that captures
    nbformat.write(executed[0], path)  # so that there are outputs, without a second execution
    return root


@pytest.fixture
def packed(root, tmp_path):
    """Makes the pack of a chapter and says where it is."""

    def packed(notebook):
        (tmp_path / "figures").mkdir(exist_ok=True)
        chapter = marks.cut(root / "notebooks/10_sums.ipynb", notebook)
        teach.pack_figures([chapter], root, tmp_path, "")
        return tmp_path / "figures"

    return packed


@pytest.fixture
def notebook(root):
    return nbformat.read(root / "notebooks/10_sums.ipynb", as_version=4)


def test_every_figure_is_packed_as_svg_that_says_what_it_shows(packed, notebook):
    folder = packed(notebook)
    rows = list(csv.DictReader((folder / "figures.csv").open(encoding="utf-8")))
    assert [row["svg"] for row in rows] == [f"{name}.svg" for name in NAMES]
    index = (folder / "index.html").read_text(encoding="utf-8")
    with zipfile.ZipFile(folder.with_suffix(".zip")) as archive:
        packed_names = archive.namelist()
    for row in rows:
        drawing = ET.parse(folder / row["svg"]).getroot()
        title, said = drawing[0], drawing[1]
        assert (title.tag, title.text) == (
            f"{TAG}title",
            f"Figure {row['figure']}. {row['caption']}",
        )
        assert (said.tag, said.text) == (f"{TAG}desc", row["alternative text"])
        assert f'href="{row["svg"]}"' in index
        assert f"figures/{row['svg']}" in packed_names


def test_letters_are_text_and_pictures_are_inside(packed, notebook):
    drawing = ET.parse(packed(notebook) / f"{NAMES[0]}.svg")
    assert "a sum" in [text.text for text in drawing.iter(f"{TAG}text")]
    (picture,) = drawing.iter(f"{TAG}image")
    assert picture.get("{http://www.w3.org/1999/xlink}href").startswith("data:image/png;base64,")


def test_the_figures_of_a_stack_are_not_mixed_up(packed, notebook):
    drawn = [(packed(notebook) / f"{name}.svg").read_text().partition("</desc>") for name in NAMES]
    assert "It becomes less." in drawn[1][0]
    assert drawn[1][2] != drawn[2][2]


def test_what_is_drawn_is_not_drawn_again(root, monkeypatch):
    monkeypatch.setattr(figures, "run", lambda *_: pytest.fail("it is executed"))
    assert teach.draw([], root)


def _captured(folder, patch):
    """The SVG of a small figure, drawn in this process."""
    folder.mkdir()
    patch.setattr(_show, "png", _show.png)  # for `capture` to replace, and to be put back
    patch.setattr(_stack, "png", _stack.png)
    figures.capture(str(folder))
    figure, axes = plt.subplots(figsize=(2, 2))
    axes.plot([0, 1])
    axes.imshow([[0, 1]])
    plot.save(figure, folder / "figure.png")
    return next(folder.glob("*.svg")).read_bytes()


def test_what_is_drawn_again_is_the_same(tmp_path, monkeypatch):
    drawn = []
    for name in ("once", "again"):
        with monkeypatch.context() as patch:
            drawn.append(_captured(tmp_path / name, patch))
    assert drawn[0] == drawn[1]


def test_a_figure_that_is_large_as_svg_stays_png(root, tmp_path, monkeypatch):
    chapter = marks.read(root / "notebooks/10_sums.ipynb")
    for figure in figures.read(chapter):
        length = 11 if "less" in figure.alt else 10
        (tmp_path / f"{figures._digest(figure.png)}.svg").write_text("." * length)
    monkeypatch.setattr(figures, "LARGEST", 10)
    figures._keep(chapter, tmp_path, tmp_path / "kept")
    found = figures.with_svg(chapter, tmp_path / "kept")
    assert [figure.name for figure in found if figure.svg] == [NAMES[0], NAMES[2]]


def test_those_of_other_outputs_are_not_packed(packed, notebook):
    notebook.metadata[chapters.PACKAGE].fingerprint = "of other outputs"
    folder = packed(notebook)
    assert list(folder.glob("*.svg")) == []
    assert "no SVG" in (folder / "index.md").read_text()


def test_a_chapter_that_fails_is_named_and_the_others_go_on(root, tmp_path, capsys):
    other = shutil.copytree(root, tmp_path / "book")
    _write(other / "notebooks/09_broken.ipynb", new_code_cell("1 / 0"))
    text = (other / "notebooks/09_broken.ipynb").read_text()
    (other / "notebooks/08_old.ipynb").write_text(text.replace("1 / 0", "0 / 1"))
    assert not teach.draw([], other)
    said = capsys.readouterr().out
    assert "08_old: its outputs are older than its code" in said
    assert "09_broken: " in said
    assert "ZeroDivisionError" in said
    assert said.endswith("10_sums: drawn as SVG\n")
    assert [path.name for path in (other / figures.SVG).iterdir()] == ["10_sums"]


def test_a_chapter_that_there_is_not_is_named(root):
    with pytest.raises(ValueError, match="no chapter 11; there are \\[10\\]"):
        teach.draw([10, 11], root)
