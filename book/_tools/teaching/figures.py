"""Every figure of a chapter, from its executed cells, and a pack of them to show elsewhere.

A cell that shows a figure has a `caption` in its metadata. The alternative text stands beside the
picture in the output, where `xaiutils.plot.show` has put it. Figures count by chapter, as exercises
do: 13.2 is the second one of chapter 13.

The outputs hold PNG alone. `draw` executes a chapter in memory and keeps its figures as SVG too.
"""

import base64
import csv
import hashlib
import html
import io
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from chapters import PACKAGE, is_stale, run
from jinja2 import Environment
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell
from PIL import Image

from teaching import marks
from teaching.marks import Chapter
from xaiutils import data

LICENCE = "CC BY 4.0"
CUT, ROWS = 0.75, 3  # of a grid that is too tall: height by width, and rows, that are left at most
WHITE = 250  # a level of grey
DEED = "https://creativecommons.org/licenses/by/4.0/"
COLUMNS = (
    "figure",
    "chapter",
    "cell",
    "png",
    "svg",
    "caption",
    "alternative text",
    "licence",
    "photographs",
    "credit",
)
SVG = Path("_build/figures-svg")  # a folder for each chapter; `make teach` does not clear it
DOTS = 150  # per inch, of the pixels in an SVG: photographs and maps
LARGEST = 2_000_000  # bytes; a figure that is larger as SVG stays PNG
# Letters stay text, which can be edited and translated. The other two make the file the same again.
DRAWN = {"svg.fonttype": "none", "svg.hashsalt": "book"}
UNDATED = {"Date": None}
_CAPTURE = """
import sys
sys.path.append({tools!r})
from teaching import figures
figures.capture({folder!r})
"""
_TITLED = re.compile(r"(?:^|\. )([\w ]+), picture and maps")
_EMBEDDED = re.compile(r"data:image/png;base64,([^\"]+)")
_ROOT = re.compile(r"<svg\b([^>]*)>")
_INDEX = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
# The figures of the book

All figures are under [{{ licence }}]({{ deed }}): show them, translate and change them, and name \
the authors, the book and the licence. The line below each says how. Photographs have licences of \
their own; where one asks for its author to be named, that line names the author too. \
`figures.csv` has the same in a table, with the alternative texts.

{% if vector %}
As SVG too: {{ vector }} of {{ figures | length }}. Their lines can be edited, and so can their \
letters, which are text in DejaVu Sans. Where that is not installed another font takes its place, \
and the PNG says how the figure should look. Photographs and maps are pixels in both.
{% else %}
The outputs of the chapters hold PNG only, no SVG. `teach.py --svg` draws that too.
{% endif %}
{% for figure in figures %}

<figure>
<img src="{{ figure.name }}.png" alt="{{ figure.alt }}" loading="lazy" style="max-width: 100%">
<figcaption>
<p><strong>Figure {{ figure.number }}.</strong> {{ figure.caption }}</p>
<p><small>{{ credit(figure) }}</small></p>
{% if figure.svg %}
<p><small><a href="{{ figure.name }}.svg">Figure {{ figure.number }} as SVG</a></small></p>
{% endif %}
</figcaption>
</figure>
{% endfor %}
""")


@dataclass(frozen=True)
class Figure:
    """A figure with what is said of it.

    Attributes:
        chapter: Number of the chapter.
        place: Among the figures of the chapter, from 1.
        cell: The cell that shows it.
        caption: What one sees; empty if the cell has none.
        alt: The words that stand for it where it cannot be seen.
        png: The picture.
        svg: The same as lines, where the output holds that.
        photographs: Those that are, or may be, shown in it.
    """

    chapter: int
    place: int
    cell: str
    caption: str
    alt: str
    png: bytes
    svg: str = ""
    photographs: tuple[data.Credit, ...] = ()

    @property
    def number(self) -> str:
        """Chapter and place: ``13.2``."""
        return f"{self.chapter}.{self.place}"

    @property
    def name(self) -> str:
        """The name of its file, without an ending, by which files sort as figures do."""
        return f"{self.chapter}-{self.place:02}_{self.cell}"

    @property
    def credits(self) -> str:
        """The photographs in it whose licence asks for their author to be named."""
        return credit_line(self.photographs)


def credit_line(photographs: Sequence[data.Credit], every: bool = False) -> str:
    """Photographs with their authors and licences: all, or those that ask for it."""
    owed = [c for c in photographs if every or c.licence.startswith("CC BY")]
    return "; ".join(f"{c.name} by {c.author} ({c.licence})" for c in owed)


def read(chapter: Chapter) -> list[Figure]:
    """The figures of a chapter in their order, those of its solutions included."""
    found: list[Figure] = []
    for cell in chapter.notebook.cells:
        for caption, alt, picture, svg in _pictures(cell):
            words = " ".join(alt.split())
            photographs = _photographs(cell, words, chapter)
            png = base64.b64decode(picture)
            place = len(found) + 1
            found.append(
                Figure(chapter.number, place, cell.id, caption, words, png, svg, photographs)
            )
    return found


def _pictures(cell: Any) -> Iterator[tuple[str, str, str, str]]:
    """Caption, alternative text, PNG in base64 and SVG of every picture that a cell shows."""
    caption = cell.metadata.get("caption", "")
    for output in cell.get("outputs", ()):
        held = output.get("data", {})
        if "image/png" in held:
            alt = output.metadata.get("image/png", {}).get("alt", "")
            yield caption, alt, held["image/png"], held.get("image/svg+xml", "")
        elif "<img" in held.get("text/html", ""):  # a stack: one figure behind each button
            stack = _Stack(held["text/html"])
            for label, (alt, picture) in zip(stack.labels, stack.pictures, strict=True):
                yield f"{caption} Here: {stack.question} {label}.", alt, picture, ""


class _Stack(HTMLParser):
    """What `xaiutils.plot.show_stack` has written: a question, its answers, and their pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.question = ""
        self.labels: list[str] = []
        self.pictures: list[tuple[str, str]] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self._inside = tag
        self.question = given.get("aria-label") or self.question
        if tag == "img":
            self.pictures.append((given["alt"], given["src"].partition("base64,")[2]))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "label":
            self.labels.append(data.strip())


def _photographs(cell: Any, alt: str, chapter: Chapter) -> tuple[data.Credit, ...]:
    """The photographs in a figure: those that the cell's metadata or the figure's rows name.

    A figure that shows photographs without a name is taken to show all.
    """
    if not any("photos(" in c.source for c in chapter.notebook.cells if c.cell_type == "code"):
        return ()
    photos = data.photos()
    by_name = dict(zip(photos.names, photos.credits, strict=True))
    if "photographs" in cell.metadata:
        return tuple(by_name[name] for name in cell.metadata["photographs"])
    by_class = {photos.categories[c.label]: c for c in photos.credits}
    rows = [title for title in _TITLED.findall(alt) if title in by_class]
    if rows:
        return tuple(by_class[title] for title in dict.fromkeys(rows))
    return photos.credits if "photograph" in alt.lower() else ()


def citation(root: Path) -> dict[str, Any]:
    """How the book is to be cited, from CITATION.cff; empty where there is none."""
    path = root / "CITATION.cff"
    if not path.is_file():
        return {}
    book: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["preferred-citation"]
    return book


def cite(book: dict[str, Any], chapter: Chapter) -> str:
    """A chapter as one cites it."""
    if not book:
        return f"{chapter.title}. Chapter {chapter.number}."
    authors = ", ".join(author["name"] for author in book["authors"])
    end = "" if chapter.title.endswith("?") else "."
    return (
        f"{authors} ({book['year']}). {chapter.title}{end} Chapter {chapter.number} of "
        f"{book['title']}, version {book['version']}."
    )


def capture(folder: str) -> None:
    """In the kernel of a chapter: write each figure that is shown from now on as SVG too.

    Args:
        folder: Where to. A file is called by the digest of its PNG, by which `draw` finds it.
    """
    import matplotlib.pyplot as plt

    from xaiutils.plot import _show, _stack

    as_png = _show.png

    def both(figure: Any) -> bytes:
        picture = as_png(figure)
        drawn = io.StringIO()
        with plt.rc_context(DRAWN):
            figure.savefig(drawn, format="svg", dpi=DOTS, bbox_inches="tight", metadata=UNDATED)
        path = Path(folder, f"{_digest(picture)}.svg")
        path.write_text(_EMBEDDED.sub(_smaller, drawn.getvalue()), encoding="utf-8")
        return picture

    _show.png = _stack.png = both


def _smaller(embedded: re.Match[str]) -> str:
    """A picture inside an SVG in at most 256 colours, as `xaiutils.plot.png` has it, if opaque."""
    picture = Image.open(io.BytesIO(base64.b64decode(embedded[1])))
    if picture.convert("RGBA").getextrema()[-1] != (255, 255):
        return embedded[0]
    written = io.BytesIO()
    picture.convert("RGB").quantize(256).save(written, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii")


def draw(path: Path, kept: Path) -> str:
    """Execute a chapter in memory and keep its figures as SVG; nothing if that is done already.

    Args:
        path: The notebook, which is left as it is.
        kept: A folder, in which each chapter has one of its own.

    Returns:
        Why there are none; empty if there are.
    """
    chapter = marks.read(path)
    if _is_drawn(chapter, kept):
        return ""
    if is_stale(path, path.parents[1]):  # SVG and PNG would come from different code
        return "its outputs are older than its code: execute it first, by chapters.py"
    tools = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory() as folder:
        capturing = new_code_cell(_CAPTURE.format(tools=tools, folder=folder))
        chapter.notebook.cells.insert(0, capturing)
        try:
            run(chapter.notebook, path.parent)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            return str(error)
        _keep(chapter, Path(folder), kept)
    return ""


def _keep(chapter: Chapter, captured: Path, kept: Path) -> None:
    """Give what was captured the figures' names; a folder is there whole or not at all."""
    whole = kept / chapter.path.stem
    part = whole.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for figure in read(chapter):
        path = captured / f"{_digest(figure.png)}.svg"
        if path.is_file() and path.stat().st_size <= LARGEST:
            shutil.copy(path, part / f"{figure.name}.svg")
    (part / "fingerprint").write_text(_fingerprint(chapter), encoding="utf-8")
    shutil.rmtree(whole, ignore_errors=True)
    part.rename(whole)


def _is_drawn(chapter: Chapter, kept: Path) -> bool:
    """Whether the SVGs that are kept of a chapter were drawn by the code that made its outputs."""
    path = kept / chapter.path.stem / "fingerprint"
    return path.is_file() and path.read_text(encoding="utf-8") == _fingerprint(chapter)


def _fingerprint(chapter: Chapter) -> str:
    """That of the chapter's outputs, as `chapters.execute` has stored it."""
    return str(chapter.notebook.metadata.get(PACKAGE, {}).get("fingerprint", ""))


def _digest(png: bytes) -> str:
    return hashlib.sha256(png).hexdigest()


def with_svg(chapter: Chapter, kept: Path) -> list[Figure]:
    """The figures of a chapter with the SVGs that `draw` has kept, if they fit its outputs."""
    found = read(chapter)
    if not _is_drawn(chapter, kept):
        return found
    paths = [kept / chapter.path.stem / f"{figure.name}.svg" for figure in found]
    return [
        replace(figure, svg=described(figure, path.read_text(encoding="utf-8")))
        if path.is_file()
        else figure
        for figure, path in zip(found, paths, strict=True)
    ]


def described(figure: Figure, svg: str) -> str:
    """An SVG that says in itself what it shows, to readers of a screen and of its source."""
    title = html.escape(f"Figure {figure.number}. {figure.caption}")
    said = f"<title>{title}</title>\n<desc>{html.escape(figure.alt)}</desc>"
    return _ROOT.sub(lambda root: f'<svg role="img"{root[1]}>\n{said}', svg, count=1)


def pack(
    chapters: Sequence[Chapter], book: dict[str, Any], folder: Path, kept: Path | None = None
) -> str:
    """Write every figure of some chapters into a folder, with a table of them.

    Args:
        chapters: The chapters.
        book: How the book is cited, see `citation`.
        folder: Where to.
        kept: Where `draw` has put SVGs; absent: nowhere.

    Returns:
        An index in Markdown, to be written beside the figures.
    """
    rows = [
        (figure, cite(book, chapter))
        for chapter in chapters
        for figure in (with_svg(chapter, kept) if kept else read(chapter))
    ]
    for figure, _ in rows:
        (folder / f"{figure.name}.png").write_bytes(figure.png)
        if figure.svg:
            (folder / f"{figure.name}.svg").write_text(figure.svg, encoding="utf-8")
    with (folder / "figures.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(_row(figure, cited) for figure, cited in rows)
    cited = dict(rows)
    return _INDEX.render(
        figures=list(cited),
        credit=lambda figure: credited(figure, cited[figure]),
        licence=LICENCE,
        deed=DEED,
        vector=sum(bool(figure.svg) for figure in cited),
    )


def credited(figure: Figure, cited: str) -> str:
    """The line that belongs below a figure wherever it is shown."""
    photographs = f" Photographs: {figure.credits}." if figure.credits else ""
    return f"Figure {figure.number} of {cited} {LICENCE}.{photographs}"


def _row(figure: Figure, cited: str) -> list[str]:
    photographs = credit_line(figure.photographs, every=True)
    files = [f"{figure.name}.png", f"{figure.name}.svg" if figure.svg else ""]
    said = [figure.caption, figure.alt, LICENCE, photographs, credited(figure, cited)]
    return [figure.number, str(figure.chapter), figure.cell, *files, *said]


def shown(figure: Figure, alive: str = "") -> str:
    """A figure with its caption as HTML that needs no other file.

    Of a grid of maps that is too tall for a slide the upper rows are shown.

    Args:
        figure: The figure.
        alive: The address of a page on which it can be played with.
    """
    png = upper(figure.png) if "picture and maps" in figure.alt else figure.png
    source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    part = "" if png == figure.png else " <small>Its upper rows.</small>"
    owed = f" <small>Photographs: {html.escape(figure.credits)}.</small>" if figure.credits else ""
    play = f' <a href="{alive}">Play with it.</a>' if alive else ""
    return (
        f'<figure><img alt="{html.escape(figure.alt)}" src="{source}">'
        f"<figcaption><b>Figure {figure.number}.</b> {html.escape(figure.caption)}"
        f"{play}{part}{owed}</figcaption></figure>"
    )


def upper(png: bytes) -> bytes:
    """The upper rows of a grid of maps that is too tall for a slide; all of one that is not.

    It is cut between two rows, where a band of white runs from side to side.
    """
    picture = Image.open(io.BytesIO(png))
    dark = (np.asarray(picture.convert("L")) < WHITE).any(axis=1)
    begins = np.flatnonzero(dark[1:] & ~dark[:-1]) + 1  # where a row, or its title, begins
    high = np.diff(begins, append=picture.height)
    titles = begins[high < np.median(high)] if high.min() < np.median(high) / 2 else begins
    most = CUT * picture.width
    if len(titles) < 2 or (picture.height <= most and len(titles) < 2 * ROWS):
        return png
    cuts = [int(y) for y in titles[1 : ROWS + 1] if y <= most] or [int(titles[1])]
    written = io.BytesIO()
    picture.crop((0, 0, picture.width, cuts[-1] - 1)).save(written, format="png")
    return written.getvalue()
