"""The record that goes with every result: what was run, on what, with which versions."""

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

_PACKAGES = ("xaiutils", "torch", "torchvision", "numpy")


def provenance(command: str, **facts: Any) -> dict[str, Any]:
    """Facts of a run, with the versions, the date and the command that repeats it.

    Args:
        command: What a reader types to run it again.
        **facts: Whatever else decides the result: seed, data and its hash, weights.
    """
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "command": command,
        **facts,
        "versions": {"python": platform.python_version(), **versions},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def command_line(arguments: list[str] | None = None) -> str:
    """The command as typed, with the module's name in place of this machine's path to it."""
    return " ".join(["python -m xaiutils.reproduce", *(arguments or sys.argv[1:])])


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + f".{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
