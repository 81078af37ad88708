"""A short deck of slides for a chapter, cut out of it.

The metadata of a notebook has a list `deck`. It names what is shown, in this order, between the
goals and the summary:

    a label         of a definition, a theorem or a numbered formula; a list of them: on one slide
    a heading       of a section: its table or list; or else its words, or the openings of its
                    paragraphs if they are long; a case worked by hand always in its own words
    a cell of code  by its id: its figure, or what it has printed, or its code if it shows nothing
    a cell of text  by its id: the box in it that says what was measured
    a question      of the question bank, by its id: the answer is on the next slide

So a deck holds no picture and no number that is not in the executed chapter. What the chapter goes
on to say there becomes the notes for the speaker. A widget comes along with its state and can be
played with (widgets.js); its picture is there for paper, and for where scripts are off.
"""

import html
import itertools
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from jinja2.utils import htmlsafe_json_dumps

from teaching import figures, questions
from teaching.marks import Chapter, Exercise, MarkError
from teaching.pages import to_html
from teaching.plain import Names, plain

HERE = Path(__file__).parent
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
ROOM = 13  # lines of a slide, at the size of letters that it begins with
_WIDTH = 85  # letters in such a line
_MOST = 1.25 * ROOM  # letters that are a little smaller make room for so much
_POINTS = 1.5 * ROOM  # and those of a list may be smaller still
_FEW = 3  # parts of a section, of each of which more can be said
_STATEMENT = re.compile(
    r"^(?P<fence>`{3,})\{prf:(?!proof)\w+\}(?P<title>[^\n]*)\n:label:[ ]*(?P<label>\S+)\n"
    r"(?P<text>.*?)^(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_FORMULA = re.compile(r"\$\$(?:(?!\$\$).)+?\$\$[ ]*\((?P<label>[\w-]+)\)", re.DOTALL)
_MEASURED = re.compile(r"^```\{admonition\} What we measured\n:class: \w+\n(.*?)^```", re.M | re.S)
_HEADING = re.compile(r"^(#{2,3}) +(.+)\n", re.MULTILINE)
_LISTED = re.compile(r"\||- |1\. ")  # a table or a list begins so
_GLOSSARY = re.compile(r"\[([^][]+)\]\([^()]*book/glossary\.html[^()]*\)")
_LEAD = re.compile(r"\*{1,2}[^*]+\*{1,2}")
_SENTENCE = re.compile(r"(?<=[.!?])(?<!al\.)(?<!Fig\.)[ ]+(?=[A-Z*`$(])")
_NEXT = re.compile(r"^`{3,}\{prf:(?!proof)|^#{2,3} ", re.MULTILINE)
_DECK = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ chapter.number }} {{ chapter.title }}: slides</title>
<style>
{{ style | safe }}
</style>
<script>{{ script | safe }}</script>
{% if widgets %}
<script>{{ player | safe }}</script>
<script type="{{ state_type }}">{{ {"state": widgets} | tojson }}</script>
{% endif %}
<script src="{{ mathjax }}" defer></script>
</head>
<body>
<main class="deck">
{% for slide in slides %}
<section class="slide {{ slide.kind }}" id="{{ loop.index }}" tabindex="-1">
<h2>{{ slide.title | safe }}</h2>
<div class="body">
{{ slide.body | safe }}
</div>
<footer><span>{{ chapter.number }} · {{ chapter.title }}</span>\
<span>{{ loop.index }} / {{ slides | length }}</span></footer>
<aside class="notes mathjax_ignore" aria-label="Notes">{{ slide.notes | safe }}</aside>
</section>
{% endfor %}
</main>
</body>
</html>
""")


@dataclass(frozen=True)
class Slide:
    """A slide, in HTML.

    Attributes:
        title: Its heading.
        body: What stands below.
        notes: What the speaker may say.
        kind: Its class in the style sheet.
    """

    title: str
    body: str
    notes: str = ""
    kind: str = "text"


@dataclass(frozen=True)
class Section:
    """What stands below a heading: text as MyST and cells of code, in order."""

    title: str
    level: int
    parts: list[Any]

    @property
    def text(self) -> str:
        """Its text without its cells."""
        return "\n\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def beginning(self) -> str:
        """Its text before the first cell."""
        return "\n\n".join(itertools.takewhile(lambda part: isinstance(part, str), self.parts))


def sections(chapter: Chapter) -> list[Section]:
    """A chapter cut at its headings, without solutions; the first is what comes before them."""
    found = [Section(chapter.title, 1, [])]
    for part in chapter.parts:
        if isinstance(part, Exercise):
            continue
        if part.cell_type == "code":
            found[-1].parts.append(part)
            continue
        opening, *pieces = _HEADING.split(part.source)
        found[-1].parts.append(re.sub(r"^# .+\n", "", opening).strip())
        for marks, title, text in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
            found.append(Section(title.strip(), len(marks), [text.strip()]))
    return found


class Deck:
    """A chapter's deck in the making.

    Args:
        chapter: The chapter.
        names: What labels are called.
        bank: Its questions.
        cited: How it is cited.
    """

    def __init__(
        self, chapter: Chapter, names: Names, bank: Sequence[questions.Question], cited: str
    ) -> None:
        self.chapter, self.names, self.cited = chapter, names, cited
        self.bank = {q.name: (q, answers) for q, answers in questions.in_order(list(bank))}
        self.sections = sections(chapter)
        self.figures = {figure.cell: figure for figure in figures.read(chapter)}
        self.shown: list[figures.Figure] = []
        self.widgets: dict[str, Any] = {}

    def slides(self) -> list[Slide]:
        """All slides in order.

        Raises:
            MarkError: The list names something that the chapter does not have.
        """
        made = [self._title(), *self._goals()]
        for entry in self.chapter.notebook.metadata["deck"]:
            made += self._entry(entry)
        return [*made, *self._summary(), self._credits()]

    def _entry(self, entry: str | list[str]) -> Iterator[Slide]:
        named = [section for section in self.sections if section.title == entry]
        if isinstance(entry, list) or self._statement(entry) or self._formula(entry):
            yield self._statements([entry] if isinstance(entry, str) else entry)
        elif named:
            yield from self._section(named[0])
        elif entry in self.bank:
            yield from self._question(entry)
        else:
            yield self._cell(entry)

    def _title(self) -> Slide:
        opening = self._html(self.sections[0].text)
        lead = " ".join(sentences(self.sections[0].text)[:2])
        body = f"{self._html(lead)}<p class='from'>{html.escape(self.cited)}</p>"
        title = f"<span>Chapter {self.chapter.number}</span> {_inline(self.chapter.title)}"
        return Slide(title, body, opening, "title")

    def _goals(self) -> Iterator[Slide]:
        needs = "".join(s.text for s in self.sections if s.title == "What you need first")
        for section in self.sections:
            if section.title == "Goals":
                yield Slide("Goals", self._html(section.text), self._html(needs))

    def _statements(self, labels: list[str]) -> Slide:
        """Definitions, theorems and formulas; the first gives the title."""
        title, shown, notes = "", "", ""
        for label in labels:
            called = self.names.labels.get(label, label)
            if statement := self._statement(label):
                named = f"{called}. {statement['title'].strip()}"
                text, rest = statement["text"], statement.string[statement.end() :]
            elif formula := self._formula(label):
                text, rest = _around(formula)
                named = self._heading_of(label)
            else:
                raise MarkError(f"the deck names {label}, which is no statement of the chapter")
            heading = f"<h3>{_inline(named)}</h3>" if title else ""
            shown += f'<div class="stated">{heading}{self._html(text)}</div>'
            title = title or named
            end = _NEXT.search(rest)
            notes += "\n\n" + (rest[: end.start()] if end else rest)
        return Slide(_inline(title), shown, self._html(notes), "statement")

    def _statement(self, label: Any) -> re.Match[str] | None:
        return self._find(_STATEMENT, label)

    def _formula(self, label: Any) -> re.Match[str] | None:
        return self._find(_FORMULA, label)

    def _find(self, pattern: re.Pattern[str], label: Any) -> re.Match[str] | None:
        for section in self.sections:
            for match in pattern.finditer(section.text):
                if match["label"] == label:
                    return match
        return None

    def _heading_of(self, label: str) -> str:
        return next(s.title for s in self.sections if f"({label})" in s.text)

    def _section(self, section: Section) -> Iterator[Slide]:
        below = self.sections[self.sections.index(section) + 1 :]
        inner = list(itertools.takewhile(lambda other: other.level > section.level, below))
        notes = self._html("\n\n".join([section.text, *(other.text for other in inner)]))
        parts = blocks(plain(section.text, self.names))
        listed = [part for part in parts if _LISTED.match(part)]
        if "by hand" in section.title:
            sheets = _sheets(blocks(plain(section.beginning, self.names)))
        elif listed and not inner:
            sheets = [listed[:1]]
        elif inner or sum(map(lines, parts)) > _MOST:
            points = [_opening(part) for part in _telling(parts)]
            many = 2 if len(inner) <= _FEW else 1
            points += [f"**{other.title}.** {self._first(other, many)}" for other in inner]
            yield Slide(_inline(section.title), self._points(_that_fit(points)), notes, "points")
            return
        else:
            sheets = [_without_lead(parts)]
        for number, sheet in enumerate(sheets, 1):
            of = f" <small>{number} of {len(sheets)}</small>" if len(sheets) > 1 else ""
            yield Slide(_inline(section.title) + of, self._html("\n\n".join(sheet)), notes)

    def _first(self, section: Section, many: int) -> str:
        """How the first paragraphs of a section begin."""
        openings = map(_opening, _telling(blocks(plain(section.text, self.names))))
        return " ".join(list(filter(None, openings))[:many])

    def _cell(self, name: str) -> Slide:
        """What a cell shows, below the heading of its section."""
        for section in self.sections:
            for place, part in enumerate(section.parts):
                if not isinstance(part, str) and part.id == name:
                    after = "\n\n".join(p for p in section.parts[place:] if isinstance(p, str))
                    body, kind = self._output(part)
                    return Slide(_inline(section.title), body, self._html(after), kind)
        for part in self.chapter.cells:
            if part.id == name and (box := _MEASURED.search(part.source)):
                return self._measured(box)
        raise MarkError(f"the deck names {name!r}, which is nothing in the chapter")

    def _output(self, cell: Any) -> tuple[str, str]:
        if figure := self.figures.get(cell.id):
            self.shown.append(figure)
            view = next((o.data[VIEW] for o in cell.outputs if VIEW in o.get("data", {})), None)
            played = f"{self.names.pages}notebooks/{self.chapter.path.stem}.html" if view else ""
            return figures.shown(figure, played) + self._widget(view), "figure"
        printed = "".join(output.get("text", "") for output in cell.outputs)
        body = f"<pre>{html.escape((printed or cell.source).rstrip())}</pre>"
        return body + self._html(cell.metadata.get("caption", "")), "print"

    def _widget(self, view: Any) -> str:
        """What widgets.js needs to put a widget in the place of its picture, its state apart."""
        kept = self.chapter.notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
        model = kept.get(view["model_id"]) if view else None
        if model is None or model["model_module"] != "anywidget":
            return ""
        self.widgets[view["model_id"]] = model
        return f'<script type="{VIEW}">{htmlsafe_json_dumps(view)}</script>'

    def _measured(self, box: re.Match[str]) -> Slide:
        return Slide("What we measured", self._points(sentences(box[1])), "", "points measured")

    def _question(self, name: str) -> Iterator[Slide]:
        question, answers = self.bank[name]
        asked, explained = to_html(question.text), []
        for letter, answer in zip("ABCDE", answers, strict=False):
            asked += to_html(f"**{letter}** {answer.text}")
            sign = "right" if answer.right else "wrong"
            why = to_html(
                f"**{letter}** {answer.text.rstrip('.')}. *{sign.capitalize()}.* {answer.why}"
            )
            explained.append(f'<div class="{sign}">{why}</div>')
        where = self._html(f'See "{question.where}" in the chapter.')
        yield Slide("A question", asked, where, "question")
        yield Slide("The answer", to_html(question.text) + "".join(explained), where, "answer")

    def _summary(self) -> Iterator[Slide]:
        for section in self.sections:
            if section.title == "Summary":
                yield Slide("Summary", self._points(sentences(section.text)), "", "points")

    def _credits(self) -> Slide:
        photographs = [c for figure in self.shown for c in figure.photographs]
        named = figures.credit_line(list(dict.fromkeys(photographs)), every=True)
        papers = next((s.text for s in self.sections if s.title == "References"), "")
        told = [
            f"Text and figures: [{figures.LICENCE}]({figures.DEED}). Show and change them, and "
            "name the authors, the book and the licence.",
            f"Cite as: {self.cited}",
            f"Photographs: {named}." if named else "",
            papers.split("\n\n")[0],
        ]
        return Slide("Licence and sources", self._html("\n\n".join(told)), "", "credits")

    def _points(self, points: Sequence[str]) -> str:
        return self._html("\n".join(f"- {point}" for point in points))

    def _html(self, text: str) -> str:
        """MyST as HTML; other chapters are linked by their decks, and words not to the glossary."""
        shown = _GLOSSARY.sub(r"\1", plain(text, self.names))
        return to_html(re.sub(r"\]\((\d\d_\w+)\.ipynb", r"](\1.html", shown))


def deck(made: Deck, mathjax: str) -> str:
    """A deck as a page of HTML that needs MathJax alone.

    Args:
        made: What is in it.
        mathjax: The address of MathJax from there.
    """
    return _DECK.render(
        chapter=made.chapter,
        slides=made.slides(),
        widgets=made.widgets,
        state_type=STATE,
        player=(HERE / "widgets.js").read_text(encoding="utf-8"),
        style=(HERE / "deck.css").read_text(encoding="utf-8"),
        script=(HERE / "deck.js").read_text(encoding="utf-8"),
        mathjax=mathjax,
    )


def print_pdf(decks: Sequence[Path]) -> str:
    """Print decks as PDF beside them, by the machine's Chromium.

    Returns:
        Why not, "" if they are printed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return "playwright is missing; it comes with the extra `test`"
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        return "there is no Chromium on this machine (on Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for deck in decks:
            print_by(browser, deck)
        browser.close()
    return ""


def print_by(browser: Any, deck: Path) -> None:
    """Print a deck as PDF beside it, a page for each slide, by a browser of playwright."""
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.goto(deck.resolve().as_uri())
    page.wait_for_selector("body.ready")
    pdf = deck.with_suffix(".pdf")
    page.pdf(path=pdf, prefer_css_page_size=True, outline=True, tagged=True)
    page.close()


def sentences(text: str) -> list[str]:
    """A text in sentences; a full stop inside a formula ends none."""
    found: list[str] = []
    for piece in _SENTENCE.split(" ".join(text.split())):
        if found and found[-1].count("$") % 2:
            found[-1] += f" {piece}"
        else:
            found.append(piece)
    return [sentence for sentence in found if sentence]


def blocks(text: str) -> list[str]:
    """Paragraphs, lists, tables and displayed formulas."""
    return [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip()]


def lines(block: str) -> float:
    """About how many lines a block takes on a slide, with the room below it."""
    if block.startswith("$$"):
        return 2.5 + 1.2 * block.count(r"\\")
    words = re.sub(r"\$[^$]+\$", lambda m: m[0][: len(m[0]) // 2], block)
    return sum(-(-len(line) // _WIDTH) for line in words.split("\n")) + 0.5


def _without_lead(parts: Sequence[str]) -> list[str]:
    """Blocks less a last sentence that leads to a cell."""
    if not parts or not parts[-1].endswith(":"):
        return list(parts)
    return [*parts[:-1], " ".join(sentences(parts[-1])[:-1])]


def _sheets(parts: Sequence[str]) -> list[list[str]]:
    """Blocks on one slide, or on two; a formula or a table stays with what leads to it."""
    said = _without_lead(parts)
    if sum(map(lines, said)) <= _MOST:
        return [said]
    heights = list(itertools.accumulate(map(lines, said)))
    cuts = [n for n in range(1, len(said)) if not said[n].startswith(("$$", "|"))]
    half = min(cuts, key=lambda n: abs(heights[n - 1] - heights[-1] / 2))
    return [said[:half], said[half:]]


def _telling(parts: Sequence[str]) -> list[str]:
    """The paragraphs; those alone that open with a few words set apart, where many do."""
    text = [part for part in parts if not part.startswith(("$$", ">", "```"))]
    led = [part for part in text if _LEAD.match(part)]
    return led if len(led) > 2 else text


def _opening(paragraph: str) -> str:
    """Its first sentences, less what leads on to something that is not on the slide."""
    first = sentences(paragraph)[: 3 if _LEAD.match(paragraph) else 2]
    return " ".join(sentence for sentence in first if not sentence.endswith((":", "?", ",")))


def _that_fit(points: Sequence[str]) -> list[str]:
    """As many points as a slide has room for."""
    found: list[str] = []
    for point in filter(None, points):
        if sum(map(lines, [*found, point])) <= _POINTS:
            found.append(point)
    return found


def _around(formula: re.Match[str]) -> tuple[str, str]:
    """A formula with what leads to it and the rest of its sentence, and what follows."""
    before = sentences((blocks(formula.string[: formula.start()]) or [""])[-1])
    lead: list[str] = []
    while before and sum(map(len, lead)) < _WIDTH:
        lead.insert(0, before.pop())
    after = formula.string[formula.end() :]
    opening, *_ = blocks(after) or [""]
    tail = sentences(opening)[0] if opening[:1].islower() else ""
    return f"{' '.join(lead)}\n\n{formula[0]}\n\n{tail}", after


def _inline(markdown: str) -> str:
    """A heading's Markdown as HTML, without a paragraph around it."""
    return to_html(markdown).strip().removeprefix("<p>").removesuffix("</p>")
