"""What all attribution methods share: targets, start signals, and batches cut into chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from xaiutils import graph

Norm = Literal["l2", "linf"]
_ORDERS = {"l2": 2.0, "linf": float("inf")}

Target = int | Sequence[int] | Sequence[Sequence[int]] | Tensor | None


def check_norm(norm: str | None) -> None:
    """Raise ValueError unless a norm over the colours is known."""
    if norm is not None and norm not in _ORDERS:
        raise ValueError(f"norm must be 'l2' or 'linf', not {norm!r}")


def pool_colours(heatmap: Tensor, norm: Norm) -> Tensor:
    """Return the norm over the colours, (N, 1, ...), as in Samek et al. 2017, eq. 3."""
    pooled = torch.linalg.vector_norm(heatmap, _ORDERS[norm], dim=1, keepdim=True)
    return cast(Tensor, pooled)


def resolve_target(target: Target, output: Tensor) -> Tensor:
    """Return one position in the flattened output for each image.

    Args:
        target: None for the largest output of each image; an int for all images; a sequence or
            tensor with one int for each image; for outputs of more than one dimension, a tuple of
            positions (for all) or a sequence of tuples.
        output: The network's outputs (N, ...).

    Returns:
        (N,) int64.

    Raises:
        ValueError: If a target is out of range or the number of targets is not N.
        TypeError: If a target is not an integer.
    """
    batch, shape = output.shape[0], output.shape[1:]
    if target is None:
        return output.flatten(1).argmax(1)
    targets = torch.as_tensor(target, device=output.device)
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"target must be integers, not {targets.dtype}")
    targets = targets.long()
    if len(shape) > 1:
        return _flat_positions(targets, batch, shape)
    if targets.ndim == 0:
        targets = targets.expand(batch)
    if targets.shape != (batch,):
        raise ValueError(f"target must be one int or {batch}, not of shape {tuple(targets.shape)}")
    _check_range(targets, shape[0])
    return targets


def _flat_positions(targets: Tensor, batch: int, shape: Sequence[int]) -> Tensor:
    if targets.ndim == 1:
        targets = targets.expand(batch, -1)
    if targets.shape != (batch, len(shape)):
        raise ValueError(
            f"for outputs of shape (N, {', '.join(map(str, shape))}) target must be a tuple of "
            f"{len(shape)} ints, or {batch} of them, not of shape {tuple(targets.shape)}"
        )
    flat = torch.zeros(batch, dtype=torch.long, device=targets.device)
    for column, size in enumerate(shape):
        _check_range(targets[:, column], size)
        flat = flat * size + targets[:, column]
    return flat


def _check_range(targets: Tensor, size: int) -> None:
    if bool(((targets < 0) | (targets >= size)).any()):
        raise ValueError(f"target must be from 0 to {size - 1}, not {targets.tolist()}")


def one_hot(positions: Tensor, output: Tensor) -> Tensor:
    """Return 1 at each image's target and 0 elsewhere, of the shape of the output."""
    flat = torch.zeros_like(output.flatten(1))
    return flat.scatter_(1, positions[:, None], 1.0).view_as(output)


def start_signal(target: Target, output: Tensor) -> Tensor:
    """Return 1 at the target of each image and 0 elsewhere.

    Raises:
        ValueError: If the network's output is not finite.
    """
    if not bool(torch.isfinite(output).all()):
        raise ValueError("the network's output is not finite: it overflows on this input")
    return one_hot(resolve_target(target, output), output)


def check_target(target: Target, traced: graph.Graph, x: Tensor) -> None:
    """Raise what :func:`resolve_target` raises, before any forward pass."""
    if target is not None:
        resolve_target(target, x.new_empty(1).expand(x.shape[0], *traced.output_shape))


def chunk_target(target: Target, chunk: slice, batch: int) -> Target:
    """Return the part of ``target`` that belongs to a chunk of the batch."""
    if target is None or isinstance(target, int):
        return target
    targets = torch.as_tensor(target)
    return targets[chunk] if targets.ndim and targets.shape[0] == batch else targets


def in_chunks(
    function: Callable[[Tensor, Target], Tensor],
    x: Tensor,
    target: Target,
    internal_batch_size: int | None,
) -> Tensor:
    """Call ``function(x, target)`` on a few images at a time and concatenate what it returns.

    Args:
        function: What to call.
        x: The images (N, ...).
        target: As in :func:`resolve_target`.
        internal_batch_size: The largest number of images at a time; None for all.

    Raises:
        ValueError: If ``internal_batch_size`` is not positive.
    """
    if internal_batch_size is not None and internal_batch_size < 1:
        raise ValueError(f"internal_batch_size must be at least 1, not {internal_batch_size}")
    batch = x.shape[0]
    size = internal_batch_size or batch
    if size >= batch:
        return function(x, target)
    chunks = [slice(start, start + size) for start in range(0, batch, size)]
    return torch.cat([function(x[c], chunk_target(target, c, batch)) for c in chunks])


def prepare(model: nn.Module, x: Tensor, target: Target, fold: bool = True) -> graph.Graph:
    """Trace the network and check every argument, before any work is done."""
    traced = graph.trace(model, x, fold=fold)
    check_target(target, traced, x)
    return traced


def signal_to_input(
    traced: graph.Graph, x: Tensor, target: Target, gate: graph.GateRule = graph.gated
) -> Tensor:
    """Send 1 from the target output back to the input through the given gates."""
    record = traced.record(x, keep="gates")
    return traced.backward(record, start_signal(target, record.output), gate)
