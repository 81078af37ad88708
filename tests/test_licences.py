"""Who may do what with the book, whose works it ships, and how it is cited."""

import json
import re
import sys
import tomllib
from pathlib import Path

import chapters
import nbformat
import notices
import pytest
import teach
import vendor
import yaml
from nbformat.v4 import new_markdown_cell, new_notebook
from teaching import editions, marks

ROOT = Path(__file__).resolve().parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
DEED = "https://creativecommons.org/licenses/by/4.0/"


def _read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_licence_of_text_and_figures_is_named_wherever_one_would_look():
    assert f"{DEED}legalcode" in _read("LICENSE-TEXT")
    for name in ("README.md", "book/how_to_use.md", "LICENSE-TEXT"):
        assert DEED in _read(name)
        assert "BSD" in _read(name)
    assert "CC BY 2.0" in _read("LICENSE-TEXT"), "the photographs that ask for more"
    assert PROJECT["license"] == CITATION["license"] == "BSD-3-Clause"


def test_the_book_is_cited_as_a_book_of_the_version_that_it_is():
    book = CITATION["preferred-citation"]
    assert (book["type"], book["license"]) == ("book", "CC-BY-4.0")
    assert book["version"] == CITATION["version"] == PROJECT["version"]
    assert book["authors"] == CITATION["authors"] == [{"name": CONFIG["author"]}]
    assert book["url"] == CITATION["repository-code"] == CONFIG["repository"]["url"]
    assert str(book["year"]) == str(CITATION["date-released"])[:4]


def test_a_chapter_is_cited_by_a_pattern_that_agrees_with_the_book():
    page = _read("book/how_to_use.md").split("## Licence and citation")[1].split("\n## ")[0]
    book = CITATION["preferred-citation"]
    for pattern in (page.split("> ")[1], page.split("```")[1]):
        for part in (book["authors"][0]["name"], book["title"], book["year"], book["version"]):
            assert str(part) in pattern
    title, number = re.search(r"\*([^*]+)\*\. Chapter (\d\d)", page).groups()
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    assert nbformat.read(path, 4).cells[0].source.startswith(f"# {title}")


# Works of others


def test_notices_name_what_npm_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(notices, "DISTRIBUTIONS", ())
    packages = {
        "": {},
        "node_modules/a": {},
        "node_modules/a/node_modules/b": {},
        "node_modules/c": {},
    }
    (tmp_path / "package-lock.json").write_text(json.dumps({"packages": packages}))
    about = {"name": "a", "version": "1.2", "license": "MIT", "author": {"name": "Ann"}}
    for place, more in (
        ("node_modules/a", {}),
        (
            "node_modules/a/node_modules/b",
            {"name": "b", "license": None, "licenses": [{"type": "X"}]},
        ),
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "package.json").write_text(json.dumps(about | more))
    (tmp_path / "node_modules/a/LICENSE.md").write_text("Do as you like.\n")
    first, second = notices.text(tmp_path).split(notices.RULE)[1:]
    assert first == "a 1.2\nLicence: MIT\nAuthors: Ann\n\nDo as you like.\n"
    assert second.startswith("b 1.2\nLicence: X\n")


@pytest.mark.parametrize("name", notices.DISTRIBUTIONS)
def test_notices_hold_the_licence_of_each_python_package(name):
    entry = notices._of_python(notices.distribution(name))
    assert "Licen" in entry.split("\n", 2)[1]
    assert len(entry) > 400, "the text of the licence, not its name alone"


def test_the_pages_bring_the_notices_with_them():
    if not vendor.is_filled():
        pytest.skip("the scripts of others have not been fetched here")
    shipped = _read("assets/vendor/NOTICES.txt")
    for name, version in json.loads(_read("package.json"))["dependencies"].items():
        assert f"\n{name} {version}\n" in shipped


@pytest.mark.parametrize("name", notices.DISTRIBUTIONS)
def test_notices_are_made_anew_when_a_package_is(name, monkeypatch):
    before, real = vendor._versions(ROOT), vendor.version
    monkeypatch.setattr(vendor, "version", lambda asked: real(asked) + "+1" * (asked == name))
    assert vendor._versions(ROOT) != before


# Elsewhere


def test_conda_and_binder_get_the_light_environment():
    environment = yaml.safe_load(_read("environment.yml"))
    *conda, pip = environment["dependencies"]
    assert pip["pip"] == ["-e .[read]"], "pip's own torch would come along with constraints"
    minimum = {d for d in PROJECT["dependencies"] if d.startswith("torch")}
    assert {d.replace("pytorch-cpu", "torch") for d in conda if "torch" in d} == minimum
    read, book = (set(PROJECT["optional-dependencies"][extra]) for extra in ("read", "book"))
    assert read <= book


def _first_code(tmp_path):
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks/10_sums.ipynb"
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("# Sums")], metadata=chapters.METADATA), path
    )
    (tmp_path / "references.bib").touch()
    chapter = marks.read(path)
    names = teach.plain.name_all([chapter], tmp_path / "references.bib", pages="")
    notebook = editions.student(chapter, names, {})
    return next(cell.source for cell in notebook.cells if cell.cell_type == "code")


def test_on_colab_the_first_cell_fetches_the_package_and_elsewhere_nothing(tmp_path, monkeypatch):
    (tmp_path / "_config.yml").write_text("repository: {url: 'https://example.org/book'}")
    source = _first_code(tmp_path)
    commands = []
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    exec(source, {})
    assert commands == []
    monkeypatch.setitem(sys.modules, "google.colab", object())
    exec(source, {})
    assert commands[0][1:] == ["-m", "pip", "install", "--quiet", "git+https://example.org/book"]
