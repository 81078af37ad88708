"""Print the whole book as one PDF, into _build/pdf/heatmaps-under-test.pdf: ``make pdf``.

Chromium prints it from the built pages, put into one document (printed.js, printed.css): their
boxes, tables, exercises and formulas are the ones that the tests of the pages look at. LaTeX, the
other way (``jupyter-book build --builder pdflatex``), asks for XeLaTeX, latexmk and some gigabytes
of fonts, and has no form for the parts of the book that are written as HTML.

It is printed twice: only the first print tells on which page a chapter begins. In the end the PDF
is read again and compared with the document; anything lost is an error.

Run as ``python book/_tools/printed.py``; it builds the book first if that is not current. With
``--built`` the pages in _build/html are taken as they are.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import build
import yaml
from jinja2 import Environment
from plain_twins import about
from read_pdf import Pdf

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = Path("_build/pdf/heatmaps-under-test.pdf")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAPER = {"width": 627, "height": 950}  # A4 within the margins of printed.css, in pixels
_LIKE = ("notebooks/11_what_is_a_heatmap", "book/intro", "book/explore_results")  # has all styles
MOST_BYTES = 40_000_000
FEWEST = 8  # pieces of text on a page that is no mistake; head and number are up to five
_SHELL = Environment(autoescape=True).from_string("""\
<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light">
<head>
<meta charset="utf-8">
<title>{{ title }}</title>
{{ styles | safe }}
</head>
<body><div class="bd-content"><div class="bd-article-container"><article class="bd-article">
<section id="cover">
<img src="../html/_static/logo.svg" alt="">
<p class="printed-title">{{ title }}</p>
<p>{{ author }}, {{ copyright }}</p>
<p class="printed-terms">{{ subject }}</p>
<p class="printed-terms">Text and figures: CC BY 4.0. Code: BSD-3-Clause. Photographs: as their
credits say. On screen the book has parts that answer to the reader, and every chapter runs:
<a href="{{ repository.url }}">{{ repository.url }}</a></p>
</section>
<section id="contents"><h1 class="printed-part">Contents</h1></section>
<div id="book"></div>
<section id="index-of-statements"><h1 class="printed-part">Definitions and theorems</h1>
<ul id="statements"></ul></section>
</article></div></div></body>
</html>
""")


class PrintError(RuntimeError):
    """The book cannot be printed, or something of it was lost; the message says what to do."""


def chromium() -> str | None:
    """Where this machine's own Chromium is."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium of the machine's own.

    Raises:
        PrintError: There is no Playwright, or no Chromium.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise PrintError(
            "Playwright drives the printing and is not installed: "
            "python -m pip install -c constraints.txt -e '.[test]'"
        ) from None
    executable = chromium()
    if executable is None:
        raise PrintError(
            "There is no Chromium or Chrome on the PATH. On Debian and Ubuntu: "
            "apt-get install chromium. Elsewhere: install Chrome or Chromium and put it there."
        )
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield started
        started.close()


def pages(root: Path = ROOT) -> list[dict[str, str]]:
    """The pages of the book in the order of _toc.yml; the first of a part names the part."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    found = [{"name": toc["root"], "part": ""}]
    for part in toc["parts"]:
        for place, chapter in enumerate(part["chapters"]):
            found.append({"name": chapter["file"], "part": "" if place else part["caption"]})
    return found


def make(
    engine: Any,
    chosen: list[dict[str, str]],
    output: Path,
    html: Path = ROOT / build.HTML,
) -> Pdf:
    """Print pages of the built book as one PDF, and check it.

    Args:
        engine: The browser.
        chosen: The pages, as `pages` lists them.
        output: The PDF.
        html: The built book.

    Raises:
        PrintError: Something of the pages is not in the PDF.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    document = html.parent / "pdf" / f"{output.stem}.html"  # from here ../html is the built book
    document.parent.mkdir(exist_ok=True)
    document.write_text(shell(html), encoding="utf-8")
    half_printed = output.with_suffix(".part")
    page = engine.new_page(viewport=PAPER)
    try:
        page.goto(document.as_uri())
        assemble(page, chosen, html)
        lost = page.evaluate("printed.complaints()")
        pdf = print_twice(page, half_printed)
        lost += complaints(pdf, page.evaluate("printed.facts()"), numbers(page))
        if lost:
            raise PrintError("\n".join(["Not all of the book is in the PDF:", *lost]))
        half_printed.replace(output)
    finally:
        page.close()
        document.unlink()
        half_printed.unlink(missing_ok=True)
    return pdf


def print_twice(page: Any, path: Path) -> Pdf:
    """Print the document, put the numbers of pages that this tells into it, and print it again."""
    page.pdf(path=path, prefer_css_page_size=True)
    page.evaluate("pages => printed.fillNumbers(pages)", Pdf.read(path).places)
    page.pdf(path=path, prefer_css_page_size=True, outline=True, tagged=True)
    return Pdf.read(path)


def shell(html: Path, root: Path = ROOT) -> str:
    """The document before any page is in it: cover, empty contents, empty index."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    heads = "".join(_read(html / f"{name}.html").partition("</head>")[0] for name in _LIKE)
    sheets = dict.fromkeys(re.findall(r'<link[^>]*rel="stylesheet"[^>]*>', heads))
    styles = "\n".join(sheets).replace('"../_static', '"../html/_static')
    own = _read(Path(__file__).with_suffix(".css"))
    subject = about(html, "book/intro")
    return _SHELL.render(**config, subject=subject, styles=f"{styles}<style>{own}</style>")


def captions(name: str, root: Path = ROOT) -> dict[str, str]:
    """The captions of a chapter's figures, where cells have them, by the alternative texts."""
    path = root / f"{name}.ipynb"
    cells = json.loads(_read(path))["cells"] if path.exists() else []
    return {
        output["metadata"]["image/png"]["alt"]: cell["metadata"]["caption"]
        for cell in cells
        if "caption" in cell["metadata"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PrintError(f"There is no {path}: build the book first, by `make book`.") from None


def assemble(page: Any, chosen: list[dict[str, str]], html: Path) -> None:
    """Put the pages into the open document, with formulas and pictures, ready to be printed."""
    page.emulate_media(media="print", color_scheme="light")
    page.add_script_tag(path=Path(__file__).with_suffix(".js"))
    whole = [
        each | {"html": _read(html / f"{each['name']}.html"), "captions": captions(each["name"])}
        for each in chosen
    ]
    page.evaluate("pages => printed.assemble(pages)", whole)
    settings = re.search(
        r"<script>(window\.MathJax = .*?)</script>", _read(html / f"{_LIKE[0]}.html")
    )
    page.add_script_tag(content=settings[1])
    page.evaluate("MathJax.options.enableMenu = false")  # nothing answers to a click
    mathjax = html / "_static/vendor/mathjax/tex-mml-chtml.js"
    if not mathjax.exists():
        raise PrintError(f"There is no {mathjax}: build the book where npm reaches its packages.")
    page.add_script_tag(url=mathjax.resolve().as_uri())
    page.evaluate("printed.setFormulas()")
    page.evaluate("printed.settle()")


def numbers(page: Any) -> dict[str, int]:
    """The numbers of pages that contents and index tell, by anchor."""
    told = page.locator("[data-page-of]").evaluate_all(
        "all => all.map(e => [e.dataset.pageOf, Number(e.textContent)])"
    )
    return dict(told)


def complaints(pdf: Pdf, facts: dict[str, Any], told: dict[str, int]) -> list[str]:
    """What a PDF lacks of the document that it was printed from."""
    missing = pdf.missing()
    found = [
        f"page {page} has {number} characters without a glyph" for page, number in missing.items()
    ]
    found += [f"page {number} is empty" for number in pdf.bare(FEWEST)]
    found += [f"no bookmark {words!r}" for words in facts["outline"] if words not in pdf.outline]
    found += [f"a link leads nowhere: {place}" for place in {*pdf.links} - pdf.places.keys()]
    found += [
        f"{place} is said to be on page {number}, and is on {pdf.places.get(place)}"
        for place, number in told.items()
        if pdf.places.get(place) != number
    ]
    if len(pdf.links) < facts["links"]:
        found.append(f"{facts['links'] - len(pdf.links)} links are lost")
    if pdf.pictures < facts["pictures"]:
        found.append(f"{facts['pictures'] - pdf.pictures} pictures are lost")
    if len(pdf.data) > MOST_BYTES:
        found.append(f"{len(pdf.data) / 1e6:.0f} MB, more than the {MOST_BYTES / 1e6:.0f} allowed")
    least = facts["height"] / PAPER["height"]
    if not least * 0.9 < len(pdf) < least * 1.5 + 20:
        found.append(f"{len(pdf)} pages for a text as long as {least:.0f}")
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--built", action="store_true", help="take the built book as it is")
    options = parser.parse_args()
    try:
        with browser() as engine:
            if not (options.built or build.is_current() or build.build()):
                raise PrintError("The book does not build: see above.")
            pdf = make(engine, pages(), ROOT / OUTPUT)
    except PrintError as error:
        print(error, file=sys.stderr)
        return 1
    size = len(pdf.data) / 1e6
    print(f"Printed {OUTPUT}: {len(pdf)} pages, {size:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
