"""The page that shows the tables of results/: a plot, its table, and the command of each row.

A Sphinx extension with the directive ``{results-explorer}``. What the page shows is taken from the
long table (`xaiutils.reproduce.measures`) while the book is built. The plot is drawn by a plain
script, assets/results.js; without scripts a reader sees the first table, and the way to all
numbers. The long table itself is written beside the page, for pandas.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import yaml
from docutils import nodes
from front_door import leave_out_formulas
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from xaiutils.reproduce import measures
from xaiutils.reproduce.measures import BY_LOT, NONE
from xaiutils.reproduce.results import readable

ROOT = Path(__file__).resolve().parents[2]
DOWNLOAD = "measures.csv.gz"
FIRST = {  # what the page opens with
    "network": "efficientnet_lite0",
    "fill": "uniform",
    "measure": "aopc_morf",
    "control": NONE,
    "file": "controls-efficientnet_lite0-areas.csv",
}
KEYS = ("network", "fill", "measure", "control", "file", "setting")
_LOT_KEYS = ("network", "fill", "file", "setting")
Row = dict[str, Any]  # of the long table
NETWORKS = {
    "efficientnet_lite0": "EfficientNet-Lite0, photographs",
    "squeezenet1_1": "SqueezeNet 1.1, photographs",
    "tiny_resnet18": "ResNet-18, Tiny ImageNet",
    "tiny_vgg11_bn": "VGG-11, Tiny ImageNet",
    "tiny_cnn": "small CNN, Tiny ImageNet, over its training",
    "mnist_cnn": "CNN, digits",
    "mnist_cnn_deletions": "CNN, digits, trained on deletions",
    "mnist_ae_16": "autoencoder, digits",
    "natural_ae_64": "autoencoder, Tiny ImageNet",
}
FILLS = {
    NONE: "nothing is replaced",
    "uniform": "uniform noise",
    "constant": "the mean picture",
    "dirichlet": "Dirichlet noise",
    "blur": "blur",
    "noisy_linear": "noisy linear imputation",
    "histogram": "the picture's own colours, by lot",
    "patches": "patches of other pictures",
    "decoded": "what an autoencoder fills in",
}
MEASURES = {
    "aopc_morf": "fall of the output, most important regions first (AOPC, MoRF)",
    "aopc_lerf": "fall of the output, least important regions first (AOPC, LeRF)",
    "aopc": "fall of the output (AOPC)",
    "aopc_relative": "fall of the output, as a share of it",
    "abpc": "area between the two curves (ABPC)",
    "own_minus_borrowed": "ABPC of the own map less that of a borrowed one",
    "random_minus_lerf": "ABPC's second half: by lot less least important first",
    "start": "the output before anything is replaced",
    "lead": "lead over the best rival",
    "ceiling of aopc_morf": "share of the ceiling, most important regions first",
    "ceiling of aopc_lerf": "share of the ceiling, least important regions first",
    "ceiling of abpc": "share of the ceiling, area between the curves",
    "occlusion": "agreement with occlusion",
    "png": "size as PNG",
    "jpeg": "size as JPEG",
    "entropy": "entropy of the map",
    "energy": "share of the relevance inside the box",
    "pointing": "pointing game: the largest value lies in the box",
    "score": "known truth: the score of the map",
    "cosine": "likeness: cosine",
    "size_of_cosine": "likeness: size of the cosine",
    "places": "likeness: the places that are marked",
    "positive_places": "likeness: the places that speak for it",
    "fall of cosine": "what a contrast lowers: cosine",
    "fall of size_of_cosine": "what a contrast lowers: size of the cosine",
    "fall of places": "what a contrast lowers: likeness of places",
    "fall of positive_places": "what a contrast lowers: likeness of the places for it",
    "area": "area between the curves of the reconstruction",
    "correlation": "correlation with occlusion",
    "partial": "correlation with occlusion beyond the size of the change",
    "swing": "how far marked regions swing their latent",
    "move": "how far marked regions move a latent",
    "first": "share of maps that move their own latent most",
    "rise": "rise of the output when what speaks against it is replaced",
    "fall": "fall of the output by the share that is replaced",
    "sum of J*x": "what the input contributes to the output",
}
CONTROLS = {
    NONE: "nothing: the measure itself",
    "borrowed": "the map of another picture",
    "unsigned": "the map without its sign",
    BY_LOT: "regions in an order by lot",
    "block": "one block at a place by lot",
    "centre": "a map of the middle",
    "picture": "the picture itself as a map",
    "another picture": "the likeness to another picture's map",
    "chance": "chance",
    "map by lot": "a map by lot",
    "values by lot": "the map's values dealt anew",
    "the gradient": "the gradient",
    "the logit's map": "the logit's own map",
}
MAPS = {
    "own": "its own map",
    "borrowed": "the map of another picture",
    "second": "a second borrowed map",
    "unsigned": "the map without its sign",
    "positive": "what speaks for the output",
    "negative": "what speaks against it",
    "both": "both branches",
    "mapping": "the norm of the positive branch",
    "map": "its map",
    "logit": "of the logit",
    "difference": "of a difference",
    "log_odds": "of the log odds",
    NONE: "",
}
METHODS = {
    BY_LOT: "order by lot",
    "block": "a block by lot",
    "centre": "a map of the middle",
    "picture": "the picture itself",
    "random": "a map of noise",
    "(searched)": "the best order found by search",
    "(each region alone)": "each region alone",
    "(mean)": "mean of all methods",
    "(other noise)": "occlusion with other noise",
    "lafam": "LaFAM",
    "relax": "RELAX",
    "exp_vae": "the gradient of the mean latent",
    "contrast": "contrast of the picture",
    NONE: "the network",
}
ORDER = {
    "network": NETWORKS, "fill": FILLS, "measure": MEASURES, "control": CONTROLS, "map": MAPS,
    "method": METHODS,
}  # fmt: skip
_ENDINGS = {  # of names that controls and samek make of a method's
    "_abs_squares": ", each square without its sign",
    "_abs_each": ", each channel without its sign",
    "_abs": ", without its sign",
    "_as_is": ", in the units of this network",
}
_OF = " of accuracy and "
_SKIPPED = ("reliability of ", "agreement of ")


# ------------------------------------------------------------------------------ what is shown


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the long table that the page has: values, and leads over a control.

    Differences between two methods or two fills are left to the table, and so are rankings, the
    checkpoints of trainings, and how curves change with the number of steps.
    """
    wanted = table["control"].isin(CONTROLS) & ~table["measure"].str.startswith(_SKIPPED)
    wanted &= ~table["setting"].str.startswith(("step=", "steps="))
    wanted &= ~((table["map"] == "second") & (table["control"] == NONE))
    return table[wanted]


def groups(table: pd.DataFrame) -> list[dict[str, Any]]:
    """What is drawn together: one network, fill, measure, control, table and setting.

    Orders by lot serve both orders of a map, so they stand in the groups of both.

    Returns:
        Each has the `KEYS`, unit, better, against, n, of, and ``rows``: method, map, mean, low,
        high, Holm's p or None, and the number of pictures where it is not the group's.
    """
    records = shown(table).to_dict("records")
    lots, parted = _parted([r for r in records if r["measure"] == "aopc"], _LOT_KEYS), []
    for key, rows in _parted([r for r in records if r["measure"] != "aopc"], KEYS).items():
        named = dict(zip(KEYS, key, strict=True))
        if named["control"] == NONE and "aopc" in named["measure"]:
            rows = rows + lots.get(tuple(named[k] for k in _LOT_KEYS), [])
        parted.append(named | _facts(rows))
    return parted


def _parted(rows: list[Row], keys: Sequence[str]) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def _facts(rows: list[Row]) -> dict[str, Any]:
    number = int(Counter(row["n"] for row in rows).most_common(1)[0][0])
    against = {row["against"] for row in rows if not math.isnan(row["against"])}
    return {
        **{column: rows[0][column] for column in ("unit", "better", "of")},
        "against": float(f"{against.pop():.3g}") if len(against) == 1 else None,
        "n": number,
        "command": sorted({row["command"] for row in rows}),
        "rows": [_row(row, number) for row in rows],
    }


def _row(row: Row, number: int) -> list[Any]:
    p = None if math.isnan(row["p_holm"]) else float(f"{row['p_holm']:.2g}")
    ends = [row[column] for column in ("mean", "low", "high")]
    own = [] if row["n"] == number else [int(row["n"])]
    return [row["method"], row["map"], *_rounded(ends), p, *own]


def _rounded(ends: list[float]) -> list[float]:
    """A mean and its interval to a hundredth of the interval, or three digits of the mean."""
    mean, low, high = ends
    size = (high - low) / 10 or abs(mean) / 100 or 1.0
    digits = max(0, 1 - math.floor(math.log10(size)))
    return [int(value) if digits == 0 else round(value, digits) for value in ends]


def name(kind: str, value: str) -> str:
    """How the page writes a network, fill, measure, control, map or method."""
    if value in ORDER[kind]:
        return ORDER[kind][value]
    if kind == "measure":
        how, _, what = value.partition(_OF)
        plain = value.replace("_", " ")
        return f"{how.title()}'s correlation of {name(kind, what)} with accuracy" if what else plain
    return _method(value) if kind == "method" else value.replace("_", " ")


def _method(value: str) -> str:
    """The name of a method, whatever a table has put behind it."""
    start = re.split("[,:]", value, maxsplit=1)[0]
    rest = value.removeprefix(start)
    for ending, said in _ENDINGS.items():
        if start.endswith(ending):
            return f"{_method(start.removesuffix(ending))}{said}{rest}"
    epsilon = start.removeprefix("lrp_epsilon_")
    if epsilon.replace(".", "").isdigit():
        return f"LRP, ε = {epsilon}{rest}"
    return f"{METHODS.get(start, readable(start))}{rest}"


def page_data(found: list[dict[str, Any]]) -> dict[str, Any]:
    """All that the script needs of the `groups`; words that repeat are numbers in a list."""
    words: dict[str, dict[str, int]] = {k: {} for k in (*KEYS, "method", "map", "command")}

    def number(kind: str, value: str) -> int:
        return words[kind].setdefault(value, len(words[kind]))

    packed = []
    for kind in ("network", "fill", "measure", "control"):  # as the page lists them
        there = {group[kind] for group in found}
        for value in [*(v for v in ORDER[kind] if v in there), *sorted(there)]:
            number(kind, value)
    for value in MAPS:
        number("map", value)
    for group in found:
        keys = [number(kind, group[kind]) for kind in KEYS]
        rows = [
            [number("method", method), number("map", version), *_short(rest)]
            for method, version, *rest in group["rows"]
        ]
        commands = [number("command", command) for command in group["command"]]
        facts = [group[k] for k in ("unit", "better", "against", "n", "of")]
        packed.append([keys, facts, commands, rows])
    return {
        "words": {kind: list(numbers) for kind, numbers in words.items()},
        "names": {kind: [name(kind, value) for value in words[kind]] for kind in ORDER},
        "groups": packed,
        "first": FIRST,
        "lines": [BY_LOT, "block", "(searched)"],
        "none": NONE,
        "files": _files(),
    }


def _short(rest: list[Any]) -> list[Any]:
    """Without a p-value at the end that is not there."""
    return rest[:-1] if rest[-1] is None else rest


def _files() -> str:
    """The address of the folder of the tables."""
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    return f"{repository['url']}/blob/{repository['branch']}/results/"


# ------------------------------------------------------------------------------ the page


def first_group(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Which of the `groups` the page opens with.

    Raises:
        LookupError: The tables have it no more.
    """
    first = [g for g in found if all(g[key] == value for key, value in FIRST.items())]
    if len(first) != 1:
        raise LookupError(f"results/ has {len(first)} groups with {FIRST}, not one")
    return first[0]


def explorer() -> str:
    """The form, the plot and its table."""
    table = measures.table()
    found = groups(table)
    first = first_group(found)
    labels = {"network": "Network", "fill": "Fill", "measure": "Measure",
              "control": "Less a control", "run": "Table"}  # fmt: skip
    selects = "".join(
        f'<div class="rx-field"><label for="rx-{kind}">{label}</label>'
        f'<select id="rx-{kind}" class="rx-{kind}"></select></div>'
        for kind, label in labels.items()
    )
    data = json.dumps(page_data(found), ensure_ascii=False, separators=(",", ":"))
    return f"""<section class="rx" data-results-explorer aria-label="Results explorer">
<noscript><style>.rx-live {{ display: none !important; }}</style>
<p>Scripts are off: what stands below is the first table of many. All are in the file at the end of
this page, and in the folder <code>results/</code>.</p></noscript>
<form class="rx-form rx-live">{selects}</form>
<p class="rx-title" aria-live="polite">{_title(first)}</p>
<div class="rx-plot rx-live"></div>
<ul class="rx-key rx-live"></ul>
<p class="rx-best rx-live" hidden></p>
<details class="rx-twin" open><summary>The same as a table</summary>
<div class="pst-scrollable-table-container"><table class="table rx-table rx-untested">{_head()}
<tbody>{"".join(_cells(row, first["n"]) for row in first["rows"])}</tbody></table></div></details>
<h3 class="rx-how">Made by</h3>
<p class="rx-source"><a class="rx-file" href="{_files()}{first["file"]}">results/{first["file"]}</a>
</p>
<pre class="rx-command" tabindex="0">{escape(chr(10).join(first["command"]))}</pre>
<p class="rx-note">A command that keeps what it computes also needs <code>--work FOLDER</code> and
<code>--out FOLDER/NAME</code>. They name places on a machine and are left out here.</p>
<p><a class="rx-button" href="../_static/{DOWNLOAD}" download>All measures in one table
({len(table):,} rows, CSV)</a></p>
<script type="application/json">{data.replace("<", chr(92) + "u003c")}</script>
</section>"""


def _title(group: dict[str, Any]) -> str:
    measure, network = (_capital(name(kind, group[kind])) for kind in ("measure", "network"))
    fill = "" if group["fill"] == NONE else f"; fill: {name('fill', group['fill'])}"
    return escape(f"{measure}. {network}{fill}; {group['n']} {group['of']}.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _head() -> str:
    columns = ("method", "map", "mean", "95 % interval", "n", "p (Holm)")
    cells = "".join(f'<th scope="col">{column}</th>' for column in columns)
    return f"<thead><tr>{cells}</tr></thead>"


def _cells(row: list[Any], number: int) -> str:
    method, version, mean, low, high, p, *own = row
    cells = [
        name("map", version),
        f"{mean}",
        f"[{low}, {high}]",
        str(own[0] if own else number),
        "" if p is None else f"{p:.3g}",
    ]
    inner = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row">{escape(name("method", method))}</th>{inner}</tr>'


# ------------------------------------------------------------------------------ Sphinx


class ResultsExplorer(SphinxDirective):
    """``{results-explorer}``: choose a network, a fill and a measure, and see the numbers."""

    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """The page as HTML."""
        self.env.note_reread()
        return [nodes.raw("", explorer(), format="html")]


def add_its_files(
    app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    """Style and script for the explorer's page alone, and the long table beside it."""
    raws = document.findall(nodes.raw) if document is not None else ()
    if any("data-results-explorer" in raw.astext() for raw in raws):
        app.add_css_file("results.css")
        app.add_js_file("results.js", loading_method="defer")
        leave_out_formulas(context, document)
        measures.write(Path(app.outdir) / "_static" / DOWNLOAD)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("results-explorer", ResultsExplorer)
    app.connect("html-page-context", add_its_files)
    return {"version": "1", "parallel_read_safe": True}
