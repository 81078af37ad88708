"""Execute the chapters in place, and know when one must be executed again.

A notebook is committed with its outputs. When it is executed, a fingerprint of all that its
outputs depend on is stored in its metadata: its code, the modules of xaiutils that the code
imports (directly or through others; not what these say in docstrings), the package's data, the
tables in results/ that it names and the pinned versions. A notebook whose fingerprint no longer
fits is stale, and the build executes it again.

Run as ``python book/_tools/chapters.py`` (the stale ones), ``--all``, or with the notebooks' paths.
"""

import argparse
import ast
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "xaiutils"
CELL_TIMEOUT = int(os.environ.get("CELL_TIMEOUT", 120))  # seconds; a busy machine wants more
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
# The same words whichever Python executed the chapter: else every machine would change the file.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}


class OwnKernel(AsyncKernelManager):
    """Starts the kernel of this very Python, not one that the user registered under its name."""

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])  # no folder to search leaves the built-in one


def paths(root: Path = ROOT) -> list[Path]:
    """All chapters, in the book's order."""
    return sorted((root / "notebooks").glob("*.ipynb"))


def is_stale(path: Path, root: Path = ROOT) -> bool:
    """Whether a notebook's outputs may differ from what its code would give now."""
    notebook = nbformat.read(path, as_version=4)
    return bool(
        notebook.metadata.get(PACKAGE, {}).get("fingerprint") != fingerprint(notebook, root)
    )


def fingerprint(notebook: Any, root: Path = ROOT) -> str:
    """A digest of everything that a notebook's outputs depend on."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    inputs = imported_files(TransformerManager().transform_cell(code), root)
    inputs |= {root / "constraints.txt"}
    inputs |= {path for path in _files(root / PACKAGE) if path.suffix != ".py"}
    inputs |= {path for path in _files(root / "results") if _kind_of_run(path) in code}
    digest = hashlib.sha256(code.encode())
    for path in sorted(inputs):
        digest.update(f"\0{path.relative_to(root).as_posix()}\0".encode() + _content(path))
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    """What a file says; of a module, its lines of code without docstrings."""
    if path.suffix != ".py":
        return path.read_bytes()
    text = path.read_text(encoding="utf-8")
    lines: list[str] = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            own = slice(node.lineno - 1, node.end_lineno)
            if not lines[own.start][: node.col_offset].strip():  # nothing else begins there
                lines[own] = [""] * len(lines[own])
    return "\n".join(filter(str.strip, lines)).encode()


def _kind_of_run(path: Path) -> str:
    """Return the word by which code names a table's run: ``samek`` of ``samek-mnist_cnn-areas``."""
    return path.stem.removeprefix("benchmark-").split("-")[0]


def imported_files(code: str, root: Path = ROOT) -> set[Path]:
    """The package's modules that some code imports, and those that they import in turn."""
    found: set[Path] = set()
    waiting = [(code, "")]
    while waiting:
        for name in _imported_names(*waiting.pop()):
            for path in set(_module_files(name, root)) - found:
                found.add(path)
                package = ".".join(path.parent.relative_to(root).parts)
                waiting.append((path.read_text(), package))
    return found


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Execute a notebook in memory, as if it lay in a folder.

    Raises:
        CellExecutionError: A cell raises.
        CellTimeoutError: A cell takes longer than `CELL_TIMEOUT`.
    """
    NotebookClient(
        notebook,
        kernel_name="python3",
        kernel_manager_class=OwnKernel,
        extra_arguments=["--IPKernelApp.log_level=40"],  # errors only
        timeout=CELL_TIMEOUT,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    ).execute()


def execute(path: Path, root: Path = ROOT) -> None:
    """Run a notebook from top to bottom and write it back; untouched if a cell raises.

    Raises:
        CellExecutionError: A cell raised.
        CellTimeoutError: A cell took longer than `CELL_TIMEOUT`.
    """
    notebook = nbformat.read(path, as_version=4)
    before = fingerprint(notebook, root)
    run(notebook, path.parent)
    notebook.metadata.update(METADATA, **{PACKAGE: {"fingerprint": before}})
    half_written = path.with_suffix(".tmp")
    half_written.write_text(_without_traces(notebook, root), encoding="utf-8")
    half_written.replace(path)


def refresh(chosen: list[Path], root: Path = ROOT) -> bool:
    """Execute notebooks one after the other, saying so; False if a cell of one failed."""
    succeeded = True
    for path in chosen:
        print(f"Executing {path.relative_to(root)} ... ", end="", flush=True)
        start = time.monotonic()
        try:
            execute(path, root)
        except (CellExecutionError, CellTimeoutError) as error:
            print(f"failed\n{error}", flush=True)
            succeeded = False
        else:
            print(f"{time.monotonic() - start:.0f} s", flush=True)
    return succeeded


def _imported_names(code: str, package: str) -> Iterator[str]:
    """Every absolute name that an import statement may load; `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _module_files(name: str, root: Path) -> Iterator[Path]:
    """The files of the package that importing a dotted name runs: its parents' and its own."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return
    for end in range(1, len(parts) + 1):
        module = root.joinpath(*parts[:end])
        yield from filter(Path.is_file, (module / "__init__.py", module.with_suffix(".py")))


def _files(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _without_traces(notebook: Any, root: Path) -> str:
    """The notebook's text without what differs by machine or by run."""
    text: str = nbformat.writes(notebook)
    for folder in (root, Path(sys.prefix), Path.home()):
        text = text.replace(f"{folder}{os.sep}", "")
    text = re.sub(r" at 0x[0-9a-f]{6,}", "", text)
    widgets = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {})
    for number, name in enumerate(widgets.get("state", {})):
        text = text.replace(name, f"{number:032x}")
    return str(nbformat.writes(nbformat.reads(text, as_version=4))) + "\n"  # sorts the new names


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="also those that are not stale")
    parser.add_argument("notebooks", nargs="*", type=Path, help="only these (absent: all stale)")
    options = parser.parse_args()
    chosen = [path.resolve() for path in options.notebooks]
    chosen = chosen or [path for path in paths() if options.all or is_stale(path)]
    return 0 if refresh(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
