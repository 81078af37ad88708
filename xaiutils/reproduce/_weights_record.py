"""What every training command shares: which data it may use, and how weights are stored."""

import hashlib
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from xaiutils import data
from xaiutils.reproduce._provenance import command_line, provenance, write_json


def refuse_embedded(*splits: data.ImageSet) -> None:
    """The embedded digits all come from the training set: no error could be told from them."""
    for split in splits:
        if split.source.kind == "embedded":
            raise SystemExit(
                f"{split.name} could only be had as the embedded part ({split.source.note}). "
                "Let XAIUTILS_DATA name a folder with MNIST/raw, or connect to the network."
            )


def describe(images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Which images these were: their number and a hash of their pixels and labels."""
    content = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes())
    return {"images": len(images), "sha256": content.hexdigest()}


def store(
    module: nn.Module, path: Path, facts: dict[str, Any], notes: dict[str, str] | None = None
) -> None:
    """Write the weights, whole or not at all, and the record of how they came about.

    Args:
        module: The network.
        path: The file of the weights; the record lies beside it.
        facts: The record.
        notes: What is stored in the file of the weights itself.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}
    part = path.with_name(path.name + ".part")
    save_file(state, part, metadata=notes)
    part.replace(path)
    write_json(path.with_suffix(".json"), provenance(command_line(), **facts))
