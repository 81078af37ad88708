"""The book as one PDF, and its pages as plain Markdown: nothing of the pages is lost in either."""

import json
import re
import shutil
import subprocess
import sys

import build
import html_to_markdown
import nbformat
import page_scripts
import plain_twins
import printed
import pytest
import yaml
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from read_pdf import Pdf

HTML = build.ROOT / build.HTML
PARTS = ("book/notation", "notebooks/13_lrp_rules", "book/glossary")


def _article(name):
    text = (HTML / f"{name}.html").read_text(encoding="utf-8")
    start = text.index('<article class="bd-article">')
    return BeautifulSoup(text[start : text.index("</article>\n", start)], "html.parser")


# ---------------------------------------------------------------------------------- the PDF


@pytest.fixture(scope="module")
def part(browser, book, tmp_path_factory):
    """A part of the book, printed; `make` compares it with its pages. `make pdf` prints all."""
    chosen = [page for page in printed.pages() if page["name"] in PARTS]
    path = tmp_path_factory.mktemp("printed") / "part.pdf"
    return path, printed.make(browser, chosen, path)


def test_a_part_of_the_book_is_printed(part):
    path, pdf = part
    assert 15 < len(pdf) < 60
    assert path.stat().st_size < 4e6
    assert [each.name for each in path.parent.iterdir()] == ["part.pdf"]


def test_outline_holds_every_chapter(part):
    titles = [_article(name).h1.text.removesuffix("#") for name in PARTS]
    _, pdf = part
    assert {*titles, "Contents", "Definitions and theorems"} <= pdf.outline.keys()
    starts = [pdf.outline[title] for title in titles]
    assert starts == sorted(set(starts))


def test_every_figure_is_there(part):
    _, pdf = part
    shown = {image["src"] for name in PARTS for image in _article(name).select("img")}
    assert len(shown) > 4
    assert pdf.pictures >= len(shown)


def test_statements_are_listed_with_their_pages(part):
    _, pdf = part
    boxes = _article("notebooks/13_lrp_rules").select(".proof[id]:has(.caption-number)")
    places = {f"13_lrp_rules--{box['id']}" for box in boxes}
    assert len(places) > 4
    assert places < pdf.places.keys()
    assert pdf.outline["LRP: sharing out the output"] == pdf.places["13_lrp_rules"]
    assert all(pdf.places["13_lrp_rules"] <= pdf.places[p] <= len(pdf) for p in places)


def test_the_words_can_be_read_out(part):
    path, _ = part
    if not shutil.which("pdftotext"):
        pytest.skip("no pdftotext here (on Debian: apt-get install poppler-utils)")
    done = subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True)
    assert "\ufffd" not in done.stdout
    for words in ("Figure 13.1", "Solution to Exercise 13.1", "Goals", "Conservation, Definition"):
        assert words in " ".join(done.stdout.split())


@pytest.fixture
def small(browser, tmp_path):
    """Print a page of two lines and one link."""

    def print_it(words="Two lines"):
        page = browser.new_page()
        page.set_content(f"<h1 id='top'>Title</h1><p>{words}</p><a href='#top'>up</a>")
        page.pdf(path=tmp_path / "small.pdf", outline=True, tagged=True)
        page.close()
        return Pdf.read(tmp_path / "small.pdf")

    return print_it


FACTS = {"outline": ["Title"], "pictures": 0, "links": 1, "height": printed.PAPER["height"]}


def test_a_whole_page_is_not_complained_of(small, monkeypatch):
    monkeypatch.setattr(printed, "FEWEST", 2)
    assert printed.complaints(small(), FACTS, {"top": 1}) == []


@pytest.mark.parametrize(
    ("lost", "told", "complaint"),
    [
        ({"outline": ["Title", "Other"]}, 1, "no bookmark 'Other'"),
        ({"pictures": 2}, 1, "2 pictures are lost"),
        ({"links": 3}, 1, "2 links are lost"),
        ({"height": 40 * FACTS["height"]}, 1, "1 pages for a text as long as 40"),
        ({}, 2, "top is said to be on page 2, and is on 1"),
    ],
)
def test_what_is_lost_is_told(small, monkeypatch, lost, told, complaint):
    monkeypatch.setattr(printed, "FEWEST", 2)
    assert printed.complaints(small(), FACTS | lost, {"top": told}) == [complaint]


def test_a_missing_glyph_and_an_empty_page_are_told(small):
    pdf = small("private \ue123 use \U0010fffd <p style='break-before: page'>")
    assert pdf.missing() == {1: 2}
    found = printed.complaints(pdf, FACTS, {})
    assert "page 1 has 2 characters without a glyph" in found
    assert "page 2 is empty" in found


def test_what_paper_would_lose_is_told_before(browser):
    page = browser.new_page(viewport=printed.PAPER)
    page.set_content(
        "<div id='book'><a href='#gone'>x</a><span class='math'>\\(x\\)</span><img src='gone.png'>"
        f"<pre style='width: 90px'>{'wide' * 90}</pre></div>"
    )
    page.add_script_tag(path=build.ROOT / "book/_tools/printed.js")
    found = page.evaluate("printed.complaints()")
    page.close()
    starts = ("a link leads", "a formula is not", "a picture is missing", "cut off")
    assert [told.startswith(start) for told, start in zip(found, starts, strict=True)] == [True] * 4


def test_a_book_that_is_not_whole_is_not_written(browser, book, tmp_path, monkeypatch):
    monkeypatch.setattr(printed, "complaints", lambda *_: ["page 1 is empty"])
    chosen = [page for page in printed.pages() if page["name"] == "book/glossary"]
    with pytest.raises(printed.PrintError, match="page 1 is empty"):
        printed.make(browser, chosen, tmp_path / "book.pdf")
    assert list(tmp_path.iterdir()) == []


def test_what_to_install_is_said(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(printed.PrintError, match="apt-get install chromium"), printed.browser():
        pass
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(printed.PrintError, match=r"pip install .*\[test\]"), printed.browser():
        pass


def test_linter_finds_nothing():
    page_scripts.assert_linted(build.ROOT / "book/_tools/printed.js")


# ------------------------------------------------------------------------------ plain Markdown


def _twins():
    return [HTML / f"{page['name']}.md" for page in printed.pages()]


def test_every_page_has_a_twin_and_names_it(book):
    for twin in _twins():
        page = twin.with_suffix(".html").read_text(encoding="utf-8")
        head = BeautifulSoup(page.partition("</head>")[0], "html.parser")
        named = head.find("link", rel="alternate", type="text/markdown")
        listed = head.find("link", rel="describedby")
        assert (twin.parent / named["href"]).resolve() == twin
        assert (twin.parent / listed["href"]).resolve() == HTML / plain_twins.LIST
        assert twin.read_text(encoding="utf-8").startswith("# ")


def test_list_names_all_pages_in_order(book):
    lines = (HTML / plain_twins.LIST).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# Heatmaps Under Test"
    assert lines[2].startswith("> ")
    entries = [re.fullmatch(r"- \[.+\]\((\S+\.md)\): \S.+", ln) for ln in lines if ln[:2] == "- "]
    assert [entry[1] for entry in entries] == [f"{p['name']}.md" for p in printed.pages()]
    toc = yaml.safe_load((build.ROOT / "_toc.yml").read_text())
    captions = [part["caption"] for part in toc["parts"]]
    assert [ln[3:] for ln in lines if ln.startswith("## ")] == ["Start", *captions]


def test_links_of_twins_lead_somewhere(book):
    for twin in [*_twins(), HTML / plain_twins.LIST]:
        prose = re.sub(
            r"^( *```).*?^ *```|`[^`\n]*`", "", twin.read_text("utf-8"), flags=re.M | re.S
        )
        for address in re.findall(r"\]\((?!\w+:)([^()\s]+\.md)\)", prose):
            assert (twin.parent / address).is_file(), f"{twin.name}: {address}"
        assert not re.search(r"</?(?:div|span|p|a|td)\b|\{(?:cite|prf|ref|numref)[:}]", prose), twin


def test_a_chapters_twin_has_what_the_page_has(book):
    text = (HTML / "notebooks/13_lrp_rules.md").read_text(encoding="utf-8")
    article = _article("notebooks/13_lrp_rules")
    captions = {tag.text.strip() for tag in article.select(".caption-number")}
    assert len(captions) > 12
    assert [caption for caption in captions if caption not in text] == []
    numbers = {tag.text.strip("()#") for tag in article.select(".eqno")}
    assert set(re.findall(r"\\tag\{(\d+)\}", text)) == numbers
    alternatives = [image["alt"] for image in article.select(".cell_output img")]
    for place, words in enumerate(alternatives, 1):
        assert f"[Figure 13.{place}: {words}]" in text
    notebook = json.loads((build.ROOT / "notebooks/13_lrp_rules.ipynb").read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert "".join(cell["source"]) in text
    assert "#### Solution of exercise 13.1" in text


@pytest.fixture
def tiny(tmp_path):
    """A book of two pages, built."""
    from sphinx.application import Sphinx

    source, out = tmp_path / "source", tmp_path / "out"
    for folder in ("book", "notebooks"):
        (source / folder).mkdir(parents=True)
    (source / "_toc.yml").write_text(
        "root: book/intro\nparts:\n- caption: Sums\n  chapters:\n  - file: notebooks/10_sums\n"
    )
    (source / "book/references.bib").touch()
    (source / "book/intro.md").write_text("# Book\n\nOf [sums](../notebooks/10_sums.ipynb).\n")
    picture = new_output("display_data", {"image/png": "", "text/plain": "<Figure>"})
    picture.metadata["image/png"] = {"alt": "A line that rises."}
    outputs = [new_output("stream", text="5\n" * plain_twins.LONGEST)]
    cells = [
        new_markdown_cell("# Sums\n\nSee [the start](../book/intro.md#book) and `x.html`."),
        new_code_cell("print(2 + 3)", outputs=outputs),
        new_code_cell("plot()", outputs=[picture]),
    ]
    nbformat.write(new_notebook(cells=cells), source / "notebooks/10_sums.ipynb")
    settings = {
        "extensions": ["myst_nb", "plain_twins"],
        "root_doc": "book/intro",
        "nb_execution_mode": "off",
        "suppress_warnings": ["*", "toc.not_included"],
    }
    Sphinx(
        source, None, out, tmp_path / "trees", "html", settings, status=None, warning=None
    ).build()
    return out


def test_twins_of_a_small_book(tiny):
    assert (tiny / "book/intro.md").read_text() == "# Book\n\nOf [sums](../notebooks/10_sums.md).\n"
    text = (tiny / "notebooks/10_sums.md").read_text()
    assert "[the start](../book/intro.md) and `x.html`" in text
    assert "```python\nprint(2 + 3)\n```\n\n```text\n5\n" in text
    assert f"[... cut: {2 * plain_twins.LONGEST - 1} characters in all]" in text
    assert "[Figure 10.1: A line that rises.]" in text


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<p>a <em>b</em>\n c<br>d</p>", "a *b* c\nd"),
        ("<h2>T<a class='headerlink' href='#t'>#</a></h2>text", "## T\n\ntext"),
        ("<ul><li>a</li><li><p>b</p><ol><li>c</li></ol></li></ul>", "- a\n- b\n  1. c"),
        ("<p><span class='math'>\\(x^2\\)</span></p>", "$x^2$"),
        (
            "<div class='math'><span class='eqno'>(7)<a>#</a></span>\\[\nx\n\\]</div>",
            "$$\nx \\tag{7}\n$$",
        ),
        (
            "<div class='highlight-python notranslate'><pre>a <span>=</span> 1\n</pre></div>",
            "```python\na = 1\n```",
        ),
        (
            "<table><tr><th colspan='2'>a|b</th></tr><tr><td>1</td><td><p>2</p></td></tr></table>",
            "| a\\|b | a\\|b |\n|---|---|\n| 1 | 2 |",
        ),
        ("<div class='admonition'><p>a</p><p>b</p></div>", "> a\n>\n> b"),
        ("<dl><dt>term</dt><dd><p>what</p></dd></dl>", "**term**\n\n  what"),
        ("<a href='p.html'>x</a> <a href='#y'>z</a>", "[x](p.md) z"),
        ("<p><img alt='A map.' src='x.png'></p><script>no</script>", "[Picture: A map.]"),
        ("<p>x</i></p><style>p {}</style><button>no</button>", "x"),
    ],
)
def test_html_becomes_markdown(html, markdown):
    assert html_to_markdown.to_markdown(html, plain_twins.twin_of) == markdown + "\n"
