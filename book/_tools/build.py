"""Build the book: fresh outputs, vendored scripts, and no warning let through.

Always from nothing: an incremental build forgets the warnings of unchanged pages, so a second try
would pass where the first one failed, and it keeps old copies of changed static files.

Run as ``python book/_tools/build.py``.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import chapters
import vendor
from photograph import scripts

ROOT = Path(__file__).resolve().parents[2]
HTML = Path("_build/html")
STAMP = HTML / ".inputs"
INPUTS = ("book", "notebooks", "assets", "results", "xaiutils", "_config.yml", "_toc.yml")


def build(root: Path = ROOT) -> bool:
    """Build into _build/html; False, with the reasons printed, if anything is broken."""
    stale = [path for path in chapters.paths(root) if chapters.is_stale(path, root)]
    if not chapters.refresh(stale, root):
        return False
    vendored = vendor.fill(root)
    if not vendored:
        print("Building with the CDN defaults: formulas and widgets will need the network.")
    scripts.fill(root)  # behind the other vendored scripts, which begin with an empty folder
    inputs = inputs_digest(root)  # before the build: a file changed meanwhile makes it stale
    for folder in (HTML, "_build/.doctrees"):
        shutil.rmtree(root / folder, ignore_errors=True)
    jupyter_book = str(Path(sys.executable).with_name("jupyter-book"))
    command = [jupyter_book, "build", ".", "-W", "-n", "--keep-going"]
    if subprocess.run(command, cwd=root).returncode:
        return False
    (root / STAMP).write_text(inputs)
    return True


def is_current(root: Path = ROOT) -> bool:
    """Whether _build/html is a whole book, made from the files as they are now."""
    stamp = root / STAMP
    return stamp.is_file() and stamp.read_text() == inputs_digest(root)


def inputs_digest(root: Path = ROOT) -> str:
    """A digest of every file that the book is built from."""
    digest = hashlib.sha256()
    for name in INPUTS:
        path = root / name
        for file in sorted([path] if path.is_file() else path.rglob("*")):
            if file.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(file.parts):
                digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(0 if build() else 1)
