"""Activations, pooling, and other sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from xaiutils.graph import nonlinear
from xaiutils.graph import operations as ops
from xaiutils.graph.calls import (
    Weight,
)
from xaiutils.graph.collecting import Asked, Bordered, name_of
from xaiutils.graph.handlers._repeating import (
    FIRST,
    Handler,
    call_of,
    pair_of,
    repeat,
    repeat_gate,
)
from xaiutils.graph.operations import Operation

_aten = torch.ops.aten


def gate(make: Callable[[Asked], Operation]) -> Handler:
    def handle(asked: Asked) -> int:
        return asked.add(make(asked), asked.value("self" if "self" in asked.arguments else "input"))

    return handle


def leaky(asked: Asked) -> Any:
    slope = asked["negative_slope"]
    if slope < 0:  # it folds the line
        return repeat_gate(asked)
    return asked.add(ops.LeakyReLU(float(slope)), asked.value("self"))


def clamp(asked: Asked) -> Any:
    bounds = [asked.raw(name) for name in ("min", "max")]
    if any(isinstance(bound, fx.Node) for bound in bounds):
        return repeat(asked)
    low, high = bounds
    clamp = ops.Clamp(-math.inf if low is None else low, math.inf if high is None else high)
    return asked.add(clamp, asked.value("self"))


def glu(asked: Asked) -> int:
    """Translate a gated linear unit: one half of the channels times the sigmoid of the other."""
    x, dim = asked.value("self"), asked["dim"] % asked.rank()
    if dim == 0:
        raise asked.unsupported("it moves or mixes the images of a batch")
    shape, tracer = asked.shape(), asked.tracer
    half = shape[dim - 1]
    whole = (tracer.templates[x].shape,)

    def part(first: int) -> int:
        call = call_of(_aten.slice.Tensor, dim, first, first + half)
        return tracer.append(asked.node, ops.LinearCall(call, whole, True), (x,), shape)

    gate = nonlinear.SmoothGate(call_of(_aten.sigmoid.default))
    weighing = tracer.append(asked.node, gate, (part(half),), shape)
    return asked.add(nonlinear.Product(pair_of(_aten.mul.Tensor), 0), part(0), weighing)


def max_pool(dimensions: int) -> Handler:
    def handle(asked: Asked) -> int:
        kernel = asked.ints("kernel_size", dimensions)
        source = asked["self"]
        border = source.widths if isinstance(source, Bordered) else ()
        pool = ops.MaxPool(
            kernel,
            asked.ints("stride", dimensions) or kernel,
            asked.ints("padding", dimensions),
            asked.ints("dilation", dimensions),
            asked["ceil_mode"],
            (*border, *[0] * (2 * dimensions - len(border))) if border else (),
        )
        return asked.add(pool, source.source if border else asked.value("self"))

    return handle


def max_pool_with_indices(dimensions: int) -> Handler:
    pool = max_pool(dimensions)
    return lambda asked: (pool(asked), None)


def adaptive_max_pool(dimensions: int) -> Handler:
    def handle(asked: Asked) -> tuple[int, None]:
        pool = ops.AdaptiveMaxPool(asked.ints("output_size", dimensions))
        return asked.add(pool, asked.value("self")), None  # (maxima, indices)

    return handle


def average_pool(dimensions: int) -> Handler:
    def handle(asked: Asked) -> int:
        kernel = asked.ints("kernel_size", dimensions)
        pool = ops.AveragePool(
            kernel,
            asked.ints("stride", dimensions) or kernel,
            asked.ints("padding", dimensions),
            asked["ceil_mode"],
            asked["count_include_pad"],
            asked.raw("divisor_override"),
        )
        return asked.add(pool, asked.value("self"))

    return handle


def adaptive_average_pool(dimensions: int) -> Handler:
    def handle(asked: Asked) -> int:
        pool = ops.AdaptiveAveragePool(asked.ints("output_size", dimensions))
        return asked.add(pool, asked.value("self"))

    return handle


def mean(asked: Asked) -> int:
    x = asked.value("self")
    rank = len(asked.tracer.templates[x].shape) + 1
    dims = asked.raw("dim")
    if not dims or any(dim % rank == 0 for dim in dims):
        raise asked.unsupported("it averages over the images of a batch")
    return asked.add(ops.Mean(tuple(dim % rank for dim in dims), asked["keepdim"]), x)


def upsample(mode: str) -> Handler:
    def handle(asked: Asked) -> int:
        scales, size = asked.raw("scale_factors"), asked.raw("output_size")
        upsample = ops.Upsample(
            asked.shape()[1:],
            mode,
            asked.raw("align_corners"),
            None if size is not None or not scales else tuple(scales),
        )
        return asked.add(upsample, asked.value("input"))

    return handle


def cubic(asked: Asked) -> int:
    """Translate bicubic upsampling: a fixed matrix along the rows, another along the columns."""
    asked.implied()
    x = asked.value("self" if "self" in asked.arguments else "input")
    shape, (channels, *sides) = asked.shape(), asked.tracer.templates[x].shape
    changed = list(sides)
    for side in (0, 1):
        matrix = _cubic_matrix(asked, sides[side], shape[1 + side], side)
        before = (channels, *changed)
        changed[side] = shape[1 + side]
        order = (Weight(matrix), FIRST) if side == 0 else (FIRST, Weight(matrix.T))
        product = ops.LinearCall(call_of(_aten.matmul.default, *order, alone=True), (before,))
        x = asked.tracer.append(asked.node, product, (x,), (channels, *changed))
    return x


def _cubic_matrix(asked: Asked, length: int, new: int, side: int) -> torch.Tensor:
    """Return the weights of bicubic upsampling along one side, (new, length)."""
    unit = torch.eye(length, dtype=asked.tracer.x.dtype, device=asked.tracer.x.device)
    # A width of 1 would do, but for a mistake of PyTorch's in such images with antialiasing.
    image = unit[:, None, :, None].repeat(1, 1, 1, 4)
    scales = asked.arguments.get("scale_factors")
    size = (new, 4)
    if scales and asked.arguments.get("output_size") is None:
        found = torch.ops.aten.upsample_bicubic2d(
            image, size, asked.arguments["align_corners"], scales[side], 1.0
        )
    else:
        name = name_of(asked.node)
        found = getattr(_aten, name)(image, size, asked.arguments["align_corners"])
    matrix: torch.Tensor = found[:, 0, :, 0].T.contiguous()
    return matrix
