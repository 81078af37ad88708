"""Networks without the outputs that nobody asks for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from xaiutils import graph


def only_classes(network: graph.Graph, classes: Tensor) -> graph.Graph | None:
    """The network without the outputs that nobody asks for, or None where that is not simple.

    The last layer with weights loses the rows of the other classes; what follows it must treat each
    channel by itself. On squeezenet1_1, whose last layer is a convolution, that is a quarter of the
    work.

    Args:
        network: From images to class scores (N, K).
        classes: Those that are watched, (M,) int64.
    """
    if len(network.output_shape) != 1:
        return None
    nodes, index = list(network.nodes), len(network.nodes) - 1
    while index:
        node = nodes[index]
        operation, shape = node.operation, (len(classes), *node.shape[1:])
        if isinstance(operation, graph.Dense) or _plain_convolution(operation):
            nodes[index] = replace(node, operation=_rows(operation, classes), shape=shape)
            return graph.Graph(nodes)
        source = nodes[node.inputs[0]] if len(node.inputs) == 1 else node
        if not _by_channel(operation, source.shape, node.shape):
            return None
        if isinstance(operation, graph.Reshape):
            operation = replace(operation, shape=shape)
        nodes[index] = replace(node, operation=operation, shape=shape)
        index = source.index if network.consumers[source.index] == (index,) else 0
    return None


def _plain_convolution(operation: graph.Operation) -> bool:
    if not isinstance(operation, graph.Convolution):
        return False
    return not operation.transposed and operation.groups == 1


def _by_channel(operation: graph.Operation, read: graph.Shape, written: graph.Shape) -> bool:
    """Whether an operation does the same to each channel, and keeps them apart."""
    if isinstance(operation, graph.Reshape):
        return math.prod(read[1:]) == math.prod(written[1:]) == 1
    pools = (graph.AveragePool, graph.AdaptiveAveragePool, graph.MaxPool, graph.AdaptiveMaxPool)
    return isinstance(operation, (*pools, graph.ReLU, graph.Clamp, graph.LeakyReLU))


def _rows(operation: Any, classes: Tensor) -> graph.Operation:
    """A layer with weights that computes these outputs alone."""
    bias = None if operation.bias is None else operation.bias[classes]
    found: graph.Operation = replace(operation, weight=operation.weight[classes], bias=bias)
    return found
