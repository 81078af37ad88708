"""A Sphinx extension with the two things that the book needs and its toolchain does not do.

1. A figure's alternative text, made by `xaiutils.plot` from what it draws and stored beside the
   picture in the notebook, reaches the page. myst-nb reads a text that is written into the cell's
   metadata by hand, but not the one in the output's. A picture without one is a warning, which
   the build turns into a failure.
2. Where assets/vendor/ could not be filled, the scripts come from their usual addresses.
"""

from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from myst_nb.core.config import ipywidgets_js_factory
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.ext.mathjax import MATHJAX_URL
from sphinx.util import logging
from vendor import is_filled

logger = logging.getLogger(__name__)


def copy_alternative_texts(app: Sphinx, document: nodes.document) -> None:
    """Give each picture that a cell drew the text stored in its output's metadata."""
    source = Path(document["source"])
    if source.suffix != ".ipynb":
        return
    cells = nbformat.read(source, as_version=4).cells
    for node in document.findall(nodes.container):
        if node.get("nb_element") == "cell_code":
            _label_pictures(node, cells[node["cell_index"]].outputs)


def _label_pictures(cell: nodes.container, outputs: list[Any]) -> None:
    shown = [output for output in outputs if "data" in output]
    bundles = [n for n in cell.findall(nodes.container) if n.get("nb_element") == "mime_bundle"]
    for bundle, output in zip(bundles, shown, strict=True):
        for alternative in bundle.children:
            metadata = output.metadata.get(alternative["mime_type"], {})
            for image in alternative.findall(nodes.image):
                image.setdefault("alt", metadata.get("alt", ""))
                if not image["alt"]:
                    logger.warning("a picture without alternative text", location=bundle)


def fall_back_to_cdn(app: Sphinx, config: Config) -> None:
    """Take back the vendored addresses of _config.yml where there is nothing behind them."""
    if not is_filled(Path(app.srcdir)):
        config["mathjax_path"] = MATHJAX_URL
        config["nb_ipywidgets_js"] = ipywidgets_js_factory()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both with Sphinx."""
    app.connect("config-inited", fall_back_to_cdn)
    app.connect("doctree-read", copy_alternative_texts)
    return {"version": "1", "parallel_read_safe": True}
