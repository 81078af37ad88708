"""Grad-CAM: the feature maps of one layer, weighted by how much the target depends on each."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution._common import Target, in_chunks, joined, prepare, start_signal


def grad_cam(
    model: nn.Module,
    x: Tensor,
    target: Target = None,
    layer: str | None = None,
    *,
    relu: bool = True,
    internal_batch_size: int | None = None,
) -> Tensor:
    r"""Return the Grad-CAM heatmap (Selvaraju et al. 2017, eqs. 1 and 2).

    :math:`L(u, v) = \max\bigl(0, \sum_k \alpha_k A^k(u, v)\bigr)` with :math:`\alpha_k` the spatial
    mean of :math:`\partial f_t / \partial A^k`, enlarged to the size of the input bilinearly.

    Args:
        model: As in :func:`xaiutils.attribution.gradient`.
        x: Inputs (N, C, H, W).
        target: As in :func:`xaiutils.attribution.gradient`.
        layer: The path in ``model`` of the module whose output is :math:`A`, e.g.
            ``"features.12"``; a container (``"layer4"``) stands for the last operation in it. None
            takes the last maps that the network reads: what its last convolution or linear layer
            is computed from, before the pooling. That is the last block's output (after its
            addition and ReLU) in a ResNet, the last ReLU before the pooling in VGG, and the maps
            that the output convolution reads in SqueezeNet or a network for segmentation.
        relu: Whether negative values become 0, as in the paper.
        internal_batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, 1, H, W). It is 0 everywhere for an image on which no map speaks for the target.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`, or if there is no such layer or it
            has no feature maps (its output is not (N, K, ...), with as many dimensions as ``x``).
    """
    traced, x, positions = prepare(model, x, target, fold=False)  # every module's output is there
    node = feature_layer(traced, layer)

    def one_chunk(x: Tensor, positions: Tensor | None) -> Tensor:
        record = traced.record(x, keep=traced.gates | {node.index})
        start = start_signal(positions, record.output)
        slopes = traced.backward(record, start, until=node.index)
        weights = slopes.flatten(2).mean(2).reshape(*slopes.shape[:2], *[1] * (slopes.ndim - 2))
        cam = (weights * record.value(node.index)).sum(1, keepdim=True)
        return enlarged(cam.relu() if relu else cam, x.shape[2:])

    return joined(in_chunks(one_chunk, internal_batch_size, x, positions))


def feature_layer(traced: graph.Graph, layer: str | None) -> graph.Node:
    """Return the node whose output holds the feature maps: a named layer or the last maps.

    Raises:
        ValueError: If there is no such layer or it has no feature maps.
    """
    if layer is None:
        return _last_maps(traced)
    node = traced.find(layer)
    if not _has_maps(node, traced):
        raise ValueError(f"the output of layer {layer!r} has no feature maps: {node.shape}")
    return node


def _has_maps(node: graph.Node, traced: graph.Graph) -> bool:
    return len(node.shape) == len(traced.input_shape) > 1


def _last_maps(traced: graph.Graph) -> graph.Node:
    """Return the last maps from which the last weighted layer is computed, before any pooling.

    The last layer's own output would not do: its channels are the network's outputs already.
    """
    convolved: list[bool] = []
    for node in traced.nodes:
        own = isinstance(node.operation, graph.Convolution)
        convolved.append(own or any(convolved[i] for i in node.inputs))
    weighted = [
        n for n in traced.nodes if isinstance(n.operation, (graph.Convolution, graph.Dense))
    ]
    read = _ancestors(weighted[-1], traced) if weighted else set()
    candidates = [
        node
        for node in traced.nodes
        if node.index in read and convolved[node.index] and _has_maps(node, traced)
        if math.prod(node.shape[1:]) > 1
    ]
    if candidates:
        return _before_pooling(candidates[-1], traced)
    if weighted and isinstance(weighted[-1].operation, graph.Convolution):  # the only one
        return weighted[-1]
    raise ValueError("the network has no convolution whose maps its last layer reads; name a layer")


def _ancestors(node: graph.Node, traced: graph.Graph) -> set[int]:
    found: set[int] = set()
    waiting = list(node.inputs)
    while waiting:
        index = waiting.pop()
        if index not in found:
            found.add(index)
            waiting.extend(traced.nodes[index].inputs)
    return found


def _before_pooling(node: graph.Node, traced: graph.Graph) -> graph.Node:
    pooling = (graph.Switch, graph.AveragePool, graph.AdaptiveAveragePool)
    while isinstance(node.operation, pooling):
        node = traced.nodes[node.inputs[0]]
    return node


def enlarged(cam: Tensor, size: torch.Size) -> Tensor:
    """Return a map (N, 1, ...) at another size, by linear interpolation."""
    modes = {1: "linear", 2: "bilinear", 3: "trilinear"}
    return F.interpolate(cam, size=size, mode=modes[len(size)], align_corners=False)
