"""The first page of the book, made from results/ while the book is built.

A Sphinx extension with one directive, ``{front-door}``, whose argument names a part of the page:
``game``, ``parts``, ``ledger``, ``ways`` or ``findings``. Numbers are read from results/, and
none is typed: where a result no longer says what a sentence says, the build fails.

The game is a plain script (assets/front_door.js) on top of what stands in the page anyway:
without scripts a reader sees the photograph, the maps, what each scored, and the way on. What it
plays was measured by front_door_data.py.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar

import yaml
from docutils import nodes
from markupsafe import Markup
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
STATIC = "../_static/front_door"
CHAPTERS = "../notebooks"
FIRST_CHAPTER = f"{CHAPTERS}/11_what_is_a_heatmap.html"
SHORTEST, LONGEST = 40, 200  # characters of a description
VERDICTS = {  # a mark, so that colour is never alone, and the name of its style
    "supported": ("✓", "supported"),
    "contradicted": ("✗", "contradicted"),
    "mixed": ("±", "mixed"),
    "inconclusive": ("?", "inconclusive"),
    "not testable here": ("–", "untested"),
}
PARTS: dict[
    str, tuple[str, dict[str, str]]
] = {  # what a part is about, and the pictures of its card
    "Reading a network backwards": (
        "One signal, sent back through the network by different rules, gives different maps.",
        {
            "rocket": "a photograph",
            "rocket-guided_backprop": "guided backpropagation",
            "rocket-lrp_epsilon_plus": "LRP",
        },
    ),
    "Without labels": (
        "Where does a network look that only redraws its pictures?",
        {
            "digit": "a digit",
            "digit-again": "the same from its code",
            "digit-grad_lam": "where Grad-LAM says that the code was read",
        },
    ),
    "Disentangling": (
        "Can what speaks for an answer be told from what speaks against it?",
        {
            "digit": "a digit",
            "digit-positive": "what speaks for it by DMBP",
            "digit-negative": "what speaks against it",
        },
    ),
    "Measuring": (
        "What do tests of heatmaps reward, and how far can they be trusted?",
        {},
    ),
    "The answer": (
        "Which heatmap for which question, and what can nobody say yet?",
        {
            "chelsea": "a photograph",
            "chelsea-grad_cam": "Grad-CAM",
            "chelsea-lrp_epsilon_plus": "LRP",
        },
    ),
}
SHOWN = {"lrp_epsilon_plus": "LRP", "grad_cam": "Grad-CAM", "deconvnet": "deconvolution"}


# ------------------------------------------------------------------------------ reading results


def table(name: str) -> list[dict[str, str]]:
    """The rows of a table in results/."""
    with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def facts(name: str) -> dict[str, Any]:
    """The record of a run in results/."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def row(name: str, **wanted: str) -> dict[str, str]:
    """The only row of a table with these values.

    Raises:
        LookupError: There is none, or there are several.
    """
    found = [r for r in table(name) if all(r[key] == value for key, value in wanted.items())]
    if len(found) != 1:
        raise LookupError(f"results/{name}.csv has {len(found)} rows with {wanted}, not one")
    return found[0]


def claims() -> dict[str, str]:
    """Claim and verdict, of all claims of papers, in the order of the ledger.

    What a method did without its best chance is in the ledger alone, beside what it did with it.
    """
    rows = [r for r in table("claims") if r["paper"] and r["best_chance"] == "True"]
    return {r["statement"]: r["verdict"] for r in rows}


# ------------------------------------------------------------------------------ findings


@dataclass(frozen=True)
class Finding:
    """A sentence in HTML, and whether the results still say it."""

    sentence: str
    holds: bool


def findings() -> list[Finding]:
    """What the long runs found, in five lines."""
    return [_borrowed(), _turned(), _ceiling(), _blind(), _ahead()]


def _interval(found: Mapping[str, str], places: int = 2) -> str:
    return f"[{float(found['low']):.{places}f}, {float(found['high']):.{places}f}]"


def _photographs(found: Mapping[str, str]) -> str:
    return f"{float(found['images']):.0f} photographs"


def _link(page: str, text: str) -> str:
    return f'<a href="{CHAPTERS}/{page}.html">{text}</a>'


def _borrowed() -> Finding:
    name = "controls-efficientnet_lite0"
    method, asked = "lrp_epsilon_plus", {"fill": "uniform", "measure": "aopc_morf"}
    own, lent = (
        row(f"{name}-areas", **asked, map=method, whose=whose) for whose in ("own", "borrowed")
    )
    lead = row(f"{name}-differences", **asked, method=method, first="own", second="borrowed")
    share = float(lent["mean"]) / float(own["mean"])
    sentence = (
        f"LRP's map of <em>another</em> photograph makes the score fall {_percent(share)} as far "
        "as its map of the photograph itself, most important regions first; the difference is "
        f"{float(lead['mean']):.2f} {_interval(lead)}, {_photographs(lead)}. "
        f"{_link('44_sanity_checks', 'Sanity checks')}"
    )
    return Finding(sentence, 0.2 < share < 0.8 and float(lead["low"]) > 0)


def _turned() -> Finding:
    asked = {
        "fill": "uniform",
        "method": "input_x_gradient",
        "first": "own",
        "second": "borrowed",
    }
    name = "controls-efficientnet_lite0-differences"
    most, least = (row(name, **asked, measure=f"aopc_{order}") for order in ("morf", "lerf"))
    sentence = (
        "Turn the test round and its answer can turn too: gradient × input beats a borrowed map "
        f"by {float(most['mean']):.2f} {_interval(most)} with the most important regions erased "
        f"first; with the least important first it does worse, by {-float(least['mean']):.2f} "
        f"[{-float(least['high']):.2f}, {-float(least['low']):.2f}], {_photographs(least)}. "
        f"{_link('41_region_perturbation', 'Region perturbation')}"
    )
    return Finding(sentence, float(most["low"]) > 0 > float(least["high"]))


def _ceiling() -> Finding:
    name = "ceiling-efficientnet_lite0-shares"
    asked = {"fill": "uniform", "draws": "other", "measure": "aopc_morf"}
    found = [r for r in table(name) if all(r[key] == value for key, value in asked.items())]
    maps = [r for r in found if not r["method"].startswith("(")]
    best = max(maps, key=lambda r: float(r["share"]))
    sentence = (
        f"The best of {len(maps)} maps reaches {float(best['share']):.0f} % {_interval(best, 0)} "
        "of the lead over chance that the best order found by a search has, "
        f"{_photographs(best)}. "
        f"{_link('44_sanity_checks', 'How far it is')}"
    )
    return Finding(sentence, float(best["high"]) < 50)


def _blind() -> Finding:
    asked = {"target": "logit", "measure": "cosine", "exchanged": "far"}
    found = row("blindness-efficientnet_lite0-likeness", method="guided_backprop", **asked)
    sentence = (
        "Ask guided backpropagation for a class of another photograph, and it draws nearly the "
        f"same picture: cosine {float(found['mean']):.3f} {_interval(found, 3)}, "
        f"{_photographs(found)}. "
        f"{_link('18_explain_a_difference', 'Explaining a difference')}"
    )
    return Finding(sentence, float(found["low"]) > 0.98)


def _ahead() -> Finding:
    statement = "LRP finds what the network uses better than deconvolution does"
    found = [r for r in table("claims") if r["statement"] == statement and r["of_kind"] == "True"]
    leads = " and ".join(
        f"{float(r['mean']):.2f} {_interval(r)} ({r['measure'].split(', ')[-1]})" for r in found
    )
    sentence = (
        f"LRP is ahead of deconvolution, as was claimed, on both networks that decide: by {leads}, "
        f"{_photographs(found[0])} each. "
        f"{_link('42_samek_reproduced', 'The contest repeated')}"
    )
    return Finding(sentence, len(found) == 2 and {r["verdict"] for r in found} == {"supported"})


# ------------------------------------------------------------------------------ the game


def bets() -> dict[str, Any]:
    """What was measured, the photograph of which the network is surest first."""
    found = facts("front-door")
    found["photographs"].sort(key=lambda photograph: -photograph["probability"])
    return found


def game() -> str:
    """The bet: what a reader without scripts sees, and what the script plays."""
    measured = bets()
    first = measured["photographs"][0]
    tiles = "".join(_tile(i, tile, first, measured) for i, tile in enumerate(first["tiles"]))
    images = facts("samek-efficientnet_lite0")["data"]["images"]
    return f"""<section class="front-door" data-front-door aria-label="Place your bet">
<p class="fd-lede">A network says <em class="fd-class">{escape(first["label"])}</em>. Five heatmaps
claim to show why. They cannot all be right. <strong>Tap the one that you would trust</strong>: each
then erases what it calls important.</p>
<div class="fd-stage">
<figure class="fd-photo"><div class="fd-frame">
<img class="fd-picture" src="{STATIC}/{first["name"]}.webp" width="224" height="224"
 alt="Photograph: {first["name"]}"><img class="fd-lens"
 src="{STATIC}/{first["name"]}.webp" width="224" height="224" alt="Map over the photograph"></div>
<figcaption>The network: <strong class="fd-class">{escape(first["label"])}</strong>,
<span class="fd-probability">{_percent(first["probability"])}</span>
<span class="fd-credit">{_credit(first)}</span></figcaption></figure>
<div class="fd-tiles" role="group" aria-label="Five heatmaps: which do you trust?">{tiles}</div>
</div>
<noscript><style>.fd-live {{ display: none !important; }}
.front-door .fd-name {{ display: inline !important; }}</style>
<p>Scripts are off, so nothing is erased here. What each map scored stands below, among all
numbers.</p></noscript>
<div class="fd-result fd-live">
<div class="fd-race"><div class="fd-chart"></div>
<label class="fd-scrub">erased <input type="range" min="0" max="{measured["steps"]}" value="0">
<span class="fd-count">0 of {measured["regions"]} regions</span></label></div>
<div><p class="fd-verdict" aria-live="polite">Nothing is erased yet. Your bet?</p>
<p class="fd-caveat" hidden>One picture, one draw of noise; the others can turn out otherwise.
{_link("42_samek_reproduced", f"What {images} photographs say")}.</p>
</div></div>
<div class="fd-buttons fd-play fd-live">
<button type="button" class="fd-button fd-another">Another picture</button>
<button type="button" class="fd-button fd-turn" aria-pressed="false">Turn the test round</button>
<button type="button" class="fd-button fd-again">Once more</button></div>
<div class="fd-buttons"><a class="fd-button fd-first" href="{FIRST_CHAPTER}">Why? Start with the
first chapter</a>
<a class="fd-button" href="{CHAPTERS}/45_explorer.html">Erase and draw by hand</a></div>
{_numbers(measured)}
<script type="application/json">{_data(measured)}</script>
</section>"""


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def _credit(photograph: Mapping[str, Any]) -> str:
    return escape(f"Photograph: {photograph['author']} ({photograph['licence']})")


def _tile(
    number: int, tile: Mapping[str, Any], photograph: Mapping[str, Any], measured: Mapping[str, Any]
) -> str:
    letter = "ABCDE"[number]
    source = f"{STATIC}/{photograph['name']}-{tile['method']}.webp"
    name = measured["names"][tile["method"]]
    return f"""<button type="button" class="fd-tile" aria-pressed="false" disabled>
<span class="fd-pictures"><img src="{source}" width="176" height="176"
 alt="{escape(tile["says"])}">
<canvas width="224" height="224" aria-hidden="true"></canvas></span>
<span><span class="fd-letter">{letter}</span> <span class="fd-name">{escape(name)}</span></span>
<span class="fd-score"></span></button>"""


def area(scores: Sequence[float]) -> float:
    """The mean fall from the first score, over all steps and the start (AOPC)."""
    return sum(scores[0] - score for score in scores) / len(scores)


def _numbers(measured: Mapping[str, Any]) -> str:
    names = measured["names"]
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in [*names.values(), "by lot"])
    body = ""
    for photograph in measured["photographs"]:
        tiles = {tile["method"]: tile for tile in photograph["tiles"]}
        for order, title in (("morf", "most first"), ("lerf", "least first")):
            falls = [*(area(tiles[name][order]) for name in names), area(photograph["lot"])]
            cells = "".join(f"<td>{fall:.2f}</td>" for fall in falls)
            label = escape(photograph["label"])
            body += f"<tr><th scope='row'>{label}, {title}</th>{cells}</tr>"
    size, draws = measured["region_size"], measured["draws"]
    return f"""<details class="fd-numbers"><summary>How it was measured, and all numbers</summary>
<p>EfficientNet-Lite0. {measured["steps"]} of {measured["regions"]} regions of {size} × {size}
pixels are replaced by {measured["fill"]}, {draws} draw, seed {measured["seed"]}; the score is
the class's {measured["output"]}. <em>By lot</em> is the mean of
{measured["orders_by_lot"]} random orders. The noise that the page paints is a likeness of it.
The table has the mean fall of the score: with the most important regions first a large one is
good, with the least important first a small one.</p>
<div class="pst-scrollable-table-container"><table class="table"><thead><tr><th scope="col">
photograph and order</th>{head}</tr></thead><tbody>{body}</tbody></table></div>
<p>{"<br>".join(f"{escape(p['label'])}: {_credit(p)}" for p in measured["photographs"])}</p>
</details>"""


def _data(measured: Mapping[str, Any]) -> str:
    played = ("names", "short", "trap", "regions", "steps", "photographs")
    content = {key: measured[key] for key in played} | {"pictures": STATIC}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


# ------------------------------------------------------------------------------ the other parts


def parts() -> str:
    """A card for each part of the book, with its chapters, as _toc.yml has them."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = {part["caption"]: part["chapters"] for part in toc["parts"]}
    return f'<div class="front-door fd-cards">{"".join(_card(c, listed[c]) for c in PARTS)}</div>'


def _card(caption: str, chapters: list[dict[str, str]]) -> str:
    sentence, pictures = PARTS[caption]
    links = "".join(
        f'<li><a href="../{chapter["file"]}.html">{escape(title(chapter["file"]))}</a></li>'
        for chapter in chapters
    )
    shown = _curves() if not pictures else _panels(pictures)
    return (
        f'<article class="fd-card">{shown}<h3>{escape(caption)}</h3><p>{sentence}</p>'
        f"<ol>{links}</ol></article>"
    )


def _panels(pictures: Mapping[str, str]) -> str:
    images = "".join(
        f'<img src="{STATIC}/{name}.webp" width="176" height="176" loading="lazy" alt="{says}">'
        for name, says in pictures.items()
    )
    note = ", ".join(pictures.values())
    note = note[0].upper() + note[1:]
    return f'<div class="fd-panels">{images}</div><p class="fd-note" aria-hidden="true">{note}.</p>'


def title(file: str) -> str:
    """The heading of a notebook."""
    cells = json.loads((ROOT / f"{file}.ipynb").read_text(encoding="utf-8"))["cells"]
    heading = next(line for line in "".join(cells[0]["source"]).splitlines() if line[:2] == "# ")
    return heading[2:].replace("$", "")


def _curves() -> str:
    found = [
        r
        for r in table("samek-efficientnet_lite0-curves")
        if (r["fill"], r["order"]) == ("uniform", "morf") and r["method"] in SHOWN
    ]
    lines = {name: [float(r["mean_score"]) for r in found if r["method"] == name] for name in SHOWN}
    scores = [score for line in lines.values() for score in line]
    low, high = min(scores), max(scores)
    paths = ""
    for i, line in enumerate(lines.values()):
        points = "L".join(
            f"{300 * k / (len(line) - 1):.1f} {6 + 88 * (high - score) / (high - low):.1f}"
            for k, score in enumerate(line)
        )
        paths += f'<path class="fd-{i + 1}" d="M{points}"/>'
    names = ", ".join(SHOWN.values())
    says = f"Falling curves of the score under {names}: the mean of many photographs."
    images = facts("samek-efficientnet_lite0")["data"]["images"]
    return (
        f'<div class="fd-plot"><svg viewBox="0 0 310 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{says}">{paths}</svg></div><p class="fd-note">The score of {images} '
        f"photographs while regions are erased, most important first: {names}.</p>"
    )


def ledger() -> str:
    """A square for each claim of the papers."""
    verdicts = claims()
    counts = Counter(verdicts.values())
    squares = "".join(
        f'<span class="fd-claim fd-{VERDICTS[verdict][1]}" title="{escape(claim)}: '
        f'{verdict}">{VERDICTS[verdict][0]}</span>'
        for claim, verdict in verdicts.items()
    )
    told = [(verdict, counts[verdict]) for verdict in VERDICTS if counts[verdict]]
    key = "".join(
        f'<li><span class="fd-claim fd-{VERDICTS[verdict][1]}" aria-hidden="true">'
        f"{VERDICTS[verdict][0]}</span>{number} {verdict}</li>"
        for verdict, number in told
    )
    spoken = ", ".join(f"{number} {verdict}" for verdict, number in told)
    return (
        f'<div class="front-door"><a class="fd-strip" href="claims.html" '
        f'aria-label="The ledger: {len(verdicts)} claims, {spoken}">{squares}</a>'
        f'<ul class="fd-key">{key}</ul></div>'
    )


def ways() -> str:
    """Read, run, teach."""
    cards = (
        ("Read", FIRST_CHAPTER, "From the first chapter", "Works offline, on a phone, on paper."),
        ("Run", "how_to_use.html#run-it", "How to run it", "Two commands on a laptop; no GPU."),
        (
            "Teach",
            "teach.html",
            "How to teach from it",
            "Exercises with solutions that run, and a way for classes without a network.",
        ),
    )
    inner = "".join(
        f'<article class="fd-card"><h3>{name}</h3><p>{says}</p>'
        f'<a class="fd-button" href="{address}">{link}</a></article>'
        for name, address, link, says in cards
    )
    return f'<div class="front-door fd-ways">{inner}</div>'


def five_lines() -> str:
    """The findings as a list.

    Raises:
        ValueError: The results no longer say one of them.
    """
    found = findings()
    gone = [finding.sentence for finding in found if not finding.holds]
    if gone:
        raise ValueError(f"results/ no longer say what the first page says: {gone}")
    items = "".join(f"<li>{finding.sentence}</li>" for finding in found)
    return f'<div class="front-door"><ol class="fd-findings">{items}</ol></div>'


# ------------------------------------------------------------------------------ Sphinx


PIECES: dict[str, Callable[[], str]] = {
    "game": game,
    "parts": parts,
    "ledger": ledger,
    "ways": ways,
    "findings": five_lines,
}


class FrontDoor(SphinxDirective):
    """``{front-door} NAME``: a piece of the first page."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """The piece as HTML."""
        self.env.note_reread()
        return [nodes.raw("", PIECES[self.arguments[0]](), format="html")]


def add_its_files(
    app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    """What a page is about, for a search or a link; style and script for the game's page alone."""
    if document is None:
        return
    if "description" not in context["metatags"]:
        context["metatags"] += described(document, context["title"])
    if any("data-front-door" in raw.astext() for raw in document.findall(nodes.raw)):
        context["title"] = "Place your bet"  # the name of the book follows it in any case
        app.add_css_file("front_door.css")
        app.add_js_file("front_door.js", loading_method="defer")
        leave_out_formulas(context, document)


def leave_out_formulas(context: dict[str, Any], document: nodes.document) -> None:
    """Take MathJax, a megabyte, off a page without a formula; Jupyter Book puts it on each."""
    if not any(document.findall(lambda node: isinstance(node, nodes.math | nodes.math_block))):
        files = context["script_files"]
        files[:] = [file for file in files if "mathjax" not in str(file.filename)]


def described(document: nodes.document, title: str) -> str:
    """The description of a page, for searches and links: as much of its first paragraph as fits."""
    texts = (" ".join(part.astext().split()) for part in document.findall(nodes.paragraph))
    text = next((text for text in texts if len(text) >= SHORTEST), "")
    short = escape(shorten(text, LONGEST, placeholder=" …"))
    if not short:
        return ""
    plain = escape(Markup(title).striptags())
    tags = {
        'name="description"': short,
        'property="og:title"': plain,
        'property="og:description"': short,
    }
    return "".join(f'<meta {name} content="{content}" />\n' for name, content in tags.items())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("front-door", FrontDoor)
    app.connect("html-page-context", add_its_files)
    return {"version": "1", "parallel_read_safe": True}
