"""pip for another machine: a dependency's conditions are read for the machine that it is for.

``pip download --platform`` picks the wheels of another system, yet reads conditions such as
``sys_platform == "win32"`` for the machine that it runs on: it then looks for wheels that the other
system has no use for, or leaves out those that only it needs (pip's issues 4304 and 13262).

Run as ``python pip_elsewhere.py '{"sys_platform": "win32"}' download ...``.
"""

import json
import sys

from pip._internal.cli.main import main
from pip._vendor.packaging import markers


def pretend(names: dict[str, str]) -> None:
    """Let pip read conditions with these names of the other machine, and its own for the rest.

    Raises:
        AttributeError: This pip reads them elsewhere; then only such a machine can fetch for one.
    """
    own = markers.default_environment()
    markers.default_environment = lambda: {**own, **names}


if __name__ == "__main__":
    pretend(json.loads(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
