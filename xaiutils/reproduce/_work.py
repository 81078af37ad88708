"""A work folder: it belongs to one plan, and its files are there whole or not at all."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from xaiutils.reproduce._provenance import write_json


def keep_plan(work: Path, plan: Mapping[str, Any], **notes: Any) -> None:
    """Write the plan into a new work folder; refuse a folder of another plan.

    Args:
        work: The folder.
        plan: What decides the result.
        **notes: What is written beside the plan and may differ.

    Raises:
        SystemExit: The folder holds parts of another run.
    """
    path, wanted = work / "plan.json", json.loads(json.dumps(plan))
    if not path.exists():
        write_json(path, {**plan, **notes})
        return
    kept = json.loads(path.read_text(encoding="utf-8"))
    if differing := sorted(_differing(wanted, kept)):
        raise SystemExit(
            f"{work} belongs to another run: {'; '.join(differing)}. Give this run a --work "
            "folder of its own."
        )


def _differing(wanted: dict[str, Any], kept: dict[str, Any]) -> Iterator[str]:
    for key, value in wanted.items():
        other = kept.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differing(value, other)
        elif value != other:
            yield f"its {key} is {other}, this one's {value}"


def kept(path: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in a file; if it is not there, they are computed and stored, whole or not."""
    if path.exists():
        return load_file(path)
    found = compute()
    save(path, found)
    return found


def save(path: Path, found: Mapping[str, Tensor], notes: dict[str, str] | None = None) -> None:
    """Write beside the file and rename, so that it is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, part, metadata=notes)
    part.replace(path)
