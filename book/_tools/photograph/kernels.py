"""Compile kernels.c to WebAssembly, and keep it as assets/photograph/kernels.js.

Run in an environment that also has the package ziglang, a C compiler (``pip install ziglang``)::

    PYTHONPATH=book/_tools python -m photograph.kernels

What is compiled is committed, so that nobody needs the compiler to build the book. A digest of
kernels.c goes with it, and a test compares the two; where there is the same compiler, the test
compiles again.
"""

import base64
import hashlib
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from xaiutils.reproduce._provenance import write_text

SOURCE = Path(__file__).with_name("kernels.c")
SCRIPT = Path(__file__).resolve().parents[3] / "assets/photograph/kernels.js"
OPTIONS = (
    *("-target", "wasm32-freestanding", "-msimd128", "-mbulk-memory", "-O3", "-nostdlib"),
    *("-s", "-Wall", "-Wextra", "-Werror", "-Wl,--no-entry", "-Wl,--export=__heap_base"),
)
WIDTH = 96  # characters of a line
HEAD = """\
// Made by book/_tools/photograph/kernels.py from kernels.c, and not to be changed by hand.

const LITE_KERNELS = {{
  digest: "{digest}",
  compiler: "{compiler}",
  wasm: [
{lines}
  ].join(""),
}};
"""


def digest() -> str:
    """A digest of kernels.c."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def compiler() -> str:
    """Name the compiler at hand and its version.

    Raises:
        PackageNotFoundError: There is none.
    """
    return f"ziglang {version('ziglang')}"


def compiled() -> bytes:
    """Return kernels.c as WebAssembly.

    Raises:
        CalledProcessError: There is no compiler, or it complains.
    """
    with tempfile.TemporaryDirectory() as folder:
        wasm = Path(folder) / "kernels.wasm"
        command = [sys.executable, "-m", "ziglang", "cc", *OPTIONS, "-o", wasm, SOURCE]
        subprocess.run(command, check=True)
        return wasm.read_bytes()


def script(wasm: bytes) -> str:
    """Return the script that holds some WebAssembly in base64."""
    text = base64.b64encode(wasm).decode("ascii")
    lines = (f'    "{text[i : i + WIDTH - 7]}",' for i in range(0, len(text), WIDTH - 7))
    return HEAD.format(digest=digest(), compiler=compiler(), lines="\n".join(lines))


if __name__ == "__main__":
    write_text(SCRIPT, script(compiled()))
