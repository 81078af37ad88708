"""Several inputs as one: flattened and joined, so that a graph has a single input nevertheless."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Tensor | Sequence[Tensor]


def pack(inputs: Sequence[Tensor]) -> Tensor:
    """Return several inputs, each (N, ...), as one tensor (N, total), for a graph of all of them.

    Raises:
        ValueError: If there are none, or if they have not the same number of rows and one type.
    """
    if not inputs or len({(len(each), each.dtype, each.device) for each in inputs}) != 1:
        found = ", ".join(f"{tuple(each.shape)} {each.dtype}" for each in inputs) or "none"
        raise ValueError(
            "several inputs must all have N rows, of one floating type and on one device; found "
            f"{found}"
        )
    return torch.cat([each.flatten(1) for each in inputs], 1)


def unpack(packed: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Return the inputs, or what belongs to each of them, out of what :func:`pack` joined.

    Args:
        packed: (N, total): what was packed, or what a graph sends back to it, a heatmap say.
        shapes: The shape of each input without its batch: ``[x.shape[1:] for x in inputs]``.

    Raises:
        ValueError: If the sizes do not add up to the columns of ``packed``.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if packed.ndim != 2 or packed.shape[1] != sum(sizes):
        raise ValueError(
            f"packed must be of shape (N, {sum(sizes)}) for inputs of these shapes, not "
            f"{tuple(packed.shape)}"
        )
    parts = torch.split(packed, sizes, 1)
    return tuple(part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True))


def take_packed(copy: nn.Module, shapes: Sequence[Sequence[int]]) -> None:
    """Let a copied module be called with its inputs as one tensor, before its hooks see them."""

    def split(module: nn.Module, packed: tuple[Tensor]) -> tuple[Tensor, ...]:
        return unpack(packed[0], shapes)

    copy.register_forward_pre_hook(split, prepend=True)
    if not takes_any_number(copy):
        forward = copy.forward
        copy.forward = lambda *inputs: forward(*inputs)


def takes_any_number(module: Any) -> bool:
    """Whether ``forward`` gathers its inputs with a star."""
    parameter = next(iter(inspect.signature(module.forward).parameters.values()), None)
    return parameter is not None and parameter.kind is parameter.VAR_POSITIONAL
