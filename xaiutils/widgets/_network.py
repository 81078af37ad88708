"""A small network on its way to the page, where network.js runs it.

What is exported is the traced network (:mod:`xaiutils.graph`): BatchNorm is folded into the
convolution before it, dropout is gone, and whatever the user's module looked like, the layers are
those that the rules of LRP are defined on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.graph import Node, Operation, Shape
from xaiutils.widgets._common import pack

Layer = dict[str, Any]


class NotExportable(ValueError):  # noqa: N818 - reads better where it is caught
    """The network cannot run in the page; the message names the layer that stands in the way."""


def export_network(
    module: nn.Module, input_shape: Sequence[int], *, dtype: str = "float32", fold: bool = True
) -> dict[str, Any]:
    """Describe a network for network.js, weights included.

    A layer of the description holds its ``kind``, its ``name`` in the user's module, the ``shape``
    of its output, and what its kind needs; arrays are packed by `pack`.

    Args:
        module: A network in evaluation mode that is a chain: every layer reads the one before. It
            may be made of convolutions and transposed ones in two dimensions, linear layers,
            BatchNorm, ReLU, ReLU6 and other clamps, leaky ReLU, maximum and average pooling
            (adaptive too, where its windows are of one size), nearest-neighbour upsampling by whole
            factors, flattening and reshaping, and dropout.
        input_shape: The shape of one input without the batch, e.g. ``(1, 28, 28)`` or ``(16,)``.
        dtype: ``"float32"``, or ``"float16"``, which halves the size and keeps three digits of
            each weight.
        fold: Whether a BatchNorm behind a convolution becomes part of it.

    Returns:
        ``{"layers": [...], "input": [...]}``, ready for JSON.

    Raises:
        TypeError: ``module`` is no module.
        ValueError: It is in training mode, does not run on such an input, or holds a weight that is
            not finite or beyond ``dtype``.
        NotExportable: It is no chain, or has a layer that network.js does not know.
    """
    graph.check_model(module)
    parameter = next(module.parameters(), torch.empty(0))
    example = torch.zeros(1, *input_shape, dtype=parameter.dtype, device=parameter.device)
    try:
        traced = graph.trace(module, example, fold=fold)
    except graph.UnsupportedOperation as error:
        raise NotExportable(f"the page cannot run this network: {error}") from error
    layers = [_layer(node, traced.nodes, dtype) for node in traced.nodes[1:]]
    return {"layers": layers, "input": list(input_shape)}


def _layer(node: Node, nodes: Sequence[Node], dtype: str) -> Layer:
    if node.inputs != (node.index - 1,):
        raise NotExportable(
            f"layer {node.name!r} ({node.operation.kind}) reads other layers than the one before "
            "it; the page runs chains only, no additions, concatenations or branches"
        )
    describe = _DESCRIBED.get(type(node.operation))
    described = None if describe is None else describe(node.operation, nodes[node.index - 1].shape)
    if described is None:
        raise NotExportable(
            f"layer {node.name!r} ({node.operation.kind}, output {node.shape}) is of a kind that "
            "the page does not know"
        )
    packed = {
        key: pack(value.detach().cpu(), dtype) if isinstance(value, Tensor) else value
        for key, value in described.items()
    }
    return {**packed, "name": node.name, "shape": list(node.shape)}


# ----------------------------------------------------------------------- one function for a kind
#
# Each is given the operation and the shape that it reads, and returns None for what only looks
# like a kind that network.js knows.


def _convolution(operation: graph.Convolution, source: Shape) -> Layer | None:
    if operation.dimensions != 2:
        return None
    described = _geometry(operation) | {
        "kind": operation.kind,
        "groups": operation.groups,
        "weight": operation.weight.contiguous(),
    }
    return described | _biased(operation.bias)


def _dense(operation: graph.Dense, source: Shape) -> Layer | None:
    if len(source) != 1:
        return None
    return {"kind": "linear", "weight": operation.weight} | _biased(operation.bias)


def _affine(operation: graph.Affine, source: Shape) -> Layer | None:
    per_channel = (source[0], *[1] * (len(source) - 1))
    try:
        weight, bias = (t.expand(per_channel) for t in (operation.scale, operation.offset))
    except RuntimeError:  # another number for each place
        return None
    return {"kind": "affine", "weight": weight.flatten(), "bias": bias.flatten()}


def _max_pool(operation: graph.MaxPool, source: Shape) -> Layer | None:
    if len(operation.kernel) != 2:
        return None
    return _geometry(operation) | {"kind": "max_pool2d", "kernel": list(operation.kernel)}


def _adaptive_max_pool(operation: graph.AdaptiveMaxPool, source: Shape) -> Layer | None:
    kernel = _factor(source[1:], operation.size)
    if kernel is None:
        return None
    return _max_pool(graph.MaxPool(kernel, kernel, (0, 0), (1, 1)), source)


def _average_pool(operation: graph.AveragePool, source: Shape) -> Layer | None:
    uneven = operation.ceil_mode or (any(operation.padding) and not operation.count_include_pad)
    if len(operation.kernel) != 2 or uneven:
        return None
    height, width = operation.kernel
    return {
        "kind": "avg_pool2d",
        "kernel": [height, width],
        "stride": list(operation.stride),
        "padding": list(operation.padding),
        "divisor": operation.divisor or height * width,
    }


def _adaptive_average_pool(operation: graph.AdaptiveAveragePool, source: Shape) -> Layer | None:
    kernel = _factor(source[1:], operation.size)
    if kernel is None:
        return None
    return _average_pool(graph.AveragePool(kernel, kernel, (0, 0)), source)


def _mean(operation: graph.Mean, source: Shape) -> Layer | None:
    if len(source) != 3 or {dim % 4 for dim in operation.dims} != {2, 3}:
        return None
    return _adaptive_average_pool(graph.AdaptiveAveragePool((1, 1)), source)


def _upsample(operation: graph.Upsample, source: Shape) -> Layer | None:
    factor = _factor(operation.size, source[1:])
    rounded = operation.scales is not None and tuple(operation.scales) != factor
    nearest = len(operation.size) == 2 and operation.mode.startswith("nearest")
    if factor is None or rounded or not nearest:
        return None
    return {"kind": "upsample", "factor": list(factor)}


def _clamp(operation: graph.Clamp, source: Shape) -> Layer:
    finite = (bound if abs(bound) < math.inf else None for bound in (operation.low, operation.high))
    return {"kind": "clamp"} | dict(zip(("low", "high"), finite, strict=True))


def _leaky_relu(operation: graph.LeakyReLU, source: Shape) -> Layer:
    return {"kind": "leaky_relu", "slope": operation.negative_slope}


_DESCRIBED: dict[type[Operation], Callable[[Any, Shape], Layer | None]] = {
    graph.Convolution: _convolution,
    graph.Dense: _dense,
    graph.Affine: _affine,
    graph.MaxPool: _max_pool,
    graph.AdaptiveMaxPool: _adaptive_max_pool,
    graph.AveragePool: _average_pool,
    graph.AdaptiveAveragePool: _adaptive_average_pool,
    graph.Mean: _mean,
    graph.Upsample: _upsample,
    graph.ReLU: lambda operation, source: {"kind": "relu"},
    graph.Clamp: _clamp,
    graph.LeakyReLU: _leaky_relu,
    graph.Reshape: lambda operation, source: {"kind": "reshape"},
}


def _geometry(operation: graph.Convolution | graph.MaxPool) -> Layer:
    return {name: list(getattr(operation, name)) for name in ("stride", "padding", "dilation")}


def _biased(bias: Tensor | None) -> Layer:
    return {} if bias is None else {"bias": bias}


def _factor(large: Sequence[int], small: Sequence[int]) -> Shape | None:
    """How many times the one is the other, or None where it is no whole number of times."""
    if len(large) != len(small) or any(a % b for a, b in zip(large, small, strict=True)):
        return None
    return tuple(a // b for a, b in zip(large, small, strict=True))
