"""The page where a reader's own photograph is named, explained and erased by a network in the page.

A Sphinx extension with one directive, ``{photograph-explorer}``. The scripts are the parts in
assets/photograph, joined here with what the widgets already have (colours, regions, fills, orders)
to one plain script, so that the page also runs from a file. The network is apart from it: the
scripts of `NETWORK` offer it as ``window.LiteNetwork`` and load its weights on a click.

Photographs to start with stand in the page as data, because a page from a file may not read the
pixels of another file.
"""

import base64
import io
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import front_door
import yaml
from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from xaiutils import data, models
from xaiutils.reproduce._provenance import write_text
from xaiutils.widgets._common import script
from xaiutils.widgets._pictures import blur_weights

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "words", "picture", "stage", "classes", "curves", "race", "share", "controls", "explorer",
)  # fmt: skip
NETWORK = ("vendor/photograph/about.js", "photograph/client.js")  # see photograph/export.py
JOINED = "photograph/page.js"
FILLS = {"uniform": "Noise", "blur": "Blur", "mean": "Mean colour"}
VIEWS = {"photograph": "Photograph", "both": "Both", "map": "Map"}
TOOLS = {"lens": "Lens", "brush": "Brush"}
RACERS = {
    "morf": "The map, most important first",
    "borrowed": 'The map of “<span class="ph-lender"></span>”',
    "lot": "An order by lot",
    "lerf": "The map, least important first",
}


def joined() -> str:
    """All of the page's own script."""
    folder = ROOT / "assets/photograph"
    parts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in PARTS]
    body = "\n".join([script("pictures.js"), *parts])
    return f'(() => {{\n"use strict";\n{body}}})();\n'


def explorer() -> str:
    """The page: what stands in it from the start, and what the script fills."""
    return f"""<section class="ph" data-photograph-explorer aria-label="Your own photograph">
<noscript><style>.ph-live {{ display: none !important; }}</style>
<p>Scripts are off, and without them this page can do nothing: the network runs in it.</p>
</noscript>
<div class="ph-in"><div class="ph-thumbs" role="group" aria-label="Photographs to start with">
{"".join(_thumbs())}</div>
<div class="ph-own ph-live">
<label class="ph-button">Choose a photograph<input class="ph-file" type="file"
 accept="image/*"></label>
<label class="ph-button ph-camera">Take one<input class="ph-file" type="file" accept="image/*"
 capture="environment"></label>
<span class="ph-drop">or drop it here, or paste it.</span></div></div>
<p class="ph-problem" role="alert"></p><p class="ph-note" role="status"></p>
<div class="ph-desk ph-live"><div class="ph-figure">
<canvas class="ph-stage" tabindex="0" role="application" width="448" height="448"></canvas>
<progress class="ph-working" aria-label="The map is being made" max="1" hidden></progress>
<div class="ph-tools">{_picks("tool", TOOLS, "lens")}{_picks("view", VIEWS, "both")}
<div class="ph-brush" hidden>{_picks("fill", FILLS, "uniform")}
<button type="button" class="ph-pick ph-undo">Undo</button>
<button type="button" class="ph-pick ph-restore">All back</button></div></div></div>
<p class="ph-about"><span class="ph-caption"></span> <span class="ph-credit"></span></p>
<div class="ph-side"><div class="ph-loading">
<button type="button" class="ph-button ph-first ph-load">Load the network
<span class="ph-size"></span></button>
<progress class="ph-progress" aria-label="How much of the network is loaded" max="1" value="0"
 hidden></progress> <span class="ph-loaded"></span>
<p>It is EfficientNet-Lite0, which knows the 1,000 classes of ImageNet. It is loaded once and then
runs here, on your machine.</p></div>
<div class="ph-answer" hidden><p class="ph-says"></p>
<p class="ph-spoken visually-hidden" aria-live="polite"></p>
<ol class="ph-classes" aria-label="Classes: choose one to have it explained"></ol>
<div class="ph-methods" role="group" aria-label="Method"></div>
<div class="ph-buttons"><button type="button" class="ph-button ph-first ph-erase">Let the map
erase</button></div></div></div></div>
<div class="ph-test ph-live" aria-label="The test of the map" role="group">
<div class="ph-race" hidden><p class="ph-learned" aria-live="polite"></p>
<p class="ph-numbers"></p>
<p class="ph-caveat" hidden>One picture, one draw of the noise and of the lots, and one network,
which may have seen such pictures in training: another draw can say otherwise (press again).</p>
<div class="ph-tiles">{"".join(_tile(name, title) for name, title in RACERS.items())}</div>
<div class="ph-chart"></div></div></div>
<div class="ph-buttons ph-live"><button type="button" class="ph-button ph-save" disabled>Save as a
picture</button><button type="button" class="ph-button ph-link" disabled>Copy the link</button>
<span class="ph-link-why" hidden>A link cannot carry your photograph: it never left this
page.</span>
<span class="ph-shared" role="status"></span></div>
<script type="application/json">{_data()}</script>
</section>"""


def _thumbs() -> Iterator[str]:
    photographs = data.photos()
    for credit, image in zip(photographs.credits, photographs.images, strict=True):
        line = f"Photograph: {credit.author} ({credit.licence}), cut to a square"
        yield (
            f'<button type="button" class="ph-thumb" data-name="{credit.name}" disabled '
            f'data-credit="{escape(line)}." aria-pressed="false"><img src="{_square(image)}" '
            f'alt="{credit.name}" width="72" height="72"></button>'
        )


def _square(image: Image.Image) -> str:
    """The middle of a photograph as data, near enough to be named as the photograph is."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    packed = io.BytesIO()
    middle = image.convert("RGB").crop((left, top, left + side, top + side))
    middle.save(packed, "WEBP", quality=92, method=6)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"


def _picks(kind: str, options: dict[str, str], chosen: str) -> str:
    buttons = "".join(
        f'<button type="button" class="ph-pick" data-{kind}="{value}" '
        f'aria-pressed="{str(value == chosen).lower()}">{title}</button>'
        for value, title in options.items()
    )
    return f'<div class="ph-picks" role="group" aria-label="{kind.capitalize()}">{buttons}</div>'


def _tile(racer: str, title: str) -> str:
    return (
        f'<div class="ph-tile" data-racer="{racer}"><canvas width="224" height="224" '
        f'aria-hidden="true"></canvas><p>{title}</p><p class="ph-score"></p></div>'
    )


def _data() -> str:
    """How the network is fed, how a blur is made, and the name of the book."""
    fed = models.load_classifier("efficientnet_lite0", weights="random").preprocess
    content = {
        "preprocess": {key: getattr(fed, key) for key in ("resize", "crop", "mean", "std")},
        "blur": blur_weights(),
        "first": front_door.bets()["photographs"][0]["name"],  # as on the first page
        "book": yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["title"],
    }
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")


# ------------------------------------------------------------------------------ Sphinx


class PhotographExplorer(SphinxDirective):
    """``{photograph-explorer}``: drop a photograph, and ask why it is named as it is."""

    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """The page as HTML."""
        self.env.note_reread()
        return [nodes.raw("", explorer(), format="html")]


def add_its_files(
    app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    """Style, network and script for the explorer's page alone."""
    raws = document.findall(nodes.raw) if document is not None else ()
    if any("data-photograph-explorer" in raw.astext() for raw in raws):
        app.add_css_file("photograph/explorer.css")
        for name in NETWORK:
            app.add_js_file(name, loading_method="defer")
        app.add_js_file(JOINED, loading_method="defer")
        front_door.leave_out_formulas(context, document)


def write_script(app: Sphinx, error: Exception | None) -> None:
    """Put the joined script beside the other files, which are copied last."""
    if error is None and app.builder.format == "html":
        write_text(Path(app.outdir) / "_static" / JOINED, joined())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("photograph-explorer", PhotographExplorer)
    app.connect("html-page-context", add_its_files)
    app.connect("build-finished", write_script)
    return {"version": "1", "parallel_read_safe": True}
