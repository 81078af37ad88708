"""The guards bite: each way to break a book makes a command fail. Tried on a book of two pages."""

import os
import shutil
import subprocess
import sys

import build
import nbformat
import page_checks
import pytest
import vendor
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

COPIED = ("_config.yml", "constraints.txt", "package.json", "package-lock.json", ".npmrc")
INTRO = """# A small book

As {cite:t}`someone` says, $f(x) = \\frac{1}{2} x$; see [the chapter](../notebooks/11_small).

## References

```{bibliography}
```
"""
BIBLIOGRAPHY = """@book{someone,
  author = {Someone, A.},
  title = {A Book},
  publisher = {A Publisher},
  year = {2020},
}
"""
TOC = "format: jb-book\nroot: book/intro\nchapters:\n  - file: notebooks/11_small\n"
PICTURE = """import matplotlib.pyplot as plt
from IPython.display import display

figure, axes = plt.subplots()
axes.plot([1, 2])
display(figure, metadata={"image/png": {"alt": "A rising line."}})
plt.close()"""


@pytest.fixture(scope="module")
def small_book(tmp_path_factory):
    """A book of two pages in the house's own shell, with its notebook executed, not yet built."""
    root = tmp_path_factory.mktemp("small")
    vendor.fill()
    for name in COPIED:
        shutil.copy(build.ROOT / name, root)
    shutil.copytree(build.ROOT / "assets", root / "assets")
    shutil.copytree(build.ROOT / "book/_tools", root / "book/_tools")
    (root / "book/intro.md").write_text(INTRO)
    (root / "book/references.bib").write_text(BIBLIOGRAPHY)
    (root / "_toc.yml").write_text(TOC)
    (root / "notebooks").mkdir()
    cited = new_code_cell("print(6 * 7)", metadata={"tags": ["nbval-check-output"]})
    title = new_markdown_cell("# A small chapter\n\nIt prints 42.")
    cells = [title, cited, new_code_cell(PICTURE)]
    nbformat.write(new_notebook(cells=cells), root / "notebooks/11_small.ipynb")
    assert build.chapters.refresh(build.chapters.paths(root), root)
    return root


@pytest.fixture
def book(small_book, tmp_path):
    """A copy of the small book to break."""
    return shutil.copytree(small_book, tmp_path / "book")


def _replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _skip_without_own_scripts():
    """Without them formulas are not set, and every page asks for something from outside."""
    if not vendor.is_filled():
        pytest.skip("npm could not be reached, so this book takes scripts from a CDN")


def _page_complaints(book, browser, name):
    _skip_without_own_scripts()
    assert build.build(book)
    with page_checks.served(book / build.HTML) as address:
        return page_checks.complaints(browser, f"{address}/{name}.html")


def test_sound_book_passes(book, browser):
    assert build.build(book)
    assert build.is_current(book)
    _skip_without_own_scripts()
    with page_checks.served(book / build.HTML) as address:
        for name in ("book/intro", "notebooks/11_small"):
            assert page_checks.complaints(browser, f"{address}/{name}.html") == []
    assert 'alt="A rising line."' in (book / build.HTML / "notebooks/11_small.html").read_text()


def _delete_citation(book):
    (book / "book/references.bib").write_text("")


def _break_link(book):
    _replace(book / "book/intro.md", "11_small", "12_large")


def _break_cell(book):
    _replace(book / "notebooks/11_small.ipynb", "print(6 * 7)", "print(6 / 0)")


def _drop_alternative_text(book):
    path = book / "notebooks/11_small.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs[0].metadata = {}
    nbformat.write(notebook, path)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_delete_citation, "could not find bibtex key"),
        (_break_link, "12_large"),
        (_break_cell, "ZeroDivisionError"),
        (_drop_alternative_text, "without alternative text"),
    ],
)
def test_broken_book_does_not_build(book, capfd, damage, complaint):
    damage(book)
    assert not build.build(book)
    assert complaint in "".join(capfd.readouterr())
    assert not build.is_current(book)


@pytest.mark.parametrize("broken", ["\\frac{1}{", "\\fracc{1}{2}", "\\left( 1"])
def test_broken_formula_is_seen(book, browser, broken):
    _replace(book / "book/intro.md", "\\frac{1}{2}", broken)
    assert any("formula" in c for c in _page_complaints(book, browser, "book/intro"))


def test_cdn_link_is_seen(book, browser):
    script = '<script src="https://cdn.example.org/library.js"></script>'
    (book / "book/intro.md").write_text(f"{INTRO}\n{script}\n")
    found = _page_complaints(book, browser, "book/intro")
    assert "outside request: https://cdn.example.org/library.js" in found


def test_missing_scripts_fall_back_to_the_cdn_and_say_so(book, monkeypatch, capfd):
    shutil.rmtree(book / "assets/vendor", ignore_errors=True)
    monkeypatch.setattr(vendor, "_run_npm", lambda root: "no network")
    assert build.build(book)
    assert "no network" in capfd.readouterr().err
    page = (book / build.HTML / "book/intro.html").read_text()
    assert "https://cdn.jsdelivr.net/npm/mathjax" in page


def _nbval(book):
    options = ["--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "-p", "no:xdist"]
    sanitize = ["--nbval-sanitize-with", str(build.ROOT / "tests/sanitize.cfg")]
    command = [sys.executable, "-m", "pytest", *options, *sanitize, "notebooks"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.run(command, cwd=book, env=environment, capture_output=True, text=True)


def test_changed_citation_of_an_output_fails(book):
    assert _nbval(book).returncode == 0
    _replace(book / "notebooks/11_small.ipynb", '"42\\n"', '"43\\n"')
    failed = _nbval(book)
    assert failed.returncode == 1
    assert "1 failed" in failed.stdout
