"""What the long runs share: a work folder of one plan, whose parts are computed once each."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file, save_file
from torch import Tensor

from xaiutils.reproduce._provenance import write_json


def keep_plan(work: Path, plan: dict[str, Any]) -> None:
    """Write the plan into a new work folder; refuse a folder of another plan.

    Raises:
        SystemExit: The folder holds parts of another run.
    """
    path, wanted = work / "plan.json", json.loads(json.dumps(plan))
    if not path.exists():
        write_json(path, plan)
        return
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept != wanted:
        differing = sorted(key for key in kept | wanted if kept.get(key) != wanted.get(key))
        raise SystemExit(
            f"{work} belongs to another run: {', '.join(differing)} differ. Give this run a --work "
            "folder of its own."
        )


def kept(path: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in a file; if it is not there, they are computed and stored, whole or not."""
    if path.exists():
        return load_file(path)
    found = {name: tensor.contiguous() for name, tensor in compute().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    save_file(found, part)
    part.replace(path)
    return found


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a table whole or not at all; six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    pd.DataFrame(rows).to_csv(part, index=False, float_format="%.6g")
    part.replace(path)
    return path
