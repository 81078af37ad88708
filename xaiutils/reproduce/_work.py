"""What the long runs share: a work folder of one plan, whose parts are computed once each."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

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


def by_blocks(
    work: Path, numbers: range, size: int, compute: Callable[[range], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What is computed for every block of `size` images, put together; names in their order.

    Blocks that lie in the work folder are read.
    """
    parts = []
    for first in tqdm(range(0, len(numbers), size), unit="blocks"):
        block = numbers[first : first + size]
        parts.append(kept(block_path(work, block), partial(compute, block)))
    return {name: torch.cat([part[name] for part in parts]) for name in sorted(parts[0])}


def there(work: Path, numbers: range, size: int) -> tuple[dict[str, Tensor], list[int]]:
    """The blocks that a run has stored so far, put together, and the numbers of their images.

    Raises:
        SystemExit: There is none.
    """
    blocks = [numbers[first : first + size] for first in range(0, len(numbers), size)]
    stored = [block for block in blocks if block_path(work, block).exists()]
    if not stored:
        raise SystemExit(f"--there: no block is in {work} yet; run without it first.")
    parts = [load_file(block_path(work, block)) for block in stored]
    found = {name: torch.cat([part[name] for part in parts]) for name in sorted(parts[0])}
    return found, [number for block in stored for number in block]


def block_path(work: Path, block: range) -> Path:
    """Where the results of these images are stored."""
    return work / f"images-{block.start:06}.safetensors"


def save(path: Path, found: Mapping[str, Tensor], notes: dict[str, str] | None = None) -> None:
    """Write beside the file and rename, so that it is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, part, metadata=notes)
    part.replace(path)
