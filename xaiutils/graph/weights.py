"""Whether the weights of a network are still those that a graph was bound to."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from xaiutils.graph.fingerprint import Identity
from xaiutils.graph.running import undisturbed, version

_COLUMNS = 16381  # prime, so that filters of a usual size, exchanged, come to stand elsewhere
_SMALL = 32768  # tensors up to this size are joined before they are summed
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}


def tensors_of(model: nn.Module, constants: Iterable[Tensor] = ()) -> list[Tensor]:
    """Return the parameters and buffers of a network, and what else a graph of it holds."""
    found: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            found.update({id(t): t for t in tensors.values() if t is not None})
    found.update({id(tensor): tensor for tensor in constants})
    return list(found.values())


@undisturbed
def state_of(tensors: Sequence[Tensor]) -> Hashable:
    """Return what is the same only as long as all numbers in some tensors are.

    PyTorch counts changes of a tensor, except those through ``tensor.data``. These are seen by a
    sum over the bits of all numbers, whose weights differ from place to place. It is exact for
    integers, so that no change of a single number is lost in rounding, and it sees numbers that
    change places. Memory is read once and nothing is copied but small tensors.
    """
    outside = tuple(
        (Identity(t), t.data_ptr(), version(t), t.dtype, t.device, t.shape, t.stride())
        if _plain(t)
        else (Identity(t), version(t))
        for t in tensors
    )
    return outside, _checksums([t for t in tensors if _plain(t)])


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie in memory."""
    return tensor.layout == torch.strided and tensor.device.type != "meta"


def _checksums(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Return one number for each large tensor, and one for all small ones of a type and device."""
    small: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    sums: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel() > _SMALL:
            sums.setdefault(tensor.device, []).append(_column_sums(_bits(_flat(tensor))))
        else:
            small.setdefault((tensor.dtype, tensor.device), []).append(_flat(tensor))
    for (_, device), several in small.items():
        sums.setdefault(device, []).append(_column_sums(_bits(torch.cat(several))))
    return tuple(number for each in sums.values() for number in _weighted(torch.stack(each)))


def _flat(tensor: Tensor) -> Tensor:
    """Return all numbers of a tensor in the order of memory, as a view unless there are gaps."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    strides: tuple[int, ...] = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda d: (-strides[d], -tensor.shape[d]))
    return tensor.permute(order).reshape(-1)


def _bits(flat: Tensor) -> Tensor:
    """Return numbers as integers, of eight bytes where they can be read so."""
    flat = torch.view_as_real(flat.resolve_conj()).view(-1) if flat.is_complex() else flat
    size = flat.element_size()
    if size < 8 and (flat.storage_offset() * size % 8 or len(flat) * size % 8):
        return flat.view(_INTEGERS[size])
    return flat.view(torch.int64)


def _column_sums(bits: Tensor) -> Tensor:
    """Return the sums of integers written in rows of ``_COLUMNS``: exact, as they may overflow."""
    rows = len(bits) // _COLUMNS
    whole = rows * _COLUMNS
    sums = bits[:whole].view(rows, _COLUMNS).sum(0, dtype=torch.int64)
    if whole < len(bits):
        sums[: len(bits) - whole] += bits[whole:]
    return sums


def _weighted(sums: Tensor) -> list[int]:
    numbers: list[int] = (sums * _factors(sums.device)).sum(1).tolist()
    return numbers


@cache
def _factors(device: torch.device) -> Tensor:
    """Return odd numbers, one for each column; products overflow, as they may."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (_COLUMNS,), generator=generator) * 2 + 1
    return factors.to(device)
