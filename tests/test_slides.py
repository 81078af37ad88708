"""The decks of slides and the pack of figures that teach.py makes."""

import base64
import csv
import html
import io
import json
import re
import zipfile

import numpy as np
import page_checks
import page_scripts
import pytest
import teach
import vendor
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from teaching import figures, marks, plain, questions, slides

from xaiutils import data

BANKS = {int(path.stem): path for path in (teach.ROOT / "book/questions").glob("*.yml")}
ALL = teach.chapters()
BOOK = [chapter for chapter in ALL if "deck" in chapter.notebook.metadata]
SCREEN = {"width": 1280, "height": 720}
LEAST = 18  # pixels, of letters on a slide of that size
numbered = pytest.mark.parametrize("chapter", BOOK, ids=lambda chapter: chapter.path.stem)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder as `teach.make` fills it, with slides and figures alone."""
    folder = tmp_path_factory.mktemp("teach")
    for name in ("slides", "figures"):
        (folder / name).mkdir()
    banks = {number: questions.read(path) for number, path in BANKS.items()}
    teach.make_decks(BOOK, teach.names(BOOK), banks, teach.ROOT, folder / "slides")
    teach.pack_figures(BOOK, teach.ROOT, folder, "")
    return folder


@pytest.fixture(scope="module")
def read(made):
    """Reads the slides of a chapter's deck, as soup."""

    def read(chapter):
        page = (made / f"slides/{chapter.path.stem}.html").read_text(encoding="utf-8")
        return BeautifulSoup(page, "html.parser").select(".slide")

    return read


def _outputs(chapter):
    return [out for cell in chapter.notebook.cells for out in cell.get("outputs", ())]


def _executed(chapter):
    """All that the chapter's cells say and have shown."""
    code = [cell.source for cell in chapter.notebook.cells if cell.cell_type == "code"]
    shown = [str(out.get("text", "")) for out in _outputs(chapter)]
    shown += [str(out.get("data", {}).get("text/html", "")) for out in _outputs(chapter)]
    return "\n".join(code + shown)


def _pictures(chapter):
    """The pictures in a chapter's outputs with their alternative texts, however they are shown."""
    for output in _outputs(chapter):
        held = output.get("data", {})
        if "image/png" in held:
            yield held["image/png"].strip(), output.metadata["image/png"]["alt"]
        for image in BeautifulSoup(held.get("text/html", ""), "html.parser").select("img"):
            yield image["src"].partition("base64,")[2], image["alt"]


def _pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))


# What is on the slides


def test_every_chapter_with_questions_has_a_deck():
    assert {chapter.number for chapter in BOOK} == set(BANKS)


@numbered
def test_a_deck_is_short_and_has_what_a_lecture_needs(read, chapter):
    titles = [slide.h2.get_text(" ") for slide in read(chapter)]
    assert 8 <= len(titles) <= 14
    assert titles[1] == "Goals"
    assert titles[-1] == "Licence and sources"
    assert any("fails" in title for title in titles)
    asked = [place for place, title in enumerate(titles) if title == "A question"]
    assert asked
    assert all(titles[place + 1] == "The answer" for place in asked)
    if "## Summary" in chapter.text:
        assert titles[-2] == "Summary"
    if any("by hand" in title for title in re.findall(r"^## (.+)", chapter.text, re.M)):
        assert any("by hand" in title for title in titles)
        assert any(re.match(r"(Definition|Theorem|Proposition) \d", title) for title in titles)


@numbered
def test_pictures_are_those_of_the_chapter_with_their_words(read, chapter):
    known = {" ".join(alt.split()): encoded for encoded, alt in _pictures(chapter)}
    shown = [image for slide in read(chapter) for image in slide.select("img")]
    assert shown or not known
    for image in shown:
        whole = _pixels(known[image["alt"]])
        part = _pixels(image["src"].partition("base64,")[2])
        assert part.shape[1] == whole.shape[1]
        assert (whole[: len(part)] == part).all(), "it, or its upper rows"
        assert image.find_next("figcaption").get_text().startswith(f"Figure {chapter.number}.")


@numbered
def test_numbers_come_from_executed_cells(read, chapter):
    executed = _executed(chapter)
    for slide in read(chapter):
        for printed in slide.select(".print pre"):
            assert printed.get_text() in executed
        if "measured" in slide["class"]:
            numbers = set(re.findall(r"\d+\.\d+", slide.select_one(".body").get_text()))
            assert numbers <= set(re.findall(r"\d+\.\d+", executed))


@numbered
def test_no_source_is_left(made, chapter):
    page = (made / f"slides/{chapter.path.stem}.html").read_text(encoding="utf-8")
    body = page[page.index("<main") :]
    assert not plain.LEFTOVERS.search(body)
    text = BeautifulSoup(body, "html.parser")
    for code in text.select("pre, code"):
        code.clear()
    shown = re.sub(r"\\\(.*?\\\)|\\\[.*?\\\]", "", text.get_text(), flags=re.DOTALL)
    assert not re.search(r"\$|\*\*|```|\]\(|^\([\w-]+\)=", shown, re.MULTILINE)


@numbered
def test_whose_photographs_are_shown_is_said(read, chapter):
    *before, last = read(chapter)
    shown = {image["alt"] for slide in before for image in slide.select("img")}
    found = [figure for figure in figures.read(chapter) if figure.alt in shown]
    for credit in {credit for figure in found for credit in figure.photographs}:
        assert credit.author in last.get_text()
    assert figures.DEED in str(last)


def test_what_the_chapter_says_of_it_is_in_the_notes(read):
    for chapter in BOOK:
        noted = [slide for slide in read(chapter) if len(slide.aside.get_text().split()) > 20]
        assert len(noted) >= 4


def test_widgets_are_linked_and_words_of_the_glossary_are_not(read):
    linked = {
        link["href"]
        for chapter in BOOK
        for slide in read(chapter)
        for link in slide.select("a[href]")
    }
    assert "../../html/notebooks/45_explorer.html" in linked
    assert not any("glossary" in address for address in linked)


def test_a_deck_carries_the_state_of_the_widgets_that_it_shows_and_of_no_others(made):
    counts = {}
    for chapter in BOOK:
        page = (made / f"slides/{chapter.path.stem}.html").read_text(encoding="utf-8")
        deck = BeautifulSoup(page, "html.parser")
        views = deck.find_all("script", type=slides.VIEW)
        states = deck.find_all("script", type=slides.STATE)
        shown = {json.loads(view.string)["model_id"] for view in views}
        kept = {model for state in states for model in json.loads(state.string)["state"]}
        assert kept == shown
        assert ("anywidget" in page) == bool(shown), "the script is in no other deck"
        counts[chapter.number] = len(shown)
    assert counts[45] == 2
    assert counts[22] == 1


# In a browser


MEASURE = """() => [...document.querySelectorAll(".slide")].flatMap((slide) => {
  const body = slide.querySelector(".body");
  const found = [];
  if (body.scrollHeight > body.clientHeight) found.push("too high");
  if (body.scrollWidth > body.clientWidth) found.push("too wide");
  if (slide.scrollHeight > slide.clientHeight) found.push("overflows");
  const texts = document.createTreeWalker(slide, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const holder = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || holder.closest("mjx-container, .notes")) continue;
    const size = parseFloat(getComputedStyle(holder).fontSize);
    if (size < LEAST) found.push(`letters of ${size} px`);
  }
  if (slide.querySelector(".body mjx-merror")) found.push("a wrong formula");
  return found.map((wrong) => `${slide.querySelector("footer").textContent}: ${wrong}`);
})""".replace("LEAST", str(LEAST))


@pytest.fixture
def opened(browser, made):
    """Opens decks from their files, without a network; in the end nothing must have gone wrong."""
    if not vendor.is_filled():
        pytest.skip("npm could not be reached, so formulas would come from a CDN")
    return lambda path: page_checks.opened(browser, path.as_uri(), viewport=SCREEN)


TOGETHER = 9  # decks that are opened as one page, since it is MathJax's start that takes the time


@pytest.mark.parametrize("first", range(0, len(BOOK), TOGETHER))
def test_every_slide_fits_and_can_be_read(opened, made, first):
    paths = sorted(made.glob("slides/*.html"))[first : first + TOGETHER]
    pages = [path.read_text(encoding="utf-8") for path in paths]
    begin, end = '<main class="deck">', "</main>"
    decks = "".join(page.partition(begin)[2].partition(end)[0] for page in pages)
    head, _, rest = pages[0].partition(begin)
    whole = head + begin + decks + end + rest.partition(end)[2]
    (made / "slides/all.htm").write_text(whole, encoding="utf-8")
    with opened(made / "slides/all.htm") as (page, wrongs):
        page.wait_for_selector("body.ready", timeout=60_000)
        assert page.locator(".slide").count() >= 8 * len(paths)
        assert page.evaluate(MEASURE) + wrongs == []
        page.evaluate("document.querySelector('.credits .body').append('too much '.repeat(999))")
        assert "too high" in page.evaluate(MEASURE)[0]


def test_keys_lead_through_a_deck(opened, made):
    with opened(made / "slides/13_lrp_rules.html") as (page, wrongs):
        page.wait_for_selector("body.ready")
        where = "document.querySelector('.current').id"
        for key, place in (("ArrowRight", "2"), ("End", "14"), ("ArrowLeft", "13"), ("Home", "1")):
            page.keyboard.press(key)
            assert page.evaluate(where) == place
        page.keyboard.press("o")
        page.click("section[id='4']")
        assert page.evaluate(where) == "4"
        assert not page.locator("body.overview").count()
        page.keyboard.press("d")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        with page.expect_popup() as popup:
            page.keyboard.press("n")
        popup.value.wait_for_selector("mjx-container")
        assert popup.value.inner_text("h2").startswith("4. ")
        page.keyboard.press("ArrowRight")
        popup.value.wait_for_selector("h2:has-text('5. ')")
        assert wrongs == []


FIRST_WIDGET = "location.hash = document.querySelector('script[type*=view]').closest('.slide').id"
SWIPE = """([selector, way]) => {
  const target = document.querySelector(selector);
  const touch = (x) => new Touch({ identifier: 1, target, clientX: x, clientY: 300 });
  const send = (kind, touches, changedTouches) =>
    target.dispatchEvent(new TouchEvent(kind, { bubbles: true, touches, changedTouches }));
  send("touchstart", [touch(600)], [touch(600)]);
  send("touchend", [], [touch(600 + way)]);
}"""
INSIDE = """() => {
  const body = document.querySelector(".current .body").getBoundingClientRect();
  const widget = document.querySelector(".current .xai-widget").getBoundingClientRect();
  return widget.left >= body.left && widget.right <= body.right + 1
    && widget.top >= body.top && widget.bottom <= body.bottom + 1 && widget.height > 200;
}"""


def test_a_widget_is_alive_on_its_slide_and_keeps_its_keys(opened, made):
    with opened(made / "slides/22_grad_lam.html") as (page, wrongs):
        page.wait_for_selector("body.ready")
        picture, widget = ".current figure > img", ".current .xai-widget"
        assert not page.locator(".xai-widget").count()
        place = page.evaluate(FIRST_WIDGET)
        page.wait_for_selector(widget)
        assert not page.is_visible(picture)
        page.wait_for_function(INSIDE)

        where = "document.querySelector('.current').id"
        before = page.inner_text(f"{widget} .xai-status")
        page.focus(f"{widget} input[type=range]")
        page.keyboard.press("End")
        page.wait_for_function(
            "([at, before]) => document.querySelector(at).innerText !== before",
            arg=[f"{widget} .xai-status", before],
        )
        page.evaluate(SWIPE, [widget, -200])
        assert page.evaluate(where) == place
        assert page.evaluate(INSIDE)

        page.emulate_media(media="print")
        assert page.is_visible(picture)
        assert not page.is_visible(widget)
        page.emulate_media(media="screen")
        page.keyboard.press("Escape")
        page.keyboard.press("ArrowRight")
        assert page.evaluate(where) == str(int(place) + 1)
        page.evaluate(SWIPE, [".current h2", 200])
        assert page.evaluate(where) == place
        assert wrongs == []


def test_widgets_that_grow_still_fit_and_their_network_answers(opened, made):
    with opened(made / "slides/45_explorer.html") as (page, wrongs):
        page.wait_for_selector("body.ready")
        page.evaluate(FIRST_WIDGET)
        page.click(".current .xai-widget button:has-text('Play')")
        page.wait_for_selector(".current .xai-widget button:has-text('Pause')")
        page.wait_for_function("document.querySelectorAll('.current .xai-legend li').length > 5")
        page.wait_for_function(INSIDE)
        assert wrongs == []


def test_a_widget_that_does_not_start_leaves_its_picture(opened, made):
    deck = (made / "slides/22_grad_lam.html").read_text(encoding="utf-8")
    broken = made / "slides/broken.htm"
    broken.write_text(deck.replace('"_esm": "', '"_esm": "no script at all;'), encoding="utf-8")
    with opened(broken) as (page, wrongs):
        page.wait_for_selector("body.ready")
        with page.expect_console_message() as told:
            page.evaluate(FIRST_WIDGET)
        assert "SyntaxError" in told.value.text
        page.wait_for_selector(".current figure > img", state="visible")
        assert page.is_visible(".current figcaption a")
        assert not page.locator(".stage").count()
        assert len(wrongs) == 1


def test_a_printed_deck_has_a_page_for_each_slide(browser, made, read):
    if not vendor.is_filled():
        pytest.skip("npm could not be reached, so formulas would come from a CDN")
    chapter = next(chapter for chapter in BOOK if chapter.number == 44)
    deck = made / f"slides/{chapter.path.stem}.html"
    slides.print_by(browser, deck)
    printed = deck.with_suffix(".pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b", printed)) == len(read(chapter))


def test_why_decks_are_not_printed_is_said(monkeypatch):
    monkeypatch.setattr(slides, "CHROMIUM", ("no-such-program",))
    assert "no Chromium" in slides.print_pdf([])


def test_its_scripts_are_linted():
    page_scripts.assert_linted(slides.HERE / "deck.js", slides.HERE / "widgets.js")


# How a deck is cut out of a chapter


def _chapter(*cells, deck, tmp_path):
    path = tmp_path / "notebooks/10_sums.ipynb"
    notebook = new_notebook(cells=list(cells), metadata={"deck": deck})
    return marks.cut(path, notebook)


def _deck(chapter):
    names = plain.Names(labels={"thm-a": "Theorem 10.1"})
    return slides.Deck(chapter, names, [], "Cited.").slides()


THEOREM = """## The derivation

```{prf:theorem} Sums
:label: thm-a
$1 + 1 = 2$.
```

Said after it."""


def test_a_statement_is_shown_with_what_is_said_after_it(tmp_path):
    cells = [new_markdown_cell("# Sums\n\nAbout sums."), new_markdown_cell(THEOREM)]
    _, shown, _ = _deck(_chapter(*cells, deck=["thm-a"], tmp_path=tmp_path))
    assert shown.title == "Theorem 10.1. Sums"
    assert r"\(1 + 1 = 2\)" in shown.body
    assert "Said after it" in shown.notes
    assert "Said after it" not in shown.body


def test_a_name_that_the_chapter_does_not_have_is_named(tmp_path):
    for deck in (["thm-b"], [["thm-a", "thm-b"]], ["Where it ends"]):
        cells = [new_markdown_cell("# Sums\n\nAbout sums."), new_markdown_cell(THEOREM)]
        with pytest.raises(marks.MarkError, match=r"thm-b|Where it ends"):
            _deck(_chapter(*cells, deck=deck, tmp_path=tmp_path))


def test_a_cell_shows_its_figure_or_what_it_printed_or_its_code(tmp_path):
    printed = new_code_cell("print(2)", id="a", outputs=[new_output("stream", text="2 < 3\n")])
    silent = new_code_cell("x = 1", id="b")
    chapter = _chapter(
        new_markdown_cell("# Sums"), printed, silent, deck=["a", "b"], tmp_path=tmp_path
    )
    _, first, second, _ = _deck(chapter)
    assert first.body == "<pre>2 &lt; 3</pre>"
    assert second.body == "<pre>x = 1</pre>"


def test_a_widget_whose_state_was_not_kept_is_a_picture_with_a_link(tmp_path):
    written = io.BytesIO()
    Image.new("RGB", (40, 20)).save(written, format="png")
    png = base64.b64encode(written.getvalue()).decode()
    held = {"image/png": png, slides.VIEW: {"model_id": "1"}}
    output = new_output("display_data", held, metadata={"image/png": {"alt": "A box."}})
    cell = new_code_cell("play()", id="a", outputs=[output], metadata={"caption": "A box."})
    chapter = _chapter(new_markdown_cell("# Sums"), cell, deck=["a"], tmp_path=tmp_path)
    _, shown, _ = _deck(chapter)
    assert "Play with it" in shown.body
    assert slides.VIEW not in shown.body


def test_long_sections_are_shown_by_how_their_paragraphs_begin(tmp_path):
    paragraph = "A claim. A reason. " + "More of it. " * 60
    text = "## Where it fails\n\n" + "\n\n".join([paragraph] * 3) + "\n\nSee below:"
    chapter = _chapter(
        new_markdown_cell("# Sums"),
        new_markdown_cell(text),
        deck=["Where it fails"],
        tmp_path=tmp_path,
    )
    _, shown, _ = _deck(chapter)
    points = [point.get_text() for point in BeautifulSoup(shown.body, "html.parser").select("li")]
    assert points == ["A claim. A reason."] * 3
    assert "More of it" in shown.notes


def test_sentences_end_outside_formulas_and_names():
    text = "By Bach et al. It holds. So $a. B$ is one. *This* too."
    found = ["By Bach et al. It holds.", "So $a. B$ is one.", "*This* too."]
    assert slides.sentences(text) == found


def test_a_table_stays_with_what_leads_to_it():
    table = "| a |\n|---|\n" + "| 1 |\n" * 9
    first, second = slides._sheets(["word " * 150, "A table:", table, "Last. See the cell:"])
    assert first == ["word " * 150]
    assert second == ["A table:", table, "Last."]


def test_the_upper_rows_of_a_tall_grid_are_cut_between_rows():
    page = np.full((1000, 400), 255, np.uint8)
    for top in range(20, 1000, 110):
        page[top : top + 90, 10:390] = 0
    written = io.BytesIO()
    Image.fromarray(page).save(written, format="png")
    upper = np.asarray(Image.open(io.BytesIO(figures.upper(written.getvalue()))))
    assert (upper == page[: len(upper)]).all()
    assert 200 < len(upper) <= figures.CUT * 400
    assert (upper[-5:] == 255).all()
    Image.fromarray(page[:300]).save(written := io.BytesIO(), format="png")
    assert figures.upper(written.getvalue()) == written.getvalue()


# The figures


def test_the_pack_has_every_figure_with_all_that_belongs_to_it(made):
    rows = list(csv.DictReader((made / "figures/figures.csv").open(encoding="utf-8")))
    expected = [(c.number, *picture) for c in BOOK for picture in _pictures(c)]
    assert len(rows) == len(expected) == len(list(made.glob("figures/*.png")))
    page = (made / "figures/index.html").read_text(encoding="utf-8")
    for row, (number, encoded, alt) in zip(rows, expected, strict=True):
        assert row["chapter"] == str(number)
        assert (made / "figures" / row["png"]).read_bytes() == base64.b64decode(encoded)
        assert row["alternative text"] == " ".join(alt.split()) != ""
        assert len(row["caption"].split()) > 4
        assert row["licence"] == figures.LICENCE
        assert f"Figure {row['figure']} of The Heatmaps Under Test authors" in row["credit"]
        assert html.escape(row["caption"], quote=False) in page.replace("&#39;", "'")
    with zipfile.ZipFile(made / "figures.zip") as archive:
        assert {f"figures/{row['png']}" for row in rows} <= set(archive.namelist())


def test_captions_have_no_numbers_that_could_grow_old():
    for chapter in BOOK:
        for cell in chapter.notebook.cells:
            assert not re.search(r"\b\d", cell.metadata.get("caption", ""))


def test_photographers_are_named_with_their_figures(made):
    owed = {c.name: c for c in data.photos().credits if c.licence.startswith("CC BY")}
    rows = csv.DictReader((made / "figures/figures.csv").open(encoding="utf-8"))
    shown = dict.fromkeys(owed, 0)
    for row in rows:
        for name, credit in owed.items():
            if f"{name} by" in row["photographs"]:
                shown[name] += 1
                assert credit.author in row["credit"]
            # a row of a grid of maps is titled by the class of its photograph
            title = data.photos().categories[credit.label]
            if re.search(rf"(^|\. ){title}, picture and maps", row["alternative text"]):
                assert f"{name} by" in row["photographs"]
    assert min(shown.values()) > 5


def test_an_svg_is_packed_where_the_output_holds_one(tmp_path):
    png = base64.b64encode(b"png").decode()
    held = {"image/png": png, "image/svg+xml": "<svg/>"}
    output = new_output("display_data", held, metadata={"image/png": {"alt": "A line."}})
    cell = new_code_cell("plot()", id="a", outputs=[output], metadata={"caption": "A line."})
    chapter = _chapter(new_markdown_cell("# Sums"), cell, deck=[], tmp_path=tmp_path)
    index = figures.pack([chapter], {}, tmp_path)
    assert (tmp_path / "10-01_a.svg").read_text() == "<svg/>"
    assert "no SVG" not in index
