"""Layers with weights, and normalisation."""

from __future__ import annotations

from typing import Any

import torch

from xaiutils.graph import nonlinear
from xaiutils.graph import operations as ops
from xaiutils.graph.calls import (
    Parameter,
)
from xaiutils.graph.collecting import Asked, name_of
from xaiutils.graph.handlers._repeating import (
    Handler,
    repeat,
)
from xaiutils.graph.operations import Shape


def convolution(dimensions: int, transposed: bool = False) -> Handler:
    def handle(asked: Asked) -> Any:
        if asked.is_signal("weight"):
            return repeat(asked)
        x = asked.value("input")
        weight, bias = asked.parameter("weight"), asked.parameter("bias")
        stride, dilation = asked.ints("stride", dimensions), asked.ints("dilation", dimensions)
        padding = asked.raw("padding")
        if isinstance(padding, str):
            kernel = asked.raw("weight").meta["val"].shape[2:]
            x, pads = _same_padding(asked, x, padding, kernel, dilation)
        else:
            pads = asked.ints("padding", dimensions)
        more = asked.ints("output_padding", dimensions) if transposed else (0,) * dimensions
        operation = ops.Convolution(
            weight, bias, stride, pads, dilation, asked["groups"], transposed, more
        )
        return asked.add(operation, x)

    return handle


def _same_padding(
    asked: Asked, x: int, mode: str, kernel: Shape, dilation: Shape
) -> tuple[int, Shape]:
    """Return the input and the padding for "valid" or "same", padding first where it is uneven."""
    if mode == "valid":
        return x, (0,) * len(kernel)
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return x, tuple(total // 2 for total in totals)
    widths = [w for total in reversed(totals) for w in (total // 2, total - total // 2)]
    shape = asked.tracer.templates[x].shape
    padded = (shape[0], *(size + total for size, total in zip(shape[1:], totals, strict=True)))
    pad = ops.Pad(tuple(widths))
    return asked.tracer.append(asked.node, pad, (x,), padded), (0,) * len(kernel)


def dense(asked: Asked) -> Any:
    last = asked.is_signal("input") and asked.layout("input").dim == asked.rank("input") - 1
    if last or asked.is_signal("weight") or not asked.is_signal("input"):
        return repeat(asked)
    dense = ops.Dense(asked.parameter("weight"), asked.parameter("bias"))
    return asked.add(dense, asked.value("input"))


def batch_norm(asked: Asked) -> int:
    if asked.raw("training"):
        raise asked.unsupported("it uses the statistics of the batch (track_running_stats=False?)")
    if asked.layout("input").dim != 0:
        raise asked.unsupported("it moves or mixes the images of a batch")
    norm = ops.BatchNorm(
        asked.parameter("weight"),
        asked.parameter("bias"),
        asked.parameter("running_mean"),
        asked.parameter("running_var"),
        asked["eps"],
        asked.rank("input") - 2,
    )
    asked.implied("momentum", "cudnn_enabled")
    return asked.add(norm, asked.value("input"))


def native_batch_norm(asked: Asked) -> tuple[int, None, None]:
    return batch_norm(asked), None, None


# ----------------------------------------------------------------------------------- normalisation


def layer_norm(asked: Asked) -> Any:
    x, dims = asked.value("input"), len(asked.raw("normalized_shape"))
    if asked.layout("input").dim >= asked.rank("input") - dims:
        raise asked.unsupported("it moves or mixes the images of a batch")
    asked.implied("cudnn_enable")
    centred, eps = name_of(asked.node) != "rms_norm", asked["eps"]
    eps = torch.finfo(asked.tracer.x.dtype).eps if eps is None else eps
    found = asked.add(nonlinear.Normalisation(dims, eps, None, centred), x)
    return _scaled(asked, found, 0)


def group_norm(asked: Asked) -> int:
    groups = asked.raw("num_groups") or asked.raw("group")
    asked.implied("cudnn_enabled", "N", "C", "HxW")
    rank = asked.rank("input")
    norm = nonlinear.Normalisation(rank - 1, asked["eps"], groups)
    return _scaled(asked, asked.add(norm, asked.value("input")), rank - 2)


def instance_norm(asked: Asked) -> int:
    if not asked.raw("use_input_stats"):
        raise asked.unsupported("it uses running statistics; write it as a BatchNorm")
    asked.implied("momentum", "cudnn_enabled", "running_mean", "running_var")
    rank = asked.rank("input")
    norm = nonlinear.Normalisation(rank - 2, asked["eps"])
    return _scaled(asked, asked.add(norm, asked.value("input")), rank - 2)


def _scaled(asked: Asked, x: int, after: int) -> int:
    """Add the weight and the bias of a normalisation, for channels that ``after`` dims follow."""
    weight, bias = asked.parameter("weight"), asked.parameter("bias")
    if weight is None and bias is None:
        return x

    def spread(name: str, value: Parameter | None) -> Any:
        if value is None or after == 0:
            return value
        return asked.derived(name, torch.Tensor.reshape, value, (-1, *[1] * after))

    one, zero = asked.tracer.constant(1.0), asked.tracer.constant(0.0)
    scale, offset = spread("weight", weight), spread("bias", bias)
    affine = ops.Affine(one if scale is None else scale, zero if offset is None else offset)
    return asked.add(affine, x)
