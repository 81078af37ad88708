"""Open the notebooks in the browser: run it by a double click, or as ``python start.py``.

install.py must have been run before. Leave the window open while you work; Ctrl+C in it ends all.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(folder: Path = HERE) -> int:
    """Start JupyterLab; its exit status."""
    python = folder / "environment" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file():
        print("Nothing is installed here yet: run install.py first.", file=sys.stderr)
        return 1
    variables = {**os.environ, "XAIUTILS_OFFLINE": "1"}  # all that the notebooks need is here
    command = [python, "-m", "jupyterlab", *sys.argv[1:]]
    try:
        return subprocess.run(command, cwd=folder / "notebooks", env=variables).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
