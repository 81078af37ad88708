"""The record that goes with every result: what was run, on what, with which versions."""

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PACKAGES = ("xaiutils", "torch", "torchvision", "numpy")
_PLACES = ("--checkpoint", "--folder", "--out", "--work")
_NOTHING_NEW = ("--there",)  # options without a value: tables of what was computed before


def provenance(command: str, **facts: Any) -> dict[str, Any]:
    """Facts of a run, with the versions, the date and the command that repeats it.

    Args:
        command: What a reader types to run it again.
        **facts: Whatever else decides the result: seed, data and its hash, weights.
    """
    return {
        "command": command,
        **facts,
        "versions": _versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def computed_with(device: str) -> str:
    """With which versions, and where, a block was computed: what may change its last digits."""
    return ", ".join([*(f"{name} {version}" for name, version in _versions().items()), device])


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **versions}


def command_line(arguments: Sequence[str] | None = None, leave_out: Sequence[str] = ()) -> str:
    """The command as typed, less the options that name places on one machine, and `leave_out`."""
    dropped = (*_PLACES, *leave_out)
    words = iter(sys.argv[1:] if arguments is None else arguments)
    kept = []
    for word in words:
        if word in dropped:
            next(words, None)
        elif not word.startswith((*(f"{place}=" for place in dropped), *_NOTHING_NEW)):
            kept.append(word)
    return " ".join(["python -m xaiutils.reproduce", *kept])


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + f".{os.getpid()}.part")
    part.write_text(content, encoding="utf-8")
    part.replace(path)
